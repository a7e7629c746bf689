"""Sends the batches of an upload concurrently, and collects what the service refuses."""

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import anyio
from anyio.abc import TaskGroup

from gapless.batching import Batch
from gapless.errors import MAX_VIOLATIONS, InvalidRecordsError, RequestError, ViolationError
from gapless.sessions import AsyncSession
from gapless.text import command, count


class Progress:
    """Counts what is stored from the first record on without a gap."""

    def __init__(self) -> None:
        self.records = 0
        self.batches = 0
        self._ahead: dict[int, int] = {}

    def add(self, number: int, records: int) -> None:
        """Batch ``number`` with this number of records is stored."""
        self._ahead[number] = records
        while (found := self._ahead.pop(self.batches, None)) is not None:
            self.batches += 1
            self.records += found


class _Place(NamedTuple):
    """A record that does not begin on the line after the previous record's."""

    record: int
    """From 0."""
    line: int


class Lines:
    """The line of the input on which each record begins. Compact if most are on the next line.

    The thread that reads adds records; the thread that sends looks them up.
    """

    def __init__(self) -> None:
        self._places = [_Place(0, 1)]
        self._records = 0
        self._next = 1

    def add(self, lines: Sequence[int]) -> None:
        """Add the lines of the next records."""
        for record, line in enumerate(
            lines[:1] if isinstance(lines, range) else lines, self._records
        ):
            if line != self._next:
                self._places.append(_Place(record, line))
            self._next = line + 1
        if lines:
            self._records += len(lines)
            self._next = lines[-1] + 1

    def of(self, record: int) -> int:
        """The line of a record, whose number is from 0."""
        place = self._places[self._at(record)]
        return place.line + record - place.record

    def forget(self, record: int) -> None:
        """Free the memory for records before ``record``."""
        del self._places[: self._at(record)]

    def _at(self, record: int) -> int:
        return bisect_right(self._places, record, key=lambda place: place.record) - 1


class _Refused:
    def __init__(self, session: AsyncSession, lines: Lines | None) -> None:
        self.count = 0
        self._session = session
        self._lines = lines
        self._errors: list[ViolationError] = []

    def add(self, error: RequestError, first: int) -> None:
        """Add the refusal of a batch that begins with record ``first``, from 0."""
        self.count += error.problem["count"]
        for found in error.problem["errors"]:
            record = first + found["index"]
            line = self._lines.of(record) if self._lines else record + 1
            number = None if self._lines else record + 1
            self._errors.append(
                ViolationError(line, found["path"], found["message"], record=number)
            )

    def error(self) -> InvalidRecordsError:
        """One error for all of them."""
        errors = sorted(self._errors, key=lambda error: error.line)[:MAX_VIOLATIONS]
        more = " or more" if self.count >= MAX_VIOLATIONS else ""
        abort = command("abort", self._session.session_id, "--url", self._session.client.url)
        return InvalidRecordsError(
            f"the service refuses {count(self.count, 'record')}{more} by the schema. The first:"
            f" {errors[0]}. No batch with such a record is stored, and session"
            f" {self._session.session_id} stays open. Correct the input, and upload it into a new"
            f" session; abort this one with: {abort}",
            self.count,
            errors,
            by_service=True,
        )


async def send_all(
    session: AsyncSession,
    read: Callable[[], Awaitable[tuple[int, Batch] | None]],
    progress: Progress | None = None,
    *,
    lines: Lines | None,
) -> None:
    """Send the numbered batches that ``read`` returns, until it returns None.

    A batch is read when the limiter has a slot for it. After an error of ``read`` the batches in
    flight are still sent; after an error of sending they are cancelled. Raises the first error.

    If the service refuses records by the session's schema, sending continues until
    ``MAX_VIOLATIONS`` are known; InvalidRecordsError has their ``lines`` or else their numbers.
    """
    client = session.client
    sending = _Sending(session, progress, lines)
    async with anyio.create_task_group() as watching:
        watching.start_soon(client.http.watch_clock)
        async with anyio.create_task_group() as tasks:
            await sending.all(read, tasks)
        watching.cancel_scope.cancel()
    if sending.failures:
        raise sending.failures[0]
    if sending.refused.count:
        raise sending.refused.error()


class _Sending:
    """The batches in flight, and the errors of the others."""

    def __init__(
        self, session: AsyncSession, progress: Progress | None, lines: Lines | None
    ) -> None:
        self.failures: list[Exception] = []
        self.refused = _Refused(session, lines)
        self._session = session
        self._progress = progress
        self._lines = lines
        self._firsts: dict[int, int] = {}
        """The first record, from 0, of each batch in flight."""

    async def all(
        self, read: Callable[[], Awaitable[tuple[int, Batch] | None]], tasks: TaskGroup
    ) -> None:
        """Send each batch in its own task."""
        limiter = self._session.client.limiter
        while self.refused.count < MAX_VIOLATIONS:
            await limiter.acquire()
            found = None
            try:
                found = await read()
            except Exception as error:  # noqa: BLE001 - raised when the others have ended
                self.failures.append(error)
            finally:
                if found is None:
                    limiter.release()
            if found is None:
                return
            self._firsts[found[0]] = found[1].first
            tasks.start_soon(self._one, *found, tasks)
            del found

    async def _one(self, number: int, batch: Batch, tasks: TaskGroup) -> None:
        facts = {"seqNum": number, "records": batch.records, "bytes": batch.bytes}
        sending = self._session.send_lines(number, batch.pieces)
        del batch  # its memory is free as soon as it is compressed
        try:
            facts["sent"] = await sending
            if self._progress:
                self._progress.add(number, facts["records"])
                facts["safeRecords"] = self._progress.records
            self._session.client.report("batch", facts)
        except Exception as error:  # noqa: BLE001 - raised when the others have ended
            if isinstance(error, RequestError) and error.code == "invalid_records":
                self.refused.add(error, self._firsts[number])
            else:
                self.failures.append(error)
                tasks.cancel_scope.cancel()
        finally:
            first = self._firsts.pop(number)
            if self._lines:
                self._lines.forget(min(self._firsts.values(), default=first))
            self._session.client.limiter.release()
