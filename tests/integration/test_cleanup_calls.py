"""The clean-up's calls to S3: number, rate, and the handling of failures."""

from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest
from aws_lambda_powertools.utilities.batch.exceptions import BatchProcessingError
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from tests.api import Api
from tests.aws import Answer, Call, s3_error
from tests.conftest import MotoStack
from tests.integration.test_cleanup import few
from uploads import cleanup, limits

SESSION = "c" * 32
BY_TTL = {"type": "Service", "principalId": "dynamodb.amazonaws.com"}
IMAGES = {"REMOVE": "OldImage", "EXPIRE": "OldImage"}


class Context:
    """Lambda's context of an invocation."""

    aws_request_id = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        return 900_000


def change(
    session_id: str,
    state: str | None,
    event: str = "MODIFY",
    number: str = "1",
) -> dict[str, Any]:
    """A record of the table's stream; an expired session is removed by the time to live."""
    keys = {"sessionId": {"S": session_id}}
    image = keys | ({"state": {"S": state}} if state else {})
    return {
        "eventID": number,
        "eventName": event.replace("EXPIRE", "REMOVE"),
        "dynamodb": {
            "Keys": keys,
            IMAGES.get(event, "NewImage"): image,
            "SequenceNumber": number,
        },
    } | ({"userIdentity": BY_TTL} if event == "EXPIRE" else {})


def stream(*records: dict[str, Any]) -> list[str]:
    """Invoke the function with records; return the sequence numbers that it reports as failed."""
    answer = import_module("stream").lambda_handler({"Records": list(records)}, Context())
    return [failed["itemIdentifier"] for failed in answer["batchItemFailures"]]


def fill(local: MotoStack, number: int, session_id: str = SESSION) -> None:
    """Store ``number`` batches directly in moto, which is faster than PutObject."""
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    for seq_num in range(number):
        backend.put_object(local.batches_bucket, f"{session_id}/{seq_num:08d}", b"x")


@pytest.fixture(autouse=True)
def _nothing_is_left(local: MotoStack) -> Iterator[None]:
    yield
    import_module("stream").lambda_handler({"Records": [change(SESSION, "ABORTED")]}, Context())
    assert local.left(SESSION) == (0, 0)


@pytest.mark.parametrize(
    ("state", "event", "session_id", "over"),
    [
        ("FINISHED", "MODIFY", SESSION, True),
        ("ABORTED", "MODIFY", SESSION, True),
        ("FINISHING", "MODIFY", SESSION, False),
        ("OPEN", "MODIFY", SESSION, False),
        ("OPEN", "INSERT", SESSION, False),
        ("a state of a later release", "MODIFY", SESSION, False),
        ("OPEN", "EXPIRE", SESSION, True),
        ("FINISHING", "EXPIRE", SESSION, True),
        ("FINISHED", "EXPIRE", SESSION, True),
        # Somebody removed the item, and may restore it.
        ("OPEN", "REMOVE", SESSION, False),
        ("FINISHED", "REMOVE", SESSION, False),
        # Items that are not sessions.
        (None, "MODIFY", SESSION, False),
        (None, "EXPIRE", SESSION, False),
        ("FINISHED", "MODIFY", "", False),
        ("FINISHED", "MODIFY", f"key#{SESSION}", False),
        ("FINISHED", "EXPIRE", SESSION[:-1], False),
        ("FINISHED", "MODIFY", f"{SESSION}\n", False),
    ],
)
def test_only_what_is_over_is_cleaned_up(
    local: MotoStack, state: str | None, event: str, session_id: str, *, over: bool
) -> None:
    fill(local, 2)
    with local.aws.recording() as calls:
        assert stream(change(session_id, state, event)) == []
    assert local.left(SESSION) == ((0, 0) if over else (2, 0))
    assert bool(calls) == over


def test_the_order_is_batches_uploads_plans(local: MotoStack) -> None:
    fill(local, 2)
    upload = local.s3.create_multipart_upload(Bucket=local.merged_bucket, Key=f"{SESSION}.ndjson")[
        "UploadId"
    ]
    local.s3.put_object(Bucket=local.batches_bucket, Key=f"merges/{SESSION}/1/plan.json")
    with local.aws.recording() as calls:
        stream(change(SESSION, "ABORTED"))
    assert [(call.operation, call.upload_id) for call in calls] == [
        ("ListObjectsV2", ""),
        ("DeleteObjects", ""),
        ("ListMultipartUploads", ""),
        ("AbortMultipartUpload", upload),
        ("ListObjectsV2", ""),
        ("DeleteObjects", ""),
    ]


def test_nothing_but_the_rest_is_touched(api: Api, local: MotoStack) -> None:
    """The merged object, the item and other sessions stay."""
    finished, other = few(api), few(api)
    assert api.finish(finished).status == 200
    item, objects = local.item(finished), local.merged(finished)
    neighbours = [f"{other}/{seq_num:08d}" for seq_num in range(3)]
    assert stream(change(finished, "FINISHED")) == []
    assert local.left(finished) == (0, 0)
    assert local.item(finished) == item
    assert local.merged(finished) == objects
    assert api.manifest(finished).status == 307
    assert local.stored_keys(other) == neighbours


@pytest.mark.parametrize(
    ("batches", "lists", "deletions"), [(0, 1, 0), (1, 1, 1), (1_000, 1, 1), (1_001, 2, 2)]
)
def test_how_many_calls_it_takes(
    local: MotoStack, batches: int, lists: int, deletions: int
) -> None:
    fill(local, batches)
    with local.aws.recording() as calls:
        assert stream(change(SESSION, "FINISHED")) == []
    made = Counter(call.operation for call in calls)
    # Plus the listing of what merges left.
    assert made.pop("ListObjectsV2") == lists + 1
    assert made.pop("DeleteObjects", 0) == deletions
    assert made == {"ListMultipartUploads": 1}


def test_more_uploads_than_fit_into_an_answer(local: MotoStack) -> None:
    uploads = [
        local.s3.create_multipart_upload(Bucket=local.merged_bucket, Key=f"{SESSION}.ndjson")
        for _ in range(3)
    ]
    pages = [uploads[:2], uploads[2:]]

    def in_pages(call: Call, forward: Callable[[], Answer]) -> Answer:
        """Moto returns all uploads in one page."""
        if call.operation != "ListMultipartUploads":
            return forward()
        page = pages.pop(0)
        told = "".join(
            f"<Upload><Key>{one['Key']}</Key><UploadId>{one['UploadId']}</UploadId></Upload>"
            for one in page
        )
        more = "<IsTruncated>true</IsTruncated>" if pages else "<IsTruncated>false</IsTruncated>"
        next_ = f"<NextKeyMarker>k</NextKeyMarker><NextUploadIdMarker>{len(pages)}"
        body = f"<R>{more}{next_}</NextUploadIdMarker>{told}</R>"
        return Answer("200 OK", [("content-type", "application/xml")], body.encode())

    with local.aws.handled(in_pages):
        assert stream(change(SESSION, "ABORTED")) == []
    assert not pages
    assert local.left(SESSION) == (0, 0)


def test_it_deletes_no_faster_than_the_rate_limit(
    local: MotoStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured on a clock that only pauses move on."""
    now = 0.0

    class Time:
        @staticmethod
        def monotonic() -> float:
            return now

        @staticmethod
        def sleep(seconds: float) -> None:
            nonlocal now
            now += seconds

    monkeypatch.setattr(cleanup, "time", Time)
    fill(local, 5_500)
    assert stream(change(SESSION, "FINISHED")) == []
    # The sixth thousand waits until the rate allows it.
    assert now == pytest.approx(5_000 / limits.DELETES_PER_SECOND)
    assert limits.DELETES_PER_SECOND < 3_500


def refusing(code: str, times: int) -> Callable[[Call, Callable[[], Answer]], Answer]:
    """S3 refuses to delete two batches, the first ``times`` times it is asked to."""
    told = "".join(
        f"<Error><Key>{SESSION}/0000000{n}</Key><Code>{code}</Code><Message>m</Message></Error>"
        for n in (0, 1)
    )
    body = f'<?xml version="1.0"?>\n<DeleteResult>{told}</DeleteResult>'.encode()
    left = times

    def handle(call: Call, forward: Callable[[], Answer]) -> Answer:
        nonlocal left
        if call.operation != "DeleteObjects" or not left:
            return forward()
        left -= 1
        return Answer("200 OK", [("content-type", "application/xml")], body)

    return handle


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FIRST_PAUSE_SECONDS", 0.001)


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch, _hasty: None) -> None:
    monkeypatch.setattr(limits, "PATIENCE_SECONDS", 0.1)


@pytest.mark.usefixtures("_hasty")
@pytest.mark.parametrize("code", ["SlowDown", "InternalError"])
def test_an_object_that_s3_has_no_time_for_is_deleted_again(local: MotoStack, code: str) -> None:
    fill(local, 2)
    with local.aws.handled(refusing(code, 2)), local.aws.recording() as calls:
        assert stream(change(SESSION, "FINISHED")) == []
    assert Counter(call.operation for call in calls)["DeleteObjects"] == 3
    assert local.left(SESSION) == (0, 0)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(
    "handler",
    [
        lambda: refusing("AccessDenied", 1),
        lambda: refusing("SlowDown", 10**6),
        lambda: failing("ListObjectsV2", 403, "AccessDenied"),
        lambda: failing("DeleteObjects", 503, "SlowDown"),
        lambda: failing("DeleteObjects", 403, "AccessDenied"),
        lambda: failing("ListMultipartUploads", 403, "AccessDenied"),
    ],
)
def test_failed_records_are_retried_and_others_proceed(
    local: MotoStack, handler: Callable[[], Any]
) -> None:
    fill(local, 2)
    # If all records fail, the invocation fails, so that Lambda counts an error.
    with local.aws.handled(handler()), pytest.raises(BatchProcessingError):
        stream(change(SESSION, "ABORTED"))
    other = "d" * 32
    fill(local, 2, other)
    first = handler()
    seen: set[str] = set()

    def only_first(call: Call, forward: Callable[[], Answer]) -> Answer:
        """Until the next listing all calls are for one session."""
        if call.operation == "ListObjectsV2":
            seen.add(call.prefix)
        ours = f"{other}/" not in seen
        answer: Answer = first(call, forward) if ours else forward()
        return answer

    with local.aws.handled(only_first):
        wanted = stream(
            change(SESSION, "ABORTED", number="7"), change(other, "ABORTED", number="8")
        )
    assert wanted == ["7"]
    assert local.left(other) == (0, 0)
    assert stream(change(SESSION, "ABORTED", number="7")) == []
    assert local.left(SESSION) == (0, 0)


def failing(
    operation: str, status: int, code: str
) -> Callable[[Call, Callable[[], Answer]], Answer]:
    def handle(call: Call, forward: Callable[[], Answer]) -> Answer:
        return s3_error(status, code) if call.operation == operation else forward()

    return handle


def test_an_upload_that_another_process_aborts_is_no_failure(local: MotoStack) -> None:
    local.s3.create_multipart_upload(Bucket=local.merged_bucket, Key=f"{SESSION}.ndjson")

    def late(call: Call, forward: Callable[[], Answer]) -> Answer:
        answer = forward()
        return s3_error(404, "NoSuchUpload") if call.operation == "AbortMultipartUpload" else answer

    with local.aws.handled(late):
        assert stream(change(SESSION, "FINISHED")) == []


def test_what_was_found_is_logged(local: MotoStack, caplog: pytest.LogCaptureFixture) -> None:
    fill(local, 3)
    with caplog.at_level("INFO", "gapless"):
        stream(change(SESSION, "FINISHED"))
    (record,) = caplog.records
    told = record.__dict__
    assert record.message == "cleaned up"
    assert (told["batches"], told["uploads"], told["plans"]) == (3, 0, 0)
