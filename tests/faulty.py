"""An HTTP proxy that throttles, resets, truncates and delays at a chosen rate.

Put it before S3 and DynamoDB to inject faults. A seed decides the fate of the n-th request. With
``rate=0`` before any HTTP server it only counts responses.
"""

import json
import socket
import struct
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any, Final, Self
from urllib.parse import urlsplit

from tests.aws import Answer, dynamodb_error, s3_error

HOST: Final = "127.0.0.1"
FAULTS: Final = ("busy", "refused", "lost", "half")
"""Throttled; connection reset before the request took effect; reset after it; answer truncated."""


@dataclass
class Faulty:
    """The proxy, as a context manager; clients use ``url``."""

    upstream: str
    """URL of the real server."""
    rate: float = 0
    """Share of requests that fail, 0 to 1."""
    latency: float = 0
    """Longest delay of a request, seconds."""
    seed: int = 1

    def __post_init__(self) -> None:
        self.seen: Counter[str] = Counter()
        """Counts of injected faults, and of statuses and problem codes from upstream."""
        self._draw = Random(self.seed)
        self._lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            def draw(self) -> tuple[str, float]:
                return proxy.draw()

            def note(self, what: str) -> None:
                proxy.note(what)

        Handler.upstream = urlsplit(self.upstream).netloc
        self._server = _Server((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self._server.server_port}"

    def draw(self) -> tuple[str, float]:
        """The next request's fault ("" for none) and its delay in seconds."""
        with self._lock:
            fault, share, wait = self._draw.choice(FAULTS), self._draw.random(), self._draw.random()
        return (fault if share < self.rate else ""), self.latency * wait

    def note(self, what: str) -> None:
        with self._lock:
            self.seen[what] += 1

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Ignore broken connections: the proxy breaks them itself."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream = ""

    def draw(self) -> tuple[str, float]:
        raise NotImplementedError

    def note(self, what: str) -> None:
        raise NotImplementedError

    def _proxy(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        fault, wait = self.draw()
        time.sleep(wait)
        if fault:
            self.note(fault)
        if fault == "refused":
            self._reset()
            return
        answer = self._busy() if fault == "busy" else self._ask(body)
        if fault == "lost":
            self._reset()
            return
        self._answer(answer, half=fault == "half")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _proxy  # noqa: N815 - http.server's names

    def _busy(self) -> Answer:
        if self.headers.get("X-Amz-Target"):
            return dynamodb_error(400, "ProvisionedThroughputExceededException")
        return s3_error(503, "SlowDown")

    def _ask(self, body: bytes) -> Answer:
        connection = HTTPConnection(self.upstream, timeout=300)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                # Keep the host header: it is signed.
                if name.lower() not in {"connection", "transfer-encoding", "expect"}:
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, HTTPException):
            self.note("no answer")
            return Answer("502 Bad Gateway", [], b"")
        finally:
            connection.close()
        problem = answer.getheader("Content-Type") == "application/problem+json"
        code = json.loads(content)["code"] if problem else ""
        self.note(f"{answer.status} {code}".strip())
        return Answer(f"{answer.status} {answer.reason}", answer.getheaders(), content)

    def _answer(self, answer: Answer, *, half: bool) -> None:
        status, _, reason = answer.status.partition(" ")
        named = {name.lower(): value for name, value in answer.headers}
        length = named.get("content-length") if self.command == "HEAD" else str(len(answer.body))
        self.send_response_only(int(status), reason)
        for name, value in answer.headers:
            if name.lower() not in {"connection", "content-length", "transfer-encoding"}:
                self.send_header(name, value)
        if length is not None and status != "204":
            self.send_header("Content-Length", length)
        self.end_headers()
        if half:
            self.wfile.write(answer.body[: len(answer.body) // 2])
            self._reset()
        else:
            self.wfile.write(answer.body)

    def _reset(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        # Close with RST instead of FIN.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""
