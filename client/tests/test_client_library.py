"""The library: which records it accepts and how it encodes them; clients, downloads, names."""

import array
import enum
import gc
import inspect
import io
import json
import math
import os
import sqlite3
import subprocess
import sys
import threading
import types
import uuid
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gapless
from front import Front, Said
from gapless import objects

HERE = Path(__file__).parent


class Level(enum.Enum):
    HIGH = "high"


class Word(str, enum.Enum):
    YES = "yes"


class Number(enum.IntEnum):
    ONE = 1


class Struct(msgspec.Struct):
    id: int


@dataclass
class Row:
    id: int


class Frame:
    """Iterates over the names of its columns, like a table of pandas or polars."""

    columns = ("id", "name")

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


class Text(str):
    __slots__ = ()


Pair = namedtuple("Pair", ["id", "name"])  # noqa: PYI024 - the kind without types is tested too


def text_file() -> io.TextIOBase:
    return io.StringIO('{"id": 1}\n')


NO_LISTS: list[Callable[[], Any]] = [
    lambda: {"id": 1},
    lambda: b"[1,2]",
    lambda: bytearray(b"[1,2]"),
    lambda: memoryview(b"[1,2]"),
    lambda: '{"id": 1}\n',
    lambda: "[1, 2]",
    lambda: {1, 2},
    lambda: frozenset([1]),
    {"id": 1}.keys,
    {"id": 1}.items,
    lambda: iter("abc"),
    lambda: iter("äöü"),
    lambda: iter(b"abc"),
    lambda: iter(bytearray(b"abc")),
    lambda: iter({"id": 1}),
    lambda: iter({1, 2}),
    lambda: types.MappingProxyType({"id": 1}),
    text_file,
    lambda: Path(__file__).open(),  # noqa: SIM115 - refused before it is read
    lambda: Row(1),
    lambda: Pair(1, "a"),
    lambda: Struct(1),
    Frame,
    lambda: None,
    lambda: 5,
    lambda: 1.5,
    lambda: list,
    lambda: Level,
]


@pytest.mark.parametrize("made", NO_LISTS, ids=[str(n) for n in range(len(NO_LISTS))])
def test_other_objects_than_records_are_a_type_error(made: Callable[[], Any]) -> None:
    """In uploads and in batches, before anything is sent: the port is closed."""
    url = "http://127.0.0.1:9"
    works: list[Callable[[Any], object]] = [
        lambda source: list(objects.encode(source)),
        lambda source: gapless.upload(source, url),
        lambda source: anyio.run(partial(gapless.upload_async, source, url)),
    ]
    for work in works:
        source = made()
        with pytest.raises(TypeError, match=r"(?i)pass|open it|file"):
            work(source)
        if hasattr(source, "close"):
            source.close()


NOT_JSON: list[tuple[object, str]] = [
    (math.nan, "nan"),
    (math.inf, "inf"),
    (-math.inf, "inf"),
    (Decimal("NaN"), "NaN"),
    (Decimal("Infinity"), "Infinity"),
    (Decimal("sNaN"), "sNaN is not JSON"),
    (array.array("d", [1.5]), "tolist"),
    ("\ud83d", "surrogate"),
    (datetime(2026, 1, 2, tzinfo=timezone.utc), "isoformat"),
    (timedelta(seconds=1), "timedelta"),
    (uuid.UUID(int=1), "UUID"),
    (b"bytes", "bytes"),
    (bytearray(b"x"), "bytearray"),
    ({1}, "set"),
    (Row(1), "asdict"),
    (Struct(1), "to_builtins"),
    (Pair(1, "a"), "_asdict"),
    (Level.HIGH, "value"),
    (Word.YES, "value"),
    (Number.ONE, "value"),
    (1j, "complex"),
    (object(), "object"),
    ({1: "a"}, "key"),
    ({None: "a"}, "key"),
    ({True: "a"}, "key"),
    ({1.5: "a"}, "key"),
    ({("a", "b"): 1}, "key"),
    ({Word.YES: 1}, "key"),
    (10**5_000, "digits"),
    (msgspec.Raw(b"{nope"), "character 2"),
    (types.MappingProxyType({"a": 1}), "dict"),
]


@pytest.mark.parametrize("place", [lambda v: v, lambda v: {"v": v}, lambda v: [1, {"a": [v]}]])
@pytest.mark.parametrize(("value", "said"), NOT_JSON, ids=[str(n) for n in range(len(NOT_JSON))])
def test_a_record_that_json_cannot_represent_is_refused_with_its_number(
    value: object, said: str, place: Callable[[object], object]
) -> None:
    record = place(value)
    if record is value and isinstance(value, (bytes, msgspec.Raw)):
        record = b'{"a": nope}'  # bytes are JSON already
        said = "character 7"
    with pytest.raises(gapless.InvalidRecordError, match=said) as raised:
        list(objects.encode([{"a": "ok"}, {"a": "ok"}, {"a": "ok"}, record]))
    assert raised.value.record == 4
    assert str(raised.value).startswith("record 4: ")


def test_a_record_that_contains_itself_is_refused() -> None:
    record: dict[str, object] = {}
    record["itself"] = [record]
    with pytest.raises(gapless.InvalidRecordError, match="record 1: it is nested too deeply"):
        list(objects.encode([record]))


@pytest.mark.parametrize(
    ("record", "line"),
    [
        ({"a": 10**30}, b'{"a":1000000000000000000000000000000}'),
        ({"a": Decimal("1.50"), "b": [Decimal("1E+3")]}, b'{"a":1.50,"b":[1E+3]}'),
        ([Decimal("1E+500"), Decimal("1E-500")], b"[1E+500,1E-500]"),
        ({"a": -0.0, "b": 1e300}, b'{"a":-0.0,"b":1e300}'),
        ((1, (2, 3)), b"[1,[2,3]]"),
        (OrderedDict(b=1, a=2), b'{"b":1,"a":2}'),
        (defaultdict(list, a=[1]), b'{"a":[1]}'),
        ({Text("k"): Text("v")}, b'{"k":"v"}'),
        ("text", b'"text"'),
        (None, b"null"),
        (b'{"a": 1.0 }', b'{"a": 1.0 }'),
        (b' {"a": 1.0 }\r\n', b'{"a": 1.0 }'),
        (b'{\n"a": 1.0 }', b'{"a":1.0}'),
        (msgspec.Raw(b'{"a": 1.0 }'), b'{"a": 1.0 }'),
        ({"a": msgspec.Raw(b"1.0")}, b'{"a":1.0}'),
        ({"a": "\0\x7f\u2028\U0001f600"}, '{"a":"\\u0000\x7f\u2028\U0001f600"}'.encode()),
    ],
)
def test_a_record_that_json_can_represent_is_encoded_exactly(record: object, line: bytes) -> None:
    assert list(objects.encode([record])) == [line + b"\n"]


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)


@settings(deadline=None, max_examples=100)
@given(st.lists(values))
def test_values_are_what_json_reads(records: list[object]) -> None:
    lines = list(objects.encode(records))
    assert [json.loads(line) for line in lines] == records
    assert all(line.count(b"\n") == 1 for line in lines)


ITERABLES: list[Callable[[], Any]] = [
    lambda: [{"id": 1}, {"id": 2}],
    lambda: ({"id": 1}, {"id": 2}),
    lambda: ({"id": number} for number in (1, 2)),
    lambda: iter([{"id": 1}, {"id": 2}]),
    lambda: deque([{"id": 1}, {"id": 2}]),
    {"a": {"id": 1}, "b": {"id": 2}}.values,
    lambda: map(json.loads, ['{"id": 1}', '{"id": 2}']),
    lambda: [b'{"id":1}', b'{"id":2}'],
]


@pytest.mark.parametrize("made", ITERABLES)
def test_iterables_of_records_are_accepted(made: Callable[[], Any]) -> None:
    assert b"".join(objects.encode(made())) == b'{"id":1}\n{"id":2}\n'
    assert list(objects.encode(array.array("i", [1, 2]))) == [b"1\n", b"2\n"]


async def rows() -> AsyncIterator[dict[str, int]]:
    for number in (1, 2):
        await anyio.lowlevel.checkpoint()
        yield {"id": number}


def stored(result: gapless.Result) -> bytes:
    with gapless.Client(os.environ["GAPLESS_URL"]) as client:
        return b"".join(client.session(result.session_id).stream())


def test_sources_of_every_kind(front: Front) -> None:  # noqa: ARG001 - it is the service
    """Paths, open files, thread-bound and asynchronous generators; blocking and asynchronous."""
    url = os.environ["GAPLESS_URL"]
    expected = b'{"id":1}\n{"id":2}\n'
    path = Path("orders.ndjson")
    path.write_bytes(expected)
    table = Path("orders.csv")
    table.write_bytes(b"id\n1\n2\n")
    database = sqlite3.connect(":memory:")
    cursor = database.execute("SELECT 1 AS id UNION SELECT 2")

    results = [gapless.upload(path, url), gapless.upload(str(path), url, new=True)]
    with path.open("rb") as file:
        results.append(gapless.upload(file, url))
    with table.open("rb") as file:
        results.append(gapless.upload(file, url, typed=True))
    results.append(gapless.upload(io.BytesIO(expected), url))
    results.append(gapless.upload(io.BytesIO(b"id;x\n"), url, format="csv"))
    results.append(gapless.upload(({"id": number} for (number,) in cursor), url))
    results.append(gapless.upload(rows(), url))
    database.close()

    async def asynchronous() -> list[gapless.Result]:
        with path.open("rb") as opened:  # noqa: ASYNC230 - a test
            return [
                await gapless.upload_async(rows(), url),
                await gapless.upload_async(path, url, new=True),
                await gapless.upload_async(opened, url),
                await gapless.upload_async(({"id": number} for number in (1, 2)), url),
            ]

    results += anyio.run(asynchronous)
    assert all(result.ok for result in results)
    kept = [stored(result) for result in results]
    assert kept.pop(5) == b""
    assert kept == [expected] * 11
    assert results[3].reading == "CSV, typed"


def test_no_records_are_an_empty_object(front: Front) -> None:  # noqa: ARG001
    """An empty list is intended; an empty file object is probably a producer that failed."""
    url = os.environ["GAPLESS_URL"]
    records: Any
    for records in ([], iter(()), (record for record in list[int]())):
        result = gapless.upload(records, url)
        assert (result.ok, result.total_record, stored(result)) == (True, 0, b"")
    with pytest.raises(gapless.InputError, match="empty"):
        gapless.upload(io.BytesIO(b""), url)


def test_options_for_reading_a_file_are_refused_for_records() -> None:
    option: Any
    for option in ({"format": "csv"}, {"typed": True}, {"skip_invalid": True}, {"header": False}):
        with pytest.raises(TypeError, match="cannot be used for records"):
            gapless.upload([1], "http://127.0.0.1:9", **option)


def test_nothing_is_sent_of_records_that_are_refused(front: Front) -> None:
    url = os.environ["GAPLESS_URL"]
    for records in ([{"v": math.nan}], [{"a": "ok"}] * 3 + [{"a": "\ud83d"}], [{1: "a"}]):
        with pytest.raises(gapless.InvalidRecordError):
            gapless.upload(records, url)
        with pytest.raises(gapless.InvalidRecordError), gapless.Client(url) as client:
            client.session("0" * 32).send(0, records)
    assert front.seen == []


def test_a_client_works_without_with(front: Front) -> None:  # noqa: ARG001
    client = gapless.Client(os.environ["GAPLESS_URL"])
    session = client.create(2, 2)
    session.send(0, rows())
    assert session.expires_at is not None
    assert session.expires_at == session.status().expires_at > datetime.now(timezone.utc)
    assert session.finish().ok
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        session.status()
    with pytest.raises(RuntimeError, match="closed"):
        client.create(1)


def test_a_client_that_is_not_closed_ends_its_thread(front: Front) -> None:  # noqa: ARG001
    before = set(threading.enumerate())
    client = gapless.Client(os.environ["GAPLESS_URL"])
    client.create(1)
    (thread,) = (one for one in set(threading.enumerate()) - before if one.name == "gapless")
    del client
    gc.collect()
    thread.join(30)
    assert not thread.is_alive()


def test_a_process_ends_though_its_client_is_open(front: Front) -> None:  # noqa: ARG001
    program = (
        "import gapless, os\n"
        "client = gapless.Client(os.environ['GAPLESS_URL'])\n"
        "print(client.create(1).session_id)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, timeout=300
    )
    assert (done.returncode, done.stderr, len(done.stdout.strip())) == (0, b"", 32)


def test_an_interrupted_download_leaves_no_file(front: Front) -> None:
    """Ctrl-C, in a program that does not close its client."""
    url = os.environ["GAPLESS_URL"]
    content = b"".join(objects.encode({"id": number} for number in range(50_000)))
    session_id = gapless.upload(io.BytesIO(content), url).session_id
    ended = threading.Event()

    class Store(BaseHTTPRequestHandler):
        """Sends a half, and then nothing."""

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            ended.wait(300)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    program = f"""if 1:
        import gapless, os, signal

        def report(event, facts):
            if event == "download":
                os.kill(os.getpid(), signal.SIGINT)

        client = gapless.Client(os.environ["GAPLESS_URL"], report=report)
        client.session("{session_id}").download("got")
    """
    with ThreadingHTTPServer(("127.0.0.1", 0), Store) as store:
        threading.Thread(target=store.serve_forever, daemon=True).start()
        link = Said(200, {"url": f"http://127.0.0.1:{store.server_port}/"})
        front.rule = lambda seen: link if seen.path.endswith("/file") else None
        before = set(Path().iterdir())
        try:
            done = subprocess.run(
                [sys.executable, "-c", program], check=False, capture_output=True, timeout=300
            )
        finally:
            ended.set()
            store.shutdown()
    assert b"KeyboardInterrupt" in done.stderr
    assert set(Path().iterdir()) == before


def test_downloads_go_into_a_path_a_file_or_a_stream(front: Front) -> None:  # noqa: ARG001
    url = os.environ["GAPLESS_URL"]
    expected = b'{"id":1}\n{"id":2}\n'
    session_id = gapless.upload([{"id": 1}, {"id": 2}], url).session_id
    with gapless.Client(url) as client:
        session = client.session(session_id)
        assert session.expires_at is None
        memory, manifest = io.BytesIO(), io.BytesIO()
        assert session.download("a.ndjson") == session.download(memory) == len(expected)
        with Path("b.ndjson").open("wb", buffering=0) as raw:
            session.download(raw)
        assert session.manifest(manifest) == len(manifest.getvalue()) > 0
        assert b"".join(session.stream()) == memory.getvalue() == expected
        assert Path("a.ndjson").read_bytes() == Path("b.ndjson").read_bytes() == expected
        next(blocks := session.stream())
        blocks.close()  # type: ignore[attr-defined]
        wrong: Any
        for wrong in (io.StringIO(), None, 5, []):
            with pytest.raises(TypeError, match="pass a path"):
                session.download(wrong)

    async def asynchronous() -> bytes:
        async with gapless.AsyncClient(url) as opened:
            found = io.BytesIO()
            await opened.session(session_id).download(found)
            return found.getvalue() + b"".join(
                [block async for block in opened.session(session_id).stream()]
            )

    assert anyio.run(asynchronous) == expected * 2


def test_a_stream_that_fails_raises(front: Front) -> None:  # noqa: ARG001
    with gapless.Client(os.environ["GAPLESS_URL"]) as client:
        session = client.create(1)
        with pytest.raises(gapless.SessionStateError):
            list(session.stream())
        with pytest.raises(gapless.SessionStateError):
            session.download("a.ndjson")
    assert not Path("a.ndjson").exists()


def test_the_public_names_stay() -> None:
    """Removing a name breaks programs; a new one must be documented in docs/client.md."""
    assert " ".join(sorted(gapless.__all__)) == (
        "ApiError AsyncClient AsyncSession AuthError BatchConflictError Checksum ChecksumError"
        " Client Content ExpiredError FileChangedError Format GaplessError IncompleteError"
        " InputError InvalidRecordError InvalidRecordsError Limits Listed MergedFormat"
        " NotFoundError Range RecordTooLargeError RequestError Result ServerError Session"
        " SessionStateError SettingError SigV4Auth StateError Status TokenAuth TokenError"
        " TooLargeError UnavailableError UnexpectedAnswerError UnreachableError ViolationError"
        " resume resume_async upload upload_async"
    )
    assert [name for name in gapless.__all__ if not hasattr(gapless, name)] == []


def test_nothing_loads_what_only_a_bar_or_the_conformance_checks_need() -> None:
    """Only httpx itself may import rich, for its own command."""
    program = (
        "import sys, gapless.cli\n"
        "gapless.cli.cli(['list'], standalone_mode=False)\n"
        "print({'gapless.bars'} & set(sys.modules))\n"
        "print('gapless.conformance' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert done.stdout.split(b"\n")[-3:-1] == [b"set()", b"False"]


def test_keyword_arguments_are_real_and_the_same_everywhere() -> None:
    def names(work: Callable[..., object], kind: object = inspect.Parameter.KEYWORD_ONLY) -> Any:  # noqa: ANN401
        found = inspect.signature(work).parameters.values()
        return {one.name: one.default for one in found if one.kind is kind}

    assert names(gapless.upload) == names(gapless.upload_async)
    assert names(gapless.resume) == names(gapless.resume_async)
    assert names(gapless.Client) == names(gapless.AsyncClient) == names(gapless.resume)
    options = {"format", "delimiter", "encoding", "header", "typed", "skip_invalid"}
    assert names(gapless.upload).keys() >= {*options, "batch_size", "new", "parallel", "patience"}


def test_mypy_catches_a_typo(tmp_path: Path) -> None:
    right = tmp_path / "right.py"
    right.write_text(
        "import io\nfrom datetime import datetime\nimport gapless\n"
        'result = gapless.upload("a.csv", "", format="csv", delimiter=";", encoding="utf-8",'
        " header=True, typed=True, skip_invalid=True, batch_size=1, new=True, gzip=False,"
        " parallel=1, patience=1.0)\n"
        'with gapless.Client("", parallel=1) as client:\n'
        "    session = client.create(1, batch_size=1)\n"
        "    when: datetime = session.status().expires_at\n"
        "    session.download(io.BytesIO())\n"
        "    blocks: list[bytes] = list(session.stream())\n"
    )
    wrong = tmp_path / "wrong.py"
    lines = [
        'gapless.upload("a.csv", "", delimeter=";")',
        'gapless.upload("a.csv", "", skip_invalid="yes")',
        'gapless.resume("a.csv", patiense=1.0)',
        'gapless.Client("", paralel=1)',
        'gapless.AsyncClient("", gzip="no")',
        'gapless.Client("").create(1, batchsize=1)',
    ]
    wrong.write_text("import gapless\n" + "\n".join(lines) + "\n")
    environ = {**os.environ, "MYPYPATH": str(HERE.parent)}
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary"]
    cache = ["--cache-dir", str(tmp_path / "cache"), "--config-file", os.devnull]
    done = subprocess.run(
        [*command, *cache, str(right), str(wrong)],
        check=False,
        capture_output=True,
        text=True,
        env=environ,
    )
    found = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(found) == len(lines), done.stdout + done.stderr
    for number, line in enumerate(found, 2):
        assert f"wrong.py:{number}: error:" in line
