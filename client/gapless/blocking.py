"""The blocking client. It runs the asynchronous client on an event loop in a background thread."""

import os
import weakref
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from threading import Lock, Thread
from typing import IO, TYPE_CHECKING

import anyio
import httpx
from anyio.from_thread import BlockingPortal

from gapless import objects
from gapless.formats import MergedFormat
from gapless.http import Report, ignore_events
from gapless.models import Limits, Listed, Range, Result, Status
from gapless.sessions import AsyncClient, AsyncSession, Timing

if TYPE_CHECKING:
    from datetime import datetime

    from typing_extensions import Self, Unpack


class Client:
    """Connections to one service; use it in ``with``, or call ``close``. See ``AsyncClient``.

    Thread-safe.
    """

    def __init__(
        self,
        url: str,
        *,
        auth: httpx.Auth | None = None,
        gzip: bool = True,
        parallel: int = 8,
        patience: float = 300.0,
        report: Report = ignore_events,
        transport: httpx.AsyncBaseTransport | None = None,
        **timing: "Unpack[Timing]",
    ) -> None:
        self._client = AsyncClient(
            url,
            auth=auth,
            gzip=gzip,
            parallel=parallel,
            patience=patience,
            report=report,
            transport=transport,
            **timing,
        )
        self._lock = Lock()
        self._portal: BlockingPortal | None = None
        self._closed = False

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and end the thread. May be repeated."""
        with self._lock:
            self._closed = True
            portal, self._portal = self._portal, None
        if portal is not None:
            self._finalizer.detach()
            portal.call(self._client.aclose)
            portal.call(portal.stop)
            self._thread.join()

    @property
    def portal(self) -> BlockingPortal:
        """The portal into the event loop."""
        with self._lock:
            if self._closed:
                raise RuntimeError("The client is closed.")
            if self._portal is None:
                ready: Future[BlockingPortal] = Future()
                # A daemon thread: a client that is not closed must not keep the process alive.
                self._thread = Thread(
                    target=anyio.run, args=(_serve, ready), name="gapless", daemon=True
                )
                self._thread.start()
                self._portal = ready.result()
                self._finalizer = weakref.finalize(self, _abandon, self._portal, self._client)
            return self._portal

    def create(
        self,
        total_record: int | None,
        batch_size: int | None = None,
        *,
        merged_format: MergedFormat | str = MergedFormat.NDJSON,
        metadata: Mapping[str, str] | None = None,
        schema: str | None = None,
        idempotency_key: str | None = None,
    ) -> "Session":
        """Open a session; see ``AsyncClient.create``. Raises GaplessError."""
        create = partial(
            self._client.create,
            merged_format=merged_format,
            metadata=metadata,
            schema=schema,
            idempotency_key=idempotency_key,
        )
        return Session(self, self.portal.call(create, total_record, batch_size))

    def list_sessions(self, state: str | None = None) -> Iterator[Listed]:
        """The caller's sessions, newest first; pages are fetched lazily."""
        cursor: str | None = ""
        while cursor is not None:
            page = self.portal.call(self._client.list_page, state, cursor)
            yield from page.sessions
            cursor = page.cursor

    def session(self, session_id: str) -> "Session":
        """An existing session; sends nothing."""
        return Session(self, self._client.session(session_id))


async def _serve(ready: "Future[BlockingPortal]") -> None:
    async with BlockingPortal() as portal:
        ready.set_result(portal)
        await portal.sleep_until_stopped()


def _abandon(portal: BlockingPortal, client: AsyncClient) -> None:
    # Do not wait: the garbage collector may run in any thread, even in the portal's.
    async def end() -> None:
        await client.aclose()
        await portal.stop()

    portal.start_task_soon(end)


class Session:
    """One session of a service; each method runs the one of ``AsyncSession``."""

    def __init__(self, client: Client, session: AsyncSession) -> None:
        self._client = client
        self._session = session
        self.session_id = session.session_id
        self.expires_at: datetime | None = session.expires_at
        """When its batches are deleted; None if another client opened it (see ``status``)."""

    @property
    def limits(self) -> Limits:
        """Limits of a batch."""
        return self._session.limits

    def send(self, seq_num: int, records: Iterable[object] | AsyncIterable[object]) -> None:
        """Store a batch; repeating it with the same records is safe."""
        if isinstance(records, AsyncIterable):
            self._client.portal.call(self._session.send, seq_num, records)
        else:
            # In this thread: some generators work only in the thread that made them (sqlite3).
            ndjson = b"".join(objects.encode(records))
            self._client.portal.call(self._session.send_ndjson, seq_num, ndjson)

    def status(self) -> Status:
        """What the service has stored, and what is missing."""
        return self._client.portal.call(self._session.status)

    def missing(self) -> list[Range]:
        """The batches that are missing."""
        return self._client.portal.call(self._session.missing)

    def finish(
        self,
        total_record: int | None = None,
        batches: int | None = None,
        *,
        patience: float = 3600.0,
    ) -> Result:
        """Validate and merge; waits for a long merge, at most ``patience`` seconds."""
        finish = partial(self._session.finish, patience=patience)
        return self._client.portal.call(finish, total_record, batches)

    def abort(self) -> None:
        """Abort the session."""
        self._client.portal.call(self._session.abort)

    def delete_file(self) -> None:
        """Permanently delete the merged object and its manifest. May be repeated."""
        self._client.portal.call(self._session.delete_file)

    def download(
        self, to: str | os.PathLike[str] | IO[bytes], *, inflate: bool | None = None
    ) -> int:
        """Write the merged object to a path or an open binary file; returns the bytes written."""
        return self._client.portal.call(partial(self._session.download, inflate=inflate), to)

    def manifest(self, to: str | os.PathLike[str] | IO[bytes]) -> int:
        """Write the manifest to a path or an open binary file; returns the bytes written."""
        return self._client.portal.call(self._session.manifest, to)

    def stream(self, *, inflate: bool = True) -> Iterator[bytes]:
        """The merged object, in pieces; its checksums are verified after the last piece."""
        portal = self._client.portal
        send, receive = anyio.create_memory_object_stream[bytes](1)

        async def pump() -> None:
            with send:
                async for block in self._session.stream(inflate=inflate):
                    await send.send(block)

        running = portal.start_task_soon(pump)
        try:
            with suppress(anyio.EndOfStream):
                while True:
                    yield portal.call(receive.receive)
            running.result()
        finally:
            running.cancel()
            portal.call(receive.aclose)
