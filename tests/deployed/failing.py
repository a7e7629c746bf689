"""Make functions of a deployed stack fail for lack of a permission, and read their failures."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import boto3

from local.ministack import NAME
from tests.conftest import CLEANED_UP_SECONDS


def physical(logical: str) -> str:
    """The physical id of a resource of the stack."""
    cloudformation = boto3.client("cloudformation")
    found = cloudformation.describe_stack_resource(StackName=NAME, LogicalResourceId=logical)
    name: str = found["StackResourceDetail"]["PhysicalResourceId"]
    return name


@contextmanager
def with_retries(retries: int, function: str) -> Iterator[None]:
    """Limit the retries of the function's event source, instead of the template's limit."""
    client = boto3.client("lambda")
    (mapping,) = client.list_event_source_mappings(FunctionName=physical(f"{function}Function"))[
        "EventSourceMappings"
    ]
    client.update_event_source_mapping(UUID=mapping["UUID"], MaximumRetryAttempts=retries)
    try:
        yield
    finally:
        client.update_event_source_mapping(
            UUID=mapping["UUID"], MaximumRetryAttempts=mapping["MaximumRetryAttempts"]
        )


@contextmanager
def denied(action: str, function: str) -> Iterator[None]:
    """Deny an action to the function until ``allow`` or the end of the block."""
    statement = {"Effect": "Deny", "Action": action, "Resource": "*"}
    boto3.client("iam").put_role_policy(
        RoleName=physical(f"{function}Role"),
        PolicyName="deny",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
    )
    try:
        yield
    finally:
        allow(function)


def allow(function: str) -> None:
    iam = boto3.client("iam")
    with suppress(iam.exceptions.NoSuchEntityException):
        iam.delete_role_policy(RoleName=physical(f"{function}Role"), PolicyName="deny")


def failure(function: str) -> dict[str, Any]:
    """The next message of the function's failure queue."""
    sqs, queue = boto3.client("sqs"), physical(f"{function}Failures")
    until = time.monotonic() + CLEANED_UP_SECONDS
    while time.monotonic() < until:
        found = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=1).get("Messages", [])
        for one in found:
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=one["ReceiptHandle"])
            told: dict[str, Any] = json.loads(one["Body"])
            return told
    raise AssertionError("no message in the failure queue")
