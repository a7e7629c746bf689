"""Finishing a session. ``docs/internals.md`` explains why a ``Success`` can be trusted.

A function may die after any call to AWS; the client's next finish then reaches the same end.
"""

import secrets
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from uploads import errors, limits
from uploads.merging.composing import Composition
from uploads.merging.executions import Execution
from uploads.merging.manifest import Sums
from uploads.merging.merged_store import Published
from uploads.merging.outcome import Outcome
from uploads.merging.parts import plan_parts
from uploads.merging.validation import Failure, validate, validate_count
from uploads.session import Counted, Session, StaleAttemptError, State, Totals

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
    """Long merges; without it every merge runs in the call."""

    def run(self, session_id: str, owner: str, seconds_left: float, asked: Totals) -> Outcome:
        """Finish a session, or complete what an earlier attempt decided.

        ``seconds_left`` is how long this attempt may take; its lease lasts as long. ``asked`` are
        the totals that the caller states. Raises SessionNotFoundError, BatchesGoneError, or like
        ``Outcomes.outcome_from``.
        """
        ends = time.monotonic() + seconds_left
        now = self.clock()
        lease_until = now + int(seconds_left) + limits.LEASE_MARGIN_SECONDS
        try:
            session = self._seal(session_id, owner, now, lease_until, asked)
            # The attempt aborts its own upload last, when it no longer holds the session.
            with ExitStack() as own_upload:
                try:
                    return self._attempt(session, session.judged_by(asked), ends, own_upload)
                except StaleAttemptError:
                    raise
                except Exception as error:
                    released = self._release(session, now, error)
                    if outcome := self._commit_published(released):
                        return outcome
                    raise
        except StaleAttemptError as stale:
            return self.outcomes.outcome_from(stale.session, asked)

    def _seal(
        self, session_id: str, owner: str, now: int, lease_until: int, asked: Totals
    ) -> Session:
        """Begin an attempt. Raises StaleAttemptError if it may not begin, or ``asked`` is wrong."""
        seal = partial(
            self.sessions.seal,
            session_id,
            owner,
            holder=secrets.token_hex(8),
            now=now,
            lease_until=lease_until,
        )
        try:
            return seal(totals=asked)
        except StaleAttemptError as stale:
            # A batchSize makes every stated number of batches fail (``session.fitting``). The item
            # is known now: if the number is right, seal without it.
            found = stale.session
            if asked.batches is None or asked.batches != found.expected_batches:
                raise
            if found.state is State.FINISHED:
                raise
            return seal(totals=replace(asked, batches=None))

    def _attempt(
        self, session: Session, totals: Totals, ends: float, own_upload: ExitStack
    ) -> Outcome:
        """Finish a session that this attempt has sealed, before ``time.monotonic()`` is ``ends``.

        An undecided session is judged by ``totals``. ``own_upload`` aborts this attempt's multipart
        upload at its end.
        """
        started = time.monotonic()
        # Read the clock before anything is written: S3 dates an object by the start of its upload.
        began = self.clock()
        if outcome := self._commit_published(session):
            return outcome
        # Listed after the seal, so every batch that was acknowledged before it is in the listing.
        # Refused batches after the decided ones do not count.
        below = session.decision.batches if session.decision else session.expected_batches
        listing = self.batches.list(session.session_id, below)
        verdict = validate(session, totals, listing)
        if verdict.failure:
            return self.outcomes.fail(session, verdict.failure)
        # Plan before the decision: what is decided must be possible.
        parts = plan_parts(listing, session.format)
        # An earlier attempt may have written the manifest.
        took_over = session.decision is not None
        decision = verdict.decision
        if decision and not took_over:
            session = self.sessions.decide(session, decision)
        needed = sum(part.seconds for part in parts)
        too_long = needed > limits.INLINE_SHARE * (ends - time.monotonic())
        # After an attempt that died, hand over: the merge may be slower than estimated.
        if self.executions and (too_long or session.died):
            return self._hand_over(session, self.executions, len(listing), verdict.digest, totals)
        composition = own_upload.enter_context(
            Composition(self.composer, session, parts, verdict.digest)
        )
        run = composition.transfer()
        if not decision:
            counted = validate_count(session, totals, verdict.digest, len(listing), run)
            if isinstance(counted, Failure):
                fact = Counted(verdict.digest, run.records)
                return self.outcomes.fail(session, counted, fact)
            decision = counted
            session = self.sessions.decide(session, decision)
        first_try = composition.publish(decision, run.checksum)
        merge_seconds = time.monotonic() - started
        published = Published(Sums.of(run), began)
        if took_over:
            found = self.composer.merged.find_published(session, decision)
            published = found or published
        sole = first_try and not took_over
        return self.outcomes.succeed(session, decision, published, merge_seconds, sole=sole)

    def _commit_published(self, session: Session) -> Outcome | None:
        """Commit the session if an earlier attempt, or a call that seemed to fail, published."""
        if not session.decision:
            return None
        published = self.composer.merged.find_published(session, session.decision)
        return self.outcomes.succeed(session, session.decision, published) if published else None

    def _hand_over(
        self,
        session: Session,
        executions: "MergeExecutions",
        batches: int,
        digest: str,
        totals: Totals,
    ) -> Outcome:
        """Start the long merge of a session that this attempt has sealed."""
        session_id, owner, attempt = session.session_id, session.owner, session.attempt
        execution = Execution(session_id, owner, attempt, batches, digest, totals)
        # The first task renews the lease from here.
        until = self.clock() + limits.TASK_LEASE_SECONDS
        self.sessions.renew_lease(session_id, owner, attempt, until)
        executions.start(execution)
        return Outcome(None, finishing_since=session.finishing_since)

    def _release(self, session: Session, now: int, error: Exception) -> Session:
        """End the lease after ``error``, so that the next attempt starts immediately.

        Returns the session. Raises StaleAttemptError if another call has moved it.
        """
        try:
            return self.sessions.renew_lease(
                session.session_id, session.owner, session.attempt, now
            )
        except StaleAttemptError:
            raise
        except Exception:
            # Only an attempt that holds the session may report BatchesGoneError: otherwise another
            # one may have finished, and the clean-up deleted the batches.
            if isinstance(error, errors.BatchesGoneError):
                raise
            return session
