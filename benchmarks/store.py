"""S3 and DynamoDB in memory: keep what they are given, and are not what is measured.

    python -m benchmarks.store

Prints its port. As much of S3 as Gapless, boto3 and tus ask for, and as much of DynamoDB as moves a
session where a write says; conditions are kept by S3 alone. moto, which the tests run on, does all
of it right and takes fifty times as long.
"""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote

from benchmarks import lookalike

PAGE: Final = 1_000
DATE: Final = "Mon, 23 Nov 2026 00:00:00 GMT"
ISO_DATE: Final = "2026-11-23T00:00:00.000Z"


class Object(NamedTuple):
    """An object: its pieces, and the headers it is given back with."""

    pieces: list[bytes]
    size: int
    etag: str
    headers: str


class Upload(NamedTuple):
    """A multipart upload."""

    headers: str
    parts: dict[int, Object]


class Store:
    """What is asked for, and what is answered."""

    keeps = 2**40

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.uploads: dict[str, Upload] = {}
        self.items: dict[str, dict[str, Any]] = {}
        self.made = 0

    def answer(self, method: str, target: str, head: bytes, body: bytes) -> tuple[float, bytes]:
        """Answer at once."""
        path, _, raw_query = target.partition("?")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (
                line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:]
            )
        }
        if "x-amz-target" in headers:
            return 0, self.table(headers["x-amz-target"].partition(".")[2], json.loads(body))
        query = {
            name: values[0] for name, values in parse_qs(raw_query, keep_blank_values=True).items()
        }
        if "aws-chunked" in headers.get("content-encoding", ""):
            body = unchunked(body)
        key = unquote(path)
        if "uploads" in query or "uploadId" in query:
            return 0, self.multipart(method, key, query, headers, body)
        if "list-type" in query:
            return 0, self.page(key.rstrip("/") + "/", query)
        return 0, self.object(method, key, headers, body)

    def new(self, pieces: list[bytes], headers: str = "") -> Object:
        """An object with a tag of its own."""
        self.made += 1
        return Object(pieces, sum(map(len, pieces)), f'"{self.made:032x}"', headers)

    def object(self, method: str, key: str, headers: dict[str, str], body: bytes) -> bytes:
        """Requests for one object."""
        found = self.objects.get(key)
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
        return reply(200, about, b"".join(found.pieces))

    def multipart(
        self, method: str, key: str, query: dict[str, str], headers: dict[str, str], body: bytes
    ) -> bytes:
        """Requests about multipart uploads."""
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
                pieces = [body]
                if source := headers.get("x-amz-copy-source"):
                    pieces = self.objects["/" + unquote(source).lstrip("/")].pieces
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
        if key in self.objects and headers.get("if-none-match") == "*":
            return error(412, "PreconditionFailed")
        del self.uploads[upload_id]
        numbers = map(int, re.findall(rb"<PartNumber>(\d+)</PartNumber>", body))
        pieces = [piece for number in numbers for piece in upload.parts[number].pieces]
        self.objects[key] = made = self.new(pieces, upload.headers)
        return xml("CompleteMultipartUploadResult", f"<ETag>{made.etag}</ETag>")

    def page(self, bucket: str, query: dict[str, str]) -> bytes:
        """A page of a listing."""
        prefix = bucket + query.get("prefix", "")
        after = bucket + (query.get("continuation-token") or query.get("start-after", ""))
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key > after)
        entries = "".join(
            f"<Contents><Key>{key.removeprefix(bucket)}</Key><Size>{found.size}</Size>"
            f"<ETag>{found.etag}</ETag><LastModified>{ISO_DATE}</LastModified></Contents>"
            for key, found in ((key, self.objects[key]) for key in keys[:PAGE])
        )
        more = "<IsTruncated>false</IsTruncated>"
        if len(keys) > PAGE:
            token = keys[PAGE - 1].removeprefix(bucket)
            more = (
                "<IsTruncated>true</IsTruncated>"
                f"<NextContinuationToken>{token}</NextContinuationToken>"
            )
        return xml("ListBucketResult", f"<KeyCount>{len(keys[:PAGE])}</KeyCount>{more}{entries}")

    def table(self, operation: str, request: dict[str, Any]) -> bytes:
        """Requests to DynamoDB."""
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


def kept(headers: dict[str, str]) -> str:
    """The headers that an object is given back with."""
    return "".join(
        f"{name}: {value}\r\n"
        for name, value in headers.items()
        if name.startswith("x-amz-meta-") or name == "content-type"
    )


def part_list(parts: list[tuple[int, Object]]) -> bytes:
    """A page of the parts of an upload."""
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


def unchunked(body: bytes) -> bytes:
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


def reply(status: int, headers: str = "", content: bytes = b"", length: int | None = None) -> bytes:
    """An answer. ``length`` is that of the content which an answer to HEAD is without."""
    size = "" if status == 204 else f"Content-Length: {length or len(content)}\r\n"
    return f"HTTP/1.1 {status} .\r\n{size}{headers}\r\n".encode() + content


def xml(name: str, content: str) -> bytes:
    """A 200 with XML."""
    return reply(200, "Content-Type: application/xml\r\n", f"<{name}>{content}</{name}>".encode())


def error(status: int, code: str, *, head: bool = False) -> bytes:
    """An S3 error."""
    content = "" if head else f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
    return reply(status, "Content-Type: application/xml\r\n", content.encode())


@contextmanager
def serve() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A store for a while; gives its URL and its process."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.store"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}", process
        finally:
            process.terminate()


if __name__ == "__main__":
    asyncio.run(lookalike.serve(Store()))
