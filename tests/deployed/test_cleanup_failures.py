"""The clean-up on a deployed stack, where it fails: it is told of, and can be done later."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import boto3
import pytest

from local.ministack import NAME
from tests.api import Api
from tests.conftest import CLEANED_UP_SECONDS, Stack

DENIED = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Deny", "Action": "s3:ListBucket", "Resource": "*"}],
}


def physical(logical: str) -> str:
    """The name of a resource of the stack."""
    cloudformation = boto3.client("cloudformation")
    found = cloudformation.describe_stack_resource(StackName=NAME, LogicalResourceId=logical)
    name: str = found["StackResourceDetail"]["PhysicalResourceId"]
    return name


def aborted(api: Api) -> str:
    """A session that leaves a batch."""
    session_id = api.create(1)
    assert api.batch(session_id, 0, [0]).status == 204
    assert api.abort(session_id).status == 204
    return session_id


@pytest.fixture
def _without_permission(api: Api, stack: Stack) -> Iterator[None]:
    """The function may not list, and is called three times and not a hundred."""
    iam, functions = boto3.client("iam"), boto3.client("lambda")
    role, function = physical("CleanupRole"), physical("CleanupFunction")
    (mapping,) = functions.list_event_source_mappings(FunctionName=function)["EventSourceMappings"]
    retries = mapping["MaximumRetryAttempts"]
    functions.update_event_source_mapping(UUID=mapping["UUID"], MaximumRetryAttempts=2)
    # What other tests have left comes first, and would be called a hundred times.
    assert stack.cleaned_up(aborted(api)) == (0, 0)
    iam.put_role_policy(RoleName=role, PolicyName="deny", PolicyDocument=json.dumps(DENIED))
    yield
    with suppress(iam.exceptions.NoSuchEntityException):
        iam.delete_role_policy(RoleName=role, PolicyName="deny")
    functions.update_event_source_mapping(UUID=mapping["UUID"], MaximumRetryAttempts=retries)


def message() -> dict[str, Any]:
    """What comes to the queue of failures."""
    sqs, queue = boto3.client("sqs"), physical("CleanupFailures")
    until = time.monotonic() + CLEANED_UP_SECONDS
    while time.monotonic() < until:
        found = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=1).get("Messages", [])
        for one in found:
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=one["ReceiptHandle"])
            told: dict[str, Any] = json.loads(one["Body"])
            return told
    raise AssertionError("nobody was told")


@pytest.mark.usefixtures("_without_permission")
def test_a_clean_up_that_fails_for_good_is_told_of(api: Api, stack: Stack) -> None:
    session_id = aborted(api)
    told = message()
    assert told["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert told["DDBStreamBatchInfo"]["batchSize"] == 1
    assert stack.left(session_id) == (1, 0)
    # Mended, as the runbook says: the item changes in any way.
    boto3.client("iam").delete_role_policy(RoleName=physical("CleanupRole"), PolicyName="deny")
    stack.change(session_id, cleanedAgain=1)
    assert stack.cleaned_up(session_id) == (0, 0)
