"""A stand-in for S3 that holds no data, so that the client is what is measured.

    python -m benchmarks.lookalike BATCHES BYTES READ_MS WRITE_MS

Any session has ``BATCHES`` batches of ``BYTES`` bytes, one record each. Reads are answered from one
buffer and writes are thrown away, each after so many milliseconds, as the network would take.
Prints its port. One process, one thread: about 3,000 requests/s of 100 KB.
"""

import asyncio
import sys
import zlib
from typing import Final
from urllib.parse import parse_qs, unquote

PAGE: Final = 1_000
RECORD_EDGE: Final = 3
"""Quotes and line end around a record."""


class LookAlike:
    """What is asked for, and what is answered."""

    def __init__(self, batches: int, size: int, read_ms: float, write_ms: float) -> None:
        self.batches = batches
        self.content = b'"' + b"x" * (size - RECORD_EDGE) + b'"\n'
        self.read = read_ms / 1000
        self.write = write_ms / 1000
        self.etag = '"00000000000000000000000000000000"'
        self.about = (
            f"ETag: {self.etag}\r\nLast-Modified: Mon, 23 Nov 2026 00:00:00 GMT\r\n"
            f"x-amz-meta-records: 1\r\nx-amz-meta-sha256: 0\r\n"
            f"x-amz-meta-crc32: {zlib.crc32(self.content):08x}\r\n"
        ).encode()

    def answer(self, method: str, path: str, query: str) -> tuple[float, bytes]:
        """The seconds to wait, and the answer."""
        if method == "GET" and "list-type=2" in query:
            return self.read, self.page(parse_qs(query))
        if method == "GET":
            return self.read, response(self.content, self.about)
        if method == "HEAD" and path.endswith(".ndjson"):
            return self.read, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        if method == "HEAD":
            return self.read, response(b"", self.about)
        if method == "POST" and query.startswith("uploads"):
            return self.write, response(
                b"<InitiateMultipartUploadResult><UploadId>1</UploadId>"
                b"</InitiateMultipartUploadResult>"
            )
        if method == "POST":
            return self.write, response(
                b"<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>"
            )
        return self.write, response(b"", f"ETag: {self.etag}\r\n".encode())

    def page(self, query: dict[str, list[str]]) -> bytes:
        """A page of the listing."""
        prefix = unquote(query["prefix"][0])
        first = 0
        if after := query.get("start-after"):
            first = int(after[0][-8:]) + 1
        if token := query.get("continuation-token"):
            first = int(token[0])
        last = min(first + PAGE, self.batches)
        entries = "".join(
            f"<Contents><Key>{prefix}{n:08d}</Key><Size>{len(self.content)}</Size>"
            f"<ETag>{self.etag}</ETag><LastModified>2026-11-23T00:00:00.000Z</LastModified></Contents>"
            for n in range(first, last)
        )
        more = (
            f"<IsTruncated>true</IsTruncated><NextContinuationToken>{last}</NextContinuationToken>"
            if last < self.batches
            else "<IsTruncated>false</IsTruncated>"
        )
        return response(f"<ListBucketResult>{more}{entries}</ListBucketResult>".encode())


def response(content: bytes, headers: bytes = b"") -> bytes:
    """A 200."""
    length = str(len(content)).encode()
    return b"HTTP/1.1 200 OK\r\n" + headers + b"Content-Length: " + length + b"\r\n\r\n" + content


async def serve(
    look_alike: LookAlike, read: asyncio.StreamReader, write: asyncio.StreamWriter
) -> None:
    """Answer the requests of one connection."""
    try:
        while True:
            head = (await read.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *fields = head.split("\r\n")
            method, target, _ = line.split(" ")
            length = next(
                (int(f[15:]) for f in fields if f.lower().startswith("content-length:")), 0
            )
            while length > 0:
                length -= len(await read.read(min(length, 2**20)))
            path, _, query = target.partition("?")
            wait, answer = look_alike.answer(method, path, query)
            if wait:
                await asyncio.sleep(wait)
            write.write(answer)
            await write.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        write.close()


async def main() -> None:
    """Serve until the process is ended."""
    batches, size, read_ms, write_ms = (float(argument) for argument in sys.argv[1:])
    look_alike = LookAlike(int(batches), int(size), read_ms, write_ms)
    server = await asyncio.start_server(
        lambda read, write: serve(look_alike, read, write), "127.0.0.1", limit=2**20
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
