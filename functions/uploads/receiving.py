"""Receiving a batch. ``docs/internals.md`` explains why a 204 can be trusted.

A function may die after any call to AWS; a client's retry then reaches the same end.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from uploads import errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from uploads.batch import Batch
    from uploads.batch_store import BatchStore
    from uploads.config import Clock
    from uploads.schemas import Schemas
    from uploads.session import Session
    from uploads.session_store import SessionStore


@dataclass(frozen=True)
class Receiver:
    """Check the session, decode and check the batch, store it, check the session again."""

    sessions: "SessionStore"
    batches: "BatchStore"
    clock: "Clock"
    schemas: "Callable[[], Schemas]"
    """Called only for sessions with a schema: others do not wait for its import."""

    def receive(self, session_id: str, owner: str, read: "Callable[[Session], Batch]") -> "Batch":
        """Store the batch that ``read`` decodes, and return it.

        Returning promises that the batch is in the object of any later ``Success``. ``read`` is
        called only if the caller's session exists and takes batches. Raises a GaplessError if the
        batch is refused. A refused batch may be stored all the same. It is never deleted, because
        an identical one may have been acknowledged meanwhile.
        """
        cached = self.sessions.get_cached(session_id, owner, self.clock())
        session = cached.require_open(self.clock())
        try:
            schemas = self.schemas() if session.schema else None
            if schemas:
                schemas.require_unchanged(session)
            batch = read(session)
            session.check_batch(batch.seq_num, batch.records)
            if schemas:
                schemas.check(session, batch)
        except errors.GaplessError:
            # The cached session may have been closed since. This read then removes it from the
            # cache, so that at most one body is decoded for a closed session.
            self._require_open(session_id, owner)
            raise
        self.batches.put(session, batch)
        # Still open after the put: every finish that seals from now on lists this batch.
        self._require_open(session_id, owner)
        return batch

    def _require_open(self, session_id: str, owner: str) -> None:
        self.sessions.get(session_id, owner).require_open(self.clock())
