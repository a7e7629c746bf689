"""The client under test, the local server in a process of its own, and a front before it.

The front records every request on its way, and can refuse it, damage it or drop the connection.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from threading import Condition
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio.lowlevel

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

SESSIONS = "/api/upload/sessions"
BATCH = re.compile(SESSIONS + "/[0-9a-f]{32}/batches/([0-9]+)")


@dataclass
class Seen:
    """A request, and how it was answered; 0 where it was not."""

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
        """The number of the batch, where it is one."""
        found = BATCH.fullmatch(self.path) if self.method == "PUT" else None
        return int(found[1]) if found else None


@dataclass(frozen=True)
class Said:
    """An answer of the front's own."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""
    """Instead of the body, as it is."""


class DroppedError(OSError):
    """The connection ends without an answer: so the server does with an OSError."""


class Front:
    """A proxy before the service, as a WSGI application."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.seen: list[Seen] = []
        self.rule: Callable[[Seen], Said | None] = lambda _: None
        self.after: Callable[[Seen], None] = lambda _: None
        self._running = 0
        self._change = Condition()

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        """Pass a request on, unless the rule says otherwise."""
        seen = Seen(
            environ["REQUEST_METHOD"],
            environ["RAW_URI"],
            environ.get("HTTP_AUTHORIZATION", ""),
            environ["wsgi.input"].read(),
            environ.get("HTTP_IDEMPOTENCY_KEY", ""),
        )
        with self._change:
            self.seen.append(seen)
            self._running += 1
        try:
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
        finally:
            with self._change:
                self._running -= 1
                self._change.notify_all()
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
        """Wait until nothing is under way."""
        with self._change:
            assert self._change.wait_for(lambda: not self._running, timeout=300)

    def batches(self) -> list[int]:
        """The batches that were stored, as often as they were."""
        return [n for seen in self.seen if seen.status == 204 and (n := seen.seq_num) is not None]


def lines(count: int) -> list[bytes]:
    """Records that no JSON library would write like this again."""
    return [b'{"id": %d, "price":1.0,"note":"caf\\u00e9"}' % (2**60 + i) for i in range(count)]


def written(path: Path, records: Sequence[bytes]) -> Path:
    path.write_bytes(b"".join(record + b"\n" for record in records))
    return path


def gapless_command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "gapless", *map(str, arguments)]


async def no_pause(_: float) -> None:
    """In place of a sleep."""
    await anyio.lowlevel.checkpoint()


def run(*arguments: object, expect: int = 0, stdin: bytes = b"") -> tuple[str, str]:
    """Run the command; returns its standard output and standard error."""
    done = subprocess.run(
        gapless_command(*arguments), input=stdin, capture_output=True, timeout=300, check=False
    )
    assert done.returncode == expect, (done.returncode, done.stdout, done.stderr)
    return done.stdout.decode(), done.stderr.decode()


def merged(name: object = "in.ndjson") -> bytes:
    """The merged object, as the command downloads it."""
    run("download", name, "-o", "merged.out")
    return Path("merged.out").read_bytes()


def begin(front: Front, file: Path, *options: object) -> None:
    """Begin an upload that stops after some batches."""
    front.rule = lambda seen: Said(403, {"message": "Forbidden"}) if seen.seq_num == 4 else None
    run("upload", file, "--batch-size", 10, "--parallel", 1, *options, expect=6)
    front.rule = lambda _: None
    front.seen.clear()
