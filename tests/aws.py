"""A WSGI middleware in front of moto that sees every S3 and DynamoDB call, from any client.

Tests count calls, and make single calls fail before or after they take effect.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ConnectionClosedError
from botocore.httpsession import URLLib3Session
from urllib3.response import HTTPResponse
from werkzeug.test import run_wsgi_app

from local.server import Server
from uploads.dynamodb import DynamoDB

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


@dataclass(frozen=True)
class Call:
    operation: str
    """The operation's name in AWS: ``PutObject``, ``UpdateItem`` …"""
    key: str = ""
    """Key of the S3 object, without the bucket."""
    upload_id: str = field(default="", compare=False)
    """The multipart upload it names."""
    headers: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    prefix: str = field(default="", compare=False)
    """The prefix of a listing."""
    body: bytes = field(default=b"", compare=False, repr=False)
    """The request's body, except for S3."""


Handler = Callable[[Call, "Callable[[], Answer]"], "Answer"]


@dataclass(frozen=True)
class Answer:
    status: str
    headers: list[tuple[str, str]]
    body: bytes


DEAD: Final = Answer("418 Dead", [], b"")
"""The response to every call of a process that has died: no client retries this status."""


class AwsProxy:
    """The middleware. If ``handler`` is set, it decides what happens to each call."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.handler: Handler | None = None
        self._app: WSGIApplication | None = None

    def __call__(self, app: "WSGIApplication") -> "WSGIApplication":
        self._app = app
        return self._answer

    def _answer(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        content = environ["wsgi.input"].read()
        call = _call(environ, content)
        self.calls.append(call)

        def forward() -> Answer:
            # May run more than once: a network can deliver a request twice.
            assert self._app is not None
            request = {**environ, "wsgi.input": BytesIO(content)}
            chunks, status, headers = run_wsgi_app(self._app, request, buffered=True)
            return Answer(status, list(headers), b"".join(chunks))

        # Read once: the test may take it away meanwhile.
        handler = self.handler
        answer = handler(call, forward) if handler else forward()
        start_response(answer.status, answer.headers)
        return [answer.body]

    @contextmanager
    def recording(self) -> Iterator[list[Call]]:
        """Record the calls made inside the ``with`` block; the list is filled at its end."""
        before = len(self.calls)
        seen: list[Call] = []
        yield seen
        seen.extend(self.calls[before:])

    @contextmanager
    def handled(self, handler: Handler) -> Iterator[None]:
        """Install ``handler`` for the ``with`` block."""
        self.handler = handler
        try:
            yield
        finally:
            self.handler = None

    @contextmanager
    def failing(
        self, operation: str, answer: Answer | None = None, *, landed: bool, times: int = 10**9
    ) -> Iterator[list[Call]]:
        """Fail the first ``times`` calls of ``operation``, after they took effect or before.

        Yields the list of failed calls. Without an ``answer`` the connection is reset.
        """
        failed: list[Call] = []

        def handle(call: Call, forward: Callable[[], Answer]) -> Answer:
            if call.operation != operation or len(failed) >= times:
                return forward()
            failed.append(call)
            if landed:
                forward()
            if answer is None:
                raise ConnectionResetError
            return answer

        with self.handled(handle):
            yield failed


@contextmanager
def without_sockets(*servers: Server) -> Iterator[None]:
    """Let botocore and our client of DynamoDB call the servers' applications in their own thread.

    A call then takes a third less CPU, and never times out. obstore still goes over HTTP.
    """
    apps = {server.url: server._server.app for server in servers}  # noqa: SLF001
    over_http, exchange_over_http = URLLib3Session.send, DynamoDB.exchange

    def send(session: URLLib3Session, request: Any) -> Any:  # noqa: ANN401
        url = urlsplit(request.url)
        app = apps.get(f"{url.scheme}://{url.netloc}")
        if app is None:
            return over_http(session, request)
        try:
            chunks, status, headers = run_wsgi_app(app, _environ(request, url), buffered=True)
        except Exception as error:
            # A server closes the connection, too.
            raise ConnectionClosedError(endpoint_url=request.url) from error
        content = b"".join(chunks)
        if request.method != "HEAD":
            headers["Content-Length"] = str(len(content))
        raw = HTTPResponse(
            BytesIO(content),
            dict(headers),
            int(status.partition(" ")[0]),
            preload_content=False,
            request_method=request.method,
        )
        answer: Any = AWSResponse(request.url, raw.status, raw.headers, raw)  # type: ignore[arg-type]
        if not request.stream_output:
            # It reads the body.
            answer.content  # noqa: B018
        return answer

    def exchange(
        client: DynamoDB, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, str | None, bytes]:
        url = urlsplit(f"http://{headers['host']}/")
        app = apps.get(f"{url.scheme}://{url.netloc}")
        if app is None:
            return exchange_over_http(client, body, headers)
        request = SimpleNamespace(method="POST", headers=headers, body=body)
        try:
            chunks, status, answered = run_wsgi_app(app, _environ(request, url), buffered=True)
        except Exception as error:
            raise ConnectionResetError from error
        checksum = answered.get("x-amz-crc32")
        return int(status.partition(" ")[0]), checksum, b"".join(chunks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(URLLib3Session, "send", send)
        patch.setattr(DynamoDB, "exchange", exchange)
        yield


def _environ(request: Any, url: SplitResult) -> "WSGIEnvironment":  # noqa: ANN401
    body = request.body or b""
    content = body.read() if hasattr(body, "read") else body
    content = content.encode() if isinstance(content, str) else content
    headers = {
        name.upper().replace("-", "_"): value.decode() if isinstance(value, bytes) else str(value)
        for name, value in request.headers.items()
    }
    raw = url.path or "/"
    uri = f"{raw}?{url.query}" if url.query else raw
    return {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote(raw, "latin1"),
        "QUERY_STRING": url.query,
        "RAW_URI": uri,
        "REQUEST_URI": uri,
        "SERVER_NAME": url.hostname,
        "SERVER_PORT": str(url.port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": url.hostname,
        "CONTENT_TYPE": headers.pop("CONTENT_TYPE", ""),
        "CONTENT_LENGTH": str(len(content)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": url.scheme,
        "wsgi.input": BytesIO(content),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **{f"HTTP_{name}": value for name, value in headers.items()},
        "HTTP_HOST": url.netloc,
    }


def s3_error(status: int, code: str) -> Answer:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
    return Answer(f"{status} Error", [("content-type", "application/xml")], body.encode())


def dynamodb_error(status: int, code: str) -> Answer:
    body = json.dumps({"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": code})
    return Answer(
        f"{status} Error", [("content-type", "application/x-amz-json-1.0")], body.encode()
    )


_S3_OPERATIONS = (
    ("GET", "list-type=2", "ListObjectsV2"),
    ("POST", "delete", "DeleteObjects"),
    ("POST", "uploads", "CreateMultipartUpload"),
    ("POST", "uploadId=", "CompleteMultipartUpload"),
    ("DELETE", "uploadId=", "AbortMultipartUpload"),
    ("PUT", "uploadId=", "UploadPart"),
    ("GET", "uploadId=", "ListParts"),
    ("GET", "uploads", "ListMultipartUploads"),
    ("PUT", "", "PutObject"),
    ("GET", "", "GetObject"),
    ("HEAD", "", "HeadObject"),
    ("DELETE", "", "DeleteObject"),
)


def _call(environ: "WSGIEnvironment", content: bytes) -> Call:
    headers = {
        name.removeprefix("HTTP_").replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    if target := headers.get("x-amz-target"):
        return Call(target.partition(".")[2], headers=headers, body=content)
    method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
    operation = next(
        name
        for its_method, marker, name in _S3_OPERATIONS
        if method == its_method and re.search(rf"(^|&){marker}", query)
    )
    if operation == "UploadPart" and "x-amz-copy-source" in headers:
        operation = "UploadPartCopy"
    key = environ["PATH_INFO"].lstrip("/").partition("/")[2]
    asked = parse_qs(query)
    upload_id, prefix = (asked.get(name, [""])[0] for name in ("uploadId", "prefix"))
    return Call(operation, key, upload_id, headers, prefix)
