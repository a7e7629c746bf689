"""Composing in one call, compared with other ways to join objects, and as a session grows.

    make bench ONLY=compose

It runs the deployed modules, and typical code with boto3, smart_open and s3fs, against
``tests.stand_in``. The limit is the unavoidable work: the fastest client reads all, then writes
all, with as much memory as that needs. Each run is a process, the ways alternate, and results are
medians of wall seconds, CPU seconds, and peak resident memory above the start.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from typing import Final

from benchmarks import report
from benchmarks.handlers import ENVIRON, KEEPING, Functions
from tests import composing, stand_in
from tests.composing import SESSION

NO_NETWORK: Final = (0, 0)
NETWORK: Final = (15, 30)
"""Milliseconds of a read and of a write."""
CASES: Final = (
    (1_000, 10_000, *NO_NETWORK),
    (1_000, 100_000, *NO_NETWORK),
    (300, 1_000_000, *NO_NETWORK),
    (50, 6_000_000, *NO_NETWORK),
    (1_000, 10_000, *NETWORK),
    (1_000, 100_000, *NETWORK),
    (300, 1_000_000, *NETWORK),
    (50, 6_000_000, *NETWORK),
)
"""Number of batches, bytes of each, milliseconds of a read and of a write."""
PART: Final = 8 * 2**20
STANDARD: Final = (1_000, 100_000)
ROUNDS: Final = 3
SLOW: Final = ("smart_open", "s3fs", "boto3, 64 threads")
"""Ways that run only once."""
RATIO: Final = 4
"""How many times smaller ``ndjson.gz`` is stored."""
FORMATS: Final = ((300, 100_000), (300, 1_000_000), (1_000, 1_000_000))
"""Number of batches, and bytes of NDJSON of each, that finish merges in either format."""
STANDARD_FORMATS: Final = (1_000, 1_000_000)
FORMAT_ROUNDS: Final = 5
GROWTH: Final = (10, 100, 1_000, 10_000, 100_000)
"""Numbers of 10 KB batches, all composed in one call. Finish would hand the last two over."""


def boto3_threads(threads: int, endpoint: str) -> Callable[[], int]:
    """Plain boto3: threads that read, and parts of 8 MiB."""
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
            if size >= PART:
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


def limit(endpoint: str) -> Callable[[], int]:
    """Read all, then write all, one object per part, without signing writes."""
    import obstore
    from obstore.store import S3Store

    places = {
        bucket: S3Store(
            bucket,
            endpoint=endpoint,
            region="us-east-1",
            access_key_id="none",
            secret_access_key="none",  # noqa: S106 - none is needed
            virtual_hosted_style_request=False,
            unsigned_payload=True,
            client_options={"allow_http": True},
        )
        for bucket in ("batches", "merged")
    }

    def read(path: str) -> obstore.Bytes:
        return obstore.get(places["batches"], path).bytes()

    def run() -> int:
        pages = obstore.list(places["batches"], prefix=f"{SESSION}/")
        paths = [entry["path"] for page in pages for entry in page]
        with ThreadPoolExecutor(48) as pool:
            contents = list(pool.map(read, paths))
        each = -(-PART // len(contents[0]))

        def write(first: int) -> None:
            part = b"".join(contents[first : first + each])
            obstore.put(places["merged"], f"{first}", part, use_multipart=False)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(0, len(contents), each)))
        return len(paths)

    return run


def smart_opened(endpoint: str) -> Callable[[], int]:
    """smart_open as in its documentation: a reader for many keys, a writer for one."""
    import boto3
    import smart_open  # type: ignore[import-not-found]

    session = boto3.Session()
    client = session.client("s3", endpoint_url=endpoint)
    given = {"client": client, "defer_seek": True}

    def run() -> int:
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket="batches", Prefix=f"{SESSION}/"
        )
        keys = [entry["Key"] for page in pages for entry in page["Contents"]]

        def read(key: str) -> bytes:
            with smart_open.open(f"s3://batches/{key}", "rb", transport_params=given) as file:
                content: bytes = file.read()
                return content

        given_writer = {"client": client, "min_part_size": PART}
        with (
            smart_open.open(
                f"s3://merged/{SESSION}.ndjson", "wb", transport_params=given_writer
            ) as merged,
            ThreadPoolExecutor(16) as pool,
        ):
            for first in range(0, len(keys), 100):
                merged.writelines(pool.map(read, keys[first : first + 100]))
        return len(keys)

    return run


def s3fs(endpoint: str) -> Callable[[], int]:
    """s3fs: reads many objects concurrently, writes one."""
    import s3fs as client  # type: ignore[import-not-found]

    files = client.S3FileSystem(key="none", secret="none", endpoint_url=endpoint)  # noqa: S106

    def run() -> int:
        paths = sorted(files.find(f"batches/{SESSION}"))
        with files.open(f"merged/{SESSION}.ndjson", "wb", block_size=PART) as merged:
            for first in range(0, len(paths), 100):
                some = paths[first : first + 100]
                found = files.cat(some)
                merged.writelines(found[path] for path in some)
        return len(paths)

    return run


def finished(format_: str, endpoint: str) -> Callable[[], int]:
    """The finish function's handler with all its calls, warm from another session."""
    functions = Functions(endpoint)
    total = int(os.environ["BATCHES"])
    functions.finish(functions.create(total, None, format_))
    session_id = functions.create(total, None, format_)
    return lambda: int(functions.finish(session_id)["receivedRecord"])


WAYS: Final[dict[str, Callable[[str], Callable[[], int]]]] = {
    "limit": limit,
    "gapless": composing.prepare,
    "boto3, 16 threads": lambda endpoint: boto3_threads(16, endpoint),
    "boto3, 64 threads": lambda endpoint: boto3_threads(64, endpoint),
    "smart_open": smart_opened,
    "s3fs": s3fs,
}
COMPOSED: Final = {"ndjson": "gapless", "ndjson.gz": "gapless, ndjson.gz"}
"""Our way for each format."""
FINISH: Final[dict[str, Callable[[str], Callable[[], int]]]] = {
    format_: partial(finished, format_) for format_ in ("ndjson", "ndjson.gz")
}
OURS: Final = FINISH | {
    "gapless": composing.prepare,
    COMPOSED["ndjson.gz"]: partial(composing.prepare, format_="ndjson.gz"),
}
ALL: Final = WAYS | OURS


def in_a_process(way: str, endpoint: str) -> dict[str, float]:
    """Run a way of this module in another process; return its measurements."""
    # s3fs needs another version of botocore.
    python = report.BUILD / "s3fs" / "bin" / "python" if way == "s3fs" else sys.executable
    measured = subprocess.run(
        [python, "-m", "benchmarks.compose", way, endpoint],
        env=os.environ | ENVIRON | (KEEPING if way in OURS else {}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    # The lines before are the handlers' logs.
    found: dict[str, float] = json.loads(measured.stdout.splitlines()[-1])
    return found


def compare_formats(batches: int, size: int) -> tuple[list[report.Row], float]:
    """Rows for finish in each format, and the ratio of compressed to plain time."""
    os.environ["BATCHES"] = str(batches)
    found: dict[str, list[dict[str, float]]] = {format_: [] for format_ in FINISH}
    with (
        stand_in.serve(batches, size, *NETWORK) as plain,
        stand_in.serve(batches, size // RATIO, *NETWORK, size) as compressed,
    ):
        for _ in range(FORMAT_ROUNDS):
            for format_, s3 in zip(FINISH, (plain, compressed), strict=True):
                found[format_].append(in_a_process(format_, s3.url))
    assert all(one["records"] == batches for measured in found.values() for one in measured)
    seconds, cpu = (
        [[one[name] for one in measured] for measured in found.values()]
        for name in ("seconds", "cpu")
    )
    faster = report.ratio(*seconds)
    rows: list[report.Row] = [
        {
            "batches": f"{batches:,} x {size // 1000:,} KB",
            "format": format_,
            "seconds": statistics.median(took),
            "CPU s": statistics.median(cpu_took),
            "seconds of ndjson / these": report.ratio(seconds[0], took),
            "CPU s of ndjson / these": report.ratio(cpu[0], cpu_took),
        }
        for format_, took, cpu_took in zip(FINISH, seconds, cpu, strict=True)
    ]
    return rows, faster


def compare(case: tuple[int, int, int, int]) -> tuple[list[report.Row], dict[str, list[float]]]:
    """The rows of a case, and the seconds of each way by round."""
    batches, size, read_ms, write_ms = case
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with stand_in.serve(*case) as s3:
        for turn in range(ROUNDS):
            for way, measured in found.items():
                if turn == 0 or way not in SLOW:
                    measured.append(in_a_process(way, s3.url))
    assert all(one["records"] == batches for measured in found.values() for one in measured)
    seconds = {way: [one["seconds"] for one in measured] for way, measured in found.items()}
    rows: list[report.Row] = [
        {
            "batches": f"{batches:,} x {size // 1000:,} KB",
            "ms a read, a write": f"{read_ms}, {write_ms}",
            "": way,
            **{
                name: statistics.median(one[key] for one in measured)
                for name, key in (("seconds", "seconds"), ("CPU s", "cpu"), ("MiB", "mib"))
            },
            "/ limit": statistics.median(seconds[way]) / statistics.median(seconds["limit"]),
        }
        for way, measured in found.items()
    ]
    return rows, seconds


def grow() -> list[report.Row]:
    """Seconds, memory and calls of our own way by number of batches and bytes, in each format."""
    sizes = [*((batches, 10_000) for batches in GROWTH), (10_000, 100_000)]
    sizes += [(1_000, size) for size in (1_000, 100_000, 1_000_000, 4_000_000)]
    rows: list[report.Row] = []
    for (batches, size), (format_, way) in product(sizes, COMPOSED.items()):
        report.progress(f"growth: {batches:,} batches of {size // 1_000:,} KB, {format_}")
        stored = (size,) if format_ == "ndjson" else (size // RATIO,)
        claimed = () if format_ == "ndjson" else (size,)
        with stand_in.serve(batches, *stored, *NETWORK, *claimed) as s3:
            found = [in_a_process(way, s3.url) for _ in range(3 if batches * size < 10**8 else 1)]
            each = s3.calls() / len(found)
        median = {name: statistics.median(one[name] for one in found) for name in found[0]}
        rows.append(
            {
                "format": format_,
                "batches": batches,
                "KB each": size // 1_000,
                "MB in all": batches * size // 1_000_000,
                "seconds": median["seconds"],
                "µs a batch": median["seconds"] / batches * 1e6,
                "MiB": median["mib"],
                "calls": round(each),
                "calls a batch": each / batches,
            }
        )
    return rows


def straight(growth: list[report.Row]) -> list[report.Target]:
    """Whether time grows no faster than the number of batches, and memory is bounded."""
    each = {
        (row["format"], row["batches"]): float(row["µs a batch"])
        for row in growth
        if row["KB each"] == 10
    }
    return [
        *(
            report.Target(
                f"composing {GROWTH[-1]:,} batches to {format_}: µs a batch / that of 1,000",
                each[format_, GROWTH[-1]] / each[format_, 1_000],
                1.2,
            )
            for format_ in COMPOSED
        ),
        report.Target(
            "composing, most memory of all sizes: MiB",
            max(float(row["MiB"]) for row in growth),
            200,
        ),
    ]


def main() -> None:
    rows: list[report.Row] = []
    targets = []
    for case in CASES:
        report.progress("{:,} batches of {:,} bytes, {} and {} ms".format(*case))
        some, seconds = compare(case)
        rows += some
        if case[:2] == STANDARD and case[2:] == NO_NETWORK:
            ours, boto3 = seconds["gapless"], seconds["boto3, 16 threads"]
            targets += [
                report.Target(
                    "composing 1,000 x 100 KB, no latency: seconds / limit",
                    report.ratio(ours, seconds["limit"]),
                    1.8,
                ),
                report.Target(
                    "composing 1,000 x 100 KB, no latency: boto3 with 16 threads / ours",
                    report.ratio(boto3, ours),
                    4,
                    least=True,
                ),
            ]
        if case[:2] == STANDARD and case[2:] == NETWORK:
            targets.append(
                report.Target(
                    "composing 1,000 x 100 KB, 15 and 30 ms: seconds",
                    statistics.median(seconds["gapless"]),
                    1.0,
                )
            )
    formats: list[report.Row] = []
    for batches, size in FORMATS:
        report.progress(f"both formats: {batches:,} batches of {size:,} bytes")
        some, faster = compare_formats(batches, size)
        formats += some
        if (batches, size) == STANDARD_FORMATS:
            targets.append(
                report.Target(
                    "finish of 1,000 x 1 MB, 15 and 30 ms: seconds of ndjson / ndjson.gz",
                    faster,
                    2,
                    least=True,
                )
            )
    growth = grow()
    targets += straight(growth)
    report.publish(
        "compose", report.Chapter({"compose": rows, "formats": formats, "growth": growth}, targets)
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(composing.measure(ALL[sys.argv[1]](sys.argv[2]))))
    else:
        main()
