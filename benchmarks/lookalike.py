"""A stand-in for S3 and DynamoDB that holds no data, so that the client is what is measured.

    python -m benchmarks.lookalike BATCHES BYTES READ_MS WRITE_MS

Any session has ``BATCHES`` batches of ``BYTES`` bytes, one record each; every 1,000th is missing
from a session whose id begins with f. Reads are answered from one buffer and writes are thrown
away, each after so many milliseconds, as the network would take; but the plan of a long merge is
kept, and which parts were written. DynamoDB knows any session, which is open to a read and moves
where a write says. Prints its port. One process, one thread: about 6,000 reads/s of 100 KB.
"""

import asyncio
import json
import sys
import zlib
from typing import Any, Final, Protocol
from urllib.parse import parse_qs, unquote

PAGE: Final = 1_000
RECORD_EDGE: Final = 3
"""Quotes and line end around a record."""
ETAG: Final = '"00000000000000000000000000000000"'
NOT_FOUND: Final = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


class Service(Protocol):
    """What answers requests."""

    keeps: int
    """Of requests up to so many bytes it is given the body."""

    def answer(self, method: str, target: str, head: bytes, body: bytes) -> tuple[float, bytes]:
        """The seconds to wait, and the answer."""


class LookAlike:
    """What is asked for, and what is answered."""

    # Parts are thrown away; what is small may be needed.
    keeps = 2**20

    def __init__(self, batches: int, size: int, read_ms: float, write_ms: float) -> None:
        self.batches = batches
        content = b'"' + b"x" * (size - RECORD_EDGE) + b'"\n'
        self.size = size
        self.read = read_ms / 1000
        self.write = write_ms / 1000
        about = (
            f"ETag: {ETAG}\r\nLast-Modified: Mon, 23 Nov 2026 00:00:00 GMT\r\n"
            f"x-amz-meta-records: 1\r\nx-amz-meta-sha256: {'0' * 64}\r\n"
            f"x-amz-meta-crc32: {zlib.crc32(content):08x}\r\n"
        ).encode()
        self.batch = response(content, about)
        self.batch_head = response(b"", about + f"Content-Length: {size}\r\n".encode())
        self.kept: dict[str, bytes] = {}
        self.parts: set[int] = set()
        self.calls = 0

    def answer(  # noqa: C901, PLR0912 - one line for each call
        self,
        method: str,
        target: str,
        head: bytes,
        body: bytes,
    ) -> tuple[float, bytes]:
        """The seconds to wait, and the answer."""
        path, _, query = target.partition("?")
        self.calls += 1
        match method:
            case "GET" if path == "/calls":
                calls, self.calls = self.calls - 1, 0
                return 0, response(str(calls).encode())
            case "GET" if "list-type=2" in query:
                return self.read, self.page(parse_qs(query))
            case "GET" if "uploadId" in query:
                return self.read, self.part_list(parse_qs(query))
            case "GET" if "/merges/" in path:
                kept = f"ETag: {ETAG}\r\nLast-Modified: Mon, 23 Nov 2026 00:00:00 GMT\r\n"
                return self.read, response(self.kept[path], kept.encode())
            case "GET" if query.startswith("uploads"):
                return self.read, response(b"<ListMultipartUploadsResult/>")
            case "GET":
                return self.read, self.batch
            case "HEAD":
                return self.read, NOT_FOUND if path.endswith("json") else self.batch_head
            case "POST" if path == "/":
                return self.write, self.item(json.loads(body))
            case "POST" if query.startswith("uploads"):
                self.parts.clear()
                return self.write, response(
                    b"<InitiateMultipartUploadResult><UploadId>1</UploadId>"
                    b"</InitiateMultipartUploadResult>"
                )
            case "POST":
                return self.write, response(
                    b"<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>"
                )
        if "/merges/" in path:
            self.kept[path] = body
        if number := parse_qs(query).get("partNumber"):
            self.parts.add(int(number[0]))
            if b"\r\nx-amz-copy-source:" in head.lower():
                return self.write, response(
                    f"<CopyPartResult><ETag>{ETAG}</ETag></CopyPartResult>".encode()
                )
        return self.write, response(b"", f"ETag: {ETAG}\r\n".encode())

    def page(self, query: dict[str, list[str]]) -> bytes:
        """A page of the listing."""
        prefix = unquote(query["prefix"][0])
        first = 0
        if after := query.get("start-after"):
            first = int(after[0][-8:]) + 1
        if token := query.get("continuation-token"):
            first = int(token[0])
        holes = prefix.startswith("f")
        numbers: list[int] = []
        while len(numbers) < PAGE and first < self.batches:
            if not (holes and first % PAGE == 0):
                numbers.append(first)
            first += 1
        entries = "".join(
            f"<Contents><Key>{prefix}{n:08d}</Key><Size>{self.size}</Size>"
            f"<ETag>{ETAG}</ETag><LastModified>2026-11-23T00:00:00.000Z</LastModified></Contents>"
            for n in numbers
        )
        more = (
            f"<IsTruncated>true</IsTruncated><NextContinuationToken>{first}</NextContinuationToken>"
            if first < self.batches
            else "<IsTruncated>false</IsTruncated>"
        )
        return response(f"<ListBucketResult>{more}{entries}</ListBucketResult>".encode())

    def part_list(self, query: dict[str, list[str]]) -> bytes:
        """A page of the parts that were written."""
        after = int(query.get("part-number-marker", ["0"])[0])
        parts = sorted(part for part in self.parts if part > after)
        page = parts[:PAGE]
        entries = "".join(
            f"<Part><PartNumber>{n}</PartNumber><ETag>{ETAG}</ETag></Part>" for n in page
        )
        more = "true" if len(parts) > PAGE else "false"
        marker = page[-1] if page else 0
        return response(
            f"<ListPartsResult><IsTruncated>{more}</IsTruncated>"
            f"<NextPartNumberMarker>{marker}</NextPartNumberMarker>{entries}"
            "</ListPartsResult>".encode()
        )

    def item(self, request: dict[str, Any]) -> bytes:
        """The session: open to a read; a write, by a first attempt, moves it as it says."""
        update = request.get("UpdateExpression", "")
        item = {
            "sessionId": request["Key"]["sessionId"],
            "owner": {"S": "anybody"},
            "totalRecord": {"N": str(self.batches)},
            "createdAt": {"N": "0"},
            "expiresAt": {"N": "99999999999"},
            "attempt": {"N": "1"},
        }
        if not update:
            item |= {"state": {"S": "OPEN"}, "batchSize": {"N": "1"}}
            return response(json.dumps({"Item": item}).encode())
        values = request["ExpressionAttributeValues"]
        item["state"] = values[update.partition("#state = ")[2].partition(",")[0]]
        if ":result" in values:
            item["result"] = values[":result"]
        return response(json.dumps({"Attributes": item}).encode())


def response(content: bytes, headers: bytes = b"") -> bytes:
    """A 200. The length of an empty content may be another one's: that of an answer to HEAD."""
    if b"Content-Length" not in headers:
        headers += f"Content-Length: {len(content)}\r\n".encode()
    return b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n" + content


class Connection(asyncio.Protocol):
    """One connection: a request at a time."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.transport: asyncio.Transport
        self.head = b""
        self.body = bytearray()
        self.missing = 0
        self.keep = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Take what has come of a request, and answer it once it is whole."""
        if self.missing:
            self.take(data)
            return
        self.head += data
        head, found, rest = self.head.partition(b"\r\n\r\n")
        if found:
            self.head = head
            fields = head.lower()
            at = fields.find(b"\r\ncontent-length:")
            length = int(fields[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            self.keep = length < self.service.keeps
            self.body = bytearray()
            self.missing = length
            if length and b"\r\nexpect:" in fields:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.take(rest)

    def take(self, data: bytes) -> None:
        """Take a piece of a body."""
        self.missing -= len(data)
        if self.keep:
            self.body += data
        if self.missing == 0:
            head, self.head = self.head, b""
            method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
            wait, answer = self.service.answer(method, target, head, bytes(self.body))
            if wait:
                asyncio.get_running_loop().call_later(wait, self.transport.write, answer)
            else:
                self.transport.write(answer)


async def serve(service: Service) -> None:
    """Print a port, and serve there until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(service), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    _batches, _size, _read_ms, _write_ms = map(float, sys.argv[1:])
    asyncio.run(serve(LookAlike(int(_batches), int(_size), _read_ms, _write_ms)))
