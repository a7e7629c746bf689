"""Totals at finish: who sends which, and the answers."""

import json
from collections import Counter
from typing import Any

import pytest

from tests.api import GZIP, Answer, Api
from tests.aws import DEAD, AwsProxy, Call
from tests.conftest import MotoStack, Stack


def open_ended(api: Api, *batches: list[object]) -> str:
    session_id = api.create(None)
    for seq_num, data in enumerate(batches):
        assert api.batch(session_id, seq_num, data).status == 204
    return session_id


def failed(answer: Answer) -> dict[str, Any]:
    """The members of a ``Failed`` that vary."""
    assert (answer.status, answer.json["validationResult"]) == (200, "Failed"), answer
    return {
        name: value
        for name, value in answer.json.items()
        if name not in {"sessionId", "validationResult", "detail"}
    }


def test_an_open_ended_session(any_api: Api, stack: Stack) -> None:
    session_id = open_ended(any_api, [1, 2], ["x"])
    status = any_api.status(session_id).json
    assert (status["totalRecord"], status["batchSize"], status["missing"]) == (None, None, [])
    # Gaps are known; whether batches follow the last one is not.
    any_api.batch(session_id, 4, [5])
    assert any_api.status(session_id).json["missing"] == [{"from": 2, "to": 3}]
    any_api.batch(session_id, 2, [3])
    any_api.batch(session_id, 3, [4])
    done = any_api.finish(session_id, totalRecord=6, batches=5)
    assert done.status == 200
    assert done.json["validationResult"] == "Success"
    assert (done.json["totalRecord"], done.json["receivedRecord"]) == (6, 6)
    assert done.json["batches"] == 5
    assert stack.merged(session_id) == b'1\n2\n"x"\n3\n4\n5\n'
    # Repeating all of it, a part, or nothing.
    for totals in ({}, {"totalRecord": 6}, {"batches": 5}, {"totalRecord": 6, "batches": 5}):
        assert any_api.finish(session_id, **totals).json == done.json
    status = any_api.status(session_id).json
    assert (status["totalRecord"], status["finish"]) == (None, done.json)


def test_a_finish_that_says_no_total_changes_nothing(any_api: Api) -> None:
    session_id = open_ended(any_api, [1])
    for totals in ({}, {"batches": 1}, {"totalRecord": None}):
        refused = any_api.finish(session_id, **totals)
        assert (refused.status, refused.code) == (400, "missing_total")
    assert any_api.status(session_id).json["state"] == "OPEN"
    assert any_api.batch(session_id, 1, [2]).status == 204
    assert any_api.finish(session_id, totalRecord=2).json["validationResult"] == "Success"


def test_an_open_ended_session_of_nothing(any_api: Api, stack: Stack) -> None:
    session_id = open_ended(any_api)
    done = any_api.finish(session_id, totalRecord=0, batches=0)
    assert (done.json["validationResult"], done.json["batches"]) == ("Success", 0)
    assert stack.merged(session_id) == b""


def test_later_totals_may_be_others_while_nothing_is_decided(any_api: Api) -> None:
    session_id = open_ended(any_api, [1, 2], [3])
    assert failed(any_api.finish(session_id, totalRecord=4)) == {
        "reason": "record_count",
        "missing": [],
        "totalRecord": 4,
        "receivedRecord": 3,
        "batches": 2,
    }
    too_many = any_api.finish(session_id, totalRecord=2)
    assert failed(too_many)["totalRecord"] == 2
    assert "finish with the right number" in too_many.json["detail"]
    assert any_api.finish(session_id, totalRecord=3).json["validationResult"] == "Success"


@pytest.mark.parametrize("total", [3, None], ids=["flexible", "open-ended"])
def test_the_number_of_batches_makes_the_tail_known(any_api: Api, total: int | None) -> None:
    session_id = any_api.create(total)
    any_api.batch(session_id, 1, [2])
    assert failed(any_api.finish(session_id, totalRecord=3, batches=4)) == {
        "reason": "missing_batches",
        "missing": [{"from": 0, "to": 0}, {"from": 2, "to": 3}],
        "totalRecord": 3,
        "expectedBatches": 4,
        "batches": 1,
    }
    # Otherwise it is unknown.
    found = any_api.finish(session_id, totalRecord=3).json
    assert found["missing"] == [{"from": 0, "to": 0}]
    assert "expectedBatches" not in found


@pytest.mark.parametrize("total", [4, None], ids=["flexible", "open-ended"])
def test_batches_that_nobody_expects(any_api: Api, total: int | None) -> None:
    session_id = any_api.create(total)
    for seq_num in (0, 3, 5, 6):
        any_api.batch(session_id, seq_num, [seq_num])
    found = any_api.finish(session_id, totalRecord=4, batches=3)
    # ``missing`` is reported, too, although sending it is not enough.
    assert failed(found) == {
        "reason": "unexpected_batches",
        "missing": [{"from": 1, "to": 2}],
        "unexpected": [{"from": 3, "to": 3}, {"from": 5, "to": 6}],
        "totalRecord": 4,
        "expectedBatches": 3,
        "batches": 4,
    }
    assert "2 batches are missing" in found.json["detail"]
    assert "3 batches are beyond the 3" in found.json["detail"]
    assert any_api.status(session_id).json["finish"] == found.json
    for seq_num in (1, 2, 4):
        any_api.batch(session_id, seq_num, [seq_num])
    only = failed(any_api.finish(session_id, totalRecord=7 if total is None else 4, batches=6))
    assert (only["missing"], only["unexpected"]) == ([], [{"from": 6, "to": 6}])


def test_all_batches_and_yet_too_few_records(any_api: Api) -> None:
    session_id = open_ended(any_api, [1], [2])
    found = any_api.finish(session_id, totalRecord=3, batches=2)
    assert (found.json["reason"], found.json["expectedBatches"]) == ("record_count", 2)
    assert "finish again with the new number of batches" in found.json["detail"]


@pytest.mark.parametrize(
    ("size", "asked", "fixed"),
    [
        (None, {"totalRecord": 4}, {"totalRecord": 3}),
        (2, {"totalRecord": 4}, {"totalRecord": 3, "batches": 2}),
        (2, {"batches": 3}, {"totalRecord": 3, "batches": 2}),
        (2, {"totalRecord": 3, "batches": 1}, {"totalRecord": 3, "batches": 2}),
    ],
)
def test_totals_that_are_not_those_of_create(
    any_api: Api, size: int | None, asked: dict[str, int], fixed: dict[str, int]
) -> None:
    session_id = any_api.create(3, size)
    any_api.batch(session_id, 0, [1, 2])
    refused = any_api.finish(session_id, **asked)
    assert (refused.status, refused.code) == (409, "totals_conflict")
    assert (refused.json["fixed"], refused.json["asked"]) == (fixed, asked)
    assert any_api.batch(session_id, 1, [3]).status == 204
    assert any_api.finish(session_id, totalRecord=3).json["validationResult"] == "Success"
    again = any_api.finish(session_id, **asked)
    assert (again.status, again.code) == (409, "totals_conflict")
    assert again.json["fixed"] == {"totalRecord": 3, "batches": 2}


def test_totals_that_are_not_those_that_were_merged(any_api: Api, stack: Stack) -> None:
    session_id = open_ended(any_api, [1], [2])
    done = any_api.finish(session_id, totalRecord=2).json
    for asked in ({"totalRecord": 3}, {"batches": 1}, {"totalRecord": 2, "batches": 3}):
        refused = any_api.finish(session_id, **asked)
        assert (refused.status, refused.code) == (409, "totals_conflict")
        assert refused.json["fixed"] == {"totalRecord": 2, "batches": 2}
        assert refused.json["asked"] == asked
    assert any_api.finish(session_id).json == done
    assert stack.merged(session_id) == b"1\n2\n"


def test_an_aborted_session_says_so_whatever_is_asked(any_api: Api) -> None:
    session_id = open_ended(any_api, [1])
    any_api.abort(session_id)
    for totals in ({}, {"totalRecord": 1}, {"totalRecord": 9, "batches": 9}):
        assert any_api.finish(session_id, **totals).code == "session_aborted"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"totalRecord":"1"}', "invalid_total_record"),
        (b'{"totalRecord":1e0}', "invalid_total_record"),
        (b'{"batches":100001}', "invalid_batches"),
        (b'{"batches":true}', "invalid_batches"),
        (b'{"batches":1,"batches":1}', "repeated_member"),
        (b"[]", "not_an_object"),
        (b"null", "not_an_object"),
        (b"{", "truncated_json"),
    ],
)
def test_a_body_that_is_wrong_changes_nothing(any_api: Api, body: bytes, code: str) -> None:
    session_id = any_api.filled([[1]])
    refused = any_api.request("POST", f"{Api.ROOT}/{session_id}/finish", body)
    assert (refused.status, refused.code) == (400, code)
    assert any_api.status(session_id).json["state"] == "OPEN"


def test_a_body_that_is_too_large(any_api: Api) -> None:
    body = b'{"x":"' + b"x" * 200_000 + b'"}'
    refused = any_api.request("POST", f"{Api.ROOT}/{'0' * 32}/finish", body)
    assert (refused.status, refused.code) == (413, "body_too_large")


def test_a_compressed_body_and_an_empty_one(any_api: Api) -> None:
    import gzip  # noqa: PLC0415

    session_id = open_ended(any_api, [1])
    path = f"{Api.ROOT}/{session_id}/finish"
    assert any_api.request("POST", path, gzip.compress(b""), GZIP).code == "missing_total"
    said = gzip.compress(json.dumps({"totalRecord": 1}).encode())
    assert any_api.request("POST", path, said, GZIP).json["validationResult"] == "Success"
    assert any_api.request("POST", path, b"{}").json["validationResult"] == "Success"


def counted(calls: list[Call]) -> Counter[str]:
    return Counter(call.operation for call in calls)


@pytest.mark.parametrize("totals", [{"totalRecord": 3}, {"totalRecord": 3, "batches": 3}])
@pytest.mark.parametrize("total", [3, None], ids=["flexible", "open-ended"])
def test_totals_cost_no_call(
    api: Api, aws: AwsProxy, total: int | None, totals: dict[str, int]
) -> None:
    session_id = api.create(total)
    for seq_num in range(3):
        api.batch(session_id, seq_num, [seq_num])
    with aws.recording() as first:
        api.finish(session_id, **totals)
    # The same as without totals (test_calls.py).
    assert counted(first) == {"UpdateItem": 3, "ListObjectsV2": 1, "GetObject": 3, "PutObject": 2}
    for asked in (totals, {"totalRecord": 4}, {}):
        with aws.recording() as calls:
            api.finish(session_id, **asked)
        assert counted(calls) == {"UpdateItem": 1}


def test_what_batches_cost_where_a_batch_size_makes_them(api: Api, aws: AwsProxy) -> None:
    session_id = api.filled([[0], [1], [2]], 1)
    with aws.recording() as conflict:
        assert api.finish(session_id, batches=2).code == "totals_conflict"
    assert counted(conflict) == {"UpdateItem": 1}
    with aws.recording() as first:
        assert api.finish(session_id, batches=3).json["validationResult"] == "Success"
    # One write more: a condition cannot compute the number of batches.
    assert counted(first) == {"UpdateItem": 4, "ListObjectsV2": 1, "GetObject": 3, "PutObject": 2}
    with aws.recording() as again:
        assert api.finish(session_id, batches=3).json["validationResult"] == "Success"
    assert counted(again) == {"UpdateItem": 1}


def test_records_that_were_counted_are_known_to_any_total(api: Api, aws: AwsProxy) -> None:
    session_id = open_ended(api, [1, 2], [3])
    api.finish(session_id, totalRecord=4)
    with aws.recording() as calls:
        found = api.finish(session_id, totalRecord=5, batches=2).json
    assert (found["totalRecord"], found["receivedRecord"]) == (5, 3)
    assert counted(calls) == {"UpdateItem": 2, "ListObjectsV2": 1}
    with aws.recording() as calls:
        assert api.finish(session_id, totalRecord=3).json["validationResult"] == "Success"
    assert counted(calls)["GetObject"] == 2


def dead_after(aws: AwsProxy, api: Api, calls: int, session_id: str, **totals: int) -> None:
    """A finish whose process dies after ``calls`` calls."""
    made = 0

    def handle(_: Call, forward: Any) -> Any:  # noqa: ANN401
        nonlocal made
        made += 1
        return forward() if made <= calls else DEAD

    with aws.handled(handle):
        api.finish(session_id, **totals)


def test_which_finishes_may_take_over_a_decision(api: Api, aws: AwsProxy, local: MotoStack) -> None:
    """It dies after seal, list, two reads and decide."""
    session_id = open_ended(api, [1], [2])
    dead_after(aws, api, 5, session_id, totalRecord=2)
    assert "decision" in local.item(session_id)
    local.change(session_id, leaseUntil=0)
    before = local.item(session_id)
    for asked in ({"totalRecord": 3}, {"batches": 3}):
        refused = api.finish(session_id, **asked)
        assert (refused.status, refused.code) == (409, "totals_conflict")
        assert refused.json["fixed"] == {"totalRecord": 2, "batches": 2}
    assert local.item(session_id) == before
    done = api.finish(session_id).json
    assert (done["validationResult"], done["totalRecord"]) == ("Success", 2)


def test_an_attempt_that_died_undecided_binds_nobody(
    api: Api, aws: AwsProxy, local: MotoStack
) -> None:
    session_id = open_ended(api, [1], [2])
    dead_after(aws, api, 3, session_id, totalRecord=9, batches=2)
    # It may still run, and another finish learns nothing of its totals.
    assert api.finish(session_id, totalRecord=2).status == 202
    assert api.finish(session_id).code == "missing_total"
    local.change(session_id, leaseUntil=0)
    assert api.finish(session_id, totalRecord=2, batches=2).json["validationResult"] == "Success"
