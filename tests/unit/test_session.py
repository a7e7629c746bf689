"""A session's checks at their boundaries, and its table of moves compared with the protocol."""

import itertools
from dataclasses import asdict, dataclass, replace
from typing import Any

import pytest

from uploads import errors, limits
from uploads.session import (
    MOVES,
    Counted,
    Decision,
    Move,
    Session,
    State,
    Totals,
    Upload,
    condition,
    fitting,
)

LARGEST = 2**53 - 1
BATCHES = 100_000
"""Maximum batches of a session."""

SESSION = Session(
    session_id="0" * 32,
    owner="anybody",
    total_record=10,
    batch_size=4,
    created_at=1_000,
    batches_until=2_000,
    expires_at=90_000,
)


def session(total_record: int | None, batch_size: int | None) -> Session:
    return replace(SESSION, total_record=total_record, batch_size=batch_size)


@pytest.mark.parametrize(
    ("total_record", "batch_size", "expected"),
    [
        (None, None, None),
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
def test_expected_batches(
    total_record: int | None, batch_size: int | None, expected: int | None
) -> None:
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
    # The suggested batch size works, and the next smaller one does not.
    session(total_record, minimum).check_batches()
    with pytest.raises(errors.TooManyBatchesError):
        session(total_record, minimum - 1).check_batches()


STATE_ERRORS: list[tuple[State, type[errors.GaplessError], str]] = [
    (State.FINISHING, errors.SessionFinishingError, "Wait for Retry-After"),
    (State.FINISHED, errors.SessionFinishedError, "Create a new one"),
    (State.ABORTED, errors.SessionAbortedError, "Create a new one"),
]


@pytest.mark.parametrize("now", [0, SESSION.created_at, SESSION.batches_until - 1])
def test_an_open_session_takes_batches_until_its_time_is_over(now: int) -> None:
    assert SESSION.require_open(now) is SESSION
    assert SESSION.require_unexpired(now) is SESSION


@pytest.mark.parametrize(("state", "error", "advice"), STATE_ERRORS)
@pytest.mark.parametrize("late", [-1, 0, limits.FLIGHT_SECONDS - 1])
def test_any_other_session_takes_none(
    state: State, error: type[errors.GaplessError], advice: str, late: int
) -> None:
    with pytest.raises(error) as caught:
        replace(SESSION, state=state).require_open(SESSION.batches_until + late)
    assert type(caught.value) is error
    assert advice in caught.value.detail


FLIGHT = limits.FLIGHT_SECONDS
OVER = {
    State.OPEN: SESSION.batches_until + FLIGHT,
    State.ABORTED: SESSION.batches_until + FLIGHT,
    State.FINISHING: SESSION.expires_at + FLIGHT,
    State.FINISHED: SESSION.expires_at,
}
"""When no attempt can finish the session any more, or its result is gone, seconds since 1970."""


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("late", [0, 1, 86_400])
def test_a_session_expires_when_it_can_no_longer_be_finished(state: State, late: int) -> None:
    expired = replace(SESSION, state=state)
    for check in (expired.require_open, expired.require_unexpired):
        with pytest.raises(errors.SessionExpiredError) as caught:
            check(OVER[state] + late)
        assert "Create a new one" in caught.value.detail


@pytest.mark.parametrize("state", State)
def test_an_unexpired_session_may_be_looked_at_in_every_state(state: State) -> None:
    found = replace(SESSION, state=state)
    assert found.require_unexpired(OVER[state] - 1) is found


@pytest.mark.parametrize("late", [0, FLIGHT - 1])
def test_an_open_session_whose_time_is_over_takes_none_though_a_seal_may_be_under_way(
    late: int,
) -> None:
    now = SESSION.batches_until + late
    with pytest.raises(errors.SessionExpiredError):
        SESSION.require_open(now)
    assert SESSION.require_unexpired(now) is SESSION


DECISION = Decision(1, 1, 1, "digest")


@pytest.mark.parametrize(
    ("changes", "ends"),
    [
        ({}, SESSION.batches_until),
        ({"state": State.ABORTED}, SESSION.batches_until),
        ({"state": State.FINISHING}, SESSION.batches_until),
        ({"state": State.FINISHING, "decision": DECISION}, SESSION.expires_at),
        ({"state": State.FINISHED, "decision": DECISION}, SESSION.expires_at),
    ],
)
def test_what_the_api_calls_expires_at(changes: dict[str, Any], ends: int) -> None:
    assert replace(SESSION, **changes).ends_at == ends


def test_the_times_leave_room_for_each_other() -> None:
    """An attempt sealed in time, and one more after it, end before the item does."""
    assert limits.LONGEST_SECONDS + FLIGHT < limits.GRACE_SECONDS
    longest_life = 7 * 86_400
    assert longest_life + limits.GRACE_SECONDS <= limits.LATEST_FINISH_SECONDS


@pytest.mark.parametrize(
    ("attempt", "settled", "died"), [(1, 0, 0), (2, 0, 1), (2, 1, 0), (7, 3, 3)]
)
def test_attempts_that_have_come_to_no_end(attempt: int, settled: int, died: int) -> None:
    assert replace(SESSION, attempt=attempt, last_reopened_attempt=settled).died == died


def test_what_is_remembered_of_a_session_never_changes() -> None:
    moved = replace(
        SESSION,
        state=State.FINISHING,
        attempt=3,
        holder="x",
        lease_until=5,
        last_reopened_attempt=1,
        upload=Upload("id", 3),
        decision=DECISION,
        counted=Counted("digest", 1),
        result={"missing": [{"from": 0, "to": 1}]},
        report=1,
        finished_at=1,
        publisher=3,
        file_deleted_at=2,
    )
    assert moved.as_created() == SESSION


@pytest.mark.parametrize(
    ("attempt", "publisher", "finished_at", "lease_until", "settled_at"),
    [
        (1, 1, 5_000, 5_020, 0),
        (2, 2, 5_000, 5_020, 0),
        # Another attempt was sealed before the commit.
        (2, 1, 5_000, 5_020, 5_600),
        (2, None, 5_000, 5_020, 5_600),
        # Item of the previous release: an attempt may outlive its lease by a task, then commit.
        (1, None, None, 5_020, 5_980),
    ],
)
def test_nobody_publishes_again(
    attempt: int, publisher: int | None, finished_at: int | None, lease_until: int, settled_at: int
) -> None:
    finished = replace(
        SESSION,
        state=State.FINISHED,
        attempt=attempt,
        publisher=publisher,
        finished_at=finished_at,
        lease_until=lease_until,
    )
    assert finished.settled_at == settled_at


def test_an_attempt_is_over_before_its_object_may_be_deleted() -> None:
    longest_task = 300
    assert longest_task + FLIGHT <= limits.SETTLING_SECONDS
    assert longest_task <= limits.TASK_LEASE_SECONDS


LEGAL = {
    (Move.SEAL, State.OPEN, State.FINISHING),
    (Move.SEAL, State.FINISHING, State.FINISHING),
    (Move.LEASE, State.FINISHING, State.FINISHING),
    (Move.DECIDE, State.FINISHING, State.FINISHING),
    (Move.COMMIT, State.FINISHING, State.FINISHED),
    (Move.REOPEN, State.FINISHING, State.OPEN),
    (Move.ABORT, State.OPEN, State.ABORTED),
    (Move.ABORT, State.FINISHING, State.ABORTED),
    (Move.DELETE_FILE, State.FINISHED, State.FINISHED),
}
"""The moves of the protocol."""


def test_the_legal_moves_are_the_documented_ones() -> None:
    table = {
        (move, source, target) for move, (sources, target) in MOVES.items() for source in sources
    }
    assert table == LEGAL
    assert set(MOVES) == set(Move)


NOW = 1_000_000
SOONEST = NOW + limits.LONGEST_SECONDS
PAST = NOW - limits.FLIGHT_SECONDS
TIMES = sorted({t + d for t in (PAST, NOW, SOONEST) for d in (0, 1)})


@dataclass(frozen=True)
class Item:
    """The parts of an item that conditions compare."""

    ours: bool
    """The caller is the owner."""
    state: State
    batches_until: int | None
    """None in items of the release with a single time."""
    expires_at: int
    lease_out: bool
    decided: bool
    same_attempt: bool
    same_digest: bool
    alone: bool = False
    """The last attempt published it."""
    settled: bool | None = None
    """It finished ten minutes ago; None if the item does not say when."""
    quiet: bool = False
    """Its lease expired long ago."""
    kept_until: int | None = None
    """When the result expires; None in items of the previous release."""

    def holds(self, term: str) -> bool:
        """Evaluate one comparison as DynamoDB does."""
        prefix = "#state = :"
        if term.startswith(prefix):
            return term == prefix + self.state
        name, _, value = term.partition(" > ")
        if value:
            time = {
                "batchesUntil": self.batches_until,
                "expiresAt": self.expires_at,
                "keptUntil": self.kept_until,
            }[name]
            return (
                time is not None and time > {":now": NOW, ":soonest": SOONEST, ":past": PAST}[value]
            )
        return {
            "#owner = :owner": self.ours,
            "leaseUntil <= :now": self.lease_out,
            "attempt = :attempt": self.same_attempt,
            "attribute_not_exists(batchesUntil)": self.batches_until is None,
            "attribute_not_exists(decision)": not self.decided,
            "decision.digest = :digest": self.decided and self.same_digest,
            "publisher = attempt": self.alone,
            "finishedAt <= :settled": bool(self.settled),
            "attribute_not_exists(finishedAt)": self.settled is None,
            "leaseUntil <= :quiet": self.quiet,
            "attribute_not_exists(keptUntil)": self.kept_until is None,
        }[term]

    def allows(self, move: Move) -> bool:
        return any(
            all(self.holds(term) for term in branch[1:-1].split(" AND "))
            for branch in condition(move).split(" OR ")
        )

    def ought_to_allow(self, move: Move) -> bool:
        """The protocol's rule for the move."""
        is_open, finishing = self.state is State.OPEN, self.state is State.FINISHING
        undecided = finishing and not self.decided
        until = self.expires_at if self.batches_until is None else self.batches_until
        match move:
            case Move.SEAL:
                # The longest merge must end before the item is deleted, except for older items.
                longest = 0 if self.batches_until is None else limits.LONGEST_SECONDS
                takes_over = finishing and self.lease_out and self.expires_at > NOW + longest
                legal = (is_open and until > NOW) or takes_over
            case Move.LEASE:
                # A long merge must hold the session even after the decision.
                legal = finishing and self.same_attempt
            case Move.REOPEN | Move.DECIDE:
                legal = undecided and self.same_attempt
            case Move.COMMIT:
                legal = finishing and self.decided and self.same_digest
            case Move.ABORT:
                # As long as it is not answered as expired.
                legal = (is_open and until > PAST) or (undecided and self.expires_at > PAST)
            case Move.DELETE_FILE:
                kept = self.expires_at if self.kept_until is None else self.kept_until
                finished = self.state is State.FINISHED and kept > NOW
                settled = self.quiet if self.settled is None else self.settled
                legal = finished and (self.alone or settled)
        return self.ours and legal


BOOLS = (False, True)
ITEMS = [
    Item(*facts)
    for facts in itertools.product(BOOLS, State, [None, *TIMES], TIMES, BOOLS, BOOLS, BOOLS, BOOLS)
] + [
    Item(ours, state, NOW, expires, True, True, True, True, alone, settled, quiet, kept)  # noqa: FBT003
    for ours, state, expires, alone, settled, quiet, kept in itertools.product(
        BOOLS, State, (NOW, NOW + 1), BOOLS, (None, *BOOLS), BOOLS, (None, NOW, NOW + 1)
    )
]


@pytest.mark.parametrize("move", Move)
def test_conditions_allow_exactly_what_the_protocol_does(move: Move) -> None:
    wrong = [item for item in ITEMS if item.allows(move) != item.ought_to_allow(move)]
    assert wrong == []
    assert any(item.allows(move) for item in ITEMS)


FACTS = [
    *(
        session(total, size)
        for total, size in [(None, None), (5, None), (6, None), (5, 2), (6, 2), (5, 3), (0, 1)]
    ),
    *(
        replace(session(total, size), state=State.FINISHING, decision=Decision(2, 5, 9, "digest"))
        for total, size in [(None, None), (5, None), (5, 3)]
    ),
]
ASKED = [Totals(*said) for said in itertools.product([None, 0, 5, 6], [None, 0, 2, 3])]


def holds(term: str, found: Session, asked: Totals) -> bool:
    """Evaluate a term of ``fitting`` as DynamoDB does."""
    if term.startswith("("):
        return any(holds(one, found, asked) for one in term[1:-1].split(" OR "))
    name, _, value = term.partition(" = :")
    decided = {"records": None, "batches": None} | asdict(found.decision or Totals())
    there = {
        "totalRecord": found.total_record,
        "batchSize": found.batch_size,
        "decision": found.decision,
        "decision.records": decided["records"],
        "decision.batches": decided["batches"],
    }
    if value:
        said = asdict(asked)[value]
        assert said is not None, "DynamoDB does not know such a value"
        return bool(there[name] == said)
    exists, _, name = term.removesuffix(")").partition("(")
    return {"attribute_exists": True, "attribute_not_exists": False}[exists] == (
        there[name] is not None
    )


def conflict(found: Session, asked: Totals) -> bool:
    """Whether the finish contradicts fixed totals."""
    records = found.decision.records if found.decision else found.total_record
    batches = found.decision.batches if found.decision else found.expected_batches
    wrong_total = None not in {records, asked.records} and records != asked.records
    return wrong_total or (None not in {batches, asked.batches} and batches != asked.batches)


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_a_seal_is_taken_where_its_totals_fit(asked: Totals) -> None:
    for found in FACTS:
        lacks = found.total_record is None and not found.decision and asked.records is None
        # A batchSize fixes the number of batches, but only readers of the item compute it.
        unknown = asked.batches is not None and found.batch_size is not None
        fits = all(holds(term, found, asked) for term in fitting(asked))
        assert fits == (not conflict(found, asked) and not lacks and not unknown), found


def test_what_fits_is_asked_for_in_every_state_that_a_seal_begins_in() -> None:
    asked = Totals(5, 2)
    branches = condition(Move.SEAL, *fitting(asked)).split(") OR (#owner")
    assert len(branches) == len(condition(Move.SEAL).split(" OR "))
    assert all(" AND ".join(fitting(asked)) in branch for branch in branches)


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_totals_that_cannot_be_answered(asked: Totals) -> None:
    for found in FACTS:
        if conflict(found, asked):
            with pytest.raises(errors.TotalsConflictError) as caught:
                found.require_fitting(asked)
            told = caught.value
            assert told.members == {"fixed": found.fixed.members, "asked": asked.members}
            assert all(f"{name} {said}" in told.detail for name, said in asked.members.items())
        elif (found.total_record, asked.records, found.decision) == (None, None, None):
            with pytest.raises(errors.MissingTotalError) as lacking:
                found.require_fitting(asked)
            assert '{"totalRecord": n}' in lacking.value.detail
        else:
            assert found.require_fitting(asked) is found


@pytest.mark.parametrize("found", FACTS, ids=str)
def test_what_a_finish_is_judged_by(found: Session) -> None:
    for asked in ASKED:
        judged = found.judged_by(asked)
        assert judged.batches == asked.batches
        own = asked.records if found.total_record is None else found.total_record
        assert judged.records == own
