"""The blocking client: the asynchronous one, run on an event loop in a thread of its own."""

import os
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from anyio.from_thread import start_blocking_portal

from gapless.sessions import AsyncClient, AsyncSession, Limits, Range, Result, Status

if TYPE_CHECKING:
    from typing_extensions import Self


class Client:
    """A connection to one service; use it in ``with``. It takes what ``AsyncClient`` takes.

    Its methods may be called from several threads at once.
    """

    def __init__(self, url: str, **settings: Any) -> None:  # noqa: ANN401 - AsyncClient's own
        self._client = AsyncClient(url, **settings)
        self._running = ExitStack()

    def __enter__(self) -> "Self":
        self.portal = self._running.enter_context(start_blocking_portal())
        self._running.enter_context(self.portal.wrap_async_context_manager(self._client))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._running.__exit__(kind, error, traceback)

    def create(self, total_record: int, batch_size: int | None = None) -> "Session":
        """Open a session."""
        return Session(self, self.portal.call(self._client.create, total_record, batch_size))

    def session(self, session_id: str) -> "Session":
        """A session that is there already."""
        return Session(self, self._client.session(session_id))


class Session:
    """One session of a service; each method is the one of ``AsyncSession``, run to its end."""

    def __init__(self, client: Client, session: AsyncSession) -> None:
        self._call = client.portal.call
        self._session = session
        self.session_id = session.session_id

    @property
    def limits(self) -> Limits:
        """What a batch may be."""
        return self._session.limits

    def send(self, seq_num: int, records: Iterable[object]) -> None:
        """Store a batch; safe to repeat with the same records."""
        self._call(self._session.send, seq_num, records)

    def status(self) -> Status:
        """What the service knows of the session."""
        return self._call(self._session.status)

    def missing(self) -> list[Range]:
        """The batches that have not arrived."""
        return self._call(self._session.missing)

    def finish(self, *, patience: float = 3600.0) -> Result:
        """Check and merge; waits while a merge runs, at most ``patience`` seconds."""
        return self._call(partial(self._session.finish, patience=patience))

    def abort(self) -> None:
        """Give the session up."""
        self._call(self._session.abort)

    def download(self, path: str | os.PathLike[str]) -> int:
        """Write the merged object to ``path``, checked; gives its bytes."""
        return self._call(self._session.download, path)

    def manifest(self, path: str | os.PathLike[str]) -> int:
        """Write the manifest to ``path``; gives its bytes."""
        return self._call(self._session.manifest, path)
