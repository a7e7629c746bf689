"""A WSGI middleware in front of moto that sees every S3 and DynamoDB call, from any client.

Tests count calls, and make single calls fail before or after they take effect.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, unquote

import pytest
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPResponse
from urllib3.exceptions import ProtocolError
from werkzeug.test import run_wsgi_app

from local.server import HOST, Server

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

        answer = self.handler(call, forward) if self.handler else forward()
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
    """Let urllib3, so also botocore, call the applications of these servers in its own thread.

    A call then takes a third less CPU, and never times out. obstore still goes over HTTP.
    """
    apps = {server.port: server._server.app for server in servers}  # noqa: SLF001
    over_http = HTTPConnectionPool.urlopen

    def urlopen(
        pool: HTTPConnectionPool,
        method: str,
        url: str,
        body: Any = None,  # noqa: ANN401
        headers: Any = None,  # noqa: ANN401
        *_: object,
        preload_content: bool = True,
        decode_content: bool = True,
        **more: Any,  # noqa: ANN401
    ) -> BaseHTTPResponse:
        app = apps.get(pool.port or 0) if pool.host == HOST else None
        if app is None:
            more |= {"preload_content": preload_content, "decode_content": decode_content}
            return over_http(pool, method, url, body, headers, **more)
        try:
            environ = _environ(pool, method, url, body, headers)
            chunks, status, answered = run_wsgi_app(app, environ, buffered=True)
        except Exception as error:
            # A server closes the connection, too.
            raise ProtocolError(str(error)) from error
        content = b"".join(chunks)
        if method != "HEAD":
            answered["Content-Length"] = str(len(content))
        return HTTPResponse(
            BytesIO(content),
            dict(answered),
            int(status.partition(" ")[0]),
            preload_content=preload_content,
            decode_content=decode_content,
            request_method=method,
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HTTPConnectionPool, "urlopen", urlopen)
        yield


def _environ(
    pool: HTTPConnectionPool,
    method: str,
    uri: str,
    body: Any,  # noqa: ANN401
    given: Any,  # noqa: ANN401
) -> "WSGIEnvironment":
    body = body or b""
    content = body.read() if hasattr(body, "read") else body
    content = content.encode() if isinstance(content, str) else content
    headers = {
        name.upper().replace("-", "_"): value.decode() if isinstance(value, bytes) else str(value)
        for name, value in given.items()
    }
    path, _, query = uri.partition("?")
    return {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote(path, "latin1"),
        "QUERY_STRING": query,
        "RAW_URI": uri,
        "REQUEST_URI": uri,
        "SERVER_NAME": pool.host,
        "SERVER_PORT": str(pool.port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": pool.host,
        "CONTENT_TYPE": headers.pop("CONTENT_TYPE", ""),
        "CONTENT_LENGTH": str(len(content)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": pool.scheme,
        "wsgi.input": BytesIO(content),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **{f"HTTP_{name}": value for name, value in headers.items()},
        "HTTP_HOST": f"{pool.host}:{pool.port}",
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
