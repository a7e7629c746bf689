"""A result expires before the object and the manifest that it names.

S3 counts ages from dates before the finish: a multipart object has the date of its upload's start,
and a manifest may be from an earlier attempt. moto does not, so tests set the dates.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate
from importlib import import_module
from typing import Any

import pytest

from tests.api import Api
from tests.aws import DEAD, Answer, Call
from tests.conftest import MotoStack, Stack
from tests.integration.test_faults import large, lease_over, ready
from uploads.config import Config
from uploads.wiring import Wiring

DAY = 86_400
FINISH = "POST /api/upload/sessions/{sessionId}/finish"
STATUS = "GET /api/upload/sessions/{sessionId}"
OBJECT, MANIFEST = ".ndjson", ".manifest.json"


class Lambda:
    """Lambda's context of an invocation."""

    aws_request_id = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        """All the time that a finish has."""
        return 29_000


def call(
    route: str,
    session_id: str,
    *,
    days: int = 30,
    clock: Callable[[], int] = lambda: int(time.time()),
) -> dict[str, Any]:
    """Call a function whose stack keeps merged objects for ``days``."""
    config = replace(Config.from_env(os.environ), merged_retention=days * DAY)
    event = {
        "routeKey": route,
        "pathParameters": {"sessionId": session_id},
        "requestContext": {"requestId": "gateway-1"},
    }
    # Handlers read the environment on import.
    module = import_module("finish" if route is FINISH else "sessions")
    answer = module.build(Wiring(config, clock))(event, Lambda())
    assert answer["statusCode"] in {200, 202}, answer
    body: dict[str, Any] = json.loads(answer["body"])
    return body


def dated(ages: dict[str, int]) -> Callable[[Call, Callable[[], Answer]], Answer]:
    """Let S3 date objects by the end of their keys: {end: age in seconds}."""

    def handle(called: Call, forward: Callable[[], Answer]) -> Answer:
        answer = forward()
        for end, age in ages.items():
            if called.operation == "HeadObject" and called.key.endswith(end):
                date = formatdate(time.time() - age, usegmt=True)
                kept = [(name, v) for name, v in answer.headers if name.lower() != "last-modified"]
                answer = replace(answer, headers=[*kept, ("Last-Modified", date)])
        return answer

    return handle


def dies_at(operation: str, end: str = "") -> Callable[[Call, Callable[[], Answer]], Answer]:
    """The process dies at its first call of ``operation`` for a key that ends with ``end``."""
    dead = False

    def handle(called: Call, forward: Callable[[], Answer]) -> Answer:
        nonlocal dead
        dead = dead or (called.operation == operation and called.key.endswith(end))
        return DEAD if dead else forward()

    return handle


def kept_until(stack: Stack, session_id: str) -> int:
    return int(stack.item(session_id)["keptUntil"])


def test_a_merge_in_parts_is_kept_from_its_beginning(api: Api, local: MotoStack) -> None:
    session_id = large(api)
    began = now = int(time.time())

    def slow(called: Call, forward: Callable[[], Answer]) -> Answer:
        nonlocal now
        if called.operation == "UploadPart":
            now += 1_000
        return forward()

    with local.aws.handled(slow):
        done = call(FINISH, session_id, clock=lambda: now)
    assert done["validationResult"] == "Success"
    assert now > began
    assert kept_until(local, session_id) == began + 30 * DAY


@pytest.mark.parametrize("session", [ready, large], ids=["one put", "parts"])
@pytest.mark.parametrize(
    ("ages", "oldest"),
    [
        ({OBJECT: 0, MANIFEST: 20 * 3_600}, 20 * 3_600),
        ({OBJECT: 5 * 3_600, MANIFEST: 3_600}, 5 * 3_600),
    ],
    ids=["the manifest is older", "the object is older"],
)
def test_a_completed_old_decision_expires_with_the_older_object(
    api: Api,
    local: MotoStack,
    session: Callable[[Api], str],
    ages: dict[str, int],
    oldest: int,
) -> None:
    session_id = session(api)
    publish = "PutObject" if session is ready else "CompleteMultipartUpload"
    with local.aws.handled(dies_at(publish, OBJECT)):
        assert api.finish(session_id).status == 500
    lease_over(local, session_id)
    now = int(time.time())
    with local.aws.handled(dated(ages)):
        assert call(FINISH, session_id, days=1)["validationResult"] == "Success"
    assert abs(kept_until(local, session_id) - (now - oldest + DAY)) <= 60


def test_a_result_is_kept_for_an_hour_at_least(api: Api, local: MotoStack) -> None:
    session_id = ready(api)
    with local.aws.handled(dies_at("PutObject", OBJECT)):
        assert api.finish(session_id).status == 500
    lease_over(local, session_id)
    now = int(time.time())
    with local.aws.handled(dated({MANIFEST: 3 * DAY})):
        assert call(FINISH, session_id, days=1)["validationResult"] == "Success"
    assert now + 3_600 <= kept_until(local, session_id) <= now + 3_700


@pytest.mark.parametrize("session", [ready, large], ids=["one put", "parts"])
def test_a_manifest_that_expired_before_the_commit_is_written_again(
    api: Api, local: MotoStack, session: Callable[[Api], str]
) -> None:
    session_id = session(api)
    publish = "PutObject" if session is ready else "CompleteMultipartUpload"
    published = False

    def die(called: Call, forward: Callable[[], Answer]) -> Answer:
        nonlocal published
        if published:
            return DEAD
        published = called.operation == publish and called.key.endswith(OBJECT)
        return forward()

    with local.aws.handled(die):
        assert api.finish(session_id).status == 500
    before = local.manifest(session_id)
    merged = local.merged(session_id)
    local.s3.delete_object(Bucket=local.merged_bucket, Key=f"{session_id}{MANIFEST}")
    lease_over(local, session_id)
    assert api.finish(session_id).json["validationResult"] == "Success"
    assert local.manifest(session_id) == before
    assert local.merged(session_id) == merged
    assert local.open_uploads(session_id) == 0


def test_how_long_a_session_is_finishing_is_written_down(
    api: Api,
    local: MotoStack,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("POWERTOOLS_METRICS_DISABLED", raising=False)
    session_id = ready(api)

    def told(route: str, clock: Callable[[], int]) -> list[float]:
        capfd.readouterr()
        call(route, session_id, clock=clock)
        lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
        found = [line for line in lines if "FinishingSeconds" in line]
        assert all(line["session_id"] == session_id for line in found)
        return [seconds for line in found for seconds in line["FinishingSeconds"]]

    assert told(STATUS, lambda: int(time.time())) == []
    with local.aws.handled(dies_at("PutObject")):
        api.finish(session_id)
    first = int(time.time()) - 50
    local.change(session_id, finishingSince=first, leaseUntil=first)
    # A second seal does not restart the time.
    with local.aws.handled(dies_at("PutObject")):
        api.finish(session_id)
    local.change(session_id, leaseUntil=first + 5_000)
    assert told(STATUS, lambda: first + 4_000) == [4_000]
    assert told(FINISH, lambda: first + 4_100) == [4_100]
    lease_over(local, session_id)
    assert told(FINISH, lambda: int(time.time())) == []
    assert told(STATUS, lambda: int(time.time())) == []


def test_a_session_that_opens_again_is_not_finishing(api: Api, local: MotoStack) -> None:
    session_id = api.create(2)
    api.finish(session_id)
    assert "finishingSince" not in local.item(session_id)
