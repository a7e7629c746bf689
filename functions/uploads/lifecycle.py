"""What a caller does with a session besides sending batches and finishing it.

Methods return the bodies of the API's responses.
"""

import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from uploads import cursor, errors, file_name, gaps, limits
from uploads.formats import Format
from uploads.session import Session, StaleAttemptError, State
from uploads.session_store import Claim

if TYPE_CHECKING:
    from collections.abc import Callable

    from uploads.batch_store import BatchStore
    from uploads.config import Clock
    from uploads.decode.create import SessionRequest
    from uploads.decode.list_query import ListRequest
    from uploads.merging.merged_store import MergedStore
    from uploads.reports import ReportStore
    from uploads.schemas import Schemas
    from uploads.session_store import SessionStore


@dataclass(frozen=True)
class Lifecycle:
    """Create, list, status, links, abort, delete the merged object."""

    sessions: "SessionStore"
    batches: "BatchStore"
    merged: "Callable[[], MergedStore]"
    """Called only by what needs it: creating sessions does not wait for botocore."""
    links: "Callable[[], MergedStore]"
    """The merged bucket at the endpoint that callers use."""
    reports: "ReportStore"
    clock: "Clock"
    schemas: "Callable[[], Schemas]"
    """Called only if a session names a schema."""
    lifetime: int
    """Seconds for which a session takes batches."""
    require_schema: bool

    def create(
        self, owner: str, request: "SessionRequest", idempotency: tuple[str, str] | None = None
    ) -> dict[str, object]:
        """Create a session, or return that of an Idempotency-Key again: 1 write.

        ``idempotency`` is the key and the digest of the request's body; it takes 1 more write.
        Raises UnknownSchemaError, SchemaRequiredError, TooManyBatchesError or
        IdempotencyKeyReusedError.
        """
        now = self.clock()
        session = Session(
            session_id=secrets.token_hex(16),
            owner=owner,
            total_record=request.totalRecord,
            batch_size=request.batchSize,
            format=Format(request.format),
            metadata=request.metadata,
            schema=request.schema,
            schema_digest=self._schema_digest(request.schema),
            created_at=now,
            batches_until=now + self.lifetime,
            expires_at=now + self.lifetime + limits.GRACE_SECONDS,
        )
        session.check_batches()
        if idempotency:
            session = self._claimed(session, *idempotency)
        self.sessions.create(session)
        return {
            "sessionId": session.session_id,
            "expiresAt": timestamp(session.batches_until),
            "limits": {
                "maxBodyBytes": limits.MAX_BODY_BYTES,
                "maxInflatedBytes": limits.MAX_INFLATED_BYTES,
                "maxSeqNum": limits.MAX_SEQ_NUM,
            },
        }

    def _claimed(self, session: Session, key: str, digest: str) -> Session:
        """``session``, or the one that ``key`` is bound to, as it was when it was new.

        The key is written first. If the call dies before the session, the retry creates that one.
        """
        ours = Claim(session.session_id, digest, session.created_at, session.batches_until)
        claim = self.sessions.claim(session.owner, key, ours, now=session.created_at)
        if claim.digest != digest:
            raise errors.IdempotencyKeyReusedError(
                "This Idempotency-Key was sent with another body. Send the same bytes again for the"
                " session it stands for, or a new key for a new one."
            )
        return replace(
            session,
            session_id=claim.session_id,
            created_at=claim.created_at,
            batches_until=claim.expires_at,
            expires_at=claim.expires_at + limits.GRACE_SECONDS,
        )

    def _schema_digest(self, name: str | None) -> str | None:
        """The digest of a new session's schema. Raises UnknownSchemaError, SchemaRequiredError."""
        if name is not None:
            return self.schemas().digest(name)
        if self.require_schema:
            raise errors.SchemaRequiredError(
                "Every session here needs a schema: send its name as the member schema. Ask the"
                " receiver of the data for the name.",
                member="schema",
            )
        return None

    def page(self, owner: str, request: "ListRequest") -> dict[str, object]:
        """A page of ``owner``'s sessions, newest first: 1 query. Raises InvalidCursorError.

        Expired sessions and those in other states are left out. So a page may be short or empty,
        and yet not the last.
        """
        key = self.sessions.table
        after = cursor.decode(request.cursor, owner, key) if request.cursor is not None else None
        found, last = self.sessions.page(owner, request.limit, after)
        now = self.clock()
        return {
            "sessions": [
                facts(session)
                for session in found
                if not session.is_over(now) and request.state in {None, session.state}
            ],
            "cursor": cursor.encode(last, owner, key) if last else None,
        }

    def find(self, session_id: str, owner: str) -> Session:
        """The session. Raises SessionNotFoundError or SessionExpiredError."""
        return self.sessions.get(session_id, owner).require_unexpired(self.clock())

    def status(self, session: Session) -> dict[str, object]:
        """A session's status: 1 listing and 1 read of the item, unless it is decided or ended."""
        missing: list[gaps.Range] = []
        listing = []
        if session.undecided:
            listing = self.batches.list(session.session_id, session.expected_batches)
            # If it has ended since, the clean-up may have deleted batches during the listing.
            session = self.sessions.get(session.session_id, session.owner)
        batches = session.decision.batches if session.decision else 0
        if session.undecided:
            present = [batch.seq_num for batch in listing]
            missing = list(gaps.missing(present, session.expected_batches))
            batches = len(present)
        return {
            **facts(session),
            "batches": batches,
            **gaps.report("missing", missing),
            "merge": self._progress(session),
            "finish": self.reports.whole(session),
        }

    def _progress(self, session: Session) -> dict[str, int] | None:
        """The progress of a long merge; None if none runs."""
        if not session.upload:
            return None
        done = self.merged().parts_done(session, session.upload.upload_id)
        return None if done is None else {"parts": session.upload.parts, "done": done}

    def file(self, session_id: str, owner: str, *, takes_gzip: bool) -> dict[str, str]:
        """A link to a session's merged object; with ``takes_gzip`` a gzip object is sent as NDJSON.

        Raises SessionNotFinishedError, FileDeletedError, or like ``find``.
        """
        session = self._finished(session_id, owner)
        inflated = takes_gzip and session.format is Format.NDJSON_GZ
        return self._link(
            self.links().presign(
                self.links().key(session),
                file_name.of(session, gzipped=session.format is Format.NDJSON_GZ and not inflated),
                inflated=inflated,
            )
        )

    def manifest(self, session_id: str, owner: str) -> dict[str, str]:
        """A link to its manifest. Raises like ``file``."""
        session = self._finished(session_id, owner)
        key = self.links().manifest_key(session)
        return self._link(self.links().presign(key, key))

    def _finished(self, session_id: str, owner: str) -> Session:
        session = _require_finished(self.find(session_id, owner))
        if session.file_deleted_at is not None:
            raise errors.FileDeletedError(
                "The owner of the session deleted the merged object and its manifest. Create a new"
                " session to upload the records again.",
                fileDeletedAt=_deleted_at(session),
            )
        return session

    def _link(self, url: str) -> dict[str, str]:
        expires = self.clock() + limits.PRESIGNED_URL_SECONDS
        return {"url": url, "expiresAt": timestamp(expires)}

    def abort(self, session_id: str, owner: str) -> None:
        """Abort a session: 1 write. Repeating it does nothing; the clean-up deletes its batches.

        Raises SessionNotFoundError, SessionExpiredError, SessionFinishedError or, if its finish is
        decided, SessionFinishingError.
        """
        now = self.clock()
        try:
            self.sessions.abort(session_id, owner, now=now)
        except StaleAttemptError as stale:
            if stale.session.require_unexpired(now).state is State.FINISHED:
                raise errors.SessionFinishedError(
                    "A finished session cannot be aborted. Its merged object expires by itself,"
                    " or is deleted by DELETE …/file."
                ) from None
            raise errors.SessionFinishingError(
                "The session's finish is decided and can only be completed: call finish."
            ) from None

    def delete_file(self, session_id: str, owner: str) -> None:
        """Delete a session's merged object and its manifest permanently: 1 write, 2 deletions.

        Repeating it repeats the deletions, in case a call died between them. Raises
        SessionNotFoundError, SessionExpiredError, SessionNotFinishedError or FileSettlingError.
        """
        now = self.clock()
        try:
            session = self.sessions.delete_file(session_id, owner, now=now)
        except StaleAttemptError as stale:
            session = _require_finished(stale.session.require_unexpired(now))
            seconds = max(1, session.settled_at - now)
            raise errors.FileSettlingError(
                "Another attempt to finish this session may still be running, and could publish the"
                f" object again after it is deleted. Delete it in {seconds} s.",
                retryAfter=seconds,
            ) from None
        self.merged().delete(session)


def _require_finished(session: Session) -> Session:
    if session.state is not State.FINISHED:
        raise errors.SessionNotFinishedError(
            "The session was aborted, so there will be no merged object. Create a new one."
            if session.state is State.ABORTED
            else "There is no merged object until finish answers Success."
        )
    return session


def facts(session: Session) -> dict[str, object]:
    """The members that status, list and events have in common."""
    return {
        "sessionId": session.session_id,
        "state": session.state,
        "totalRecord": session.total_record,
        "batchSize": session.batch_size,
        "format": session.format,
        "metadata": session.metadata,
        "schema": session.schema,
        "createdAt": timestamp(session.created_at),
        "expiresAt": timestamp(session.ends_at),
        "fileDeletedAt": _deleted_at(session),
    }


def _deleted_at(session: Session) -> str | None:
    """``fileDeletedAt`` of the API."""
    return None if session.file_deleted_at is None else timestamp(session.file_deleted_at)


def timestamp(seconds: int) -> str:
    """Seconds since 1970 as RFC 3339, as the API writes times."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
