"""The tasks of a long merge: plan, compose (many in parallel), complete; release if one fails.

``statemachine/merge.asl.json`` has their order. Each renews the lease of its own attempt, may die
after any call to AWS, and may run again.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from uploads import errors, limits
from uploads.batch import RunTotals, listing_digest
from uploads.merging import validation
from uploads.merging.merged_store import ForeignObjectError
from uploads.merging.parts import last_part, max_concurrency, plan_parts, plan_shares
from uploads.merging.validation import Failure, validate_count
from uploads.session import Counted, Session, StaleAttemptError, State, Upload

if TYPE_CHECKING:
    from uploads.batch_store import BatchStore
    from uploads.config import Clock
    from uploads.merging.composing import Composer
    from uploads.merging.executions import Execution
    from uploads.merging.outcome import Outcome, Outcomes
    from uploads.merging.shares import ShareStore
    from uploads.session_store import SessionStore


class PlanOutput(msgspec.Struct, frozen=True):
    """The output of plan, for the tasks after it. Another release may run those."""

    key: str
    """Key of the plan in the batches bucket."""
    shares: int
    max_concurrency: int = msgspec.field(name="at_once")
    """How many shares are composed concurrently."""
    upload_id: str


@dataclass(frozen=True)
class MergeTasks:
    """The tasks that Step Functions calls."""

    sessions: "SessionStore"
    batches: "BatchStore"
    composer: "Composer"
    shares: "ShareStore"
    outcomes: "Outcomes"
    clock: "Clock"

    def plan(self, execution: "Execution") -> PlanOutput:
        """Divide the work into shares, and begin the multipart upload."""
        session = self._renew_lease(execution)
        listing = self.batches.list(execution.session_id, below=execution.batches)
        if listing_digest(listing) != execution.digest:
            raise errors.BatchesGoneError
        parts = plan_parts(listing, session.format)
        shares = plan_shares(parts, session.died)
        upload = session.upload
        if upload is None:
            upload_id = self.composer.merged.create_upload(session, execution.digest)
            upload = Upload(upload_id, last_part(parts, session.format))
            with self._abort_if_stale(upload_id):
                self._renew_lease(execution, upload)
        key = self.shares.write(execution, parts, shares)
        return PlanOutput(key, len(shares), max_concurrency(parts), upload.upload_id)

    def compose(self, execution: "Execution", upload_id: str, share: int) -> None:
        """Upload the parts of a share, and record what its batches hold."""
        with self._abort_if_stale(upload_id):
            session = self._renew_lease(execution)
        parts = self.shares.read_share(execution, share)
        done = self.composer.transfer(session, upload_id, parts, _last_part(session))
        self.shares.write_done(
            execution, share, (batch for _, batches in done for batch in batches)
        )

    def complete(self, execution: "Execution", planned: PlanOutput) -> "Outcome":
        """Count, decide, publish, commit; returns the answer of finish."""
        try:
            with self._abort_if_stale(planned.upload_id):
                return self._complete(execution, planned)
        except StaleAttemptError as stale:
            # An earlier try of this task may have completed, or an attempt that took over.
            ended = stale.session.state is State.FINISHED
            if not ended and stale.session.attempt != execution.attempt:
                raise
            return self.outcomes.outcome_from(stale.session, execution.totals)

    def _complete(self, execution: "Execution", planned: PlanOutput) -> "Outcome":
        upload_id, merged = planned.upload_id, self.composer.merged
        session = self._renew_lease(execution)
        batches = self.shares.read_done(execution, planned.shares)
        run = RunTotals.of(batches)
        whole = session.format.whole(run)
        decision, completed = session.decision, False
        if not decision:
            totals = session.judged_by(execution.totals)
            counted = validate_count(session, totals, execution.digest, len(batches), whole)
            if isinstance(counted, Failure):
                fact = Counted(execution.digest, whole.records)
                outcome = self.outcomes.fail(session, counted, fact)
                merged.abort_upload(session, upload_id)
                return outcome
            decision = counted
            session = self.sessions.decide(session, decision)
        published = merged.find_published(session, decision)
        if not published:
            merged.write_manifest(session, decision, batches)
            last = _last_part(session)
            if not batches or (last > 1 and session.format.frame_bytes):
                self.composer.send_trailer(session, upload_id, last, run)
            parts = merged.parts(session, upload_id)
            completed = merged.complete_upload(session, upload_id, parts, decision, whole.checksum)
            published = merged.find_published(session, decision)
        if not published:
            raise ForeignObjectError(f"the merged object of {execution.session_id} is gone")
        outcome = self.outcomes.succeed(session, decision, published)
        if not completed:
            merged.abort_upload(session, upload_id)
        return outcome

    def release(self, execution: "Execution", upload_id: str | None) -> None:
        """Release the session after a task has failed, so the next finish starts immediately.

        A decided session stays decided, and its next finish completes it. Any other re-opens.
        """
        session = self.sessions.get(execution.session_id, execution.owner)
        ours = session.state is State.FINISHING and session.attempt == execution.attempt
        if ours and session.upload:
            upload_id = session.upload.upload_id
        if ours:
            totals = session.judged_by(execution.totals)
            failure = validation.merge_failed(session, totals, execution.batches)
            # If another call has moved the session by now, it stays as it is.
            with suppress(StaleAttemptError):
                if session.decision:
                    self._renew_lease(execution, until=self.clock())
                else:
                    # The listing was not judged, so the attempt counts as died.
                    self.sessions.reopen(session, failure.result, verdict=False)
        if upload_id:
            self.composer.merged.abort_upload(session, upload_id)

    def _renew_lease(
        self, execution: "Execution", upload: Upload | None = None, until: int | None = None
    ) -> Session:
        """Renew this attempt's lease for one task, or ``until``. Raises StaleAttemptError."""
        until = self.clock() + limits.TASK_LEASE_SECONDS if until is None else until
        return self.sessions.renew_lease(
            execution.session_id, execution.owner, execution.attempt, until, upload
        )

    @contextmanager
    def _abort_if_stale(self, upload_id: str) -> Iterator[None]:
        """Abort the attempt's own upload if it no longer holds the session."""
        try:
            yield
        except StaleAttemptError as stale:
            self.composer.merged.abort_upload(stale.session, upload_id)
            raise


def _last_part(session: Session) -> int:
    """The number of the last part of the session's upload."""
    return session.upload.parts if session.upload else 1
