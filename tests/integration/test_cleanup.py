"""An ended session leaves only the merged object and its manifest; other sessions keep all."""

from collections.abc import Callable

import pytest

from tests.api import Api
from tests.conftest import Stack


def lots(api: Api) -> str:
    """A session whose merge is a multipart upload."""
    session_id = api.create(3)
    for seq_num in range(3):
        assert api.batch(session_id, seq_num, ["x" * 4_000_000]).status == 204
    return session_id


def few(api: Api) -> str:
    """A session whose merge is a single put."""
    session_id = api.create(3, 1)
    for seq_num in range(3):
        assert api.batch(session_id, seq_num, [seq_num]).status == 204
    return session_id


def with_leftovers(stack: Stack, session_id: str) -> int:
    """Add what dead attempts may leave, an upload and a plan; return the number of objects."""
    stack.s3.create_multipart_upload(Bucket=stack.merged_bucket, Key=f"{session_id}.ndjson")
    for name in ("plan", "share-00000", "failed"):
        key = f"merges/{session_id}/1/{name}.json"
        stack.s3.put_object(Bucket=stack.batches_bucket, Key=key, Body=b"[]", IfNoneMatch="*")
    objects, uploads = stack.left(session_id)
    assert uploads == 1
    return objects


@pytest.mark.parametrize("make", [few, lots])
def test_a_finished_session_leaves_nothing_but_its_object(
    api: Api, stack: Stack, make: Callable[[Api], str]
) -> None:
    session_id = make(api)
    assert with_leftovers(stack, session_id) == 6
    done = api.finish(session_id)
    assert done.json["validationResult"] == "Success"
    merged = stack.merged(session_id)
    assert stack.cleaned_up(session_id) == (0, 0)
    assert stack.merged(session_id) == merged
    assert api.finish(session_id).json == done.json
    assert api.status(session_id).json["finish"] == done.json
    assert api.manifest(session_id).status == 307


def test_an_aborted_session_leaves_nothing(api: Api, stack: Stack) -> None:
    session_id = few(api)
    assert api.finish(api.create(1)).json["validationResult"] == "Failed"
    with_leftovers(stack, session_id)
    assert api.abort(session_id).status == 204
    assert stack.cleaned_up(session_id) == (0, 0)
    assert api.abort(session_id).status == 204
    assert api.status(session_id).json["state"] == "ABORTED"
    assert not stack.has_merged(session_id)


def test_an_expired_session_leaves_nothing(api: Api, stack: Stack) -> None:
    session_id = few(api)
    with_leftovers(stack, session_id)
    stack.expire(session_id)
    assert stack.cleaned_up(session_id) == (0, 0)
    assert api.status(session_id).status == 404


def test_what_came_too_late_goes_when_the_session_expires(api: Api, stack: Stack) -> None:
    session_id = few(api)
    assert api.finish(session_id).status == 200
    assert stack.cleaned_up(session_id) == (0, 0)
    stack.s3.put_object(
        Bucket=stack.batches_bucket, Key=f"{session_id}/00000003", Body=b"3\n", IfNoneMatch="*"
    )
    merged = stack.merged(session_id)
    stack.expire(session_id)
    assert stack.cleaned_up(session_id) == (0, 0)
    assert stack.merged(session_id) == merged


def test_a_session_that_is_open_keeps_all(api: Api, stack: Stack) -> None:
    session_id = api.create(4, 1)
    for seq_num in range(3):
        assert api.batch(session_id, seq_num, [seq_num]).status == 204
    objects = with_leftovers(stack, session_id)
    # Sealed, then open again.
    assert api.finish(session_id).json["validationResult"] == "Failed"
    other = few(api)
    assert api.finish(other).status == 200
    assert stack.cleaned_up(other) == (0, 0)
    assert stack.left(session_id) == (objects, 1)
    assert api.batch(session_id, 3, [3]).status == 204
    assert api.finish(session_id).json["validationResult"] == "Success"
    assert stack.merged(session_id) == b"0\n1\n2\n3\n"
    assert stack.cleaned_up(session_id) == (0, 0)
