"""Sends the batches of an upload, several at a time."""

from collections.abc import Awaitable, Callable

import anyio

from gapless.batching import Batch
from gapless.sessions import AsyncSession


class Progress:
    """How much is stored, from the first record on without a gap."""

    def __init__(self) -> None:
        self.records = 0
        self.batches = 0
        self._ahead: dict[int, int] = {}

    def add(self, number: int, records: int) -> None:
        """Batch ``number``, of ``records``, is stored."""
        self._ahead[number] = records
        while (found := self._ahead.pop(self.batches, None)) is not None:
            self.batches += 1
            self.records += found


async def send_all(
    session: AsyncSession,
    read: Callable[[], Awaitable[tuple[int, Batch] | None]],
    progress: Progress | None = None,
) -> None:
    """Send what ``read`` returns, a batch and its number at a time, until it returns None.

    A batch is read when there is a slot for it. If reading raises an error, what was read before is
    still sent; if sending does, nothing more is. Raises the first error.
    """
    client = session.client
    limiter = client.limiter
    failures: list[Exception] = []

    async def send(number: int, batch: Batch) -> None:
        facts = {"seqNum": number, "records": batch.records, "bytes": batch.bytes}
        sending = session.send_lines(number, batch.pieces)
        del batch  # its memory is free as soon as it is compressed
        try:
            facts["sent"] = await sending
            if progress:
                progress.add(number, facts["records"])
                facts["safeRecords"] = progress.records
            client.report("batch", facts)
        except Exception as error:  # noqa: BLE001 - it is raised below
            failures.append(error)
            tasks.cancel_scope.cancel()
        finally:
            limiter.release()

    async def read_all() -> None:
        while True:
            await limiter.acquire()
            found = None
            try:
                found = await read()
            except Exception as error:  # noqa: BLE001 - it is raised below
                failures.append(error)
            finally:
                if found is None:
                    limiter.release()
            if found is None:
                return
            tasks.start_soon(send, *found)
            del found

    async with anyio.create_task_group() as watching:
        watching.start_soon(client.http.watch_clock)
        async with anyio.create_task_group() as tasks:
            await read_all()
        watching.cancel_scope.cancel()
    if failures:
        raise failures[0]
