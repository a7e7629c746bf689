"""A whole upload: plan it, send what is missing, finish, and prove that what is stored was sent."""

import hashlib
import io
import os
import stat
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread
import msgspec

from gapless import atomic, fingerprint, records, state
from gapless import plan as plans
from gapless.errors import (
    ExpiredError,
    FileChangedError,
    GaplessError,
    InputError,
    InvalidRecordError,
    NotFoundError,
    RecordTooLargeError,
    SettingError,
    StateError,
)
from gapless.fingerprint import Blocks
from gapless.http import Report, silent
from gapless.plan import Batch, Plan
from gapless.reading import Reading, ReadOptions
from gapless.records import Chunk
from gapless.sessions import (
    AsyncClient,
    AsyncSession,
    Limits,
    Range,
    Result,
    Status,
    check,
    crc32,
    encode_batch,
    facts_of,
)
from gapless.state import State
from gapless.text import command, count, longer, named, shown

if TYPE_CHECKING:
    from typing_extensions import Self

_SHOWN: Final = 5
"""How many records an inspection shows."""

_SHOWN_BYTES: Final = 300

_NOTHING: Final = (
    "Nothing came in: did the command that writes it fail? An empty object is made of an empty"
    " .ndjson file."
)

_ROUNDS: Final = 3
"""How often what a finish misses is sent again. Once should do: what got a 204 is there."""


@dataclass(frozen=True)
class Source:
    """A file with records, and how to read it."""

    path: Path
    options: ReadOptions = ReadOptions()  # noqa: RUF009 - it is frozen
    skip_invalid: bool = False
    remembered: bool = True
    """Whether a state file is kept; what can be read only once has no name to find it by."""
    aside: Path | None = None
    """Where records go that are left out; beside the file if it is not said."""
    stream: IO[bytes] | None = None
    """What is read, once, in the place of ``path``."""
    label: str = ""
    """What messages call it, if not by its path; its suffix says its format."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.label or shown(self.path)


@dataclass(frozen=True)
class Scan:
    """What the first pass over a source finds."""

    plan: Plan
    sha256: str
    size: int
    mtime_ns: int
    inode: tuple[int, int]
    blocks: Sequence[int]
    """The CRC-32 of each block of the file."""
    reading: Reading
    clean: bool
    """Whether the file is NDJSON just as it is sent."""
    skipped: int
    """Records that were left out."""
    blank: int
    """Lines that were left out, for there is nothing on them."""
    literal: int
    """Lines of a TSV with quotes or backslashes, which are data."""
    first: Sequence[bytes]
    """The first records, each cut off where it is long."""


async def upload(
    client: AsyncClient, source: Source, *, batch_size: int | None = None, anew: bool = False
) -> Result:
    """Upload ``source`` into a new session; gives the result, which is ``ok`` and verified.

    ``batch_size`` is the number of records in a batch, otherwise chosen. Raises StateError where an
    upload of the file is unfinished, unless ``anew``; InputError before anything is sent;
    IncompleteError, ChecksumError, ApiError or UnavailableError afterwards.
    """
    async with _readable(source) as readable:
        if readable.remembered and not anew:
            await _make_way(client, readable)
        return await _upload(client, readable, batch_size)


async def _upload(client: AsyncClient, source: Source, batch_size: int | None) -> Result:
    limits = Limits()
    while True:
        found = await _scan(client, source, limits, batch_size)
        session = await client.create(found.plan.records, found.plan.batch_size)
        if _fits(found.plan, session.limits):
            break
        # A service with tighter limits than the documented ones; they are known only now.
        await session.abort()
        if session.limits == limits:
            raise GaplessError(f"The records do not fit the service's limits: {session.limits}")
        limits = session.limits
    begun = _state(client, session, source, found)
    remembered = source.remembered and _remember(client, begun)
    client.report("session", _described(client, session, found.plan) | {"remembered": remembered})
    result = await _complete(client, session, source, begun)
    return msgspec.structs.replace(result, reading=str(begun.reading))


async def _make_way(client: AsyncClient, source: Source) -> None:
    """Raise StateError where an upload of the file is unfinished and can still be finished."""
    begun = state.load(source.path, client.url)
    if begun is None or begun.finished:
        return
    gave_up = command("abort", begun.session_id, "--url", begun.url)
    if not await anyio.to_thread.run_sync(_is_same, source, begun):
        why = f"is of other content. It starts over; give the old one up with: {gave_up}"
    else:
        try:
            status = await client.session(begun.session_id).status()
        except (NotFoundError, ExpiredError) as error:
            if not error.code:
                raise
            why = "is not there any more, expired or given up. It starts over"
        else:
            if status.state != "ABORTED":
                raise StateError(
                    f"An upload of {source.name} is unfinished: session {begun.session_id} at"
                    f" {begun.url}. Go on with: {command('resume', named(source.path))}. Start over"
                    f" with: {command('upload', '--new', named(source.path))}"
                )
            why = "was given up. It starts over"
    message = f"An earlier upload of {source.name}, session {begun.session_id}, {why}."
    client.report("warning", {"message": message})
    state.forget(begun)


def _remember(client: AsyncClient, begun: State) -> bool:
    """Write down what it takes to go on; an upload goes on without, too."""
    try:
        state.save(begun)
    except (OSError, SettingError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        go_on = command(
            "resume", named(begun.path), "--session", begun.session_id, "--url", begun.url
        )
        message = (
            f"The state folder cannot be written, {reason}: gapless resume will not know this"
            f" upload. If it breaks off, go on with: {go_on}"
        )
        client.report("warning", {"message": message})
        return False
    return True


async def resume(
    client: AsyncClient, source: Source, session_id: str, begun: State | None = None
) -> Result:
    """Send what the session still misses of ``source``, and finish; raises as ``upload`` does.

    ``begun`` is what is known of the upload. Without it the file is read anew, and the session says
    how it is cut. Raises FileChangedError where it is not the file that the session is for.
    """
    async with _readable(source) as readable:
        return await _resume(client, readable, session_id, begun)


async def _resume(
    client: AsyncClient, source: Source, session_id: str, begun: State | None
) -> Result:
    session = client.session(session_id)
    status = await session.status()
    remembered = begun is not None
    if begun is None:
        found = await _scan(client, source, session.limits, status.batch_size, status=status)
        begun = _state(client, session, source, found)
        if found.plan.records == status.total_record and source.remembered:
            remembered = _remember(client, begun)
    elif not await anyio.to_thread.run_sync(_is_same, source, begun):
        start_over = command("upload", "--new", named(source.path))
        if begun.finished:
            raise FileChangedError(
                f"{source.name} has changed since it was uploaded; that upload, session"
                f" {session_id}, is finished. Upload the new content with: {start_over}"
            )
        give_up = command("abort", session_id, "--url", client.url)
        raise FileChangedError(
            f"{source.name} has changed since session {session_id} was opened for it. Bring the"
            f" old content back, or upload the new one with: {start_over}. Give the old session up"
            f" with: {give_up}"
        )
    plan = begun.plan
    if plan.records != status.total_record:
        raise FileChangedError(
            f"{source.name} has {count(plan.records, 'record')}, the session is for"
            f" {status.total_record:,}."
        )
    facts = {"remembered": remembered, "stored": status.batches}
    client.report("session", _described(client, session, plan) | facts)
    result = await _complete(client, session, source, begun, status=status)
    return msgspec.structs.replace(result, reading=str(begun.reading))


async def _complete(
    client: AsyncClient,
    session: AsyncSession,
    source: Source,
    begun: State,
    *,
    status: Status | None = None,
) -> Result:
    plan = begun.plan
    wanted = _Wanted(status)
    for _ in range(_ROUNDS):
        if status is None or status.state == "OPEN":
            await _send(client, session, source, begun, wanted)
            while wanted.truncated:
                status = await session.status()
                wanted = _Wanted(status)
                await _send(client, session, source, begun, wanted)
        client.report("finishing", {})
        result = await session.finish()
        if result.ok:
            break
        client.report("finish", facts_of(result))
        status = await session.status()
        wanted = _Wanted(status)
    else:
        raise result.incomplete()
    if source.remembered:
        state.finished(begun)
    verify(result, plan)
    return result


def verify(result: Result, plan: Plan) -> None:
    """Raise ChecksumError unless ``result`` is of just what ``plan`` counted."""
    check(result, bytes_=plan.bytes, crc=plan.crc32)


async def _send(
    client: AsyncClient,
    session: AsyncSession,
    source: Source,
    begun: State,
    wanted: "_Wanted",
) -> None:
    """Send the batches that are ``wanted``, some at a time, each read only when there is room.

    Raises FileChangedError where the file is not what it was when it was read first: nothing of
    another content is sent, and the session is not finished.
    """
    gate = client.http.gate
    failures: list[GaplessError] = []

    async def send(number: int, batch: Batch) -> None:
        facts = {"seqNum": number, "records": batch.records, "bytes": batch.bytes}
        pieces = batch.pieces
        del batch
        try:
            sent = await session.send_lines(number, pieces)
            client.report("batch", facts | {"sent": sent})
        except GaplessError as error:
            failures.append(error)
            tasks.cancel_scope.cancel()
        finally:
            gate.leave()

    with _opened(source.path) as file:
        before = os.fstat(file.fileno())
        second = _SecondPass(source, file, begun)
        async with anyio.create_task_group() as watching:
            watching.start_soon(client.http.watch)
            async with anyio.create_task_group() as tasks:
                while True:
                    await gate.enter()
                    try:
                        found = await anyio.to_thread.run_sync(second.next, wanted, client.report)
                    except GaplessError as error:
                        failures.append(error)
                        tasks.cancel_scope.cancel()
                        found = None
                    if found is None:
                        gate.leave()
                        break
                    tasks.start_soon(send, *found)
                    del found
            watching.cancel_scope.cancel()
    if failures:
        raise failures[0]
    await anyio.to_thread.run_sync(_check_still, source, begun, before)


class _SecondPass:
    """Reads the file again, for its batches, and checks that they are what the plan counted."""

    def __init__(self, source: Source, file: io.BufferedReader, begun: State) -> None:
        self._source = source
        self._plan = begun.plan
        self._batches = enumerate(plans.cut(_read(source, file, begun), begun.plan))
        self._records = self._bytes = self._crc = 0

    def next(self, wanted: "_Wanted", report: Report) -> tuple[int, Batch] | None:
        """The next batch that is wanted. Raises FileChangedError."""
        with _reading(self._source):
            for number, batch in self._batches:
                self._records += batch.records
                self._bytes += batch.bytes
                for piece in batch.pieces:
                    self._crc = crc32(piece, self._crc)
                if number in wanted:
                    return number, batch
                facts = {"seqNum": number, "records": batch.records, "bytes": batch.bytes}
                report("stored", facts)
            plan = self._plan
            if (self._records, self._bytes, self._crc) != (plan.records, plan.bytes, plan.crc32):
                raise FileChangedError("")
        return None


@contextmanager
def _reading(source: Source) -> Iterator[None]:
    """Errors of the second pass, with what to do."""
    try:
        yield
    except FileChangedError:
        raise FileChangedError(
            f"{source.name} has changed since it was read first. Nothing of the change was sent,"
            " and nothing is finished. Upload it as it is now with:"
            f" {command('upload', '--new', named(source.path))}"
        ) from None
    except OSError as error:
        raise InputError(f"{source.name}: {error.strerror}") from None


def _check_still(source: Source, begun: State, before: os.stat_result) -> None:
    """Raise FileChangedError where the file changed after it was read, or another has its name.

    Whoever looks there would find something else than what was stored.
    """
    try:
        now = source.path.stat()
    except OSError:
        return  # it was deleted, or moved away; what was sent is whole
    if _stamp(now) == _stamp(before):
        return
    with _opened(source.path) as file, _reading(source):
        blocks = Blocks(file, fingerprint.unpacked(begun.blocks))
        while blocks.read(fingerprint.BLOCK):
            pass


def _stamp(facts: os.stat_result) -> tuple[int, ...]:
    # Not the time of the change alone, which anybody may set.
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


class _Wanted:
    """The batches that a session misses; all of them where nothing is known yet.

    A session without a batch size does not know its tail: what follows the last batch is missing.
    """

    def __init__(self, status: Status | None) -> None:
        self._ranges: list[Range] = status.missing if status else []
        self._firsts = [gap.first for gap in self._ranges]
        self._tail = 0
        self.truncated = bool(status and status.missing_truncated)
        if status:
            known = status.batches + sum(gap.last - gap.first + 1 for gap in self._ranges)
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


@contextmanager
def _named(source: Source) -> Iterator[None]:
    """Errors of the input begin with its name."""
    try:
        yield
    except InputError as error:
        located = isinstance(error, (InvalidRecordError, RecordTooLargeError))
        error.args = (f"{source.name}{',' if located else ':'} {error}",)
        raise
    except OSError as error:
        raise InputError(f"{source.name}: {error.strerror}") from None


def scan(
    source: Source,
    limits: Limits,
    batch_size: int | None = None,
    *,
    flexible: bool = False,
    compress: bool = True,
    keep_invalid: bool = True,
    report: Report = silent,
) -> Scan:
    """Read the source once: check, count and sum it. Raises InputError.

    ``keep_invalid`` writes the records that are left out to a file of their own.
    """
    digest = hashlib.sha256()
    read = 0

    def see(block: bytes) -> None:
        nonlocal read
        digest.update(block)
        read += len(block)
        report("reading", {"read": read, "size": before.st_size})

    def fits(record: bytes) -> bool:
        if not compress or len(record) > limits.max_inflated_bytes - plans.ROOM:
            return False
        body, _ = encode_batch(limits.max_seq_num, [record + b"\n"], compress=True)
        return len(body) <= limits.max_body_bytes

    first: list[bytes] = []

    def noted() -> Iterator[Chunk]:
        for chunk in reader:
            some = chunk.records[: _SHOWN - len(first)] if len(first) < _SHOWN else ()
            first.extend(bytes(record)[:_SHOWN_BYTES] for record in some)
            yield chunk

    with _opened(source.path) as file, _named(source):
        before = os.fstat(file.fileno())
        blocks = Blocks(file, see=see)
        with _Aside(source, keep=keep_invalid) as aside:
            reader = records.Reader(
                blocks.buffered(),
                source.name,
                source.options,
                on_invalid=aside if source.skip_invalid else records.refuse,
                largest=min(limits.max_body_bytes, limits.max_inflated_bytes) - plans.ROOM,
                fits=fits,
            )
            plan = plans.make(
                noted(),
                batch_size=batch_size,
                flexible=flexible,
                most_bytes=min(limits.max_body_bytes, limits.max_inflated_bytes),
                max_batches=limits.max_seq_num + 1,
            )
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise FileChangedError(f"{source.name} was written to while it was read.")
    report(
        "input",
        {
            "file": source.name,
            "records": plan.records,
            "bytes": plan.bytes,
            "sha256": digest.hexdigest(),
            "crc32": f"{plan.crc32:08x}",
            "skipped": aside.count,
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
        clean=not reader.mended,
        skipped=aside.count,
        blank=reader.blank,
        literal=reader.literal,
        first=first,
    )


class _Aside:
    """Counts the records that are left out, and writes them to FILE.invalid, as they are."""

    def __init__(self, source: Source, *, keep: bool) -> None:
        self.count = 0
        self._keep = keep
        self._path = source.aside or longer(source.path, ".invalid")
        self._file: IO[bytes] | None = None

    def __call__(self, error: InvalidRecordError, record: bytes) -> None:
        del error
        self.count += 1
        if not self._keep:
            return
        if self._file is None:
            try:
                self._file = self._path.open("wb")
            except OSError as fault:
                raise InputError(
                    f"{shown(self._path)}, for the records that are left out: {fault.strerror}"
                ) from None
        self._file.write(record + b"\n")

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{shown(path)}: {error.strerror}") from None
    with file:
        yield file


def _read(source: Source, file: io.BufferedReader, begun: State) -> Iterator[Chunk]:
    """The second pass: what was left out before is left out again, quietly."""

    def leave_out(error: InvalidRecordError, record: bytes) -> None:
        if not source.skip_invalid:
            records.refuse(error, record)

    blocks = Blocks(file, fingerprint.unpacked(begun.blocks))
    return iter(
        records.Reader(
            blocks.buffered(),
            source.name,
            source.options,
            trusted=begun.clean,
            on_invalid=leave_out,
        )
    )


def _is_same(source: Source, begun: State) -> bool:
    """Whether the file is the one that was begun: by size and time, or else by its content."""
    with _opened(source.path) as file:
        now = os.fstat(file.fileno())
        if (now.st_size, now.st_mtime_ns) == (begun.size, begun.mtime_ns):
            return True
        if now.st_size != begun.size:
            return False
        # Copied, or touched: only its content tells.
        digest = hashlib.sha256()
        while block := file.read(records.CHUNK):
            digest.update(block)
    return digest.hexdigest() == begun.sha256


def _fits(plan: Plan, limits: Limits) -> bool:
    most = min(limits.max_body_bytes, limits.max_inflated_bytes)
    batches = plan.batches or 0
    # Larger batches are planned only where there is no other way, and then gzip must do it.
    return plan.batch_bytes <= max(most, plans.TARGET) and batches <= limits.max_seq_num + 1


def _state(client: AsyncClient, session: AsyncSession, source: Source, found: Scan) -> State:
    return State(
        url=client.url,
        session_id=session.session_id,
        file=state.located(source.path),
        size=found.size,
        mtime_ns=found.mtime_ns,
        inode=found.inode,
        sha256=found.sha256,
        blocks=fingerprint.packed(found.blocks),
        reading=found.reading,
        skip_invalid=source.skip_invalid,
        clean=found.clean,
        plan=found.plan,
        begun=time.time(),
    )


def _described(client: AsyncClient, session: AsyncSession, plan: Plan) -> dict[str, Any]:
    return {
        "sessionId": session.session_id,
        "url": client.url,
        "totalRecord": plan.records,
        "batchSize": plan.batch_size,
        "batches": plan.batches,
        "bytes": plan.bytes,
    }


@contextmanager
def spooled(records_: Iterable[bytes]) -> Iterator[Path]:
    """What can be read only once, in a temporary file."""
    with _spool() as (file, path):
        for block in records_:
            file.write(block)
        file.flush()
        yield path


@contextmanager
def _spool() -> Iterator[tuple[IO[bytes], Path]]:
    try:
        with atomic.spool() as spool:
            yield spool
    except OSError as error:
        raise InputError(
            f"The input does not fit into the temporary folder: {error.strerror}. TMPDIR may name"
            " another folder."
        ) from None


@asynccontextmanager
async def _readable(source: Source) -> AsyncIterator[Source]:
    """The same as ``readable``; whoever gives up does not wait for a pipe."""
    if not await anyio.to_thread.run_sync(_once, source):
        yield source
        return
    with _copied(source) as (copy, readable):
        await anyio.to_thread.run_sync(copy, abandon_on_cancel=True)
        yield readable


@contextmanager
def readable(source: Source) -> Iterator[Source]:
    """The same, if it can be read twice; otherwise a copy of it that can."""
    if not _once(source):
        yield source
        return
    with _copied(source) as (copy, copied):
        copy()
        yield copied


@contextmanager
def _copied(source: Source) -> Iterator[tuple[Callable[[], None], Source]]:
    """What copies ``source`` to a temporary file, and that file as a source."""
    with _spool() as (file, path):
        beside = shown(source.path).startswith(("/dev/", "/proc/", "-"))
        aside = Path("stdin.invalid") if beside else longer(source.path, ".invalid")
        copied = replace(
            source,
            path=path,
            stream=None,
            remembered=False,
            label=source.name,
            aside=source.aside or aside,
        )
        yield partial(_copy, source, file), copied


def _once(source: Source) -> bool:
    """Whether it can be read only once: a pipe, a device."""
    if source.stream is not None:
        return True
    try:
        mode = source.path.stat().st_mode
    except OSError:
        return False  # opening it tells why
    if stat.S_ISDIR(mode):
        raise InputError(f"{source.name} is a folder. Name the files in it.")
    return not stat.S_ISREG(mode)


def _copy(source: Source, file: IO[bytes]) -> None:
    def copy(stream: IO[bytes]) -> None:
        while block := stream.read(records.CHUNK):
            file.write(block)
        file.flush()

    if source.stream is not None:
        copy(source.stream)
    else:
        with _opened(source.path) as stream:
            copy(stream)
    if not file.tell():
        raise InputError(_NOTHING, "empty")


def source_of(begun: State, path: Path | None = None) -> Source:
    """The source of an upload that was begun, read as it was then; ``path`` is what it is now."""
    return Source(path or begun.path, begun.reading.options(), begun.skip_invalid)
