"""The tasks of a long merge: plan, compose (many at once), complete; release where one fails.

``statemachine/merge.asl.json`` says in which order. Each takes the lease of its own attempt on, may
die after any single call to AWS, and may be run again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
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
from uploads.merged_store import Content, ForeignObjectError
from uploads.plan import at_once, plan, shares
from uploads.session import Counted, Decision, State, Upload

if TYPE_CHECKING:
    from collections.abc import Callable

    from uploads.finishing import Finish
    from uploads.merge_plan import MergePlan
    from uploads.state_machine import Execution


@dataclass(frozen=True)
class Planned:
    """What planning gives to the tasks after it, whichever release runs them."""

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
        shared = shares(parts, session.died)
        upload = session.upload
        if upload is None:
            upload_id = self.finish.merged.create_upload(execution.session_id, execution.digest)
            upload = Upload(upload_id, len(parts))
            with self._useless_where_stale(execution, upload_id):
                self.finish.hold(execution, upload)
        key = self.merge_plan(execution).write(parts, shared)
        return Planned(key, len(shared), at_once(parts), upload.upload_id)

    def compose(self, execution: "Execution", upload_id: str, share: int) -> None:
        """Bring the parts of a share into place."""
        with self._useless_where_stale(execution, upload_id):
            self.finish.hold(execution)
        merge_plan = self.merge_plan(execution)
        parts = merge_plan.read_share(share)
        done = self.finish.merged.transfer(execution.session_id, upload_id, parts)
        merge_plan.write_done(share, (batch for _, facts in done for batch in facts))

    def complete(self, execution: "Execution", planned: Planned) -> Result:
        """Count, decide, publish, commit; gives what finish answers from now on."""
        try:
            with self._useless_where_stale(execution, planned.upload_id):
                return self._complete(execution, planned)
        except StaleAttemptError as stale:
            # A try before this one may have got to its end.
            if stale.session.attempt != execution.attempt:
                raise
            return self.finish.outcome_of(stale.session).result or {}

    def _complete(self, execution: "Execution", planned: Planned) -> Result:
        finish, session_id, upload_id = self.finish, execution.session_id, planned.upload_id
        session = finish.hold(execution)
        facts = self.merge_plan(execution).read_done(planned.shares)
        content = Content.of(facts)
        decision, completed = session.decision, False
        if failure := None if decision else record_count(session, len(facts), content.records):
            outcome = finish.fail(session, failure, Counted(execution.digest, content.records))
        else:
            if not decision:
                decision = Decision(len(facts), content.records, content.bytes, execution.digest)
                session = finish.decide(session, decision)
            published = finish.merged.published(session_id, decision)
            if not published:
                finish.merged.write_manifest(session_id, decision, facts)
                parts = finish.merged.parts(session_id, upload_id)
                completed = finish.merged.complete_upload(
                    session_id, upload_id, parts, decision, content.checksum
                )
                published = finish.merged.published(session_id, decision)
            if not published:
                raise ForeignObjectError(f"the merged object of {session_id} is gone")
            outcome = finish.commit(session, decision, content.checksum, published.at)
        if not completed:
            finish.merged.abort_upload(session_id, upload_id)
        return outcome.result or {}

    def release(self, execution: "Execution", upload_id: str | None) -> None:
        """Clear up after a task that failed for good, and let the next finish begin at once.

        A session that is decided stays so, and its next finish completes it. Any other re-opens.
        """
        finish, session_id = self.finish, execution.session_id
        session = finish.sessions.get(session_id, execution.owner)
        ours = session.state is State.FINISHING and session.attempt == execution.attempt
        if ours and session.upload:
            upload_id = session.upload.upload_id
        if ours and session.decision:
            finish.sessions.lease(session_id, execution.owner, execution.attempt, finish.clock())
        elif ours:
            detail = "The merge failed. Nothing is lost and nothing became visible: finish again."
            failure = Failure(session, "merge_failed", detail, batches=execution.batches)
            # It tells nothing of the listing, and so counts as one that died. A session that
            # somebody else has moved by now stays as it is.
            finish.sessions.reopen(session, failure.result, verdict=False)
        if upload_id:
            finish.merged.abort_upload(session_id, upload_id)

    @contextmanager
    def _useless_where_stale(self, execution: "Execution", upload_id: str) -> Iterator[None]:
        """Give up the own upload where another attempt has the session, or nobody any more."""
        try:
            yield
        except StaleAttemptError:
            self.finish.merged.abort_upload(execution.session_id, upload_id)
            raise
