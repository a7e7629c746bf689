"""Calls that fail before or after they take effect, and attempts that die: the same end state."""

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.api import Api
from tests.aws import DEAD, Answer, AwsProxy, Call, s3_error
from tests.conftest import Stack
from uploads import limits


def ready(api: Api, batch_size: int | None = None, records: int = 3) -> str:
    """A complete session of batches with one record each."""
    return api.filled([[n] for n in range(records)], batch_size)


def large(api: Api) -> str:
    """A session whose merge is a multipart upload."""
    return api.filled([["x" * 4_000_000]] * 4)


def lease_over(stack: Stack, session_id: str) -> None:
    """Let the lease of the current attempt expire."""
    stack.change(session_id, leaseUntil=int(time.time()) - 1)


def nth(
    aws: AwsProxy, operation: str, number: int, act: Callable[[Callable[[], Answer]], Answer]
) -> AbstractContextManager[None]:
    """Pass the ``number``-th call of ``operation`` to ``act``."""
    seen = 0

    def handle(call: Call, forward: Callable[[], Answer]) -> Answer:
        nonlocal seen
        seen += call.operation == operation
        if call.operation == operation and seen == number:
            return act(forward)
        return forward()

    return aws.handled(handle)


def lost(forward: Callable[[], Answer]) -> Answer:
    """The call takes effect, and its answer is lost."""
    forward()
    raise ConnectionResetError


SEAL, DECIDE, COMMIT = 1, 2, 3


@pytest.mark.parametrize("write", [SEAL, DECIDE, COMMIT], ids=["seal", "decide", "commit"])
@pytest.mark.parametrize("make", [ready, large], ids=["put", "multipart"])
def test_a_lost_answer_to_a_write_is_found_out(
    api: Api, aws: AwsProxy, stack: Stack, write: int, make: Callable[[Api], str]
) -> None:
    session_id = make(api)
    with nth(aws, "UpdateItem", write, lost):
        result = api.finish(session_id)
    assert result.json["validationResult"] == "Success"
    assert stack.item(session_id)["attempt"] == 1
    assert stack.item(session_id)["state"] == "FINISHED"
    assert stack.open_uploads(session_id) == 0


def test_a_lost_answer_to_the_reopening_is_found_out(api: Api, aws: AwsProxy, stack: Stack) -> None:
    session_id = api.create(2, 1)
    with nth(aws, "UpdateItem", 2, lost):
        assert api.finish(session_id).json["validationResult"] == "Failed"
    assert stack.item(session_id)["state"] == "OPEN"


def test_a_lost_answer_to_create_makes_one_session(api: Api, aws: AwsProxy) -> None:
    with aws.failing("PutItem", landed=True, times=1) as failed:
        session_id = api.create(1)
    assert len(failed) == 1
    assert api.status(session_id).json["state"] == "OPEN"


def test_a_lost_answer_to_a_batch_is_acknowledged_once_it_is_read(
    api: Api, aws: AwsProxy, stack: Stack
) -> None:
    session_id = api.create(1)
    with aws.failing("PutObject", landed=True, times=1) as failed:
        assert api.batch(session_id, 0, [1]).status == 204
    assert len(failed) == 1
    assert stack.stored(session_id, 0) == b"1\n"


def test_a_write_that_met_another_is_not_believed_to_be_stored(
    api: Api, aws: AwsProxy, stack: Stack
) -> None:
    """S3's 409 ConditionalRequestConflict: nothing need be stored."""
    session_id = api.create(1)
    conflict = s3_error(409, "ConditionalRequestConflict")
    with aws.failing("PutObject", conflict, landed=False, times=2):
        assert api.batch(session_id, 0, [1]).status == 204
    assert stack.stored(session_id, 0) == b"1\n"


def test_a_write_that_is_never_settled_asks_for_a_retry(
    api: Api, aws: AwsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PATIENCE_SECONDS", 0.5)
    session_id = api.create(1)
    conflict = s3_error(409, "ConditionalRequestConflict")
    with aws.failing("PutObject", conflict, landed=False):
        answer = api.batch(session_id, 0, [1])
    assert (answer.status, answer.code) == (503, "storage_busy")
    assert int(answer.headers["retry-after"]) > 0


def test_decided_batches_that_are_gone_cannot_be_finished(
    api: Api, aws: AwsProxy, stack: Stack
) -> None:
    session_id = ready(api)
    with aws.failing("PutObject", DEAD, landed=False):
        api.finish(session_id)
    stack.s3.delete_object(Bucket=stack.batches_bucket, Key=f"{session_id}/00000001")
    lease_over(stack, session_id)
    answer = api.finish(session_id)
    assert (answer.status, answer.code) == (410, "batches_gone")
    assert not stack.has_merged(session_id)


@pytest.mark.parametrize(("status", "code"), [(404, "NoSuchKey"), (412, "PreconditionFailed")])
def test_a_batch_that_goes_before_it_is_copied_is_gone(
    api: Api, aws: AwsProxy, stack: Stack, status: int, code: str
) -> None:
    """Like a batch that disappears before it is read."""
    session_id = api.create(1)
    assert api.gzip_batch(session_id, 0, ["x" * limits.MIN_PART_BYTES]).status == 204
    with aws.failing("UploadPartCopy", s3_error(status, code), landed=False):
        answer = api.finish(session_id)
    assert (answer.status, answer.code) == (410, "batches_gone")
    assert not stack.has_merged(session_id)


def test_a_foreign_object_under_the_merged_key_is_never_taken_for_ours(
    api: Api, stack: Stack
) -> None:
    session_id = ready(api)
    stack.s3.put_object(Bucket=stack.merged_bucket, Key=f"{session_id}.ndjson", Body=b"foreign")
    answer = api.finish(session_id)
    assert answer.status == 500
    assert set(answer.json) == {"type", "title", "status", "code", "requestId"}
    assert stack.merged(session_id) == b"foreign"
    assert stack.item(session_id)["state"] == "FINISHING"


def test_what_refuses_a_write_is_read_where_the_answer_lacks_it(
    api: Api, aws: AwsProxy, stack: Stack
) -> None:
    """DynamoDB returns the old item with a failed condition; other stores do not."""

    def without_item(_: Call, forward: Callable[[], Answer]) -> Answer:
        answer = forward()
        if b"ConditionalCheckFailed" not in answer.body:
            return answer
        body = {key: value for key, value in json.loads(answer.body).items() if key != "Item"}
        headers = [(name, value) for name, value in answer.headers if "crc32" not in name.lower()]
        return Answer(answer.status, headers, json.dumps(body).encode())

    session_id, other, open_one = ready(api), ready(api), ready(api, 1)
    with aws.handled(without_item):
        first = api.finish(session_id)
        assert first.json["validationResult"] == "Success"
        assert api.finish(session_id).json == first.json
        assert api.abort(session_id).code == "session_finished"
        assert api.abort(other).status == api.abort(other).status == 204
        assert api.finish(other).code == "session_aborted"
        assert api.finish("0" * 32).code == "session_not_found"
        stack.change(open_one, state="FINISHING", leaseUntil=int(time.time()) + 60)
        waiting = api.finish(open_one)
        assert (waiting.status, waiting.json["state"]) == (202, "FINISHING")
        assert waiting.headers["location"] == f"{Api.ROOT}/{open_one}"
        assert int(waiting.headers["retry-after"]) > 0

    def lost_once(call: Call, forward: Callable[[], Answer]) -> Answer:
        answer = without_item(call, forward)
        if call.operation == "PutItem" and answer.status.startswith("200"):
            raise ConnectionResetError
        return answer

    with aws.handled(lost_once), aws.recording() as calls:
        assert api.status(api.create(1)).json["state"] == "OPEN"
    assert [call.operation for call in calls][:3] == ["PutItem", "PutItem", "GetItem"]
