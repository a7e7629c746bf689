"""Senders of uploads over HTTP. All they send is made before the clock starts."""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, NamedTuple

from benchmarks import data
from benchmarks.handlers import LINES_MEDIA_TYPE
from benchmarks.processes import Measured, clock

if TYPE_CHECKING:
    from collections.abc import Iterator

Send = Callable[["Request"], bytes]
ROOT: Final = "/api/upload/sessions"
JSON: Final = {"content-type": "application/json"}
COMPRESSED_LINES: Final = {"content-type": LINES_MEDIA_TYPE, "content-encoding": "gzip"}


class Request(NamedTuple):
    """A request; ``path`` follows that of the session."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]


def numbered(template: str, seq_num: int) -> str:
    """The body of a batch, made of the one of batch 0."""
    return template.replace('"seqNum":0', f'"seqNum":{seq_num}', 1)


def compressed_lines(template: str) -> bytes:
    """The records of a batch as NDJSON, compressed as the client compresses."""
    rows = json.loads(template)["data"]
    lines = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    return data.packed(lines.encode())


def posts(template: str, batches: int) -> list[Request]:
    """Batches as JSON."""
    return [
        Request("POST", "", numbered(template, number).encode(), JSON) for number in range(batches)
    ]


def puts(template: str, batches: int) -> list[Request]:
    """The same as compressed NDJSON."""
    content = compressed_lines(template)
    return [
        Request("PUT", f"/batches/{number}", content, COMPRESSED_LINES) for number in range(batches)
    ]


@contextmanager
def connections(port: int, count: int) -> "Iterator[Callable[[Request, str], bytes]]":
    """Yield a function that sends a request to a path, over one of ``count`` connections."""
    idle: SimpleQueue[HTTPConnection] = SimpleQueue()
    opened = [HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(count)]
    for one in opened:
        idle.put(one)

    def send(request: Request, session: str = "") -> bytes:
        connection = idle.get()
        try:
            path = f"{ROOT}{session}{request.path}"
            connection.request(request.method, path, request.body, request.headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            idle.put(connection)
        assert answer.status < 300, content
        return content

    yield send
    for one in opened:
        one.close()


def upload(
    port: int, asked: dict[str, object], batches: Sequence[Request], senders: int
) -> Measured:
    """Upload by several senders; return the seconds, those of finish, and the senders' CPU."""
    with connections(port, senders) as send, ThreadPoolExecutor(senders) as pool:
        started, cpu = clock()
        made = send(Request("POST", "", json.dumps(asked).encode(), JSON), "")
        session = f"/{json.loads(made)['sessionId']}"
        list(pool.map(lambda batch: send(batch, session), batches))
        received = time.perf_counter()
        result = json.loads(send(Request("POST", "/finish", b"{}", JSON), session))
        assert result["validationResult"] == "Success", result
        ended, cpu_after = clock()
    return {
        "seconds": ended - started,
        "receiving": received - started,
        "finish": ended - received,
        "sender cpu": cpu_after - cpu,
    }
