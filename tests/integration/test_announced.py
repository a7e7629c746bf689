"""Events: published in order and at least once, whatever call fails."""

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
import yaml
from boto3.dynamodb.conditions import Key

from local.gateway import Context, Lambda
from local.in_process import TEMPLATE
from local.template import Template
from tests.api import Api, through_gateway
from tests.aws import DEAD, Answer, AwsProxy, Call, dynamodb_error
from tests.conftest import MotoStack
from tests.unit.test_event_payloads import valid
from tests.unit.test_stack import Loader
from uploads.config import Config
from uploads.events import Kind
from uploads.retries import Tries
from uploads.wiring import Wiring

EXAMPLE = TEMPLATE.parent / "examples" / "load-finished.yaml"
Events = list[tuple[str, dict[str, Any]]]
"""The detail-type and the detail of each event."""


def published(local: MotoStack, *session_ids: str) -> Events:
    local.stream.deliver()
    events = [json.loads(line) for line in local.events.getvalue().splitlines()]
    return [
        (one["detail-type"], one["detail"])
        for one in events
        if one["detail"]["sessionId"] in session_ids
    ]


def lives(api: Api, local: MotoStack) -> tuple[str, ...]:
    """Sessions that go through every kind of event."""
    finished = api.create(2, 1, metadata={"partner": "acme"})
    api.batch(finished, 0, ["secret-record"])
    assert api.finish(finished).json["validationResult"] == "Failed"
    api.batch(finished, 1, ["secret-record"])
    assert api.finish(finished).json["validationResult"] == "Success"
    api.finish(finished)
    assert api.delete_file(finished).status == api.delete_file(finished).status == 204
    aborted, expired = api.create(1), api.create(1)
    assert api.abort(aborted).status == api.abort(aborted).status == 204
    local.expire(expired)
    return finished, aborted, expired


LIVES = [
    [Kind.CREATED, Kind.FAILED, Kind.FINISHED, Kind.FILE_DELETED],
    [Kind.CREATED, Kind.ABORTED],
    [Kind.CREATED, Kind.EXPIRED],
]
EVENTS = sum(map(len, LIVES))


def ordered(events: Events, session_id: str) -> list[str]:
    """The kinds of a session's events in order, without repetitions."""
    first: dict[str, tuple[str, int]] = {}
    for kind, detail in events:
        if detail["sessionId"] == session_id:
            first.setdefault(detail["id"], (kind, int(detail["sequence"])))
    numbers = [number for _, number in first.values()]
    assert numbers == sorted(numbers), "a later event was published before an earlier one"
    return [kind for kind, _ in first.values()]


def test_the_life_of_a_session(api: Api, local: MotoStack) -> None:
    ids = lives(api, local)
    events = published(local, *ids)
    assert [ordered(events, session_id) for session_id in ids] == LIVES
    assert len(events) == EVENTS, "an event was published twice"
    for kind, detail in events:
        valid(detail, Kind(kind))
        assert "secret" not in json.dumps(detail)
        assert "owner" not in detail
    by_kind = dict(events)
    status = api.status(ids[0]).json
    facts = ("sessionId", "state", "metadata", "createdAt", "expiresAt", "fileDeletedAt")
    deleted = by_kind[Kind.FILE_DELETED]
    assert [deleted[name] for name in facts] == [status[name] for name in facts]
    finish = {**status["finish"]}
    assert finish.pop("validationResult") == "Success"
    finished = by_kind[Kind.FINISHED]
    assert finish.items() <= finished.items()
    assert finished["bucket"] == local.merged_bucket
    assert by_kind[Kind.FAILED]["missing"] == [{"from": 1, "to": 1}]


def test_a_key_of_a_create_causes_no_event(api: Api, local: MotoStack) -> None:
    before = local.events.getvalue()
    headers = {"idempotency-key": "0123456789abcdef0123456789"}
    answers = [api.request("POST", Api.ROOT, b'{"totalRecord": 1}', headers).json for _ in range(2)]
    local.stream.deliver()
    new = local.events.getvalue().removeprefix(before)
    assert [json.loads(line)["detail"]["sessionId"] for line in new.splitlines()] == [
        answers[0]["sessionId"]
    ]


class Bus:
    """EventBridge behind the real client; ``fault`` decides what happens to a call."""

    def __init__(self) -> None:
        self.events: Events = []
        self.calls = 0
        self.entries: list[dict[str, Any]] = []
        self.fault: Callable[[int, Callable[[], Answer]], Answer] = lambda _, forward: forward()

    def handle(self, call: Call, forward: Callable[[], Answer]) -> Answer:
        if call.operation != "PutEvents":
            return forward()
        self.calls += 1

        def publish() -> Answer:
            (entry,) = json.loads(call.body)["Entries"]
            self.entries.append(entry)
            self.events.append((entry["DetailType"], json.loads(entry["Detail"])))
            return answer({"EventId": "1"})

        return self.fault(self.calls, publish)


def answer(entry: dict[str, str]) -> Answer:
    body = {"FailedEntryCount": int("ErrorCode" in entry), "Entries": [entry]}
    headers = [("content-type", "application/x-amz-json-1.1")]
    return Answer("200 OK", headers, json.dumps(body).encode())


@pytest.fixture(scope="module")
def records(local: MotoStack) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The stream records of the sessions of ``lives``, and their ids."""
    seen: list[dict[str, Any]] = []
    source = Template.load(TEMPLATE).event_sources["announce.lambda_handler"]

    def keep(event: Any, _: Context) -> object:  # noqa: ANN401
        seen.extend(event["Records"])
        return {"batchItemFailures": []}

    stream = local.stream
    stream.deliver()
    ids = lives(Api(through_gateway(local.gateway)), local)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "_mappings", [(source, Lambda(keep))])
        stream.deliver()
    mine = [one for one in seen if one["dynamodb"]["Keys"]["sessionId"]["S"] in ids]
    # Plus one: the second DELETE …/file, which changes nothing.
    assert len(mine) == EVENTS + 1
    return mine, ids


@pytest.fixture
def bus(aws: AwsProxy) -> Iterator[Bus]:
    made = Bus()
    with aws.handled(made.handle):
        yield made


def deliver(records: list[dict[str, Any]], tries: int = 10) -> int:
    """Invoke the function like Lambda until no record fails; return the number of invocations."""
    import announce  # noqa: PLC0415 - it reads the environment, which the stack sets

    wiring = Wiring(Config.from_env({**os.environ, "EVENT_BUS": "a-bus"}))
    handler = announce.build(wiring.event_bus, wiring.config.merged_bucket)
    left = records
    for number in range(1, tries + 1):
        context: Any = Context("events", "512", 1e12, "request")
        failures: Any = handler({"Records": left}, context)
        failed = [one["itemIdentifier"] for one in failures["batchItemFailures"]]
        if not failed:
            return number
        numbers = [one["dynamodb"]["SequenceNumber"] for one in left]
        left = left[min(map(numbers.index, failed)) :]
    raise AssertionError("never done")


REFUSED = {"ErrorCode": "ThrottlingException", "ErrorMessage": "slow down"}


def lost(_: Callable[[], Answer]) -> Answer:
    raise ConnectionResetError


def landed(forward: Callable[[], Answer]) -> Answer:
    forward()
    raise ConnectionResetError


def died(forward: Callable[[], Answer]) -> Answer:
    forward()
    return DEAD


FAULTS: dict[str, Callable[[Callable[[], Answer]], Answer]] = {
    "lost": lost,
    "landed, answer lost": landed,
    "died after it": died,
    "died before it": lambda _: DEAD,
    "throttled inside a 200": lambda _: answer(REFUSED),
    "refused inside a 200": lambda _: answer({"ErrorCode": "MalformedDetail"}),
    "denied": lambda _: dynamodb_error(400, "AccessDeniedException"),
    "500": lambda _: dynamodb_error(500, "InternalException"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_whatever_fails_events_are_published_in_order(
    records: tuple[list[dict[str, Any]], tuple[str, ...]],
    bus: Bus,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setattr(Tries, "pause", lambda *_: 0)
    found, ids = records
    for at in range(1, EVENTS + 1):
        bus.events, bus.calls = [], 0
        bus.fault = lambda number, forward, at=at: (  # type: ignore[misc]
            FAULTS[name](forward) if number == at else forward()
        )
        deliver(found)
        assert [ordered(bus.events, session_id) for session_id in ids] == LIVES
        # Only an event that may have been published is repeated.
        repeats = 1 if "landed" in name or "after" in name else 0
        assert len(bus.events) == EVENTS + repeats
        assert bus.calls == EVENTS + 1


def test_an_event_goes_to_the_bus_it_is_meant_for(
    records: tuple[list[dict[str, Any]], tuple[str, ...]], bus: Bus
) -> None:
    found, _ = records
    assert deliver(found) == 1
    assert {entry["EventBusName"] for entry in bus.entries} == {"a-bus"}
    assert {entry["Source"] for entry in bus.entries} == {"gapless"}
    table = boto3.client("dynamodb").describe_table(TableName=os.environ["SESSIONS_TABLE"])
    assert {tuple(entry["Resources"]) for entry in bus.entries} == {(table["Table"]["TableArn"],)}


def test_a_bus_that_refuses_all_gets_one_call_per_invocation(
    records: tuple[list[dict[str, Any]], tuple[str, ...]], bus: Bus
) -> None:
    """After the first failure the function tries no further event."""
    bus.fault = lambda *_: dynamodb_error(400, "AccessDeniedException")
    found, _ = records
    with pytest.raises(AssertionError, match="never done"):
        deliver(found, tries=2)
    assert bus.calls == 2


@pytest.mark.parametrize("form", ["ndjson", "ndjson.gz"])
def test_the_example_loads_what_is_finished(
    api: Api, local: MotoStack, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    example = yaml.load(EXAMPLE.read_text(encoding="utf-8"), Loader)["Resources"]  # noqa: S506 - a SafeLoader
    loaded, records = (
        boto3.resource("dynamodb").create_table(
            TableName=f"{name}-{form}", **example[name]["Properties"]
        )
        for name in ("Loaded", "Records")
    )
    monkeypatch.setenv("LOADED", loaded.name)
    monkeypatch.setenv("RECORDS", records.name)
    session_id = api.filled([[1, 2], [3]])
    if form == "ndjson.gz":
        session_id = api.create(3, format=form, metadata={"partner": "acme"})
        api.batch(session_id, 0, [1, 2, 3])
    api.finish(session_id)
    ((_, detail),) = [one for one in published(local, session_id) if one[0] == Kind.FINISHED]
    code: dict[str, Any] = {}
    exec(example["Load"]["Properties"]["Code"]["ZipFile"], code)  # noqa: S102
    for _ in range(2):
        code["handler"]({"detail": detail}, None)
    written = records.query(KeyConditionExpression=Key("sessionId").eq(session_id))["Items"]
    assert [(item["line"], item["record"]) for item in written] == [(1, "1"), (2, "2"), (3, "3")]
    (item,) = loaded.scan()["Items"]
    assert (item["sessionId"], item["records"]) == (session_id, 3)
    assert item["partner"] == ("acme" if form == "ndjson.gz" else "unknown")
    with pytest.raises(ValueError, match="3 records"):
        code["handler"]({"detail": detail | {"receivedRecord": 4}}, None)
