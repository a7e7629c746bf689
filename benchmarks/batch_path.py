"""CPU of the batch path, by the shape of records, compared with its unavoidable work.

    make bench ONLY=batch_path

The handler is the deployed one. Its calls to AWS do nothing, except for the last table, where they
go to ``tests.stand_in`` in another process. All ways take the same event and make the same NDJSON,
in alternating rounds in one process. Results are medians of CPU time per MB (10⁶ bytes) of JSON.
"""

import base64
import gzip
import json
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast
from unittest import mock

import msgspec
import orjson  # type: ignore[import-not-found]
import pybase64
from isal import isal_zlib

from benchmarks import data, report
from benchmarks.handlers import BATCH, ENVIRON, LINES, Functions, event
from tests import stand_in
from uploads import batch
from uploads.config import AuthMode
from uploads.decode import body as decode_body
from uploads.decode import inflate
from uploads.decode.batch_json import read_batch
from uploads.decode.batch_ndjson import read_lines
from uploads.decode.body import read_body
from uploads.formats import Format
from uploads.receiving import Receiver
from uploads.session import Session

if TYPE_CHECKING:
    from uploads.http import Context, Handler
    from uploads.wiring import Wiring

ROUNDS: Final = 11
ROUND_BYTES: Final = 2_000_000
"""Minimum bytes that each way takes in a round."""
INVOCATIONS: Final = 20
"""Per round."""
INVOKED: Final = ("100 objects of 100 B", "1,000 objects of 100 B", "10,000 objects of 100 B")
COMPRESSED: Final = (*INVOKED, "1,000 objects of 1 KB", "10,000 rows of 10 numbers")
SESSION: Final = Session("0" * 32, "anybody", 2**40, None, 0, 2**40, 2**40)
CONTEXT: Final = cast("Context", SimpleNamespace(aws_request_id="benchmark"))

Ways = Mapping[str, Callable[[], object]]


class NoStore:
    """Stands for S3 and DynamoDB; accepts everything at no cost."""

    stored = b""

    def __init__(self, session: Session = SESSION) -> None:
        self.session = session

    def put(self, session: Session, batch: Any) -> None:  # noqa: ANN401, D102
        self.stored = session.format.store(batch)
        if session.format is Format.NDJSON_GZ:
            isal_zlib.crc32(self.stored)

    def get(self, session_id: str, owner: str) -> Session:  # noqa: ARG002, D102
        return self.session

    def get_cached(self, session_id: str, owner: str, now: int) -> Session:  # noqa: ARG002, D102
        return self.session


def shapes() -> dict[str, str]:
    """Bodies by their content."""
    rows = data.records(40_000)
    return {
        "100 objects of 100 B": data.body(0, rows[:100]),
        "1,000 objects of 100 B": data.body(0, rows[:1_000]),
        "10,000 objects of 100 B": data.body(0, rows[:10_000]),
        "40,000 objects of 100 B": data.body(0, rows),
        "1,000 objects of 1 KB": data.body(0, data.records(1_000, 1_000)),
        "100 objects of 10 KB": data.body(0, data.records(100, 10_000)),
        "100,000 integers": data.body(0, [row["id"] for row in rows] * 2 + [7] * 20_000),
        "10,000 rows of 10 numbers": data.body(0, [[row["value"]] * 10 for row in rows[:10_000]]),
        "10,000 objects, nested": data.body(
            0, [{"a": {"b": {"c": [row["id"], {"d": row["name"]}]}}} for row in rows[:10_000]]
        ),
        "10,000 objects, \\u escapes": data.body(0, [{"n": "пример " * 4}] * 10_000),
        "10,000 objects, UTF-8": data.body(0, [{"n": "пример " * 8}] * 10_000, ascii_only=False),
        "10,000 objects, indented": json.dumps({"seqNum": 0, "data": rows[:10_000]}, indent=2),
    }


def plainly(body: str | bytes) -> bytes:
    """The handler's result for ``body``, by the standard library."""
    found = json.loads(body)["data"]
    lines = (json.dumps(record, separators=(",", ":"), ensure_ascii=False) for record in found)
    return "".join(line + "\n" for line in lines).encode()


def by_orjson(body: str | bytes) -> bytes:
    """The same by the fastest parser that builds objects."""
    found = orjson.loads(body)["data"]
    return b"".join([orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in found])


def cpu(work: Callable[[], object], times: int = 1) -> float:
    """CPU of ``work`` in all threads, milliseconds."""
    start = time.process_time_ns()
    for _ in range(times):
        work()
    return (time.process_time_ns() - start) / 1e6 / times


def on_nothing(nothing: NoStore) -> "Handler":
    """The batch function's handler, with ``nothing`` as its storage."""
    import batches

    config = SimpleNamespace(auth_mode=AuthMode.NONE, sessions_table="")
    receiver = Receiver(cast("Any", nothing), cast("Any", nothing), lambda: 0, cast("Any", nothing))
    return batches.build(cast("Wiring", SimpleNamespace(config=config, receiver=receiver)))


def _zero(_: bytes) -> int:
    return 0


@contextmanager
def without_checksums() -> Iterator[None]:
    """Disable the checksums that reading a batch computes."""
    no_digest = SimpleNamespace(hexdigest=lambda: "")
    with (
        mock.patch.object(batch, "hashlib", SimpleNamespace(sha256=lambda _: no_digest)),
        # A mock would take longer than the checksum does.
        mock.patch.object(isal_zlib, "crc32", _zero),
    ):
        yield


_SCAN: Final = msgspec.json.Decoder(msgspec.Raw)


def plain_ways(body: str, handler: "Handler") -> Ways:
    """The ways to take an uncompressed body."""
    content, received = body.encode(), event(BATCH, SESSION.session_id, body)
    invocation = json.dumps(received, ensure_ascii=False).encode()
    return {
        "scan only": lambda: _SCAN.decode(content),
        "record work": lambda: read_batch(content),
        "with checksums": lambda: read_batch(content),
        "handler": lambda: handler(received, CONTEXT),
        "runtime": lambda: json.loads(invocation),
        "orjson": lambda: by_orjson(content),
        "json": lambda: plainly(body),
    }


def gzip_ways(body: str, handler: "Handler") -> Ways:
    """The ways to take a compressed body."""
    content = gzip.compress(body.encode(), 6)
    received = event(BATCH, SESSION.session_id, content)
    invocation = json.dumps(received).encode()
    encoded = received["body"]
    headers = received["headers"]

    def record_work() -> object:
        return read_batch(read_body(encoded, is_base64=True, headers=headers).content)

    return {
        "scan only": lambda: _SCAN.decode(isal_zlib.decompress(pybase64.b64decode(encoded), 31)),
        "record work": record_work,
        "with checksums": record_work,
        "handler": lambda: handler(received, CONTEXT),
        "runtime": lambda: json.loads(invocation),
        "orjson": lambda: by_orjson(isal_zlib.decompress(base64.b64decode(encoded), 31)),
        "json": lambda: plainly(gzip.decompress(base64.b64decode(encoded))),
    }


def line_ways(body: str, handler: "Handler", compressing: "Handler") -> Ways:
    """The ways to take the same records as NDJSON; all but the scans take gzip."""
    lines = by_orjson(body).splitlines(keepends=True)
    ndjson = b"".join(lines)
    array = b"[" + b",".join(lines) + b"]"
    gzipped = gzip.compress(ndjson, 6)
    put = event(LINES, SESSION.session_id, gzipped)
    flushed = event(LINES, SESSION.session_id, data.packed(ndjson))
    post = event(BATCH, SESSION.session_id, gzip.compress(body.encode(), 6))

    def post_before() -> object:
        with (
            mock.patch.object(decode_body, "pybase64", base64),
            mock.patch.object(inflate, "_FIRST_PIECE_BYTES", 256 * 1024),
        ):
            return handler(post, CONTEXT)

    return {
        "scan each line": lambda: deque(map(_SCAN.decode, lines), 0),
        "scan all lines": lambda: _SCAN.decode_lines(ndjson),
        "scan one array": lambda: _SCAN.decode(array),
        "record work": lambda: read_lines(ndjson, 0),
        "with checksums": lambda: read_lines(ndjson, 0),
        "base64": lambda: pybase64.b64decode(put["body"], validate=True),
        "inflate": lambda: isal_zlib.decompress(gzipped, 31),
        "PUT": lambda: handler(put, CONTEXT),
        "PUT to ndjson.gz": lambda: compressing(flushed, CONTEXT),
        "compressing again": lambda: compressing(put, CONTEXT),
        "POST": lambda: handler(post, CONTEXT),
        "POST as it was": post_before,
    }


def measure(ways: Ways, size: int) -> dict[str, list[float]]:
    """CPU per MB of JSON in each round, milliseconds."""
    times = max(1, ROUND_BYTES // size)

    def one(way: str) -> float:
        if way == "record work":
            with without_checksums():
                return cpu(ways[way], times) / (size / 1e6)
        # The parsers are slow, so once is enough.
        return cpu(ways[way], 1 if way in {"json", "orjson"} else times) / (size / 1e6)

    for way in ways:
        one(way)
    return report.alternate({way: partial(one, way) for way in ways}, ROUNDS)


def row(shape: str, size: int, found: Mapping[str, list[float]]) -> report.Row:
    medians = {way: statistics.median(values) for way, values in found.items()}
    return {
        "records": shape,
        "KB": round(size / 1000),
        **medians,
        "record work / scan": report.ratio(found["record work"], found["scan only"]),
        "json / handler": report.ratio(found["json"], found["handler"]),
    }


def line_row(shape: str, size: int, found: Mapping[str, list[float]]) -> report.Row:
    return {
        "records": shape,
        "KB": round(size / 1000),
        **{way: statistics.median(values) for way, values in found.items()},
        "record work / scan each": report.ratio(found["record work"], found["scan each line"]),
        "PUT / POST": report.ratio(found["PUT"], found["POST"]),
        "PUT / POST as it was": report.ratio(found["PUT"], found["POST as it was"]),
        "to ndjson.gz / POST as it was": report.ratio(
            found["PUT to ndjson.gz"], found["POST as it was"]
        ),
    }


def with_clients(body: str) -> dict[str, list[float]]:
    """CPU of whole invocations, milliseconds; S3 and DynamoDB are in another process."""
    with stand_in.serve() as s3:
        functions = Functions(s3.url)
        session_id = functions.create(2**40)
        handler = on_nothing(NoStore())
        numbers = count(1)

        def whole() -> float:
            # Making events is the work of senders and API Gateway.
            made = [
                event(BATCH, session_id, body.replace('"seqNum":0', f'"seqNum":{number}', 1))
                for number in islice(numbers, INVOCATIONS)
            ]
            return cpu(lambda: functions.store(made.pop()), INVOCATIONS)

        received = event(BATCH, SESSION.session_id, body)
        return report.alternate(
            {
                "whole": whole,
                "without calls": lambda: cpu(lambda: handler(received, CONTEXT), INVOCATIONS),
            },
            ROUNDS,
        )


def main() -> None:
    os.environ.update(ENVIRON)
    nothing = NoStore()
    made = shapes()
    tables: dict[str, list[report.Row]] = {"plain": [], "gzip": [], "ndjson": [], "invocations": []}
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        # Writing logs and metrics is part of the work, but they are not printed.
        handler = on_nothing(nothing)
        compressing = on_nothing(NoStore(replace(SESSION, format=Format.NDJSON_GZ)))
        for shape, body in made.items():
            report.progress(shape)
            handler(event(BATCH, SESSION.session_id, body), CONTEXT)
            assert list(map(json.loads, nothing.stored.splitlines())) == json.loads(body)["data"]
            size = len(body.encode())
            tables["plain"].append(row(shape, size, measure(plain_ways(body, handler), size)))
            if shape in COMPRESSED:
                tables["gzip"].append(row(shape, size, measure(gzip_ways(body, handler), size)))
                tables["ndjson"].append(
                    line_row(shape, size, measure(line_ways(body, handler, compressing), size))
                )
                handler(event(BATCH, SESSION.session_id, body), CONTEXT)
                posted = nothing.stored
                handler(event(LINES, SESSION.session_id, gzip.compress(posted)), CONTEXT)
                assert nothing.stored == posted
        for shape in INVOKED:
            report.progress(f"{shape}, with clients")
            found = with_clients(made[shape])
            tables["invocations"].append(
                {
                    "batch": shape,
                    "ms CPU, whole": statistics.median(found["whole"]),
                    "without calls": statistics.median(found["without calls"]),
                    "S3 and DynamoDB clients": statistics.median(found["whole"])
                    - statistics.median(found["without calls"]),
                }
            )
    standard, lines = (
        next(one for one in tables[table] if one["records"] == "10,000 objects of 100 B")
        for table in ("plain", "ndjson")
    )
    whole = tables["invocations"][1]["ms CPU, whole"]
    own = tables["invocations"][1]["without calls"]
    report.publish(
        "batch_path",
        report.Chapter(
            tables,
            [
                report.Target(
                    "1 MB batch: record work / scan only",
                    float(standard["record work / scan"]),
                    1.7,
                ),
                report.Target(
                    "1 MB batch of NDJSON: record work / scan each line",
                    float(lines["record work / scan each"]),
                    1.3,
                ),
                report.Target(
                    "1 MB batch, gzip: PUT / POST as it was",
                    float(lines["PUT / POST as it was"]),
                    0.7,
                ),
                report.Target(
                    "1 MB batch, gzip: PUT to ndjson.gz / POST as it was",
                    float(lines["to ndjson.gz / POST as it was"]),
                    1.1,
                ),
                report.Target(
                    "1 MB batch: handler without calls, ms CPU per MB",
                    float(standard["handler"]),
                    3.0,
                ),
                report.Target(
                    "1 MB batch: json loads and dumps / handler",
                    float(standard["json / handler"]),
                    15,
                    least=True,
                ),
                report.Target("100 KB batch: ms CPU of our own code", float(own), 0.5),
                report.Target("100 KB batch with its calls: ms CPU", float(whole), 1.0),
            ],
        ),
    )


if __name__ == "__main__":
    main()
