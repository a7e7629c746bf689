"""The AWS bill of an upload, compared with other ways to bring the same records into S3.

    PYTHONPATH=functions python -m benchmarks.cost --records 10000000 --record-bytes 100
    PYTHONPATH=functions python -m benchmarks.cost --help

``tests/integration/test_cost.py`` checks the numbers of calls against whole uploads. Parts and
shares come from ``uploads.merging.parts``, durations of merges from ``uploads.limits``. Prices are
list prices of us-east-1 in November 2026 (aws.amazon.com/pricing): change them if yours differ. The
time of a batch in Lambda is a guess: set it by ``--batch-seconds``. Data transfer out of AWS is not
included; it costs the same for every way.
"""

import argparse
import math
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from benchmarks import report
from uploads import limits
from uploads.batch import StoredBatch
from uploads.formats import Format
from uploads.merging.parts import Part, last_part, max_concurrency, plan_parts, plan_shares

MILLION: Final = 1e6
GB: Final = 1e9
HOURS: Final = 730
"""Per month."""

HTTP_API: Final = 1.00 / MILLION
"""Per 512 KB of a request, rounded up."""
HTTP_API_BYTES: Final = 512 * 1024
REST_API: Final = 3.50 / MILLION
LAMBDA_CALL: Final = 0.20 / MILLION
LAMBDA_GB_SECOND: Final = 0.0000133334
"""On arm64."""
MEMORY_MB: Final = {
    "SessionsFunction": 1024,
    "BatchesFunction": 1769,
    "FinishFunction": 1769,
    "PlanFunction": 1769,
    "ComposeFunction": 3008,
    "CompleteFunction": 1769,
    "CleanupFunction": 512,
}
"""``MemorySize`` in ``template.yaml``."""
S3_WRITE: Final = 5.00 / MILLION
"""PUT, COPY, POST and LIST. Deleting and aborting uploads are free."""
S3_READ: Final = 0.40 / MILLION
S3_GB_MONTH: Final = 0.023
DYNAMODB_READ: Final = 0.125 / MILLION
"""Strongly consistent, up to 4 KB. Reading the stream is free for Lambda."""
DYNAMODB_WRITE: Final = 0.625 / MILLION
TRANSITION: Final = 25.00 / MILLION
"""Per state transition of Step Functions."""
LOG_GB: Final = 0.50
FARGATE: Final = (0.25 * 0.04048 + 0.5 * 0.004445) * HOURS
"""0.25 vCPU and 0.5 GB, always on, per month."""
BALANCER: Final = 0.0225 * HOURS
"""An Application Load Balancer, per month."""
ADDRESSES: Final = 3 * 0.005 * HOURS
"""Public IPv4 addresses: two for the balancer, one for the task."""
BALANCER_GB: Final = 0.008
"""A capacity unit includes 1 GB per hour."""
FIREHOSE_GB: Final = 0.029
FIREHOSE_LEAST: Final = 5 * 1024
"""Firehose rounds each record up to a multiple of these bytes."""
FIREHOSE_MOST: Final = 1_000 * 1024

PRICES: Final = {
    **dict.fromkeys(("GetItem",), DYNAMODB_READ),
    **dict.fromkeys(("PutItem", "UpdateItem"), DYNAMODB_WRITE),
    **dict.fromkeys(("GetObject", "HeadObject"), S3_READ),
    **dict.fromkeys(
        (
            "PutObject",
            "CreateMultipartUpload",
            "UploadPart",
            "UploadPartCopy",
            "CompleteMultipartUpload",
            "ListObjectsV2",
            "ListParts",
            "ListMultipartUploads",
        ),
        S3_WRITE,
    ),
    "DeleteObjects": 0.0,
}
"""Dollars per call. An item takes one unit of DynamoDB (docs/scale.md)."""

LOG_BYTES: Final = 1_500
"""A request's lines in the function's log and in the access log (docs/operations.md)."""
LISTED_PARTS: Final = 1_000
"""Parts in a response of ListParts."""
START_SECONDS: Final = 1.0
"""Overhead of finish, each task and the clean-up; a guess."""

Calls = Counter[str]


@dataclass(frozen=True)
class Upload:
    """A data set, how it is sent, and how long it is kept."""

    records: int
    record_bytes: int
    """Including the line feed."""
    batch_size: int
    format: Format = Format.NDJSON_GZ
    gzip_ratio: float = 4
    """Compression ratio of requests; 1 sends plain JSON."""
    stored_ratio: float = 4
    """Compression ratio of batches stored as ``ndjson.gz``."""
    strict: bool = True
    """Whether the session has a ``batchSize``."""
    batch_seconds: float | None = None
    open_days: float = 1
    """From the first batch to the clean-up, at most ``SessionLifetimeHours``."""
    kept_days: float = 30
    """Retention of the merged object: ``MergedRetentionDays``."""

    @property
    def bytes(self) -> int:
        """Bytes of NDJSON."""
        return self.records * self.record_bytes

    @property
    def batches(self) -> int:
        """The number of batches."""
        return -(-self.records // self.batch_size)

    @property
    def batch_bytes(self) -> int:
        """Bytes of NDJSON in a batch."""
        return min(self.batch_size, self.records) * self.record_bytes

    @property
    def sent_bytes(self) -> float:
        """Bytes of a batch as it is sent."""
        return self.batch_bytes / self.gzip_ratio

    @property
    def batch_stored_bytes(self) -> int:
        """Bytes of a batch as it is stored."""
        ratio = self.stored_ratio if self.format is Format.NDJSON_GZ else 1
        return round(self.batch_bytes / ratio)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all batches, and of the merged object."""
        return self.batches * self.batch_stored_bytes + self.format.frame_bytes

    @property
    def seconds(self) -> float:
        """Seconds of a batch in Lambda: given, or a guess.

        The guess is 60 ms for two calls, 10 ms of CPU per MB of records (docs/performance.md
        measures half of it), and 34 ms per MB that is written to S3.
        """
        if self.batch_seconds is not None:
            return self.batch_seconds
        return 0.06 + (0.010 * self.batch_bytes + 0.034 * self.batch_stored_bytes) / MILLION

    @cached_property
    def parts(self) -> list[Part]:
        """The parts of the merged object."""
        size = self.batch_stored_bytes
        return plan_parts([StoredBatch(n, size, "") for n in range(self.batches)], self.format)

    @property
    def work(self) -> float:
        """Seconds that one function would need for the merge, at most."""
        return sum(part.seconds for part in self.parts)

    @cached_property
    def shares(self) -> list[range]:
        """The shares of a long merge; empty if finish merges."""
        inline = self.work <= limits.INLINE_SHARE * limits.FINISH_SECONDS
        return [] if inline else plan_shares(self.parts)

    def merge_seconds(self, at_once: int) -> float:
        """Seconds of the merge if ``at_once`` functions may run concurrently."""
        if not self.shares:
            return self.work
        most = max(sum(part.seconds for part in self.parts[a.start : a.stop]) for a in self.shares)
        at_once = min(at_once, max_concurrency(self.parts))
        return max(-(-len(self.shares) // at_once) * most, self.work / at_once)


def receiving(upload: Upload) -> Calls:
    """The calls of a create and of all batches, by one instance of each function."""
    batches = upload.batches
    return Calls({"PutItem": 1, "GetItem": 1 + batches, "PutObject": batches})


def merging(upload: Upload) -> Calls:
    """The calls of a successful finish, and of the tasks it hands over to."""
    parts, shares = upload.parts, len(upload.shares)
    pages = -(-upload.batches // limits.LIST_PAGE)
    # Only with a batchSize is the end of the listing known.
    listings = pages if upload.strict or upload.batches < limits.LIST_PAGE else 2 * pages + 1
    copied = sum(part.copied for part in parts)
    calls = Calls({"ListObjectsV2": listings, "UpdateItem": 3, "PutObject": 1})
    calls["GetObject"] = upload.batches - copied
    calls["HeadObject"] = copied
    if not shares and len(parts) == 1 and not copied:
        return calls + Calls({"PutObject": 1})
    calls += Calls(
        {
            "CreateMultipartUpload": 1,
            "UploadPart": last_part(parts, upload.format) - copied,
            "UploadPartCopy": copied,
            "CompleteMultipartUpload": 1,
        }
    )
    if shares:
        calls += Calls(
            {
                # Handing over, planning (2), each share, completing.
                "UpdateItem": 1 + 2 + shares + 1,
                "ListObjectsV2": pages,
                # Shares, their outcomes, and the plan.
                "PutObject": 2 * shares + 1,
                "GetObject": 2 * shares + 1,
                "ListParts": -(-last_part(parts, upload.format) // LISTED_PARTS),
                # Whether the object exists, before and after.
                "HeadObject": 3,
            }
        )
    return +calls


def cleaning_up(upload: Upload) -> Calls:
    """The calls of the clean-up."""
    pages = -(-upload.batches // limits.LIST_PAGE)
    merges = 2 * len(upload.shares) + 1 if upload.shares else 0
    merge_pages = -(-merges // limits.LIST_PAGE)
    return +Calls(
        {
            "ListObjectsV2": max(pages, 1) + max(merge_pages, 1),
            "DeleteObjects": pages + merge_pages,
            "ListMultipartUploads": 1,
        }
    )


def price(calls: Mapping[str, int], service: str = "") -> float:
    """Dollars of ``calls``, or only of those to DynamoDB (``Item``) or S3."""
    return sum(
        count * PRICES[name]
        for name, count in calls.items()
        if not service or name.endswith("Item") == (service == "DynamoDB")
    )


def lambda_price(function: str, seconds: float, calls: int) -> float:
    """Dollars of ``calls`` invocations that take ``seconds`` in total."""
    return calls * LAMBDA_CALL + seconds * MEMORY_MB[function] / 1024 * LAMBDA_GB_SECOND


def compute(upload: Upload) -> float:
    """Dollars of Lambda for the merge."""
    shares = len(upload.shares)
    if not shares:
        return lambda_price("FinishFunction", upload.work + START_SECONDS, 1)
    return (
        lambda_price("FinishFunction", START_SECONDS, 1)
        + lambda_price("PlanFunction", START_SECONDS, 1)
        + lambda_price("ComposeFunction", upload.work, shares)
        + lambda_price("CompleteFunction", START_SECONDS, 1)
    )


def transitions(upload: Upload) -> int:
    """State transitions of Step Functions, at most."""
    return 3 * len(upload.shares) + 5 if upload.shares else 0


def gateway(upload: Upload) -> float:
    """Dollars of the HTTP API: all batches, create and finish."""
    units = -(-upload.sent_bytes // HTTP_API_BYTES)
    return (upload.batches * units + 2) * HTTP_API


def bill(upload: Upload) -> dict[str, dict[str, float]]:
    """Dollars by phase and purpose."""
    received, merged, cleaned = receiving(upload), merging(upload), cleaning_up(upload)
    batches = upload.batches
    clean_up = batches / limits.DELETES_PER_SECOND + START_SECONDS
    gigabytes = upload.stored_bytes / GB
    return {
        "receiving": {
            "API Gateway": gateway(upload),
            "S3": price(received, "S3"),
            "DynamoDB": price(received, "DynamoDB"),
            "Lambda": lambda_price("SessionsFunction", 0.05, 1)
            + lambda_price("BatchesFunction", batches * upload.seconds, batches),
            "logs": (batches + 2) * LOG_BYTES / GB * LOG_GB,
        },
        "merging": {
            "S3": price(merged, "S3"),
            "DynamoDB": price(merged, "DynamoDB"),
            "Lambda": compute(upload),
            "Step Functions": transitions(upload) * TRANSITION,
            "clean-up": price(cleaned) + lambda_price("CleanupFunction", clean_up, 1),
        },
        "storing": {
            "batches": gigabytes * S3_GB_MONTH * upload.open_days / 30,
            "merged object": gigabytes * S3_GB_MONTH * upload.kept_days / 30,
        },
    }


def bringing(upload: Upload) -> float:
    """Dollars until the merged object exists and the batches are deleted."""
    found = bill(upload)
    requests = sum(sum(found[phase].values()) for phase in ("receiving", "merging"))
    return requests + found["storing"]["batches"]


def others(upload: Upload) -> dict[str, float]:
    """Dollars of the upload by the alternatives, without their monthly costs."""
    parts = -(-upload.bytes // max(8 * 2**20, upload.bytes // 10_000))
    in_firehose = min(FIREHOSE_MOST, upload.batch_bytes)
    rounded = -(-in_firehose // FIREHOSE_LEAST) * FIREHOSE_LEAST
    return {
        "Gapless, REST API": bringing(upload) - gateway(upload) + (upload.batches + 2) * REST_API,
        # Each part is written after a listing of parts. Sent plain: tus has no gzip.
        "tus on a container": parts * 2 * S3_WRITE + upload.bytes / GB * BALANCER_GB,
        "Firehose": upload.bytes / in_firehose * rounded / GB * FIREHOSE_GB
        + upload.bytes / (64 * 2**20) * S3_WRITE,
        "presigned multipart": (parts + 2) * S3_WRITE
        + HTTP_API
        + lambda_price("SessionsFunction", 0.2, 1),
    }


MONTH: Final = {"tus on a container": FARGATE + BALANCER + ADDRESSES}
"""Monthly costs without any upload."""

CLIENTS: Final = {
    "1 GB": (10_000_000, 32_768, True),
    "100 GB": (1_000_000_000, 32_768, True),
    "1 TB": (10_000_000_000, 100_000, False),
}
"""Uploads of 100 B records by the project's client: records, records per batch, ``batchSize``?"""

SIZES: Final = {
    f"{size}, {format_}": Upload(records, 100, batch_size, format_, strict=strict)
    for size, (records, batch_size, strict) in CLIENTS.items()
    for format_ in Format
}

BESIDE: Final = {
    "1 GB by the client, ndjson.gz": SIZES["1 GB, ndjson.gz"],
    "1 GB by the client, ndjson": SIZES["1 GB, ndjson"],
    "1 GB: 1,000 x 1 MB, ndjson.gz": Upload(10_000_000, 100, 10_000),
    "1 GB: 1,000 x 1 MB, ndjson": Upload(10_000_000, 100, 10_000, Format.NDJSON),
    "1 GB: 10,000 x 100 KB, sent plain": Upload(10_000_000, 100, 1_000, Format.NDJSON, 1),
    "1 GB: 67 x 15 MB, ndjson.gz": Upload(10_000_000, 100, 150_000),
    "100 GB by the client, ndjson.gz": SIZES["100 GB, ndjson.gz"],
    "1 MB: 10 x 100 KB, sent plain": Upload(10_000, 100, 1_000, Format.NDJSON, 1),
}

PUBLISHED: Final[dict[str, tuple[str, float]]] = {
    "published: Python, one function of 1 GB": ("243", 0.003235),
    "published: Rust, one function of 0.5 GB": ("106", 0.000709),
    "published: fanned out": ("6 to 11", 0),
}
"""Seconds, and dollars for Lambda only, of 15 GB in 3,000 objects."""

PIECES: Final = {
    "Gapless, 15 GB stored, in batches of 5 MB": Upload(3_000, 5_000_000, 1, Format.NDJSON),
    "Gapless, 15.7 GB in batches of 5 MiB, copied": Upload(3_000, 5 * 2**20, 1, Format.NDJSON),
    "Gapless, 15 GB of records, in 3.75 GB": Upload(3_000, 5_000_000, 1),
}


def dollars(cost: float) -> str:
    """An amount with two significant digits, at least in cents."""
    if not cost:
        return "\N{EN DASH}"
    return f"{cost:.{max(2, 1 - math.floor(math.log10(cost)))}f}"


def scale(uploads: Mapping[str, Upload]) -> list[report.Row]:
    """How an upload is divided, and how long it takes."""

    def line(upload: Upload) -> dict[str, str]:
        shares = len(upload.shares)
        return {
            "batches": f"{upload.batches:,}",
            "a batch, KB of records": f"{upload.batch_bytes / 1e3:,.0f}",
            "a request, KB": f"{upload.sent_bytes / 1e3:,.0f}",
            "stored, GB": f"{upload.stored_bytes / 1e9:,.2f}",
            "parts of the merged object": f"{last_part(upload.parts, upload.format):,}",
            "work of the merge, seconds of one function": f"{upload.work:,.0f}",
            "who merges": f"{shares:,} shares" if shares else "finish, in the call",
            "their work takes, seconds": f"{upload.merge_seconds(limits.CHILDREN_AT_ONCE):,.0f}",
            "the same where Lambda's quota is 10": f"{upload.merge_seconds(10):,.0f}",
            "receiving takes, at 1,000 requests/s": f"{max(1, upload.batches / 1000):,.0f}",
        }

    return across({name: line(upload) for name, upload in uploads.items()})


def bills(uploads: Mapping[str, Upload]) -> list[report.Row]:
    """The bills, side by side."""

    def line(upload: Upload) -> dict[str, str]:
        found = bill(upload)
        rows: dict[str, str] = {}
        for phase, costs in found.items():
            rows |= {f"{phase}: {what}": dollars(cost) for what, cost in costs.items()}
            rows[f"**{phase}**"] = f"**{dollars(sum(costs.values()))}**"
        return rows | {"**all**": f"**{dollars(sum(sum(c.values()) for c in found.values()))}**"}

    return across({name: line(upload) for name, upload in uploads.items()})


def across(columns: Mapping[str, Mapping[str, str]]) -> list[report.Row]:
    """Rows by title, from columns."""
    titles = next(iter(columns.values()))
    return [
        {"": title, **{name: column[title] for name, column in columns.items()}} for title in titles
    ]


def pieces() -> list[report.Row]:
    """Published results for 15 GB in 3,000 pieces, and our estimates."""
    rows: list[report.Row] = [
        {
            "": name,
            "seconds": seconds,
            "functions at once": "1" if cost else "many",
            "Lambda, $": f"{cost:.4f}" if cost else "",
            "S3 and the rest, $": "",
            "all, $": "",
        }
        for name, (seconds, cost) in PUBLISHED.items()
    ]
    for name, upload in PIECES.items():
        ours = compute(upload)
        rest = price(merging(upload)) + transitions(upload) * TRANSITION
        rows.append(
            {
                "": name,
                "seconds": f"{upload.work:.0f} of one function; "
                f"{upload.merge_seconds(limits.CHILDREN_AT_ONCE):.0f} fanned out",
                "functions at once": str(min(len(upload.shares), limits.CHILDREN_AT_ONCE)),
                "Lambda, $": f"{ours:.4f}",
                "S3 and the rest, $": f"{rest:.4f}",
                "all, $": f"{ours + rest:.4f}",
            }
        )
    return rows


def beside(uploads: Mapping[str, Upload]) -> list[report.Row]:
    """Cents per GB of records until they are in S3, compared with the alternatives."""
    rows: list[report.Row] = []
    month = MONTH["tus on a container"]
    for name, upload in uploads.items():
        gigabytes, variable = upload.bytes / GB, others(upload)
        more = (bringing(upload) - variable["tus on a container"]) / gigabytes
        rows.append(
            {
                "upload": name,
                "Gapless": bringing(upload) / gigabytes * 100,
                **{way: cost / gigabytes * 100 for way, cost in variable.items()},
                "GB a month from which the container is cheaper": month / more
                if more > 0
                else "never",
            }
        )
    return rows


def chapter() -> report.Chapter:
    """All tables and targets."""
    terabyte = SIZES["1 TB, ndjson.gz"]
    return report.Chapter(
        {
            "scale": scale(SIZES),
            "bills": bills(SIZES),
            "pieces": pieces(),
            "beside": beside(BESIDE),
        },
        [
            report.Target(
                "1 TB as ndjson.gz, kept 30 days: $",
                sum(sum(costs.values()) for costs in bill(terabyte).values()),
                10,
            ),
            report.Target(
                "1 GB as ndjson.gz, received and merged, batches stored for a day: ¢",
                bringing(SIZES["1 GB, ndjson.gz"]) * 100,
                0.5,
            ),
        ],
    )


def main() -> None:
    """Print the bill of the upload in the arguments, or of typical ones."""
    parser = argparse.ArgumentParser(description="The bill of an upload at AWS.")
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--record-bytes", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=32_768, help="records in a batch")
    parser.add_argument("--format", type=Format, choices=list(Format), default=Format.NDJSON_GZ)
    parser.add_argument("--gzip-ratio", type=float, default=4, help="of requests; 1 for plain JSON")
    parser.add_argument("--stored-ratio", type=float, default=4, help="of stored ndjson.gz")
    parser.add_argument("--batch-seconds", type=float, help="in Lambda; default: a guess by size")
    parser.add_argument("--open-days", type=float, default=1, help="how long batches are kept")
    parser.add_argument("--kept-days", type=float, default=30, help="how long the object is kept")
    given = parser.parse_args()
    if len(sys.argv) == 1:
        report.publish("cost", chapter())
        return
    upload = Upload(**vars(given))
    if upload.sent_bytes > limits.MAX_BODY_BYTES or upload.batches > limits.MAX_SEQ_NUM + 1:
        sys.exit(
            f"{upload.batches:,} batches of {upload.sent_bytes:,.0f} bytes as sent: at most"
            f" {limits.MAX_SEQ_NUM + 1:,} and {limits.MAX_BODY_BYTES:,} are allowed."
        )
    yours = {"yours": upload}
    for title, rows in (
        ("scale", scale(yours)),
        ("bill, in US dollars", bills(yours)),
        ("cents a GB until the object is there", beside(yours)),
    ):
        print(f"\n{title}\n\n{report.markdown(rows)}")
    print(f"The container costs ${MONTH['tus on a container']:.2f} a month, used or not.")


if __name__ == "__main__":
    main()
