"""The handlers on the events of ``events/``, which ``sam local invoke`` and the docs use."""

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.api import Api
from tests.conftest import MotoStack
from uploads.config import Config
from uploads.wiring import Wiring

EVENTS = Path(__file__).parents[2] / "events"
PLACEHOLDER = "0" * 32
CONTEXT: Any = SimpleNamespace(
    aws_request_id="7f0c2d1e", get_remaining_time_in_millis=lambda: 29_000
)

EXPECTED = re.findall(
    r"^\| `(\w+)\.json` \| (\d+)(?: `(\w+)`)?", (EVENTS / "README.md").read_text(), re.MULTILINE
)


def load(name: str, session_id: str = PLACEHOLDER) -> dict[str, Any]:
    text = (EVENTS / f"{name}.json").read_text()
    if name != "unknown_session":
        text = text.replace(PLACEHOLDER, session_id)
    event: dict[str, Any] = json.loads(text)
    return event


def handle(event: dict[str, Any], auth_mode: str = "NONE") -> dict[str, Any]:
    """The response of the function to which the event's route belongs."""
    import batches  # noqa: PLC0415 - they read the environment, which the stack sets
    import finish  # noqa: PLC0415
    import sessions  # noqa: PLC0415

    route = event["routeKey"]
    function = (
        finish
        if route.endswith("/finish")
        else batches
        if route == "POST /api/upload/sessions/{sessionId}" or route.startswith("PUT ")
        else sessions
    )
    config = Config.from_env({**os.environ, "AUTH_MODE": auth_mode})
    answer: dict[str, Any] = function.build(Wiring(config))(event, CONTEXT)
    return answer


def mode_of(name: str) -> str:
    _, _, end = name.rpartition("_")
    return end.upper() if end in {"iam", "jwt"} else "NONE"


NEEDS = {
    "create_key_reused": ["create_key"],
    "batch_conflict": ["batch"],
    "lines": ["batch"],
    "lines_conflict": ["batch"],
    "finish": ["batch", "batch_gzip"],
    "finish_totals": ["batch", "batch_gzip"],
    "file": ["batch", "batch_gzip", "finish"],
    "file_json": ["batch", "batch_gzip", "finish"],
    "manifest": ["batch", "batch_gzip", "finish"],
    "manifest_json": ["batch", "batch_gzip", "finish"],
    "delete_file": ["batch", "batch_gzip", "finish"],
}
"""The operations that must precede the event."""


OF_A_SCHEMA = {"batch_satisfies_schema", "batch_invalid_records", "lines_invalid_records"}


def test_every_event_has_its_answer_documented() -> None:
    assert {name for name, _, _ in EXPECTED} == {path.stem for path in EVENTS.glob("*.json")}


@pytest.mark.usefixtures("stack")
@pytest.mark.parametrize(
    ("name", "status", "code"), EXPECTED, ids=[name for name, _, _ in EXPECTED]
)
def test_event(name: str, status: str, code: str) -> None:
    kind = "open_ended" if name == "finish_missing_total" else "strict"
    if name in OF_A_SCHEMA:
        kind = "schema"
    created = json.loads(handle(load(f"create_{kind}"))["body"])
    for earlier in NEEDS.get(name, []):
        assert handle(load(earlier, created["sessionId"]))["statusCode"] < 300
    answer = handle(load(name, created["sessionId"]), mode_of(name))
    assert answer["statusCode"] == int(status)
    if code:
        assert answer["headers"]["content-type"] == "application/problem+json"
        assert json.loads(answer["body"])["code"] == code
    if name in {"finish", "finish_totals"}:
        assert json.loads(answer["body"])["validationResult"] == "Success"


@pytest.mark.slow
@pytest.mark.usefixtures("stack")
@pytest.mark.parametrize("mode", ["IAM", "JWT"])
def test_no_identity_is_refused_unless_everybody_is_one(mode: str) -> None:
    named = ("create", "list", "batch", "lines", "finish", "status", "file", "manifest", "abort")
    for name in (*named, "delete_file"):
        answer = handle(load(name), mode)
        assert (answer["statusCode"], json.loads(answer["body"])["code"]) == (403, "no_identity")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["IAM", "JWT"])
def test_a_session_is_a_404_to_every_other_principal(local: MotoStack, mode: str) -> None:
    create = load(f"create_{mode.lower()}")
    session_id = json.loads(handle(create, mode)["body"])["sessionId"]
    mine = create["requestContext"]["authorizer"]
    text = json.dumps(mine).replace("AROAEXAMPLE", "AROASTRANGER")
    stranger = json.loads(text)
    if mode == "JWT":
        stranger["jwt"]["claims"]["sub"] = "stranger"
    unknown = []
    named = ("status", "file", "manifest", "finish", "abort", "batch", "lines", "delete_file")
    for name in named:
        for who, its_id in ((stranger, session_id), (mine, "f" * 32)):
            event = load(name, its_id)
            event["requestContext"]["authorizer"] = who
            with local.aws.recording() as calls:
                answer = handle(event, mode)
            unknown.append((answer["statusCode"], answer["body"], [c.operation for c in calls]))
        # Same answer and same calls as for an id that never existed.
        assert unknown[-2] == unknown[-1]
        assert unknown[-1][0] == 404
    own = load("status", session_id)
    own["requestContext"]["authorizer"] = mine
    assert json.loads(handle(own, mode)["body"])["state"] == "OPEN"


def test_logs_name_the_session_and_contain_no_record(
    api: Api, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POWERTOOLS_METRICS_DISABLED", raising=False)
    session_id = api.create(2)
    api.batch(session_id, 0, ["secret-record"])
    api.batch(session_id, 0, ["secret-other"])
    api.raw_batch(session_id, b'{"seqNum":1,"data":["secret-broken"],}')
    api.lines(session_id, 1, b'"secret-line"\n"secret-broken\n')
    api.finish(session_id)
    out, err = capfd.readouterr()
    assert "secret" not in out + err
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    metrics = [line for line in lines if "_aws" in line]
    assert {name for line in metrics for name in line} >= {
        "Batches",
        "Records",
        "Bytes",
        "Conflicts",
    }
