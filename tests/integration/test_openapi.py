"""The running service, tested by schemathesis with requests generated from openapi.yaml."""

import base64
import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar

import pytest
import requests
import schemathesis
import yaml
from hypothesis import settings
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from requests.adapters import HTTPAdapter
from schemathesis import GenerationMode, Response, openapi
from schemathesis.specs.openapi import checks

pytestmark = pytest.mark.slow

OPENAPI = Path(__file__).parents[2] / "openapi.yaml"
Case = schemathesis.Case[Any]
SESSIONS = "/api/upload/sessions"
PROBLEM = "application/problem+json"

SCHEMA = openapi.from_path(
    OPENAPI,
    config=schemathesis.Config.from_dict(
        {
            "seed": 1,
            "phases": {"coverage": {"unexpected-methods": []}},
            "generation": {"deterministic": True, "max-examples": 40, "database": "none"},
        }
    ),
)


@schemathesis.serializer("application/x-ndjson")
def as_lines(_: schemathesis.SerializationContext, value: object) -> bytes:
    """Send text unchanged; a body generated as wrong is sent as bytes that are not text."""
    return value.encode(errors="surrogatepass") if isinstance(value, str) else b"\xff"


@schemathesis.check
def every_answer_is_the_services_own(
    _: schemathesis.CheckContext, response: Response, case: Case
) -> None:
    """No answer may be cached, and errors are problems, except for paths without a route."""
    media_type = response.headers.get("content-type", [""])[0]
    session_id = str((case.path_parameters or {}).get("sessionId", "0"))
    if response.status_code == 404 and media_type != PROBLEM:
        assert not session_id or set("/.") & set(session_id), "a route of the API was not found"
        return
    assert response.headers["cache-control"] == ["no-store"]
    if response.status_code < 400:
        return
    assert media_type == PROBLEM
    assert response.json()["status"] == response.status_code


CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    every_answer_is_the_services_own,
]


class HonestHeaders(HTTPAdapter):
    """Make generated headers true: compress the body, and compute its digest."""

    def send(
        self,
        request: requests.PreparedRequest,
        *args: Any,  # noqa: ANN401 - passed on
        **kwargs: Any,  # noqa: ANN401 - passed on
    ) -> requests.Response:
        """Send ``request`` with a body that matches its headers."""
        body: Any = request.body or b""
        sent: bytes = body.encode() if isinstance(body, str) else body
        if request.headers.get("Content-Encoding") == "gzip":
            sent = gzip.compress(sent, mtime=0)
        if str(request.headers.get("Content-Digest")).startswith("sha-256=:"):
            digest = base64.b64encode(hashlib.sha256(sent).digest()).decode()
            request.headers["Content-Digest"] = f"sha-256=:{digest}:"
        if request.body:
            request.prepare_body(sent, None)
        return super().send(request, *args, **kwargs)


@pytest.fixture(scope="module")
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.mount("http://", HonestHeaders())
        yield session


class Sessions:
    """Sessions in every state, as targets of generated requests."""

    def __init__(self, http: requests.Session, url: str) -> None:
        self._http = http
        self._url = url + SESSIONS
        self._make = {
            "flexible": self.flexible,
            "strict": self.strict,
            "open-ended": self.open_ended,
            "finished": self.finished,
            "file deleted": self.file_deleted,
            "aborted": self.aborted,
        }
        self._kinds = cycle([*self._make, "flexible", "made up"])

    def next(self) -> tuple[str, str | None]:
        """A kind, and the id of a session of that kind; None stands for a generated id."""
        kind = next(self._kinds)
        return kind, self._make[kind]() if kind in self._make else None

    def flexible(self) -> str:
        """An open session without batchSize."""
        return self._create({"totalRecord": 3})

    def strict(self) -> str:
        """An open session with batchSize."""
        return self._create({"totalRecord": 3, "batchSize": 2})

    def open_ended(self) -> str:
        return self._create({"totalRecord": None})

    def finished(self) -> str:
        session_id = self._create({"totalRecord": 1})
        url = f"{self._url}/{session_id}"
        self._http.post(url, json={"seqNum": 0, "data": [1]}).raise_for_status()
        answer = self._http.post(f"{url}/finish")
        assert answer.json()["validationResult"] == "Success"
        return session_id

    def file_deleted(self) -> str:
        session_id = self.finished()
        self._http.delete(f"{self._url}/{session_id}/file").raise_for_status()
        return session_id

    def aborted(self) -> str:
        session_id = self.flexible()
        self._http.delete(f"{self._url}/{session_id}").raise_for_status()
        return session_id

    def _create(self, body: Mapping[str, int | None]) -> str:
        answer = self._http.post(self._url, json=body)
        answer.raise_for_status()
        session_id: str = answer.json()["sessionId"]
        return session_id


@pytest.fixture(scope="module")
def sessions(http: requests.Session, server_url: str) -> Sessions:
    return Sessions(http, server_url)


def test_openapi_is_valid() -> None:
    validate(yaml.safe_load(OPENAPI.read_text(encoding="utf-8")), cls=OpenAPIV31SpecValidator)


def make_lines(case: Case, records: int | None = None) -> None:
    """Turn a body of any text into NDJSON, which openapi.yaml cannot describe."""
    words = str(case.body).split("\n")
    case.body = "\n".join(json.dumps(word) for word in (words * (records or 1))[:records])


def is_positive(case: Case) -> bool:
    return case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE


def accepted(case: Case, session_kind: str, answer: Response) -> bool:
    """Whether ``answer`` is right for a request that openapi.yaml allows."""
    if answer.status_code < 400:
        return True
    code = answer.json()["code"]
    if code == "gzip_as_text":
        # Both headers are valid, but not gzip with application/json.
        return case.media_type == "application/json" and "gzip" in case.headers.values()
    if code in {"invalid_content_digest", "invalid_idempotency_key"}:
        # schemathesis adds headers to examples, regardless of their patterns.
        return "0" in case.headers.values()
    body: Any = case.body
    if code == "invalid_batch_size" and body["totalRecord"] is None:
        return True
    if code in {
        *("invalid_total_record", "invalid_batch_size", "invalid_seq_num"),
        "invalid_batches",
    }:
        # JSON Schema takes 1.0 for an integer, and cannot require the form 1.
        return any(isinstance(value, float) for value in body.values())
    # Otherwise it depends on the body's numbers and the session.
    return (
        code
        in {
            "made up": {
                *("session_not_found", "too_many_batches"),
                # There are no owners, keys repeat with other bodies, and schemas are made up.
                *("no_list", "idempotency_key_reused", "unknown_schema"),
            },
            "flexible": {"session_not_finished", "totals_conflict"},
            "open-ended": {"session_not_finished", "missing_total"},
            "strict": {
                *("seq_num_out_of_range", "wrong_batch_length"),
                *("session_not_finished", "totals_conflict"),
            },
            # A function that has the session in its cache as open checks the batch first.
            "finished": {"session_finished", "batch_conflict", "totals_conflict"},
            "file deleted": {
                *("session_finished", "batch_conflict", "totals_conflict"),
                "file_deleted",
            },
            "aborted": {"session_aborted", "session_not_finished"},
        }[session_kind]
    )


@SCHEMA.parametrize()
def test_answers_are_those_of_openapi(
    case: Case, server_url: str, http: requests.Session, sessions: Sessions
) -> None:
    kind = "made up"
    if is_positive(case) and "sessionId" in case.path_parameters:
        kind, session_id = sessions.next()
        case.path_parameters["sessionId"] = session_id or case.path_parameters["sessionId"]
        if operation_id(case) == "storeLines":
            make_lines(case)
    answer = case.call_and_validate(server_url, http, checks=CHECKS, allow_redirects=False)
    if is_positive(case):
        assert accepted(case, kind, answer), (kind, answer.status_code, answer.text)


# The list has no links, and without owners it is refused.
LINKED = SCHEMA.exclude(operation_id="listSessions")


class Uploads(LINKED.as_state_machine()):  # type: ignore[misc] # the class is made at run time
    """Follow the links of openapi.yaml at random; every second batch is made to fit."""

    server_url: ClassVar[str]
    http: ClassVar[requests.Session]
    seen: ClassVar[Counter[str]]

    def setup(self) -> None:
        self.total_records: dict[str, int] = {}
        self.turns = cycle([True, False])

    def before_call(self, case: Case) -> None:
        """Make numbers small, so that sessions can be finished."""
        body: Any = case.body
        if not is_positive(case):
            return
        if operation_id(case) == "createSession":
            body["totalRecord"] = (body["totalRecord"] or 0) % 5
            body["batchSize"] = 5 if next(self.turns) else None
            # A generated schema name is unknown.
            body.pop("schema", None)
            case.headers.pop("Content-Encoding", None)
            case.headers.pop("Idempotency-Key", None)
        elif operation_id(case) == "storeBatch" and next(self.turns):
            total = self.total_records.get(case.path_parameters["sessionId"])
            if total:
                case.body = {"seqNum": 0, "data": (body["data"] * total)[:total]}
                case.headers.pop("Content-Encoding", None)
        elif operation_id(case) == "finishSession":
            total = self.total_records.get(case.path_parameters["sessionId"])
            if next(self.turns):
                case.body = {"totalRecord": total}
                case.headers.pop("Content-Encoding", None)
            elif total is not None:
                case.body = {"totalRecord": total + 1}
                case.headers.pop("Content-Encoding", None)
        elif operation_id(case) == "storeLines":
            total = self.total_records.get(case.path_parameters["sessionId"])
            make_lines(case, total)
            case.path_parameters["seqNum"] = 0

    def get_call_kwargs(self, _: Case) -> dict[str, Any]:
        return {"base_url": self.server_url, "session": self.http, "allow_redirects": False}

    def after_call(self, response: Response, case: Case) -> None:
        super().after_call(response, case)
        answer = response.json() if response.content else {}
        what = answer.get("validationResult") or answer.get("state") or answer.get("code") or ""
        self.seen[f"{operation_id(case)} {response.status_code} {what}".strip()] += 1
        if response.status_code == HTTPStatus.CREATED:
            body: Any = case.body
            self.total_records[answer["sessionId"]] = body["totalRecord"]

    def validate_response(self, response: Response, case: Case, **kwargs: Any) -> None:  # noqa: ANN401
        case.validate_response(response, checks=CHECKS, transport_kwargs=kwargs)


def operation_id(case: Case) -> str:
    name: str = case.operation.definition.raw["operationId"]
    return name


def test_links_lead_from_a_session_to_its_file(
    server_url: str, http: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Counter[str] = Counter()
    for name, value in {"server_url": server_url, "http": http, "seen": seen}.items():
        monkeypatch.setattr(Uploads, name, value, raising=False)
    Uploads.run(
        settings=settings(
            max_examples=150,
            stateful_step_count=12,
            derandomize=True,
            database=None,
        )
    )
    assert seen.keys() >= {
        "createSession 201",
        "storeBatch 204",
        "storeLines 204",
        "storeBatch 409 session_aborted",
        "getSession 200 OPEN",
        "getSession 200 FINISHED",
        "getSession 200 ABORTED",
        "finishSession 200 Failed",
        "finishSession 200 Success",
        "finishSession 409 session_aborted",
        "finishSession 409 totals_conflict",
        "getFile 307",
        "getFile 409 session_not_finished",
        "getManifest 307",
        "abortSession 204",
        "abortSession 409 session_finished",
        "deleteFile 204",
        "deleteFile 409 session_not_finished",
    }, seen


@pytest.mark.parametrize("route", ["file", "manifest"])
def test_the_links_of_a_deleted_file_are_gone(
    route: str, server_url: str, http: requests.Session, sessions: Sessions
) -> None:
    case = SCHEMA[f"{SESSIONS}/{{sessionId}}/{route}"]["GET"].Case(
        path_parameters={"sessionId": sessions.file_deleted()}
    )
    answer = case.call_and_validate(server_url, http, checks=CHECKS, allow_redirects=False)
    assert (answer.status_code, answer.json()["code"]) == (410, "file_deleted")
