"""A server that answers at once, so that the client is what is measured.

    python -m tests.sink FILE RECORDS

It prints its port. To a Gapless client it is the service, to any other an S3 with path-style
addresses. Bodies are received and thrown away, and every session and object is ``FILE``: what
clients check (records, bytes, checksum) is right if they send ``FILE``.
"""

import base64
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Final
from urllib.request import urlopen

from isal import isal_zlib

ROOT: Final = "/api/upload/sessions"
_BUFFER: Final = 1 << 20
_ETAG: Final = f'ETag: "{"0" * 32}-1"\r\n'
_JSON: Final = "Content-Type: application/json\r\n"
_XML: Final = "Content-Type: application/xml\r\n"
_DATE: Final = "Last-Modified: Mon, 23 Nov 2026 00:00:00 GMT\r\n"
SESSION: Final = "0" * 32


class Sink:
    """The answers, and what was received."""

    def __init__(self, file: Path, records: int, port: int) -> None:
        self._counted = dict.fromkeys(("connections", "requests", "bytes"), 0)
        self._lock = Lock()
        self.file = file
        content = file.read_bytes()
        self.size = len(content)
        crc = base64.b64encode(isal_zlib.crc32(content).to_bytes(4, "big")).decode()
        self._link = {"url": f"http://127.0.0.1:{port}/bucket/object"}
        self._created = {
            "sessionId": SESSION,
            "expiresAt": "2030-01-01T00:00:00Z",
            "limits": {
                "maxBodyBytes": 4_500_000,
                "maxInflatedBytes": 64 * 1024 * 1024,
                "maxSeqNum": 99_999,
            },
        }
        self._result = {
            "sessionId": SESSION,
            "validationResult": "Success",
            "totalRecord": records,
            "receivedRecord": records,
            "batches": 1,
            "bytes": self.size,
            "key": "object",
            "manifest": "manifest",
            "checksum": {"algorithm": "CRC32", "type": "FULL_OBJECT", "value": crc},
        }
        self._status = {
            "sessionId": SESSION,
            "state": "FINISHED",
            "totalRecord": records,
            "batchSize": None,
            "expiresAt": "2030-01-01T00:00:00Z",
            "batches": 1,
            "missing": [],
            "finish": self._result,
        }

    def count(self, size: int, *, connections: int) -> None:
        """Count a request with a body of ``size`` bytes, which may be the first of a connection."""
        with self._lock:
            for name, more in (("connections", connections), ("requests", 1), ("bytes", size)):
                self._counted[name] += more

    def answer(self, method: str, target: str) -> tuple[int, str, bytes]:
        """Status, headers and content of the answer to a request."""
        if target == "/counted":
            with self._lock:
                counted, self._counted = self._counted, dict.fromkeys(self._counted, 0)
            return 200, _JSON, json.dumps(counted).encode()
        path, _, query = target.partition("?")
        if path.startswith(ROOT):
            return self._service(method, path)
        if method == "POST" and "uploads" in query:
            made = b"<InitiateMultipartUploadResult><UploadId>1</UploadId>"
            return 200, _XML, made + b"</InitiateMultipartUploadResult>"
        if method == "POST":
            made = b"<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>"
            return 200, _XML, made
        return 200, _ETAG + _DATE, b""

    def _service(self, method: str, path: str) -> tuple[int, str, bytes]:
        if method == "PUT":
            return 204, "", b""
        created = method == "POST" and path == ROOT
        found: dict[str, Any] = self._status
        if created:
            found = self._created
        elif path.endswith("/finish"):
            found = self._result
        elif path.endswith("/file"):
            found = self._link
        return 201 if created else 200, _JSON, json.dumps(found).encode()


class _Connection:
    def __init__(self, sink: Sink, connection: socket.socket) -> None:
        self._sink = sink
        self._connection = connection
        self._buffer = memoryview(bytearray(_BUFFER))

    def run(self) -> None:
        """Answer request after request, until the client closes the connection."""
        held, is_new = b"", True
        with self._connection:
            while request := self._head(held):
                head, held = request
                fields = head.lower()
                if b"\r\nexpect:" in fields:
                    self._connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                found = re.search(rb"\r\ncontent-length: *([0-9]+)", fields)
                length = int(found[1]) if found else 0
                held = self._body(length, held)
                if not head.startswith(b"GET /counted "):
                    self._sink.count(length, connections=is_new)
                    is_new = False
                self._respond(head, fields)

    def _head(self, held: bytes) -> tuple[bytes, bytes] | None:
        while (end := held.find(b"\r\n\r\n")) < 0:
            block = self._connection.recv(65_536)
            if not block:
                return None
            held += block
        return held[:end], held[end + 4 :]

    def _body(self, missing: int, held: bytes) -> bytes:
        if missing <= len(held):
            return held[missing:]
        missing -= len(held)
        while missing:
            taken = self._connection.recv_into(self._buffer, min(missing, _BUFFER))
            if not taken:
                break
            missing -= taken
        return b""

    def _respond(self, head: bytes, fields: bytes) -> None:
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        if method == "HEAD" or target.startswith("/bucket/object"):
            self._send_file(method, re.search(rb"\r\nrange: *bytes=([0-9]+)-([0-9]*)", fields))
            return
        status, headers, content = self._sink.answer(method, target)
        size = "" if status == 204 else f"Content-Length: {len(content)}\r\n"
        self._connection.sendall(f"HTTP/1.1 {status} .\r\n{size}{headers}\r\n".encode() + content)

    def _send_file(self, method: str, asked: re.Match[bytes] | None) -> None:
        size = self._sink.size
        first = int(asked[1]) if asked else 0
        last = min(int(asked[2] or size), size - 1) if asked else size - 1
        ranged = f"Content-Range: bytes {first}-{last}/{size}\r\n" if asked else ""
        self._connection.sendall(
            f"HTTP/1.1 {206 if asked else 200} .\r\nContent-Length: {last - first + 1}\r\n"
            f"{ranged}{_ETAG}{_DATE}\r\n".encode()
        )
        if method == "GET":
            with self._sink.file.open("rb") as file:
                self._connection.sendfile(file, first, last - first + 1)


@dataclass(frozen=True)
class Running:
    """A sink in its own process."""

    url: str

    def counted(self) -> dict[str, int]:
        """Connections, requests and bytes of bodies since this was last asked."""
        with urlopen(f"{self.url}/counted") as answer:
            found: dict[str, int] = json.loads(answer.read())
        return found


@contextmanager
def serve(file: Path, records: int) -> Iterator[Running]:
    """Run a sink inside the block."""
    command = [sys.executable, "-m", "tests.sink", str(file.resolve()), str(records)]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Running(f"http://127.0.0.1:{process.stdout.readline().strip()}")
        finally:
            process.terminate()


def main() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        port = listener.getsockname()[1]
        sink = Sink(Path(sys.argv[1]), int(sys.argv[2]), port)
        print(port, flush=True)
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            Thread(target=_Connection(sink, connection).run, daemon=True).start()


if __name__ == "__main__":
    main()
