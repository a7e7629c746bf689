"""Access control of a deployed stack: callers by IAM, functions by their roles."""

import json
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
import requests
from botocore.exceptions import ClientError

from local import ministack
from tests.api import Api, deployed
from tests.conftest import DEPLOYED, Stack

ROUTES = [
    ("GET", ""),
    ("GET", "/file"),
    ("GET", "/manifest"),
    ("POST", ""),
    ("POST", "/finish"),
    ("DELETE", ""),
    ("DELETE", "/file"),
]
BATCH = b'{"seqNum":0,"data":[1]}'


@pytest.fixture(scope="module")
def stranger(stack: Stack) -> Api:  # noqa: ARG001 - sets the environment
    return Api(deployed(DEPLOYED | {"credentials": ministack.make_caller("stranger")}))


@pytest.mark.parametrize(("method", "suffix"), [*ROUTES, ("POST", "create"), ("GET", "create")])
def test_an_unsigned_request_is_refused(api: Api, method: str, suffix: str) -> None:
    path = Api.ROOT if suffix == "create" else f"{Api.ROOT}/{api.create(1)}{suffix}"
    answer = requests.request(
        method, DEPLOYED["url"] + path, data=BATCH, verify=DEPLOYED["ca"], timeout=60
    )
    assert answer.status_code == 403
    assert set(answer.json()) == {"message"}


def test_a_session_is_a_404_to_a_second_principal(api: Api, stranger: Api, stack: Stack) -> None:
    session_id = api.create(1)
    for method, suffix in ROUTES:
        body = BATCH if (method, suffix) == ("POST", "") else b""
        theirs = stranger.request(method, f"{Api.ROOT}/{session_id}{suffix}", body)
        unknown = stranger.request(method, f"{Api.ROOT}/{'f' * 32}{suffix}", body)
        assert (theirs.status, theirs.code) == (404, "session_not_found")
        assert theirs.body == unknown.body
    assert stack.stored_keys(session_id) == []
    assert api.status(session_id).json["state"] == "OPEN"


def listed(api: Api, query: str = "") -> list[str]:
    """The ids in a list, over all its pages."""
    found, cursor = [], ""
    while True:
        page = api.request("GET", f"{Api.ROOT}?limit=2{query}{cursor and f'&cursor={cursor}'}")
        assert page.status == 200, page
        found += [session["sessionId"] for session in page.json["sessions"]]
        if not page.json["cursor"]:
            return found
        cursor = page.json["cursor"]


def test_two_principals_never_see_each_others_sessions(api: Api, stranger: Api) -> None:
    mine = [api.create(1, metadata={"name": "mine.ndjson"}) for _ in range(3)]
    theirs = [stranger.create(1) for _ in range(3)]
    until = time.monotonic() + 300
    while not ({*mine} <= {*listed(api)} and {*theirs} <= {*listed(stranger)}):
        assert time.monotonic() < until, "the index was not updated"
    assert not {*listed(api)} & {*theirs}
    assert not {*listed(stranger)} & {*mine}
    assert api.abort(mine[0]).status == 204
    while mine[0] not in listed(api, "&state=ABORTED"):
        assert time.monotonic() < until, "the index was not updated"
    cursors = [
        each.request("GET", f"{Api.ROOT}?limit=1").json["cursor"] for each in (api, stranger)
    ]
    for each, cursor in ((api, cursors[1]), (stranger, cursors[0])):
        refused = each.request("GET", f"{Api.ROOT}?cursor={cursor}")
        assert (refused.status, refused.code) == (400, "invalid_cursor")
    # Sessions of one second are in no order, and another test may have created some.
    after = api.request("GET", f"{Api.ROOT}?limit=100&cursor={cursors[0]}").json["sessions"]
    metadata = [entry["metadata"] for entry in after if entry["sessionId"] in mine]
    assert metadata in ([{"name": "mine.ndjson"}] * 2, [{"name": "mine.ndjson"}] * 3)


def test_a_key_is_its_principals(api: Api, stranger: Api) -> None:
    headers = {"idempotency-key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
    body = b'{"totalRecord": 3}'
    first, again, theirs = (
        each.request("POST", Api.ROOT, body, headers) for each in (api, api, stranger)
    )
    assert [answer.status for answer in (first, again, theirs)] == [201] * 3
    assert again.json == first.json
    assert theirs.json["sessionId"] != first.json["sessionId"]
    other = api.request("POST", Api.ROOT, b'{"totalRecord": 4}', headers)
    assert (other.status, other.code) == (422, "idempotency_key_reused")


def resources() -> dict[str, str]:
    """The stack's resources, logical id → physical id."""
    found = boto3.client("cloudformation").describe_stack_resources(StackName=ministack.NAME)
    return {one["LogicalResourceId"]: one["PhysicalResourceId"] for one in found["StackResources"]}


def without(policy: dict[str, Any], action: str) -> dict[str, Any]:
    """A copy of the policy that does not allow ``action``."""
    less: dict[str, Any] = json.loads(json.dumps(policy))
    for statement in less["Statement"]:
        actions = statement["Action"]
        kept = [a for a in ([actions] if isinstance(actions, str) else actions) if a != action]
        statement["Action"] = kept or ["s3:ListAllMyBuckets"]
    return less


def roles() -> dict[str, tuple[str, str, dict[str, Any]]]:
    """For each function: its role, its inline policy's name, and the policy."""
    iam = boto3.client("iam")
    found = {}
    for logical_id, role in resources().items():
        if logical_id.endswith("Role"):
            (policy,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
            text: Any = iam.get_role_policy(RoleName=role, PolicyName=policy)["PolicyDocument"]
            found[logical_id.removesuffix("Role")] = (role, policy, text)
    return found


@pytest.fixture
def as_function(stack: Stack) -> Iterator[Any]:  # noqa: ARG001 - sets the environment
    """A factory of clients that have only the permissions of a function's role."""
    iam = boto3.client("iam")
    users = set()

    def client(function: str, service: str) -> Any:  # noqa: ANN401 - a client of any service
        name = f"as-{function.lower()}"
        keys = ministack.make_caller(name)
        users.add(name)
        iam.put_user_policy(
            UserName=name, PolicyName="call", PolicyDocument=json.dumps(roles()[function][2])
        )
        return boto3.client(
            service,  # type: ignore[call-overload]
            aws_access_key_id=keys["access_key"],
            aws_secret_access_key=keys["secret_key"],
        )

    yield client
    for name in users:
        iam.delete_user_policy(UserName=name, PolicyName="call")


BATCH_KEY = f"{'0' * 32}/{'0' * 8}"
ENTRY = {"Source": "gapless", "DetailType": "Session Created", "Detail": "{}"}


def forbidden(stack: Stack) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Actions that each function's role must not allow."""
    batches, merged, table = stack.batches_bucket, stack.merged_bucket, stack.table.name
    key = {"sessionId": {"S": "0" * 32}}
    plan, elsewhere = "plans/0", "another/00000000"
    return [
        ("Batches", "s3", "get_object", {"Bucket": batches, "Key": plan}),
        ("Batches", "s3", "get_object", {"Bucket": batches, "Key": elsewhere}),
        ("Batches", "s3", "get_object", {"Bucket": merged, "Key": f"{'0' * 32}.ndjson"}),
        ("Batches", "s3", "put_object", {"Bucket": merged, "Key": "x", "Body": b""}),
        ("Batches", "s3", "put_object", {"Bucket": batches, "Key": plan, "Body": b""}),
        ("Batches", "s3", "delete_object", {"Bucket": batches, "Key": BATCH_KEY}),
        ("Batches", "dynamodb", "delete_item", {"TableName": table, "Key": key}),
        ("Batches", "dynamodb", "scan", {"TableName": table}),
        ("Finish", "s3", "put_object", {"Bucket": batches, "Key": BATCH_KEY, "Body": b""}),
        ("Finish", "s3", "delete_object", {"Bucket": batches, "Key": BATCH_KEY}),
        ("Finish", "s3", "get_object", {"Bucket": batches, "Key": elsewhere}),
        ("Finish", "dynamodb", "scan", {"TableName": table}),
        ("Sessions", "s3", "get_object", {"Bucket": batches, "Key": BATCH_KEY}),
        ("Sessions", "s3", "put_object", {"Bucket": batches, "Key": BATCH_KEY, "Body": b""}),
        ("Sessions", "s3", "delete_object", {"Bucket": batches, "Key": BATCH_KEY}),
        ("Sessions", "s3", "delete_object", {"Bucket": merged, "Key": "x.ndjson"}),
        (
            "Sessions",
            "s3",
            "put_object",
            {"Bucket": merged, "Key": f"{'0' * 32}.ndjson", "Body": b""},
        ),
        ("Sessions", "events", "put_events", {"Entries": [ENTRY]}),
        ("Events", "events", "put_events", {"Entries": [ENTRY | {"EventBusName": "another"}]}),
        ("Events", "s3", "get_object", {"Bucket": merged, "Key": f"{'0' * 32}.ndjson"}),
        ("Cleanup", "events", "put_events", {"Entries": [ENTRY]}),
        ("Cleanup", "s3", "delete_object", {"Bucket": merged, "Key": f"{'0' * 32}.ndjson"}),
        ("Sessions", "dynamodb", "scan", {"TableName": table}),
        ("Sessions", "dynamodb", "delete_item", {"TableName": table, "Key": key}),
    ]


def test_a_functions_role_can_do_nothing_else(stack: Stack, as_function: Any) -> None:  # noqa: ANN401
    for function, service, call, arguments in forbidden(stack):
        with pytest.raises(ClientError, match=r"(?i)denied|not authorized"):
            getattr(as_function(function, service), call)(**arguments)
    # The same users may do what their function does.
    key = {"sessionId": {"S": "0" * 32}}
    as_function("Batches", "dynamodb").get_item(TableName=stack.table.name, Key=key)


@pytest.mark.parametrize(
    ("function", "action"),
    [("Batches", "s3:PutObject"), ("Batches", "dynamodb:GetItem"), ("Finish", "s3:GetObject")],
)
def test_a_permission_that_is_missing_would_show(api: Api, function: str, action: str) -> None:
    """The emulator enforces the roles: without one action an upload fails."""
    iam = boto3.client("iam")
    role, policy, text = roles()[function]

    def upload() -> set[int]:
        session_id = api.create(1)
        return {api.batch(session_id, 0, [1]).status, api.finish(session_id).status}

    less = json.dumps(without(text, action))
    iam.put_role_policy(RoleName=role, PolicyName=policy, PolicyDocument=less)
    try:
        assert 500 in upload()
    finally:
        iam.put_role_policy(RoleName=role, PolicyName=policy, PolicyDocument=json.dumps(text))
    assert upload() == {204, 200}
