"""Finish: what makes a ``Success`` true. ``docs/protocol.md`` tells it in words.

Whoever runs it may die after any single call to AWS; a client's next finish then reaches the same
end.
"""

import hashlib
import secrets
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uploads import errors, gaps, limits
from uploads.merged_store import checksum
from uploads.plan import plan
from uploads.session import Counted, Decision, Session, State, Upload
from uploads.state_machine import Execution

if TYPE_CHECKING:
    from uploads.batch_store import BatchStore, Listing
    from uploads.merged_store import MergedStore
    from uploads.protocol import Clock
    from uploads.reports import ReportStore
    from uploads.session_store import SessionStore
    from uploads.state_machine import StateMachine

Result = dict[str, object]
"""The body of finish's 200 answer."""


class StaleAttemptError(Exception):
    """Somebody else moved the session, and this attempt has nothing left to do."""

    def __init__(self, session: Session) -> None:
        super().__init__(f"{session.session_id} is {session.state}, attempt {session.attempt}")
        self.session = session


@dataclass(frozen=True)
class Outcome:
    """What a finish came to."""

    result: Result | None
    """The answer; None while another attempt holds the session."""
    missing_batches: int = 0
    """How many batches this attempt found missing."""
    merge_seconds: float | None = None
    """How long this attempt composed, where it did."""
    finishing_since: int | None = None
    """Since when the session is held, by this attempt or those before it."""


@dataclass(frozen=True)
class Finish:
    """Seal, list, validate, decide, compose, commit."""

    sessions: "SessionStore"
    batches: "BatchStore"
    merged: "MergedStore"
    reports: "ReportStore"
    clock: "Clock"
    merged_retention: int
    """Seconds."""
    state_machine: "StateMachine | None" = None
    """What takes over merges that are too long for one call; without it there are none."""

    def __call__(self, session_id: str, owner: str, seconds_left: float) -> Outcome:
        """Finish a session, or complete what an earlier attempt decided.

        ``seconds_left`` is how long this attempt can take; nobody else begins before. Raises
        SessionNotFoundError, SessionExpiredError, SessionExpiringError, SessionAbortedError or
        BatchesGoneError.
        """
        ends = time.monotonic() + seconds_left
        now = self.clock()
        session, sealed = self.sessions.seal(
            session_id,
            owner,
            holder=secrets.token_hex(8),
            now=now,
            lease_until=now + int(seconds_left) + limits.LEASE_MARGIN_SECONDS,
        )
        if not sealed:
            if session.state is State.OPEN:
                session.require_unexpired(now)
                raise errors.SessionExpiringError(
                    "The session's time is over, so that no finish can begin any more. One that"
                    " began in time may still be under way. Ask again after Retry-After."
                )
            return self.outcome_of(session)
        # Given up last: what this attempt holds of the session must be over before.
        with ExitStack() as upload:
            try:
                return self._attempt(session, ends, upload)
            except StaleAttemptError as stale:
                return self.outcome_of(stale.session)
            except Exception:
                ours = True
                with suppress(Exception):
                    # Whoever comes next need not wait for us.
                    session, ours = self.sessions.lease(
                        session_id, owner, session.attempt, until=now
                    )
                if not ours:
                    # Whoever moved the session may have taken the batches away.
                    return self.outcome_of(session)
                if outcome := self._commit_published(session):
                    return outcome
                raise

    def outcome_of(self, session: Session) -> Outcome:
        """What ``session``, which somebody else moved, says its finish came to."""
        session.require_unexpired(self.clock())
        if session.state is State.ABORTED:
            raise errors.SessionAbortedError("The session was aborted. Create a new one.")
        if session.state is State.FINISHING:
            return Outcome(None, finishing_since=session.finishing_since)
        return Outcome(self.reports.whole(session))

    def _attempt(self, session: Session, ends: float, own_upload: ExitStack) -> Outcome:
        """Finish a session that is sealed by us, before the clock of this machine says ``ends``.

        ``own_upload`` gives up what is begun.
        """
        started = time.monotonic()
        # Before S3 dates anything of this attempt: an object in parts by its upload's beginning.
        began = self.clock()
        session_id, decision = session.session_id, session.decision
        # What was decided before may have a manifest that is older.
        took_over = decision is not None
        if outcome := self._commit_published(session):
            return outcome
        # Only after the seal: whatever was promised before it is in this listing. A late, refused
        # batch may lie behind those that are decided; it does not count.
        below = decision.batches if decision else session.expected_batches
        listing = self.batches.list(session_id, below)
        digest = listing_digest(listing)
        if decision:
            if digest != decision.digest:
                raise errors.BatchesGoneError
        elif failure := _failure(session, listing, digest):
            return self.fail(session, failure)
        # Nothing is decided that cannot be planned.
        parts = plan(listing)
        if not decision and session.batch_size:
            # Each batch was counted when it came. What they hold is known from the listing.
            size = sum(batch.size for batch in listing)
            decision = Decision(len(listing), session.total_record, size, digest)
            session = self.decide(session, decision)
        needed = sum(part.seconds for part in parts)
        too_long = needed > limits.INLINE_SHARE * (ends - time.monotonic())
        # Whoever died here would die again: it was slower than the estimate says, or worse.
        if self.state_machine and (too_long or session.died):
            return self._hand_over(session, self.state_machine, len(listing), digest)
        merge = own_upload.enter_context(self.merged.merge(session_id, parts, digest))
        content = merge.transfer()
        if not decision:
            if failure := record_count(session, len(listing), content.records):
                return self.fail(session, failure, Counted(digest, content.records))
            decision = Decision(len(listing), content.records, content.bytes, digest)
            session = self.decide(session, decision)
        merge.publish(decision, content.checksum)
        merge_seconds = time.monotonic() - started
        if took_over and (published := self.merged.published(session_id, decision)):
            began = published.at
        return self.commit(session, decision, content.checksum, began, merge_seconds)

    def _commit_published(self, session: Session) -> Outcome | None:
        """Finish a session whose object another attempt, or a try that failed, has published."""
        decision = session.decision
        if decision and (published := self.merged.published(session.session_id, decision)):
            return self.commit(session, decision, published.crc32, published.at)
        return None

    def _hand_over(
        self, session: Session, state_machine: "StateMachine", batches: int, digest: str
    ) -> Outcome:
        """Start the long merge of a session that is sealed by us."""
        execution = Execution(session.session_id, session.owner, session.attempt, batches, digest)
        # Its first task takes the lease on from here.
        self.hold(execution)
        state_machine.start(execution)
        return Outcome(None, finishing_since=session.finishing_since)

    def hold(self, execution: Execution, upload: Upload | None = None) -> Session:
        """Take the lease of a long merge on. Raises StaleAttemptError where it is not its own."""
        until = self.clock() + limits.TASK_LEASE_SECONDS
        session, ours = self.sessions.lease(
            execution.session_id, execution.owner, execution.attempt, until, upload
        )
        if not ours:
            raise StaleAttemptError(session)
        return session

    def decide(self, session: Session, decision: Decision) -> Session:
        """Bind every attempt to ``decision``, before anything can be seen.

        Raises StaleAttemptError where somebody else was faster.
        """
        latest = session.created_at + limits.LATEST_FINISH_SECONDS
        session, decided = self.sessions.decide(session, decision, latest)
        if not decided:
            raise StaleAttemptError(session)
        return session

    def fail(self, session: Session, failure: "Failure", counted: Counted | None = None) -> Outcome:
        """Re-open a session that is sealed by us and not decided.

        ``counted`` as in ``SessionStore.reopen``.
        """
        stored, report = self.reports.stored(session, failure.result)
        session, reopened = self.sessions.reopen(session, stored, report=report, counted=counted)
        if not reopened:
            return self.outcome_of(session)
        return Outcome(failure.result, failure.missing_batches)

    def commit(
        self,
        session: Session,
        decision: Decision,
        crc32: str,
        published: int,
        merge_seconds: float | None = None,
    ) -> Outcome:
        """Finish a session whose object and manifest S3 dates no earlier than ``published``.

        Seconds since 1970.
        """
        session_id = session.session_id
        result: Result = {
            "sessionId": session_id,
            "validationResult": "Success",
            "totalRecord": session.total_record,
            "receivedRecord": decision.records,
            "batches": decision.batches,
            "bytes": decision.bytes,
            "key": self.merged.key(session_id),
            "manifest": self.merged.manifest_key(session_id),
            "checksum": checksum(crc32),
        }
        # The session goes before its object and manifest do, whose ages S3 counts by their dates.
        # Where one is old already, whoever has waited for the answer gets it all the same.
        until = max(
            published + self.merged_retention, self.clock() + limits.LEAST_RETENTION_SECONDS
        )
        session, _ = self.sessions.commit(session, decision, result, until)
        return Outcome(self.outcome_of(session).result, merge_seconds=merge_seconds)


def listing_digest(listing: "Listing") -> str:
    """SHA-256 over (``seqNum``, ETag, size) of every batch, hexadecimal."""
    lines = (f"{batch.seq_num} {batch.etag} {batch.size}\n" for batch in listing)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class Failure:
    """A ``Failed``: why, and what the client can do."""

    def __init__(self, session: Session, reason: str, detail: str, **members: object) -> None:
        self.missing_batches = 0
        self.result: Result = {
            "sessionId": session.session_id,
            "validationResult": "Failed",
            "reason": reason,
            "detail": detail,
            "missing": [],
            "totalRecord": session.total_record,
            **members,
        }


def _failure(session: Session, listing: "Listing", digest: str) -> Failure | None:
    """What the listing, which has ``digest``, shows to be wrong."""
    present = (batch.seq_num for batch in listing)
    ranges = list(gaps.missing(present, session.expected_batches))
    if ranges:
        count = sum(last - first + 1 for first, last in ranges)
        failure = Failure(
            session,
            "missing_batches",
            f"{count} {'batch is' if count == 1 else 'batches are'} missing. Send what is missing"
            " and finish again.",
            **gaps.report(ranges),
            batches=len(listing),
        )
        failure.missing_batches = count
        return failure
    size = sum(batch.size for batch in listing)
    if size > limits.MAX_MERGED_BYTES:
        return Failure(
            session,
            "too_large",
            f"The batches hold {size} bytes; a merged object takes {limits.MAX_MERGED_BYTES}."
            " Stored batches never change, so this session cannot succeed: start several new ones.",
            batches=len(listing),
        )
    if session.counted and session.counted.digest == digest:
        return record_count(session, len(listing), session.counted.records)
    return None


def record_count(session: Session, batches: int, received: int) -> Failure | None:
    """What is wrong where ``received`` is not the number of records there should be."""
    lacking = session.total_record - received
    if lacking == 0:
        return None
    if lacking < 0:
        detail = (
            f"{received} records arrived, {-lacking} more than totalRecord says. Stored batches"
            " never change, so this session cannot succeed: start a new one."
        )
    elif batches:
        detail = (
            f"{received} of {session.total_record} records arrived, in batches 0 to {batches - 1}"
            f" without a hole. Send the rest from seqNum {batches} on and finish again."
        )
    else:
        detail = (
            f"None of {session.total_record} records arrived. Send batches from seqNum 0 on and"
            " finish again."
        )
    return Failure(session, "record_count", detail, receivedRecord=received, batches=batches)
