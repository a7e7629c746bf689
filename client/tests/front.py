"""Helpers: run the client under test, and the front, a proxy between it and the local service.

The front records every request, and can refuse it, change it or drop the connection.
"""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio.lowlevel

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

SESSIONS = "/api/upload/sessions"
BATCH = re.compile(SESSIONS + "/[0-9a-f]{32}/batches/([0-9]+)")


@dataclass
class Seen:
    """A request and its response; status 0 if there was none."""

    method: str
    path: str
    authorization: str
    body: bytes
    key: str = ""
    """Idempotency-Key."""
    answer: bytes = b""
    status: int = 0

    @property
    def seq_num(self) -> int | None:
        """The ``seqNum`` if the request is a batch."""
        found = BATCH.fullmatch(self.path) if self.method == "PUT" else None
        return int(found[1]) if found else None


@dataclass(frozen=True)
class Said:
    """A response of the front itself."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""
    """Sent unchanged instead of ``body``."""


class DroppedError(OSError):
    """Drops the connection without a response, as the server does after an OSError."""


class Front:
    """A proxy in front of the service, as a WSGI application.

    ``rule`` may return a response instead of the service's; ``after`` sees the response.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.url = ""
        """Its own, when it is served."""
        self.seen: list[Seen] = []
        self.rule: Callable[[Seen], Said | None] = lambda _: None
        self.after: Callable[[Seen], None] = lambda _: None
        self._others = set(threading.enumerate())

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        """Forward a request, unless ``rule`` returns a response."""
        if environ["RAW_URI"] == "/quiet":
            start_response("204 No Content", [("Connection", "close")])
            return []
        seen = Seen(
            environ["REQUEST_METHOD"],
            environ["RAW_URI"],
            environ.get("HTTP_AUTHORIZATION", ""),
            environ["wsgi.input"].read(),
            environ.get("HTTP_IDEMPOTENCY_KEY", ""),
        )
        self.seen.append(seen)
        said = self.rule(seen)
        if said is not None:
            named = {"Content-Type": "application/json", **said.headers}
            seen.status, headers = said.status, [*named.items()]
            body = (said.text or json.dumps(said.body)).encode()
            if said.status == HTTPStatus.NO_CONTENT:
                body = b""
        else:
            seen.status, headers, body = self._pass_on(seen, environ)
        seen.answer = body
        self.after(seen)
        start_response(f"{seen.status} {HTTPStatus(seen.status).phrase}", headers)
        return [body]

    def _pass_on(
        self, seen: Seen, environ: "WSGIEnvironment"
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        names = (
            "CONTENT_TYPE",
            "HTTP_CONTENT_ENCODING",
            "HTTP_CONTENT_DIGEST",
            "HTTP_ACCEPT",
            "HTTP_ACCEPT_ENCODING",
            "HTTP_AUTHORIZATION",
            "HTTP_IDEMPOTENCY_KEY",
        )
        headers = {
            name.removeprefix("HTTP_").replace("_", "-"): environ[name]
            for name in names
            if environ.get(name)
        }
        connection = HTTPConnection(self.upstream, timeout=300)
        connection.request(seen.method, seen.path, seen.body or None, headers)
        response = connection.getresponse()
        kept = {"content-type", "retry-after", "location"}
        answered = [(name, value) for name, value in response.getheaders() if name.lower() in kept]
        body = response.read()
        connection.close()
        return response.status, answered, body

    def quiet(self) -> None:
        """Wait until every request of a process that has ended is handled.

        Also of those that have arrived and were not read yet.
        """
        # Connections are accepted in order: after this one there are threads for all before it.
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=300)
        connection.request("GET", "/quiet")
        connection.getresponse().close()
        connection.close()
        for thread in set(threading.enumerate()) - self._others:
            if "process_request_thread" in thread.name:
                thread.join(300)
                assert not thread.is_alive()

    def batches(self) -> list[int]:
        """The ``seqNum`` of each 204, with repetitions."""
        return [n for seen in self.seen if seen.status == 204 and (n := seen.seq_num) is not None]


def lines(count: int) -> list[bytes]:
    """Records that change if a JSON library parses and formats them."""
    return [b'{"id": %d, "price":1.0,"note":"caf\\u00e9"}' % (2**60 + i) for i in range(count)]


def written(path: Path, records: Sequence[bytes]) -> Path:
    path.write_bytes(b"".join(record + b"\n" for record in records))
    return path


def gapless_command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "gapless", *map(str, arguments)]


async def no_pause(_: float) -> None:
    """A sleep that takes no time."""
    await anyio.lowlevel.checkpoint()


def run(*arguments: object, expect: int = 0, stdin: bytes = b"") -> tuple[str, str]:
    """Run the command; returns its standard output and standard error."""
    done = subprocess.run(
        gapless_command(*arguments), input=stdin, capture_output=True, timeout=300, check=False
    )
    assert done.returncode == expect, (done.returncode, done.stdout, done.stderr)
    return done.stdout.decode(), done.stderr.decode()


def merged(name: object = "in.ndjson") -> bytes:
    """The merged object, downloaded by the command."""
    run("download", name, "-o", "merged.out")
    return Path("merged.out").read_bytes()


def begin(front: Front, file: Path, *options: object) -> None:
    """Start an upload that stops before batch 4."""
    front.rule = lambda seen: Said(403, {"message": "Forbidden"}) if seen.seq_num == 4 else None
    run("upload", file, "--batch-size", 10, "--parallel", 1, *options, expect=6)
    front.rule = lambda _: None
    front.seen.clear()
