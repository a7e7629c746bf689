"""Each rule of the protocol left out in turn: the proof must find what goes wrong.

A checker that cannot fail proves nothing. Every variant is the real code with one rule gone.
"""

# ruff: noqa: ANN401 - what is replaced has its types where it is real

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import obstore
import pytest

from tests.proof.scenarios import SCENARIOS
from tests.proof.world import ViolationError, World, count
from uploads import batch_store, errors, protocol
from uploads.finishing import Finish
from uploads.merged_store import MergedStore
from uploads.session import MOVES, Move, State
from uploads.session_store import SessionStore

Break = Callable[[pytest.MonkeyPatch], None]


def no_second_look(patch: pytest.MonkeyPatch) -> None:
    """204 as soon as the batch is stored."""

    def receive(
        sessions: Any, batches: Any, session_id: str, owner: str, read: Any, clock: Any
    ) -> Any:
        session = sessions.recall(session_id, owner, clock()).require_open(clock())
        batch = read()
        session.check_batch(batch.seq_num, batch.records)
        batches.put(session_id, batch)
        return batch

    patch.setattr(protocol, "receive", receive)


def refused_batches_are_deleted(patch: pytest.MonkeyPatch) -> None:
    real = protocol.receive

    def receive(
        sessions: Any, batches: Any, session_id: str, owner: str, read: Any, clock: Any
    ) -> Any:
        try:
            return real(sessions, batches, session_id, owner, read, clock)
        except errors.SessionFinishingError:
            name = batch_store.key(session_id, read().seq_num)
            obstore.delete(batches._store, [name])  # noqa: SLF001
            raise

    patch.setattr(protocol, "receive", receive)


def batches_are_overwritten(patch: pytest.MonkeyPatch) -> None:
    real = obstore.put

    def put(*args: Any, **options: Any) -> Any:
        return real(*args, **options | {"mode": "overwrite"})

    patch.setattr(obstore, "put", put)


def no_decision(patch: pytest.MonkeyPatch) -> None:
    """An attempt publishes what it has found, and commits it."""
    patch.setattr(SessionStore, "decide", lambda _, session, *__: (session, True))
    guard = "(attribute_not_exists(decision) OR decision.digest = :digest)"
    patch.setitem(MOVES, Move.COMMIT, ({State.FINISHING: (guard,)}, State.FINISHED))


def from_any_state(move: Move) -> Break:
    def break_it(patch: pytest.MonkeyPatch) -> None:
        sources, target = MOVES[move]
        (guards,) = sources.values()
        patch.setitem(MOVES, move, (dict.fromkeys(State, guards), target))

    return break_it


def attempts_are_tokens(patch: pytest.MonkeyPatch) -> None:
    """An attempt is what its caller chose, and not one more than the last."""

    def seal(
        self: SessionStore, session_id: str, owner: str, *, holder: str, now: int, lease_until: int
    ) -> Any:
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
    def put(self: MergedStore, session_id: str, body: Any, decision: Any, crc32: str) -> None:
        del crc32
        self._client.put_object(
            Bucket=self._bucket,
            Key=self.key(session_id),
            Metadata={"digest": decision.digest},
            Body=body,
        )

    patch.setattr(MergedStore, "put", put)


def lists_before_it_seals(patch: pytest.MonkeyPatch) -> None:
    real = Finish.__call__

    class Early:
        """The batches, as they were listed."""

        def __init__(self, batches: Any, listing: Any) -> None:
            self._batches, self._listing = batches, listing

        def list(self, *_: object) -> Any:
            return self._listing

        def __getattr__(self, name: str) -> Any:
            return getattr(self._batches, name)

    def call(self: Finish, session_id: str, owner: str, seconds_left: float) -> Any:
        early: Any = Early(self.batches, self.batches.list(session_id))
        return real(replace(self, batches=early), session_id, owner, seconds_left)

    patch.setattr(Finish, "__call__", call)


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
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_found(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    break_it, scenario = BROKEN[name]
    break_it(monkeypatch)
    with pytest.raises(ViolationError):
        SCENARIOS[scenario].explore(world)
    count(f"of {len(BROKEN)} broken variants caught")
