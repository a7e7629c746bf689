"""Fixtures for all tests: a running stack, in this process or deployed, and clients for it."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
import requests
from moto.backends import get_backend
from moto.core.models import DEFAULT_ACCOUNT_ID

from local import in_process, storage, streams
from local.gateway import Gateway, wsgi
from local.server import Server
from local.streams import Stream
from local.template import Template
from tests import hypothesis_profile, seaweedfs
from tests.api import Api, deployed, over_http, through_gateway
from tests.aws import AwsProxy, without_sockets

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication
    from mypy_boto3_dynamodb.service_resource import Table
    from mypy_boto3_s3 import S3Client

hypothesis_profile.load()

DEPLOYED: dict[str, Any] = (
    json.loads(Path(os.environ["STACK"]).read_text()) if "STACK" in os.environ else {}
)
"""What ``make stack`` or ``make sam-local`` wrote about the stack that it started: ``name``,
``url``, ``table``, ``batchesBucket``, ``mergedBucket``, ``environment`` (for AWS clients),
``credentials`` (if requests are signed), ``ca`` (if it has its own certificate authority), and
``lacks``: {what its emulator cannot do: why}. Empty when the stack runs in this process."""


CLEANED_UP_SECONDS = 300
"""How long the clean-up of a deployed stack may take."""

OTHER_S3 = os.environ.get("S3") == "seaweedfs"
"""Whether S3 is SeaweedFS instead of moto: ``make test-seaweedfs``."""
SCHEMAS = Path(__file__).parent / "schemas"
"""The schemas that sessions may name."""


@dataclass(frozen=True)
class Stack:
    """A running stack: its storage, read and changed behind the service's back."""

    s3: "S3Client"
    table: "Table"
    batches_bucket: str
    merged_bucket: str

    def merged(self, session_id: str, ending: str = "ndjson") -> bytes:
        """The bytes of the merged object. Raises ``s3.exceptions.NoSuchKey``."""
        found = self.s3.get_object(Bucket=self.merged_bucket, Key=f"{session_id}.{ending}")
        return found["Body"].read()

    def manifest(self, session_id: str) -> bytes:
        key = f"{session_id}.manifest.json"
        return self.s3.get_object(Bucket=self.merged_bucket, Key=key)["Body"].read()

    def has_merged(self, session_id: str) -> bool:
        found = self.s3.list_objects_v2(Bucket=self.merged_bucket, Prefix=session_id)
        return found["KeyCount"] > 0

    def stored(self, session_id: str, seq_num: int) -> bytes:
        key = f"{session_id}/{seq_num:08d}"
        return self.s3.get_object(Bucket=self.batches_bucket, Key=key)["Body"].read()

    def stored_keys(self, session_id: str) -> list[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.batches_bucket, Prefix=f"{session_id}/"
        )
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def open_uploads(self, session_id: str) -> int:
        """How many multipart uploads of the merged object are open."""
        found = self.s3.list_multipart_uploads(Bucket=self.merged_bucket)
        return sum(session_id in upload["Key"] for upload in found.get("Uploads", []))

    def left(self, session_id: str) -> tuple[int, int]:
        """The number of objects a session has left in the batches bucket, and of open uploads."""
        found = sum(
            self.s3.list_objects_v2(Bucket=self.batches_bucket, Prefix=prefix)["KeyCount"]
            for prefix in (session_id, f"merges/{session_id}")
        )
        return found, self.open_uploads(session_id)

    def cleaned_up(self, session_id: str) -> tuple[int, int]:
        """What is left after the clean-up has had time to run, as ``left`` returns it."""
        until = time.monotonic() + CLEANED_UP_SECONDS
        while self.left(session_id) != (0, 0) and time.monotonic() < until:
            time.sleep(0.1)
        return self.left(session_id)

    def expire(self, session_id: str) -> None:
        """Let the session's time to live run out."""
        self.change(session_id, expiresAt=1)

    def item(self, session_id: str) -> dict[str, Any]:
        return self.table.get_item(Key={"sessionId": session_id}, ConsistentRead=True)["Item"]

    def change(self, session_id: str, **values: object) -> None:
        """Overwrite attributes of a session's item, for example to move its times."""
        self.table.update_item(
            Key={"sessionId": session_id},
            UpdateExpression="SET " + ", ".join(f"#{name} = :{name}" for name in values),
            ExpressionAttributeNames={f"#{name}": name for name in values},
            ExpressionAttributeValues={f":{name}": value for name, value in values.items()},  # type: ignore[misc]
        )


@dataclass(frozen=True)
class MotoStack(Stack):
    """A stack in this process: the functions, on moto (or SeaweedFS as S3)."""

    aws: AwsProxy
    gateway: Gateway
    stream: Stream
    events: StringIO
    """Every published event, one line of JSON each."""

    def empty(self) -> None:
        """Delete what is stored, behind the back of S3 and DynamoDB."""
        for bucket in get_backend("s3")[DEFAULT_ACCOUNT_ID]["aws"].buckets.values():
            for key in list(bucket.keys):
                bucket.keys.pop(key)
            for upload in bucket.multiparts.values():
                upload.dispose()
            bucket.multiparts.clear()
        dynamodb = get_backend("dynamodb")[DEFAULT_ACCOUNT_ID][storage.REGION]
        table: Any = dynamodb.tables[self.table.name]
        table.items.clear()
        table.stream_shard.items.clear()
        self.stream.forget()
        self.aws.calls.clear()

    def cleaned_up(self, session_id: str) -> tuple[int, int]:
        """What is left after the clean-up has handled every record of the table's stream."""
        self.stream.deliver()
        return self.left(session_id)

    def expire(self, session_id: str) -> None:
        """Delete the item, too: moto has no time to live."""
        super().expire(session_id)
        self.stream.expire()


_STARTED = pytest.StashKey[Stack]()


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The whole stack. All tests share it, since each uses its own sessions."""
    for stack in _deployed_stack() if DEPLOYED else _local_stack():
        request.session.stash[_STARTED] = stack
        yield stack


def _deployed_stack() -> Iterator[Stack]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in DEPLOYED["environment"].items():
            patch.setenv(name, value)
        yield Stack(
            s3=boto3.client("s3"),
            table=boto3.resource("dynamodb").Table(DEPLOYED["table"]),
            batches_bucket=DEPLOYED["batchesBucket"],
            merged_bucket=DEPLOYED["mergedBucket"],
        )


def _local_stack() -> Iterator[Stack]:
    aws = AwsProxy()
    template = Template.load(in_process.TEMPLATE)
    before = dict(os.environ)
    with ExitStack() as running:
        middleware: Callable[[WSGIApplication], WSGIApplication] = aws
        if OTHER_S3:
            url = running.enter_context(seaweedfs.running())
            middleware = seaweedfs.in_place_of_s3(url, aws)
        moto = running.enter_context(storage.serve_moto(middleware))
        running.enter_context(without_sockets(moto))
        storage.point_to_moto(os.environ, moto.url)
        if OTHER_S3:
            os.environ.update(seaweedfs.CREDENTIALS)
        os.environ["SCHEMAS_DIR"] = str(SCHEMAS)
        in_process.set_environment(template, os.environ)
        table, batches, merged = (
            os.environ[name] for name in ("SESSIONS_TABLE", "BATCHES_BUCKET", "MERGED_BUCKET")
        )
        storage.provision(template, table, [batches, merged])
        arn = streams.stream_arn(table)
        assert arn
        events = StringIO()
        yield MotoStack(
            aws=aws,
            gateway=in_process.load_gateway(template),
            stream=in_process.load_stream(template, table, arn, events),
            events=events,
            s3=boto3.client("s3"),
            table=boto3.resource("dynamodb").Table(table),
            batches_bucket=batches,
            merged_bucket=merged,
        )
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _skip_what_an_emulator_cannot_do(request: pytest.FixtureRequest) -> None:
    for marker in request.node.iter_markers("needs"):
        if reason := DEPLOYED.get("lacks", {}).get(marker.args[0]):
            pytest.skip(f"{DEPLOYED['name']}: {reason}")


@pytest.fixture
def download() -> Callable[[str], bytes]:
    def get(url: str) -> bytes:
        answer = requests.get(url, verify=DEPLOYED.get("ca", True), timeout=300)
        answer.raise_for_status()
        return answer.content

    return get


@pytest.fixture(scope="session")
def local(stack: Stack) -> MotoStack:
    """The stack, for tests that need it in this process."""
    assert isinstance(stack, MotoStack), "this test needs the stack in its own process"
    return stack


@pytest.fixture(scope="module", autouse=True)
def _forget_what_earlier_modules_stored(request: pytest.FixtureRequest) -> None:
    """Otherwise it takes gigabytes, and the first clean-up handles the sessions of all modules."""
    stack = request.node.session.stash.get(_STARTED, None)
    if isinstance(stack, MotoStack):
        stack.empty()


@pytest.fixture(scope="session")
def server_url(local: MotoStack) -> Iterator[str]:
    """URL of the stack behind the local HTTP server."""
    with Server(wsgi(local.gateway)) as server:
        yield server.url


@pytest.fixture
def aws(local: MotoStack) -> AwsProxy:
    """The proxy that sees the stack's calls to AWS."""
    return local.aws


_TRANSPORTS: dict[str, Callable[[pytest.FixtureRequest], Api]] = {
    "in process": lambda request: Api(through_gateway(request.getfixturevalue("local").gateway)),
    "local server": lambda request: Api(over_http(request.getfixturevalue("server_url"))),
}
if DEPLOYED:
    _TRANSPORTS = {DEPLOYED["name"]: lambda _: Api(deployed(DEPLOYED))}


@pytest.fixture
def api(request: pytest.FixtureRequest) -> Api:
    """A client that calls the stack as directly as possible."""
    return next(iter(_TRANSPORTS.values()))(request)


@pytest.fixture(params=_TRANSPORTS)
def any_api(request: pytest.FixtureRequest) -> Api:
    """A client over each transport in turn."""
    return _TRANSPORTS[request.param](request)
