"""Uploads an input that can be read only once (a pipe, a generator) in one pass and bounded memory.

The session is opened with the first batch, before the total is known; finish sends the counted
totals. It must never be called unless the input was read to its end.

Only the records determine the batches. So the same input sent again into the same session makes the
same batches: stored ones are acknowledged without being stored again, different ones are conflicts.
"""

import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Iterable,
    Iterator,
    Mapping,
)
from concurrent.futures import CancelledError
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio
import msgspec
from anyio.from_thread import BlockingPortal

from gapless import objects
from gapless.batching import MAX_BATCHES, Batch, Splitter
from gapless.compression import crc32
from gapless.errors import (
    MAX_VIOLATIONS,
    BatchConflictError,
    FileChangedError,
    InputError,
    InvalidRecordsError,
    RecordTooLargeError,
    ViolationError,
)
from gapless.formats import Format, MergedFormat, Reading
from gapless.inputs import EMPTY, ReadOnce, RejectsFile, SizeLimit, Source, checked, naming, opened
from gapless.merged import verify_content
from gapless.metadata import with_name
from gapless.models import Limits, Result, Status, as_json
from gapless.readers import CHUNK
from gapless.schemas import Schema
from gapless.sending import Lines, Progress, send_all
from gapless.sessions import AsyncClient, AsyncSession
from gapless.text import command, count

if TYPE_CHECKING:
    from typing_extensions import Self

_DECIDED: Final = {"FINISHING", "FINISHED"}
"""States that accept no batches, but another finish with the same totals."""

_PAUSE_EVERY: Final = 32_000
"""Bytes of records after which other threads may run."""


class Stream(Protocol):
    """An input that is read once, in batches."""

    @property
    def name(self) -> str:
        """The name in messages."""

    @property
    def base_name(self) -> str:
        """The name of the file; "" if it has none."""

    @property
    def schema(self) -> Schema | None:
        """The schema that records must satisfy."""

    @property
    def lines(self) -> Lines | None:
        """The lines of its records; None if they are Python objects."""

    @property
    def facts(self) -> dict[str, Any]:
        """Members of the event ``input``; complete at the end."""

    def open(self) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        """The batches. Iterating raises InputError, and any error of the caller's records."""


class FileStream:
    """The records of an open file or a pipe, read in a separate thread."""

    def __init__(self, source: Source, *, batch_size: int | None, compress: bool) -> None:
        self.name = source.name
        self.base_name = source.base_name
        self.schema = source.schema
        self.lines = Lines()
        self.facts: dict[str, Any] = {}
        self._source = source
        self._batch_size = batch_size
        self._largest = SizeLimit(Limits(), compress=compress)

    def __iter__(self) -> Iterator[Batch]:
        records = 0
        splitter = Splitter(self._batch_size)
        with (
            naming(self._source),
            opened(self._source) as file,
            # Records before those left out are stored already.
            RejectsFile(self._source, keep=True, partial=True) as rejects,
        ):
            reader = checked(self._source, file, rejects, self._largest)
            advice = (
                "Later records were not checked. Correct such records, or leave them out with"
                " --skip-invalid."
            )
            for chunk in reader:
                rejects.raise_errors(advice)
                records += len(chunk.records)
                self.lines.add(chunk.places)
                yield from splitter.add(chunk.lines)
            rejects.raise_errors(advice)
            if not records and reader.reading.format is Format.NDJSON:
                # Other formats are never empty: JSON has brackets, a table has a header.
                raise InputError(EMPTY, "empty")
            yield from splitter.end()
            once = file.raw
            self.facts = {
                "reading": str(reader.reading),
                "skipped": rejects.count,
                "rejects": rejects.path and str(rejects.path),
                "blank": reader.blank,
            }
            if isinstance(once, ReadOnce):
                self.facts["sha256"] = once.sha256

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[AsyncIterator[Batch], None]:
        """The batches. Closing does not wait for the thread, which a silent pipe may block."""
        failures: list[Exception] = []
        async with BlockingPortal() as portal:
            with Channel() as channel:
                Thread(target=channel.feed, args=(portal, self), daemon=True).start()
                try:
                    yield channel.received()
                except Exception as error:  # noqa: BLE001 - the portal would wrap it in a group
                    failures.append(error)
        for failure in failures:
            raise failure


class RecordStream:
    """The records of an iterable of Python objects."""

    def __init__(
        self,
        records: Iterable[object] | AsyncIterable[object],
        *,
        batch_size: int | None,
        compress: bool,
        schema: Schema | None = None,
    ) -> None:
        objects.check_iterable(records)
        self.schema = schema
        self.lines = None
        self.name = "the records"
        self.base_name = ""
        self.facts: dict[str, Any] = {
            "reading": str(Reading(format=Format.NDJSON)),
            "skipped": 0,
            "rejects": None,
            "blank": 0,
        }
        self.records: Any = records
        self._splitter = Splitter(batch_size)
        self._most = batch_size or CHUNK
        self._largest = SizeLimit(Limits(), compress=compress)
        self._read = 0

    def __iter__(self) -> Iterator[Batch]:
        lines: list[bytes] = []
        size, pause = 0, _PAUSE_EVERY
        for line in objects.encode(self.records):
            lines.append(line)
            size += len(line)
            if size >= pause or len(lines) >= self._most:
                pause += _PAUSE_EVERY
                time.sleep(0)  # let the event loop have the GIL
                if size >= CHUNK or len(lines) >= self._most:
                    yield from self._divided(lines)
                    lines, size, pause = [], 0, _PAUSE_EVERY
        yield from self._divided(lines)
        yield from self._splitter.end()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[AsyncIterator[Batch], None]:
        """The batches; the iterable runs on the event loop."""
        async with (
            aclosing(objects.encode_async(self.records)) as lines,
            aclosing(self._batches(lines)) as batches,
        ):
            yield batches

    async def _batches(self, encoded: AsyncIterator[bytes]) -> AsyncGenerator[Batch, None]:
        lines: list[bytes] = []
        size = 0
        async for line in encoded:
            lines.append(line)
            size += len(line)
            if size >= CHUNK or len(lines) >= self._most:
                for batch in self._divided(lines):
                    yield batch
                lines, size = [], 0
        for batch in (*self._divided(lines), *self._splitter.end()):
            yield batch

    def _divided(self, lines: list[bytes]) -> Iterator[Batch]:
        """The batches that ``lines`` complete.

        Raises RecordTooLargeError; InvalidRecordsError if the text of the schema is known.
        """
        if self.schema and self.schema.text:
            self._check(self.schema, lines)
        # Only the last line can be too large: the caller stops collecting at CHUNK bytes.
        for number, line in enumerate(lines[-1:], self._read + len(lines)):
            if len(line) > self._largest.bytes and not self._largest.fits(line[:-1]):
                raise RecordTooLargeError(
                    f"record {number}: it has {len(line) - 1:,} bytes, more than the service"
                    " accepts in a request.",
                    "too_large",
                )
        self._read += len(lines)
        return self._splitter.add(b"".join(lines))

    def _check(self, schema: Schema, lines: list[bytes]) -> None:
        errors = [
            ViolationError(number, found.path, found.message, record=number)
            for found in schema.violations([line[:-1] for line in lines])
            for number in [self._read + found.index + 1]
        ]
        if errors:
            raise InvalidRecordsError(
                f"{count(len(errors), 'record')} of those up to {self._read + len(lines):,} do not"
                f" satisfy the schema {schema.name!r}. The first: {errors[0]}. Later records were"
                " not checked.",
                len(errors),
                errors[:MAX_VIOLATIONS],
            )


class FedStream:
    """A stream that the caller's thread reads: some iterables work only in that thread."""

    def __init__(self, stream: FileStream | RecordStream, channel: "Channel") -> None:
        self.name = stream.name
        self.base_name = stream.base_name
        self.schema = stream.schema
        self.lines = stream.lines
        self._stream = stream
        self._channel = channel

    @property
    def facts(self) -> dict[str, Any]:
        """The facts of the stream."""
        return self._stream.facts

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[AsyncIterator[Batch], None]:
        """The batches."""
        with self._channel:
            yield self._channel.received()


class Channel:
    """Passes batches from the thread that reads them to the event loop, one at a time."""

    def __init__(self) -> None:
        self._send, self._receive = anyio.create_memory_object_stream[Batch | Exception](0)

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Accept no more batches."""
        self._receive.close()
        self._send.close()

    def feed(self, portal: BlockingPortal, batches: Iterable[Batch]) -> None:
        """Pass on ``batches``, or the error that they raise; stops when the receiver has closed."""
        # RuntimeError: the event loop has ended.
        gone = (anyio.BrokenResourceError, anyio.ClosedResourceError, CancelledError, RuntimeError)
        with suppress(*gone):
            for found in _caught(batches):
                portal.call(self._send.send, found)
                del found
            portal.call(self._send.aclose)

    async def received(self) -> AsyncGenerator[Batch, None]:
        """The batches; raises the error that reading them raised."""
        async for found in self._receive:
            if isinstance(found, Exception):
                raise found
            yield found
            del found


def _caught(batches: Iterable[Batch]) -> Iterator[Batch | Exception]:
    try:
        yield from batches
    except Exception as error:  # noqa: BLE001 - ``received`` raises it
        yield error


class _Counted:
    """Numbers the batches, and counts their records and bytes."""

    def __init__(self, batches: AsyncIterator[Batch], name: str) -> None:
        self.records = self.batches = self.bytes = self.crc32 = 0
        self._batches = batches
        self._name = name
        self._peeked: list[Batch] = []

    async def peek(self) -> None:
        """Read the first batch; ``next`` still returns it."""
        batch = await anext(self._batches, None)
        self._peeked = [] if batch is None else [batch]

    async def next(self) -> tuple[int, Batch] | None:
        """The next batch with its number; None at the end."""
        batch = self._peeked.pop() if self._peeked else await anext(self._batches, None)
        if batch is None:
            return None
        number = self.batches
        if number == MAX_BATCHES:
            raise InputError(
                f"{self._name} has more than {MAX_BATCHES:,} batches. Use a larger --batch-size."
            )
        self.batches += 1
        self.records += batch.records
        self.bytes += batch.bytes
        for piece in batch.pieces:
            self.crc32 = crc32(piece, self.crc32)
        return number, batch


async def upload(
    client: AsyncClient,
    stream: Stream,
    *,
    merged_format: str = MergedFormat.NDJSON.value,
    metadata: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
) -> Result:
    """Upload ``stream`` into a new session; raises the errors of ``uploads.upload``.

    If the input is refused within its first batch, no session is opened. The ``idempotency_key`` of
    an earlier upload completes the session of that upload.
    """
    async with stream.open() as batches:
        counted = _Counted(batches, stream.name)
        await counted.peek()
        named = with_name(metadata or {}, stream.base_name)
        session = await client.create(
            None,
            merged_format=merged_format,
            metadata=named,
            schema=stream.schema.name if stream.schema else None,
            idempotency_key=idempotency_key,
        )
        status = await session.status() if idempotency_key else None
        return await _complete(session, stream, counted, merged_format, status)


async def resume(session: AsyncSession, stream: Stream, status: Status) -> Result:
    """Upload ``stream`` from its start into a session that has some of its batches.

    Raises FileChangedError if a stored batch is different.
    """
    async with stream.open() as batches:
        counted = _Counted(batches, stream.name)
        await counted.peek()
        return await _complete(session, stream, counted, status.format, status)


async def _complete(
    session: AsyncSession,
    stream: Stream,
    counted: _Counted,
    merged_format: str,
    status: Status | None = None,
) -> Result:
    client = session.client
    client.report(
        "session",
        {
            "sessionId": session.session_id,
            "url": client.url,
            "totalRecord": None,
            "batchSize": None,
            "batches": None,
            "bytes": None,
            "mergedFormat": merged_format,
            "once": True,
            "remembered": False,
        }
        | ({"stored": status.batches} if status else {}),
    )
    decided = status is not None and status.state in _DECIDED
    progress = Progress()
    try:
        result = await _send_and_finish(session, stream, counted, progress, decided=decided)
    except BatchConflictError as error:
        if status is None:
            raise  # in a new session another client has stored it
        number = error.problem.get("seqNum", "?")
        abort = command("abort", session.session_id, "--url", client.url)
        raise FileChangedError(
            f"{stream.name}: batch {number} differs from the one that session {session.session_id}"
            f" has. What is stored is kept, and the session is not finished. Start over in a new"
            f" session; abort this one with: {abort}"
        ) from error
    except BaseException as error:
        if isinstance(error, InvalidRecordsError) and error.by_service:
            raise  # the same input would be refused again
        facts = {"records": progress.records, "batches": progress.batches}
        where = {"sessionId": session.session_id, "url": client.url}
        client.report("interrupted", where | facts)
        if hasattr(error, "add_note"):  # from Python 3.11 on
            error.add_note(
                f"The first {count(progress.records, 'record')} are stored, in session"
                f" {session.session_id} at {client.url}. Send the same input again into this"
                " session to complete it."
            )
        raise
    verify_content(result, counted.bytes, counted.crc32)
    facts = stream.facts
    return msgspec.structs.replace(result, reading=facts["reading"], skipped=facts["skipped"])


async def _send_and_finish(
    session: AsyncSession,
    stream: Stream,
    counted: _Counted,
    progress: Progress,
    *,
    decided: bool,
) -> Result:
    report = session.client.report
    if decided:
        while await counted.next():
            pass
    else:
        await send_all(session, counted.next, progress, lines=stream.lines)
    facts = {"file": stream.name, "records": counted.records, "bytes": counted.bytes}
    report("input", facts | {"crc32": f"{counted.crc32:08x}"} | stream.facts)
    report("finishing", {})
    result = await session.finish(counted.records, counted.batches)
    if not result.ok:
        report("finish", as_json(result))
        raise result.incomplete()
    return result
