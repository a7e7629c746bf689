"""The answer to a finish whose move was refused, derived from the session's item."""

from dataclasses import replace
from typing import Any

import pytest

from uploads import errors, limits
from uploads.merging.outcome import Outcomes
from uploads.reports import ReportStore
from uploads.session import NO_TOTALS, Decision, Session, State, Totals

UNTIL, EXPIRES = 2_000, 90_000
OPEN_ENDED = Session(
    session_id="0" * 32,
    owner="anybody",
    total_record=None,
    batch_size=None,
    created_at=1_000,
    batches_until=UNTIL,
    expires_at=EXPIRES,
    attempt=3,
)
SUCCESS: dict[str, object] = {"validationResult": "Success", "totalRecord": 5, "batches": 2}
DECIDED: dict[str, Any] = {"decision": Decision(2, 5, 9, "digest")}
SEALED: dict[str, Any] = {"state": State.FINISHING, "finishing_since": 1_500}
FINISHED: dict[str, Any] = {"state": State.FINISHED, "result": SUCCESS, **DECIDED}


def failed(total: int, batches: int | None = None) -> dict[str, Any]:
    """An item that is open again after a failure."""
    judged: dict[str, object] = {"validationResult": "Failed", "totalRecord": total}
    return {"result": judged | ({} if batches is None else {"expectedBatches": batches})}


def answer(found: Session, asked: Totals, now: int = 1_500) -> object:
    """The body of a 200, ``FINISHING`` for a 202, or an error's class."""
    unused: Any = None
    outcomes = Outcomes(unused, ReportStore(unused), unused, lambda: now, 0)
    try:
        outcome = outcomes.outcome_from(found, asked)
    except errors.GaplessError as error:
        return type(error)
    assert outcome.result or outcome.finishing_since == found.finishing_since
    return outcome.result or "FINISHING"


GONE, ABORTED = errors.SessionExpiredError, errors.SessionAbortedError
CONFLICT, MISSING = errors.TotalsConflictError, errors.MissingTotalError
T5, T6, M2, M3 = Totals(5), Totals(6), Totals(None, 2), Totals(None, 3)


@pytest.mark.parametrize(
    ("found", "asked", "expected"),
    [
        ({"state": State.ABORTED}, NO_TOTALS, ABORTED),
        ({"state": State.ABORTED, "total_record": 5}, T6, ABORTED),
        # Judged by the totals of the create.
        ({"total_record": 5, **SEALED}, T6, CONFLICT),
        ({"total_record": 5, "batch_size": 3, **SEALED}, M3, CONFLICT),
        ({"total_record": 5, "batch_size": 3, **SEALED}, Totals(5, 2), "FINISHING"),
        ({"total_record": 5, **failed(5)}, T6, CONFLICT),
        # Judged by what was merged.
        (FINISHED, NO_TOTALS, SUCCESS),
        (FINISHED, Totals(5, 2), SUCCESS),
        (FINISHED, T6, CONFLICT),
        (FINISHED, M3, CONFLICT),
        # Judged by the decision.
        ({**SEALED, **DECIDED}, NO_TOTALS, "FINISHING"),
        ({**SEALED, **DECIDED}, Totals(5, 2), "FINISHING"),
        ({**SEALED, **DECIDED}, Totals(5, 3), CONFLICT),
        ({**SEALED, **DECIDED}, T6, CONFLICT),
        # Undecided: other totals are allowed, no total is not.
        (SEALED, NO_TOTALS, MISSING),
        (SEALED, M2, MISSING),
        (SEALED, T5, "FINISHING"),
        (failed(5), NO_TOTALS, MISSING),
        ({**SEALED, **failed(5)}, T5, "FINISHING"),
        # Open again after a failure: the same totals, or others.
        (failed(5), T5, failed(5)["result"]),
        (failed(5, 2), Totals(5, 2), failed(5, 2)["result"]),
        (failed(5), T6, "FINISHING"),
        (failed(5, 2), T5, "FINISHING"),
        (failed(5), Totals(5, 2), "FINISHING"),
        (failed(5, 3), Totals(5, 2), "FINISHING"),
        ({"total_record": 5, **failed(5)}, NO_TOTALS, failed(5)["result"]),
        ({"total_record": 5, **failed(5)}, T5, failed(5)["result"]),
        ({"total_record": 5, **failed(5, 2)}, NO_TOTALS, "FINISHING"),
    ],
)
def test_what_the_item_says(found: dict[str, Any], asked: Totals, expected: object) -> None:
    assert answer(replace(OPEN_ENDED, **found), asked) == expected


@pytest.mark.parametrize(
    ("found", "over"),
    [
        ({}, UNTIL + limits.FLIGHT_SECONDS),
        ({"state": State.ABORTED}, UNTIL + limits.FLIGHT_SECONDS),
        (SEALED, EXPIRES + limits.FLIGHT_SECONDS),
        (FINISHED, EXPIRES),
    ],
)
@pytest.mark.parametrize("asked", [NO_TOTALS, T5, T6])
def test_what_is_over_says_nothing_else(found: dict[str, Any], over: int, asked: Totals) -> None:
    session = replace(OPEN_ENDED, **found)
    assert answer(session, asked, over) is GONE
    assert answer(session, asked, over - 1) is not GONE


def test_an_open_session_past_its_time_may_still_be_finished_by_another() -> None:
    session = replace(OPEN_ENDED, **failed(5))
    assert answer(session, T5, UNTIL - 1) == session.result
    assert answer(session, T5, UNTIL) is errors.SessionExpiringError
    assert answer(session, NO_TOTALS, UNTIL) is MISSING
