"""What a finish comes to, and the two moves that store its answer: fail and succeed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from uploads import errors, limits
from uploads.session import Counted, Decision, Session, StaleAttemptError, State

if TYPE_CHECKING:
    from uploads.config import Clock
    from uploads.merging.merged_store import MergedStore, Published
    from uploads.merging.validation import Failure, Result
    from uploads.reports import ReportStore
    from uploads.session_store import SessionStore


@dataclass(frozen=True)
class Outcome:
    """What a finish came to."""

    result: "Result | None"
    """The answer; None while another attempt holds the session."""
    missing_batches: int = 0
    """How many batches this attempt found missing."""
    merge_seconds: float | None = None
    """How long this attempt composed, if it did."""
    finishing_since: int | None = None
    """Since when the session is ``FINISHING``, by this attempt or those before it."""


@dataclass(frozen=True)
class Outcomes:
    """The answers of finish."""

    sessions: "SessionStore"
    reports: "ReportStore"
    merged: "MergedStore"
    clock: "Clock"
    merged_retention: int
    """Seconds."""

    def outcome_from(self, session: Session) -> Outcome:
        """What ``session``, as another call left it, says its finish came to.

        Raises SessionExpiredError or SessionAbortedError.
        """
        session.require_unexpired(self.clock())
        if session.state is State.ABORTED:
            raise errors.SessionAbortedError("The session was aborted. Create a new one.")
        if session.state is State.FINISHING:
            return Outcome(None, finishing_since=session.finishing_since)
        return Outcome(self.reports.whole(session))

    def fail(self, session: Session, failure: "Failure", counted: Counted | None = None) -> Outcome:
        """Re-open a session that this attempt has sealed and not decided."""
        result, report = self.reports.stored(session, failure.result)
        try:
            self.sessions.reopen(session, result, report=report, counted=counted)
        except StaleAttemptError as stale:
            return self.outcome_from(stale.session)
        return Outcome(failure.result, failure.missing_batches)

    def succeed(
        self,
        session: Session,
        decision: Decision,
        published: "Published",
        merge_seconds: float | None = None,
    ) -> Outcome:
        """Commit a session whose object and manifest are ``published``."""
        session_id = session.session_id
        result: Result = {
            "sessionId": session_id,
            "validationResult": "Success",
            "totalRecord": session.total_record,
            "receivedRecord": decision.records,
            "batches": decision.batches,
            "bytes": decision.bytes,
            "key": self.merged.key(session),
            "manifest": self.merged.manifest_key(session),
            **published.sums.members(session.format),
        }
        # The session expires before its object and manifest, whose ages S3 counts by their dates.
        # If one of them is old already, the answer is kept for a while all the same.
        until = max(
            published.at + self.merged_retention, self.clock() + limits.LEAST_RETENTION_SECONDS
        )
        try:
            session = self.sessions.commit(session, decision, result, until)
        except StaleAttemptError as stale:
            session = stale.session
        return Outcome(self.outcome_from(session).result, merge_seconds=merge_seconds)
