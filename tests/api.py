"""A minimal client of the API, over any transport: in process, local HTTP, or a deployed stack."""

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from local.gateway import Gateway, Request

Headers = Mapping[str, str]
GZIP: Headers = {
    "content-type": "application/vnd.gapless.batch+json",
    "content-encoding": "gzip",
}
"""Headers of a gzip batch."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body as a JSON object."""
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def is_from_gateway(self) -> bool:
        """Whether API Gateway made this response, and not a function."""
        json_type = self.headers.get("content-type") == "application/json"
        return self.status >= 400 and json_type and self.json.keys() == {"message"}

    @property
    def code(self) -> str:
        """The problem's ``code``, after a check that the response is a well-formed problem."""
        assert self.headers["content-type"] == "application/problem+json", self
        problem = self.json
        assert problem["status"] == self.status
        assert problem["type"] == f"urn:gapless:error:{problem['code']}"
        assert problem["title"]
        assert problem["detail"]
        code: str = problem["code"]
        return code


Send = Callable[[str, str, bytes, Headers], Answer]
"""Maps method, path, body and headers to an answer."""


def through_gateway(gateway: Gateway) -> Send:
    def send(method: str, path: str, body: bytes, headers: Headers) -> Answer:
        path, _, query = path.partition("?")
        response = gateway.handle(Request(method, path, query, headers.items(), body))
        return Answer(response.status, dict(response.headers), response.body)

    return send


def over_http(url: str) -> Send:
    """Send each request over HTTP, on its own connection."""
    host = urlsplit(url).netloc

    def send(method: str, path: str, body: bytes, headers: Headers) -> Answer:
        connection = HTTPConnection(host, timeout=300)
        try:
            connection.request(method, path, body or None, dict(headers))
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, response.read())
        finally:
            connection.close()

    return send


def deployed(stack: Mapping[str, Any]) -> Send:
    """Send requests to a deployed stack, signed if it has credentials."""
    credentials = stack.get("credentials")
    signer = (
        SigV4Auth(Credentials(**credentials), "execute-api", "us-east-1") if credentials else None
    )
    http = requests.Session()
    http.verify = stack.get("ca", True)

    def send(method: str, path: str, body: bytes, headers: Headers) -> Answer:
        request = AWSRequest(method, stack["url"] + path, dict(headers), body or None)
        if signer:
            signer.add_auth(request)
        prepared = requests.Request(method, request.url, dict(request.headers), data=body).prepare()
        # Undo requests' normalization: ids with dots and escapes must arrive unchanged.
        prepared.url = request.url
        response = http.send(prepared, allow_redirects=False, timeout=300)
        named = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status_code, named, response.content)

    return send


class Api:
    ROOT = "/api/upload/sessions"

    def __init__(self, send: Send) -> None:
        self.send = send

    def request(
        self, method: str, path: str, body: bytes = b"", headers: Headers | None = None
    ) -> Answer:
        """Send any request; a body is JSON unless the headers say otherwise."""
        named = {"content-type": "application/json"} if body else {}
        answer = self.send(method, path, body, {**named, **(headers or {})})
        if not answer.is_from_gateway:
            assert answer.headers.get("cache-control") == "no-store", answer
        return answer

    def create(self, total: int | None, batch_size: int | None = None, **more: object) -> str:
        """Create a session and return its id; ``more`` are further members of the body."""
        asked = {"totalRecord": total, **more} | ({"batchSize": batch_size} if batch_size else {})
        answer = self.request("POST", self.ROOT, json.dumps(asked).encode())
        assert answer.status == 201, answer
        session_id: str = answer.json["sessionId"]
        return session_id

    def batch(self, session_id: str, seq_num: int, data: Sequence[object]) -> Answer:
        return self.raw_batch(session_id, json.dumps({"seqNum": seq_num, "data": data}).encode())

    def gzip_batch(self, session_id: str, seq_num: int, data: Sequence[object]) -> Answer:
        """Send a batch as gzip: its JSON may exceed the limit on requests."""
        body = json.dumps({"seqNum": seq_num, "data": data}, separators=(",", ":"))
        return self.raw_batch(session_id, gzip.compress(body.encode(), 1), GZIP)

    def filled(self, batches: Sequence[Sequence[object]], batch_size: int | None = None) -> str:
        """Create a session, send all its batches, and return its id."""
        session_id = self.create(sum(map(len, batches)), batch_size)
        for seq_num, data in enumerate(batches):
            assert self.batch(session_id, seq_num, data).status == 204
        return session_id

    def raw_batch(self, session_id: str, body: bytes, headers: Headers | None = None) -> Answer:
        """Send a batch's body unchanged."""
        return self.request("POST", f"{self.ROOT}/{session_id}", body, headers)

    def lines(
        self, session_id: str, seq_num: object, body: bytes, headers: Headers | None = None
    ) -> Answer:
        """Send a batch as NDJSON."""
        named = {"content-type": "application/x-ndjson"} | dict(headers or {})
        return self.request("PUT", f"{self.ROOT}/{session_id}/batches/{seq_num}", body, named)

    def finish(self, session_id: str, **totals: object) -> Answer:
        body = json.dumps(totals).encode() if totals else b""
        return self.request("POST", f"{self.ROOT}/{session_id}/finish", body)

    def status(self, session_id: str) -> Answer:
        return self.request("GET", f"{self.ROOT}/{session_id}")

    def file(self, session_id: str, headers: Headers | None = None) -> Answer:
        """Get the link to the merged object."""
        return self.request("GET", f"{self.ROOT}/{session_id}/file", headers=headers)

    def manifest(self, session_id: str, headers: Headers | None = None) -> Answer:
        """Get the link to the manifest."""
        return self.request("GET", f"{self.ROOT}/{session_id}/manifest", headers=headers)

    def abort(self, session_id: str) -> Answer:
        return self.request("DELETE", f"{self.ROOT}/{session_id}")

    def delete_file(self, session_id: str) -> Answer:
        return self.request("DELETE", f"{self.ROOT}/{session_id}/file")
