"""The protocol of batches and abort: what makes a 204 true. ``docs/protocol.md`` tells it in words.

Whoever runs one of these may die after any single call to AWS; a client's retry then reaches the
same end.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from uploads import errors
from uploads.session import State

if TYPE_CHECKING:
    from uploads.batch_store import BatchStore
    from uploads.merged_store import MergedStore
    from uploads.records import Batch
    from uploads.session_store import SessionStore

Clock = Callable[[], int]
"""Seconds since 1970."""


def receive(
    sessions: "SessionStore",
    batches: "BatchStore",
    session_id: str,
    owner: str,
    read: "Callable[[], Batch]",
    clock: Clock,
) -> "Batch":
    """Store the batch that ``read`` gives, and give it.

    To return is to promise that it is in the object of any later ``Success``. Nothing is read for
    whoever has no such session, or one that takes no batches. Raises what refuses the batch. A
    refused one may be stored all the same, and is never deleted: an identical
    one may have been promised meanwhile.
    """
    session = sessions.recall(session_id, owner, clock()).require_open(clock())
    try:
        batch = read()
        session.check_batch(batch.seq_num, batch.records)
    except errors.GaplessError:
        # What is recalled may have been closed since. It is not recalled again once that is seen,
        # so that no more than one body is read for it.
        sessions.get(session_id, owner).require_open(clock())
        raise
    batches.put(session_id, batch)
    # Only now is it known that no finish had sealed the session, and listed it, before the write.
    sessions.get(session_id, owner).require_open(clock())
    return batch


def abort(
    sessions: "SessionStore",
    batches: "BatchStore",
    merged: "Callable[[], MergedStore]",
    session_id: str,
    owner: str,
    clock: Clock,
) -> None:
    """Give a session up and delete its batches; again, to delete what is left."""
    now = clock()
    session, aborted = sessions.abort(session_id, owner, now=now)
    if not aborted:
        session.require_unexpired(now)
        if session.state is State.FINISHED:
            raise errors.SessionFinishedError(
                "A finished session cannot be aborted. Its merged object expires by itself."
            )
        raise errors.SessionFinishingError(
            "The session's finish is decided and can only be completed: call finish."
        )
    if session.attempt:
        # One that was under way, or died, can decide nothing any more.
        merged().abort_uploads(session_id)
    batches.delete_all(session_id)
