"""CPU of the client, all of it but the network, beside reading and gzipping the same bytes.

    PYTHONPATH=functions python -m benchmarks.client

The whole upload runs: both passes over the file, checks, checksums, batches, retries, session. Only
the HTTP transport is a stand-in that answers at once. Rounds alternate in one process; printed are
medians of CPU time, of all threads, per MB (10⁶ bytes) of NDJSON.
"""

import base64
import gzip
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
from isal import igzip, isal_zlib

import gapless
from benchmarks import data

ROUNDS = 7
RECORDS = 500_000
MOST_RATIO = 2.0
MOST_MS_PER_MB = 6.0
SESSION = "0" * 32
CHUNK = 1_000_000


class Stub(httpx.AsyncBaseTransport):
    """Stands for the network and the service: takes everything, at no cost."""

    def __init__(self, merged: bytes) -> None:
        crc = base64.b64encode(isal_zlib.crc32(merged).to_bytes(4, "big")).decode()
        self._result = {
            "sessionId": SESSION,
            "validationResult": "Success",
            "bytes": len(merged),
            "checksum": {"algorithm": "CRC32", "type": "FULL_OBJECT", "value": crc},
        }
        self.batches: list[bytes] | None = None
        """What was sent, where it is asked for; to keep it costs something."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer as the service does."""
        path = request.url.path
        if path.endswith("/finish"):
            return httpx.Response(200, json=self._result)
        if path.endswith(SESSION):
            if self.batches is not None:
                self.batches.append(request.read())
            return httpx.Response(204)
        limits = {"maxBodyBytes": 4_500_000, "maxInflatedBytes": 2**26, "maxSeqNum": 99_999}
        created = {"sessionId": SESSION, "expiresAt": "2026-01-01T00:00:00Z", "limits": limits}
        return httpx.Response(201, json=created)


def upload(path: Path, stub: Stub, *, compress: bool) -> None:
    """Upload the file through the stub."""
    gapless.upload(path, "http://stub", transport=stub, gzip=compress, new=True)


def read_and_gzip(path: Path) -> None:
    """What nobody can do without: read, and gzip at level 1, by the standard library."""
    with path.open("rb") as file, gzip.open(os.devnull, "wb", 1) as compressed:
        while block := file.read(CHUNK):
            compressed.write(block)


def read_and_igzip(path: Path) -> None:
    """The same by ISA-L, which the client uses too; for comparison."""
    with path.open("rb") as file, igzip.open(os.devnull, "wb", 1) as compressed:  # type: ignore[no-untyped-call]
        while block := file.read(CHUNK):
            compressed.write(block)


def cpu(work: Callable[[], object]) -> float:
    """Milliseconds of CPU that ``work`` takes, in all threads."""
    start = time.process_time_ns()
    work()
    return (time.process_time_ns() - start) / 1e6


def main() -> None:
    """Measure, print, and fail where a promise is not kept."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GAPLESS_STATE_DIR"] = folder
        path = Path(folder) / "records.ndjson"
        lines = [json.dumps(record, separators=(",", ":")) for record in data.records(RECORDS)]
        ndjson = "".join(line + "\n" for line in lines).encode()
        path.write_bytes(ndjson)
        stub = Stub(ndjson)
        ways: dict[str, Callable[[], object]] = {
            "client, gzip": lambda: upload(path, stub, compress=True),
            "client, no gzip": lambda: upload(path, stub, compress=False),
            "read, gzip level 1": lambda: read_and_gzip(path),
            "read, igzip level 1": lambda: read_and_igzip(path),
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                taken[name].append(cpu(way) / (len(ndjson) / 1e6))
        stub.batches = []
        upload(path, stub, compress=False)
        sent = [msgspec.json.decode(body) for body in stub.batches]
        sent.sort(key=lambda batch: batch["seqNum"])
        assert [record for batch in sent for record in batch["data"]] == [*map(json.loads, lines)]

    median = {name: statistics.median(found) for name, found in taken.items()}
    ratio = median["client, gzip"] / median["read, gzip level 1"]
    print(f"file                 {RECORDS:,} records, {len(ndjson) / 1e6:.1f} MB")
    for name, value in median.items():
        print(f"{name:20} {value:6.2f} ms CPU per MB")
    print(f"gzip, ratio          {ratio:6.2f}   (promised: <= {MOST_RATIO})")
    print(
        f"no gzip              {median['client, no gzip']:6.2f}   (promised: <= {MOST_MS_PER_MB})"
    )
    if ratio > MOST_RATIO or median["client, no gzip"] > MOST_MS_PER_MB:
        sys.exit("the promise is not kept")


if __name__ == "__main__":
    main()
