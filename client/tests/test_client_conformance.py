"""The conformance checks: the local service passes all of them, a faulty service fails them."""

import json
import subprocess
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from front import gapless_command
from gapless.conformance import CHECKS, Response, Service, run
from local.server import Server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Lie = Callable[[str, str, Response], Response]
"""Turns method, path and correct response into a wrong response."""


def conformance(*arguments: str) -> tuple[int, str, str]:
    """Run the command; returns exit code, standard output and standard error."""
    done = subprocess.run(
        gapless_command("conformance", *arguments), capture_output=True, timeout=500, check=False
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_the_local_service_passes_every_check(service: str) -> None:
    code, out, said = conformance(service, "--json")
    *outcomes, result = map(json.loads, out.splitlines())
    assert [one for one in outcomes if not one["passed"]] == []
    assert (code, len(outcomes), result["failed"]) == (0, len(CHECKS), 0), said
    assert {f"{number}: " for number in (1, 2, 3, 4, 5, 7)} <= {
        name[:3] for name, _ in CHECKS.values()
    }


def other(answer: Response, **members: object) -> Response:
    """The same response with other members in its body."""
    return Response(answer.status, answer.headers, json.dumps(answer.json | members).encode())


def quiet(code: str) -> Lie:
    """Return 204 instead of this refusal."""
    return lambda _method, _path, answer: (
        Response(204, httpx.Headers(), b"")
        if f'"code":"{code}"'.encode() in answer.body
        else answer
    )


def of_finish(change: Callable[[dict[str, Any]], dict[str, object]]) -> Lie:
    """Change the result of finish."""
    return lambda method, path, answer: (
        other(answer, **change(answer.json))
        if method == "POST" and path.endswith("/finish") and answer.status == 200
        else answer
    )


COUNT = iter(range(1_000_000))
LIES: dict[str, tuple[Lie, str]] = {
    "a conflict is accepted": (quiet("batch_conflict"), "another batch is a conflict"),
    "a late batch is accepted": (quiet("session_finished"), "a late batch"),
    "a batch of a wrong length is accepted": (quiet("wrong_batch_length"), "a strict session"),
    "a record over two lines is accepted": (quiet("truncated_json"), "a line is one record"),
    "other lines are accepted": (quiet("batch_conflict"), "lines and json are the same"),
    "another line is named": (
        lambda _, __, answer: other(answer, line=9) if answer.status == 400 else answer,
        "a line is one record",
    ),
    "a member given twice is accepted": (quiet("repeated_member"), "given twice"),
    "a corrupt body is accepted": (quiet("digest_mismatch"), "content digest"),
    "an aborted session accepts batches": (quiet("session_aborted"), "an aborted session"),
    "the tail is not reported": (
        of_finish(lambda body: {"missing": body.get("missing", [])[:-1]}),
        "a strict gap report",
    ),
    "Success with a hole": (
        of_finish(lambda _: {"validationResult": "Success"}),
        "a strict gap report",
    ),
    "finish returns another body each time": (
        of_finish(lambda _: {"times": next(COUNT)}),
        "finish returns the same",
    ),
    "a wrong checksum": (
        of_finish(lambda _: {"checksum": {"value": "AAAAAA=="}}),
        "batches in any order",
    ),
    "a wrong number of records": (
        of_finish(lambda _: {"receivedRecord": 4}),
        "batches in any order",
    ),
    "the tail is not reported though the batches are counted": (
        of_finish(lambda body: {"missing": body.get("missing", [])[:1]}),
        "with the number of batches",
    ),
    "a batch beyond is accepted": (
        of_finish(lambda _: {"validationResult": "Success", "reason": ""}),
        "is unexpected",
    ),
    "other totals are accepted": (quiet("totals_conflict"), "other totals are"),
    "a finish without a total is accepted": (quiet("missing_total"), "its total at finish"),
    "the total of another finish": (
        of_finish(lambda body: {"totalRecord": body["totalRecord"] + 1}),
        "never share an answer",
    ),
    "only the first part is counted": (
        of_finish(lambda body: {"bytes": min(body.get("bytes", 0), 8_000_006)}),
        "of several parts",
    ),
    "the copied part is not counted": (
        of_finish(lambda body: {"bytes": min(body.get("bytes", 0), 12_000_000)}),
        "a copied part",
    ),
    "malformed ids look different": (
        lambda _, path, answer: other(answer, detail="malformed") if "/x" in path else answer,
        "unknown and malformed",
    ),
    "an object before its time": (
        lambda _, path, answer: (
            Response(307, answer.headers, b"") if path.endswith("/file") else answer
        ),
        "no object before",
    ),
    "the content is different": (
        of_finish(lambda body: {"content": {"bytes": 7, "checksum": body["checksum"]}}),
        "one gzip member",
    ),
    "a key gives another session": (
        lambda _, __, answer: (
            other(answer, sessionId=f"{next(COUNT):032}") if answer.status == 201 else answer
        ),
        "opened once for a key",
    ),
    "a key is for any body": (quiet("idempotency_key_reused"), "opened once for a key"),
    "every schema is deployed": (quiet("unknown_schema"), "not deployed"),
    "metadata is forgotten": (
        lambda _, __, answer: (
            other(answer, metadata={}) if '"metadata":{"' in answer.body.decode() else answer
        ),
        "keeps its metadata",
    ),
    "a deleted file still exists": (
        lambda method, _, answer: (
            Response(200, httpx.Headers({"content-type": "application/json"}), b'{"url": "x"}')
            if (method, answer.status) == ("GET", 410)
            else answer
        ),
        "can be deleted",
    ),
    "no detail": (
        lambda _, __, answer: other(answer, detail="") if answer.status == 400 else answer,
        "malformed body",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_found(service: str, name: str) -> None:
    lie, check = LIES[name]

    class Lying(Service):
        def call(
            self,
            method: str,
            path: str = "",
            body: bytes | None = None,
            headers: Mapping[str, str] | None = None,
        ) -> Response:
            return lie(method, path, super().call(method, path, body, headers))

    honest, lying = Service(service), Lying(service)
    assert [outcome.passed for outcome in run(honest, [check])] == [True]
    (outcome,) = run(lying, [check])
    assert not outcome.passed
    assert outcome.detail
    honest.close()
    lying.close()


def test_another_service_fails_every_check() -> None:
    def app(_: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/html")])
        return [b"<html>"]

    with Server(app) as server:
        code, out, said = conformance(server.url, "--json")
        outcomes = [json.loads(line) for line in out.splitlines()]
        passed = [one["check"] for one in outcomes if one.get("passed")]
        assert (code, passed, len(outcomes)) == (1, [], len(CHECKS) + 1), said
        code, out, said = conformance(server.url)
        assert code == 1
        assert "FAIL" in out
        assert f"{len(CHECKS)} failed" in said
