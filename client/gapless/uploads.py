"""Uploads a file: plans the batches, sends those that are missing, finishes, verifies the checksum.

The file is read twice: the first pass checks and counts its records before anything is sent, the
second sends them. Changed content must never be sent. ``streams`` uploads what is read only once.
"""

import hashlib
import io
import os
import secrets
import stat
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

import anyio.to_thread
import msgspec

from gapless import batching, compression, fingerprint, readers, state, streams
from gapless.batching import Batch, Plan
from gapless.errors import (
    ExpiredError,
    FileChangedError,
    GaplessError,
    InputError,
    InvalidRecordError,
    NotFoundError,
    RequestError,
    SessionStateError,
    SettingError,
    StateError,
)
from gapless.fingerprint import BlockReader
from gapless.formats import MergedFormat, Reading, ReadOptions, delimiter_word
from gapless.http import Report, ignore_events
from gapless.inputs import RejectsFile, SizeLimit, Source, checked, naming, opened
from gapless.merged import verify_content
from gapless.metadata import with_name
from gapless.models import Limits, Range, Result, Status, as_json
from gapless.readers import Chunk
from gapless.schemas import Schema
from gapless.sending import Lines, send_all
from gapless.sessions import AsyncClient, AsyncSession
from gapless.state import State
from gapless.streams import FileStream
from gapless.text import as_argument, command, count

_SHOWN: Final = 5

_SHOWN_BYTES: Final = 300

_MAX_ROUNDS: Final = 3
"""Maximum number of finishes that report missing batches; after a 204, none should."""


@dataclass(frozen=True)
class Scan:
    """The result of the first pass over a source."""

    plan: Plan
    sha256: str
    size: int
    mtime_ns: int
    inode: tuple[int, int]
    blocks: Sequence[int]
    reading: Reading
    verbatim: bool
    """Whether the file is NDJSON exactly as it is sent."""
    skipped: int
    blank: int
    literal: int
    """Number of TSV lines that contain quotes or backslashes, which are data."""
    first: Sequence[bytes]


async def upload(
    client: AsyncClient,
    source: Source,
    *,
    batch_size: int | None = None,
    merged_format: MergedFormat = MergedFormat.NDJSON,
    metadata: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
    start_over: bool = False,
) -> Result:
    """Upload ``source`` into a new session; returns the result, which is ``ok`` and verified.

    ``batch_size`` is the number of records per batch, by default computed. The name of the file is
    added to ``metadata``, unless it has a name. Raises StateError if an upload of the file is
    unfinished, unless ``start_over``; InputError before anything is sent; IncompleteError,
    ChecksumError, ApiError or UnavailableError afterwards.
    """
    if await anyio.to_thread.run_sync(source.is_read_once):
        stream = FileStream(source, batch_size=batch_size, compress=client.gzip)
        return await streams.upload(
            client,
            stream,
            merged_format=merged_format.value,
            metadata=metadata,
            idempotency_key=idempotency_key,
        )
    if idempotency_key is not None:
        raise SettingError(
            f"{source.name} is a file, whose upload gets a key automatically. An idempotency key is"
            " only for input that is read once, such as a pipe."
        )
    request = _Request(
        batch_size,
        merged_format.value,
        with_name(metadata or {}, source.base_name),
        option_words(
            source.options,
            source.skip_invalid,
            batch_size,
            merged_format.value,
            metadata or {},
            source.schema,
        ),
    )
    unanswered: State | None = None
    if not start_over:
        await _check_unfinished(client, source, request)
        unanswered = state.unanswered(source.path, client.url)
    return await _upload(client, source, request, unanswered)


@dataclass(frozen=True)
class _Request:
    """The arguments of an upload besides its source."""

    batch_size: int | None
    merged_format: str
    metadata: dict[str, str]
    words: list[str]
    """Its options as command-line words."""


async def _upload(
    client: AsyncClient, source: Source, request: _Request, unanswered: State | None
) -> Result:
    limits = Limits()
    while True:
        found = await _scan(client, source, limits, request.batch_size)
        saved_state = _new_state(client, source, found, request)
        session, saved_state, status = await _open(client, saved_state, unanswered)
        unanswered = None
        if _fits(found.plan, session.limits):
            break
        # This service's limits are stricter than the default limits of the plan.
        await session.abort()
        state.delete(saved_state)
        if session.limits == limits:
            raise GaplessError(
                f"The records do not fit into the service's limits: {session.limits}"
            )
        limits = session.limits
    remembered = _save_state(client, source, saved_state)
    _report_session(client, session, saved_state, remembered=remembered)
    result = await _complete(client, session, source, saved_state, status=status)
    return _described(result, saved_state)


def _described(result: Result, saved_state: State) -> Result:
    reading, skipped = str(saved_state.reading), saved_state.skipped
    return msgspec.structs.replace(result, reading=reading, skipped=skipped)


async def _create(client: AsyncClient, saved_state: State) -> AsyncSession:
    """Open the session of a state; returns the same one if it was opened before."""
    return await client.create(
        saved_state.plan.records,
        saved_state.plan.batch_size,
        merged_format=saved_state.merged_format,
        metadata=saved_state.metadata,
        schema=saved_state.schema,
        idempotency_key=saved_state.key,
    )


async def _open(
    client: AsyncClient, saved_state: State, unanswered: State | None
) -> tuple[AsyncSession, State, Status | None]:
    """A session for a new state: that of the ``unanswered`` request if it was the same request.

    The state is written first, so that the next upload gets this session if the response is lost.
    """
    if unanswered is not None:
        same = _requested(unanswered) == _requested(saved_state)
        with suppress(RequestError, NotFoundError, SessionStateError, ExpiredError):
            session = await _create(client, unanswered)
            status = await session.status()
            if status.state == "OPEN" and same:
                key, session_id = unanswered.key, session.session_id
                found = msgspec.structs.replace(saved_state, key=key, session_id=session_id)
                return session, found, status
            if status.state == "OPEN":
                await session.abort()
        state.delete(unanswered)
    with suppress(OSError, SettingError):  # _save_state reports the error later
        state.save(saved_state)
    session = await _create(client, saved_state)
    found = msgspec.structs.replace(saved_state, session_id=session.session_id)
    return session, found, None


def _requested(saved_state: State) -> tuple[object, ...]:
    plan = saved_state.plan
    request = saved_state.merged_format, saved_state.metadata, saved_state.schema
    return plan.records, plan.batch_size, *request


async def _check_unfinished(client: AsyncClient, source: Source, request: _Request) -> None:
    """Raise StateError if an upload of the file is unfinished and can be resumed."""
    saved_state = state.load(source.path, client.url)
    if saved_state is None or saved_state.finished:
        return
    abort = _abort(saved_state.session_id, saved_state.url, source)
    if not await anyio.to_thread.run_sync(_is_unchanged, source, saved_state):
        why = f"has other content. This upload starts over; abort the old one with: {abort}"
    else:
        try:
            status = await client.session(saved_state.session_id).status()
        except (NotFoundError, ExpiredError) as error:
            if not error.code:
                raise
            why = "no longer exists: it expired or was aborted. This upload starts over"
        else:
            if status.state != "ABORTED":
                resume = command("resume", *source.connection, as_argument(source.path))
                start_over = _start_over(source, request.words)
                raise StateError(
                    f"An upload of {source.name} is unfinished: session {saved_state.session_id} at"
                    f" {saved_state.url}. Resume with: {resume}. Start over with: {start_over}"
                )
            why = "was aborted. This upload starts over"
    message = f"An earlier upload of {source.name}, session {saved_state.session_id}, {why}."
    client.report("warning", {"message": message})
    state.delete(saved_state)


def _start_over(source: Source, words: Sequence[str]) -> str:
    """The command that uploads ``source`` into a new session with these option words."""
    given = [*words, *source.sending, *source.connection]
    return command("upload", "--new", *given, as_argument(source.path))


def _abort(session_id: str, url: str, source: Source) -> str:
    given = [] if "--url" in source.connection else ["--url", url]
    return command("abort", session_id, *given, *source.connection)


def option_words(
    options: ReadOptions,
    skip_invalid: bool,  # noqa: FBT001 - as in a source
    batch_size: int | None = None,
    merged_format: str = "ndjson",
    metadata: Mapping[str, str] = MappingProxyType({}),
    schema: Schema | None = None,
) -> list[str]:
    """The command-line words of the options that say what is uploaded; defaults are omitted."""
    values = {
        "--format": options.format and options.format.value,
        "--delimiter": options.delimiter and delimiter_word(options.delimiter),
        "--encoding": options.encoding,
        "--schema": schema and str(schema.file or schema.name),
    }
    words = [word for name, value in values.items() if value for word in (name, value)]
    if options.header is not None:
        words.append("--header" if options.header else "--no-header")
    if options.typed:
        words.append("--typed")
    if skip_invalid:
        words.append("--skip-invalid")
    if batch_size:
        words += ["--batch-size", str(batch_size)]
    if merged_format != MergedFormat.NDJSON.value:
        words += ["--merged-format", merged_format]
    for name, value in metadata.items():
        words += ["--metadata", f"{name}={value}"]
    return words


def _save_state(client: AsyncClient, source: Source, saved_state: State) -> bool:
    """Save what ``gapless resume`` needs; if that fails, report a warning and return False."""
    try:
        state.save(saved_state)
    except (OSError, SettingError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        read = option_words(source.options, source.skip_invalid, schema=source.schema)
        session = ["--session", saved_state.session_id, *read]
        url = [] if "--url" in source.connection else ["--url", saved_state.url]
        given = [*session, *url, *source.connection]
        resume = command("resume", as_argument(saved_state.path), *given)
        message = (
            f"The state folder cannot be written, {reason}: gapless resume will not find this"
            f" upload. If it is interrupted, resume with: {resume}"
        )
        client.report("warning", {"message": message})
        return False
    return True


async def resume(
    client: AsyncClient,
    source: Source,
    session_id: str,
    saved_state: State | None = None,
    *,
    batch_size: int | None = None,
) -> Result:
    """Send the missing batches of ``source``, and finish; raises the errors of ``upload``.

    Without ``saved_state`` the file is read and checked again, with the batch size of the session;
    ``batch_size`` is for a session that has no total yet. An input that can be read only once is
    sent from its start; stored batches are compared. Raises FileChangedError if the session was
    opened for another file.
    """
    session = client.session(session_id)
    status = await session.status()
    once = await anyio.to_thread.run_sync(source.is_read_once)
    if once or status.total_record is None:
        batch_size = status.batch_size or batch_size
        stream = FileStream(source, batch_size=batch_size, compress=client.gzip)
        return await streams.resume(session, stream, status)
    remembered = saved_state is not None
    if saved_state is None:
        found = await _scan(client, source, session.limits, status.batch_size, status=status)
        request = _resumed(source, status)
        saved_state = _new_state(client, source, found, request, session_id)
        if found.plan.records == status.total_record:
            remembered = _save_state(client, source, saved_state)
    elif not await anyio.to_thread.run_sync(_is_unchanged, source, saved_state):
        start_over = _start_over(source, saved_state.options)
        if saved_state.finished:
            raise FileChangedError(
                f"{source.name} has changed since it was uploaded; that upload, session"
                f" {session_id}, is finished. Upload the new content with: {start_over}"
            )
        abort = _abort(session_id, client.url, source)
        raise FileChangedError(
            f"{source.name} has changed since session {session_id} was opened for it. Restore the"
            f" old content, or upload the new one with: {start_over}. Abort the old session with:"
            f" {abort}"
        )
    plan = saved_state.plan
    if plan.records != status.total_record:
        raise FileChangedError(
            f"{source.name} has {count(plan.records, 'record')}, the session was opened for"
            f" {status.total_record:,}."
        )
    _report_session(client, session, saved_state, remembered=remembered, stored=status.batches)
    result = await _complete(client, session, source, saved_state, status=status)
    return _described(result, saved_state)


def _resumed(source: Source, status: Status) -> _Request:
    """The arguments of an upload that another machine started."""
    given = {n: v for n, v in status.metadata.items() if (n, v) != ("name", source.base_name)}
    schema = source.schema or (Schema(status.schema) if status.schema else None)
    words = option_words(source.options, source.skip_invalid, None, status.format, given, schema)
    return _Request(status.batch_size, status.format, status.metadata, words)


async def _complete(
    client: AsyncClient,
    session: AsyncSession,
    source: Source,
    saved_state: State,
    *,
    status: Status | None = None,
) -> Result:
    plan = saved_state.plan
    missing = MissingBatches(status)
    for _ in range(_MAX_ROUNDS):
        if status is None or status.state == "OPEN":
            await _send(client, session, source, saved_state, missing)
            while missing.truncated:
                status = await session.status()
                missing = MissingBatches(status)
                await _send(client, session, source, saved_state, missing)
        client.report("finishing", {})
        result = await session.finish()
        if result.ok:
            break
        client.report("finish", as_json(result))
        status = await session.status()
        missing = MissingBatches(status)
    else:
        raise result.incomplete()
    state.mark_finished(saved_state)
    verify_content(result, plan.bytes, plan.crc32)
    return result


async def _send(
    client: AsyncClient,
    session: AsyncSession,
    source: Source,
    saved_state: State,
    missing: "MissingBatches",
) -> None:
    """Send the ``missing`` batches.

    Raises FileChangedError if the file has changed since the first pass; no changed content is
    sent.
    """
    with opened(source) as file:
        before = os.fstat(file.fileno())
        second_pass = _SecondPass(source, file, saved_state)
        next_batch = partial(second_pass.next, missing, client.report)
        read = partial(anyio.to_thread.run_sync, next_batch)
        with naming(source):
            await send_all(session, read, lines=second_pass.lines)
    await anyio.to_thread.run_sync(_check_unchanged, source, saved_state, before)


class _SecondPass:
    """Reads the batches of the file, and checks that they are the planned ones."""

    def __init__(self, source: Source, file: io.BufferedReader, saved_state: State) -> None:
        self._source = source
        self._plan = saved_state.plan
        self._words = saved_state.options
        self.lines = Lines()
        chunks = self._numbered(_read_again(source, file, saved_state))
        self._batches = enumerate(batching.split(chunks, saved_state.plan))
        self._records = self._bytes = self._crc = 0

    def _numbered(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
            self.lines.add(chunk.places)
            yield chunk

    def next(self, missing: "MissingBatches", report: Report) -> tuple[int, Batch] | None:
        """The next missing batch; None at the end. Raises FileChangedError."""
        with _explaining(self._source, self._words):
            for number, batch in self._batches:
                self._records += batch.records
                self._bytes += batch.bytes
                for piece in batch.pieces:
                    self._crc = compression.crc32(piece, self._crc)
                if number in missing:
                    return number, batch
                facts = {"seqNum": number, "records": batch.records, "bytes": batch.bytes}
                report("stored", facts)
            plan = self._plan
            if (self._records, self._bytes, self._crc) != (plan.records, plan.bytes, plan.crc32):
                raise FileChangedError(fingerprint.CHANGED)
        return None


@contextmanager
def _explaining(source: Source, words: Sequence[str]) -> Iterator[None]:
    """Add advice to the errors of the second pass."""
    try:
        yield
    except FileChangedError:
        raise FileChangedError(
            f"{source.name} has changed since it was read first. No changed content was sent, and"
            " the session is not finished. Upload the new content with:"
            f" {_start_over(source, words)}"
        ) from None
    except OSError as error:
        raise InputError(f"{source.name}: {error.strerror}") from None


def _check_unchanged(source: Source, saved_state: State, before: os.stat_result) -> None:
    """Raise FileChangedError if the file was changed or replaced after it was read."""
    try:
        now = source.path.stat()
    except OSError:
        return  # deleted or moved, but everything was sent
    if _stamp(now) == _stamp(before):
        return
    with opened(source) as file, _explaining(source, saved_state.options):
        blocks = BlockReader(file, fingerprint.unpack(saved_state.blocks))
        while blocks.read(fingerprint.BLOCK):
            pass


def _stamp(facts: os.stat_result) -> tuple[int, ...]:
    # Not only the modification time, which any program may set.
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


class MissingBatches:
    """The batches that are not stored; without a ``status`` all of them.

    A session without a batch size does not know its last batch: all batches after the stored and
    missing ones count as missing, too.
    """

    def __init__(self, status: Status | None) -> None:
        self._ranges: list[Range] = status.missing if status else []
        self._firsts = [gap.first for gap in self._ranges]
        self._tail = 0
        self.truncated = bool(status and status.missing_truncated)
        if status:
            known = status.batches + sum(map(len, self._ranges))
            self._tail = -1 if self.truncated or status.batch_size else known

    def __contains__(self, number: int) -> bool:
        if 0 <= self._tail <= number:
            return True
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number <= self._ranges[at].last


async def _scan(
    client: AsyncClient,
    source: Source,
    limits: Limits,
    batch_size: int | None,
    *,
    status: Status | None = None,
) -> Scan:
    return await anyio.to_thread.run_sync(
        partial(
            scan,
            source,
            limits,
            batch_size,
            flexible=status is not None and batch_size is None,
            compress=client.gzip,
            report=client.report,
        )
    )


def scan(
    source: Source,
    limits: Limits,
    batch_size: int | None = None,
    *,
    flexible: bool = False,
    compress: bool = True,
    keep_invalid: bool = True,
    report: Report = ignore_events,
) -> Scan:
    """The first pass: check and count the records, and compute checksums. Raises InputError.

    ``keep_invalid`` writes records that are left out to a file.
    """
    digest = hashlib.sha256()
    read = 0

    def see(block: memoryview) -> None:
        nonlocal read
        digest.update(block)
        read += len(block)
        report("reading", {"read": read, "size": before.st_size})

    first: list[bytes] = []

    def chunks() -> Iterator[Chunk]:
        for chunk in reader:
            some = chunk.records[: _SHOWN - len(first)] if len(first) < _SHOWN else ()
            first.extend(bytes(record)[:_SHOWN_BYTES] for record in some)
            yield chunk

    with opened(source) as file, naming(source):
        before = os.fstat(file.fileno())
        blocks = BlockReader(file, see=see)
        with RejectsFile(source, keep=keep_invalid, partial=False) as rejects:
            largest = SizeLimit(limits, compress=compress)
            reader = checked(source, blocks.buffered(), rejects, largest)
            plan = batching.make_plan(
                chunks(),
                batch_size=batch_size,
                flexible=flexible,
                max_bytes=min(limits.max_body_bytes, limits.max_inflated_bytes),
                max_batches=limits.max_seq_num + 1,
            )
            rejects.raise_errors(
                "Nothing was sent. Correct such records, or leave them out with --skip-invalid."
                if keep_invalid
                else "Correct such records."
            )
        after = os.fstat(file.fileno())
    regular = stat.S_ISREG(after.st_mode)
    if regular and (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise FileChangedError(f"{source.name} was modified while it was read.")
    report(
        "input",
        {
            "file": source.name,
            "records": plan.records,
            "bytes": plan.bytes,
            "sha256": digest.hexdigest(),
            "crc32": f"{plan.crc32:08x}",
            "skipped": rejects.count,
            "rejects": rejects.path and str(rejects.path),
            "blank": reader.blank,
            "reading": str(reader.reading),
        },
    )
    return Scan(
        plan,
        digest.hexdigest(),
        after.st_size,
        after.st_mtime_ns,
        (after.st_dev, after.st_ino),
        blocks.sums,
        reader.reading,
        verbatim=not reader.modified,
        skipped=rejects.count,
        blank=reader.blank,
        literal=reader.literal,
        first=first,
    )


def _read_again(source: Source, file: io.BufferedReader, saved_state: State) -> Iterator[Chunk]:
    """The chunks of the second pass, which leaves out the same records as the first."""

    def skip(error: InvalidRecordError, record: bytes) -> None:
        if not source.skip_invalid:
            readers.refuse(error, record)

    blocks = BlockReader(file, fingerprint.unpack(saved_state.blocks))
    return iter(
        readers.Reader(
            blocks.buffered(),
            source.name,
            source.options,
            trusted=saved_state.verbatim,
            on_invalid=skip,
            # The first pass has checked the records; check again only to leave out the same ones.
            schema=source.schema if saved_state.rules else None,
        )
    )


def _is_unchanged(source: Source, saved_state: State) -> bool:
    """Whether the file is unchanged, by size and modification time or else by content."""
    with opened(source) as file:
        now = os.fstat(file.fileno())
        if (now.st_size, now.st_mtime_ns) == (saved_state.size, saved_state.mtime_ns):
            return True
        if now.st_size != saved_state.size:
            return False
        # It was copied or touched: compare the content.
        digest = hashlib.sha256()
        while block := file.read(readers.CHUNK):
            digest.update(block)
    return digest.hexdigest() == saved_state.sha256


def _fits(plan: Plan, limits: Limits) -> bool:
    max_bytes = min(limits.max_body_bytes, limits.max_inflated_bytes)
    batches = plan.batches or 0
    # Larger batches are planned only if there would be too many, and rely on gzip.
    return (
        plan.batch_bytes <= max(max_bytes, batching.TARGET_BYTES)
        and batches <= limits.max_seq_num + 1
    )


def _new_state(
    client: AsyncClient, source: Source, found: Scan, request: _Request, session_id: str = ""
) -> State:
    return State(
        url=client.url,
        session_id=session_id,
        key="" if session_id else secrets.token_hex(16),
        pid=os.getpid(),
        file=state.file_url(source.path),
        size=found.size,
        mtime_ns=found.mtime_ns,
        inode=found.inode,
        sha256=found.sha256,
        blocks=fingerprint.pack(found.blocks),
        reading=found.reading,
        skip_invalid=source.skip_invalid,
        verbatim=found.verbatim,
        plan=found.plan,
        merged_format=request.merged_format,
        metadata=request.metadata,
        schema=source.schema.name if source.schema else "",
        rules=source.schema.text.decode() if source.schema and found.skipped else "",
        skipped=found.skipped,
        options=request.words,
        started_at=time.time(),
    )


def _report_session(
    client: AsyncClient, session: AsyncSession, saved_state: State, **facts: bool | int
) -> None:
    plan = saved_state.plan
    client.report(
        "session",
        {
            "sessionId": session.session_id,
            "url": client.url,
            "totalRecord": plan.records,
            "batchSize": plan.batch_size,
            "batches": plan.batches,
            "bytes": plan.bytes,
            "mergedFormat": saved_state.merged_format,
            "once": False,
            **facts,
        },
    )


def source_from(saved_state: State, path: Path | None = None) -> Source:
    """The source of a saved upload, read in the same way; ``path`` if the file has moved."""
    rules = saved_state.rules.encode()
    return Source(
        path or saved_state.path,
        saved_state.reading.options(),
        saved_state.skip_invalid,
        Schema(saved_state.schema, rules) if saved_state.schema else None,
    )
