"""Call budgets: how many calls to S3 and DynamoDB each operation makes."""

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.api import Answer as ApiAnswer
from tests.api import Api
from tests.aws import DEAD, AwsProxy, Call
from tests.conftest import Stack
from tests.integration.test_listing import fill
from uploads.decode import body


def counted(calls: list[Call]) -> Counter[str]:
    return Counter(call.operation for call in calls)


def test_create(api: Api, aws: AwsProxy) -> None:
    with aws.recording() as calls:
        api.create(1)
    assert counted(calls) == {"PutItem": 1}


def test_batch(api: Api, aws: AwsProxy) -> None:
    session_id = api.create(3)
    with aws.recording() as cold:
        api.batch(session_id, 0, [1])
    with aws.recording() as warm:
        api.batch(session_id, 1, [2])
    with aws.recording() as again:
        api.batch(session_id, 1, [2])
    with aws.recording() as conflict:
        api.batch(session_id, 1, [3])
    assert counted(cold) == {"GetItem": 2, "PutObject": 1}
    assert [call.operation for call in warm] == ["PutObject", "GetItem"]
    assert counted(again) == {"PutObject": 1, "HeadObject": 1, "GetItem": 1}
    assert counted(conflict) == {"PutObject": 1, "HeadObject": 1}
    assert warm[0].headers["if-none-match"] == "*"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of each body that is decoded, before inflating."""
    seen: list[int] = []
    real = body.read_body

    def read_body(sent: str | None, **options: Any) -> body.Body:  # noqa: ANN401
        if sent:
            seen.append(len(sent))
        return real(sent, **options)

    monkeypatch.setattr("uploads.http.read_body", read_body)
    return seen


BROKEN = b'{"seqNum":0,"data":[1,'
Send = Callable[[Api, str, bytes], ApiAnswer]
SENDS: dict[str, Send] = {
    "POST": Api.raw_batch,
    "PUT": lambda api, session_id, body: api.lines(session_id, 0, body),
}
each_way = pytest.mark.parametrize("send", SENDS.values(), ids=SENDS)


@each_way
def test_no_body_is_read_for_an_unknown_session(
    api: Api, aws: AwsProxy, read: list[int], send: Send
) -> None:
    with aws.recording() as calls:
        for session_id in ("0" * 32, "0" * 31, "no-id"):
            assert send(api, session_id, BROKEN).code == "session_not_found"
    assert (counted(calls), read) == ({"GetItem": 1}, [])


@each_way
@pytest.mark.parametrize("state", ["finished", "aborted", "finishing", "expired"])
def test_no_body_is_read_for_a_closed_session(
    api: Api, aws: AwsProxy, stack: Stack, read: list[int], state: str, send: Send
) -> None:
    """Except one body, if the function still has the session in its cache as open."""
    session_id = api.create(1)
    api.batch(session_id, 0, [1])
    read.clear()
    match state:
        case "finished":
            api.finish(session_id)
        case "aborted":
            api.abort(session_id)
        case "finishing":
            stack.change(session_id, state="FINISHING", leaseUntil=2**40, attempt=1)
        case "expired":
            stack.change(session_id, batchesUntil=1, expiresAt=1)
    with aws.recording() as first:
        answer = send(api, session_id, BROKEN)
    assert answer.code == f"session_{state}"
    assert ("retry-after" in answer.headers) == (state == "finishing")
    with aws.recording() as later:
        for body in (BROKEN, b"", b'{"seqNum":1,"data":[2]}', BROKEN):
            assert send(api, session_id, body).code == f"session_{state}"
    assert (counted(first), counted(later)) == ({"GetItem": 1}, {"GetItem": 4})
    assert len(read) == 1


@each_way
def test_a_refused_body(api: Api, aws: AwsProxy, read: list[int], send: Send) -> None:
    """The session is read before and after the body; before it only if it is not cached."""
    session_id = api.create(3)
    read.clear()
    for reads in (2, 1, 1):
        with aws.recording() as calls:
            assert send(api, session_id, BROKEN).code == "truncated_json"
        assert counted(calls) == {"GetItem": reads}
    assert len(read) == 3


@pytest.mark.parametrize("batch_size", [None, 1], ids=["flexible", "strict"])
@pytest.mark.parametrize("batches", [0, 1, 7])
def test_finish(api: Api, aws: AwsProxy, batches: int, batch_size: int | None) -> None:
    session_id = api.filled([[n] for n in range(batches)], batch_size)
    with aws.recording() as calls:
        api.finish(session_id)
    # A strict session without batches needs no listing.
    listings = int(not batch_size or batches > 0)
    assert counted(calls) == Counter(
        {"UpdateItem": 3, "ListObjectsV2": listings, "GetObject": batches, "PutObject": 2}
    )
    with aws.recording() as again:
        api.finish(session_id)
    assert counted(again) == {"UpdateItem": 1}


def test_finish_of_many_parts(api: Api, aws: AwsProxy) -> None:
    session_id = api.filled([["x" * 4_000_000]] * 4)
    with aws.recording() as calls:
        assert api.finish(session_id).json["validationResult"] == "Success"
    assert counted(calls) == {
        "UpdateItem": 3,
        "ListObjectsV2": 1,
        "GetObject": 4,
        "CreateMultipartUpload": 1,
        "UploadPart": 2,
        "PutObject": 1,
        "CompleteMultipartUpload": 1,
    }
    order = [call.operation for call in calls]
    # The decision comes before anything visible; then manifest, object, commit.
    assert order[-4:] == ["UpdateItem", "PutObject", "CompleteMultipartUpload", "UpdateItem"]
    assert calls[-3].key == f"{session_id}.manifest.json"
    complete = calls[-2].headers
    assert complete["if-none-match"] == "*"
    assert complete["x-amz-checksum-type"] == "FULL_OBJECT"
    assert complete["x-amz-mp-object-size"] == str(4 * 4_000_003)
    assert all("x-amz-checksum-crc32" in c.headers for c in calls if c.operation == "UploadPart")
    assert all("if-match" in c.headers for c in calls if c.operation == "GetObject")
    assert not any("expect" in c.headers for c in calls)


def test_a_copied_part_is_pinned_and_not_read(api: Api, aws: AwsProxy) -> None:
    session_id = api.create(2)
    for seq_num in range(2):
        api.gzip_batch(session_id, seq_num, ["x" * 6_000_000])
    with aws.recording() as calls:
        assert api.finish(session_id).json["validationResult"] == "Success"
    assert counted(calls) == {
        "UpdateItem": 3,
        "ListObjectsV2": 1,
        "HeadObject": 2,
        "CreateMultipartUpload": 1,
        "UploadPartCopy": 2,
        "PutObject": 1,
        "CompleteMultipartUpload": 1,
    }
    copies = [call for call in calls if call.operation == "UploadPartCopy"]
    assert all("x-amz-copy-source-if-match" in call.headers for call in copies)


def test_a_failed_finish(api: Api, aws: AwsProxy) -> None:
    session_id = api.create(3, 1)
    api.batch(session_id, 1, [1])
    with aws.recording() as calls:
        api.finish(session_id)
    assert [call.operation for call in calls] == ["UpdateItem", "ListObjectsV2", "UpdateItem"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seq_nums", "batch_size", "listings"),
    [
        (range(9_000, 10_000), None, 3),
        (range(9_000, 10_000), 1, 1),
        (range(98_999, 99_999), None, 2),
        (range(0, 100_000, 100), None, 2),
        (range(99_000, 99_999), None, 1),
        (range(1, 5_001), None, 7),
        (range(1, 5_001), 1, 7),
        (range(0, 10_000, 2), 1, 8),
    ],
    ids=str,
)
def test_listings_of_batches_far_apart(
    api: Api, aws: AwsProxy, seq_nums: range, batch_size: int | None, listings: int
) -> None:
    """For n batches it takes at most 2 * ceil(n / 1,000) + 2 requests, wherever they are."""
    session_id = api.create(10_000, batch_size)
    fill(os.environ["BATCHES_BUCKET"], session_id, seq_nums)
    with aws.recording() as calls:
        assert api.status(session_id).json["batches"] == len(seq_nums)
    assert counted(calls) == {"GetItem": 2, "ListObjectsV2": listings}
    with aws.recording() as calls:
        failed = api.finish(session_id).json
    assert failed["validationResult"] == "Failed"
    assert counted(calls)["ListObjectsV2"] == listings <= 2 * -(-len(seq_nums) // 1_000) + 2


def test_reading(api: Api, aws: AwsProxy) -> None:
    session_id = api.create(0)
    with aws.recording() as calls:
        api.status(session_id)
    # The session is read again: it may have ended and been cleaned up during the listing.
    assert counted(calls) == {"GetItem": 2, "ListObjectsV2": 1}
    api.finish(session_id)
    with aws.recording() as calls:
        api.status(session_id)
        api.file(session_id)
    assert counted(calls) == {"GetItem": 2}


def test_a_stranger_costs_what_an_unknown_id_costs(api: Api, aws: AwsProxy) -> None:
    acts = (api.status, api.file, api.finish, api.abort, api.delete_file)
    for act in (*acts, lambda s: api.batch(s, 0, [1])):
        with aws.recording() as calls:
            assert act("0" * 32).code == "session_not_found"
        # DynamoDB returns the item with a failed condition; other requests may have to read it.
        assert counted(calls) in ({"GetItem": 1}, {"UpdateItem": 1, "GetItem": 1})


def test_a_finish_that_fails_by_count_reads_every_batch_once(api: Api, aws: AwsProxy) -> None:
    """Repeated finishes reuse the count; another batch makes a new listing and a new count."""
    session_id = api.create(9)
    for seq_num in range(5):
        api.batch(session_id, seq_num, [seq_num])
    with aws.recording() as first:
        failed = api.finish(session_id).json
    assert (failed["reason"], failed["receivedRecord"]) == ("record_count", 5)
    assert counted(first) == {"UpdateItem": 2, "ListObjectsV2": 1, "GetObject": 5}
    for _ in range(3):
        with aws.recording() as again:
            assert api.finish(session_id).json == failed
        assert counted(again) == {"UpdateItem": 2, "ListObjectsV2": 1}
    api.batch(session_id, 5, [5])
    with aws.recording() as calls:
        assert api.finish(session_id).json["receivedRecord"] == 6
    assert counted(calls) == {"UpdateItem": 2, "ListObjectsV2": 1, "GetObject": 6}


@pytest.mark.parametrize("batch_size", [None, 1], ids=["flexible", "strict"])
def test_a_status_lists_only_what_is_not_decided(
    api: Api, aws: AwsProxy, batch_size: int | None
) -> None:
    def status() -> Counter[str]:
        with aws.recording() as calls:
            answer = api.status(session_id)
        assert (answer.json["batches"], answer.json["missing"]) == (2, [])
        return counted(calls)

    session_id = api.filled([[0], [1]], batch_size)
    assert status() == {"GetItem": 2, "ListObjectsV2": 1}
    with aws.failing("PutObject", DEAD, landed=False):
        assert api.finish(session_id).status == 500
    # Decided and not published.
    assert status() == {"GetItem": 1}
    assert api.finish(session_id).json["validationResult"] == "Success"
    assert status() == {"GetItem": 1}


def test_a_take_over_of_what_is_decided(api: Api, aws: AwsProxy) -> None:
    session_id = api.filled([[0], [1]], 1)
    with aws.failing("PutObject", DEAD, landed=False):
        assert api.finish(session_id).status == 500
    with aws.recording() as calls:
        api.finish(session_id)
    # It looks for the object before it merges. Afterwards it asks for the dates of object and
    # manifest, since the session must expire before either of them.
    assert [call.operation for call in calls] == [
        "UpdateItem",
        "HeadObject",
        "ListObjectsV2",
        "GetObject",
        "GetObject",
        "PutObject",
        "PutObject",
        "HeadObject",
        "HeadObject",
        "UpdateItem",
    ]
    manifest, merged = f"{session_id}.manifest.json", f"{session_id}.ndjson"
    assert [c.key for c in calls if c.operation == "PutObject"] == [manifest, merged]
    assert [c.key for c in calls if c.operation == "HeadObject"] == [merged, merged, manifest]


def test_a_deletion_of_the_file(api: Api, aws: AwsProxy) -> None:
    """A write and two deletions each time; a refused deletion only makes the write."""
    session_id = api.filled([[1]])
    with aws.recording() as early:
        assert api.delete_file(session_id).code == "session_not_finished"
    api.finish(session_id)
    with aws.recording() as calls:
        for _ in range(2):
            assert api.delete_file(session_id).status == 204
    with aws.recording() as links:
        assert api.file(session_id).code == "file_deleted"
    assert [call.operation for call in early] == ["UpdateItem"]
    assert [call.operation for call in calls] == 2 * ["UpdateItem", "DeleteObject", "DeleteObject"]
    keys = [f"{session_id}.ndjson", f"{session_id}.manifest.json"]
    assert [call.key for call in calls if call.operation == "DeleteObject"] == 2 * keys
    assert counted(links) == {"GetItem": 1}


def test_an_abort_is_one_write_and_its_status_lists_nothing(api: Api, aws: AwsProxy) -> None:
    session_id = api.create(1)
    api.batch(session_id, 0, [0])
    with aws.recording() as calls:
        api.abort(session_id)
    assert counted(calls) == {"UpdateItem": 1}
    with aws.recording() as calls:
        assert api.status(session_id).json["state"] == "ABORTED"
    assert counted(calls) == {"GetItem": 1}
