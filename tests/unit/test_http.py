"""A function's log, and its answer to unexpected errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SCRIPT = """
import json
from types import SimpleNamespace
from uploads import errors
from uploads.config import AuthMode
from uploads.http import make_handler, respond

def config(auth_mode, table="gapless-SessionsTable-1ABCDEF"):
    return SimpleNamespace(auth_mode=auth_mode, sessions_table=table)

def fail(request):
    raise RuntimeError("a bug")

def refuse(request):
    raise errors.EmptyBodyError("secret detail")

operations = {"a": lambda request: respond(204), "b": refuse, "c": fail}
handler = make_handler(operations, config(AuthMode.NONE))
context = SimpleNamespace(aws_request_id="request-1")
for route in "abc":
    event = {
        "routeKey": route,
        "body": "secret body",
        "pathParameters": {"sessionId": "0" * 600},
        "requestContext": {"requestId": "gateway-1"},
    }
    print(json.dumps(handler(event, context)))
"""


OWNERS = """
for auth_mode, table, authorizer in (
    (AuthMode.JWT, "gapless-SessionsTable-1ABCDEF", "ada@example.com"),
    (AuthMode.JWT, "gapless-SessionsTable-1ABCDEF", "bob@example.com"),
    (AuthMode.JWT, "another", "ada@example.com"),
    (AuthMode.JWT, "another", None),
    (AuthMode.NONE, "another", "ada@example.com"),
):
    claims = {"iss": "https://issuer.example.com/pool", "sub": authorizer}
    event = {
        "routeKey": "a",
        "requestContext": {"authorizer": {"jwt": {"claims": claims}}},
    }
    make_handler(operations, config(auth_mode, table))(event, context)
"""


def output(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT / "functions"), "POWERTOOLS_LOG_LEVEL": "INFO"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_who_calls_is_logged_as_a_hash_that_only_the_stack_can_make() -> None:
    # The first lines belong to the calls in SCRIPT.
    printed = output(SCRIPT + OWNERS).splitlines()[6:]
    ada, bob, elsewhere, nobody, anybody = (json.loads(line).get("owner") for line in printed)
    # printf '%s' '["jwt", "https://issuer.example.com/pool", "ada@example.com"]' |
    #     openssl dgst -sha256 -hmac gapless-SessionsTable-1ABCDEF
    assert ada == "f6e9f8fa2f826ad5"
    assert len({ada, bob, elsewhere}) == 3
    assert nobody is None
    assert anybody is None
    assert "example.com" not in "".join(printed)


def test_each_request_is_one_line_that_names_its_session_and_not_its_content() -> None:
    lines = [json.loads(line) for line in output(SCRIPT).splitlines()]
    logged, answers = lines[::2], lines[1::2]
    for line in logged:
        assert line["correlation_id"] == "gateway-1"
        assert line["function_request_id"] == "request-1"
        assert line["session_id"] == "0" * 64
    assert [(line["level"], line["status"]) for line in logged] == [
        ("INFO", 204),
        ("INFO", 400),
        ("ERROR", 500),
    ]
    assert logged[1]["code"] == "empty_body"
    assert "RuntimeError: a bug" in logged[2]["exception"]
    assert "secret" not in json.dumps(logged)
    assert [answer["statusCode"] for answer in answers] == [204, 400, 500]
    assert [answer["headers"]["cache-control"] for answer in answers] == ["no-store"] * 3
    # The answer to an unexpected error contains the request's id and nothing else.
    assert json.loads(answers[2]["body"]) == {
        "type": "urn:gapless:error:internal_error",
        "title": "The service failed.",
        "status": 500,
        "code": "internal_error",
        "requestId": "request-1",
    }


BROKEN = """
for event in (
    {"routeKey": "a", "requestContext": None, "pathParameters": None, "headers": None},
    {"routeKey": "a", "requestContext": "secret", "pathParameters": {"sessionId": None}},
    {"routeKey": "a", "pathParameters": ["secret"], "headers": "secret"},
    {"routeKey": "secret"},
    {},
):
    for auth_mode in AuthMode:
        print(json.dumps(make_handler(operations, config(auth_mode))(event, context)))
"""


def test_an_event_that_is_broken_has_an_answer_too() -> None:
    printed = [json.loads(line) for line in output(SCRIPT + BROKEN).splitlines()[6:]]
    assert [line["statusCode"] for line in printed if "statusCode" in line] == [204] * 9 + [500] * 6
    assert len([line for line in printed if line.get("message") in {"answered", "failed"}]) == 15
