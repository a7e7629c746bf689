"""Long merges on a deployed stack: the state machine runs, retries, fails, and recovers."""

import binascii
import gzip
import hashlib
import json
import random
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import boto3
import pytest

from tests.api import GZIP, Api
from tests.conftest import Stack
from tests.deployed.test_principals import resources, roles, without
from uploads import limits
from uploads.batch import StoredBatch
from uploads.merging.parts import plan_parts

BATCHES, SIZE = 2_500, 40_000
NDJSON = b'"' + b"x" * (SIZE - 3) + b'"\n'
PARTS = len(plan_parts([StoredBatch(n, SIZE, "") for n in range(BATCHES)]))
SECONDS = 4
"""Time limit of finish: less than it estimates for these batches."""


@pytest.fixture(scope="module")
def _in_a_hurry(stack: Stack) -> Iterator[None]:  # noqa: ARG001 - sets the environment
    """Give finish so little time that it hands over."""
    needed = BATCHES / limits.READS_PER_SECOND + BATCHES * SIZE / limits.BYTES_PER_SECOND
    assert needed > SECONDS * limits.INLINE_SHARE
    functions, name = boto3.client("lambda"), resources()["FinishFunction"]
    before = functions.get_function_configuration(FunctionName=name)["Timeout"]
    functions.update_function_configuration(FunctionName=name, Timeout=SECONDS)
    yield
    functions.update_function_configuration(FunctionName=name, Timeout=before)


def fill(api: Api, stack: Stack, batch_size: int | None) -> str:
    """A complete session: its first and last batch through the API, the others written to S3."""
    session_id = api.create(BATCHES, batch_size)

    def put(seq_num: int) -> None:
        stack.s3.put_object(
            Bucket=stack.batches_bucket,
            Key=f"{session_id}/{seq_num:08d}",
            Body=NDJSON,
            IfNoneMatch="*",
            Metadata={
                "records": "1",
                "sha256": hashlib.sha256(NDJSON).hexdigest(),
                "crc32": f"{binascii.crc32(NDJSON):08x}",
            },
        )

    for seq_num in (0, BATCHES - 1):
        assert api.batch(session_id, seq_num, [NDJSON[1:-2].decode()]).status == 204
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(put, range(1, BATCHES - 1)))
    return session_id


def execution(session_id: str, attempt: int) -> dict[str, Any]:
    machine = resources()["MergeStateMachine"].replace(":stateMachine:", ":execution:")
    return dict(
        boto3.client("stepfunctions").describe_execution(
            executionArn=f"{machine}:{session_id}-{attempt}"
        )
    )


def children(session_id: str, attempt: int) -> list[list[str]]:
    """The types of the events in each child execution of an execution."""
    client = boto3.client("stepfunctions")
    arn = execution(session_id, attempt)["executionArn"]
    found = []
    for run in client.list_map_runs(executionArn=arn)["mapRuns"]:
        pages = client.get_paginator("list_executions").paginate(mapRunArn=run["mapRunArn"])
        for child in (child for page in pages for child in page["executions"]):
            history = client.get_execution_history(
                executionArn=child["executionArn"], maxResults=1_000
            )
            found.append([str(event["type"]) for event in history["events"]])
    return found


def until(what: Callable[[], Any]) -> Any:  # noqa: ANN401 - what it gives
    """Poll ``what`` until it is true; pytest's timeout ends the wait."""
    while not (found := what()):
        time.sleep(1)
    return found


def ended(session_id: str, attempt: int) -> str:
    until(lambda: execution(session_id, attempt)["status"] != "RUNNING")
    return str(execution(session_id, attempt)["status"])


def success(api: Api, stack: Stack, session_id: str) -> None:
    """The merged object is right, and no upload is left open."""
    status = api.status(session_id).json
    assert (status["state"], status["merge"]) == ("FINISHED", None)
    result = status["finish"]
    assert (result["validationResult"], result["receivedRecord"]) == ("Success", BATCHES)
    assert api.finish(session_id).json == result
    assert stack.merged(session_id) == NDJSON * BATCHES
    manifest = json.loads(stack.manifest(session_id))
    assert [batch["offset"] for batch in manifest["batches"]] == [n * SIZE for n in range(BATCHES)]
    assert stack.open_uploads(session_id) == 0


@contextmanager
def forbidden(role: str, action: str) -> Iterator[None]:
    """Take an action from a function's policy, inside the block."""
    iam = boto3.client("iam")
    name, policy, text = roles()[role]
    iam.put_role_policy(
        RoleName=name, PolicyName=policy, PolicyDocument=json.dumps(without(text, action))
    )
    try:
        yield
    finally:
        iam.put_role_policy(RoleName=name, PolicyName=policy, PolicyDocument=json.dumps(text))


@pytest.mark.usefixtures("_in_a_hurry")
def test_children_that_fail_are_tried_again(api: Api, stack: Stack) -> None:
    session_id = fill(api, stack, 1)
    with forbidden("Compose", "s3:PutObject"):
        handed_over = api.finish(session_id)
        assert (handed_over.status, handed_over.json["state"]) == (202, "FINISHING")
        assert handed_over.headers["location"].endswith(session_id)
        assert int(handed_over.headers["retry-after"]) > 0
        until(
            lambda: any(
                sum(kind.endswith("Failed") for kind in events) >= 2
                for events in children(session_id, 1)
            )
        )
        status = api.status(session_id).json
        assert (status["state"], status["merge"]) == ("FINISHING", {"parts": PARTS, "done": 0})
    assert ended(session_id, 1) == "SUCCEEDED"
    assert len(children(session_id, 1)) == PARTS >= 8
    success(api, stack, session_id)


@pytest.mark.usefixtures("_in_a_hurry")
def test_an_execution_that_fails_for_good_is_replaced_by_the_next_finish(
    api: Api, stack: Stack
) -> None:
    session_id = fill(api, stack, None)
    with forbidden("Compose", "s3:GetObject"):
        assert api.finish(session_id).status == 202
        assert api.finish(session_id).status == 202
        assert ended(session_id, 1) == "FAILED"
    status = api.status(session_id).json
    assert (status["state"], status["finish"]["reason"]) == ("OPEN", "merge_failed")
    assert stack.open_uploads(session_id) == 0
    assert not stack.has_merged(session_id)
    assert api.finish(session_id).status == 202
    assert ended(session_id, 2) == "SUCCEEDED"
    success(api, stack, session_id)


def test_a_merge_whose_attempt_died_is_completed_by_the_next_finish(api: Api, stack: Stack) -> None:
    """The estimate says to merge in the call; since that attempt died, the next one hands over."""
    session_id = fill(api, stack, 1)
    # The item that a call leaves when it dies during its merge, after its lease.
    stack.change(session_id, state="FINISHING", attempt=1, leaseUntil=0)
    handed_over = api.finish(session_id)
    assert (handed_over.status, handed_over.json["state"]) == (202, "FINISHING")
    assert ended(session_id, 2) == "SUCCEEDED"
    success(api, stack, session_id)


@pytest.mark.parametrize("size", [950_000, 9], ids=["parts", "one part"])
def test_a_compressed_object_is_merged_by_the_state_machine(
    api: Api, stack: Stack, size: int
) -> None:
    session_id = api.create(18, 1, format="ndjson.gz")
    records = [b'"%s"' % random.Random(n).randbytes(size).hex().encode() for n in range(18)]
    for seq_num, record in enumerate(records):
        body = gzip.compress(b'{"seqNum":%d,"data":[%s]}' % (seq_num, record), 1)
        assert api.raw_batch(session_id, body, GZIP).status == 204
    stack.change(session_id, state="FINISHING", attempt=1, leaseUntil=0)
    assert api.finish(session_id).status == 202
    assert ended(session_id, 2) == "SUCCEEDED"
    merged = stack.merged(session_id, "ndjson.gz")
    content = b"".join(record + b"\n" for record in records)
    assert zlib.decompress(merged, 31) == content
    result = api.status(session_id).json["finish"]
    assert (result["bytes"], result["content"]["bytes"]) == (len(merged), len(content))
    assert stack.open_uploads(session_id) == 0
