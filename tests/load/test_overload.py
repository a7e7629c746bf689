"""With a service that refuses two requests of five, the client slows down and loses nothing.

client/tests/test_client_uploads.py tests single refusals, their pauses, and the end of patience.
"""

import json
from collections import Counter
from collections.abc import Iterable
from threading import Lock
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

import gapless
from local.gateway import wsgi
from local.server import Server
from tests.conftest import MotoStack

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PROBLEM = {
    "type": "urn:gapless:error:storage_busy",
    "title": "The storage is busy.",
    "status": 503,
    "code": "storage_busy",
    "detail": "Wait for Retry-After and send it again.",
}
REFUSALS: list[tuple[str, dict[str, Any], list[tuple[str, str]]]] = [
    ("429 Too Many Requests", {"message": "Too Many Requests"}, []),
    ("429 Too Many Requests", {"message": "Too Many Requests"}, [("Retry-After", "1")]),
    ("503 Service Unavailable", {"message": "Service Unavailable"}, []),
    ("503 Service Unavailable", PROBLEM, [("Retry-After", "2")]),
]


class Crowded:
    """Refuses two requests of five, in every known form; one of the two takes effect first."""

    def __init__(self, app: "WSGIApplication") -> None:
        self._app = app
        self._lock = Lock()
        self.seen: Counter[str] = Counter()

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        with self._lock:
            self.seen["requests"] += 1
            turn, number = self.seen["requests"] % 5, self.seen["requests"] // 5
        answer = self._app(environ, start_response) if turn != 1 else []
        if turn > 1:
            return answer
        status, body, headers = REFUSALS[number % len(REFUSALS)]
        with self._lock:
            self.seen[status] += 1
            self.seen["done, but refused"] += turn == 0
        start_response(status, [("Content-Type", "application/json"), *headers])
        return [json.dumps(body).encode()]


def test_overload(local: MotoStack, capsys: pytest.CaptureFixture[str]) -> None:
    crowded = Crowded(wsgi(local.gateway))
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await anyio.lowlevel.checkpoint()

    records = [b'{"n":%d,"x":1.0}' % n for n in range(4_000)]
    with Server(crowded) as server:
        result = gapless.upload(
            records, server.url, batch_size=10, parallel=64, sleep=sleep, patience=1e9
        )
    assert local.merged(result.session_id) == b"".join(line + b"\n" for line in records)
    seen = crowded.seen
    with capsys.disabled():
        print(f"\noverload: 400 batches, {dict(seen)}, {len(pauses)} pauses; lost 0")
    assert min(seen["429 Too Many Requests"], seen["503 Service Unavailable"]) > 20
    assert seen["done, but refused"] > 20
    # One pause per refusal: no retry without a pause, and no pause without a retry.
    assert len(pauses) == seen["429 Too Many Requests"] + seen["503 Service Unavailable"]
