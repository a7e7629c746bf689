"""Black-box checks that a service keeps the protocol and its guarantees.

Each check is a function of a ``Service`` that raises ``AssertionError`` if it fails. It opens its
own small sessions, which expire. The checks must not use the client's retries or encoding.
"""

import base64
import gzip
import hashlib
import json
import re
import secrets
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final
from urllib.parse import quote

import httpx

from gapless.errors import GaplessError, UnavailableError
from gapless.sessions import NDJSON, ROOT, service_url
from gapless.transport import describe_error, find_proxy, permanent_error, ssl_context

MEDIA_TYPE: Final = "application/vnd.gapless.batch+json"
_PROBLEM: Final = "application/problem+json"
_UNKNOWN: Final = "0" * 32
_MOST: Final = 2**53 - 1
_ATTEMPTS: Final = 6
_PATIENCE: Final = 120.0


class Failed(AssertionError):  # noqa: N818 - it is a finding, not an error
    """The service does not do what the check expects."""


def expect(what: str, found: object, expected: object) -> None:
    """Fail unless ``found`` equals ``expected``."""
    if found != expected:
        raise Failed(f"{what}: expected {expected!r}, got {found!r}"[:400])


def holds(what: str, found: bool) -> None:  # noqa: FBT001 - a condition
    """Fail unless ``found`` is true."""
    if not found:
        raise Failed(f"{what}: does not hold")


@dataclass(frozen=True)
class Response:
    """A response of the service."""

    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body, which must be a JSON object."""
        try:
            found = json.loads(self.body)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Failed(f"status {self.status}, no JSON object: {self.body[:100]!r}")
        return found

    def ok(self, status: int) -> dict[str, Any]:
        """Expect this status; returns the JSON body, empty for 204."""
        expect("status", (self.status, self.status >= 400 and self.body[:200]), (status, False))  # noqa: PLR2004
        if status == httpx.codes.NO_CONTENT:
            expect("body", self.body, b"")
            return {}
        expect("Content-Type", self.headers.get("content-type"), "application/json")
        return self.json

    def refused(self, status: int, code: str) -> dict[str, Any]:
        """Expect a refusal with this status and code; returns the problem."""
        problem = self.json
        expect("refusal", (self.status, problem.get("code")), (status, code))
        expect("Content-Type", self.headers.get("content-type"), _PROBLEM)
        expect("status in the body", problem.get("status"), status)
        expect("type", problem.get("type"), f"urn:gapless:error:{code}")
        holds("title and detail", bool(problem.get("title") and problem.get("detail")))
        return problem


class Service:
    """The service under test: plain requests, without the client's retries and encoding."""

    def __init__(self, url: str, auth: httpx.Auth | None = None) -> None:
        self.url = service_url(url)
        self.requests = 0
        self._responded = False
        self._auth = auth
        proxy = find_proxy(httpx.URL(self.url))
        self._http = httpx.Client(
            timeout=60,
            limits=httpx.Limits(max_connections=16),
            proxy=proxy[0] if proxy else None,
            trust_env=False,
            verify=ssl_context(),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(
        self,
        method: str,
        path: str = "",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a request to a path below the sessions; a body is JSON unless ``headers`` differ."""
        named = httpx.Headers({"Content-Type": "application/json"} if body is not None else {})
        named.update(headers)
        return self.send(method, path, body, named)

    def send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Response:
        """Send a request with exactly these headers; retries while the service is busy.

        Raises UnavailableError if it stays busy: the checks cannot continue.
        """
        for attempt in range(_ATTEMPTS):
            self.requests += 1
            try:
                response = self._http.request(
                    method, self.url + ROOT + path, content=body, headers=headers, auth=self._auth
                )
            except httpx.TransportError as error:
                if not self._responded and (fault := permanent_error(error, self.url)):
                    raise fault from None
                reason = describe_error(error)
            else:
                self._responded = True
                if response.status_code not in {429, 503}:
                    return Response(response.status_code, response.headers, response.content)
                reason = f"it responds with {response.status_code}"
            time.sleep(0.5 * 2**attempt)
        raise UnavailableError(f"{self.url} no longer responds: {reason}. The checks stop here.")

    def create(self, total: int | None, size: int | None = None, **more: object) -> str:
        """Open a session; ``more`` are other members of the request. Returns the session id."""
        asked = {"totalRecord": total, **more} | ({"batchSize": size} if size else {})
        found: str = self.call("POST", "", json.dumps(asked).encode()).ok(201)["sessionId"]
        return found

    def batch(self, session: str, seq_num: int, data: Sequence[object]) -> Response:
        """Send a batch as JSON."""
        body = json.dumps({"seqNum": seq_num, "data": data}).encode()
        return self.call("POST", f"/{session}", body)

    def raw(self, session: str, body: bytes, **headers: str) -> Response:
        """Send this body as a batch; ``content_type=…`` is the header Content-Type."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.call("POST", f"/{session}", body, named)

    def lines(self, session: str, seq_num: object, body: bytes, **headers: str) -> Response:
        """Send a batch as NDJSON."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named = {"content-type": NDJSON} | named
        return self.call("PUT", f"/{session}/batches/{seq_num}", body, named)

    def ask(self, session: str, **totals: object) -> Response:
        """Send one finish with these totals."""
        body = json.dumps(totals).encode() if totals else None
        return self.call("POST", f"/{session}/finish", body)

    def finish(self, session: str, **totals: int) -> dict[str, Any]:
        """Finish and wait for a long merge; returns the result."""
        deadline = time.monotonic() + _PATIENCE
        while (response := self.ask(session, **totals)).status == httpx.codes.ACCEPTED:
            if time.monotonic() > deadline:
                raise Failed(f"finish still returns 202 after {_PATIENCE:.0f} s")
            expect("Location", response.headers.get("location"), f"{ROOT}/{session}")
            time.sleep(float(response.headers.get("retry-after", "2")))
        return response.ok(200)

    def status(self, session: str) -> dict[str, Any]:
        """The status of the session."""
        return self.call("GET", f"/{session}").ok(200)

    def download(self, session: str, what: str = "file", first: int = 0) -> bytes:
        """The merged object or its manifest, from byte ``first`` on, through the JSON link."""
        link = self.call("GET", f"/{session}/{what}", headers={"Accept": "application/json"})
        response = self._http.get(
            link.ok(200)["url"], headers={"Range": f"bytes={first}-"} if first else {}
        )
        expect("status of the download", response.status_code, 206 if first else 200)
        return response.content

    def follow(self, url: str, encoding: str) -> httpx.Response:
        """The object at a link, requested with this Accept-Encoding."""
        response = self._http.get(url, headers={"Accept-Encoding": encoding})
        expect("status of the download", response.status_code, 200)
        return response

    def is_there(self, url: str) -> bool:
        """Whether the object at a link exists."""
        status = self._http.get(url).status_code
        # Without permission to list, S3 responds with 403 for a missing object.
        holds(f"status {status} of the download", status in {200, 403, 404})
        return status == httpx.codes.OK

    def merged(self, session: str, total: int, ndjson: bytes, **totals: int) -> dict[str, Any]:
        """Finish, expect ``Success`` with exactly these lines; returns the result."""
        result = self.finish(session, **totals)
        expect("validationResult", result["validationResult"], "Success")
        expect("receivedRecord", (result["totalRecord"], result["receivedRecord"]), (total, total))
        expect("merged object", self.download(session), ndjson)
        expect("bytes", result["bytes"], len(ndjson))
        crc = base64.b64encode(zlib.crc32(ndjson).to_bytes(4, "big")).decode()
        expect("checksum", result["checksum"]["value"], crc)
        return result


Check = Callable[[Service], None]
CHECKS: Final[dict[str, tuple[str, Check]]] = {}
"""Every check by name, with the guarantee that it tests."""


def check(guarantee: str) -> Callable[[Check], Check]:
    """Decorator: register a function, by its name, as a check of this guarantee."""

    def register(function: Check) -> Check:
        CHECKS[function.__name__.replace("_", " ")] = (guarantee, function)
        return function

    return register


@dataclass(frozen=True)
class Outcome:
    """The outcome of a check."""

    check: str
    guarantee: str
    passed: bool
    detail: str
    seconds: float
    optional: bool = False
    """Whether it may be otherwise: not a failure."""

    def facts(self) -> dict[str, Any]:
        """The outcome as JSON members."""
        return asdict(self)


def run(
    service: Service, names: Sequence[str] = (), begin: Callable[[str], object] = str
) -> Iterator[Outcome]:
    """Run the checks whose name contains one of ``names``, by default all.

    ``begin`` is called with the name of each. Raises UnavailableError if the service does not
    respond.
    """
    for name, (guarantee, function) in CHECKS.items():
        if names and not any(part in name for part in names):
            continue
        begin(name)
        began = time.monotonic()
        try:
            function(service)
            passed, detail = True, ""
        except GaplessError:
            raise  # such as refused credentials: not a finding about the service
        except (AssertionError, KeyError, TypeError, ValueError, httpx.HTTPError) as error:
            passed = False
            detail = str(error) if isinstance(error, Failed) else f"unexpected response: {error!r}"
        yield Outcome(name, guarantee, passed, detail, round(time.monotonic() - began, 3))


CONTRACT: Final = "contract"
BYTES: Final = "records are kept byte for byte"
PROMISE: Final = "1: a 204 is a promise"
PROOF: Final = "2: Success is a proof"
REPEATABLE: Final = "3: finish is repeatable"
ATOMIC: Final = "4: the object is whole or not there"
RESEND: Final = "5: sending again is safe"
PRIVATE: Final = "7: unknown ids all look alike"


# --- Sessions -------------------------------------------------------------------------------------


@check(CONTRACT)
def a_session_is_opened(service: Service) -> None:
    response = service.call("POST", "", b'{"totalRecord": 5, "batchSize": 2, "unknown": []}')
    body = response.ok(201)
    holds("sessionId", bool(re.fullmatch("[0-9a-f]{32}", body["sessionId"])))
    expect("Location", response.headers.get("location"), f"{ROOT}/{body['sessionId']}")
    time.strptime(body["expiresAt"], "%Y-%m-%dT%H:%M:%SZ")
    holds("limits", set(body["limits"]) >= {"maxBodyBytes", "maxInflatedBytes", "maxSeqNum"})
    status = service.status(body["sessionId"])
    found = [status[name] for name in ("state", "totalRecord", "batchSize", "batches", "finish")]
    expect("status", found, ["OPEN", 5, 2, 0, None])
    expect("missing", status["missing"], [{"from": 0, "to": 2}])


@check(CONTRACT)
def numbers_are_plain_digits(service: Service) -> None:
    for total in (b"-1", b"1.0", b"1e3", b'"1"', b"true", b"[]", b"-0", b"%d" % 2**53):
        response = service.call("POST", "", b'{"totalRecord": %s}' % total)
        expect("member", response.refused(400, "invalid_total_record").get("member"), "totalRecord")
    for size in (b"0", b"-1", b"2.0", b'"1"', b"false"):
        response = service.call("POST", "", b'{"totalRecord": 1, "batchSize": %s}' % size)
        response.refused(400, "invalid_batch_size")
    session = service.create(1)
    for number in (b"-1", b"0.0", b"1e0", b'"0"', b"true", b"null", b"-0", b"100000"):
        response = service.raw(session, b'{"seqNum": %s, "data": [1]}' % number)
        response.refused(400, "invalid_seq_num")


@check(CONTRACT)
def the_largest_numbers_are_accepted(service: Service) -> None:
    service.create(_MOST)
    service.create(_MOST, _MOST)
    service.create(100_000, 1)
    problem = service.call("POST", "", b'{"totalRecord": 100001, "batchSize": 1}')
    expect("minimum", problem.refused(400, "too_many_batches").get("minimum"), 2)
    session = service.create(1)
    service.raw(session, b'{"seqNum": 99999, "data": [1]}').ok(204)


@check(CONTRACT)
def a_malformed_body_has_its_own_code(service: Service) -> None:
    session = service.create(1)
    for body, code in {
        b"": "empty_body",
        b"[]": "not_an_object",
        b"1": "not_an_object",
        b"{}": "missing_member",
        b'{"seqNum": 0}': "missing_member",
        b'{"data": [1]}': "missing_member",
        b'{"seqNum": 0, "data": {}}': "invalid_data",
        b'{"seqNum": 0, "data": []}': "empty_data",
        b'{"seqNum": 0, "data": [1]': "truncated_json",
        b'{"seqNum": 0, "data": [1]}}': "trailing_text",
        b'{"seqNum": 0, "data": [01]}': "malformed_json",
        b"{'seqNum': 0, 'data': [1]}": "malformed_json",
        b'{"seqNum": 0, "data": [NaN]}': "not_a_number",
        b'{"seqNum": 0, "data": [-Infinity]}': "not_a_number",
        b'{"seqNum": 0, "data": ["\t"]}': "control_character",
        b'{"seqNum": 0, "data": ["\\ud800"]}': "lone_surrogate",
        b'{"seqNum": 0, "data": ["\xff"]}': "invalid_utf8",
        b'{"seqNum": 0, "data": [' + b"[" * 9_999 + b"]" * 9_999 + b"]}": "too_deeply_nested",
    }.items():
        service.raw(session, body).refused(400, code)
        if body:
            service.raw(session, body, content_type=MEDIA_TYPE).refused(400, code)
    expect("batches that were stored", service.status(session)["batches"], 0)


@check(CONTRACT)
def a_member_that_is_given_twice_is_refused(service: Service) -> None:
    session = service.create(1)
    for body in (
        b'{"seqNum": 0, "data": [1], "seqNum": 0}',
        b'{"seqNum": 0, "data": [1], "data": [1]}',
        rb'{"seqNum": 0, "data": [1], "seq\u004eum": 0}',
        b'{"seqNum": 0, "data": [1], "x": 0, "x": 0}',
    ):
        service.raw(session, body).refused(400, "repeated_member")
    service.call("POST", "", b'{"totalRecord": 1, "totalRecord": 1}').refused(
        400, "repeated_member"
    )
    service.raw(session, b'{"seqNum": 0, "data": [{"a": 1, "a": 2}], "more": 1}').ok(204)


@check(PRIVATE)
def unknown_and_malformed_ids_are_the_same_404(service: Service) -> None:
    for method, path, body in (
        ("GET", "", None),
        ("POST", "", b'{"seqNum": 0, "data": [1]}'),
        ("POST", "/finish", None),
        ("GET", "/file", None),
        ("GET", "/manifest", None),
        ("DELETE", "", None),
        ("DELETE", "/file", None),
        ("PUT", "/batches/0", b"1"),
    ):
        responses = [
            service.call(method, f"/{session}{path}", body)
            for session in (_UNKNOWN, "f" * 32, "F" * 32, "0" * 31, "0" * 33, "x", "-")
        ]
        for response in responses:
            response.refused(404, "session_not_found")
        expect(f"bodies of {method} {path}", {one.body for one in responses}, {responses[0].body})


@check(CONTRACT)
def an_unknown_route_is_not_found(service: Service) -> None:
    for method, path in (("PUT", ""), ("PUT", f"/{_UNKNOWN}"), ("GET", f"/{_UNKNOWN}/finish")):
        response = service.call(method, path)
        # An API in front of the service may require a signature even for unknown routes.
        holds(f"{method} {path}", response.status in {403, 404, 405})


@check(RESEND)
def a_session_is_opened_once_for_a_key(service: Service) -> None:
    def create(key: str, body: bytes) -> Response:
        return service.call("POST", "", body, {"Idempotency-Key": key})

    key, body = secrets.token_hex(16), b'{"totalRecord": 1, "metadata": {"name": "once"}}'
    with ThreadPoolExecutor(4) as threads:
        opened = [one.ok(201) for one in threads.map(lambda _: create(key, body), range(4))]
    opened.append(create(key, body).ok(201))
    expect("sessions of one key", len({one["sessionId"] for one in opened}), 1)
    expect("expiresAt", len({one["expiresAt"] for one in opened}), 1)
    for other in (b'{"totalRecord": 2}', body + b" "):
        create(key, other).refused(422, "idempotency_key_reused")
    session = opened[0]["sessionId"]
    service.batch(session, 0, [1]).ok(204)
    service.merged(session, 1, b"1\n")
    expect("session of the key, finished", create(key, body).ok(201)["sessionId"], session)
    another = create(secrets.token_hex(16), body).ok(201)["sessionId"]
    holds("another key is another session", another != session)
    for malformed in ("k" * 256, "k" * 22 + " k"):
        create(malformed, body).refused(400, "invalid_idempotency_key")


@check(CONTRACT)
def a_session_keeps_its_metadata(service: Service) -> None:
    expect("metadata", service.status(service.create(1))["metadata"], {})
    given = {"name": "Bücher 漢 (1).ndjson", "a-b_1": "", "long": "x" * 2000}
    session = service.create(1, metadata=given)
    expect("metadata", service.status(session)["metadata"], given)
    service.batch(session, 0, [1]).ok(204)
    service.finish(session)
    manifest = json.loads(service.download(session, "manifest"))
    expect("metadata of the manifest", manifest["metadata"], given)
    every: tuple[object, ...] = (
        {"Name": "x"},
        {"": "x"},
        {"n" * 65: "x"},
        {"a": "two\nlines"},
        {"a": "\u202e"},
        {"a": "é" * 1024},
        {f"n{n}": "x" for n in range(17)},
        {"a": 1},
        {"a": None},
        [],
        None,
        "x",
    )
    for wrong in every:
        body = json.dumps({"totalRecord": 1, "metadata": wrong}).encode()
        service.call("POST", "", body).refused(400, "invalid_metadata")


@check(PRIVATE)
def a_schema_that_is_not_deployed_is_refused(service: Service) -> None:
    """The refusal must not reveal which schemas are deployed."""
    nobodys = f"conformance.{secrets.token_hex(16)}"
    names = (nobodys, "", "..", "../schemas/x", "UPPER", "x" * 65)
    values: tuple[object, ...] = (*names, 1, True, {}, [])
    for name in values:
        body = json.dumps({"totalRecord": 1, "schema": name}).encode()
        service.call("POST", "", body).refused(400, "unknown_schema")


@check(PRIVATE)
def callers_list_their_own_sessions_or_none(service: Service) -> None:
    """Newest first, in pages. A service that does not authenticate its callers has no list."""
    made = [service.create(3, metadata={"name": "listed"}) for _ in range(3)]
    first = service.call("GET", "?limit=2")
    if first.status == httpx.codes.FORBIDDEN:
        first.refused(403, "no_list")
        return
    oldest = service.status(made[0])["createdAt"]
    deadline = time.monotonic() + _PATIENCE
    while True:
        page = part = service.call("GET", "?limit=2").ok(200)
        listed = page["sessions"]
        # Sessions of one second have no order: the caller's others may come first.
        while part["cursor"] and listed[-1]["createdAt"] >= oldest:
            part = service.call("GET", f"?limit=1&cursor={quote(part['cursor'])}").ok(200)
            listed = listed + part["sessions"]
        by_id = {one["sessionId"]: one for one in listed}
        if by_id.keys() >= {*made}:
            break
        # The list is eventually consistent.
        holds(f"new sessions are listed: {made} are not {[*by_id]}", time.monotonic() < deadline)
        time.sleep(1)
    holds("each session is listed once", len(by_id) == len(listed))
    times = [one["createdAt"] for one in listed]
    holds(f"the newest come first: {times}", times == sorted(times, reverse=True))
    newest = by_id[made[-1]]
    found = [newest[name] for name in ("state", "totalRecord", "batchSize", "format", "metadata")]
    expect("a session of the list", found, ["OPEN", 3, None, "ndjson", {"name": "listed"}])
    status = service.status(newest["sessionId"])
    for name in ("createdAt", "expiresAt", "fileDeletedAt"):
        expect(name, newest[name], status[name])
    service.call("DELETE", f"/{made[2]}").ok(204)
    open_ones = service.call("GET", "?state=OPEN&limit=2").ok(200)["sessions"]
    holds("state", all(one["state"] == "OPEN" for one in open_ones))
    service.call("GET", "?state=open").refused(400, "invalid_state")
    for limit in ("0", "-1", "x", "1000000"):
        service.call("GET", f"?limit={limit}").refused(400, "invalid_limit")
    # A start key of DynamoDB that names another owner, and modified cursors.
    key = {"owner": "somebody", "createdAt": 1, "sessionId": _UNKNOWN}
    forged = base64.urlsafe_b64encode(json.dumps(key).encode()).decode()
    for cursor in (forged, "x", page["cursor"] + "x", json.dumps(key)):
        problem = service.call("GET", f"?cursor={quote(cursor)}")
        problem.refused(400, "invalid_cursor")


# --- Batches --------------------------------------------------------------------------------------

_ODD_RECORDS: Final = [
    b"123456789012345678901234567890",
    b"1.0",
    b"-0",
    b"1e400",
    b"0.1000000000000000055511151231257827",
    b'{"a":1,"a":2}',
    b'{ "spaced" : [ 1 , 2 ] }',
    rb'"\u00e9\/\n\ud83d\ude00"',
    '"é漢😀\u2028"'.encode(),
    b'"]}"',
    b"null",
    b"[]",
    b'{"":{}}',
]


@check(BYTES)
def odd_records_arrive_as_they_were_sent(service: Service) -> None:
    session = service.create(len(_ODD_RECORDS))
    service.raw(session, b'{"seqNum": 0, "data": [' + b" ,".join(_ODD_RECORDS) + b"]}").ok(204)
    service.merged(session, len(_ODD_RECORDS), b"\n".join([*_ODD_RECORDS, b""]))


@check(BYTES)
def a_record_over_several_lines_becomes_one(service: Service) -> None:
    session = service.create(2)
    service.raw(session, b'{"data": [{\n "a" : 1.0,\r\n "b": "x y"\n},\n 2 ],\n "seqNum": 0}\n').ok(
        204
    )
    service.merged(session, 2, b'{"a":1.0,"b":"x y"}\n2\n')


@check(RESEND)
def the_same_batch_again_is_a_quiet_204(service: Service) -> None:
    session = service.create(3, 2)
    service.raw(session, b'{"seqNum":0,"data":[{"a":1},2]}').ok(204)
    service.raw(session, b'{"seqNum":0,"data":[{"a":1},2]}').ok(204)
    service.raw(session, b' { "data" : [ {"a":1} ,\n2 ] , "seqNum" : 0 } ').ok(204)
    service.batch(session, 1, [3]).ok(204)
    expect("batches", service.status(session)["batches"], 2)
    service.merged(session, 3, b'{"a":1}\n2\n3\n')


@check(RESEND)
def another_batch_is_a_conflict_and_changes_nothing(service: Service) -> None:
    session = service.create(1)
    service.raw(session, b'{"seqNum":0,"data":[{"a":1}]}').ok(204)
    for other in (b'{"a":2}', b'{"a": 1}', b'{"a":1.0}', b'{"a":1},{"a":1}'):
        problem = service.raw(session, b'{"seqNum":0,"data":[%s]}' % other).refused(
            409, "batch_conflict"
        )
        digest = hashlib.sha256(b'{"a":1}\n').hexdigest()
        found = (problem["seqNum"], problem["storedDigest"], problem["storedRecords"])
        expect("what is stored", found, (0, digest, 1))
    service.merged(session, 1, b'{"a":1}\n')


@check(RESEND)
def of_concurrent_batches_one_is_stored(service: Service) -> None:
    session = service.create(1)
    with ThreadPoolExecutor(8) as threads:
        same = list(threads.map(lambda _: service.batch(session, 0, [7]), range(8)))
    for response in same:
        response.ok(204)
    other = service.create(1)
    with ThreadPoolExecutor(8) as threads:
        responses = list(threads.map(lambda n: service.batch(other, 0, [n]), range(8)))
    won = [n for n, response in enumerate(responses) if response.status == 204]  # noqa: PLR2004
    expect("number of batches stored", len(won), 1)
    for n, response in enumerate(responses):
        if n not in won:
            response.refused(409, "batch_conflict")
    service.merged(other, 1, b"%d\n" % won[0])


@check(CONTRACT)
def a_strict_session_checks_each_batch(service: Service) -> None:
    session = service.create(5, 2)
    found = service.batch(session, 0, [1]).refused(400, "wrong_batch_length")
    expect("lengths", (found["expected"], found["received"]), (2, 1))
    service.batch(session, 0, [1, 2, 3]).refused(400, "wrong_batch_length")
    service.batch(session, 2, [1, 2]).refused(400, "wrong_batch_length")
    found = service.batch(session, 3, [1]).refused(400, "seq_num_out_of_range")
    expect("range", found["expected"], {"from": 0, "to": 2})
    service.batch(session, 2, [5]).ok(204)


@check(CONTRACT)
def gzip_needs_a_binary_media_type(service: Service) -> None:
    session = service.create(2, 1)
    body = gzip.compress(b'{"seqNum":0,"data":[1]}')
    for kind in ("application/json", "text/plain", "application/json; charset=utf-8"):
        response = service.raw(session, body, content_type=kind, content_encoding="gzip")
        # An API that does not damage binary bodies may accept it and must decode it correctly.
        if response.status != 204:  # noqa: PLR2004
            problem = response.refused(415, "gzip_as_text")
            expect("expected", problem.get("expected"), MEDIA_TYPE)
    gzipped = {"content_type": MEDIA_TYPE, "content_encoding": "gzip"}
    service.raw(session, body, **gzipped).ok(204)
    members = gzip.compress(b'{"seqNum":1,') + gzip.compress(b'"data":[2]}')
    service.raw(session, members, **gzipped).ok(204)
    service.raw(session, b'{"seqNum":0,"data":[1]}', content_type=MEDIA_TYPE).ok(204)
    service.raw(session, body[:-3], **gzipped).refused(400, "truncated_gzip")
    service.raw(session, b"{}", **gzipped).refused(400, "invalid_gzip")
    service.raw(session, body, content_type=MEDIA_TYPE, content_encoding="br").refused(
        415, "unsupported_encoding"
    )
    service.merged(session, 2, b"1\n2\n")


@check(CONTRACT)
def content_digest_is_checked(service: Service) -> None:
    session = service.create(1)
    body = b'{"seqNum":0,"data":[1]}'

    def digest(of: bytes) -> str:
        return f"sha-256=:{base64.b64encode(hashlib.sha256(of).digest()).decode()}:"

    service.raw(session, body, content_digest=digest(b"x")).refused(400, "digest_mismatch")
    service.raw(session, body, content_digest="sha-256=:AA==:").refused(
        400, "invalid_content_digest"
    )
    expect("batches", service.status(session)["batches"], 0)
    service.raw(session, body, content_digest=digest(body)).ok(204)
    packed = gzip.compress(body)
    headers = {"content_type": MEDIA_TYPE, "content_encoding": "gzip"}
    service.raw(session, packed, content_digest=digest(packed), **headers).ok(204)
    service.raw(session, packed, content_digest=digest(body), **headers).refused(
        400, "digest_mismatch"
    )


@check(CONTRACT)
def the_announced_limits_of_a_body_apply(service: Service) -> None:
    opened = service.call("POST", "", b'{"totalRecord": 1}').ok(201)
    session, limits = opened["sessionId"], opened["limits"]
    room = limits["maxBodyBytes"] - len('{"seqNum":0,"data":[""]}')
    largest = b'{"seqNum":0,"data":["' + b"x" * room + b'"]}'
    headers = {"content_type": MEDIA_TYPE}
    service.raw(session, largest + b" ", **headers).refused(413, "body_too_large")
    service.raw(session, largest, **headers).ok(204)
    bomb = gzip.compress(b" " * (limits["maxInflatedBytes"] + 1), 1)
    service.raw(session, bomb, content_encoding="gzip", **headers).refused(
        413, "inflated_too_large"
    )
    service.batch(session, limits["maxSeqNum"], [1]).ok(204)
    service.batch(session, limits["maxSeqNum"] + 1, [1]).refused(400, "invalid_seq_num")


# --- Batches as NDJSON ----------------------------------------------------------------------------


@check(BYTES)
def odd_records_arrive_unchanged_as_ndjson(service: Service) -> None:
    session = service.create(2 * len(_ODD_RECORDS))
    ndjson = b"\n".join([*_ODD_RECORDS, b""])
    service.lines(session, 0, ndjson).ok(204)
    spaced = b"\n \t\n" + b"\t\r\n\r\n  ".join(_ODD_RECORDS)
    service.lines(session, 1, gzip.compress(spaced), content_encoding="gzip").ok(204)
    service.merged(session, 2 * len(_ODD_RECORDS), ndjson * 2)


@check(RESEND)
def lines_and_json_are_the_same_batch(service: Service) -> None:
    session = service.create(4)
    service.lines(session, 0, b'{"a": 1.0}\n2\n').ok(204)
    service.raw(session, b'{"seqNum":0,"data":[{"a": 1.0},2]}').ok(204)
    service.raw(session, b'{"seqNum":1,"data":[{"b":[\n3]},4]}').ok(204)
    service.lines(session, 1, b'{"b":[3]}\r\n4').ok(204)
    for other in (b'{"a":1.0}\n2\n', b'{"a": 1.0}\n', b'{"a": 1.0}\n2\n3\n'):
        problem = service.lines(session, 0, other).refused(409, "batch_conflict")
        digest = hashlib.sha256(b'{"a": 1.0}\n2\n').hexdigest()
        found = (problem["seqNum"], problem["storedDigest"], problem["storedRecords"])
        expect("what is stored", found, (0, digest, 2))
    service.merged(session, 4, b'{"a": 1.0}\n2\n{"b":[3]}\n4\n')


@check(CONTRACT)
def a_line_is_one_record_or_an_error_names_it(service: Service) -> None:
    session = service.create(1)
    for body, code, line in (
        (b"", "empty_data", None),
        (b"\n \r\n", "empty_data", None),
        (b'1\n{"a":\n1}\n', "truncated_json", 2),
        (b"1\n\n2 3\n", "trailing_text", 3),
        (b"[1\n2]\n3,4\n", "truncated_json", 1),
        (b"3,4\n[1\n2]\n", "trailing_text", 1),
        (b"{}{}\n{\n}\n", "trailing_text", 1),
        (b"1\n01\n", "malformed_json", 2),
        (b"1\n2\n-Infinity", "not_a_number", 3),
        (b'"\t"\n', "control_character", 1),
        (b'1\r\n"\\ud800"\r\n', "lone_surrogate", 2),
        (b'1\n"\xff"\n', "invalid_utf8", None),
        (b"1\n" + b"[" * 20_000 + b"]" * 20_000, "too_deeply_nested", 2),
    ):
        problem = service.lines(session, 0, body).refused(400, code)
        if line:
            expect(f"line of {body[:20]!r}", problem.get("line"), line)
    for number in ("00", "-0", "1e0", "1.0", "100000", "x"):
        service.lines(session, number, b"1\n").refused(400, "invalid_seq_num")
    expect("batches that were stored", service.status(session)["batches"], 0)


@check(CONTRACT)
def lines_are_counted_if_batches_have_a_fixed_length(service: Service) -> None:
    session = service.create(5, 2)
    found = service.lines(session, 0, b"1\n\n").refused(400, "wrong_batch_length")
    expect("lengths", (found["expected"], found["received"]), (2, 1))
    found = service.lines(session, 3, b"1\n").refused(400, "seq_num_out_of_range")
    expect("range", found["expected"], {"from": 0, "to": 2})
    service.lines(session, 2, b"5").ok(204)


# --- Finish ---------------------------------------------------------------------------------------


@check(PROOF)
def batches_in_any_order_become_one_object_in_order(service: Service) -> None:
    session = service.create(5, 2)
    for number, data in ((2, [5]), (0, [1, 2]), (1, [3, 4])):
        service.batch(session, number, data).ok(204)
    result = service.merged(session, 5, b"1\n2\n3\n4\n5\n")
    expect("batches", result["batches"], 3)
    status = service.status(session)
    expect("state and result", (status["state"], status["finish"]), ("FINISHED", result))


@check(PROOF)
def an_empty_data_set_is_an_empty_object(service: Service) -> None:
    service.merged(service.create(0), 0, b"")
    service.merged(service.create(0, 5), 0, b"")


@check(PROMISE)
def what_was_acknowledged_survives_a_failed_finish(service: Service) -> None:
    session = service.create(4, 1)
    service.batch(session, 0, ["first"]).ok(204)
    expect("validationResult", service.finish(session)["validationResult"], "Failed")
    with ThreadPoolExecutor(4) as threads:
        finishing = threads.submit(service.call, "POST", f"/{session}/finish")
        sent = [threads.submit(service.batch, session, n, [n]) for n in (1, 2)]
    finishing.result()
    for response in (one.result() for one in sent):
        if response.status != 204:  # noqa: PLR2004 - not acknowledged: a finish ran
            response.refused(409, "session_finishing")
            holds("Retry-After", bool(response.headers.get("retry-after")))
    for number, data in ((1, 1), (2, 2), (3, 3), (0, "first")):
        deadline = time.monotonic() + _PATIENCE
        while (response := service.batch(session, number, [data])).status != 204:  # noqa: PLR2004
            response.refused(409, "session_finishing")
            holds("patience is left", time.monotonic() < deadline)
            time.sleep(1)
    service.merged(session, 4, b'"first"\n1\n2\n3\n')


@check(CONTRACT)
def a_strict_gap_report_names_the_tail(service: Service) -> None:
    session = service.create(9, 1)
    for number in (0, 3, 4, 6):
        service.batch(session, number, [number]).ok(204)
    gaps = [{"from": 1, "to": 2}, {"from": 5, "to": 5}, {"from": 7, "to": 8}]
    expect("missing by status", service.status(session)["missing"], gaps)
    failed = service.finish(session)
    found = [failed.get(name) for name in ("validationResult", "reason", "missing", "batches")]
    expect("finish", found, ["Failed", "missing_batches", gaps, 4])
    expect("state", service.status(session)["state"], "OPEN")
    for number in (1, 2, 5, 7, 8):
        service.batch(session, number, [number]).ok(204)
    service.merged(session, 9, b"".join(b"%d\n" % n for n in range(9)))


@check(CONTRACT)
def a_flexible_session_counts_its_records(service: Service) -> None:
    session = service.create(4)
    service.batch(session, 1, [3]).ok(204)
    failed = service.finish(session)
    found = [failed["reason"], failed["missing"]]
    expect("finish with a hole", found, ["missing_batches", [{"from": 0, "to": 0}]])
    service.batch(session, 0, [1, 2]).ok(204)
    failed = service.finish(session)
    found = [failed.get(name) for name in ("reason", "missing", "receivedRecord", "batches")]
    expect("finish without the tail", found, ["record_count", [], 3, 2])
    service.batch(session, 2, [4]).ok(204)
    service.merged(session, 4, b"1\n2\n3\n4\n")
    more = service.create(1)
    service.batch(more, 0, [1, 2]).ok(204)
    failed = service.finish(more)
    found = [failed.get(name) for name in ("validationResult", "reason", "receivedRecord")]
    expect("finish with too many", found, ["Failed", "record_count", 2])


# --- Totals at finish -----------------------------------------------------------------------------


@check(CONTRACT)
def an_open_ended_session_gets_its_total_at_finish(service: Service) -> None:
    response = service.call("POST", "", b'{"totalRecord": null, "batchSize": 2}')
    response.refused(400, "invalid_batch_size")
    service.call("POST", "", b"{}").refused(400, "missing_member")
    session = service.create(None)
    found = service.status(session)
    expect("totals", (found["totalRecord"], found["batchSize"]), (None, None))
    service.batch(session, 0, [1, 2]).ok(204)
    service.batch(session, 1, [3]).ok(204)
    service.ask(session).refused(400, "missing_total")
    service.ask(session, batches=2).refused(400, "missing_total")
    expect("state", service.status(session)["state"], "OPEN")
    service.merged(session, 3, b"1\n2\n3\n", totalRecord=3, batches=2)
    service.merged(service.create(None), 0, b"", totalRecord=0, batches=0)


@check(CONTRACT)
def the_totals_of_a_finish_are_plain_digits(service: Service) -> None:
    session = service.create(None)
    service.batch(session, 0, [1]).ok(204)
    wrong: object
    for wrong in (-1, 1.5, "1", True, [], 2**53):
        service.ask(session, totalRecord=wrong).refused(400, "invalid_total_record")
        service.ask(session, totalRecord=1, batches=wrong).refused(400, "invalid_batches")
    service.ask(session, totalRecord=1, batches=100_001).refused(400, "invalid_batches")
    path = f"/{session}/finish"
    service.call("POST", path, b"[1]").refused(400, "not_an_object")
    twice = b'{"totalRecord": 1, "totalRecord": 1}'
    service.call("POST", path, twice).refused(400, "repeated_member")
    service.merged(session, 1, b"1\n", totalRecord=1, unknown=1)


@check(CONTRACT)
def with_the_number_of_batches_the_gap_report_names_the_tail(service: Service) -> None:
    for total in (None, 5):
        session = service.create(total)
        for number in (0, 2):
            service.batch(session, number, [number]).ok(204)
        failed = service.finish(session, totalRecord=5, batches=5)
        names = ("reason", "missing", "totalRecord", "batches", "expectedBatches")
        gaps = [{"from": 1, "to": 1}, {"from": 3, "to": 4}]
        found = [failed.get(name) for name in names]
        expect("finish with a hole", found, ["missing_batches", gaps, 5, 2, 5])
        expect("status", service.status(session)["finish"], failed)
        for number in (1, 3, 4):
            service.batch(session, number, [number]).ok(204)
        service.merged(session, 5, b"0\n1\n2\n3\n4\n", totalRecord=5, batches=5)


@check(PROOF)
def a_batch_beyond_the_number_of_batches_is_unexpected(service: Service) -> None:
    session = service.create(None)
    for number in (0, 1, 3):
        service.batch(session, number, [number]).ok(204)
    failed = service.finish(session, totalRecord=1, batches=1)
    found = [failed.get(name) for name in ("validationResult", "reason", "unexpected")]
    beyond = [{"from": 1, "to": 1}, {"from": 3, "to": 3}]
    expect("finish", found, ["Failed", "unexpected_batches", beyond])
    service.batch(session, 2, [2]).ok(204)
    service.merged(session, 4, b"0\n1\n2\n3\n", totalRecord=4, batches=4)


@check(PROOF)
def other_totals_are_a_conflict_and_change_nothing(service: Service) -> None:
    session = service.create(2)
    for number in (0, 1):
        service.batch(session, number, [number]).ok(204)
    problem = service.ask(session, totalRecord=3).refused(409, "totals_conflict")
    found = [problem[name].get("totalRecord") for name in ("fixed", "asked")]
    expect("fixed and asked", found, [2, 3])
    strict = service.create(2, 1)
    service.ask(strict, batches=1).refused(409, "totals_conflict")
    open_ended = service.create(None)
    for number in (0, 1):
        service.batch(open_ended, number, [number]).ok(204)
    failed = service.finish(open_ended, totalRecord=3)
    found = [failed[name] for name in ("reason", "totalRecord", "receivedRecord")]
    expect("too few", found, ["record_count", 3, 2])
    result = service.merged(open_ended, 2, b"0\n1\n", totalRecord=2)
    for other in ({"totalRecord": 3}, {"totalRecord": 2, "batches": 3}, {"batches": 1}):
        service.ask(open_ended, **other).refused(409, "totals_conflict")
    for same in ({}, {"totalRecord": 2}, {"totalRecord": 2, "batches": 2}):
        expect("the result", service.finish(open_ended, **same), result)


@check(REPEATABLE)
def concurrent_finishes_with_other_totals_never_share_an_answer(service: Service) -> None:
    session = service.create(None)
    for number in range(4):
        service.batch(session, number, [number]).ok(204)
    totals = [4, 3, 4, 5, 4, 3, 4, 5]
    with ThreadPoolExecutor(8) as threads:
        responses = list(threads.map(lambda n: service.ask(session, totalRecord=n), totals))
    for total, response in zip(totals, responses, strict=True):
        if response.status == httpx.codes.CONFLICT:
            response.refused(409, "totals_conflict")
        elif response.status != httpx.codes.ACCEPTED:
            body = response.ok(200)
            verdict = "Success" if total == 4 else "Failed"  # noqa: PLR2004 - how many there are
            found = (body["validationResult"], body["totalRecord"])
            expect(f"the finish with {total}", found, (verdict, total))
    service.merged(session, 4, b"0\n1\n2\n3\n", totalRecord=4, batches=4)


@check(REPEATABLE)
def finish_returns_the_same_body_every_time(service: Service) -> None:
    session = service.create(1)
    service.batch(session, 0, [1]).ok(204)
    first = service.finish(session)
    expect("the second response", service.finish(session), first)
    expect("status", service.status(session)["finish"], first)


@check(REPEATABLE)
def concurrent_finishes_agree(service: Service) -> None:
    session = service.create(20, 2)
    for number in range(10):
        service.batch(session, number, [2 * number, 2 * number + 1]).ok(204)
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda _: service.finish(session), range(8)))
    expect("all responses", [one == results[0] for one in results], [True] * 8)
    service.merged(session, 20, b"".join(b"%d\n" % n for n in range(20)))


@check(ATOMIC)
def there_is_no_object_before_success(service: Service) -> None:
    session = service.create(2, 1)
    service.batch(session, 0, [1]).ok(204)
    expect("validationResult", service.finish(session)["validationResult"], "Failed")
    for what in ("file", "manifest"):
        service.call("GET", f"/{session}/{what}").refused(409, "session_not_finished")


@check(PROOF)
def a_late_batch_changes_nothing(service: Service) -> None:
    session = service.create(1)
    service.batch(session, 0, [1]).ok(204)
    service.merged(session, 1, b"1\n")
    for number, data in ((0, [1]), (0, [2]), (1, [2])):
        response = service.batch(session, number, data)
        # A Lambda instance that has cached the session as open compares the batch first.
        code = "batch_conflict" if response.json.get("code") == "batch_conflict" else ""
        holds("a conflict only of what differs", (code, data) != ("batch_conflict", [1]))
        response.refused(409, code or "session_finished")
    service.call("DELETE", f"/{session}").refused(409, "session_finished")
    service.merged(session, 1, b"1\n")


@check(CONTRACT)
def the_file_is_a_redirect_or_a_link(service: Service) -> None:
    session = service.create(2)
    service.batch(session, 0, ["é", 2]).ok(204)
    service.finish(session)
    for what in ("file", "manifest"):
        response = service.call("GET", f"/{session}/{what}")
        expect("status", response.status, 307)
        expect("Location", response.headers.get("location", "")[:4], "http")
        link = service.call("GET", f"/{session}/{what}", headers={"Accept": "application/json"})
        time.strptime(link.ok(200)["expiresAt"], "%Y-%m-%dT%H:%M:%SZ")
    whole = service.download(session)
    expect("from byte 4 on", service.download(session, first=4), whole[4:])


@check(PROOF)
def the_manifest_locates_each_batch(service: Service) -> None:
    session = service.create(3, 2)
    service.batch(session, 1, [{"c": 3}]).ok(204)
    service.batch(session, 0, [1, "é"]).ok(204)
    result = service.finish(session)
    manifest = json.loads(service.download(session, "manifest"))
    whole = service.download(session)
    facts = [manifest[name] for name in ("sessionId", "key", "records", "bytes", "checksum")]
    expected = [session, result["key"], 3, len(whole), result["checksum"]]
    expect("manifest", facts, expected)
    expect("batches", [(b["seqNum"], b["records"]) for b in manifest["batches"]], [(0, 2), (1, 1)])
    at = 0
    for batch in manifest["batches"]:
        expect("offset", batch["offset"], at)
        at += batch["length"]
        content = whole[batch["offset"] : at]
        expect("lines", content.count(b"\n"), batch["records"])
        expect("sha256", batch["sha256"], hashlib.sha256(content).hexdigest())
    expect("end", at, len(whole))


@check(PROOF)
def a_merge_of_several_parts_is_whole(service: Service) -> None:
    """13 MB in batches that are all too small to be parts: the service must join them."""
    records = [b'"%s"' % (b"%d" % n * 4_000_000) for n in range(3)] + [b'"the last"']
    session = service.create(len(records), 1)
    for number in (2, 0, 3, 1):
        service.raw(session, b'{"seqNum":%d,"data":[%s]}' % (number, records[number])).ok(204)
    service.merged(session, len(records), b"\n".join([*records, b""]))


@check(PROOF)
def a_merge_with_a_copied_part_is_whole(service: Service) -> None:
    """Batches large enough to be parts: S3 may copy them, and their order must be kept."""
    records = [b'"%s"' % (letter * 6_000_000) for letter in (b"a", b"b", b"c")]
    records[1:1] = [b'"short"']
    session = service.create(len(records), 1)
    headers = {"content_type": MEDIA_TYPE, "content_encoding": "gzip"}
    for number in (3, 1, 0, 2):
        body = gzip.compress(b'{"seqNum":%d,"data":[%s]}' % (number, records[number]), 1)
        service.raw(session, body, **headers).ok(204)
    service.merged(session, len(records), b"\n".join([*records, b""]))


@check(CONTRACT)
def a_session_has_one_of_two_formats(service: Service) -> None:
    expect("format", service.status(service.create(1))["format"], "ndjson")
    for name in ("ndjson", "ndjson.gz"):
        expect("format", service.status(service.create(1, format=name))["format"], name)
    for other in (b'""', b'"NDJSON"', b'"gzip"', b"null", b"1", b"true", b'["ndjson"]'):
        response = service.call("POST", "", b'{"totalRecord": 1, "format": %s}' % other)
        expect("member", response.refused(400, "invalid_format").get("member"), "format")


def _crc32(content: bytes) -> str:
    return base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()


def _gzip_file(service: Service, session: str, ndjson: bytes) -> bytes:
    """The merged object of an ndjson.gz session, which must contain these lines."""
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    link = service.call("GET", f"/{session}/file", headers=headers)
    varies = {name.strip() for name in link.headers.get("vary", "").lower().split(",")}
    holds("Vary", varies >= {"accept", "accept-encoding"})
    response = service.follow(link.ok(200)["url"], "identity")
    expect("Content-Type", response.headers.get("content-type"), "application/gzip")
    expect("Content-Encoding", response.headers.get("content-encoding"), None)
    reader = zlib.decompressobj(31)
    expect("content", reader.decompress(response.content), ndjson)
    expect("one complete gzip member", (reader.eof, reader.unused_data), (True, b""))
    return response.content


@check(PROOF)
def a_compressed_object_is_one_gzip_member(service: Service) -> None:
    for total, size in ((0, None), (5, 2), (5, None)):
        session = service.create(total, size, format="ndjson.gz")
        sent: dict[int, list[object]] = {2: [5], 0: [1, 2], 1: ["é", 4]}
        batches = sent if total else {}
        for number, data in batches.items():
            service.batch(session, number, data).ok(204)
            service.batch(session, number, data).ok(204)
        ndjson = b'1\n2\n"\\u00e9"\n4\n5\n' if total else b""
        result = service.finish(session)
        expect("validationResult", result["validationResult"], "Success")
        merged = _gzip_file(service, session, ndjson)
        sums = (result["bytes"], result["checksum"]["value"])
        expect("bytes and checksum", sums, (len(merged), _crc32(merged)))
        content = (result["content"]["bytes"], result["content"]["checksum"]["value"])
        expect("bytes and checksum of the content", content, (len(ndjson), _crc32(ndjson)))
        expect("key", result["key"][-10:], ".ndjson.gz")


@check(PROOF)
def however_batches_are_compressed_they_become_one_object(service: Service) -> None:
    """A service may store what the client compressed, if it can be a part of the object."""
    flushes = (zlib.Z_FULL_FLUSH, zlib.Z_NO_FLUSH, zlib.Z_SYNC_FLUSH)
    batches = [
        b"".join(b'{"record": %d, "batch": %d}\n' % (record, number) for record in range(1_000))
        for number in range(len(flushes))
    ]
    session = service.create(1_000 * len(batches), format="ndjson.gz")
    for number, ndjson in enumerate(batches):
        for flush in (*flushes[number:], *flushes[:number]):
            made = zlib.compressobj(6, zlib.DEFLATED, 31)
            packed = made.compress(ndjson) + made.flush(flush) + made.flush()
            service.lines(session, number, packed, content_encoding="gzip").ok(204)
    expect("validationResult", service.finish(session)["validationResult"], "Success")
    _gzip_file(service, session, b"".join(batches))


@check(CONTRACT)
def a_client_that_accepts_gzip_gets_lines_of_a_compressed_object(service: Service) -> None:
    session = service.create(1, format="ndjson.gz")
    service.batch(session, 0, [1]).ok(204)
    service.finish(session)
    for accepted in ("gzip", "br;q=1, gzip;q=0.5", "*"):
        headers = {"Accept": "application/json", "Accept-Encoding": accepted}
        link = service.call("GET", f"/{session}/file", headers=headers)
        response = service.follow(link.ok(200)["url"], "gzip")
        expect("Content-Type", response.headers.get("content-type"), "application/x-ndjson")
        expect("Content-Encoding", response.headers.get("content-encoding"), "gzip")
        expect("lines", response.content, b"1\n")


@check(PROOF)
def the_manifest_of_a_compressed_object_locates_each_batch(service: Service) -> None:
    session = service.create(3, 2, format="ndjson.gz")
    service.batch(session, 1, [{"c": 3}]).ok(204)
    service.batch(session, 0, [1, 2]).ok(204)
    result = service.finish(session)
    manifest = json.loads(service.download(session, "manifest"))
    names = ("sessionId", "key", "bytes", "checksum", "content")
    expect("manifest", [manifest[name] for name in names], [result[name] for name in names])
    merged = _gzip_file(service, session, b'1\n2\n{"c": 3}\n')
    for batch, content in zip(manifest["batches"], (b"1\n2\n", b'{"c": 3}\n'), strict=True):
        stored = merged[batch["offset"] : batch["offset"] + batch["length"]]
        expect("a batch by itself", zlib.decompressobj(-15).decompress(stored), content)
        facts = (batch["records"], batch["contentLength"], batch["sha256"])
        digest = hashlib.sha256(content).hexdigest()
        expect("its facts", facts, (content.count(b"\n"), len(content), digest))


# --- Abort, and deletion --------------------------------------------------------------------------


@check(CONTRACT)
def the_file_can_be_deleted(service: Service) -> None:
    session = service.create(1)
    service.batch(session, 0, [1]).ok(204)
    service.call("DELETE", f"/{session}/file").refused(409, "session_not_finished")
    result = service.merged(session, 1, b"1\n")
    links = [
        service.call("GET", f"/{session}/{what}", headers={"Accept": "application/json"}).ok(200)
        for what in ("file", "manifest")
    ]
    expect("fileDeletedAt", service.status(session)["fileDeletedAt"], None)
    deleted = service.call("DELETE", f"/{session}/file")
    if deleted.status == httpx.codes.CONFLICT:
        # The merge was handed over or repeated: another attempt might still publish.
        deleted.refused(409, "file_settling")
        holds("Retry-After", bool(deleted.headers.get("retry-after")))
        return
    deleted.ok(204)
    service.call("DELETE", f"/{session}/file").ok(204)
    for what in ("file", "manifest"):
        service.call("GET", f"/{session}/{what}").refused(410, "file_deleted")
    expect("existing links", [service.is_there(one["url"]) for one in links], [False, False])
    status = service.status(session)
    expect("state and result", (status["state"], status["finish"]), ("FINISHED", result))
    time.strptime(status["fileDeletedAt"], "%Y-%m-%dT%H:%M:%SZ")
    expect("finish", service.finish(session), result)


@check(CONTRACT)
def an_aborted_session_accepts_nothing(service: Service) -> None:
    session = service.create(1)
    service.batch(session, 0, [1]).ok(204)
    service.call("DELETE", f"/{session}").ok(204)
    service.call("DELETE", f"/{session}").ok(204)
    expect("state", service.status(session)["state"], "ABORTED")
    service.batch(session, 0, [1]).refused(409, "session_aborted")
    service.call("POST", f"/{session}/finish").refused(409, "session_aborted")
    service.call("GET", f"/{session}/file").refused(409, "session_not_finished")
