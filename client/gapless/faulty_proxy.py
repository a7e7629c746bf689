"""An HTTP proxy in front of a service, with planned faults: for ``client_conformance`` only.

It forwards requests unchanged, records each one, and does what a list of ``Fault`` says. The
client's credentials are not forwarded: the proxy has its own.
"""

import gzip
import json
import re
import socket
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any, Final

import httpx
import msgspec

from gapless.conformance import Response, Service
from gapless.sessions import ROOT

if TYPE_CHECKING:
    from typing_extensions import Self

_HOST: Final = "127.0.0.1"
_ROUTE: Final = re.compile(
    rf"{ROOT}(?:/(?P<session>[^/?]+)(?:/(?P<below>finish|file|manifest|batches/(?P<number>\d+)))?)?"
)
_KINDS: Final = {
    ("POST", None): "batch",
    ("GET", None): "status",
    ("DELETE", None): "abort",
    ("POST", "finish"): "finish",
    ("GET", "file"): "file",
}
_FORWARDED: Final = (
    "Accept",
    "Content-Digest",
    "Content-Encoding",
    "Content-Type",
    "Idempotency-Key",
)
_RETURNED: Final = ("Content-Type", "Location", "Retry-After", "Vary")
_WAIT_SECONDS: Final = 60.0


class Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A response that replaces the service's."""

    status: int
    headers: dict[str, str] = {}
    body: dict[str, Any] = {}
    """JSON; the ``sessionId`` is added."""
    code: str = ""
    """Of a problem of the service, whose further members are in the body."""
    message: str = ""
    """Of a refusal of API Gateway."""
    html: str = ""
    """A page of something in between."""


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What happens to some requests."""

    on: str
    """The kind of request: create, batch, finish, status or file."""
    seq_num: int | None = None
    """Only this batch."""
    skip: int = 0
    """How many of these requests are spared first."""
    times: int | None = 1
    """How many requests are affected then; null: all that follow."""
    before: tuple[str, ...] = ()
    """What somebody else does first, see ``_Handler._interfere``."""
    forward: bool = True
    """Whether the request reaches the service."""
    reply: Reply | None = None
    """The response that the client gets."""
    change: dict[str, Any] = {}
    """Members of the service's response to add or to replace."""
    drop: bool = False
    """Close the connection instead of responding."""
    cut: bool = False
    """Close the connection in the middle of the response."""
    close: bool = False
    """Close the connection after the response, without announcing it."""
    chunked: bool = False
    """Send the response in chunks, without Content-Length."""
    delay: float = 0.0
    """Seconds to wait before the response."""
    kill: bool = False
    """Kill the client, which gets no response."""


@dataclass
class Seen:
    """A request, and its response as far as the client got it."""

    kind: str
    """Like ``Fault.on``; also abort and other, and empty if there is no such route."""
    session: str
    seq_num: int | None
    at: float
    """When it arrived, monotonic seconds."""
    body: bytes
    content: bytes
    """The body, decompressed."""
    idempotency_key: str
    authorization: str
    status: int = 0
    """0 if the client got no response, or not a whole one."""
    json: Any = None
    retry_after: float = 0.0
    answered_at: float = 0.0

    @property
    def name(self) -> str:
        """``create``, ``batch 3``, …: repeated requests have the same name."""
        return self.kind if self.seq_num is None else f"{self.kind} {self.seq_num}"


class FaultyProxy:
    """A running proxy in front of ``service``; use it in ``with``.

    ``limit`` is how often a request of a name may be sent. ``kill`` is called to kill the client
    under test: if a fault says so, or if it sends a request more often.
    """

    def __init__(
        self,
        service: Service,
        faults: Sequence[Fault],
        limit: Callable[[str], int],
        kill: Callable[[], object],
    ) -> None:
        self.service = service
        self.seen: list[Seen] = []
        self.sessions: list[str] = []
        """The sessions that the service has opened, in order."""
        self.links: list[str] = []
        """The links to merged objects that the service has given."""
        self.leaked: list[str] = []
        """The credentials that were sent to storage."""
        self.too_often = ""
        """The request that the client sent too often."""
        self.error: Exception | None = None
        """Why a request could not be handled, which is not the client's fault."""
        self.killed_at: int | None = None
        """How many requests had arrived when the client was killed."""
        self._limit = limit
        self._kill = kill
        self._faults = faults
        self._matches = [0] * len(faults)
        self._running = 0
        self._closed = False
        self._changed = Condition()
        self._api = _Server(_Handler, self)
        self._storage = _Server(_StorageHandler, self)

    @property
    def url(self) -> str:
        """The URL of the service, for the client under test."""
        return self._api.url

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        # Connections outlive their server: a client may still be sending.
        self._closed = True
        self._api.stop()
        self._storage.stop()

    def wait_until_idle(self) -> None:
        """Wait for the requests that are still under way."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running, _WAIT_SECONDS)

    def begin(self, seen: Seen) -> Fault:
        """Record a request; returns what is to happen to it."""
        with self._changed:
            self._running += 1
            if self._closed:
                return Fault(seen.kind, forward=False, drop=True)
            self.seen.append(seen)
            if sum(other.name == seen.name for other in self.seen) > self._limit(seen.name):
                self.too_often = seen.name
                return Fault(seen.kind, forward=False, kill=True)
            chosen = Fault(seen.kind)
            for number, fault in reversed([*enumerate(self._faults)]):
                if fault.on != seen.kind or fault.seq_num not in {None, seen.seq_num}:
                    continue
                before = self._matches[number]
                self._matches[number] += 1
                if before >= fault.skip and (
                    fault.times is None or before < fault.skip + fault.times
                ):
                    chosen = fault
            return chosen

    def kill(self) -> None:
        """Kill the client."""
        self._kill()
        with self._changed:
            self.killed_at = len(self.seen)

    def end(self) -> None:
        """A request is over."""
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def through_storage(self, response: Response) -> Response:
        """A link to the merged object, replaced by one to the proxy's own storage."""
        link = response.headers.get("location")
        body = response.body
        if response.status == HTTPStatus.OK:
            link = response.json["url"]
        if not link:
            return response
        self.links.append(link)
        own = f"{self._storage.url}/{len(self.links) - 1}"
        headers = response.headers.copy()
        if response.status == HTTPStatus.OK:
            body = _json(response.json | {"url": own})
        else:
            headers["location"] = own
        return Response(response.status, headers, body)


class _Server(ThreadingHTTPServer):
    """A server of the proxy, on a free port of this machine."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, handler: type[BaseHTTPRequestHandler], proxy: FaultyProxy) -> None:
        super().__init__((_HOST, 0), handler)
        self.proxy = proxy
        self.url = f"http://{_HOST}:{self.server_address[1]}"
        Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients close connections, and are killed."""


class _Quiet(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 120

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Print nothing."""


class _Handler(_Quiet):
    """Forwards one request after the other of a connection."""

    def _handle(self) -> None:
        proxy = self.server.proxy
        try:
            seen = self._read()
        except ValueError:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        fault = proxy.begin(seen)
        try:
            for deed in fault.before:
                self._interfere(deed, seen)
            response = self._response(fault, seen)
            if fault.kill:
                proxy.kill()
            if fault.delay:
                time.sleep(fault.delay)
            if fault.drop or fault.kill:
                self.close_connection = True
                return
            self._respond(fault, seen, response)
        except OSError:  # the client has closed the connection
            self.close_connection = True
        except Exception as error:  # noqa: BLE001 - raised where the case is judged
            proxy.error = error
            self.close_connection = True
        finally:
            proxy.end()

    do_GET = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815 - the base's names

    def _read(self) -> Seen:
        at = time.monotonic()
        body = self._body()
        content = body
        if self.headers.get("Content-Encoding") == "gzip":
            with suppress(OSError, EOFError, zlib.error):
                content = gzip.decompress(body)
        kind, session, seq_num = "", "", None
        if found := _ROUTE.fullmatch(self.path.partition("?")[0]):
            session = found["session"] or ""
            kind = _KINDS.get((self.command, found["below"]), "other")
            if not session:
                kind = "create" if self.command == "POST" else "other"
            elif found["number"] and self.command == "PUT":
                kind, seq_num = "batch", int(found["number"])
            elif kind == "batch":
                with suppress(ValueError, TypeError, KeyError):
                    seq_num = int(json.loads(content)["seqNum"])
        key = self.headers.get("Idempotency-Key", "")
        authorization = self.headers.get("Authorization", "")
        return Seen(kind, session, seq_num, at, body, content, key, authorization)

    def _body(self) -> bytes:
        """The body. Raises ConnectionAbortedError if it ends too early: that is no request."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self._exactly(int(self.headers.get("Content-Length") or 0))
        body = b""
        while line := self.rfile.readline():
            size = int(line.partition(b";")[0], 16)
            if not size:
                while self.rfile.readline().strip():
                    pass
                return body
            body += self._exactly(size)
            self.rfile.readline()
        raise ConnectionAbortedError

    def _exactly(self, size: int) -> bytes:
        found = self.rfile.read(size)
        if len(found) < size:
            raise ConnectionAbortedError
        return found

    def _interfere(self, deed: str, seen: Seen) -> None:
        """What somebody else does to the session: another process, or an operator."""
        service = self.server.proxy.service
        if deed == "store this batch":
            self._forward(seen)
        elif deed == "store another batch":
            records = [f"another {number}" for number in range(seen.content.count(b"record"))]
            service.batch(seen.session, seen.seq_num or 0, records).ok(204)
        elif deed == "finish":
            deadline = time.monotonic() + _WAIT_SECONDS
            # The client may still be sending other batches.
            while service.status(seen.session)["missing"] and time.monotonic() < deadline:
                time.sleep(0.1)
            service.finish(seen.session)
        elif deed == "abort":
            service.call("DELETE", f"/{seen.session}").ok(204)
        else:
            raise ValueError(deed)

    def _forward(self, seen: Seen) -> Response:
        given = ((name, self.headers.get_all(name)) for name in _FORWARDED)
        headers = {name: ", ".join(values) for name, values in given if values}
        path = self.path.removeprefix(ROOT)
        return self.server.proxy.service.send(self.command, path, seen.body or None, headers)

    def _response(self, fault: Fault, seen: Seen) -> Response:
        proxy = self.server.proxy
        response = Response(HTTPStatus.NOT_FOUND, httpx.Headers(), b'{"message":"Not Found"}')
        if fault.forward and seen.kind:
            response = self._forward(seen)
            if seen.kind == "create" and response.status == HTTPStatus.CREATED:
                proxy.sessions.append(response.json["sessionId"])
            if seen.kind == "file":
                response = proxy.through_storage(response)
        if fault.reply is not None:
            return _reply(fault.reply, seen)
        if fault.change and response.body.startswith(b"{"):
            body = _json(response.json | fault.change)
            return Response(response.status, response.headers, body)
        return response

    def _respond(self, fault: Fault, seen: Seen, response: Response) -> None:
        self.close_connection |= fault.close or fault.cut
        body = b"" if response.status == HTTPStatus.NO_CONTENT else response.body
        if not fault.cut:
            # Noted before it is sent: the next request may come immediately after.
            seen.status = response.status
            with suppress(ValueError):
                seen.json = json.loads(body)
            seen.retry_after = float(response.headers.get("Retry-After", "0"))
            seen.answered_at = time.monotonic()
        self.send_response(response.status)
        for name in _RETURNED:
            if name in response.headers and (body or name != "Content-Type"):
                self.send_header(name, response.headers[name])
        if fault.chunked and body:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            half = len(body) // 2
            for piece in (body[:half], body[half:], b""):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            return
        if response.status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault.cut else body)

    def finish(self) -> None:
        """Close the connection in both directions, so that the client sees it immediately."""
        super().finish()
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


def _reply(reply: Reply, seen: Seen) -> Response:
    body, media_type = {"sessionId": seen.session, **reply.body}, "application/json"
    if reply.code:
        media_type = "application/problem+json"
        body = {
            "type": f"urn:gapless:error:{reply.code}",
            "title": "A planned refusal.",
            "status": reply.status,
            "code": reply.code,
            "detail": "The conformance suite refuses this request.",
            **reply.body,
        }
    elif reply.message:
        body = {"message": reply.message}
    elif reply.html:
        media_type = "text/html"
    headers = httpx.Headers({"Content-Type": media_type, **reply.headers})
    if reply.status == HTTPStatus.ACCEPTED:
        headers["Location"] = f"{ROOT}/{seen.session}"
    return Response(reply.status, headers, reply.html.encode() or _json(body))


def _json(body: dict[str, Any]) -> bytes:
    """As compact as the service's: a client in a shell script reads it by patterns."""
    return json.dumps(body, separators=(",", ":")).encode()


class _StorageHandler(_Quiet):
    """Serves merged objects on another origin; refuses credentials, as S3 does with a link."""

    def do_GET(self) -> None:
        proxy = self.server.proxy
        if authorization := self.headers.get("Authorization"):
            proxy.leaked.append(authorization)
            status, body = 400, b"<Error><Code>InvalidArgument</Code></Error>"
        else:
            link = proxy.links[int(self.path[1:])]
            status, body = 200, proxy.service.follow(link, "identity").content
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
