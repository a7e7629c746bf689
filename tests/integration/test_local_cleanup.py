"""``python -m local`` cleans up, with moto and with any table that has a stream."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config

from local import storage
from tests.api import Api, over_http
from tests.aws import AwsProxy, Call, dynamodb_error
from tests.conftest import MotoStack, Stack

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.aws import Answer

pytestmark = pytest.mark.slow

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


@contextmanager
def started(url: str | None = None, **environ: str) -> Iterator[tuple[str, str]]:
    """Start a local run on its own storage or that at ``url``; yield its URL and its output."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    for name in ("SESSIONS_TABLE", "BATCHES_BUCKET", "MERGED_BUCKET"):
        clean.pop(name, None)
    given = {"PORT": "0", **environ} | ({"AWS_ENDPOINT_URL": url, **KEYS} if url else {})
    with subprocess.Popen(
        [sys.executable, "-m", "local"], env=clean | given, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        said = ""
        try:
            for line in process.stdout:
                said += line
                if "curl" in line:
                    break
            found = re.search(r"Gapless is at (\S+)", said)
            assert found, said
            yield found[1].replace("localhost", "127.0.0.1"), said
        finally:
            process.terminate()


def behind(said: str) -> Stack:
    """The storage of a local run, from its output."""
    found = re.search(r"S3 and DynamoDB: (\S+)", said)
    assert found
    place: Any = {
        "endpoint_url": found[1],
        "region_name": "us-east-1",
        "aws_access_key_id": "key",
        "aws_secret_access_key": "secret",
        "config": Config(s3={"addressing_style": "path"}),
    }
    return Stack(
        s3=boto3.client("s3", **place),
        table=boto3.resource("dynamodb", **place).Table("gapless-sessions"),
        batches_bucket="gapless-batches",
        merged_bucket="gapless-merged",
    )


def test_a_local_run_cleans_up_and_tells(local: MotoStack, tmp_path: Path) -> None:
    """Finished, aborted and expired sessions are cleaned up; an open one keeps its batch."""
    assert local
    events = tmp_path / "events.ndjson"
    with started(EVENTS_FILE=str(events)) as (url, said):
        assert f"events: {events}" in said
        api, stack = Api(over_http(url)), behind(said)
        ids = [api.create(1) for _ in range(4)]
        for session_id in ids:
            assert api.batch(session_id, 0, [0]).status == 204
            stack.s3.create_multipart_upload(Bucket=stack.merged_bucket, Key=f"{session_id}.ndjson")
        finished, aborted, expired, still_open = ids
        assert api.finish(finished).status == 200
        assert api.abort(aborted).status == 204
        stack.expire(expired)
        assert [stack.cleaned_up(each) for each in (finished, aborted, expired)] == [(0, 0)] * 3
        assert stack.merged(finished) == b"0\n"
        assert api.status(expired).status == 404
        assert stack.left(still_open) == (1, 1)
        # The last event follows the clean-up; pytest's timeout ends the wait.
        while "Session Expired" not in (text := events.read_text(encoding="utf-8")):
            time.sleep(0.1)
        told = [json.loads(line) for line in text.splitlines()]
        assert [(one["detail-type"], one["detail"]["sessionId"]) for one in told] == [
            *(("Session Created", session_id) for session_id in ids),
            ("Session Finished", finished),
            ("Session Aborted", aborted),
            ("Session Expired", expired),
        ]
        assert {one["source"] for one in told} == {"gapless"}


def test_a_store_without_streams_is_used_and_the_start_says_what_stays(
    local: MotoStack,
) -> None:
    assert local
    aws = AwsProxy()

    def without_streams(call: Call, forward: "Callable[[], Answer]") -> "Answer":
        if call.operation == "UpdateTable":
            return dynamodb_error(400, "ValidationException")
        return forward()

    with (
        storage.serve_moto(aws) as server,
        aws.handled(without_streams),
        started(server.url, SESSIONS_TABLE="table-without-a-stream") as (url, said),
    ):
        assert "DynamoDB has no stream for the table" in said
        assert Api(over_http(url)).create(1)
