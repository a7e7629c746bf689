"""The outcome of a finish, and the two moves that store it: re-open, or commit."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from uploads import errors, limits
from uploads.session import Counted, Decision, Session, State, Totals

if TYPE_CHECKING:
    from uploads.config import Clock
    from uploads.merging.merged_store import MergedStore, Published
    from uploads.merging.validation import Failure, Result
    from uploads.reports import ReportStore
    from uploads.session_store import SessionStore


@dataclass(frozen=True)
class Outcome:
    """The outcome of one call to finish."""

    result: "Result | None"
    """The answer; None while a merge runs."""
    missing_batches: int = 0
    """How many batches this attempt found missing."""
    merge_seconds: float | None = None
    """How long this attempt merged, if it did."""
    finishing_since: int | None = None
    """Since when the session is ``FINISHING``, seconds since 1970."""


@dataclass(frozen=True)
class Outcomes:
    """Makes and stores the answers of finish."""

    sessions: "SessionStore"
    reports: "ReportStore"
    merged: "MergedStore"
    clock: "Clock"
    merged_retention: int
    """Seconds."""

    def outcome_from(self, session: Session, asked: Totals) -> Outcome:
        """The answer to a finish that stated ``asked`` and found ``session``, as another left it.

        Every refused move of a finish ends here. Raises SessionExpiredError, SessionAbortedError,
        TotalsConflictError, MissingTotalError or SessionExpiringError.
        """
        now = self.clock()
        if session.require_unexpired(now).state is State.ABORTED:
            raise errors.SessionAbortedError("The session was aborted. Create a new one.")
        session.require_fitting(asked)
        if session.state is State.OPEN and now >= session.batches_until:
            raise errors.SessionExpiringError(
                "The session has expired, so no finish can begin any more. One that began in time"
                " may still be running. Ask again after Retry-After."
            )
        if session.state is State.FINISHED or _has_failed_by(session, asked):
            return Outcome(self.reports.whole(session))
        return Outcome(None, finishing_since=session.finishing_since)

    def fail(self, session: Session, failure: "Failure", counted: Counted | None = None) -> Outcome:
        """Re-open a session that this attempt sealed and did not decide: 1 or 2 writes.

        Raises StaleAttemptError.
        """
        result, report = self.reports.stored(session, failure.result)
        self.sessions.reopen(session, result, report=report, counted=counted)
        return Outcome(failure.result, failure.missing_batches)

    def succeed(
        self,
        session: Session,
        decision: Decision,
        published: "Published",
        merge_seconds: float | None = None,
        *,
        sole: bool = False,
    ) -> Outcome:
        """Commit a session whose object and manifest are ``published``: 1 write.

        ``sole``: no other attempt can publish, so this one becomes ``Session.publisher``. The
        answer depends only on the decision, not on ``asked``. Raises StaleAttemptError.
        """
        session_id = session.session_id
        result: Result = {
            "sessionId": session_id,
            "validationResult": "Success",
            "totalRecord": decision.records,
            "receivedRecord": decision.records,
            "batches": decision.batches,
            "bytes": decision.bytes,
            "key": self.merged.key(session),
            "manifest": self.merged.manifest_key(session),
            **published.sums.members(session.format),
        }
        # The session must expire before its object and manifest, whose age S3 counts from their
        # dates. Even if one is old already, the answer is kept for a while.
        now = self.clock()
        until = max(published.at + self.merged_retention, now + limits.LEAST_RETENTION_SECONDS)
        session = self.sessions.commit(session, decision, result, until, now=now, sole=sole)
        return Outcome(session.result, merge_seconds=merge_seconds)


def _has_failed_by(session: Session, asked: Totals) -> bool:
    """Whether the session is open again after a ``Failed`` by exactly these totals."""
    if session.state is not State.OPEN or session.result is None:
        return False
    judged = session.result.get("totalRecord"), session.result.get("expectedBatches")
    totals = session.judged_by(asked)
    return judged == (totals.records, totals.batches)
