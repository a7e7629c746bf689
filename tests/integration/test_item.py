"""A session's item never exceeds one read unit (4 KB), since every batch reads it."""

import json
import os
import secrets
from collections.abc import Callable
from typing import Any, Final

import boto3
import pytest
from hypothesis import given, settings, target
from hypothesis import strategies as st

from tests.api import Api
from tests.aws import DEAD, Answer, AwsProxy, Call, s3_error
from tests.conftest import MotoStack
from uploads import limits
from uploads.batch import RunTotals
from uploads.config import AuthMode, Config
from uploads.formats import Format
from uploads.http import Request
from uploads.merging.executions import Execution
from uploads.merging.finish import Finisher
from uploads.merging.manifest import Sums
from uploads.merging.merged_store import Published
from uploads.merging.validation import Failure, merge_failed, validate_count
from uploads.session import Counted, Decision, Session, State, Totals, Upload
from uploads.wiring import Wiring

pytestmark = pytest.mark.slow

READ_UNIT: Final = 4_096
LARGEST: Final = 2**53 - 1


def size(item: dict[str, Any]) -> int:
    """Bytes of an item as DynamoDB counts them: names, and values by their type."""
    return sum(len(name.encode()) + _size(value) for name, value in item.items())


def _size(value: dict[str, Any]) -> int:
    ((kind, content),) = value.items()
    if kind == "N":
        return len(content.lstrip("-")) // 2 + 2
    if kind == "M":
        return 3 + size(content) + len(content)
    return len(content.encode() if kind == "S" else content)


def raw(local: MotoStack, session_id: str) -> dict[str, Any]:
    client = boto3.client("dynamodb")
    key = {"sessionId": {"S": session_id}}
    found: dict[str, Any] = client.get_item(TableName=local.table.name, Key=key)["Item"]
    return found


def gaps(api: Api, ranges: int) -> str:
    """A session whose finish has failed with ``ranges`` missing ranges."""
    session_id = api.create(2 * ranges, 1)
    for seq_num in range(1, 2 * ranges, 2):
        assert api.batch(session_id, seq_num, [seq_num]).status == 204
    assert len(api.finish(session_id).json["missing"]) == ranges
    return session_id


@pytest.mark.parametrize("ranges", [0, 1, 20, 700])
def test_a_gap_report_of_any_length_leaves_the_item_small(
    api: Api, local: MotoStack, ranges: int
) -> None:
    session_id = gaps(api, ranges) if ranges else api.create(1, 1)
    item = raw(local, session_id)
    assert size(item) <= READ_UNIT // 2
    assert ("report" in item) == (ranges == 700)


def test_the_last_answer_is_whole_wherever_its_gaps_are(
    api: Api, aws: AwsProxy, local: MotoStack
) -> None:
    session_id = api.create(1_400, 1)
    for seq_num in range(1, 1_400, 2):
        api.batch(session_id, seq_num, [seq_num])
    with aws.recording() as calls:
        failed = api.finish(session_id).json
    # The report is written before the re-opening that refers to it.
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


def test_no_item_refers_to_a_report_whose_attempt_died_before_the_reopening(
    api: Api, aws: AwsProxy, local: MotoStack
) -> None:
    session_id = gaps(api, 700)
    before = api.status(session_id).json["finish"]
    api.batch(session_id, 0, [0])
    moves = 0

    def handle(call: Call, forward: Callable[[], Answer]) -> Answer:
        nonlocal moves
        moves += call.operation == "UpdateItem"
        return forward() if moves < 2 else DEAD

    with aws.handled(handle):
        assert api.finish(session_id).status == 500
    assert api.status(session_id).json["finish"] == before
    local.table.update_item(
        Key={"sessionId": session_id},
        UpdateExpression="SET leaseUntil = :now",
        ExpressionAttributeValues={":now": 0},
    )
    assert len(api.finish(session_id).json["missing"]) == 699


FUTURE: Final = 9_999_999_999
"""Seconds since 1970, with as many digits as any time will have."""
DIGEST: Final = "f" * 64
METADATA: Final = {f"{n:02}": "é" * 63 for n in range(limits.MAX_METADATA_MEMBERS)}
"""The largest metadata: with more members, each could have fewer bytes."""
ASKED: Final = Totals(LARGEST, 100_000)
FAILURES: Final = st.builds(
    lambda random, ranges: [
        (first, first + random.randrange(50)) for first in random.sample(range(99_900), ranges)
    ],
    st.randoms(use_true_random=False),
    # Most of these reports, compressed, about fill the item.
    st.integers(10, 90),
)


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_no_item_is_larger_than_a_read_unit_whatever_happens_to_it(
    local: MotoStack, data: st.DataObject
) -> None:
    """Random moves with the largest values, made by the service's own code."""
    owner = "x" * limits.MAX_OWNER_BYTES
    finisher = Wiring(Config.from_env(os.environ), clock=lambda: FUTURE - 90_000).finisher
    store, session_id = finisher.sessions, secrets.token_hex(16)
    store.create(
        Session(
            session_id,
            owner,
            total_record=LARGEST,
            batch_size=LARGEST,
            format=Format.NDJSON_GZ,
            metadata=METADATA,
            schema="s" * 64,
            schema_digest=DIGEST,
            created_at=FUTURE - 600_000,
            batches_until=FUTURE - 80_000,
            expires_at=FUTURE,
        )
    )
    local.change(session_id, attempt=999_999)
    largest = 0
    try:
        for _ in range(data.draw(st.integers(4, 12))):
            session = store.get(session_id, owner)
            if not (moves := _moves(finisher, session, data)):
                break
            moves[data.draw(st.sampled_from(sorted(moves)))]()
            largest = max(largest, size(raw(local, session_id)))
            assert largest <= READ_UNIT, store.get(session_id, owner)
        # Hypothesis searches for larger items.
        target(float(largest))
    finally:
        local.table.delete_item(Key={"sessionId": session_id})


def _moves(
    finisher: Finisher, now: Session, data: st.DataObject
) -> dict[str, Callable[[], object]]:
    """The possible moves of a session, as the service makes them."""
    clock, decision = finisher.clock(), now.decision
    sessions, outcomes = finisher.sessions, finisher.outcomes

    def seal() -> object:
        return sessions.seal(
            now.session_id,
            now.owner,
            holder="f" * 16,
            now=clock,
            lease_until=clock,
            totals=Totals(LARGEST),
        )

    def fail() -> object:
        missing, unexpected = data.draw(FAILURES), data.draw(st.just([]) | FAILURES)
        detail, reason = "9" * 300, "unexpected_batches"
        failure = Failure(now, ASKED, reason, detail, 100_000, missing, unexpected)
        return outcomes.fail(now, failure)

    def miscount() -> object:
        failure = validate_count(now, ASKED, DIGEST, 100_000, RunTotals(LARGEST - 1, LARGEST))
        assert isinstance(failure, Failure)
        return outcomes.fail(now, failure, Counted(DIGEST, LARGEST))

    def give_back() -> object:
        return sessions.reopen(now, merge_failed(now, ASKED, 100_000).result, verdict=False)

    match now.state, decision:
        case (State.OPEN, _):
            return {"seal": seal}
        case (State.FINISHING, _):
            # Three times as long as S3's ids.
            upload = Upload("u" * 384, limits.MAX_PARTS)

            def renew_lease() -> object:
                return sessions.renew_lease(now.session_id, now.owner, now.attempt, FUTURE, upload)

            common = {"seal": seal, "renew lease": renew_lease}
            if decision:
                published = Published(Sums("A" * 8, LARGEST, "A" * 8), FUTURE)
                return common | {"commit": lambda: outcomes.succeed(now, decision, published)}
            bound = Decision(100_000, LARGEST, LARGEST, DIGEST)
            return common | {
                "fail": fail,
                "miscount": miscount,
                "give back": give_back,
                "decide": lambda: sessions.decide(now, bound),
            }
    return {}


def _with_a_report(api: Api, local: MotoStack) -> tuple[str, str, dict[str, Any]]:
    """A session whose gap report is in S3, the report's key, and its last answer."""
    session_id = gaps(api, 700)
    key = f"merges/{session_id}/1/failed.json"
    assert "Contents" in local.s3.list_objects_v2(Bucket=local.batches_bucket, Prefix=key)
    return session_id, key, api.status(session_id).json["finish"]


def test_a_deleted_report_is_not_an_error_without_permission_to_list(
    api: Api, aws: AwsProxy, local: MotoStack
) -> None:
    """Without permission to list, S3 answers 403 for a missing object."""
    session_id, key, whole = _with_a_report(api, local)
    with aws.failing("GetObject", s3_error(403, "AccessDenied"), landed=False):
        # The object exists, so the role is wrong.
        assert api.status(session_id).status == 500
    local.s3.delete_object(Bucket=local.batches_bucket, Key=key)
    with (
        aws.failing("GetObject", s3_error(403, "AccessDenied"), landed=False),
        aws.recording() as calls,
    ):
        answer = api.status(session_id)
    assert answer.status == 200
    assert answer.json["finish"] == whole | {"missing": [], "missingTruncated": True}
    # Item, batches, item, report, and a listing that shows whether the report exists.
    asked = ["GetItem", "ListObjectsV2", "GetItem", "GetObject", "ListObjectsV2"]
    assert [call.operation for call in calls] == asked


def test_a_report_goes_with_its_session(api: Api, aws: AwsProxy, local: MotoStack) -> None:
    """An aborted session's last answer is the part that its item has."""
    session_id, _, whole = _with_a_report(api, local)
    assert api.abort(session_id).status == 204
    assert local.cleaned_up(session_id) == (0, 0)
    with aws.recording() as calls:
        answer = api.status(session_id).json
    assert answer["finish"] == whole | {"missing": [], "missingTruncated": True}
    assert [call.operation for call in calls] == ["GetItem"]


@pytest.mark.parametrize(
    "moved",
    [
        {"state": "ABORTED"},
        {"state": "FINISHING", "attempt": 2},
        {"state": "OPEN", "attempt": 2, "report": 2},
    ],
    ids=["aborted", "taken over", "taken over, failed"],
)
def test_an_overtaken_release_aborts_only_its_own_upload(
    api: Api, aws: AwsProxy, local: MotoStack, moved: dict[str, Any]
) -> None:
    session_id = api.create(2)
    key = f"{session_id}.ndjson"
    ours, theirs = (
        local.s3.create_multipart_upload(Bucket=local.merged_bucket, Key=key)["UploadId"]
        for _ in range(2)
    )
    owner = str(local.item(session_id)["owner"])
    noted = {"upload_id": ours, "parts": 1}
    local.change(session_id, state="FINISHING", attempt=1, upload=noted)

    def handle(call: Call, forward: Callable[[], Answer]) -> Answer:
        if call.operation == "UpdateItem":
            # Between the read and the write of the release.
            aws.handler = None
            local.change(session_id, **moved)
        return forward()

    with aws.handled(handle):
        tasks = Wiring(Config.from_env(os.environ)).merge_tasks
        tasks.release(Execution(session_id, owner, 1, 0, DIGEST), ours)
    item = local.item(session_id)
    assert {name: item[name] for name in moved} == moved
    assert "result" not in item
    uploads = local.s3.list_multipart_uploads(Bucket=local.merged_bucket, Prefix=key)["Uploads"]
    assert [upload["UploadId"] for upload in uploads] == [theirs]
    local.s3.abort_multipart_upload(Bucket=local.merged_bucket, Key=key, UploadId=theirs)


def test_an_owner_of_any_length_has_a_short_name() -> None:
    owners = set()
    for length in (1, 30, 300, 6_000):
        claims = {"iss": "https://login.example.com", "sub": "\U0001f600" * length}
        event = {"requestContext": {"authorizer": {"jwt": {"claims": claims}}}}
        owner = Request(event, None, AuthMode.JWT).owner  # type: ignore[arg-type]
        owners.add(owner)
        assert 10 < len(owner.encode()) <= limits.MAX_OWNER_BYTES
    assert len(owners) == 4


def test_a_warm_function_remembers_what_never_changes(api: Api, local: MotoStack) -> None:
    session_id = gaps(api, 700)
    store = Wiring(Config.from_env(os.environ)).sessions
    owner = raw(local, session_id)["owner"]["S"]
    assert store.get(session_id, owner).result
    remembered = store.get_cached(session_id, owner, 0)
    assert (remembered.result, remembered.counted, remembered.attempt) == (None, None, 0)
    assert len(json.dumps(remembered.__dict__, default=str)) < 1_000
