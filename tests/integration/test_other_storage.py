"""Storage other than AWS: the start names in one line what is missing, or serves."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from io import BytesIO
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from werkzeug.test import run_wsgi_app

from local import in_process, storage, streams
from local.other_storage import OtherStorage, OtherStorageError
from local.server import Server
from local.template import Template
from tests.aws import AwsProxy, dynamodb_error, s3_error
from tests.conftest import MotoStack
from tests.processes import free_ports

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

pytestmark = pytest.mark.slow

Request = dict[str, Any]
Headers = list[tuple[str, str]]
Change = Callable[[Request, Headers, bytes], tuple[Headers, bytes]]


class Lacking:
    """A WSGI middleware: a store that ignores some headers and changes some answers."""

    def __init__(self, ignores: Callable[[Request], Iterable[str]], change: Change) -> None:
        self.ignores, self.change = ignores, change

    def __call__(self, app: "WSGIApplication") -> "WSGIApplication":
        def answer(environ: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
            content = environ["wsgi.input"].read()
            request = {**environ, "body": content}
            ignored = set(self.ignores(request))
            if "ConditionExpression" in ignored:
                asked = json.loads(content)
                asked.pop("ConditionExpression", None)
                assert not asked.get("ExpressionAttributeNames")
                content = json.dumps(asked).encode()
            sent = {name: value for name, value in environ.items() if name not in ignored}
            sent |= {"wsgi.input": BytesIO(content), "CONTENT_LENGTH": str(len(content))}
            chunks, status, headers = run_wsgi_app(app, sent, buffered=True)
            changed, body = self.change(request, list(headers), b"".join(chunks))
            # The server adds the length, except to an answer to HEAD.
            if request["REQUEST_METHOD"] != "HEAD":
                changed = [pair for pair in changed if pair[0].lower() != "content-length"]
            start(status, changed)
            return [body]

        return answer


def same(_: Request, headers: Headers, body: bytes) -> tuple[Headers, bytes]:
    return headers, body


def is_put(request: Request) -> bool:
    return request["REQUEST_METHOD"] == "PUT" and not request["QUERY_STRING"]


def is_complete(request: Request) -> bool:
    return request["REQUEST_METHOD"] == "POST" and "uploadId=" in request["QUERY_STRING"]


def is_dynamodb(request: Request, operation: str) -> bool:
    return str(request.get("HTTP_X_AMZ_TARGET", "")).endswith(operation)


def without_metadata(_: Request, headers: Headers, body: bytes) -> tuple[Headers, bytes]:
    return [pair for pair in headers if not pair[0].lower().startswith("x-amz-meta-")], body


def without_listed_etag(request: Request, headers: Headers, body: bytes) -> tuple[Headers, bytes]:
    if "list-type=2" in request["QUERY_STRING"]:
        body = re.sub(rb"<ETag>.*?</ETag>", b"", body)
    return headers, body


def without_copied_etag(request: Request, headers: Headers, body: bytes) -> tuple[Headers, bytes]:
    if "HTTP_X_AMZ_COPY_SOURCE" in request:
        body = re.sub(rb"<ETag>.*?</ETag>", b"", body)
    return headers, body


def nothing(_: Request) -> Iterable[str]:
    return ()


LACKS: dict[str, tuple[Lacking, str]] = {
    "If-None-Match on put": (
        Lacking(lambda request: ["HTTP_IF_NONE_MATCH"] if is_put(request) else [], same),
        "PutObject ignores If-None-Match",
    ),
    "If-None-Match on complete": (
        Lacking(lambda request: ["HTTP_IF_NONE_MATCH"] if is_complete(request) else [], same),
        "CompleteMultipartUpload ignores If-None-Match",
    ),
    "If-Match": (Lacking(lambda _: ["HTTP_IF_MATCH"], same), "GetObject ignores If-Match"),
    "metadata": (Lacking(nothing, without_metadata), "do not return the metadata"),
    "listed ETags": (Lacking(nothing, without_listed_etag), "key, size and ETag"),
    "copied ETags": (Lacking(nothing, without_copied_etag), "a response is invalid"),
    "conditions on put": (
        Lacking(
            lambda request: ["ConditionExpression"] if is_dynamodb(request, "PutItem") else [], same
        ),
        "PutItem ignores ConditionExpression",
    ),
    "conditions on update": (
        Lacking(
            lambda request: ["ConditionExpression"] if is_dynamodb(request, "UpdateItem") else [],
            same,
        ),
        "UpdateItem ignores ConditionExpression",
    ),
}


@pytest.fixture
def serve(local: MotoStack) -> Iterator[Callable[[Lacking | AwsProxy], str]]:
    """Serve moto behind a middleware; return its URL."""
    assert local
    with ExitStack() as running:
        yield lambda middleware: running.enter_context(storage.serve_moto(middleware)).url


def check(url: str, local: MotoStack) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        store = OtherStorage(url)
    store.require_both(local.table.name, local.batches_bucket)
    return store.check(local.table.name, local.batches_bucket, local.merged_bucket)


def left(local: MotoStack) -> list[int]:
    """The number of stored objects, uploads and items."""
    s3 = local.s3
    listed = [
        s3.list_objects_v2(Bucket=bucket)["KeyCount"]
        for bucket in (local.batches_bucket, local.merged_bucket)
    ]
    uploads = s3.list_multipart_uploads(Bucket=local.merged_bucket).get("Uploads", [])
    return [*listed, len(uploads), local.table.scan(Select="COUNT")["Count"]]


def test_a_store_that_has_all_of_it_is_used_and_left_as_it_was(
    serve: Callable[[Lacking | AwsProxy], str], local: MotoStack
) -> None:
    before = left(local)
    # Moto ignores one condition, on which nothing depends.
    assert check(serve(Lacking(nothing, same)), local) == [
        "UploadPartCopy ignores If-Match (no batch is ever replaced)"
    ]
    assert left(local) == before


@pytest.mark.parametrize("name", LACKS)
def test_what_a_store_lacks_is_named(
    serve: Callable[[Lacking | AwsProxy], str], local: MotoStack, name: str
) -> None:
    middleware, expected = LACKS[name]
    before = left(local)
    with pytest.raises(OtherStorageError, match=expected) as caught:
        check(serve(middleware), local)
    assert "\n" not in str(caught.value)
    assert left(local) == before


def test_a_store_that_fails_now_and_then_is_not_refused(
    serve: Callable[[Lacking | AwsProxy], str], local: MotoStack
) -> None:
    """Each kind of call fails once after it took effect; the retry finds its own write."""
    aws = AwsProxy()
    seen: set[str] = set()

    def fail_once(call: Any, forward: Callable[[], Any]) -> Any:  # noqa: ANN401
        first = call.operation not in seen
        seen.add(call.operation)
        answer = forward()
        if not first or call.operation in {"DescribeTable", "ListObjectsV2"}:
            return answer
        throttled = dynamodb_error(400, "ThrottlingException")
        return throttled if "x-amz-target" in call.headers else s3_error(503, "SlowDown")

    url = serve(aws)
    with aws.handled(fail_once):
        assert len(check(url, local)) == 1
    assert {"PutObject", "CompleteMultipartUpload", "PutItem"} <= seen


def test_a_store_that_wants_a_checksum_with_each_part_is_used(
    serve: Callable[[Lacking | AwsProxy], str], local: MotoStack
) -> None:
    """The upload was created with CRC-32, so a store may refuse a part without one."""
    aws = AwsProxy()
    parts = 0

    def refuse(call: Any, forward: Callable[[], Any]) -> Any:  # noqa: ANN401
        nonlocal parts
        if call.operation == "UploadPart":
            parts += 1
            if "x-amz-checksum-crc32" not in call.headers:
                return s3_error(400, "InvalidRequest")
        return forward()

    url = serve(aws)
    with aws.handled(refuse):
        assert len(check(url, local)) == 1
    assert parts == 2


def start(url: str, **environ: str) -> tuple[int, str, str]:
    """Start a local run that does not serve; return its exit code, output and errors."""
    given = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "PORT": "0",
        **environ,
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, "-m", "local"],
        env={name: value for name, value in {**clean, **given}.items() if value},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def app(status: str, kind: str, body: bytes) -> "WSGIApplication":
    def answer(_: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        start_response(status, [("Content-Type", kind)])
        return [body]

    return answer


def refused_line(url: str, **environ: str) -> str:
    """The message of a start that is refused."""
    code, out, err = start(url, **environ)
    assert (code, out) == (1, ""), err
    (line,) = err.splitlines()
    assert line.startswith("gapless: ")
    return line


def refusal(url: str) -> str:
    """The same without a process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        with pytest.raises(OtherStorageError) as caught:
            OtherStorage(url).require_both("table", "bucket")
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    "url", ["localhost:9000", "127.0.0.1", "ftp://localhost", "http://", "http:/localhost"]
)
def test_an_invalid_url_is_reported(url: str) -> None:
    line = refusal(url)
    assert "must be a URL like http://localhost:9000" in line
    assert repr(url) in line


def test_a_refused_connection_is_reported() -> None:
    (port,) = free_ports(1)
    assert "cannot connect: Connection refused" in refused_line(f"http://127.0.0.1:{port}")


def test_an_unknown_host_name_is_reported() -> None:
    assert "cannot connect: " in refusal("http://nowhere.invalid:9000")


@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        ("200 OK", "text/html", b"<html><body>It works!</body></html>"),
        ("200 OK", "text/html", b"<!DOCTYPE html><p>It works!<br>"),
        ("404 Not Found", "text/html", b"<h1>Not Found"),
        ("403 Forbidden", "text/html", b"<html>no</html>"),
        ("405 Method Not Allowed", "application/json", b'{"message": "no"}'),
        ("200 OK", "application/json", b"{}"),
        ("200 OK", "text/plain", b""),
        ("302 Found", "text/html", b"elsewhere"),
        ("500 Internal Server Error", "text/html", b"oops"),
    ],
)
def test_a_web_server_that_is_not_s3_is_reported(status: str, kind: str, body: bytes) -> None:
    with Server(app(status, kind, body)) as server:
        assert f"{server.url} is neither S3 nor DynamoDB" in refusal(server.url)


@pytest.mark.parametrize("there", ["S3", "DynamoDB"])
def test_s3_without_dynamodb_is_reported_and_the_reverse(local: MotoStack, there: str) -> None:
    assert local
    web = app("404 Not Found", "text/html", b"<h1>Not Found")

    def half(moto: "WSGIApplication") -> "WSGIApplication":
        def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
            is_there = ("HTTP_X_AMZ_TARGET" in environ) == (there == "DynamoDB")
            return (moto if is_there else web)(environ, start_response)

        return answer

    missing = {"S3": "DynamoDB", "DynamoDB": "S3"}[there]
    with storage.serve_moto(half) as server:
        assert f"is {there}, but not {missing}: it answers 404" in refusal(server.url)


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"])
def test_wrong_keys_are_reported(code: str) -> None:
    error = s3_error(403, code)
    with Server(app("403 Forbidden", "application/xml", error.body)) as server:
        assert f"rejects the keys (S3: {code})" in refusal(server.url)


def test_missing_keys_are_reported() -> None:
    line = refused_line(
        "http://127.0.0.1:9",
        AWS_ACCESS_KEY_ID="",
        AWS_SECRET_ACCESS_KEY="",
        AWS_EC2_METADATA_DISABLED="true",
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
    )
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in line


def test_tls_on_a_plain_port_is_reported() -> None:
    with Server(app("200 OK", "text/plain", b"")) as server:
        line = refusal(server.url.replace("http:", "https:"))
    assert f"the server does not use TLS; try {server.url}" in line


def test_a_missing_feature_ends_the_start(local: MotoStack) -> None:
    assert local
    with storage.serve_moto(LACKS["If-None-Match on put"][0]) as server:
        line = refused_line(server.url)
    assert "PutObject ignores If-None-Match" in line


# --- Provisioning ---


@pytest.mark.parametrize("last", ["CreateTable", "UpdateTimeToLive", "UpdateTable", "CreateBucket"])
def test_provisioning_goes_on_where_it_was_cut(
    local: MotoStack, aws: AwsProxy, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert local
    template = Template.load(in_process.TEMPLATE)
    names = (f"table-{last}", [f"one-{last.lower()}", f"two-{last.lower()}"])
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with (
        aws.failing("PutObject" if last == "CreateBucket" else last, None, landed=True, times=1),
        pytest.raises(Exception, match=r"(?i)connection|closed"),
    ):
        storage.provision(template, *names)
    storage.provision(template, *names)
    dynamodb, s3 = boto3.client("dynamodb"), boto3.client("s3")
    found = dynamodb.describe_time_to_live(TableName=names[0])["TimeToLiveDescription"]
    assert found["TimeToLiveStatus"] == "ENABLED"
    assert found["AttributeName"] == "expiresAt"
    assert streams.stream_arn(names[0])
    for bucket in names[1]:
        s3.head_bucket(Bucket=bucket)
    storage.provision(template, *names)


def test_a_table_of_somebody_else_is_not_used(local: MotoStack) -> None:
    assert local
    boto3.client("dynamodb").create_table(
        TableName="foreign",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "N"}],
        BillingMode="PAY_PER_REQUEST",
    )
    with pytest.raises(ValueError, match="foreign is not one of Gapless"):
        storage.provision(Template.load(in_process.TEMPLATE), "foreign", [])
