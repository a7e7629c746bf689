"""How much the client does for an upload: counted, so that it cannot get slower unseen."""

import hashlib
import ssl
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import pytest

import gapless
from gapless import batching, readers, sessions, uploads
from gapless.inputs import Source
from gapless.models import Limits
from tests import sink

RECORD = b'{"id": 1, "customer": "customer-7", "note": "delivered to the door"}\n'
RECORDS = 100_000
BATCHES = 4
"""Batches of an upload of ``file``."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("work") / "records.ndjson"
    path.write_bytes(RECORD * RECORDS)
    return path


@pytest.fixture
def server(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sink.Running]:
    monkeypatch.setenv("GAPLESS_STATE_DIR", str(tmp_path))
    with sink.serve(file, RECORDS) as running:
        running.counted()
        yield running


def bytes_read() -> int:
    """Bytes this process has read from files so far."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the bytes that are read")
@pytest.mark.parametrize("gzip", [False, True])
def test_a_file_is_read_twice(server: sink.Running, file: Path, *, gzip: bool) -> None:
    gapless.upload(file, server.url, gzip=gzip)  # imports everything
    before = bytes_read()
    gapless.upload(file, server.url, gzip=gzip, new=True)
    assert bytes_read() - before < 2.01 * file.stat().st_size


@pytest.mark.parametrize("gzip", [False, True])
def test_a_file_and_each_body_are_hashed_once(
    server: sink.Running, file: Path, monkeypatch: pytest.MonkeyPatch, *, gzip: bool
) -> None:
    hashed = 0
    sha256 = hashlib.sha256

    class Counting:
        def __init__(self, content: bytes = b"") -> None:
            self.made = sha256()
            self.update(content)

        def update(self, content: bytes) -> None:
            nonlocal hashed
            hashed += len(content)
            self.made.update(content)

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401
            return getattr(self.made, name)

    monkeypatch.setattr(hashlib, "sha256", Counting)
    gapless.upload(file, server.url, gzip=gzip)
    assert hashed < file.stat().st_size + server.counted()["bytes"] + 10_000


def test_an_upload_sends_no_more_requests_than_it_needs(server: sink.Running, file: Path) -> None:
    gapless.upload(file, server.url)
    # One to open the session, one for each batch, and one to finish.
    assert server.counted()["requests"] == BATCHES + 2


@pytest.mark.parametrize("parallel", [1, 8, 64])
def test_connections_are_used_again(server: sink.Running, parallel: int) -> None:
    async def send() -> None:
        async with gapless.AsyncClient(server.url, parallel=parallel) as client:
            session = await client.create(640)
            async with anyio.create_task_group() as tasks:
                for number in range(640):
                    tasks.start_soon(session.send_ndjson, number, RECORD)

    anyio.run(send)
    counted = server.counted()
    assert counted["requests"] == 641
    assert counted["connections"] <= parallel


def test_a_request_looks_for_no_module(
    server: sink.Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed import is repeated each time, and reads every folder of the path."""
    sought: list[str] = []

    class Finder:
        def find_spec(self, name: str, *_: object) -> None:
            sought.append(name)

    async def send() -> None:
        async with gapless.AsyncClient(server.url) as client:
            session = await client.create(2)
            await session.send_ndjson(0, RECORD)
            monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
            await session.send_ndjson(1, RECORD)

    anyio.run(send)
    assert sought == []


def test_http_needs_no_certificates(
    server: sink.Running, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[object] = []

    class Counting(ssl.SSLContext):
        def load_verify_locations(self, *given: Any, **more: Any) -> None:  # noqa: ANN401
            loaded.append(given)
            super().load_verify_locations(*given, **more)

    monkeypatch.setattr(ssl, "SSLContext", Counting)
    gapless.upload(file, server.url)
    assert loaded == []


def calls_of(work: Callable[[], object]) -> int:
    """The number of calls of functions, also of builtin ones, by ``work``."""
    count = 0

    def see(_frame: FrameType, event: str, _given: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(see)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_no_function_is_called_for_each_record(file: Path) -> None:
    source = Source(file)
    assert calls_of(lambda: uploads.scan(source, Limits())) < RECORDS / 20

    def split() -> None:
        with file.open("rb") as content:
            plan = batching.Plan(RECORDS, file.stat().st_size, 0, 32_768, batching.TARGET_BYTES)
            for _ in batching.split(readers.Reader(content, trusted=True), plan):
                pass

    assert calls_of(split) < RECORDS / 100


def peak_of(work: Callable[[], object]) -> int:
    """Bytes that Python allocated at most during ``work``."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_batch_is_compressed_without_another_copy() -> None:
    pieces = [RECORD * 4_000] * 12
    peak = peak_of(lambda: sessions.encode_batch(pieces, compress=True))
    assert peak < sum(map(len, pieces)) / 2


def test_a_file_is_checked_in_pieces_that_stay_in_the_cache(file: Path) -> None:
    def scan() -> None:
        with file.open("rb") as content:
            for _ in readers.Reader(content):
                pass

    assert peak_of(scan) < 4_000_000
