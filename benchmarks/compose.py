"""Composing in line: time and memory against the number of batches.

    PYTHONPATH=functions python -m benchmarks.compose

Runs the deployed modules against the look-alike of ``benchmarks.lookalike``, each case in a process
of its own, and prints wall seconds and the peak of resident memory above the start. The promises
are held with ``--check``.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread
from typing import Final

BATCH_BYTES: Final = 100_000
MOST_MIB: Final = 80.0
CASES: Final = ((1_000, 0, 0), (10_000, 0, 0), (1_000, 15, 30), (10_000, 15, 30))
"""Batches, milliseconds a read, milliseconds a write."""


def resident() -> int:
    """Bytes of this process's memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure(endpoint: str) -> dict[str, float]:
    """Compose one session from ``endpoint``, in this process."""
    from uploads.config import Config
    from uploads.finishing import listing_digest
    from uploads.plan import plan
    from uploads.session import Decision
    from uploads.wiring import Wiring

    wiring = Wiring(
        Config.from_env(
            {
                "SESSIONS_TABLE": "none",
                "BATCHES_BUCKET": "batches",
                "MERGED_BUCKET": "merged",
                "AUTH_MODE": "NONE",
                "SESSION_LIFETIME_HOURS": "1",
                "MERGED_RETENTION_DAYS": "1",
                "AWS_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": endpoint,
            }
        )
    )
    merged, batches = wiring.merged, wiring.batches
    session_id = "0" * 32
    batches.list(session_id, below=1)
    start_bytes, peak, done = resident(), 0, Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, resident())

    watcher = Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    listing = batches.list(session_id)
    digest = listing_digest(listing)
    with merged.merge(session_id, plan(listing), digest) as merge:
        content = merge.transfer()
        decision = Decision(len(listing), content.records, content.bytes, digest)
        merge.publish(decision, content.checksum)
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    return {
        "records": content.records,
        "seconds": seconds,
        "mib": (peak - start_bytes) / 2**20,
        "cpu": sum(os.times()[:2]),
    }


def run(batches: int, read_ms: int, write_ms: int) -> dict[str, float]:
    """Measure one case in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.lookalike"]
        + [str(n) for n in (batches, BATCH_BYTES, read_ms, write_ms)],
        stdout=subprocess.PIPE,
        text=True,
    ) as look_alike:
        assert look_alike.stdout is not None
        endpoint = f"http://127.0.0.1:{look_alike.stdout.readline().strip()}"
        measured = subprocess.run(
            [sys.executable, "-m", "benchmarks.compose", endpoint],
            env=os.environ | {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        look_alike.terminate()
    found: dict[str, float] = json.loads(measured.stdout)
    return found


def main() -> None:
    """Measure every case and print them."""
    print(f"batches of {BATCH_BYTES:,} bytes; promised: at most {MOST_MIB:.0f} MiB above the start")
    print(f"{'batches':>8} {'read ms':>8} {'write ms':>9} {'seconds':>8} {'MiB':>6} {'CPU s':>6}")
    worst = 0.0
    for case in CASES:
        found = run(*case)
        assert found["records"] == case[0]
        worst = max(worst, found["mib"])
        print(
            f"{case[0]:>8,} {case[1]:>8} {case[2]:>9}"
            f" {found['seconds']:>8.2f} {found['mib']:>6.1f} {found['cpu']:>6.2f}"
        )
    if worst > MOST_MIB:
        sys.exit("the promise is not kept")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
