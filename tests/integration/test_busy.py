"""Throttling, failing or unreachable storage: calls are retried for a limited time, then 503.

The client is told to retry, and nothing is logged as an error.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from botocore import endpoint

from local import gateway
from local.gateway import Gateway
from tests.api import Answer as ApiAnswer
from tests.api import Api, through_gateway
from tests.aws import Answer, AwsProxy, Call, dynamodb_error, s3_error
from tests.conftest import MotoStack, Stack
from uploads import batch_store, botocore_clients, errors, limits, retries
from uploads.threads import Threads

DYNAMODB = {"PutItem", "GetItem", "UpdateItem"}

S3_FAILURES = {
    "SlowDown": s3_error(503, "SlowDown"),
    "InternalError": s3_error(500, "InternalError"),
    "too many requests": s3_error(429, "TooManyRequests"),
    "no connection": None,
    "half an answer": Answer("200 OK", [("content-length", "1000")], b"<half"),
}
DYNAMODB_FAILURES = {
    "ProvisionedThroughputExceeded": dynamodb_error(400, "ProvisionedThroughputExceededException"),
    "Throttling": dynamodb_error(400, "ThrottlingException"),
    "RequestLimitExceeded": dynamodb_error(400, "RequestLimitExceeded"),
    "InternalServerError": dynamodb_error(500, "InternalServerError"),
    "no connection": None,
}


class Clock:
    """A clock that only sleeping moves on."""

    now = 1_000.0
    time = staticmethod(time.time)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Retries use this clock, so a busy machine does not matter."""
    made = Clock()
    for module in (retries, batch_store, botocore_clients, endpoint, gateway):
        monkeypatch.setattr(module, "time", made)
    return made


def small(api: Api) -> str:
    return api.filled([[0], [1]], 1)


def large(api: Api) -> str:
    """A session whose merge has a streamed and a copied part."""
    session_id = api.create(3, 1)
    for number, size in enumerate((6_000_000, 3, 6_000_000)):
        assert api.gzip_batch(session_id, number, ["x" * size]).status == 204
    return session_id


def finished(api: Api) -> str:
    session_id = small(api)
    assert api.finish(session_id).json["validationResult"] == "Success"
    return session_id


def create(api: Api, _: str) -> ApiAnswer:
    return api.request("POST", api.ROOT, b'{"totalRecord": 1}')


def send(api: Api, session_id: str) -> ApiAnswer:
    return api.batch(session_id, 0, [0])


ROUTES: dict[str, tuple[Callable[[Api], str], Callable[[Api, str], ApiAnswer], list[str]]] = {
    "create": (lambda _: "", create, ["PutItem"]),
    "batch": (small, send, ["PutObject", "HeadObject", "GetItem"]),
    "status": (small, Api.status, ["GetItem", "ListObjectsV2"]),
    "file": (finished, Api.file, ["GetItem"]),
    "abort": (small, Api.abort, ["UpdateItem"]),
    "finish": (small, Api.finish, ["UpdateItem", "ListObjectsV2", "GetObject", "PutObject"]),
    "finish of many parts": (
        large,
        Api.finish,
        ["CreateMultipartUpload", "UploadPart", "UploadPartCopy", "CompleteMultipartUpload"],
    ),
}
CASES = [
    pytest.param(route, operation, failure, id=f"{route}, {operation}, {failure}")
    for route, (_, _, operations) in ROUTES.items()
    for operation in operations
    for failure in (DYNAMODB_FAILURES if operation in DYNAMODB else S3_FAILURES)
    if failure != "half an answer" or operation == "ListObjectsV2"
]


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record)


@pytest.fixture
def logged() -> Iterator[list[logging.LogRecord]]:
    from uploads.http import logger  # noqa: PLC0415 - reads the environment

    handler = _Records()
    inner = logging.getLogger(logger.name)
    inner.addHandler(handler)
    yield handler.seen
    inner.removeHandler(handler)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(("route", "operation", "failure"), CASES)
def test_busy_storage_is_a_503_that_a_retry_resolves(
    api: Api,
    aws: AwsProxy,
    logged: list[logging.LogRecord],
    route: str,
    operation: str,
    failure: str,
) -> None:
    prepare, act, _ = ROUTES[route]
    session_id = prepare(api)
    answer = (DYNAMODB_FAILURES if operation in DYNAMODB else S3_FAILURES)[failure]
    with aws.failing(operation, answer, landed=False) as failed:
        refused = act(api, session_id)
    assert (refused.status, refused.code) == (503, "storage_busy")
    assert int(refused.headers["retry-after"]) > 0
    assert len(failed) > 1, "there was no retry"
    assert {record.levelno for record in logged} <= {logging.INFO, logging.WARNING}
    assert not any(record.exc_info for record in logged)
    assert act(api, session_id).status < 400


@pytest.mark.parametrize("failure", ["ProvisionedThroughputExceeded", "no connection"])
@pytest.mark.parametrize("operation", ["PutObject", "GetItem"])
def test_far_more_tries_than_eleven_are_made(
    api: Api, aws: AwsProxy, monkeypatch: pytest.MonkeyPatch, operation: str, failure: str
) -> None:
    """The limit is a time and not a number."""
    monkeypatch.setattr(limits, "LONGEST_PAUSE_SECONDS", 0.01)
    session_id = api.create(1)
    answer = DYNAMODB_FAILURES[failure] if operation in DYNAMODB else s3_error(503, "SlowDown")
    with aws.failing(operation, answer, landed=False, times=40) as failed:
        assert api.batch(session_id, 0, [0]).status == 204
    assert len(failed) == 40


@pytest.mark.parametrize("takes", [0, 0.3, 1.2, 20], ids="a try takes {} s".format)
@pytest.mark.parametrize("operation", ["PutObject", "GetItem", "ListObjectsV2"])
def test_no_try_begins_that_the_invocation_has_no_time_for(
    local: MotoStack, aws: AwsProxy, clock: Clock, operation: str, takes: float
) -> None:
    """The invocation has five seconds for tries, and some more for its answer."""
    timeout = 5 + limits.ANSWER_SECONDS
    routes = {key: replace(found, timeout=timeout) for key, found in local.gateway.routes.items()}
    api, hurried = Api(through_gateway(local.gateway)), Api(through_gateway(Gateway(routes)))
    session_id = small(api)
    ended: list[float] = []

    def slow(call: Call, forward: Callable[[], Answer]) -> Answer:
        if call.operation != operation:
            return forward()
        clock.now += takes
        ended.append(clock.now)
        return busy

    throttled = dynamodb_error(400, "ThrottlingException")
    busy = throttled if operation in DYNAMODB else s3_error(503, "SlowDown")
    act = {"PutObject": send, "GetItem": Api.status}.get(operation, Api.finish)
    began = clock.now
    with aws.handled(slow):
        assert act(hurried, session_id).code == "storage_busy"
    # The first try may take any time; no other one may end too late.
    assert all(end - began <= 5 for end in ended[1:])
    longest = takes + limits.LONGEST_PAUSE_SECONDS
    assert ended[-1] - began + longest > 5, "there was time for another try"


def test_a_read_by_a_thread_keeps_to_the_time_of_its_invocation() -> None:
    served = gateway.Context("batches", "1024", deadline=0, aws_request_id="1")
    with retries.within(served):
        with Threads(1) as threads:
            assert threads.map(lambda _: retries.invocation.get(), [0]) == [served]
        with pytest.raises(errors.StorageBusyError):
            retries.Tries(time.monotonic()).pause("SlowDown")
    assert retries.Tries(time.monotonic()).pause("SlowDown") < 1


@pytest.mark.parametrize(
    ("operation", "answer"),
    [
        ("GetItem", dynamodb_error(400, "ResourceNotFoundException")),
        ("GetItem", dynamodb_error(400, "AccessDeniedException")),
        ("PutObject", s3_error(403, "AccessDenied")),
        ("PutObject", s3_error(400, "InvalidRequest")),
        ("ListObjectsV2", s3_error(404, "NoSuchBucket")),
    ],
)
def test_a_wrong_set_up_is_a_fault_and_is_not_tried_again(
    api: Api, aws: AwsProxy, operation: str, answer: Answer
) -> None:
    session_id = api.create(1)
    with aws.failing(operation, answer, landed=False) as failed:
        act = api.status if operation == "ListObjectsV2" else lambda it: api.batch(it, 0, [0])
        assert act(session_id).status == 500
    assert len(failed) == 1


@pytest.mark.usefixtures("clock")
def test_a_busy_finish_gives_the_session_back_and_the_next_one_succeeds(
    api: Api, aws: AwsProxy, stack: Stack
) -> None:
    session_id = large(api)
    with aws.failing("UploadPart", s3_error(503, "SlowDown"), landed=False):
        assert api.finish(session_id).code == "storage_busy"
    assert stack.item(session_id)["leaseUntil"] <= int(time.time())
    assert stack.open_uploads(session_id) == 0
    assert api.finish(session_id).json["validationResult"] == "Success"


@pytest.mark.parametrize(
    ("prepare", "operation", "key"),
    [
        (small, "PutObject", "manifest.json"),
        (small, "PutObject", ".ndjson"),
        (large, "CompleteMultipartUpload", ".ndjson"),
    ],
)
def test_a_merge_that_meets_another_write_of_its_object_is_finished_by_the_next(
    api: Api, aws: AwsProxy, stack: Stack, prepare: Callable[[Api], str], operation: str, key: str
) -> None:
    """S3's 409 ConditionalRequestConflict: nothing need be stored, and the parts may be lost."""
    session_id = prepare(api)

    def conflict(call: Call, forward: Callable[[], Answer]) -> Answer:
        if call.operation == operation and call.key.endswith(key):
            return s3_error(409, "ConditionalRequestConflict")
        return forward()

    with aws.handled(conflict):
        refused = api.finish(session_id)
    assert (refused.status, refused.code) == (503, "storage_busy")
    assert stack.open_uploads(session_id) == 0
    assert api.finish(session_id).json["validationResult"] == "Success"


def test_the_answer_says_no_more_than_the_client_needs() -> None:
    problem = errors.StorageBusyError("Come again.", why="SlowDown at a secret place").problem()
    assert "secret" not in json.dumps(problem)
