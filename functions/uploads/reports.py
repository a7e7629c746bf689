"""Gap reports that are too large for a session's item, in the batches bucket.

Key ``merges/{sessionId}/{attempt}/failed.json``: written before the attempt re-opens the session,
never changed, and expired with the batches. If the attempt dies in between, nothing refers to it.
The item has the rest of the answer, without gaps and marked as truncated. That is what a client
gets if the report is gone.

Permissions: ``s3:PutObject`` to write; ``s3:GetObject`` to read, and ``s3:ListBucket`` with the
prefix ``merges/{sessionId}/{attempt}/``.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import obstore
from obstore.exceptions import PermissionDeniedError

from uploads import limits
from uploads.batch_store import put_once
from uploads.retries import persistently
from uploads.session import Session
from uploads.session_store import pack

if TYPE_CHECKING:
    from obstore.store import S3Store

Result = dict[str, Any]


class ReportStore:
    """The large gap reports of all sessions."""

    def __init__(self, store: "S3Store") -> None:
        self._store = store

    def stored(self, session: Session, result: Result) -> tuple[Result, bool]:
        """``result`` as the item stores it, and whether its gaps went to S3: then 1 write."""
        if len(pack(result)) <= limits.STORED_RESULT_BYTES:
            return result, False
        put_once(
            self._store,
            _key(session.session_id, session.attempt),
            msgspec.json.encode(result),
            {"Content-Type": "application/json"},
        )
        named = [name for name in ("missing", "unexpected") if result.get(name)]
        cut: Result = {name: [] for name in named} | {f"{name}Truncated": True for name in named}
        return result | cut, True

    def whole(self, session: Session) -> Result | None:
        """The session's last answer of finish, with its gaps: 1 read if they are in S3."""
        if session.report is None:
            return session.result
        key = _key(session.session_id, session.report)
        try:
            stored = persistently(lambda: obstore.get(self._store, key).bytes())
        except FileNotFoundError:
            return session.result
        except PermissionDeniedError:
            # Without permission to list the whole bucket, S3 also says this for a missing object.
            if self._is_there(key):
                raise
            return session.result
        found: Result = msgspec.json.decode(bytes(stored))
        return found

    def _is_there(self, key: str) -> bool:
        folder, _, _ = key.rpartition("/")
        pages = partial(obstore.list, self._store, prefix=f"{folder}/")
        found = persistently(lambda: next(iter(pages()), []))
        return key in (entry["path"] for entry in found)


def _key(session_id: str, attempt: int) -> str:
    return f"merges/{session_id}/{attempt}/failed.json"
