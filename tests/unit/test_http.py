"""What a function writes to its log, and how it answers what it did not expect."""

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
from uploads.http import answer, entry

def fail(request):
    raise RuntimeError("a bug")

def refuse(request):
    raise errors.EmptyBodyError("secret detail")

handler = entry({"a": lambda request: answer(204), "b": refuse, "c": fail}, AuthMode.NONE)
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


def test_each_request_is_one_line_that_names_its_session_and_not_its_content() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"PYTHONPATH": str(ROOT / "functions"), "POWERTOOLS_LOG_LEVEL": "INFO"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
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
    # An unexpected fault tells its request's id and nothing else.
    assert json.loads(answers[2]["body"]) == {
        "type": "urn:gapless:error:internal_error",
        "title": "The service failed.",
        "status": 500,
        "code": "internal_error",
        "requestId": "request-1",
    }
