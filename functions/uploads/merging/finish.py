"""Finish: what makes a ``Success`` true. ``docs/protocol.md`` tells it in words.

A function may die after any single call to AWS; a client's next finish then reaches the same end.
"""

import secrets
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uploads import errors, limits
from uploads.merging.composing import Composition
from uploads.merging.executions import Execution
from uploads.merging.manifest import Sums
from uploads.merging.merged_store import Published
from uploads.merging.outcome import Outcome
from uploads.merging.parts import plan_parts
from uploads.merging.validation import Failure, validate, validate_count
from uploads.session import Counted, Session, StaleAttemptError, State

if TYPE_CHECKING:
    from uploads.batch_store import BatchStore
    from uploads.config import Clock
    from uploads.merging.composing import Composer
    from uploads.merging.executions import MergeExecutions
    from uploads.merging.outcome import Outcomes
    from uploads.session_store import SessionStore


@dataclass(frozen=True)
class Finisher:
    """Seal, list, validate, decide, compose, publish, commit."""

    sessions: "SessionStore"
    batches: "BatchStore"
    composer: "Composer"
    outcomes: "Outcomes"
    clock: "Clock"
    executions: "MergeExecutions | None" = None
    """Long merges; without it every merge is made here."""

    def run(self, session_id: str, owner: str, seconds_left: float) -> Outcome:
        """Finish a session, or complete what an earlier attempt decided.

        ``seconds_left`` is how long this attempt can take; no other begins before. Raises
        SessionNotFoundError, SessionExpiredError, SessionExpiringError, SessionAbortedError or
        BatchesGoneError.
        """
        ends = time.monotonic() + seconds_left
        now = self.clock()
        lease_until = now + int(seconds_left) + limits.LEASE_MARGIN_SECONDS
        try:
            session = self.sessions.seal(
                session_id, owner, holder=secrets.token_hex(8), now=now, lease_until=lease_until
            )
        except StaleAttemptError as stale:
            if stale.session.require_unexpired(now).state is not State.OPEN:
                return self.outcomes.outcome_from(stale.session)
            raise errors.SessionExpiringError(
                "The session's time is over, so that no finish can begin any more. One that"
                " began in time may still be under way. Ask again after Retry-After."
            ) from None
        # The own upload is aborted last: this attempt must hold the session no longer by then.
        with ExitStack() as own_upload:
            try:
                return self._attempt(session, ends, own_upload)
            except StaleAttemptError as stale:
                return self.outcomes.outcome_from(stale.session)
            except Exception as error:
                # Batches are gone only for the attempt that holds the session: else another one has
                # finished, and they were cleaned up.
                unsure = () if isinstance(error, errors.BatchesGoneError) else (Exception,)
                released = session
                with suppress(*unsure):
                    released = self._release(session, now)
                if (released.state, released.attempt) != (State.FINISHING, session.attempt):
                    # Another call has moved the session.
                    return self.outcomes.outcome_from(released)
                if outcome := self._commit_published(released):
                    return outcome
                raise

    def _attempt(self, session: Session, ends: float, own_upload: ExitStack) -> Outcome:
        """Finish a session that this attempt has sealed, before ``time.monotonic()`` is ``ends``.

        ``own_upload`` aborts the multipart upload that is begun here.
        """
        started = time.monotonic()
        # Before S3 dates anything of this attempt: it dates an object in parts by its upload.
        began = self.clock()
        if outcome := self._commit_published(session):
            return outcome
        # Only after the seal: every batch acknowledged before it is in this listing. Refused
        # batches may lie behind those that are decided; they do not count.
        below = session.decision.batches if session.decision else session.expected_batches
        listing = self.batches.list(session.session_id, below)
        verdict = validate(session, listing)
        if verdict.failure:
            return self.outcomes.fail(session, verdict.failure)
        # Nothing is decided that cannot be planned.
        parts = plan_parts(listing, session.format)
        # A manifest may exist already, and be older, of what was decided before.
        took_over = session.decision is not None
        decision = verdict.decision
        if decision and not took_over:
            session = self.sessions.decide(session, decision)
        needed = sum(part.seconds for part in parts)
        too_long = needed > limits.INLINE_SHARE * (ends - time.monotonic())
        # An attempt that died would die again: it was slower than the estimate says, or worse.
        if self.executions and (too_long or session.died):
            return self._hand_over(session, self.executions, len(listing), verdict.digest)
        composition = own_upload.enter_context(
            Composition(self.composer, session, parts, verdict.digest)
        )
        totals = composition.transfer()
        if not decision:
            counted = validate_count(session, verdict.digest, len(listing), totals)
            if isinstance(counted, Failure):
                fact = Counted(verdict.digest, totals.records)
                return self.outcomes.fail(session, counted, fact)
            decision = counted
            session = self.sessions.decide(session, decision)
        composition.publish(decision, totals.checksum)
        merge_seconds = time.monotonic() - started
        published = Published(Sums.of(totals), began)
        if took_over:
            found = self.composer.merged.find_published(session, decision)
            published = found or published
        return self.outcomes.succeed(session, decision, published, merge_seconds)

    def _commit_published(self, session: Session) -> Outcome | None:
        """Commit a session whose object another attempt, or a call that failed, has published."""
        if not session.decision:
            return None
        published = self.composer.merged.find_published(session, session.decision)
        return self.outcomes.succeed(session, session.decision, published) if published else None

    def _hand_over(
        self, session: Session, executions: "MergeExecutions", batches: int, digest: str
    ) -> Outcome:
        """Start the long merge of a session that this attempt has sealed."""
        execution = Execution(session.session_id, session.owner, session.attempt, batches, digest)
        # The first task renews the lease from here.
        self.sessions.renew_lease(
            session.session_id,
            session.owner,
            session.attempt,
            self.clock() + limits.TASK_LEASE_SECONDS,
        )
        executions.start(execution)
        return Outcome(None, finishing_since=session.finishing_since)

    def _release(self, session: Session, now: int) -> Session:
        """Release the lease so that the next attempt starts immediately; the session as it is."""
        try:
            return self.sessions.renew_lease(
                session.session_id, session.owner, session.attempt, now
            )
        except StaleAttemptError as stale:
            return stale.session
