"""The bill of an upload at AWS, beside other ways to bring the same records into S3.

    PYTHONPATH=functions python -m benchmarks.cost --records 10000000 --record-bytes 100
    PYTHONPATH=functions python -m benchmarks.cost --help

Calls are those that ``tests/integration/test_calls.py`` counts; parts are those that
``uploads.plan`` makes. Prices are list prices of us-east-1 as known in November 2026: check them
(aws.amazon.com/pricing), and give your own numbers where they are not yours. What nobody can know
from here is how long a batch takes in Lambda: ``--batch-seconds``. Storage and what is taken out of
AWS cost the same whichever way the records came, and are not in it, but for the batches, which
Gapless alone stores beside the object.
"""

import argparse
import sys
from dataclasses import dataclass
from typing import Final

from benchmarks import report
from uploads.batch import StoredBatch
from uploads.limits import LIST_PAGE, MAX_BODY_BYTES, MAX_SEQ_NUM
from uploads.merging.parts import plan_parts

MILLION: Final = 1e6
GB: Final = 1e9
HOURS: Final = 730
"""In a month."""

HTTP_API: Final = 1.00 / MILLION
"""Each 512 KB of a request that is begun."""
HTTP_API_BYTES: Final = 512 * 1024
REST_API: Final = 3.50 / MILLION
LAMBDA_CALL: Final = 0.20 / MILLION
LAMBDA_GB_SECOND: Final = 0.0000133334
"""arm64."""
LAMBDA_GB: Final = 1769 / 1024
"""``MemorySize`` of ``template.yaml``."""
S3_WRITE: Final = 5.00 / MILLION
"""PUT, COPY, POST and LIST."""
S3_READ: Final = 0.40 / MILLION
S3_GB_MONTH: Final = 0.023
DYNAMODB_READ: Final = 0.125 / MILLION
"""Strongly consistent, of 4 KB."""
DYNAMODB_WRITE: Final = 0.625 / MILLION
LOG_GB: Final = 0.50
FARGATE: Final = (0.25 * 0.04048 + 0.5 * 0.004445) * HOURS
"""0.25 vCPU and 0.5 GB, always on, for a month."""
BALANCER: Final = 0.0225 * HOURS
"""An Application Load Balancer for a month."""
ADDRESSES: Final = 3 * 0.005 * HOURS
"""Public IPv4 addresses: two of the balancer, one of the task."""
BALANCER_GB: Final = 0.008
"""A capacity unit takes 1 GB an hour."""
FIREHOSE_GB: Final = 0.029
FIREHOSE_LEAST: Final = 5 * 1024
"""Each record of Firehose counts as a multiple of so many bytes."""
FIREHOSE_MOST: Final = 1_000 * 1024

LOG_BYTES: Final = 1_500
"""A request's lines in the function's log and the access log (docs/operations.md)."""


@dataclass(frozen=True)
class Upload:
    """A data set, and how it is sent."""

    records: int
    record_bytes: int
    batch_size: int
    gzip_ratio: float
    """Bytes before by bytes after; 1 sends it plain."""
    batch_seconds: float | None = None
    batch_days: float = 10
    """How long batches are kept (``template.yaml``)."""

    @property
    def bytes(self) -> int:
        """Of the merged object."""
        return self.records * self.record_bytes

    @property
    def batches(self) -> int:
        """How many there are."""
        return -(-self.records // self.batch_size)

    @property
    def batch_bytes(self) -> int:
        """Of a batch, as it is stored."""
        return min(self.batch_size, self.records) * self.record_bytes

    @property
    def sent_bytes(self) -> float:
        """Of a batch, as it is sent."""
        return self.batch_bytes / self.gzip_ratio

    @property
    def seconds(self) -> float:
        """That a batch takes in Lambda: as in docs/scale.md, a guess, unless given."""
        if self.batch_seconds is not None:
            return self.batch_seconds
        return 0.06 + 0.044 * self.batch_bytes / MILLION


def gateway(upload: Upload) -> float:
    """Of an HTTP API, for all batches."""
    return upload.batches * -(-upload.sent_bytes // HTTP_API_BYTES) * HTTP_API


def gapless(upload: Upload, api: float) -> dict[str, float]:
    """The bill by what it is for; ``api`` is what the API's requests cost."""
    parts = plan_parts([StoredBatch(n, upload.batch_bytes, "") for n in range(upload.batches)])
    copied = sum(part.copied for part in parts)
    multipart = len(parts) > 1 or copied
    merging = sum(part.seconds for part in parts) + 0.5
    calls = upload.batches + 2
    listings = -(-upload.batches // LIST_PAGE)
    # Each part, begin and complete, or one put; and the manifest.
    writes = (len(parts) + 2 if multipart else 1) + 1
    return {
        "API": api,
        "Lambda": calls * LAMBDA_CALL
        + (upload.batches * upload.seconds + merging) * LAMBDA_GB * LAMBDA_GB_SECOND,
        "S3": (upload.batches + listings + writes) * S3_WRITE + upload.batches * S3_READ,
        "DynamoDB": upload.batches * DYNAMODB_READ + 4 * DYNAMODB_WRITE,
        "logs": calls * LOG_BYTES / GB * LOG_GB,
        "batches, stored": upload.bytes / GB * S3_GB_MONTH * upload.batch_days / 30,
    }


def others(upload: Upload) -> dict[str, float]:
    """What the upload costs beyond what a month costs, by the others."""
    parts = -(-upload.bytes // max(8 * 2**20, upload.bytes // 10_000))
    in_firehose = min(FIREHOSE_MOST, upload.batch_bytes)
    rounded = -(-in_firehose // FIREHOSE_LEAST) * FIREHOSE_LEAST
    return {
        "Gapless, REST API": sum(gapless(upload, upload.batches * REST_API).values()),
        # Each part: written, and the list of parts read before. Sent plain: tus has no gzip.
        "tus on a container": parts * 2 * S3_WRITE + upload.bytes / GB * BALANCER_GB,
        "Firehose": upload.bytes / in_firehose * rounded / GB * FIREHOSE_GB
        + upload.bytes / (64 * 2**20) * S3_WRITE,
        "presigned multipart": (parts + 2) * S3_WRITE
        + HTTP_API
        + LAMBDA_CALL
        + 0.2 * LAMBDA_GB * LAMBDA_GB_SECOND,
    }


MONTH: Final = {"tus on a container": FARGATE + BALANCER + ADDRESSES}
"""What a month costs though nothing is uploaded."""

SHAPES: Final = {
    "1 GB: 1,000 x 1 MB, gzip": Upload(10_000_000, 100, 10_000, 4),
    "1 GB: 10,000 x 100 KB, plain": Upload(10_000_000, 100, 1_000, 1),
    "100 MB: 100 x 1 MB, plain": Upload(1_000_000, 100, 10_000, 1),
    "100 GB: 25,000 x 4 MB, gzip": Upload(1_000_000_000, 100, 40_000, 4),
    "1 MB: 10 x 100 KB, plain": Upload(10_000, 100, 1_000, 1),
}


def chapter(shapes: dict[str, Upload]) -> report.Chapter:
    """The tables of some uploads."""
    bills: list[report.Row] = []
    beside: list[report.Row] = []
    for name, upload in shapes.items():
        bill = gapless(upload, gateway(upload))
        whole = sum(bill.values())
        gigabytes = upload.bytes / GB
        bills.append(
            {
                "upload": name,
                **{f"{what}, ¢": cost * 100 for what, cost in bill.items()},
                "all, $": whole,
                "$ a million batches": whole / upload.batches * MILLION,
                "¢ a GB": whole / gigabytes * 100,
            }
        )
        variable = others(upload)
        row: report.Row = {"upload": name, "Gapless": whole / gigabytes * 100}
        row |= {way: cost / gigabytes * 100 for way, cost in variable.items()}
        month = MONTH["tus on a container"]
        more = (whole - variable["tus on a container"]) / gigabytes
        row["GB a month from which the container is cheaper"] = (
            month / more if more > 0 else "never"
        )
        beside.append(row)
    return report.Chapter({"bills": bills, "beside": beside})


def main() -> None:
    """Print the bill of an upload that the arguments tell of, or of typical ones."""
    parser = argparse.ArgumentParser(description="The bill of an upload at AWS.")
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--record-bytes", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=10_000, help="records in a batch")
    parser.add_argument("--gzip-ratio", type=float, default=4, help="1 where it is sent plain")
    parser.add_argument("--batch-seconds", type=float, help="in Lambda; else a guess by the size")
    parser.add_argument("--batch-days", type=float, default=10, help="how long batches are kept")
    given = parser.parse_args()
    if len(sys.argv) == 1:
        report.publish("cost", chapter(SHAPES))
        return
    upload = Upload(**vars(given))
    if upload.sent_bytes > MAX_BODY_BYTES or upload.batches > MAX_SEQ_NUM + 1:
        sys.exit(
            f"{upload.batches:,} batches of {upload.sent_bytes:,.0f} bytes as sent: at most"
            f" {MAX_SEQ_NUM + 1:,} and {MAX_BODY_BYTES:,} are taken."
        )
    for title, rows in chapter({"yours": upload}).tables.items():
        print(f"\n{title}\n\n{report.markdown(rows)}")
    print(f"The container costs ${MONTH['tus on a container']:.2f} a month, used or not.")


if __name__ == "__main__":
    main()
