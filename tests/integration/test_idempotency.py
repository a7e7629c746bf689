"""Creates with an Idempotency-Key: one session, however many requests and clients."""

import gzip
import json
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from local.streams import TIME_TO_LIVE
from tests.api import Answer as ApiAnswer
from tests.api import Api
from tests.aws import DEAD, Answer, AwsProxy, Call, dynamodb_error
from tests.conftest import MotoStack, Stack
from tests.integration.test_events import CONTEXT, handle, load
from uploads import limits
from uploads.cleanup import ended
from uploads.config import Config
from uploads.wiring import Wiring

BODY = b'{"totalRecord": 2, "batchSize": 1, "metadata": {"name": "a.ndjson"}}'


@pytest.fixture
def key() -> str:
    return os.urandom(16).hex()


def create(
    api: Api, key: str, body: bytes = BODY, headers: Mapping[str, str] | None = None
) -> ApiAnswer:
    return api.request("POST", Api.ROOT, body, {"idempotency-key": key, **(headers or {})})


def keys(stack: Stack) -> list[dict[str, Any]]:
    found = stack.table.scan(ConsistentRead=True)["Items"]
    return [item for item in found if str(item["sessionId"]).startswith("key:")]


def sessions_of(stack: Stack, since: int) -> list[str]:
    """The sessions with the total that only these tests use."""
    found = stack.table.scan(ConsistentRead=True)["Items"]
    return [str(item["sessionId"]) for item in found if item.get("totalRecord") == since]


def test_the_same_again_is_the_same_session(any_api: Api, key: str) -> None:
    first = create(any_api, key)
    assert first.status == 201
    again = create(any_api, key)
    assert (again.status, again.json) == (201, first.json)
    assert again.headers["location"] == first.headers["location"]
    assert create(any_api, f'"{key}"').json == first.json
    assert any_api.status(first.json["sessionId"]).json["metadata"] == {"name": "a.ndjson"}
    assert create(any_api, os.urandom(16).hex()).json["sessionId"] != first.json["sessionId"]


def test_what_it_costs(api: Api, aws: AwsProxy, key: str) -> None:
    with aws.recording() as calls:
        api.create(1)
    assert [call.operation for call in calls] == ["PutItem"]
    for _ in range(2):
        with aws.recording() as calls:
            assert create(api, key).status == 201
        assert [call.operation for call in calls] == ["PutItem", "PutItem"]
    with aws.recording() as calls:
        assert create(api, key, b'{"totalRecord": 1}').status == 422
    assert [call.operation for call in calls] == ["PutItem"]
    for body, header in ((b"{", key), (b'{"totalRecord": -1}', key), (BODY, "short")):
        with aws.recording() as calls:
            assert create(api, header, body).status == 400
        assert not calls


@pytest.mark.parametrize(
    "body", [b'{"totalRecord": 2, "batchSize": 2}', b'{"totalRecord":2,"batchSize":1}', BODY + b" "]
)
def test_another_body_is_refused(any_api: Api, key: str, body: bytes) -> None:
    first = create(any_api, key)
    answer = create(any_api, key, body)
    assert (answer.status, answer.code) == (422, "idempotency_key_reused")
    assert key not in answer.body.decode()
    assert create(any_api, key).json == first.json


def test_a_body_is_what_was_sent(any_api: Api, key: str) -> None:
    """The bytes of the request count, before inflating, and not its media type."""
    binary = {"content-type": "application/vnd.gapless.batch+json"}
    compressed = {**binary, "content-encoding": "gzip"}
    first = create(any_api, key)
    assert create(any_api, key, BODY, binary).json == first.json
    packed = [gzip.compress(BODY, mtime=time) for time in (1, 2)]
    assert create(any_api, key, packed[0], compressed).status == 422
    other = os.urandom(16).hex()
    first, again, changed = (
        create(any_api, other, body, compressed) for body in (packed[0], packed[0], packed[1])
    )
    assert (first.status, again.json, changed.status) == (201, first.json, 422)


@pytest.mark.parametrize("header", ["", "a b", "x" * 21, "x" * 256, '"' + "x" * 30, "é" * 30])
def test_a_key_that_is_none_is_refused(any_api: Api, header: str) -> None:
    answer = create(any_api, header.encode().decode("latin-1"))
    assert (answer.status, answer.code) == (400, "invalid_idempotency_key")


def test_the_session_is_given_whatever_has_become_of_it(api: Api, key: str) -> None:
    first = create(api, key)
    session_id = first.json["sessionId"]
    api.batch(session_id, 0, [1])
    assert api.finish(session_id).json["validationResult"] == "Failed"
    assert create(api, key).json == first.json
    api.batch(session_id, 1, [1])
    assert api.finish(session_id).json["validationResult"] == "Success"
    assert create(api, key).json == first.json
    assert api.status(session_id).json["state"] == "FINISHED"
    other = os.urandom(16).hex()
    aborted = create(api, other)
    assert api.abort(aborted.json["sessionId"]).status == 204
    assert create(api, other).json == aborted.json
    assert api.status(aborted.json["sessionId"]).json["state"] == "ABORTED"


def test_what_a_key_leaves(api: Api, local: MotoStack, key: str) -> None:
    before = {item["sessionId"] for item in keys(local)}
    session_id = create(api, key).json["sessionId"]
    (item,) = (item for item in keys(local) if item["sessionId"] not in before)
    session = local.item(session_id)
    assert item["session"] == session_id
    assert item["createdAt"] == session["createdAt"]
    # It expires together with the time for batches of its session.
    assert item["expiresAt"] == session["batchesUntil"]
    assert session["expiresAt"] >= item["expiresAt"]
    assert item.keys() == {"sessionId", "session", "version", "digest", "createdAt", "expiresAt"}
    assert key not in str(item)


def test_a_key_belongs_to_its_caller(local: MotoStack, key: str) -> None:
    found = []
    for user in ("AIDAONE", "AIDATWO", "AIDAONE"):
        event = load("create_iam")
        event["headers"]["idempotency-key"] = key[:3] + "-short"
        event["requestContext"]["authorizer"]["iam"]["userId"] = user
        answer = handle(event, "IAM")
        assert answer["statusCode"] == 201
        found.append(json.loads(answer["body"])["sessionId"])
        assert json.loads(local.item(found[-1])["owner"])[2] == user
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("landed", [False, True], ids=["refused", "answer lost"])
def test_a_lost_call_makes_one_session(
    api: Api, aws: AwsProxy, key: str, lost: int, *, landed: bool
) -> None:
    puts = 0

    def handle(call: Call, forward: Callable[[], Answer]) -> Answer:
        nonlocal puts
        puts += call.operation == "PutItem"
        if puts == lost:
            if landed:
                forward()
            raise ConnectionResetError
        return forward()

    with aws.handled(handle):
        first = create(api, key)
    assert (first.status, puts) == (201, 3)
    assert api.status(first.json["sessionId"]).json["state"] == "OPEN"
    assert create(api, key).json == first.json


@pytest.mark.parametrize("after", [1, 2])
def test_a_create_that_dies_leaves_no_second_session(
    api: Api, aws: AwsProxy, local: MotoStack, key: str, after: int
) -> None:
    total = int.from_bytes(os.urandom(6))
    body = json.dumps({"totalRecord": total}).encode()
    puts = 0

    def handle(call: Call, forward: Callable[[], Answer]) -> Answer:
        nonlocal puts
        puts += call.operation == "PutItem"
        if puts <= after:
            answer = forward()
            return DEAD if puts == after else answer
        return DEAD

    with aws.handled(handle):
        assert create(api, key, body).status == 500
    again = create(api, key, body)
    assert again.status == 201
    assert sessions_of(local, total) == [again.json["sessionId"]]


@pytest.mark.parametrize(
    "failure",
    [
        dynamodb_error(400, "ProvisionedThroughputExceededException"),
        dynamodb_error(500, "InternalServerError"),
    ],
    ids=["throttled", "failed"],
)
def test_a_busy_table_asks_for_the_same_again(
    api: Api, aws: AwsProxy, monkeypatch: pytest.MonkeyPatch, key: str, failure: Answer
) -> None:
    monkeypatch.setattr(limits, "PATIENCE_SECONDS", 0.3)
    for landed in (False, True):
        with aws.failing("PutItem", failure, landed=landed):
            answer = create(api, key)
        assert (answer.status, answer.code) == (503, "storage_busy")
    assert create(api, key).status == 201


def test_concurrent_creates_make_one_session(api: Api, local: MotoStack, key: str) -> None:
    total = int.from_bytes(os.urandom(6))
    body = json.dumps({"totalRecord": total}).encode()
    with ThreadPoolExecutor(8) as threads:
        answers = [*threads.map(lambda _: create(api, key, body), range(16))]
    assert {answer.status for answer in answers} == {201}
    (session_id,) = {answer.json["sessionId"] for answer in answers}
    assert sessions_of(local, total) == [session_id]


def open_at(now: int, key: str, body: bytes = BODY, lifetime: int = 3_600) -> dict[str, Any]:
    """Create at another time, or in a deployment with another session lifetime."""
    import sessions  # noqa: PLC0415 - it reads the environment, which the stack sets

    event = load("create")
    event["headers"]["idempotency-key"] = key
    event["body"] = body.decode()
    del event["headers"]["content-length"]
    config = replace(Config.from_env(os.environ), session_lifetime=lifetime)
    answer: dict[str, Any] = sessions.build(Wiring(config, lambda: now))(event, CONTEXT)
    assert answer["statusCode"] == 201, answer
    found: dict[str, Any] = json.loads(answer["body"])
    return found


@pytest.mark.usefixtures("stack")
def test_a_key_counts_until_its_session_takes_no_more_batches(key: str) -> None:
    now = int(time.time())
    first = open_at(now, key)
    # The lifetime of a later deployment does not matter.
    assert open_at(now + 60, key, lifetime=600) == first
    assert open_at(now + 3_599, key, lifetime=7_200) == first
    # With any body.
    fresh = open_at(now + 3_600, key, b'{"totalRecord": 1}')
    assert fresh["sessionId"] != first["sessionId"]
    assert open_at(now + 3_601, key, b'{"totalRecord": 1}') == fresh


def test_no_item_is_gone_before_its_key(api: Api, local: MotoStack, key: str) -> None:
    """The merged object may be kept for a shorter time than the session takes batches."""
    import finish  # noqa: PLC0415 - it reads the environment, which the stack sets

    now = int(time.time())
    week = 7 * 86_400
    session_id = open_at(now, key, b'{"totalRecord": 0}', lifetime=week)["sessionId"]
    config = replace(Config.from_env(os.environ), merged_retention=86_400)
    event = load("finish", session_id)
    assert finish.build(Wiring(config))(event, CONTEXT)["statusCode"] == 200
    item = local.item(session_id)
    assert item["expiresAt"] >= item["batchesUntil"]
    # The answer itself still expires with the merged object.
    assert now + 86_400 <= item["keptUntil"] <= int(time.time()) + 86_400
    local.change(session_id, keptUntil=now)
    assert api.status(session_id).status == 410
    assert open_at(now + 60, key, b'{"totalRecord": 0}', lifetime=week)["sessionId"] == session_id
    assert local.item(session_id)["state"] == "FINISHED"


def test_nothing_is_cleaned_up_after_a_key(local: MotoStack, api: Api, key: str) -> None:
    before = {item["sessionId"] for item in keys(local)}
    session_id = create(api, key).json["sessionId"]
    api.batch(session_id, 0, [1])
    (item,) = (item for item in keys(local) if item["sessionId"] not in before)
    image = {"sessionId": {"S": item["sessionId"]}, "session": {"S": session_id}}
    for name in ("INSERT", "MODIFY", "REMOVE"):
        record = {
            "eventName": name,
            "userIdentity": TIME_TO_LIVE,
            "dynamodb": {"Keys": {"sessionId": image["sessionId"]}}
            | ({"OldImage": image} if name == "REMOVE" else {"NewImage": image}),
        }
        assert ended(record) is None
    local.table.update_item(
        Key={"sessionId": item["sessionId"]},
        UpdateExpression="SET expiresAt = :past",
        ExpressionAttributeValues={":past": 1},
    )
    local.stream.expire()
    local.stream.deliver()
    assert item["sessionId"] not in {item["sessionId"] for item in keys(local)}
    assert len(local.stored_keys(session_id)) == 1
    assert api.status(session_id).json["state"] == "OPEN"
