"""``make demo``: 100,000 records through the API, with three batches lost on the way.

Starts ``python -m local`` on a free port, as anybody would, and talks to it with nothing but
Python's standard library.
"""

import gzip
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import urlsplit

from tqdm import tqdm

RECORDS: Final = 100_000
BATCH_SIZE: Final = 1_000
LOST: Final = 3
SENDERS: Final = 8
SESSIONS: Final = "/api/upload/sessions"
COMPRESSED: Final = {
    "Content-Type": "application/vnd.gapless.batch+json",
    "Content-Encoding": "gzip",
}
MB: Final = 1_000_000


def main() -> None:
    """Show the whole job. Exits with 1 if anything is not as it must be."""
    with TemporaryDirectory() as folder, local_server() as url:
        file = Path(folder) / "orders.ndjson"
        file.write_bytes(b"".join(record + b"\n" for record in orders()))
        lines = file.read_bytes().splitlines()
        batches = [lines[i : i + BATCH_SIZE] for i in range(0, RECORDS, BATCH_SIZE)]
        say("input", describe(file.read_bytes()))

        upload = Upload(Client(url), batches)
        say("session", f"{upload.session_id}, {len(batches)} batches of {BATCH_SIZE:,} records")

        order = random.Random(7).sample(range(len(batches)), len(batches))  # noqa: S311
        lost, arriving = sorted(order[:LOST]), order[LOST:]
        start = time.perf_counter()
        sent = upload.send(arriving)
        rate = len(arriving) * BATCH_SIZE / (time.perf_counter() - start)
        say("sent", f"{len(arriving)} batches, out of order, by {SENDERS} senders at once")
        say("", f"{sent / MB:.1f} MB of gzip, {rate:,.0f} records a second")
        say("lost", f"batches {', '.join(map(str, lost))}, on purpose")

        result = upload.finish()
        say("finish", f"{result['validationResult']}, missing {json.dumps(result['missing'])}")
        check(result["validationResult"] == "Failed", "a finish with gaps must fail")
        missing = [i for gap in result["missing"] for i in range(gap["from"], gap["to"] + 1)]
        check(missing == lost, "the gap report must name exactly what was lost")

        upload.send(missing)
        say("sent", f"the {len(missing)} batches that are missing")

        start = time.perf_counter()
        result = upload.finish()
        say("finish", f"{result['validationResult']}, in {time.perf_counter() - start:.1f} s")
        check(result["validationResult"] == "Success", "a finish without gaps must succeed")

        merged = upload.download()
        say("download", describe(merged))
        check(merged == file.read_bytes(), "the download must be the input, byte for byte")
        say("result", "the download is the input, byte for byte")


@dataclass(frozen=True)
class Answer:
    """What the API says."""

    status: int
    headers: HTTPMessage
    content: bytes

    def json(self) -> Any:  # noqa: ANN401
        """The content's JSON."""
        return json.loads(self.content)


class Client:
    """HTTP to one server, with one open connection for each thread."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url).netloc
        self._thread = threading.local()

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        expect: Sequence[int] = (200,),
    ) -> Answer:
        """Send a request; any status that is not expected ends the demo."""
        if not hasattr(self._thread, "connection"):
            self._thread.connection = HTTPConnection(self._address, timeout=60)
        connection: HTTPConnection = self._thread.connection
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        answer = Answer(response.status, response.headers, response.read())
        check(answer.status in expect, f"{method} {path}: {answer.status} {answer.content!r}")
        return answer


class Upload:
    """A session on its way to one merged object."""

    def __init__(self, client: Client, batches: Sequence[Sequence[bytes]]) -> None:
        self._client = client
        self._batches = batches
        asked = json.dumps({"totalRecord": RECORDS, "batchSize": BATCH_SIZE}).encode()
        created = client.call(
            "POST", SESSIONS, asked, {"Content-Type": "application/json"}, expect=[201]
        )
        self.session_id: str = created.json()["sessionId"]
        self._path = f"{SESSIONS}/{self.session_id}"

    def send(self, seq_nums: Sequence[int]) -> int:
        """Send batches, some at a time; gives the bytes sent."""
        with ThreadPoolExecutor(SENDERS) as senders:
            sizes = senders.map(self._send, seq_nums)
            # No bar is drawn where the output is no terminal.
            bar = tqdm(sizes, total=len(seq_nums), unit=" batches", leave=False, disable=None)
            return sum(bar)

    def _send(self, seq_num: int) -> int:
        # The records go out as they stand in the file: what comes back must be the same bytes.
        data = b",".join(self._batches[seq_num])
        body = gzip.compress(b'{"seqNum":%d,"data":[%b]}' % (seq_num, data), 6)
        self._client.call("POST", self._path, body, COMPRESSED, expect=[204])
        return len(body)

    def finish(self) -> Any:  # noqa: ANN401
        """The result, waited for where the merge takes longer than one request."""
        answer = self._client.call("POST", f"{self._path}/finish", expect=[200, 202])
        if "Retry-After" not in answer.headers:
            return answer.json()
        while True:
            time.sleep(int(answer.headers["Retry-After"]))
            session = self._client.call("GET", self._path).json()
            if session["state"] != "FINISHING":
                return session["finish"]

    def download(self) -> bytes:
        """The merged object, from where the API says it is."""
        answer = self._client.call("GET", f"{self._path}/file", expect=[307])
        link = urlsplit(answer.headers["Location"])
        return Client(link.geturl()).call("GET", f"{link.path}?{link.query}").content


def orders() -> Iterator[bytes]:
    """The orders of a shop as JSON, the same ones every time."""
    chance = random.Random(1)  # noqa: S311
    start = datetime(2025, 1, 1, tzinfo=UTC)
    goods = ["teapot", "café crème", "бумага", "お茶", 'shelf 19"', "emoji 🫖", "C:\\cable"]
    for number in range(RECORDS):
        order = {
            # Larger than what a JavaScript number holds, so any detour through one would show.
            "id": 2**53 + 1 + number,
            "at": (start + timedelta(seconds=number * 7)).isoformat(),
            "lines": [
                {
                    "sku": f"{chance.choice('ABCDEF')}-{chance.randrange(10**6):06d}",
                    "name": chance.choice(goods),
                    "quantity": chance.randint(1, 12),
                    "price": chance.randrange(50, 50_000) / 100,
                }
                for _ in range(chance.choice((1, 1, 1, 2, 3)))
            ],
            "note": None if number % 9 else "please ring\ntwice",
        }
        yield json.dumps(order, ensure_ascii=bool(number % 2), separators=(",", ":")).encode()


@contextmanager
def local_server() -> Iterator[str]:
    """Run ``python -m local``; gives its URL."""
    command = [sys.executable, "-m", "local"]
    environ = {**os.environ, "PORT": "0"}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as server:
        try:
            first_line = server.stdout.readline() if server.stdout else ""
            url = re.search(r"http://\S+", first_line)
            check(url is not None, "the local server must start")
            yield url[0] if url else ""
        finally:
            server.terminate()


def describe(ndjson: bytes) -> str:
    """How much it is, and which."""
    digest = hashlib.sha256(ndjson).hexdigest()
    return f"{len(ndjson.splitlines()):,} records, {len(ndjson) / MB:.1f} MB, SHA-256 {digest}"


def say(what: str, text: str) -> None:
    """Print one step, its name in bold on a terminal."""
    name = f"{what:>8}"
    print(f"\x1b[1m{name}\x1b[0m" if sys.stdout.isatty() else name, text, sep="  ", flush=True)


def check(truth: bool, rule: str) -> None:  # noqa: FBT001
    """End the demo where ``rule`` does not hold."""
    if not truth:
        sys.exit(f"This is wrong: {rule}")


if __name__ == "__main__":
    main()
