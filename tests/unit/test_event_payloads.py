"""Which stream records become events, and the content of each event."""

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from local.in_process import TEMPLATE
from local.streams import TIME_TO_LIVE, matches
from local.template import Template
from uploads import limits
from uploads.events import Event, Kind, event_of
from uploads.session import State
from uploads.session_store import pack

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs/events.schema.json").read_text(encoding="utf-8"))
EVENTS_MD = (ROOT / "docs/events.md").read_text(encoding="utf-8")
PATTERNS = Template.load(TEMPLATE).event_sources["announce.lambda_handler"].patterns

ID = "0" * 32
TABLE = "arn:aws:dynamodb:us-east-1:123456789012:table/sessions"
OWNER = '["iam","123456789012","AIDAOWNER"]'
HOLDER = "0123456789abcdef"
SUCCESS = {
    "sessionId": ID,
    "validationResult": "Success",
    "totalRecord": 3,
    "receivedRecord": 3,
    "batches": 2,
    "bytes": 6,
    "key": f"{ID}.ndjson",
    "manifest": f"{ID}.manifest.json",
    "checksum": {"algorithm": "CRC32", "type": "FULL_OBJECT", "value": "AAAAAA=="},
}
FAILED = {
    "sessionId": ID,
    "validationResult": "Failed",
    "reason": "missing_batches",
    "detail": "4 batches are missing. Send what is missing and finish again.",
    "missing": [{"from": 3, "to": 5}, {"from": 9, "to": 9}],
    "totalRecord": 10,
    "batches": 6,
}


def item(state: State | None, **more: Any) -> dict[str, Any] | None:  # noqa: ANN401 - attributes
    """An item in Lambda's JSON, where bytes are base64."""
    if state is None:
        return None
    result = more.pop("result", None)
    if result:
        more["result"] = {"B": base64.b64encode(pack(result)).decode()}
    return {
        "sessionId": {"S": ID},
        "version": {"N": "1"},
        "owner": {"S": OWNER},
        "totalRecord": {"N": "3"},
        "format": {"S": "ndjson"},
        "metadata": {"M": {"partner": {"S": "acme"}}},
        "createdAt": {"N": "1795392943"},
        "batchesUntil": {"N": "1795479343"},
        "expiresAt": {"N": "1795565743"},
        "state": {"S": state.value},
        "attempt": {"N": "1"},
        "holder": {"S": HOLDER},
        **more,
    }


def record(
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
    *,
    key: str = ID,
    by: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    name = "MODIFY" if before and after else "INSERT" if after else "REMOVE"
    change = {
        "Keys": {"sessionId": {"S": key}},
        "ApproximateCreationDateTime": 1795392950.0,
        "SequenceNumber": "100000000000000000042",
        **({"OldImage": before} if before else {}),
        **({"NewImage": after} if after else {}),
    }
    return {
        "eventID": "7de3041dd709b024af6f29e4fa13d34c",
        "eventName": name,
        "eventSourceARN": f"{TABLE}/stream/2026-11-23T00:00:00.000",
        "dynamodb": change,
        **({"userIdentity": by} if by else {}),
    }


P, G, F, A = State.OPEN, State.FINISHING, State.FINISHED, State.ABORTED
DELETED = {"fileDeletedAt": {"N": "1795392949"}}
TOLD = {
    Kind.CREATED: [record(None, item(P))],
    Kind.FINISHED: [record(item(G), item(F, result=SUCCESS))],
    Kind.FAILED: [record(item(G), item(P, result=FAILED))],
    Kind.ABORTED: [record(item(P), item(A)), record(item(G), item(A))],
    Kind.EXPIRED: [record(item(state), None, by=TIME_TO_LIVE) for state in (P, G)],
    Kind.FILE_DELETED: [
        record(item(F, result=SUCCESS), item(F, result=SUCCESS, **DELETED)),
    ],
}
CHANGED = {"cleanedAgain": {"N": "1"}}
NOT_TOLD = {
    "sealed": record(item(P), item(G)),
    "taken over": record(item(G), item(G, attempt={"N": "2"})),
    "a batch later": record(item(P), item(P, **CHANGED)),
    "touched when aborted": record(item(A), item(A, **CHANGED)),
    "touched when finished": record(item(F), item(F, **CHANGED)),
    "its file deleted again": record(item(F, **DELETED), item(F, **DELETED, **CHANGED)),
    "its result is over": record(item(F), None, by=TIME_TO_LIVE),
    "an aborted one is over": record(item(A), None, by=TIME_TO_LIVE),
    "removed by hand": record(item(P), None, by={"type": "Root", "principalId": "1234"}),
    "removed by an unknown caller": record(item(P), None),
    "a key": record(None, {"sessionId": {"S": "key:" + "0" * 64}}, key="key:" + "0" * 64),
    "a key that looks like a session": record(None, item(P), key="key:" + "0" * 64),
    "a key is over": record(
        {"sessionId": {"S": "key:0"}}, None, key="key:" + "0" * 64, by=TIME_TO_LIVE
    ),
}


def event(one: dict[str, Any]) -> Event:
    found = event_of(one, "merged-bucket")
    assert found
    return found


def valid(detail: object, kind: Kind) -> None:
    """Check ``detail`` against the schema of its kind."""
    schema = SCHEMA | {"$ref": f"#/$defs/{kind.value.replace(' ', '')}"}
    jsonschema_rs.Draft202012Validator(schema, offline=True).validate(detail)


@pytest.mark.parametrize("kind", Kind)
def test_a_move_is_one_event_that_matches_its_schema(kind: Kind) -> None:
    for one in TOLD[kind]:
        told = event(one)
        assert told.kind is kind
        entry = told.entry
        assert (entry["Source"], entry["DetailType"]) == ("gapless", kind.value)
        assert entry["Resources"] == [TABLE]
        assert entry["Time"].timestamp() == 1795392950
        detail = json.loads(entry["Detail"])
        valid(detail, kind)
        assert detail["id"] == one["eventID"]
        assert detail["sequence"] == one["dynamodb"]["SequenceNumber"]
        assert detail["metadata"] == {"partner": "acme"}
        assert detail["time"] == "2026-11-23T00:15:50Z"
        # Neither the owner nor the lease's holder may be published.
        assert "AIDAOWNER" not in entry["Detail"]
        assert HOLDER not in entry["Detail"]
        assert any(matches(one, pattern) for pattern in PATTERNS)


@pytest.mark.parametrize("name", NOT_TOLD)
def test_records_that_are_not_events(name: str) -> None:
    assert event_of(NOT_TOLD[name], "merged-bucket") is None


@pytest.mark.parametrize(
    "name", ["sealed", "taken over", "a batch later", "a key", "a key is over"]
)
def test_the_most_frequent_changes_invoke_no_function(name: str) -> None:
    assert not any(matches(NOT_TOLD[name], pattern) for pattern in PATTERNS)


def test_what_was_finished_says_where_it_is() -> None:
    (one,) = TOLD[Kind.FINISHED]
    detail = event(one).detail
    assert {
        "state": "FINISHED",
        "bucket": "merged-bucket",
        "key": f"{ID}.ndjson",
        "manifest": f"{ID}.manifest.json",
        "receivedRecord": 3,
        "batches": 2,
        "bytes": 6,
        "checksum": SUCCESS["checksum"],
    }.items() <= detail.items()
    (one,) = TOLD[Kind.FILE_DELETED]
    assert event(one).detail["fileDeletedAt"] == "2026-11-23T00:15:49Z"


def test_what_failed_says_why() -> None:
    (one,) = TOLD[Kind.FAILED]
    detail = event(one).detail
    assert {
        "state": "OPEN",
        "reason": "missing_batches",
        # The total by which the finish was judged.
        "totalRecord": 10,
        "missing": FAILED["missing"],
        "missingBatches": 4,
    }.items() <= detail.items()
    assert "missingTruncated" not in detail


def test_an_open_ended_session_has_no_total_yet() -> None:
    after = item(P)
    assert after
    del after["totalRecord"]
    told = event(record(None, after))
    assert told.detail["totalRecord"] is None
    valid(told.detail, Kind.CREATED)


def test_a_large_report_is_cut() -> None:
    gaps = [{"from": 2 * n, "to": 2 * n} for n in range(10_000)]
    failed = FAILED | {"missing": gaps, "missingTruncated": True}
    failed |= {"unexpected": gaps[:101], "reason": "unexpected_batches"}
    after = item(P, result=failed)
    assert after
    after["metadata"] = {"M": {f"n{n}": {"S": '"' * 125} for n in range(16)}}
    told = event(record(item(G), after))
    assert told.detail["missing"] == gaps[: limits.EVENT_RANGES]
    # The item may not know all of them.
    assert told.detail["missingBatches"] is None
    assert told.detail["unexpectedBatches"] == 101
    assert told.detail["missingTruncated"] is told.detail["unexpectedTruncated"] is True
    valid(told.detail, Kind.FAILED)
    assert len(told.entry["Detail"].encode()) < 16_384


def test_the_report_of_an_item_that_has_none_says_so() -> None:
    failed = FAILED | {"missing": [], "missingTruncated": True}
    told = event(record(item(G), item(P, result=failed)))
    assert (told.detail["missing"], told.detail["missingTruncated"]) == ([], True)
    assert told.detail["missingBatches"] is None
    valid(told.detail, Kind.FAILED)


def test_each_event_is_documented_with_an_example() -> None:
    examples = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", EVENTS_MD, re.DOTALL)]
    envelopes = [one for one in examples if "detail-type" in one and isinstance(one["source"], str)]
    assert [one["detail-type"] for one in envelopes] == [kind.value for kind in Kind]
    for one in envelopes:
        valid(one["detail"], Kind(one["detail-type"]))
    documented = {name for kind in Kind for name in event(TOLD[kind][0]).detail}
    assert {name for name in documented if f"`{name}`" not in EVENTS_MD} == set()


def test_the_schema_knows_every_member() -> None:
    """Otherwise a misspelt member would be valid."""
    for kind in Kind:
        for one in TOLD[kind]:
            detail = event(one).detail
            with pytest.raises(jsonschema_rs.ValidationError):
                valid(detail | {"version": 2}, kind)
            for name in detail:
                with pytest.raises(jsonschema_rs.ValidationError):
                    valid({other: detail[other] for other in detail if other != name}, kind)
