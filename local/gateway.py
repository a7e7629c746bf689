"""An HTTP API of Amazon API Gateway in front of Lambda functions, without sockets.

Sources:

- events and responses: https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
- limits: https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-quotas.html and
  https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
- reports of users: only its media type makes a body text, and the path is percent-decoded before
  the route is matched, so an encoded slash is a slash.
"""

import base64
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from http.client import responses
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote
from uuid import uuid4

import msgspec
import pybase64

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

Event = dict[str, Any]

MAX_BODY_BYTES: Final = 10 * 1024 * 1024
"""Largest request body (HTTP API quotas)."""

MAX_EVENT_BYTES: Final = 6 * 1024 * 1024
"""Largest event and largest response of a function, bytes of JSON (Lambda quotas)."""

INTEGRATION_SECONDS: Final = 30.0
"""How long API Gateway waits for a function (HTTP API quotas)."""

ACCOUNT: Final = "123456789012"
_TEXT_TYPES: Final = {"application/json", "application/xml", "application/javascript"}
_HOP_BY_HOP: Final = {"connection", "expect", "keep-alive", "transfer-encoding"}
_STATUSES: Final = range(200, 600)
_ESCAPED_BYTES: Final = 6
"""Most bytes of JSON for a byte of a body: a control character is \\u00XX."""
_IDLE_SECONDS: Final = 10.0
_JSON: Final = ("content-type", "application/json")
_logger: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class Context:
    """The context object that the Lambda runtime passes to a handler."""

    function_name: str
    memory_limit_in_mb: str
    deadline: float
    """``time.monotonic()`` at which the function times out."""
    aws_request_id: str
    function_version: str = "$LATEST"

    @property
    def invoked_function_arn(self) -> str:
        """The function's ARN."""
        return f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:{self.function_name}"

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until Lambda would end the invocation."""
        return max(0, int((self.deadline - time.monotonic()) * 1000))


@dataclass(frozen=True)
class Lambda:
    """A deployed function."""

    handler: Callable[[Event, Context], object]
    name: str = "function"
    timeout: int = 29
    """Seconds."""
    memory: int = 1024
    """MB."""


@dataclass(frozen=True)
class Request:
    """A client's request."""

    method: str
    path: str
    """As in the request line: percent-encoded."""
    query: str = ""
    headers: Iterable[tuple[str, str]] = ()
    body: bytes = b""
    source_ip: str = "127.0.0.1"


@dataclass(frozen=True)
class Response:
    """The response to a client."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Gateway:
    """An HTTP API whose routes, ``POST /path/{parameter}``, are Lambda functions.

    Thread-safe. Every invocation runs in a thread of its own, so it can outlive its request.
    """

    def __init__(
        self, routes: Mapping[str, Lambda], integration_seconds: float = INTEGRATION_SECONDS
    ) -> None:
        self.routes = routes
        # A literal segment wins over a parameter.
        by_specificity = sorted(routes.items(), key=lambda route: route[0].count("{"))
        self._routes = [(key, _pattern(key), function) for key, function in by_specificity]
        self._integration_seconds = integration_seconds
        self._threads = _Threads()

    def handle(self, request: Request) -> Response:
        """Return the response to ``request``. Never raises."""
        path = unquote(request.path)
        route = self._find(request.method, path)
        if route is None:
            return _message(HTTPStatus.NOT_FOUND, "Not Found")
        if len(request.body) > MAX_BODY_BYTES:
            return _message(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Request Entity Too Large")
        key, function, parameters = route
        event = _event(request, key, path, parameters)
        if _is_too_large(event, len(request.body)):
            return _message(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Request Entity Too Large")
        return self._invoke(function, event)

    def _find(self, method: str, path: str) -> tuple[str, Lambda, dict[str, str]] | None:
        for key, pattern, function in self._routes:
            if found := pattern.fullmatch(f"{method} {path}"):
                return key, function, found.groupdict()
        return None

    def _invoke(self, function: Lambda, event: Event) -> Response:
        answer: SimpleQueue[Response | BaseException] = SimpleQueue()
        context = Context(
            function_name=function.name,
            memory_limit_in_mb=str(function.memory),
            deadline=time.monotonic() + function.timeout,
            aws_request_id=str(uuid4()),
        )

        def run() -> None:
            try:
                answer.put(_response(function.handler(event, context)))
            except BaseException as error:  # noqa: BLE001  # even SystemExit
                answer.put(error)

        self._threads.run(run)
        try:
            response = answer.get(timeout=self._integration_seconds)
        except Empty:
            return _message(HTTPStatus.SERVICE_UNAVAILABLE, "Service Unavailable")
        if isinstance(response, BaseException):
            _logger.error("%s failed", event["routeKey"], exc_info=response)
            return _message(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal Server Error")
        return response


class _Threads:
    """As many threads as run calls at the same time; to start one takes as long as a request.

    Unlike those of ThreadPoolExecutor they do not keep the process from ending.
    """

    def __init__(self) -> None:
        self._idle: list[SimpleQueue[Callable[[], None]]] = []

    def run(self, call: Callable[[], None]) -> None:
        """Run ``call``, which must not raise, at once."""
        try:
            calls = self._idle.pop()
        except IndexError:
            calls = SimpleQueue()
            Thread(target=self._work, args=(calls,), daemon=True).start()
        calls.put(call)

    def _work(self, calls: "SimpleQueue[Callable[[], None]]") -> None:
        while True:
            try:
                call = calls.get(timeout=_IDLE_SECONDS)
            except Empty:
                try:
                    self._idle.remove(calls)
                except ValueError:
                    continue  # a call is coming
                return
            call()
            del call  # it holds the body
            self._idle.append(calls)


def wsgi(gateway: Gateway) -> "WSGIApplication":
    """The gateway as a WSGI application; needs the server's ``RAW_URI``."""

    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path, _, query = environ["RAW_URI"].partition("?")
        headers = {
            name.removeprefix("HTTP_").replace("_", "-"): value
            for name, value in environ.items()
            if name.startswith("HTTP_") or name in {"CONTENT_TYPE", "CONTENT_LENGTH"}
        }
        response = gateway.handle(
            Request(
                method=environ["REQUEST_METHOD"],
                path=path,
                query=query,
                headers=headers.items(),
                body=environ["wsgi.input"].read(MAX_BODY_BYTES + 1),
                source_ip=environ["REMOTE_ADDR"],
            )
        )
        phrase = responses.get(response.status, "")
        start_response(f"{response.status} {phrase}", response.headers)
        return [response.body]

    return app


def _pattern(key: str) -> re.Pattern[str]:
    """Return a regular expression for a route key; a parameter is one whole segment."""
    pieces = re.split(r"\{(\w+)\}", key)
    return re.compile(
        "".join(
            f"(?P<{piece}>[^/]+)" if is_parameter else re.escape(piece)
            for piece, is_parameter in zip(pieces, [False, True] * len(pieces), strict=False)
        )
    )


def _event(request: Request, key: str, path: str, parameters: Mapping[str, str]) -> Event:
    """Return the event, in payload format 2.0."""
    headers = _headers(request)
    cookies = headers.pop("cookie", "")
    query = _joined(parse_qsl(request.query, keep_blank_values=True))
    is_text = _is_text(headers.get("content-type", ""))
    domain = headers.get("host", "localhost").partition(":")[0]
    now = time.time()
    event: Event = {
        "version": "2.0",
        "routeKey": key,
        "rawPath": path,
        "rawQueryString": request.query,
        "headers": headers,
        "requestContext": {
            "accountId": ACCOUNT,
            "apiId": "local",
            "domainName": domain,
            "domainPrefix": domain.partition(".")[0],
            "http": {
                "method": request.method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": request.source_ip,
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": base64.b64encode(secrets.token_bytes(11)).decode(),
            "routeKey": key,
            "stage": "$default",
            "time": datetime.fromtimestamp(now, UTC).strftime("%d/%b/%Y:%H:%M:%S +0000"),
            "timeEpoch": int(now * 1000),
        },
        "isBase64Encoded": bool(request.body) and not is_text,
    }
    # API Gateway omits empty members.
    if cookies:
        event["cookies"] = [cookie.strip() for cookie in cookies.split(";")]
    if query:
        event["queryStringParameters"] = query
    if parameters:
        event["pathParameters"] = dict(parameters)
    if request.body:
        event["body"] = (
            request.body.decode(errors="replace")
            if is_text
            else pybase64.b64encode_as_string(request.body)
        )
    return event


def _headers(request: Request) -> dict[str, str]:
    """Return the headers of the event, with those that API Gateway adds."""
    headers = _joined((name.lower(), value) for name, value in request.headers)
    for name in _HOP_BY_HOP & headers.keys():
        del headers[name]
    came_for = headers.get("x-forwarded-for")
    return headers | {
        # Also for a chunked body, which is passed on whole.
        "content-length": str(len(request.body)),
        "x-amzn-trace-id": f"Root=1-{int(time.time()):08x}-{secrets.token_hex(12)}",
        "x-forwarded-for": f"{came_for}, {request.source_ip}" if came_for else request.source_ip,
        "x-forwarded-port": headers.get("host", "").partition(":")[2] or "80",
        "x-forwarded-proto": "http",
    }


def _joined(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return ``pairs`` as a mapping; the values of a repeated name are joined by a comma."""
    joined: dict[str, str] = {}
    for name, value in pairs:
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined


def _is_text(content_type: str) -> bool:
    """Whether a body reaches the function as text; Content-Encoding has no effect."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type.startswith("text/") or media_type in _TEXT_TYPES


def _is_too_large(event: Event, body_bytes: int) -> bool:
    """Whether ``event``, with a body of so many bytes, is over Lambda's limit as JSON."""
    room = MAX_EVENT_BYTES - len(json.dumps({**event, "body": ""}, ensure_ascii=False).encode())
    # Nearly always this is enough. To serialise a body of 1 MB takes longer than to store it.
    if body_bytes * _ESCAPED_BYTES <= room:
        return False
    text = event.get("body", "")
    # Base64 has no escapes.
    size = len(text) if event["isBase64Encoded"] else len(msgspec.json.encode(text)) - len('""')
    return size > room


def _response(result: object) -> Response:
    """Turn a function's ``result`` into a response. Raises ValueError or TypeError."""
    # Lambda serialises the result and limits its size.
    serialised = json.dumps(result, ensure_ascii=False).encode()
    if len(serialised) > MAX_EVENT_BYTES:
        raise ValueError("The response of the function is too large.")
    if not isinstance(result, dict) or "statusCode" not in result:
        content = result.encode() if isinstance(result, str) else serialised
        return Response(HTTPStatus.OK, [_JSON], content)
    status = int(result["statusCode"])
    if status not in _STATUSES:
        raise ValueError(f"{status} is not an HTTP status.")
    body = result.get("body") or ""
    if not isinstance(body, str):
        raise TypeError("The body of a response must be a string.")
    content = (
        base64.b64decode(body, validate=True) if result.get("isBase64Encoded") else body.encode()
    )
    headers = [
        (name, str(value))
        for name, value in (result.get("headers") or {}).items()
        if name.lower() != "content-length"
    ]
    if content and "content-type" not in {name.lower() for name, _ in headers}:
        headers.append(("content-type", "text/plain;charset=UTF-8"))
    headers += [("set-cookie", cookie) for cookie in result.get("cookies") or ()]
    return Response(status, headers, content)


def _message(status: HTTPStatus, message: str) -> Response:
    """Return a response of API Gateway itself."""
    return Response(status, [_JSON], json.dumps({"message": message}).encode())
