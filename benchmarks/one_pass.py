"""Uploads by the library from a generator, in one pass, compared with uploads from a file.

    python -m benchmarks.one_pass [RECORDS [PAIRS]]

Each upload is a process and goes to the local service; the two kinds alternate. It prints the
seconds of ``gapless.upload``, the median of the pairwise ratios, and the client's peak memory.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RECORDS = 1_000_000
PAIRS = 5


def rows(count: int) -> Iterator[dict[str, Any]]:
    """Records of 95 bytes."""
    for number in range(count):
        yield {
            "id": number,
            "customer": f"customer-{number % 5000}",
            "price": number % 1000 / 4,
            "note": "delivered to the door",
            "paid": True,
        }


def upload(kind: str, count: int, path: str) -> None:
    """Upload once; print seconds, bytes of memory and the checksum."""
    import gapless

    began = time.perf_counter()
    source: Any = path if kind == "file" else rows(count)
    result = gapless.upload(source, os.environ["GAPLESS_URL"])
    seconds = time.perf_counter() - began
    assert result.checksum
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+)", status)
    assert found
    facts = {"seconds": seconds, "peak": int(found[1]) * 1024, "crc": result.checksum.value}
    print(json.dumps(facts | {"records": result.received_record}))


def measure(kind: str, count: int, path: str, environ: dict[str, str]) -> dict[str, Any]:
    """Run one upload in another process."""
    command = [sys.executable, "-m", "benchmarks.one_pass", kind, str(count), path]
    done = subprocess.run(command, env=environ, check=True, capture_output=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main(count: int, pairs: int) -> None:
    environ = {**os.environ, "PORT": "0"}
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, "-m", "local"], env=environ, stdout=subprocess.PIPE, text=True
        ) as server,
    ):
        assert server.stdout
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found
        environ |= {"GAPLESS_URL": found[0], "GAPLESS_STATE_DIR": f"{folder}/state"}
        # No temporary folder exists, so nothing can be spooled.
        environ["TMPDIR"] = f"{folder}/none"
        path = f"{folder}/records.ndjson"
        with Path(path).open("w") as file:
            file.writelines(json.dumps(row, separators=(",", ":")) + "\n" for row in rows(count))
        print(f"{count:,} records, {Path(path).stat().st_size:,} bytes")
        ratios = []
        for number in range(pairs):
            order = ["file", "generator"] if number % 2 else ["generator", "file"]
            one = {kind: measure(kind, count, path, environ) for kind in order}
            assert one["file"]["crc"] == one["generator"]["crc"]
            ratios.append(one["generator"]["seconds"] / one["file"]["seconds"])
            shown = ", ".join(
                f"{kind} {one[kind]['seconds']:.2f} s {one[kind]['peak'] / 2**20:.0f} MiB"
                for kind in ("file", "generator")
            )
            print(f"{shown}, ratio {ratios[-1]:.2f}", flush=True)
        print(f"median ratio {statistics.median(ratios):.2f}")
        server.terminate()


if __name__ == "__main__":
    if len(sys.argv) > 3:
        upload(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    else:
        given = [int(word) for word in sys.argv[1:]]
        main(*(given + [RECORDS, PAIRS][len(given) :]))
