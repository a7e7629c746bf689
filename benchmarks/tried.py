"""What was changed for speed, or was not: each way beside the one before.

    make bench ONLY=tried

CPU time in alternating rounds of one process, medians.
"""

import os
import statistics
from functools import partial
from typing import Any, Final

import msgspec
import obstore
from botocore.config import Config
from botocore.session import Session as AwsSession
from msgspec import Raw
from obstore.store import S3Store

from benchmarks import data, report, store
from benchmarks.batch_path import cpu
from benchmarks.handlers import ENVIRON
from uploads.session import Session

ROUNDS: Final = 40
RECORDS: Final = 10_000
CALLS: Final = 25
"""In a round."""


def compare(what: str, ways: dict[str, Any], times: int) -> list[report.Row]:
    """A row for each way; the first is the one before."""
    found = report.alternate({way: partial(cpu, work, times) for way, work in ways.items()}, ROUNDS)
    first = next(iter(found.values()))
    return [
        {
            "": what,
            "way": way,
            "ms CPU": statistics.median(taken),
            "/ the first": report.ratio(taken, first),
        }
        for way, taken in found.items()
    ]


def lines() -> list[report.Row]:
    """Records, one a line."""
    body = data.body(0, data.records(RECORDS)).encode()
    found = msgspec.json.decode(body, type=dict[str, Raw])["data"]
    as_list, as_tuple = msgspec.json.Decoder(list[Raw]), msgspec.json.Decoder(tuple[Raw, ...])
    records = as_list.decode(found)
    encoder = msgspec.json.Encoder()
    assert encoder.encode_lines(records) == b"\n".join([*records, Raw()])
    return [
        *compare(
            "10,000 records to lines",
            {
                "bytes.join": lambda: b"\n".join(records),
                "msgspec's encode_lines": lambda: encoder.encode_lines(records),
            },
            5,
        ),
        *compare(
            "10,000 records, checked and found",
            {
                "as a list": lambda: as_list.decode(found),
                "as a tuple": lambda: as_tuple.decode(found),
            },
            5,
        ),
    ]


def put(place: S3Store, key: str, content: bytes) -> None:
    """Write as a batch is written."""
    obstore.put(place, key, content, use_multipart=False)


def calls() -> list[report.Row]:
    """Calls to AWS."""
    os.environ.update(ENVIRON)
    from uploads.session_store import SessionStore

    with store.serve() as (endpoint, _):
        aws = AwsSession()

        def reading(**options: Any) -> Any:  # noqa: ANN401
            made: Any = aws.create_client(
                "dynamodb", endpoint_url=endpoint, config=Config(**options)
            )
            return SessionStore(made, "sessions")

        reading().create(Session("0" * 32, "anybody", 1, None, 0, 2**40, 2**40))
        ways = {
            "botocore as it comes": reading(),
            "a user agent of our own": reading(user_agent="gapless"),
            "and no validation of parameters": reading(
                user_agent="gapless", parameter_validation=False
            ),
        }
        place: dict[str, Any] = {
            "endpoint": endpoint,
            "region": "us-east-1",
            "virtual_hosted_style_request": False,
            "client_options": {"allow_http": True},
        }
        puts = {
            "signed": S3Store("batches", **place),
            "unsigned": S3Store("batches", unsigned_payload=True, **place),
        }
        content = b"x" * 1_000_000
        return [
            *compare(
                "a read of a session",
                {way: partial(its.get, "0" * 32, "anybody") for way, its in ways.items()},
                CALLS,
            ),
            *compare(
                "a write of a batch of 1 MB",
                {way: partial(put, its, "batch", content) for way, its in puts.items()},
                5,
            ),
        ]


def main() -> None:
    """Measure all."""
    report.publish("tried", report.Chapter({"tried": [*lines(), *calls()]}))


if __name__ == "__main__":
    main()
