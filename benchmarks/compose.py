"""Composing in line: time and memory against the number of batches, and against boto3.

    PYTHONPATH=functions python -m benchmarks.compose

Runs the deployed modules, and boto3 with threads as anybody would write it, against the look-alike
of ``benchmarks.lookalike``. Each run is a process of its own; the ways alternate, and medians are
shown: wall seconds, CPU seconds, and the peak of resident memory above the start. Ends with 1 where
a promise is not kept.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Final

ROUNDS: Final = {1_000: 3, 10_000: 1}
"""How often each way runs, by the number of batches: boto3 takes a minute for 10,000."""
SESSION: Final = "0" * 32
ENVIRON: Final = {
    "SESSIONS_TABLE": "none",
    "BATCHES_BUCKET": "batches",
    "MERGED_BUCKET": "merged",
    "AUTH_MODE": "NONE",
    "SESSION_LIFETIME_HOURS": "1",
    "MERGED_RETENTION_DAYS": "1",
    "AWS_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
}
CASES: Final = (
    (1_000, 100_000, 0, 0),
    (10_000, 100_000, 0, 0),
    (1_000, 100_000, 15, 30),
    (10_000, 100_000, 15, 30),
)
"""Batches, their bytes, milliseconds a read, milliseconds a write."""
PROMISED_SECONDS: Final = {(1_000, 15): 1.0, (10_000, 15): 8.0}
PROMISED_MIB: Final = 80
PROMISED_MORE_MIB: Final = 20
"""How much more 10,000 batches may take than 1,000."""
PROMISED_FASTER: Final = 4.0
"""Than boto3 with 16 threads, without latency."""


def resident() -> int:
    """Bytes of this process's memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def gapless(endpoint: str) -> Callable[[], int]:
    """The deployed modules: checksums and conditions on. Gives the number of records."""
    from uploads.config import Config
    from uploads.finishing import listing_digest
    from uploads.plan import plan
    from uploads.session import Decision
    from uploads.wiring import Wiring

    wiring = Wiring(Config.from_env(ENVIRON | {"AWS_ENDPOINT_URL": endpoint}))
    merged, batches = wiring.merged, wiring.batches
    batches.list(SESSION, below=1)

    def run() -> int:
        listing = batches.list(SESSION)
        digest = listing_digest(listing)
        with merged.merge(SESSION, plan(listing), digest) as merge:
            content = merge.transfer()
            decision = Decision(len(listing), content.records, content.bytes, digest)
            merge.publish(decision, content.checksum)
        return content.records

    return run


def boto3_threads(threads: int, endpoint: str) -> Callable[[], int]:
    """Boto3 as it comes: threads that read, parts of 8 MiB that are written."""
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        config=Config(max_pool_connections=threads, s3={"addressing_style": "path"}),
    )
    client.list_objects_v2(Bucket="batches", Prefix=f"{SESSION}/", MaxKeys=1)
    key = f"{SESSION}.ndjson"

    def read(name: str) -> bytes:
        content: bytes = client.get_object(Bucket="batches", Key=name)["Body"].read()
        return content

    def run() -> int:
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket="batches", Prefix=f"{SESSION}/"
        )
        listing = [(entry["Key"], entry["Size"]) for page in pages for entry in page["Contents"]]
        runs: list[list[str]] = [[]]
        size = 0
        for name, length in listing:
            if size >= 8 * 2**20:
                runs.append([])
                size = 0
            runs[-1].append(name)
            size += length
        upload = client.create_multipart_upload(Bucket="merged", Key=key)["UploadId"]

        def write(number: int, names: list[str]) -> str:
            body = b"".join(readers.map(read, names))
            return client.upload_part(
                Bucket="merged", Key=key, UploadId=upload, PartNumber=number, Body=body
            )["ETag"]

        with ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(4) as writers:
            etags = list(writers.map(write, range(1, len(runs) + 1), runs))
        client.complete_multipart_upload(
            Bucket="merged",
            Key=key,
            UploadId=upload,
            MultipartUpload={
                "Parts": [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(etags, 1)]
            },
        )
        return len(listing)

    return run


WAYS: Final[dict[str, Callable[[str], Callable[[], int]]]] = {
    "gapless": gapless,
    "boto3, 16 threads": lambda endpoint: boto3_threads(16, endpoint),
    "boto3, 64 threads": lambda endpoint: boto3_threads(64, endpoint),
}


def measure(way: str, endpoint: str) -> dict[str, float]:
    """Compose one session from ``endpoint``, in this process."""
    run = WAYS[way](endpoint)
    start_bytes, peak, done = resident(), 0, Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, resident())

    watcher = Thread(target=watch)
    watcher.start()
    cpu, started = time.process_time(), time.perf_counter()
    records = run()
    found = {
        "records": records,
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - cpu,
    }
    done.set()
    watcher.join()
    return found | {"mib": (peak - start_bytes) / 2**20}


@contextmanager
def look_alike(*case: float) -> Iterator[str]:
    """A look-alike for a while; gives its URL."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.lookalike", *map(str, case)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.terminate()


def in_a_process(*arguments: str) -> dict[str, float]:
    """What this module measures in a process of its own."""
    measured = subprocess.run(
        [sys.executable, "-m", "benchmarks.compose", *arguments],
        env=os.environ | ENVIRON,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(measured.stdout)
    return found


def compare(case: tuple[int, int, int, int]) -> dict[str, dict[str, float]]:
    """The median of each way, in alternating rounds."""
    with look_alike(*case) as endpoint:
        rounds = [
            {way: in_a_process(way, endpoint) for way in WAYS} for _ in range(ROUNDS[case[0]])
        ]
    assert all(found["records"] == case[0] for one in rounds for found in one.values())
    return {
        way: {
            name: statistics.median(one[way][name] for one in rounds)
            for name in ("seconds", "cpu", "mib")
        }
        for way in WAYS
    }


def main() -> None:
    """Measure every case and print them."""
    print(f"{'batches':>8} {'bytes':>8} {'read ms':>8} {'write ms':>9}  {'':<18}", end="")
    print(f" {'seconds':>8} {'CPU s':>6} {'MiB':>6} {'times':>6}", flush=True)
    broken = []
    memory = {}
    for case in CASES:
        batches, size, read_ms, write_ms = case
        found = compare(case)
        ours = found["gapless"]
        memory[batches, read_ms] = ours["mib"]
        for way, its in found.items():
            print(
                f"{batches:>8,} {size:>8,} {read_ms:>8} {write_ms:>9}  {way:<18}"
                f" {its['seconds']:>8.2f} {its['cpu']:>6.2f} {its['mib']:>6.1f}"
                f" {its['seconds'] / ours['seconds']:>6.1f}",
                flush=True,
            )
        if ours["seconds"] > PROMISED_SECONDS.get((batches, read_ms), 60):
            broken.append(f"{batches} batches took {ours['seconds']:.2f} s")
        if ours["mib"] > PROMISED_MIB:
            broken.append(f"{batches} batches took {ours['mib']:.0f} MiB")
        faster = found["boto3, 16 threads"]["seconds"] / ours["seconds"]
        if not read_ms and faster < PROMISED_FASTER:
            broken.append(f"{batches} batches were {faster:.1f} times as fast as boto3")
    for (batches, read_ms), mib in memory.items():
        if mib - memory[1_000, read_ms] > PROMISED_MORE_MIB:
            broken.append(f"{batches} batches took {mib - memory[1_000, read_ms]:.0f} MiB more")
    if broken:
        sys.exit("Promised otherwise: " + "; ".join(broken))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(*sys.argv[1:])))
    else:
        main()
