"""A session's checks at their boundaries, and its table of legal moves against the document."""

import itertools
from dataclasses import dataclass, replace

import pytest

from uploads import errors
from uploads.session import MOVES, Move, Session, State, condition

LARGEST = 2**53 - 1
BATCHES = 100_000
"""Most batches in a session."""

SESSION = Session(
    session_id="0" * 32,
    owner="anybody",
    total_record=10,
    batch_size=4,
    created_at=1_000,
    expires_at=2_000,
)


def session(total_record: int, batch_size: int | None) -> Session:
    return replace(SESSION, total_record=total_record, batch_size=batch_size)


@pytest.mark.parametrize(
    ("total_record", "batch_size", "expected"),
    [
        (0, None, None),
        (LARGEST, None, None),
        (0, 1, 0),
        (0, LARGEST, 0),
        (1, 1, 1),
        (1, 2, 1),
        (1, LARGEST, 1),
        (11, 4, 3),
        (12, 4, 3),
        (13, 4, 4),
        (99_999, 100_000, 1),
        (100_000, 100_000, 1),
        (100_001, 100_000, 2),
        (LARGEST - 1, LARGEST, 1),
        (LARGEST, LARGEST, 1),
        (LARGEST, LARGEST - 1, 2),
        (LARGEST, 2, 2**52),
        (LARGEST, 1, LARGEST),
    ],
)
def test_expected_batches(total_record: int, batch_size: int | None, expected: int | None) -> None:
    assert session(total_record, batch_size).expected_batches == expected


@pytest.mark.parametrize(
    ("total_record", "batch_size", "seq_num", "expected"),
    [
        (0, None, 0, None),
        (10, None, 0, None),
        (10, None, 99_999, None),
        (1, 1, 0, 1),
        (10, 4, 0, 4),
        (10, 4, 1, 4),
        (10, 4, 2, 2),
        (11, 4, 2, 3),
        (12, 4, 2, 4),
        (13, 4, 2, 4),
        (13, 4, 3, 1),
        (3, 4, 0, 3),
        (LARGEST, LARGEST - 1, 0, LARGEST - 1),
        (LARGEST, LARGEST - 1, 1, 1),
    ],
)
def test_expected_records(
    total_record: int, batch_size: int | None, seq_num: int, expected: int | None
) -> None:
    assert session(total_record, batch_size).expected_records(seq_num) == expected


@pytest.mark.parametrize(
    ("total_record", "batch_size", "seq_num", "expected"),
    [
        (0, 1, 0, None),
        (0, 1, 99_999, None),
        (1, 1, 1, {"from": 0, "to": 0}),
        (3, 4, 1, {"from": 0, "to": 0}),
        (4, 4, 1, {"from": 0, "to": 0}),
        (5, 4, 2, {"from": 0, "to": 1}),
        (10, 4, 3, {"from": 0, "to": 2}),
        (10, 4, 99_999, {"from": 0, "to": 2}),
    ],
)
def test_seq_num_out_of_range(
    total_record: int, batch_size: int, seq_num: int, expected: dict[str, int] | None
) -> None:
    with pytest.raises(errors.SeqNumOutOfRangeError) as caught:
        session(total_record, batch_size).check_batch(seq_num, 1)
    assert caught.value.members == {"expected": expected}
    assert f"got seqNum {seq_num}" in caught.value.detail
    if expected:
        assert f"seqNum 0 to {expected['to']}" in caught.value.detail
    else:
        assert "no batches" in caught.value.detail


@pytest.mark.parametrize(
    ("seq_num", "records", "expected"),
    [(0, 3, 4), (0, 5, 4), (0, 1, 4), (1, 3, 4), (1, 5, 4), (2, 1, 2), (2, 3, 2), (2, 4, 2)],
)
def test_wrong_length_is_refused(seq_num: int, records: int, expected: int) -> None:
    with pytest.raises(errors.WrongBatchLengthError) as caught:
        session(10, 4).check_batch(seq_num, records)
    assert caught.value.members == {"expected": expected, "received": records}
    assert f"must have {expected} records" in caught.value.detail


@pytest.mark.parametrize(
    ("batch_size", "seq_num", "records"),
    [
        pytest.param(4, 0, 4, id="first"),
        pytest.param(4, 1, 4, id="middle"),
        pytest.param(4, 2, 2, id="last"),
        pytest.param(10, 0, 10, id="only"),
        pytest.param(11, 0, 10, id="only, short"),
        pytest.param(None, 0, 1, id="any length"),
        pytest.param(None, 99_999, 1_000_000, id="any number, any length"),
    ],
)
def test_right_length_is_taken(batch_size: int | None, seq_num: int, records: int) -> None:
    facts = session(10, batch_size)
    facts.check_batch(seq_num, records)
    assert facts.expected_records(seq_num) in {None, records}


@pytest.mark.parametrize(("total_record", "batch_size"), [(1, 1), (9, 4), (12, 4), (13, 4)])
def test_expected_records_add_up(total_record: int, batch_size: int) -> None:
    facts = session(total_record, batch_size)
    count = facts.expected_batches
    assert count is not None
    assert sum(facts.expected_records(at) or 0 for at in range(count)) == total_record


@pytest.mark.parametrize(
    ("total_record", "batch_size"),
    [
        (0, 1),
        (BATCHES - 1, 1),
        (BATCHES, 1),
        (7 * BATCHES - 1, 7),
        (7 * BATCHES, 7),
        (LARGEST, None),
        (LARGEST, LARGEST),
    ],
)
def test_as_many_batches_as_there_can_be(total_record: int, batch_size: int | None) -> None:
    facts = session(total_record, batch_size)
    facts.check_batches()
    assert (facts.expected_batches or 0) <= BATCHES


@pytest.mark.parametrize(
    ("total_record", "batch_size", "minimum"),
    [
        (BATCHES + 1, 1, 2),
        (7 * BATCHES + 1, 7, 8),
        (7 * BATCHES + 7, 7, 8),
        (LARGEST, 1, -(-LARGEST // BATCHES)),
    ],
)
def test_too_many_batches(total_record: int, batch_size: int, minimum: int) -> None:
    with pytest.raises(errors.TooManyBatchesError) as caught:
        session(total_record, batch_size).check_batches()
    assert caught.value.members == {"minimum": minimum}
    assert f"Use a batchSize of {minimum} or more" in caught.value.detail
    # What is advised works, and nothing smaller does.
    session(total_record, minimum).check_batches()
    with pytest.raises(errors.TooManyBatchesError):
        session(total_record, minimum - 1).check_batches()


STATE_ERRORS: list[tuple[State, type[errors.GaplessError], str]] = [
    (State.FINISHING, errors.SessionFinishingError, "Wait for Retry-After"),
    (State.FINISHED, errors.SessionFinishedError, "Create a new one"),
    (State.ABORTED, errors.SessionAbortedError, "Create a new one"),
]


@pytest.mark.parametrize("now", [0, SESSION.created_at, SESSION.expires_at - 1])
def test_an_open_session_takes_batches_until_it_expires(now: int) -> None:
    assert SESSION.require_open(now) is SESSION
    assert SESSION.require_unexpired(now) is SESSION


@pytest.mark.parametrize(("state", "error", "advice"), STATE_ERRORS)
def test_any_other_session_takes_none(
    state: State, error: type[errors.GaplessError], advice: str
) -> None:
    with pytest.raises(error) as caught:
        replace(SESSION, state=state).require_open(SESSION.expires_at - 1)
    assert type(caught.value) is error
    assert advice in caught.value.detail


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("late", [0, 1, 86_400])
def test_a_session_expires_exactly_at_its_time_whatever_its_state(state: State, late: int) -> None:
    expired = replace(SESSION, state=state)
    for check in (expired.require_open, expired.require_unexpired):
        with pytest.raises(errors.SessionExpiredError) as caught:
            check(SESSION.expires_at + late)
        assert "Create a new one" in caught.value.detail


@pytest.mark.parametrize("state", State)
def test_an_unexpired_session_may_be_looked_at_in_every_state(state: State) -> None:
    found = replace(SESSION, state=state)
    assert found.require_unexpired(SESSION.expires_at - 1) is found


LEGAL = {
    (Move.SEAL, State.OPEN, State.FINISHING),
    (Move.SEAL, State.FINISHING, State.FINISHING),
    (Move.LEASE, State.FINISHING, State.FINISHING),
    (Move.DECIDE, State.FINISHING, State.FINISHING),
    (Move.COMMIT, State.FINISHING, State.FINISHED),
    (Move.REOPEN, State.FINISHING, State.OPEN),
    (Move.ABORT, State.OPEN, State.ABORTED),
    (Move.ABORT, State.FINISHING, State.ABORTED),
}
"""What the protocol allows: sealing, taking over, holding on, deciding, success, failure, abort."""


def test_the_legal_moves_are_the_documented_ones() -> None:
    table = {
        (move, source, target) for move, (sources, target) in MOVES.items() for source in sources
    }
    assert table == LEGAL
    assert set(MOVES) == set(Move)


@pytest.mark.parametrize("final", [State.FINISHED, State.ABORTED])
def test_nothing_leaves_a_final_state(final: State) -> None:
    assert not [move for move, (sources, _) in MOVES.items() if final in sources]
    assert not [move for move in Move if final.value in condition(move)]


@pytest.mark.parametrize("move", Move)
def test_every_branch_of_a_condition_names_the_owner_and_a_source_state(move: Move) -> None:
    branches = condition(move).split(" OR ")
    assert len(branches) == len(MOVES[move][0])
    for branch, source in zip(branches, MOVES[move][0], strict=True):
        assert branch.startswith("(")
        assert branch.endswith(")")
        assert "#owner = :owner AND " in branch
        assert f"#state = :{source} AND " in branch


@pytest.mark.parametrize("move", [Move.ABORT, Move.REOPEN, Move.DECIDE])
def test_what_is_decided_is_neither_given_up_nor_decided_again(move: Move) -> None:
    assert "attribute_not_exists(decision)" in MOVES[move][0][State.FINISHING]


@dataclass(frozen=True)
class Item:
    """What a condition can see of a session's item, each fact a yes or a no."""

    ours: bool
    """The caller owns it."""
    state: State
    expired: bool
    lease_out: bool
    decided: bool
    same_attempt: bool
    same_digest: bool

    def holds(self, term: str) -> bool:
        """What DynamoDB makes of one comparison of a condition."""
        prefix = "#state = :"
        if term.startswith(prefix):
            return term == prefix + self.state
        return {
            "#owner = :owner": self.ours,
            "expiresAt > :now": not self.expired,
            "leaseUntil <= :now": self.lease_out,
            "attempt = :attempt": self.same_attempt,
            "attribute_not_exists(decision)": not self.decided,
            "decision.digest = :digest": self.decided and self.same_digest,
        }[term]

    def allows(self, move: Move) -> bool:
        """Evaluate the move's condition."""
        return any(
            all(self.holds(term) for term in branch[1:-1].split(" AND "))
            for branch in condition(move).split(" OR ")
        )

    def ought_to_allow(self, move: Move) -> bool:
        """What the protocol says, in its own words."""
        undecided = self.state is State.FINISHING and not self.decided
        match move:
            case Move.SEAL:
                takes_over = self.state is State.FINISHING and self.lease_out
                legal = not self.expired and (self.state is State.OPEN or takes_over)
            case Move.LEASE:
                # Decided or not: a long merge that is bound must hold the session all the same.
                legal = self.state is State.FINISHING and self.same_attempt
            case Move.REOPEN | Move.DECIDE:
                legal = undecided and self.same_attempt
            case Move.COMMIT:
                legal = self.state is State.FINISHING and self.decided and self.same_digest
            case Move.ABORT:
                legal = not self.expired and (self.state is State.OPEN or undecided)
        return self.ours and legal


BOOLS = (False, True)
ITEMS = [
    Item(*facts) for facts in itertools.product(BOOLS, State, BOOLS, BOOLS, BOOLS, BOOLS, BOOLS)
]


@pytest.mark.parametrize("move", Move)
def test_conditions_allow_exactly_what_the_protocol_does(move: Move) -> None:
    wrong = [item for item in ITEMS if item.allows(move) != item.ought_to_allow(move)]
    assert wrong == []
    assert any(item.allows(move) for item in ITEMS)
