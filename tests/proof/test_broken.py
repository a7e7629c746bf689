"""Mutation tests of the protocol: each variant lacks one rule, and the proof must catch it.

`BROKEN` maps a variant's name to a function that patches the real code, and to the scenario,
operation or story that must then raise ViolationError. To add one, write the function and an entry.
"""

# ruff: noqa: ANN401 - the replaced code has the types

import gzip
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Final

import obstore
import pytest

from tests.proof import world as proof_world
from tests.proof.crashes import OPERATIONS
from tests.proof.keys_and_lists import KEYS_AND_LISTS
from tests.proof.scenarios import SCENARIOS
from tests.proof.stories import STORIES
from tests.proof.world import ViolationError, World, count
from uploads import batch_store, cursor, errors, gzip_member, limits, session_store
from uploads import session as session_module
from uploads.batch import listing_digest
from uploads.cleanup import Cleaned, Cleanup
from uploads.formats import Format
from uploads.lifecycle import Lifecycle
from uploads.merging import outcome, validation
from uploads.merging.composing import Composition
from uploads.merging.executions import Execution
from uploads.merging.finish import Finisher
from uploads.merging.merged_store import MergedStore
from uploads.merging.outcome import Outcomes
from uploads.merging.validation import Verdict, merge_failed
from uploads.receiving import Receiver
from uploads.session import MOVES, Decision, Move, Session, StaleAttemptError, State, Totals
from uploads.session_store import Claim, SessionStore

Break = Callable[[pytest.MonkeyPatch], None]


def no_second_look(patch: pytest.MonkeyPatch) -> None:
    """Answer 204 as soon as the batch is stored."""

    def receive(self: Receiver, session_id: str, owner: str, read: Any) -> Any:
        cached = self.sessions.get_cached(session_id, owner, self.clock())
        batch = read()
        cached.require_open(self.clock()).check_batch(batch.seq_num, batch.records)
        self.batches.put(cached, batch)
        return batch

    patch.setattr(Receiver, "receive", receive)


def refused_batches_are_deleted(patch: pytest.MonkeyPatch) -> None:
    real = Receiver.receive

    def receive(self: Receiver, session_id: str, owner: str, read: Any) -> Any:
        try:
            return real(self, session_id, owner, read)
        except errors.SessionFinishingError:
            name = batch_store.key(session_id, read().seq_num)
            obstore.delete(self.batches._store, [name])  # noqa: SLF001
            raise

    patch.setattr(Receiver, "receive", receive)


def batches_are_overwritten(patch: pytest.MonkeyPatch) -> None:
    real = obstore.put

    def put(*args: Any, **options: Any) -> Any:
        return real(*args, **options | {"mode": "overwrite"})

    patch.setattr(obstore, "put", put)


def no_decision(patch: pytest.MonkeyPatch) -> None:
    """Publish and commit whatever the attempt has listed."""
    patch.setattr(SessionStore, "decide", lambda _, session, __: session)
    guard = "(attribute_not_exists(decision) OR decision.digest = :digest)"
    patch.setitem(MOVES, Move.COMMIT, ({State.FINISHING: (guard,)}, State.FINISHED))


def from_any_state(move: Move) -> Break:
    def break_it(patch: pytest.MonkeyPatch) -> None:
        sources, target = MOVES[move]
        (guards,) = sources.values()
        patch.setitem(MOVES, move, (dict.fromkeys(State, guards), target))

    return break_it


def attempts_are_tokens(patch: pytest.MonkeyPatch) -> None:
    """The attempt number is chosen by the caller instead of counted."""

    def seal(
        self: SessionStore,
        session_id: str,
        owner: str,
        *,
        holder: str,
        now: int,
        lease_until: int,
        totals: Totals,
    ) -> Any:
        del totals
        return self._move(
            Move.SEAL,
            session_id,
            owner,
            "attempt = :token, holder = :holder, leaseUntil = :lease REMOVE upload",
            {
                ":token": int(holder, 16),
                ":holder": holder,
                ":lease": lease_until,
                ":now": now,
                ":soonest": now,
            },
            lambda session: session.state is State.FINISHING and session.holder == holder,
        )

    patch.setattr(SessionStore, "seal", seal)


def merged_objects_are_overwritten(patch: pytest.MonkeyPatch) -> None:
    def put(self: MergedStore, session: Session, body: Any, decision: Any, crc32: str) -> None:
        del crc32
        self._client.put_object(
            Bucket=self._bucket,
            Key=self.key(session),
            Metadata={"digest": decision.digest},
            Body=body,
        )

    patch.setattr(MergedStore, "put", put)


def lists_before_it_seals(patch: pytest.MonkeyPatch) -> None:
    real = Finisher.run

    class Early:
        """The batches with an earlier listing."""

        def __init__(self, batches: Any, listing: Any) -> None:
            self._batches, self._listing = batches, listing

        def list(self, *_: object) -> Any:
            return self._listing

        def __getattr__(self, name: str) -> Any:
            return getattr(self._batches, name)

    def run(self: Finisher, session_id: str, *given: Any) -> Any:
        early: Any = Early(self.batches, self.batches.list(session_id))
        return real(replace(self, batches=early), session_id, *given)

    patch.setattr(Finisher, "run", run)


def dead_attempts_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    """Never hand over because attempts died."""
    patch.setattr(Session, "died", 0)


def only_the_undecided_are_handed_over(patch: pytest.MonkeyPatch) -> None:
    real: Any = Session.died
    patch.setattr(Session, "died", property(lambda self: 0 if self.decision else real.fget(self)))


def executions_are_named_by_the_session(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Execution, "name", property(lambda self: self.session_id))


def a_count_holds_for_any_listing(patch: pytest.MonkeyPatch) -> None:
    real = validation.validate

    def validate(session: Any, totals: Any, listing: Any) -> Any:
        digest = listing_digest(listing)
        counted = session.counted and replace(session.counted, digest=digest)
        return real(replace(session, counted=counted), totals, listing)

    patch.setattr("uploads.merging.finish.validate", validate)


def a_failed_merge_is_remembered(patch: pytest.MonkeyPatch) -> None:
    """A merge_failed is returned again, as if it depended on the listing."""
    real = validation.validate

    def validate(session: Any, totals: Any, listing: Any) -> Any:
        if session.result and session.result.get("reason") == "merge_failed":
            return Verdict("", merge_failed(session, totals, len(listing)))
        return real(session, totals, listing)

    patch.setattr("uploads.merging.finish.validate", validate)


def all_uploads_are_aborted_before_the_reopening(patch: pytest.MonkeyPatch) -> None:
    real = Outcomes.fail

    def fail(self: Outcomes, session: Any, *args: Any) -> Any:
        key, client = self.merged.key(session), self.merged._client  # noqa: SLF001
        found = client.list_multipart_uploads(Bucket=self.merged._bucket, Prefix=key)  # noqa: SLF001
        for upload in found.get("Uploads", []):
            self.merged.abort_upload(session, upload["UploadId"])
        return real(self, session, *args)

    patch.setattr(Outcomes, "fail", fail)


def uploads_are_left(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Composition, "__exit__", lambda *_: None)


def publishes_before_it_decides(patch: pytest.MonkeyPatch) -> None:
    decide, succeed = SessionStore.decide, Outcomes.succeed

    def late(self: Outcomes, session: Any, decision: Any, *args: Any, **options: Any) -> Any:
        session = decide(self.sessions, session, decision)
        return succeed(self, session, decision, *args, **options)

    patch.setattr(SessionStore, "decide", lambda _, session, __: session)
    patch.setattr(Outcomes, "succeed", late)


def the_item_expires_with_the_batches(patch: pytest.MonkeyPatch) -> None:
    """Delete the item when the session stops taking batches."""
    patch.setattr(limits, "GRACE_SECONDS", 0)


def expired_by_the_first_time(patch: pytest.MonkeyPatch) -> None:
    def require_unexpired(self: Session, now: int) -> Session:
        if now >= self.batches_until + limits.FLIGHT_SECONDS and self.state is not State.FINISHED:
            raise errors.SessionExpiredError("By the first time.")
        return self

    patch.setattr(Session, "require_unexpired", require_unexpired)


def expired_without_a_lag(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(limits, "FLIGHT_SECONDS", 0)


def sealed_until_the_end(patch: pytest.MonkeyPatch) -> None:
    """Seal even if no time is left for a merge."""
    patch.setattr(limits, "LONGEST_SECONDS", 0)


def sealed_until_a_call_before_the_end(patch: pytest.MonkeyPatch) -> None:
    """Leave time for a merge in the call, but not for a long one."""
    patch.setattr(limits, "LONGEST_SECONDS", 30 + limits.FLIGHT_SECONDS)


def cleans_up_what_is(state: State) -> Break:
    """Clean up sessions in a state in which acknowledged batches are needed."""

    def break_it(patch: pytest.MonkeyPatch) -> None:
        patch.setattr("uploads.cleanup._ENDED", {*State} - {State.OPEN, State.FINISHING} | {state})
        wanted = {"eventName": ["MODIFY"], "dynamodb": {"NewImage": {"state": {"S": [state]}}}}
        patch.setattr(proof_world, "PATTERNS", [*proof_world.PATTERNS, wanted])

    return break_it


def uploads_before_batches(patch: pytest.MonkeyPatch) -> None:
    def clean_up(self: Cleanup, session_id: str) -> Cleaned:
        uploads = self._abort_uploads(session_id)
        batches = self._delete_all(f"{session_id}/")
        return Cleaned(batches, uploads, self._delete_all(f"merges/{session_id}/"))

    patch.setattr(Cleanup, "run", clean_up)


def plans_are_left(patch: pytest.MonkeyPatch) -> None:
    real = Cleanup._delete_all  # noqa: SLF001

    def delete_all(self: Cleanup, prefix: str) -> int:
        return 0 if prefix.startswith("merges/") else real(self, prefix)

    patch.setattr(Cleanup, "_delete_all", delete_all)


def open_uploads_are_left(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Cleanup, "_abort_uploads", lambda *_: 0)


def a_missing_batch_is_reported_without_a_look(patch: pytest.MonkeyPatch) -> None:
    """Answer as if the attempt still held the session."""
    patch.setattr(Finisher, "_release", lambda _, session, *__: session)


def a_status_trusts_its_first_look(patch: pytest.MonkeyPatch) -> None:
    real = Lifecycle.status

    def status(self: Lifecycle, session: Session) -> Any:
        first: Any = SimpleNamespace(get=lambda *_: session)
        return real(replace(self, sessions=first), session)

    patch.setattr(Lifecycle, "status", status)


def the_file_is_deleted_immediately(patch: pytest.MonkeyPatch) -> None:
    """Delete while an attempt may still publish."""
    patch.setattr(limits, "SETTLING_SECONDS", 0)


def no_request_is_under_way(patch: pytest.MonkeyPatch) -> None:
    """A retried write counts as one that was answered at the first try."""
    patch.setattr("uploads.merging.merged_store._first_try", lambda _: True)


def an_equal_decision_is_taken(patch: pytest.MonkeyPatch) -> None:
    """Continue with an equal decision of a later attempt."""
    real = SessionStore.decide

    def decide(self: SessionStore, session: Session, decision: Decision) -> Session:
        try:
            return real(self, session, decision)
        except StaleAttemptError as stale:
            found = stale.session
            if found.state is State.FINISHING and found.decision == decision:
                return found
            raise

    patch.setattr(SessionStore, "decide", decide)


def deleted_before_it_is_marked(patch: pytest.MonkeyPatch) -> None:
    real = Lifecycle.delete_file

    def delete_file(self: Lifecycle, session_id: str, owner: str) -> None:
        session = self.find(session_id, owner)
        if session.state is State.FINISHED:
            self.merged().delete(session)
        real(self, session_id, owner)

    patch.setattr(Lifecycle, "delete_file", delete_file)


def a_gzip_member_for_each_batch(patch: pytest.MonkeyPatch) -> None:
    """Most readers would take the first member for the whole file."""
    patch.setattr(Format, "store", lambda _, batch: gzip.compress(batch.ndjson))
    patch.setattr(Format, "header", b"")
    patch.setattr(Format, "frame_bytes", 0)
    patch.setattr(Format, "trailer", lambda *_: b"")


def the_trailer_describes_the_stored_bytes(patch: pytest.MonkeyPatch) -> None:
    def trailer(_: Format, batches: Any) -> bytes:
        return gzip_member.trailer(batches.crc32, batches.bytes)

    patch.setattr(Format, "trailer", trailer)


def fitting_to(judge: Callable[[Totals], Totals | None], *, answers: bool) -> Break:
    """Compare totals as ``judge`` returns them (None: not at all), also in answers."""

    def break_it(patch: pytest.MonkeyPatch) -> None:
        def fitting(asked: Totals) -> Any:
            left = judge(asked)
            return session_module.fitting(left) if left else ()

        def require_fitting(self: Session, asked: Totals) -> Session:
            left = judge(asked)
            return real(self, left) if left else self

        patch.setattr(session_store, "fitting", fitting)
        if answers:
            real = Session.require_fitting
            patch.setattr(Session, "require_fitting", require_fitting)

    return break_it


def any_failure_answers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(outcome, "_has_failed_by", lambda session, _: session.state is State.OPEN)


def a_waiting_client_compares_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(proof_world, "is_answered", lambda *_: True)


def no_total_seals(patch: pytest.MonkeyPatch) -> None:
    real = session_module.fitting
    kept = ("attribute_exists(totalRecord) OR",)
    patch.setattr(
        session_store,
        "fitting",
        lambda asked: (term for term in real(asked) if not term[1:].startswith(kept)),
    )


def the_first_seal_says_the_total(patch: pytest.MonkeyPatch) -> None:
    real = SessionStore.seal

    def seal(self: SessionStore, *given: Any, totals: Totals, **more: Any) -> Any:
        sealed = real(self, *given, totals=totals, **more)
        if totals.records is not None:
            self._client.call(
                "UpdateItem",
                {
                    "TableName": self.table,
                    "Key": {"sessionId": {"S": sealed.session_id}},
                    "UpdateExpression": "SET totalRecord = if_not_exists(totalRecord, :total)",
                    "ExpressionAttributeValues": {":total": {"N": str(totals.records)}},
                },
            )
        return sealed

    patch.setattr(SessionStore, "seal", seal)


def the_result_is_of_the_session(patch: pytest.MonkeyPatch) -> None:
    """Take the total from the session instead of from the decision."""
    real = SessionStore.commit

    def commit(self: SessionStore, session: Session, *given: Any, **more: Any) -> Any:
        decision, result, *rest = given
        result = result | {"totalRecord": session.total_record}
        return real(self, session, decision, result, *rest, **more)

    patch.setattr(SessionStore, "commit", commit)


def the_decided_is_validated_again(patch: pytest.MonkeyPatch) -> None:
    real = Finisher._attempt  # noqa: SLF001

    def attempt(self: Finisher, session: Session, *given: Any) -> Any:
        return real(self, replace(session, decision=None), *given)

    patch.setattr(Finisher, "_attempt", attempt)


def a_verdict_is_remembered(patch: pytest.MonkeyPatch) -> None:
    """Reuse a verdict for other totals."""
    real = validation.validate

    def validate(session: Session, totals: Totals, listing: Any) -> Any:
        if session.counted and session.counted.digest == listing_digest(listing):
            totals = Totals((session.result or {})["totalRecord"])  # type: ignore[arg-type]
        return real(session, totals, listing)

    patch.setattr("uploads.merging.finish.validate", validate)


def no_condition_on_the_session(patch: pytest.MonkeyPatch) -> None:
    def create(self: SessionStore, session: Session) -> None:
        item = session_store._item(session)  # noqa: SLF001
        self._client.call("PutItem", {"TableName": self.table, "Item": item})

    patch.setattr(SessionStore, "create", create)


def an_expired_key_counts(patch: pytest.MonkeyPatch) -> None:
    real = SessionStore.claim

    def claim(self: SessionStore, owner: str, key: str, claim: Claim, now: int) -> Claim:
        del now
        return real(self, owner, key, claim, 0)

    patch.setattr(SessionStore, "claim", claim)


def the_body_is_ignored(patch: pytest.MonkeyPatch) -> None:
    real = SessionStore.claim

    def claim(self: SessionStore, owner: str, key: str, claim: Claim, now: int) -> Claim:
        return replace(real(self, owner, key, claim, now), digest=claim.digest)

    patch.setattr(SessionStore, "claim", claim)


def a_stale_read_of_the_key(patch: pytest.MonkeyPatch) -> None:
    """A refused claim reads the key eventually consistently, misses it, and proceeds."""
    real = SessionStore.claim

    def claim(self: SessionStore, owner: str, key: str, claim: Claim, now: int) -> Claim:
        found = real(self, owner, key, claim, now)
        is_new = found.created_at == claim.created_at
        return claim if is_new else found

    patch.setattr(SessionStore, "claim", claim)


def a_key_lives_longer_by(seconds: int) -> Break:
    """Let a key expire ``seconds`` after its session stops taking batches."""

    def break_it(patch: pytest.MonkeyPatch) -> None:
        real = SessionStore.claim

        def claim(self: SessionStore, owner: str, key: str, claim: Claim, now: int) -> Claim:
            wrong = replace(claim, expires_at=claim.expires_at + seconds)
            found = real(self, owner, key, wrong, now)
            return replace(found, expires_at=found.expires_at - seconds)

        patch.setattr(SessionStore, "claim", claim)

    return break_it


def an_abort_lowers_the_expiry(patch: pytest.MonkeyPatch) -> None:
    real = SessionStore.abort

    def abort(self: SessionStore, session_id: str, owner: str, *, now: int) -> Session:
        aborted = real(self, session_id, owner, now=now)
        self._client.call(
            "UpdateItem",
            {
                "TableName": self.table,
                "Key": {"sessionId": {"S": session_id}},
                "UpdateExpression": "SET expiresAt = :now",
                "ExpressionAttributeValues": {":now": {"N": str(now)}},
            },
        )
        return aborted

    patch.setattr(SessionStore, "abort", abort)


def a_cursor_is_anybodys(patch: pytest.MonkeyPatch) -> None:
    real = cursor._code  # noqa: SLF001
    patch.setattr(cursor, "_code", lambda packed, _, key: real(packed, "anybody", key))


def a_cursor_crosses_owners(patch: pytest.MonkeyPatch) -> None:
    """A list continues at any cursor, for any caller."""
    a_cursor_is_anybodys(patch)
    real = SessionStore.page

    def page(self: SessionStore, owner: str, limit: int, after: Any = None) -> Any:
        if after:
            key = {"sessionId": {"S": after.session_id}}
            found = self._client.call("GetItem", {"TableName": self.table, "Key": key})
            owner = found["Item"]["owner"]["S"]
        return real(self, owner, limit, after)

    patch.setattr(SessionStore, "page", page)


BROKEN: Final[dict[str, tuple[Break, str]]] = {
    "204 without a second look": (no_second_look, "a batch too many, finish"),
    "a refused batch is deleted": (refused_batches_are_deleted, "batch, the same, finish"),
    "a batch is overwritten": (batches_are_overwritten, "batch, another"),
    "listing before the seal": (lists_before_it_seals, "a batch too many, finish"),
    "no binding decision": (no_decision, "a batch too many, finish, late finish"),
    "decide from any state": (from_any_state(Move.DECIDE), "finish, abort; flexible"),
    "re-open from any state": (from_any_state(Move.REOPEN), "failing finish, abort"),
    "attempts are tokens": (attempts_are_tokens, "a seal again"),
    "a merged object is overwritten": (
        merged_objects_are_overwritten,
        "finish, late finish; flexible",
    ),
    "never hands over": (dead_attempts_are_not_counted, "every attempt dies"),
    "hands over only the undecided": (only_the_undecided_are_handed_over, "every attempt dies"),
    "executions are named by the session": (
        executions_are_named_by_the_session,
        "an execution fails",
    ),
    "a count holds for any listing": (a_count_holds_for_any_listing, "a count is no verdict"),
    "a failed merge is remembered": (a_failed_merge_is_remembered, "an execution fails"),
    "all uploads are aborted before the re-opening": (
        all_uploads_are_aborted_before_the_reopening,
        "failing finish, late finish in parts, batch",
    ),
    "an upload is left": (uploads_are_left, "multipart finish, abort"),
    "published before the decision": (publishes_before_it_decides, "finish, abort; flexible"),
    "clean-up on FINISHING": (cleans_up_what_is(State.FINISHING), "finish, clean-up"),
    "clean-up of a re-opened session": (cleans_up_what_is(State.OPEN), "failing finish, clean-up"),
    "uploads before batches": (
        uploads_before_batches,
        "slow decided finish, clean-up, the object's end",
    ),
    "plans are left": (plans_are_left, "clean-up after a long merge"),
    "uploads are left": (open_uploads_are_left, "clean-up of an aborted session"),
    "a missing batch is reported without a look": (
        a_missing_batch_is_reported_without_a_look,
        "slow decided finish, late finish, clean-up",
    ),
    "a status trusts its first look": (
        a_status_trusts_its_first_look,
        "status, finish, clean-up",
    ),
    "the file is deleted immediately": (
        the_file_is_deleted_immediately,
        "slow decided finish, finish and delete",
    ),
    "no request is under way": (
        no_request_is_under_way,
        "a late write",
    ),
    "an equal decision of a later attempt is taken": (
        an_equal_decision_is_taken,
        "both decide the same, and the second deletes",
    ),
    "an equal decision of a later attempt is taken, after a failure": (
        an_equal_decision_is_taken,
        "an attempt wakes up late",
    ),
    "deleted before it is marked": (
        deleted_before_it_is_marked,
        "slow decided finish, finish and delete",
    ),
    "a gzip member for each batch": (a_gzip_member_for_each_batch, "gzip: finish, streamed"),
    "the trailer describes the stored bytes": (
        the_trailer_describes_the_stored_bytes,
        "gzip: finish, streamed",
    ),
    "totals are never compared": (
        fitting_to(lambda _: None, answers=True),
        "totals: right, late wrong",
    ),
    "totals are compared where a seal is refused": (
        fitting_to(lambda _: None, answers=False),
        "totals: right, late wrong",
    ),
    "the number of batches is not compared": (
        fitting_to(lambda asked: Totals(asked.records), answers=True),
        "totals: batches, late others",
    ),
    "another attempt's failure is answered": (any_failure_answers, "totals: right, late wrong"),
    "a waiting client compares nothing": (
        a_waiting_client_compares_nothing,
        "totals: wrong, late right",
    ),
    "no total seals an open-ended session": (no_total_seals, "totals come later"),
    "the first seal says the total": (the_first_seal_says_the_total, "totals come later"),
    "the result is of the session": (the_result_is_of_the_session, "totals come later"),
    "a conflicting take-over": (
        fitting_to(lambda _: None, answers=False),
        "what is decided is completed",
    ),
    "the decided is validated again": (
        the_decided_is_validated_again,
        "what is decided is completed",
    ),
    "a verdict is remembered": (a_verdict_is_remembered, "totals come later"),
    "no condition on the session of a key": (no_condition_on_the_session, "create again, abort"),
    "an expired key counts": (an_expired_key_counts, "keys and time"),
    "the body of a key is ignored": (the_body_is_ignored, "create, another body"),
    "a stale read of the key": (a_stale_read_of_the_key, "create, the same"),
    "a key outlives its session's time": (a_key_lives_longer_by(1), "keys and time"),
    "a key dies before its session's time": (a_key_lives_longer_by(-2), "keys and time"),
    "an abort lowers the expiry": (an_abort_lowers_the_expiry, "keys and time"),
    "a cursor is anybody's": (a_cursor_is_anybodys, "two lists"),
    "a cursor crosses owners": (a_cursor_crosses_owners, "two lists"),
    "the item expires with the batches": (the_item_expires_with_the_batches, "the last seal"),
    "expired by the first time": (expired_by_the_first_time, "nobody is told 410"),
    "expired without a lag": (expired_without_a_lag, "finish in time, another too late"),
    "sealed until the end": (sealed_until_the_end, "the last seal"),
    "sealed until a call before the end": (sealed_until_a_call_before_the_end, "the last seal"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_found(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    break_it, place = BROKEN[name]
    break_it(monkeypatch)
    places: dict[str, Any] = {
        **STORIES,
        **KEYS_AND_LISTS,
        **{name: each.explore for name, each in SCENARIOS.items()},
        **{name: each.calls for name, each in OPERATIONS.items()},
    }
    with pytest.raises(ViolationError):
        places[place](world)
    count(f"of {len(BROKEN)} broken variants caught")
