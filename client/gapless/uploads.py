"""A whole upload: plan it, send what is missing, finish, and prove that what is stored was sent."""

import hashlib
import io
import os
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread
import msgspec

from gapless import plan as plans
from gapless import records, state
from gapless.errors import (
    FileChangedError,
    GaplessError,
    InputError,
    InvalidRecordError,
    RecordTooLargeError,
    StateError,
)
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
    encode_batch,
)
from gapless.state import State

if TYPE_CHECKING:
    from typing_extensions import Self

_SHOWN: Final = 5
"""How many records an inspection shows."""

_SHOWN_BYTES: Final = 300

_ROUNDS: Final = 3
"""How often what a finish misses is sent again. Once should do: what got a 204 is there."""


@dataclass(frozen=True)
class Source:
    """A file with records, and how to read it."""

    path: Path
    options: ReadOptions = ReadOptions()  # noqa: RUF009 - it is frozen
    skip_invalid: bool = False
    remembered: bool = True
    """Whether a state file is kept; a spooled pipe has no name to find it by."""
    aside: Path | None = None
    """Where records go that are left out; beside the file if it is not said."""
    label: str = ""
    """What messages call it, if not by its path; its suffix says its format."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.label or str(self.path)


@dataclass(frozen=True)
class Scan:
    """What the first pass over a source finds."""

    plan: Plan
    sha256: str
    size: int
    mtime_ns: int
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
    if source.remembered and not anew:
        begun = state.load(source.path)
        if begun and not begun.finished:
            raise StateError(
                f"An upload of this file is unfinished: session {begun.session_id} at {begun.url}."
                " Go on with: gapless resume. Start over with: gapless upload --new"
            )
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
    if source.remembered:
        state.save(_state(client, session, source, found))
    client.report("session", _described(client, session, found.plan))
    result = await _complete(client, session, source, found.plan, clean=found.clean)
    return msgspec.structs.replace(result, reading=str(found.reading))


async def resume(
    client: AsyncClient, source: Source, session_id: str, begun: State | None = None
) -> Result:
    """Send what the session still misses of ``source``, and finish; raises as ``upload`` does.

    ``begun`` is what is known of the upload. Without it the file is read anew, and the session says
    how it is cut. Raises FileChangedError where it is not the file that the session is for.
    """
    session = client.session(session_id)
    status = await session.status()
    if begun is None:
        found = await _scan(client, source, session.limits, status.batch_size, status=status)
        plan, clean, reading = found.plan, found.clean, found.reading
        if source.remembered:
            state.save(_state(client, session, source, found))
    else:
        await anyio.to_thread.run_sync(_check_unchanged, source, begun)
        plan, clean, reading = begun.plan, begun.clean, begun.reading
    if plan.records != status.total_record:
        raise FileChangedError(
            f"The file has {plan.records:,} records, the session is for {status.total_record:,}."
        )
    client.report("session", _described(client, session, plan))
    result = await _complete(client, session, source, plan, clean=clean, status=status)
    return msgspec.structs.replace(result, reading=str(reading))


async def _complete(
    client: AsyncClient,
    session: AsyncSession,
    source: Source,
    plan: Plan,
    *,
    clean: bool,
    status: Status | None = None,
) -> Result:
    wanted = _Wanted(status)
    for _ in range(_ROUNDS):
        if status is None or status.state == "OPEN":
            await _send(client, session, source, plan, wanted, clean=clean)
            while wanted.truncated:
                status = await session.status()
                wanted = _Wanted(status)
                await _send(client, session, source, plan, wanted, clean=clean)
        client.report("finishing", {})
        result = await session.finish()
        if result.ok:
            break
        client.report("finish", msgspec.to_builtins(result))
        status = await session.status()
        wanted = _Wanted(status)
    else:
        raise result.incomplete()
    verify(result, plan)
    if source.remembered and (begun := state.load(source.path)):
        state.save(msgspec.structs.replace(begun, finished=True))
    return result


def verify(result: Result, plan: Plan) -> None:
    """Raise ChecksumError unless ``result`` is of just what ``plan`` counted."""
    check(result, bytes_=plan.bytes, crc=plan.crc32)


async def _send(
    client: AsyncClient,
    session: AsyncSession,
    source: Source,
    plan: Plan,
    wanted: "_Wanted",
    *,
    clean: bool,
) -> None:
    """Send the batches that are ``wanted``, some at a time, each read only when there is room."""
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
        batches = enumerate(plans.cut(_read(source, file, clean=clean), plan))
        async with anyio.create_task_group() as tasks:
            while True:
                await gate.enter()
                try:
                    found = await anyio.to_thread.run_sync(_next, batches, wanted, client.report)
                except GaplessError as error:
                    failures.append(error)
                    tasks.cancel_scope.cancel()
                    found = None
                if found is None:
                    gate.leave()
                    break
                tasks.start_soon(send, *found)
                del found
    if failures:
        raise failures[0]


def _next(
    batches: Iterator[tuple[int, Batch]], wanted: "_Wanted", report: Report
) -> tuple[int, Batch] | None:
    """The next batch that is wanted."""
    for number, batch in batches:
        if number in wanted:
            return number, batch
        report("stored", {"seqNum": number, "records": batch.records, "bytes": batch.bytes})
    return None


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
        with _Aside(source, keep=keep_invalid) as aside:
            reader = records.Reader(
                file,
                source.name,
                source.options,
                on_invalid=aside if source.skip_invalid else records.refuse,
                see=see,
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
        raise FileChangedError("The file was written to while it was read.")
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
        self._path = source.aside or source.path.with_name(source.path.name + ".invalid")
        self._file: IO[bytes] | None = None

    def __call__(self, error: InvalidRecordError, record: bytes) -> None:
        del error
        self.count += 1
        if not self._keep:
            return
        if self._file is None:
            self._file = self._path.open("wb")
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
        raise InputError(f"{path}: {error.strerror}") from None
    with file:
        yield file


def _read(source: Source, file: io.BufferedReader, *, clean: bool) -> Iterator[Chunk]:
    """The second pass: what was left out before is left out again, quietly."""

    def leave_out(error: InvalidRecordError, record: bytes) -> None:
        if not source.skip_invalid:
            records.refuse(error, record)

    name = source.name
    return iter(records.Reader(file, name, source.options, trusted=clean, on_invalid=leave_out))


def _check_unchanged(source: Source, begun: State) -> None:
    with _opened(source.path) as file:
        now = os.fstat(file.fileno())
        if (now.st_size, now.st_mtime_ns) == (begun.size, begun.mtime_ns):
            return
        # Copied, or touched: only its content tells.
        digest = hashlib.sha256()
        while block := file.read(records.CHUNK):
            digest.update(block)
    if digest.hexdigest() != begun.sha256:
        raise FileChangedError(
            f"{source.path} has changed since session {begun.session_id} was opened for it. Bring"
            " the old content back, or start over with: gapless upload --new"
        )


def _fits(plan: Plan, limits: Limits) -> bool:
    most = min(limits.max_body_bytes, limits.max_inflated_bytes)
    batches = plan.batches or 0
    # Larger batches are planned only where there is no other way, and then gzip must do it.
    return plan.batch_bytes <= max(most, plans.TARGET) and batches <= limits.max_seq_num + 1


def _state(client: AsyncClient, session: AsyncSession, source: Source, found: Scan) -> State:
    return State(
        url=client.url,
        session_id=session.session_id,
        file=str(source.path.resolve()),
        size=found.size,
        mtime_ns=found.mtime_ns,
        sha256=found.sha256,
        reading=found.reading,
        skip_invalid=source.skip_invalid,
        clean=found.clean,
        plan=found.plan,
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
    with tempfile.NamedTemporaryFile(prefix="gapless-") as file:
        for block in records_:
            file.write(block)
        file.flush()
        yield Path(file.name)


def source_of(begun: State) -> Source:
    """The source of an upload that was begun, read as it was then."""
    return Source(Path(begun.file), begun.reading.options(), begun.skip_invalid)
