"""Sessions with a schema: accepted and refused records, and the report about them."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.api import Answer, Api
from tests.conftest import SCHEMAS, MotoStack
from tests.schemas_api import api_with
from uploads.http import logger

GOOD = b'{"id": 1, "sku": "AB-1234", "quantity": 3}'
NAME = "orders.v3"


def refused(answer: Answer) -> list[dict[str, Any]]:
    """The report about invalid records."""
    assert (answer.status, answer.code) == (422, "invalid_records"), answer
    assert len(answer.body) < 64 * 1024
    found: list[dict[str, Any]] = answer.json["errors"]
    return found


def write(folder: Path, schema: object, name: str = NAME) -> Path:
    """A folder with one schema."""
    text = schema if isinstance(schema, str) else json.dumps(schema)
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return folder


def test_what_satisfies_the_schema_is_stored_byte_for_byte(any_api: Api, stack: MotoStack) -> None:
    records = [GOOD, b'{"price":1.10,"id":1e0,"sku":"A\\u0042-1234","quantity":' + b"9" * 30 + b"}"]
    session_id = any_api.create(4, schema=NAME)
    assert any_api.lines(session_id, 0, b"\n\n".join(records)).status == 204
    body = b'{"seqNum":1,"data":[' + b" , ".join(records) + b"]}"
    assert any_api.raw_batch(session_id, body).status == 204
    whole = b"\n".join([*records, b""])
    assert stack.stored(session_id, 0) == stack.stored(session_id, 1) == whole
    assert any_api.status(session_id).json["schema"] == NAME
    assert any_api.finish(session_id).json["validationResult"] == "Success"
    assert json.loads(stack.manifest(session_id))["schema"] == NAME
    assert stack.merged(session_id) == whole * 2


def test_invalid_records_are_reported_by_index_line_pointer_and_reason(
    any_api: Api, stack: MotoStack
) -> None:
    wrong = b'{"id": 1, "sku": "AB-1234", "quantity": "secret", "customer": {"country": "D"}}'
    worse = b'{"id": 2, "sku": "ab", "quantity": 1}'
    session_id = any_api.create(9, schema=NAME)
    answer = any_api.lines(session_id, 0, b"\n".join([b"", GOOD, wrong, b" ", GOOD, worse, b"7"]))
    assert answer.json["count"] == 3
    by_line = refused(answer)
    assert by_line == [
        {"index": 1, "path": "/quantity", "message": "is not of type integer", "line": 3},
        {
            "index": 3,
            "path": "/sku",
            "message": 'does not match the pattern "^[A-Z]{2}-[0-9]{4}$"',
            "line": 6,
        },
        {"index": 4, "path": "", "message": "is not of type object", "line": 7},
    ]
    body = b'{"seqNum":0,"data":[' + b",".join([GOOD, wrong, GOOD, worse, b"7"]) + b"]}"
    answer = any_api.raw_batch(session_id, body)
    assert refused(answer) == [{k: v for k, v in one.items() if k != "line"} for one in by_line]
    assert b"secret" not in answer.body
    assert stack.stored_keys(session_id) == []
    # The seqNum is still free.
    assert any_api.lines(session_id, 0, GOOD).status == 204


def test_a_hundred_are_reported_and_all_are_counted(api: Api) -> None:
    session_id = api.create(9, schema=NAME)
    bad = [index for index in range(20_000) if index % 7 == 3]
    lines = [b"{}" if index % 7 == 3 else GOOD for index in range(20_000)]
    answer = api.lines(session_id, 0, b"\n".join(lines))
    assert answer.json["count"] == len(bad)
    assert [one["index"] for one in refused(answer)] == bad[:100]
    assert [one["line"] for one in refused(answer)] == [index + 1 for index in bad[:100]]


def test_long_names_and_values_make_no_long_answer(api: Api, tmp_path: Path) -> None:
    schema: dict[str, object] = {
        "patternProperties": {"^o": {"enum": ["é" * 5_000, *"abcdefgh"]}},
        "additionalProperties": False,
    }
    long = api_with(write(tmp_path, schema))
    session_id = long.create(9, schema=NAME)
    record = {"o" + "😀/~" * 2_000: "secret"}
    assert refused(long.gzip_batch(session_id, 0, [record] * 200))[0]["path"] == ""
    told = refused(
        long.gzip_batch(session_id, 0, [{"x\n😀" * 2_000 + str(n): 1} for n in range(200)])
    )
    assert len(told) == 100
    assert max(len(json.dumps(one["message"])) for one in told) <= 200
    assert api.create(1)


def test_no_schema_is_a_400_by_any_wrong_name(api: Api) -> None:
    for name in ("orders.v0", "", ".", "..", "../schemas/orders.v3", "orders.v3.json", "ORDERS.V3"):
        body = json.dumps({"totalRecord": 1, "schema": name}).encode()
        answer = api.request("POST", Api.ROOT, body)
        assert (answer.status, answer.code, answer.json["member"]) == (
            400,
            "unknown_schema",
            "schema",
        )
        # The names of deployed schemas are not revealed.
        assert NAME not in answer.json["detail"]
    for no_name in ("1", f'["{NAME}"]', "{}", "true"):
        body = f'{{"totalRecord": 1, "schema": {no_name}}}'.encode()
        assert api.request("POST", Api.ROOT, body).code == "unknown_schema"
    assert api.create(1, schema=None)


@pytest.mark.usefixtures("stack")
def test_a_stack_may_ask_for_one() -> None:
    strict = api_with(SCHEMAS, require_schema=True)
    answer = strict.request("POST", Api.ROOT, b'{"totalRecord": 1}')
    assert (answer.status, answer.code) == (400, "schema_required")
    assert strict.status(strict.create(1, schema=NAME)).json["schema"] == NAME


def test_a_deployment_that_changes_a_schema_ends_its_sessions(
    local: MotoStack, tmp_path: Path
) -> None:
    text = '{"type": "object", "required": ["id"]}'
    before = api_with(write(tmp_path, text))
    session_id = before.create(2, schema=NAME)
    assert before.batch(session_id, 0, [{"id": 1}]).status == 204
    # The same except for whitespace.
    same = api_with(write(tmp_path, json.dumps(json.loads(text), indent=4)))
    assert same.batch(session_id, 0, [{"id": 1}]).status == 204
    for changed in ('{"type": "object"}', None):
        (tmp_path / f"{NAME}.json").unlink()
        after = api_with(write(tmp_path, changed) if changed else tmp_path)
        with local.aws.recording() as calls:
            # Refused before the body is read.
            answer = after.raw_batch(session_id, b"[")
        assert (answer.status, answer.code) == (409, "schema_changed")
        assert Counter(call.operation for call in calls) == {"GetItem": 2}
    # Functions of the earlier deployment continue: the schema is in their memory.
    assert before.batch(session_id, 1, [{"id": 2}]).status == 204
    assert before.batch(session_id, 2, [{}]).status == 422


def test_a_check_takes_no_call_more(local: MotoStack, api: Api) -> None:
    session_id = api.create(9, schema=NAME)
    assert api.lines(session_id, 0, GOOD).status == 204
    with local.aws.recording() as calls:
        assert api.lines(session_id, 1, GOOD).status == 204
    assert Counter(call.operation for call in calls) == {"GetItem": 1, "PutObject": 1}
    with local.aws.recording() as calls:
        assert api.lines(session_id, 2, b"7").status == 422
    assert Counter(call.operation for call in calls) == {"GetItem": 1}


def test_an_invalid_batch_of_a_closed_session_gets_the_session_error(api: Api) -> None:
    session_id = api.create(0, schema=NAME)
    assert api.lines(session_id, 0, b"7").status == 422
    assert api.finish(session_id).status == 200
    assert api.lines(session_id, 0, b"7").code == "session_finished"


def test_nothing_of_a_record_is_logged(
    api: Api, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    session_id = api.create(9, schema=NAME)
    level = logger.log_level
    logger.setLevel("INFO")
    api.lines(session_id, 0, b'{"id": 1, "sku": "secret", "secret": "secret"}')
    logger.setLevel(level)
    line = caplog.records[-1]
    assert vars(line)["code"] == "invalid_records"
    assert "secret" not in "".join(capfd.readouterr()) + str(vars(line))


def test_a_session_without_a_schema_loads_no_validator(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = ("uploads.schemas", "uploads.decode.records", "uploads.decode.violations")
    for name in [name for name in sys.modules if name in mine or name.startswith("jsonschema_rs")]:
        monkeypatch.delitem(sys.modules, name)
    session_id = api.create(1)
    assert api.lines(session_id, 0, b"{}").status == 204
    assert api.status(session_id).json["schema"] is None
    assert not {name for name in sys.modules if name in mine or name.startswith("jsonschema_rs")}
