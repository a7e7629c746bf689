"""Events of a deployed stack, received by a queue behind an EventBridge rule."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest

from local import ministack, sam
from tests.api import Api
from tests.conftest import DEPLOYED, Stack
from tests.deployed.failing import allow, denied, failure, with_retries
from tests.unit.test_event_payloads import valid
from uploads.events import Kind

TOLD_SECONDS = 300
EXAMPLE = sam.ROOT / "examples" / "load-finished.yaml"
Events = list[dict[str, Any]]


class Queue:
    """The target of a rule for all events of the stack."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._sqs = boto3.client("sqs")
        self.events: Events = []

    def of(self, session_id: str) -> Events:
        """The session's events so far."""
        found = self._sqs.receive_message(
            QueueUrl=self._url, MaxNumberOfMessages=10, WaitTimeSeconds=1
        )
        for message in found.get("Messages", []):
            self.events.append(json.loads(message["Body"]))
            self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])
        return [one for one in self.events if one["detail"]["sessionId"] == session_id]

    def until(self, session_id: str, *kinds: Kind) -> Events:
        """The session's events, by sequence, once all ``kinds`` have arrived."""
        found = wait(lambda: self.of(session_id), lambda told: kinds_of(told) >= set(kinds))
        first = {one["detail"]["id"]: one for one in reversed(found)}
        told = sorted(first.values(), key=lambda one: int(one["detail"]["sequence"]))
        assert [one["detail-type"] for one in told] == list(kinds)
        for one in told:
            valid(one["detail"], Kind(one["detail-type"]))
            assert one["source"] == "gapless"
        return told


def kinds_of(told: Events) -> set[str]:
    return {one["detail-type"] for one in told}


def wait(look: Callable[[], Any], enough: Callable[[Any], object]) -> Any:  # noqa: ANN401
    until = time.monotonic() + TOLD_SECONDS
    while not enough(found := look()):
        assert time.monotonic() < until, ("this is all there is", found)
    return found


@pytest.fixture(scope="module")
def queue(stack: Stack) -> Iterator[Queue]:
    events, sqs = boto3.client("events"), boto3.client("sqs")
    url = sqs.create_queue(QueueName="events-of-gapless")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    table = boto3.client("dynamodb").describe_table(TableName=stack.table.name)["Table"]
    pattern = {"source": ["gapless"], "resources": [table["TableArn"]]}
    events.put_rule(Name="all-of-gapless", EventPattern=json.dumps(pattern))
    events.put_targets(Rule="all-of-gapless", Targets=[{"Id": "queue", "Arn": arn["QueueArn"]}])
    yield Queue(url)
    events.remove_targets(Rule="all-of-gapless", Ids=["queue"])
    events.delete_rule(Name="all-of-gapless")
    sqs.delete_queue(QueueUrl=url)


def test_events_of_sessions_arrive_in_a_queue(api: Api, stack: Stack, queue: Queue) -> None:
    session_id = api.create(2, 1, metadata={"partner": "acme"})
    api.batch(session_id, 0, ["secret"])
    assert api.finish(session_id).json["validationResult"] == "Failed"
    api.batch(session_id, 1, ["secret"])
    result = api.finish(session_id).json
    assert api.delete_file(session_id).status == 204
    aborted, expired = api.create(1), api.create(1)
    assert api.abort(aborted).status == 204
    stack.expire(expired)
    told = queue.until(session_id, Kind.CREATED, Kind.FAILED, Kind.FINISHED, Kind.FILE_DELETED)
    created, failed, finished, deleted = (one["detail"] for one in told)
    assert created["metadata"] == {"partner": "acme"}
    assert (failed["reason"], failed["missing"]) == ("missing_batches", [{"from": 1, "to": 1}])
    del result["validationResult"]
    assert result.items() <= finished.items()
    assert finished["bucket"] == DEPLOYED["mergedBucket"]
    assert finished["fileDeletedAt"] is None
    assert deleted["fileDeletedAt"] == api.status(session_id).json["fileDeletedAt"]
    queue.until(aborted, Kind.CREATED, Kind.ABORTED)
    queue.until(expired, Kind.CREATED, Kind.EXPIRED)
    assert "secret" not in json.dumps(queue.events)


def test_a_bus_that_refuses_holds_up_no_clean_up_and_loses_nothing(
    api: Api, stack: Stack, queue: Queue
) -> None:
    with denied("events:PutEvents", "Events"):
        session_id = api.create(1)
        assert api.batch(session_id, 0, [0]).status == 204
        assert api.abort(session_id).status == 204
        assert stack.cleaned_up(session_id) == (0, 0)
        assert queue.of(session_id) == []
    queue.until(session_id, Kind.CREATED, Kind.ABORTED)


def test_an_event_that_fails_for_good_is_reported_and_others_proceed(
    api: Api, queue: Queue
) -> None:
    with with_retries(1, "Events"):
        # Receive the events of other tests first.
        queue.until(api.create(1), Kind.CREATED)
        with denied("events:PutEvents", "Events"):
            session_id = api.create(1)
            told = failure("Events")
            assert told["requestContext"]["condition"] == "RetryAttemptsExhausted"
            assert told["DDBStreamBatchInfo"]["batchSize"] == 1
            allow("Events")
            assert api.abort(session_id).status == 204
            queue.until(session_id, Kind.ABORTED)


@pytest.fixture
def example(stack: Stack) -> Iterator[dict[str, str]]:  # noqa: ARG001 - sets the environment
    """Deploy the example's stack as its header says; yield its outputs."""
    cloudformation, name = boto3.client("cloudformation"), EXAMPLE.stem
    parameters = {"MergedBucket": DEPLOYED["mergedBucket"], "SessionsTable": DEPLOYED["table"]}
    cloudformation.create_stack(
        StackName=name,
        TemplateBody=EXAMPLE.read_text(encoding="utf-8"),
        Capabilities=["CAPABILITY_IAM"],
        Parameters=[
            {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
        ],
    )
    cloudformation.get_waiter("stack_create_complete").wait(
        StackName=name, WaiterConfig={"Delay": 1}
    )
    (deployed,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
    yield {output["OutputKey"]: output["OutputValue"] for output in deployed["Outputs"]}
    ministack.delete(name)


def test_the_example_loads_what_is_finished(api: Api, example: dict[str, str]) -> None:
    finished = [api.create(2, format=form) for form in ("ndjson", "ndjson.gz")]
    for session_id in finished:
        assert api.batch(session_id, 0, [1, 2]).status == 204
        assert api.finish(session_id).json["validationResult"] == "Success"
    table = boto3.resource("dynamodb").Table(example["Loaded"])
    loaded = wait(lambda: table.scan()["Items"], lambda items: len(items) == len(finished))
    assert {item["sessionId"]: item["records"] for item in loaded} == dict.fromkeys(finished, 2)
    written = boto3.resource("dynamodb").Table(example["Records"]).scan()["Items"]
    assert {(item["sessionId"], item["line"], item["record"]) for item in written} == {
        (session_id, line, str(line)) for session_id in finished for line in (1, 2)
    }
