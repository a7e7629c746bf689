"""The item of a session: read with every batch, and so never larger than one read unit."""

import json
from collections.abc import Callable
from typing import Any, Final

import boto3
import pytest

from tests.api import Api
from tests.aws import Answer, Aws, Call
from tests.conftest import LocalStack
from uploads import limits
from uploads.config import AuthMode
from uploads.http import Request
from uploads.session import Counted, Decision, Session, Upload
from uploads.session_store import SessionStore

READ_UNIT: Final = 4_096
WRITE_UNIT: Final = 1_024
LARGEST: Final = 2**53 - 1


def size(item: dict[str, Any]) -> int:
    """Bytes of an item, as DynamoDB counts them: names, and values by their kind."""
    return sum(len(name.encode()) + _size(value) for name, value in item.items())


def _size(value: dict[str, Any]) -> int:
    ((kind, content),) = value.items()
    if kind == "N":
        return len(content.lstrip("-")) // 2 + 2
    if kind == "M":
        return 3 + size(content) + len(content)
    return len(content)


def raw(local: LocalStack, session_id: str) -> dict[str, Any]:
    client = boto3.client("dynamodb")
    key = {"sessionId": {"S": session_id}}
    found: dict[str, Any] = client.get_item(TableName=local.table.name, Key=key)["Item"]
    return found


def gaps(api: Api, ranges: int) -> str:
    """A session whose finish has failed with so many ranges missing."""
    session_id = api.create(2 * ranges, 1)
    for seq_num in range(1, 2 * ranges, 2):
        assert api.batch(session_id, seq_num, [seq_num]).status == 204
    assert len(api.finish(session_id).json["missing"]) == ranges
    return session_id


@pytest.mark.parametrize("ranges", [0, 1, 20, 700])
def test_a_gap_report_of_any_length_leaves_the_item_small(
    api: Api, local: LocalStack, ranges: int
) -> None:
    session_id = gaps(api, ranges) if ranges else api.create(1, 1)
    item = raw(local, session_id)
    assert size(item) <= READ_UNIT // 2
    assert ("report" in item) == (ranges == 700)


def test_the_last_answer_is_whole_wherever_its_gaps_are(
    api: Api, aws: Aws, local: LocalStack
) -> None:
    session_id = api.create(1_400, 1)
    for seq_num in range(1, 1_400, 2):
        api.batch(session_id, seq_num, [seq_num])
    with aws.recording() as calls:
        failed = api.finish(session_id).json
    # The report goes before the re-opening that refers to it.
    assert [call.operation for call in calls][-2:] == ["PutObject", "UpdateItem"]
    key = f"merges/{session_id}/1/failed.json"
    assert calls[-2].key == key
    with aws.recording() as calls:
        assert api.status(session_id).json["finish"] == failed
    assert [call.operation for call in calls].count("GetObject") == 1
    api.batch(session_id, 0, [0])
    assert api.status(session_id).json["finish"] == failed
    assert len(api.finish(session_id).json["missing"]) == 699
    local.s3.delete_object(Bucket=local.batches_bucket, Key=f"merges/{session_id}/2/failed.json")
    cut = api.status(session_id).json["finish"]
    assert (cut["missing"], cut["missingTruncated"]) == ([], True)


def test_a_report_whose_attempt_died_before_the_reopening_is_referred_to_by_nobody(
    api: Api, aws: Aws, local: LocalStack
) -> None:
    session_id = gaps(api, 700)
    before = api.status(session_id).json["finish"]
    api.batch(session_id, 0, [0])
    moves = 0

    def handle(call: Call, forward: Callable[[], Answer]) -> Answer:
        nonlocal moves
        moves += call.operation == "UpdateItem"
        # Any status that no client tries again.
        return forward() if moves < 2 else Answer("418 Dead", [], b"")

    with aws.handled(handle):
        assert api.finish(session_id).status == 500
    assert api.status(session_id).json["finish"] == before
    local.table.update_item(
        Key={"sessionId": session_id},
        UpdateExpression="SET leaseUntil = :now",
        ExpressionAttributeValues={":now": 0},
    )
    assert len(api.finish(session_id).json["missing"]) == 699


def test_the_largest_item_there_can_be(local: LocalStack) -> None:
    store = SessionStore(boto3.client("dynamodb"), local.table.name)
    session = Session(
        session_id="f" * 32,
        owner="x" * limits.MAX_OWNER_BYTES,
        total_record=LARGEST,
        batch_size=LARGEST,
        created_at=9_999_999_999,
        batches_until=9_999_999_999,
        expires_at=9_999_999_999,
    )
    store.create(session)
    try:
        session, _ = store.seal(
            session.session_id,
            session.owner,
            holder="f" * 16,
            now=1,
            lease_until=9_999_999_999,
        )
        # Random, so that it does not compress: as much as is stored at most.
        result: dict[str, object] = {"detail": "".join(map(chr, range(33, 33 + 94))) * 8}
        counted = Counted("f" * 64, LARGEST)
        store.reopen(session, result, report=True, counted=counted)
        session, _ = store.seal(
            session.session_id, session.owner, holder="f" * 16, now=1, lease_until=9_999_999_999
        )
        upload = Upload("u" * 1_024, limits.MAX_PARTS)
        store.lease(session.session_id, session.owner, session.attempt, 9_999_999_999, upload)
        decision = Decision(100_000, LARGEST, LARGEST, "f" * 64)
        store.decide(session, decision, 9_999_999_999)
        item = raw(local, session.session_id)
        largest = size(item) - len(item["result"]["B"]) + limits.STORED_RESULT_BYTES
        assert largest <= READ_UNIT
    finally:
        local.table.delete_item(Key={"sessionId": session.session_id})


def test_an_owner_of_any_length_has_a_short_name() -> None:
    owners = set()
    for length in (1, 30, 300, 6_000):
        claims = {"iss": "https://login.example.com", "sub": "\U0001f600" * length}
        event = {"requestContext": {"authorizer": {"jwt": {"claims": claims}}}}
        owner = Request(event, None, AuthMode.JWT).owner  # type: ignore[arg-type]
        owners.add(owner)
        assert 10 < len(owner.encode()) <= limits.MAX_OWNER_BYTES
    assert len(owners) == 4


def test_a_warm_function_remembers_what_never_changes(api: Api, local: LocalStack) -> None:
    session_id = gaps(api, 700)
    store = SessionStore(boto3.client("dynamodb"), local.table.name)
    owner = raw(local, session_id)["owner"]["S"]
    assert store.get(session_id, owner).result
    remembered = store.recall(session_id, owner, 0)
    assert (remembered.result, remembered.counted, remembered.attempt) == (None, None, 0)
    assert len(json.dumps(remembered.__dict__, default=str)) < 1_000
