"""The protocol: what makes a 204 and a ``Success`` true. ``docs/protocol.md`` tells it in words.

Whoever runs one of these may die after any single call to AWS; a client's retry then reaches the
same end.
"""

import hashlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from obstore.exceptions import PreconditionError

from uploads import errors, gaps, limits
from uploads.session import Decision, Session, State

if TYPE_CHECKING:
    from uploads.batch_store import BatchStore
    from uploads.merged_store import MergedStore
    from uploads.plan import StoredBatch
    from uploads.records import Batch
    from uploads.session_store import SessionStore

Clock = Callable[[], int]
"""Seconds since 1970."""

Result = dict[str, object]
"""The body of finish's 200 answer."""


def receive(
    sessions: "SessionStore",
    batches: "BatchStore",
    session_id: str,
    owner: str,
    batch: "Batch",
    clock: Clock,
) -> None:
    """Store ``batch``; to return is to promise that it is in the object of any later ``Success``.

    Raises what refuses it. A refused batch may be stored all the same, and is never deleted: an
    identical one may have been promised meanwhile.
    """
    session = sessions.recall(session_id, owner, clock())
    session.require_open(clock()).check_batch(batch.seq_num, batch.records)
    batches.put(session_id, batch)
    # Only now is it known that no finish had sealed the session, and listed it, before the write.
    sessions.get(session_id, owner).require_open(clock())


def abort(
    sessions: "SessionStore", batches: "BatchStore", session_id: str, owner: str, clock: Clock
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
    batches.delete_all(session_id)


@dataclass(frozen=True)
class Outcome:
    """What a finish came to."""

    result: Result | None
    """The answer; None while another attempt holds the session."""
    missing_batches: int = 0
    """How many batches this attempt found missing."""
    merge_seconds: float | None = None
    """How long this attempt composed, where it did."""


@dataclass(frozen=True)
class Finish:
    """Seal, list, validate, decide, compose, commit."""

    sessions: "SessionStore"
    batches: "BatchStore"
    merged: "MergedStore"
    clock: Clock
    merged_retention: int
    """Seconds."""

    def __call__(self, session_id: str, owner: str, lease_seconds: int) -> Outcome:
        """Finish a session, or complete what an earlier attempt decided.

        ``lease_seconds`` is how long this attempt can take; nobody else begins before. Raises
        SessionNotFoundError, SessionExpiredError, SessionAbortedError or BatchesGoneError.
        """
        now = self.clock()
        session, sealed = self.sessions.seal(
            session_id,
            owner,
            holder=secrets.token_hex(8),
            now=now,
            lease_until=now + lease_seconds,
        )
        if not sealed:
            return self._outcome_of(session)
        try:
            if session.decision:
                return self._complete(session, session.decision)
            return self._attempt(session)
        except (FileNotFoundError, PreconditionError):
            # A listed batch is gone: the session was aborted meanwhile, or lies about forgotten.
            self._outcome_of(self.sessions.get(session_id, owner))
            raise _batches_gone() from None

    def _outcome_of(self, session: Session) -> Outcome:
        """What ``session``, which somebody else moved, says its finish came to."""
        session.require_unexpired(self.clock())
        if session.state is State.ABORTED:
            raise errors.SessionAbortedError("The session was aborted. Create a new one.")
        if session.state is State.FINISHING:
            return Outcome(None)
        return Outcome(session.result)

    def _attempt(self, session: Session) -> Outcome:
        """Validate and compose a session that is sealed by us and not decided."""
        # Only after the seal: whatever was promised before it is in this listing.
        listing = self.batches.list(session.session_id)
        present = (batch.seq_num for batch in listing)
        ranges = list(gaps.missing(present, session.expected_batches))
        if failure := _missing_batches(session, listing, ranges):
            return self._fail(session, failure, sum(last - first + 1 for first, last in ranges))
        started = time.monotonic()
        digest = listing_digest(listing)
        with self.merged.merge(session.session_id, listing, digest) as merge:
            content = merge.transfer()
            if failure := _record_count(session, listing, content.records):
                return self._fail(session, failure)
            decision = Decision(
                batches=len(listing),
                records=content.records,
                bytes=content.bytes,
                digest=digest,
                crc32=content.checksum,
            )
            # Before anything can be seen: from here on every attempt completes exactly this.
            session, decided = self.sessions.decide(
                session, decision, session.created_at + limits.LATEST_FINISH_SECONDS
            )
            if not decided:
                return self._outcome_of(session)
            merge.publish(decision)
        return self._commit(session, decision, self.clock(), time.monotonic() - started)

    def _complete(self, session: Session, decision: Decision) -> Outcome:
        """Carry out what an earlier attempt decided, and did not get done or not told of."""
        started = time.monotonic()
        published = self.merged.published(session.session_id, decision)
        if published is None:
            # A late, refused batch may lie behind the decided ones; it does not count.
            listing = self.batches.list(session.session_id, below=decision.batches)
            if listing_digest(listing) != decision.digest:
                raise _batches_gone()
            with self.merged.merge(session.session_id, listing, decision.digest) as merge:
                merge.transfer()
                merge.publish(decision)
            published = self.clock()
        return self._commit(session, decision, published, time.monotonic() - started)

    def _fail(self, session: Session, result: Result, missing_batches: int = 0) -> Outcome:
        session, reopened = self.sessions.reopen(session, result)
        return Outcome(result, missing_batches) if reopened else self._outcome_of(session)

    def _commit(
        self, session: Session, decision: Decision, published: int, merge_seconds: float
    ) -> Outcome:
        result: Result = {
            "sessionId": session.session_id,
            "validationResult": "Success",
            "totalRecord": session.total_record,
            "receivedRecord": decision.records,
            "batches": decision.batches,
            "bytes": decision.bytes,
            "key": self.merged.key(session.session_id),
            "checksum": {"algorithm": "CRC32", "type": "FULL_OBJECT", "value": decision.crc32},
        }
        # The session is kept as long as its object, whose age counts from when it was published.
        session, _ = self.sessions.commit(
            session, decision, result, published + self.merged_retention
        )
        return Outcome(self._outcome_of(session).result, merge_seconds=merge_seconds)


def listing_digest(listing: "Sequence[StoredBatch]") -> str:
    """SHA-256 over (``seqNum``, ETag, size) of every batch, hexadecimal."""
    lines = (f"{batch.seq_num} {batch.etag} {batch.size}\n" for batch in listing)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def gap_report(ranges: Sequence[gaps.Range]) -> Result:
    """``missing`` as the API gives it, cut at ``limits.MAX_MISSING_RANGES``."""
    report: Result = {
        "missing": [
            {"from": first, "to": last} for first, last in islice(ranges, limits.MAX_MISSING_RANGES)
        ]
    }
    if len(ranges) > limits.MAX_MISSING_RANGES:
        report["missingTruncated"] = True
    return report


def _missing_batches(
    session: Session, listing: "Sequence[StoredBatch]", ranges: Sequence[gaps.Range]
) -> Result | None:
    if not ranges:
        return None
    count = sum(last - first + 1 for first, last in ranges)
    return {
        "sessionId": session.session_id,
        "validationResult": "Failed",
        "reason": "missing_batches",
        "detail": f"{count} {'batch is' if count == 1 else 'batches are'} missing. Send what is"
        " missing and finish again.",
        **gap_report(ranges),
        "totalRecord": session.total_record,
        "batches": len(listing),
    }


def _record_count(
    session: Session, listing: "Sequence[StoredBatch]", received: int
) -> Result | None:
    lacking = session.total_record - received
    if lacking == 0:
        return None
    if lacking > 0:
        detail = (
            f"{received} of {session.total_record} records arrived, in batches 0 to"
            f" {len(listing) - 1} without a hole. Send the rest from seqNum {len(listing)} on and"
            " finish again."
        )
        if not listing:
            detail = (
                f"None of {session.total_record} records arrived. Send batches from seqNum 0 on and"
                " finish again."
            )
    else:
        detail = (
            f"{received} records arrived, {-lacking} more than totalRecord says. Stored batches"
            " never change, so this session cannot succeed: start a new one."
        )
    return {
        "sessionId": session.session_id,
        "validationResult": "Failed",
        "reason": "record_count",
        "detail": detail,
        "missing": [],
        "totalRecord": session.total_record,
        "receivedRecord": received,
        "batches": len(listing),
    }


def _batches_gone() -> errors.BatchesGoneError:
    return errors.BatchesGoneError(
        "Batches of this session are gone, so it cannot be finished. Create a new one."
    )
