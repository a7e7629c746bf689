"""A fast stand-in for S3 and DynamoDB in memory, so that measurements show the caller's speed.

    python -m tests.stand_in [BATCHES BYTES READ_MS WRITE_MS [CONTENT_BYTES]]

It prints its port. It knows as much of S3 as Gapless, boto3 and tus need, and of DynamoDB as a
session's moves need. Only S3's conditions are checked. moto, on which the tests run, is complete
but 50 times slower.

With arguments, every session has BATCHES equal batches of one record and BYTES bytes, and writes
are thrown away, so that no size needs memory. Each read and write takes that many milliseconds, as
on a network. With CONTENT_BYTES the batches claim to be compressed, from that many bytes of NDJSON.
"""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote
from urllib.request import urlopen
from zlib import crc32

PAGE: Final = 1_000
CHUNK: Final = 128 * 1024
"""Bytes received at once, of what is not kept."""
DATE: Final = "Mon, 23 Nov 2026 00:00:00 GMT"
ISO_DATE: Final = "2026-11-23T00:00:00.000Z"


Content = bytes | bytearray
Answer = list[Content]
"""What is written for a request: the head, and the pieces of the content."""


class Object(NamedTuple):
    """An object: its pieces, and the headers to return with it."""

    pieces: list[Content]
    size: int
    etag: str
    headers: str


class Upload(NamedTuple):
    headers: str
    parts: dict[int, Object]


class Store:
    """The contents, and the answer to every request."""

    keeps = 2**40
    """Bodies up to this size are passed on; of larger ones only the length counts."""

    def __init__(self, read_ms: float = 0, write_ms: float = 0) -> None:
        self.read_seconds = read_ms / 1000
        self.write_seconds = write_ms / 1000
        self.counts = {"/calls": 0, "/connections": 0}
        self.objects: dict[str, Object] = {}
        self.uploads: dict[str, Upload] = {}
        self.items: dict[str, dict[str, Any]] = {}
        self.made = 0

    def answer(self, method: str, target: str, head: bytes, body: Content) -> tuple[float, Answer]:
        """Return the seconds to wait, and the answer."""
        if target in self.counts:
            count, self.counts[target] = self.counts[target], 0
            return 0, reply(200, "", str(count).encode())
        self.counts["/calls"] += 1
        seconds = self.read_seconds if method in {"GET", "HEAD"} else self.write_seconds
        return seconds, self.respond(method, target, head, body)

    def respond(self, method: str, target: str, head: bytes, body: Content) -> Answer:
        path, _, raw_query = target.partition("?")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (
                line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:]
            )
        }
        if "x-amz-target" in headers:
            return self.table(headers["x-amz-target"].partition(".")[2], json.loads(body))
        query = {
            name: values[0] for name, values in parse_qs(raw_query, keep_blank_values=True).items()
        }
        if "aws-chunked" in headers.get("content-encoding", ""):
            body = unchunked(body)
        key = unquote(path)
        if "uploads" in query or "uploadId" in query:
            return self.multipart(method, key, query, headers, body)
        if "list-type" in query:
            return self.page(key.rstrip("/") + "/", query)
        return self.object(method, key, headers, body)

    def new(self, pieces: list[Content], headers: str = "") -> Object:
        """Make an object with a new ETag."""
        self.made += 1
        return Object(pieces, sum(map(len, pieces)), f'"{self.made:032x}"', headers)

    def object(self, method: str, key: str, headers: dict[str, str], body: Content) -> Answer:
        found = self.found(key)
        if method == "PUT":
            if found and headers.get("if-none-match") == "*":
                return error(412, "PreconditionFailed")
            self.objects[key] = made = self.new([body], kept(headers))
            return reply(200, f"ETag: {made.etag}\r\n")
        if method == "DELETE":
            self.objects.pop(key, None)
            return reply(204)
        if not found:
            return error(404, "NoSuchKey", head=method == "HEAD")
        if headers.get("if-match", found.etag) != found.etag:
            return error(412, "PreconditionFailed")
        about = f"ETag: {found.etag}\r\nLast-Modified: {DATE}\r\n{found.headers}"
        if method == "HEAD":
            return reply(200, about, length=found.size)
        return reply(200, about, *found.pieces)

    def multipart(
        self, method: str, key: str, query: dict[str, str], headers: dict[str, str], body: Content
    ) -> Answer:
        if "uploads" in query:
            if method == "GET":
                return reply(200, "", b"<ListMultipartUploadsResult/>")
            self.made += 1
            self.uploads[str(self.made)] = Upload(kept(headers), {})
            return xml("InitiateMultipartUploadResult", f"<UploadId>{self.made}</UploadId>")
        upload_id = query["uploadId"]
        if upload_id not in self.uploads:
            return error(404, "NoSuchUpload")
        upload = self.uploads[upload_id]
        match method:
            case "PUT":
                pieces: list[Content] = [body]
                if source := headers.get("x-amz-copy-source"):
                    copied = self.found("/" + unquote(source).lstrip("/"))
                    assert copied
                    pieces = copied.pieces
                part = upload.parts[int(query["partNumber"])] = self.new(pieces)
                if source:
                    return xml("CopyPartResult", f"<ETag>{part.etag}</ETag>")
                return reply(200, f"ETag: {part.etag}\r\n")
            case "GET":
                after = int(query.get("part-number-marker") or 0)
                return part_list(
                    [(n, part) for n, part in sorted(upload.parts.items()) if n > after]
                )
            case "DELETE":
                del self.uploads[upload_id]
                return reply(204)
        if self.found(key) and headers.get("if-none-match") == "*":
            return error(412, "PreconditionFailed")
        del self.uploads[upload_id]
        numbers = map(int, re.findall(rb"<PartNumber>(\d+)</PartNumber>", body))
        pieces = [piece for number in numbers for piece in upload.parts[number].pieces]
        self.objects[key] = made = self.new(pieces, upload.headers)
        return xml("CompleteMultipartUploadResult", f"<ETag>{made.etag}</ETag>")

    def page(self, bucket: str, query: dict[str, str]) -> Answer:
        """Answer with a page of a listing."""
        after = query.get("continuation-token") or query.get("start-after", "")
        found = self.listed(bucket + query.get("prefix", ""), bucket + after)
        page = [(key.removeprefix(bucket), entry) for key, entry in found[:PAGE]]
        entries = "".join(
            f"<Contents><Key>{key}</Key><Size>{entry.size}</Size>"
            f"<ETag>{entry.etag}</ETag><LastModified>{ISO_DATE}</LastModified></Contents>"
            for key, entry in page
        )
        more = "<IsTruncated>false</IsTruncated>"
        if len(found) > PAGE:
            more = (
                "<IsTruncated>true</IsTruncated>"
                f"<NextContinuationToken>{page[-1][0]}</NextContinuationToken>"
            )
        return xml("ListBucketResult", f"<KeyCount>{len(page)}</KeyCount>{more}{entries}")

    def found(self, key: str) -> Object | None:
        """The object under a key, or None."""
        return self.objects.get(key)

    def listed(self, prefix: str, after: str) -> list[tuple[str, Object]]:
        """The objects under a prefix after a key: a page, plus one if there are more."""
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key > after)
        return [(key, self.objects[key]) for key in keys[: PAGE + 1]]

    def table(self, operation: str, request: dict[str, Any]) -> Answer:
        if operation == "PutItem":
            item = request["Item"]
            self.items[item["sessionId"]["S"]] = item
            return reply(200, "", b"{}")
        item = self.items.get(request["Key"]["sessionId"]["S"], {})
        if operation == "GetItem":
            return reply(200, "", json.dumps({"Item": item} if item else {}).encode())
        values = request["ExpressionAttributeValues"]
        update = request["UpdateExpression"].partition(" REMOVE ")[0]
        for name, value in re.findall(r"#?(\w+) = (:\w+)", update):
            item[name] = values[value]
        if ":one" in values:
            item["attempt"] = {"N": str(int(item["attempt"]["N"]) + 1)}
        return reply(200, "", json.dumps({"Attributes": item}).encode())


class Batches(Store):
    """The same batches in every session; writes are thrown away."""

    keeps = 2**16

    def __init__(
        self, batches: float, size: float, read_ms: float, write_ms: float, content_size: float = 0
    ) -> None:
        super().__init__(read_ms, write_ms)
        self.batches = int(batches)
        content = b'"' + b"x" * (int(size) - 3) + b'"\n'
        sums = f"x-amz-meta-crc32: {crc32(content):08x}\r\n"
        if content_size:
            sums = (
                f"x-amz-meta-stored-crc32: {crc32(content):08x}\r\n"
                f"x-amz-meta-content-crc32: {0:08x}\r\n"
                f"x-amz-meta-content-bytes: {int(content_size)}\r\n"
            )
        self.batch = self.new(
            [content], f"x-amz-meta-records: 1\r\nx-amz-meta-sha256: {'0' * 64}\r\n{sums}"
        )

    def found(self, key: str) -> Object | None:
        """Every batch exists; no merged object or manifest does."""
        return None if "." in key else self.batch

    def listed(self, prefix: str, after: str) -> list[tuple[str, Object]]:
        first = int(after[-8:]) + 1 if after > prefix else 0
        numbers = range(first, min(first + PAGE + 1, self.batches))
        return [(f"{prefix}{n:08d}", self.batch) for n in numbers]


def kept(headers: dict[str, str]) -> str:
    """The request headers that are stored with an object."""
    return "".join(
        f"{name}: {value}\r\n"
        for name, value in headers.items()
        if name.startswith("x-amz-meta-") or name == "content-type"
    )


def part_list(parts: list[tuple[int, Object]]) -> Answer:
    """A page of an upload's parts."""
    page = parts[:PAGE]
    entries = "".join(
        f"<Part><PartNumber>{n}</PartNumber><ETag>{part.etag}</ETag><Size>{part.size}</Size></Part>"
        for n, part in page
    )
    return xml(
        "ListPartsResult",
        f"<IsTruncated>{'true' if len(parts) > PAGE else 'false'}</IsTruncated>"
        f"<NextPartNumberMarker>{page[-1][0] if page else 0}</NextPartNumberMarker>{entries}",
    )


def unchunked(body: Content) -> bytes:
    """The content of a body in aws-chunked encoding."""
    pieces = []
    while body:
        line, _, rest = body.partition(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        if not size:
            break
        pieces.append(rest[:size])
        body = rest[size + 2 :]
    return b"".join(pieces)


def reply(status: int, headers: str = "", *content: Content, length: int | None = None) -> Answer:
    """A response; ``length`` is the content's length in an answer to HEAD."""
    found = sum(map(len, content)) if length is None else length
    size = "" if status == 204 else f"Content-Length: {found}\r\n"
    return [f"HTTP/1.1 {status} .\r\n{size}{headers}\r\n".encode(), *content]


def xml(name: str, content: str) -> Answer:
    return reply(200, "Content-Type: application/xml\r\n", f"<{name}>{content}</{name}>".encode())


def error(status: int, code: str, *, head: bool = False) -> Answer:
    content = "" if head else f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
    return reply(status, "Content-Type: application/xml\r\n", content.encode())


class Connection(asyncio.BufferedProtocol):
    """A connection, which handles one request at a time. A body is received where it stays."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.transport: asyncio.Transport
        self.received = bytearray(CHUNK)
        self.head = b""
        self.body = bytearray()
        self.missing = 0
        self.keep = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.store.counts["/connections"] += 1

    def get_buffer(self, _: int) -> memoryview | bytearray:
        """Where the next bytes go."""
        if self.missing and self.keep:
            return memoryview(self.body)[-self.missing :]
        return self.received

    def buffer_updated(self, count: int) -> None:
        """Collect a request, and answer it once it is complete."""
        if self.missing:
            self.missing -= count
            if not self.missing:
                self.answer()
            return
        self.head += self.received[:count]
        head, found, rest = self.head.partition(b"\r\n\r\n")
        if found:
            self.head = head
            fields = head.lower()
            at = fields.find(b"\r\ncontent-length:")
            length = int(fields[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            self.keep = length < self.store.keeps
            self.body = bytearray(length if self.keep else 0)
            if self.keep:
                self.body[: len(rest)] = rest
            self.missing = length - len(rest)
            if length and b"\r\nexpect:" in fields:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if not self.missing:
                self.answer()

    def answer(self) -> None:
        """Answer a complete request."""
        head, self.head = self.head, b""
        body, self.body = self.body, bytearray()
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        wait, answer = self.store.answer(method, target, head, body)
        if wait:
            asyncio.get_running_loop().call_later(wait, self.transport.writelines, answer)
        else:
            self.transport.writelines(answer)


@dataclass(frozen=True)
class Running:
    """A stand-in in its own process."""

    url: str
    pid: int

    def calls(self) -> int:
        """The number of calls since this was last asked."""
        return self._count("calls")

    def connections(self) -> int:
        """The number of connections opened since this was last asked."""
        # This one's own is not counted.
        return self._count("connections") - 1

    def _count(self, what: str) -> int:
        with urlopen(f"{self.url}/{what}") as answer:
            return int(answer.read())


@contextmanager
def serve(*case: float) -> Iterator[Running]:
    """Run a stand-in with these arguments of the command line, inside the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.stand_in", *map(str, case)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield Running(f"http://127.0.0.1:{process.stdout.readline().strip()}", process.pid)
        finally:
            process.terminate()


async def main() -> None:
    """Print the port, and serve until the process ends."""
    store = Batches(*map(float, sys.argv[1:])) if len(sys.argv) > 1 else Store()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(store), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
