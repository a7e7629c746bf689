"""A session's metadata: stored, shown, and used for the name of the download."""

import io
import json
import logging
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from tests.api import Api
from tests.aws import DEAD, Answer, AwsProxy, Call
from tests.conftest import MotoStack, Stack
from uploads import http

METADATA = {"name": "Größe.ndjson", "partner": "acme", "note": ""}


def test_status_and_manifest_have_it(any_api: Api, stack: Stack) -> None:
    session_id = any_api.create(1, metadata=METADATA)
    assert any_api.status(session_id).json["metadata"] == METADATA
    any_api.batch(session_id, 0, [1])
    any_api.finish(session_id)
    assert any_api.status(session_id).json["metadata"] == METADATA
    assert json.loads(stack.manifest(session_id))["metadata"] == METADATA


def test_a_session_without_metadata_has_no_attribute_of_it(api: Api, stack: Stack) -> None:
    for session_id in (api.create(1), api.create(1, metadata={})):
        assert api.status(session_id).json["metadata"] == {}
        assert "metadata" not in stack.item(session_id)


@pytest.mark.parametrize("metadata", [None, [], "x", {"a": 1}, {"A": "x"}, {"a": "\n"}, {"a": {}}])
def test_it_is_flat_and_printable(any_api: Api, metadata: object) -> None:
    body = json.dumps({"totalRecord": 1, "metadata": metadata}).encode()
    answer = any_api.request("POST", Api.ROOT, body)
    assert (answer.status, answer.code) == (400, "invalid_metadata")
    assert answer.json["member"] == "metadata"


@pytest.mark.parametrize(
    ("form", "accepted", "saved"),
    [
        ("ndjson", None, "Gr__e.ndjson"),
        ("ndjson.gz", None, "Gr__e.ndjson.gz"),
        ("ndjson.gz", "gzip", "Gr__e.ndjson"),
    ],
    ids=["plain", "as it is", "inflated"],
)
def test_the_name_is_that_of_the_download(
    any_api: Api, form: str, accepted: str | None, saved: str
) -> None:
    session_id = any_api.create(0, format=form, metadata=METADATA)
    any_api.finish(session_id)
    answer = any_api.file(session_id, {"accept-encoding": accepted} if accepted else {})
    link = answer.headers["location"]
    expected = f"attachment; filename=\"{saved}\"; filename*=UTF-8''"
    expected += saved.replace("__", "%C3%B6%C3%9F")
    assert parse_qs(urlsplit(link).query)["response-content-disposition"] == [expected]
    given = requests.get(link, headers={"accept-encoding": "identity"}, timeout=60)
    assert given.status_code == 200
    assert given.headers["content-disposition"] == expected


def test_every_attempt_writes_the_same_manifest(api: Api, aws: AwsProxy, local: MotoStack) -> None:
    """Also an attempt that takes over after the manifest was written."""
    session_id = api.create(1, metadata=METADATA)
    api.batch(session_id, 0, [1])
    puts = 0

    def handle(call: Call, forward: Callable[[], Answer]) -> Answer:
        nonlocal puts
        puts += call.operation == "PutObject"
        return forward() if puts < 2 else DEAD

    with aws.handled(handle):
        assert api.finish(session_id).status == 500
    written = [local.manifest(session_id)]
    local.change(session_id, leaseUntil=0)
    local.s3.delete_object(Bucket=local.merged_bucket, Key=f"{session_id}.manifest.json")
    assert api.finish(session_id).json["validationResult"] == "Success"
    written.append(local.manifest(session_id))
    assert written[0] == written[1]


def test_it_is_in_no_log(api: Api) -> None:
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(http.logger.registered_formatter)
    logger = logging.getLogger(http.logger.name)
    logger.addHandler(handler)
    try:
        session_id = api.create(1, metadata={"partner": "unmistakable"})
        body = json.dumps({"totalRecord": 1, "metadata": {"a": "unmistakable\n"}}).encode()
        assert api.request("POST", Api.ROOT, body).status == 400
        api.batch(session_id, 0, [1])
        api.finish(session_id)
        api.status(session_id)
    finally:
        logger.removeHandler(handler)
    assert lines.getvalue().count(session_id) == 3
    assert "unmistakable" not in lines.getvalue()
