"""A bare client of the API, over whatever carries its requests."""

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
"""Of a batch that is sent compressed."""


@dataclass(frozen=True)
class Answer:
    """What the API says."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body, which is a JSON object."""
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def is_of_the_gateway(self) -> bool:
        """Whether API Gateway made the answer by itself."""
        json_type = self.headers.get("content-type") == "application/json"
        return self.status >= 400 and json_type and self.json.keys() == {"message"}

    @property
    def code(self) -> str:
        """The code of a problem."""
        assert self.headers["content-type"] == "application/problem+json", self
        problem = self.json
        assert problem["status"] == self.status
        assert problem["type"] == f"urn:gapless:error:{problem['code']}"
        assert problem["title"]
        assert problem["detail"]
        code: str = problem["code"]
        return code


Send = Callable[[str, str, bytes, Headers], Answer]
"""Method, path, body and headers to an answer."""


def through_gateway(gateway: Gateway) -> Send:
    """Requests go straight to the gateway."""

    def send(method: str, path: str, body: bytes, headers: Headers) -> Answer:
        path, _, query = path.partition("?")
        response = gateway.handle(Request(method, path, query, headers.items(), body))
        return Answer(response.status, dict(response.headers), response.body)

    return send


def over_http(url: str) -> Send:
    """Requests go over HTTP, each on a connection of its own."""
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
    """Requests go to a deployed stack, signed where it says with what credentials."""
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
        # Ids with dots and escapes must arrive as they are.
        prepared.url = request.url
        response = http.send(prepared, allow_redirects=False, timeout=300)
        named = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status_code, named, response.content)

    return send


class Api:
    """The routes."""

    ROOT = "/api/upload/sessions"

    def __init__(self, send: Send) -> None:
        self.send = send

    def request(
        self, method: str, path: str, body: bytes = b"", headers: Headers | None = None
    ) -> Answer:
        """Any request; a body is JSON unless the headers say otherwise."""
        named = {"content-type": "application/json"} if body else {}
        answer = self.send(method, path, body, {**named, **(headers or {})})
        if not answer.is_of_the_gateway:
            assert answer.headers.get("cache-control") == "no-store", answer
        return answer

    def create(self, total: int | None, batch_size: int | None = None, **more: object) -> str:
        """A new session's id; ``more`` are other members of the request."""
        asked = {"totalRecord": total, **more} | ({"batchSize": batch_size} if batch_size else {})
        answer = self.request("POST", self.ROOT, json.dumps(asked).encode())
        assert answer.status == 201, answer
        session_id: str = answer.json["sessionId"]
        return session_id

    def batch(self, session_id: str, seq_num: int, data: Sequence[object]) -> Answer:
        """Send a batch as JSON."""
        return self.raw_batch(session_id, json.dumps({"seqNum": seq_num, "data": data}).encode())

    def gzip_batch(self, session_id: str, seq_num: int, data: Sequence[object]) -> Answer:
        """Send a batch as compressed JSON: it may be larger than what a request holds."""
        body = json.dumps({"seqNum": seq_num, "data": data}, separators=(",", ":"))
        return self.raw_batch(session_id, gzip.compress(body.encode(), 1), GZIP)

    def filled(self, batches: Sequence[Sequence[object]], batch_size: int | None = None) -> str:
        """The id of a new session that has all its batches."""
        session_id = self.create(sum(map(len, batches)), batch_size)
        for seq_num, data in enumerate(batches):
            assert self.batch(session_id, seq_num, data).status == 204
        return session_id

    def raw_batch(self, session_id: str, body: bytes, headers: Headers | None = None) -> Answer:
        """Send a batch's body as it is."""
        return self.request("POST", f"{self.ROOT}/{session_id}", body, headers)

    def lines(
        self, session_id: str, seq_num: object, body: bytes, headers: Headers | None = None
    ) -> Answer:
        """Send a batch as NDJSON."""
        named = {"content-type": "application/x-ndjson"} | dict(headers or {})
        return self.request("PUT", f"{self.ROOT}/{session_id}/batches/{seq_num}", body, named)

    def finish(self, session_id: str, **totals: object) -> Answer:
        """Finish a session; ``totals`` are what the request says there is."""
        body = json.dumps(totals).encode() if totals else b""
        return self.request("POST", f"{self.ROOT}/{session_id}/finish", body)

    def status(self, session_id: str) -> Answer:
        """Ask for a session."""
        return self.request("GET", f"{self.ROOT}/{session_id}")

    def file(self, session_id: str, headers: Headers | None = None) -> Answer:
        """Ask for the link to the merged object."""
        return self.request("GET", f"{self.ROOT}/{session_id}/file", headers=headers)

    def manifest(self, session_id: str, headers: Headers | None = None) -> Answer:
        """Ask for the link to the manifest of the merged object."""
        return self.request("GET", f"{self.ROOT}/{session_id}/manifest", headers=headers)

    def abort(self, session_id: str) -> Answer:
        """Abort a session."""
        return self.request("DELETE", f"{self.ROOT}/{session_id}")

    def delete_file(self, session_id: str) -> Answer:
        """Delete the merged object."""
        return self.request("DELETE", f"{self.ROOT}/{session_id}/file")
