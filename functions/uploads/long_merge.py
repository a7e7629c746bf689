"""The tasks of a long merge: plan, compose (many at once), complete; release where one fails.

``statemachine/merge.asl.json`` says in which order. Each takes the lease of its own attempt on, may
die after any single call to AWS, and may be run again.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from uploads import errors
from uploads.finishing import (
    Failure,
    Result,
    StaleAttemptError,
    listing_digest,
    record_count,
)
from uploads.merged_store import Content
from uploads.plan import at_once, plan, shares
from uploads.session import Decision, State, Upload

if TYPE_CHECKING:
    from collections.abc import Callable

    from uploads.finishing import Finish
    from uploads.merge_plan import MergePlan
    from uploads.state_machine import Execution


@dataclass(frozen=True)
class Planned:
    """What planning gives to the tasks after it."""

    key: str
    """Of the plan, in the batches bucket."""
    shares: int
    at_once: int
    """How many shares to compose at the same time."""
    upload_id: str


@dataclass(frozen=True)
class LongMerge:
    """The tasks, as Step Functions calls them."""

    finish: "Finish"
    merge_plan: "Callable[[Execution], MergePlan]"

    def plan(self, execution: "Execution") -> Planned:
        """Share the work out, and begin the multipart upload."""
        session = self.finish.hold(execution)
        listing = self.finish.batches.list(execution.session_id, below=execution.batches)
        if listing_digest(listing) != execution.digest:
            raise errors.BatchesGoneError
        parts = plan(listing)
        shared = shares(parts)
        upload = session.upload
        if upload is None:
            merged = self.finish.merged
            upload_id = merged.create_upload(execution.session_id, execution.digest)
            upload = Upload(upload_id, len(parts))
            try:
                self.finish.hold(execution, upload)
            except StaleAttemptError:
                # Whoever took the session has looked for uploads before there was this one.
                merged.abort_upload(execution.session_id, upload_id)
                raise
        key = self.merge_plan(execution).write(parts, shared)
        return Planned(key, len(shared), at_once(parts), upload.upload_id)

    def compose(self, execution: "Execution", upload_id: str, share: int) -> None:
        """Bring the parts of a share into place."""
        self.finish.hold(execution)
        merge_plan = self.merge_plan(execution)
        parts = merge_plan.read_share(share)
        done = self.finish.merged.transfer(execution.session_id, upload_id, parts)
        merge_plan.write_done(share, (batch for _, facts in done for batch in facts))

    def complete(self, execution: "Execution", planned: Planned) -> Result:
        """Count, decide, publish, commit; gives what finish answers from now on."""
        finish, session_id = self.finish, execution.session_id
        try:
            session = self.finish.hold(execution)
        except StaleAttemptError as stale:
            # A try before this one may have got to its end.
            if stale.session.attempt != execution.attempt:
                raise
            return finish.outcome_of(stale.session).result or {}
        facts = self.merge_plan(execution).read_done(planned.shares)
        content = Content.of(facts)
        decision = session.decision
        if not decision:
            if failure := record_count(session, len(facts), content.records):
                return finish.fail(session, failure).result or {}
            decision = Decision(len(facts), content.records, content.bytes, execution.digest)
            session = finish.decide(session, decision)
        if not finish.merged.published(session_id, decision):
            finish.merged.write_manifest(session_id, decision, facts)
            finish.merged.complete_upload(
                session_id,
                planned.upload_id,
                finish.merged.parts(session_id, planned.upload_id),
                decision,
                content.checksum,
            )
        return finish.commit(session, decision, content.checksum, finish.clock()).result or {}

    def release(self, execution: "Execution", upload_id: str | None) -> None:
        """Clear up after a task that failed for good, and let the next finish begin at once.

        A session that is decided stays so, and its next finish completes it. Any other re-opens.
        """
        finish, session_id = self.finish, execution.session_id
        session = finish.sessions.get(session_id, execution.owner)
        ours = session.state is State.FINISHING and session.attempt == execution.attempt
        if ours and session.upload:
            upload_id = session.upload.upload_id
        if upload_id:
            finish.merged.abort_upload(session_id, upload_id)
        if not ours:
            return
        if session.decision:
            finish.sessions.lease(session_id, execution.owner, execution.attempt, finish.clock())
            return
        finish.fail(
            session,
            Failure(
                session,
                "merge_failed",
                "The merge failed. Nothing is lost and nothing became visible: finish again.",
                batches=execution.batches,
            ),
            uploads=True,
        )
