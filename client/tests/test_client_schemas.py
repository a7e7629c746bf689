"""Records and schemas: the client judges as the service does, and names what is wrong by line."""

import json
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapless import violations
from gapless.schemas import Schema
from uploads import limits
from uploads.decode import violations as of_service
from uploads.decode.records import RecordCheck

SCHEMAS: Final = Path(__file__).parents[2] / "tests/schemas"
ORDERS: Final = (SCHEMAS / "orders.v3.json").read_bytes()
"""Deployed with the tests' stack."""


def judged_here(text: bytes, records: list[bytes]) -> list[tuple[int, str, str]]:
    found = Schema("any", text).violations(records)
    return [(one.index, one.path, one.message) for one in found]


def judged_there(text: bytes, records: list[bytes]) -> list[tuple[int, str, str]]:
    """The service's verdict on batches of a record, which has no bound for many."""
    check = RecordCheck(text)
    found = []
    for index, record in enumerate(records):
        _, alone = check.check(record + b"\n", float)
        found += [(index, one.path, one.message) for one in alone]
    # What it says of all together is the same, up to its limit.
    count, together = check.check(b"".join(record + b"\n" for record in records), float)
    assert count == len(found)
    if not ('"anyOf"' in text.decode() or '"oneOf"' in text.decode()):
        told = [(one.index, one.path, one.message) for one in together]
        assert told == found[: limits.MAX_INVALID_SHOWN]
    return found


def test_what_is_wrong_is_said_by_the_same_code() -> None:
    # The client does not import the functions, and is installed without them.
    assert Path(violations.__file__).read_bytes() == Path(of_service.__file__).read_bytes()


RECURSIVE: Final = b"""{"$ref": "#/$defs/node", "$defs": {"node": {"type": ["object", "integer"],
    "additionalProperties": {"$ref": "#/$defs/node"}}}}"""
UNIONS: Final = b"""{"properties": {"a": {"anyOf": [{"type": "integer"}, {"maxLength": 3}]},
    "b": {"oneOf": [{"multipleOf": 2}, {"multipleOf": 3}]}}, "propertyNames": {"maxLength": 5}}"""
NUMBERS: Final = b"""{"properties": {"n": {"type": "integer", "maximum": 1e30}, "x":
    {"multipleOf": 0.01,
    "exclusiveMinimum": 1e-320}}, "unevaluatedProperties": {"enum": [1.0, null, "x"]}}"""
DRAFT: Final = b"""{"$schema": "http://json-schema.org/draft-07/schema#",
    "anyOf": [{"$ref": "http://json-schema.org/draft-07/schema#"}, {"type": "array"}]}"""
MANY: Final = (
    ORDERS,
    RECURSIVE,
    UNIONS,
    NUMBERS,
    DRAFT,
    b"true",
    b"false",
    b'{"uniqueItems":true}',
)

GOOD: Final = b'{"id": 1, "sku": "AB-1234", "quantity": 3}'
HARD: Final = [
    GOOD,
    b'{"id": 1, "sku": "AB-1234", "quantity": "secret", "customer": {"country": "D"}}',
    b'{"id":1e0,"sku":"A\\u0042-1234","quantity":' + b"9" * 30 + b"}",
    b'{"id":1,"id":"1","sku":"AB-1234","quantity":1}',
    b'{"a":{"b":1,"b":1}}',
    b'{"a\\u003a":1,"a\\u003A":1,"a:":2}',
    b'{"x":0.1}',
    b'{"x":0.10000000000000000000000000001}',
    b'{"x":1e-321,"n":1e30}',
    b'{"x":1e-400,"n":1000000000000000000000000000001}',
    b'{"x":-0.0,"n":12345678901234567890.0}',
    b'{"n":1e4300}',
    b'{"n":1e4301}',
    b'{"n":' + b"1" * 4_300 + b"}",
    b'{"n":' + b"1" * 4_301 + b"}",
    b'{"n":1.' + b"1" * 4_299 + b"}",
    b"1e999999999",
    b"[" * 200 + b"]" * 200,
    b"[" * 201 + b"]" * 201,
    b'{"a":' * 6 + b'"x"' + b"}" * 6,
    b'{"a":' * 7 + b'"x"' + b"}" * 7,
    b'{"a":' * 200 + b'"["' + b"}" * 200,
    b"[" + b",".join([b"1"] * 200_001) + b"]",
    b'{"a":"' + b"x" * (128 * 1024) + b'"}',
    b'{"longname":1,"other name":2,"c":3,"dddddddd":4}',
    b'{"' + b"\\ud83d\\ude00/~" * 2_000 + b'":"secret"}',
    b"7",
    b"null",
    b'"\\""',
    b"[]",
    b'[1,1.0,{"a":1}]',
]


@pytest.mark.parametrize("text", MANY, ids=lambda text: text[:40].decode())
def test_records_on_the_edges_are_judged_as_by_the_service(text: bytes) -> None:
    assert judged_here(text, HARD) == judged_there(text, HARD)


VALUES: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["AB-1234", "EUR", "x", "2026-01-02", "é😀"]) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from("abnx") | st.text(max_size=7), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
ORDERLY: Final = st.fixed_dictionaries(
    {"id": st.integers(0, 5), "sku": st.sampled_from(["AB-1234", "x"]), "quantity": VALUES},
    optional={"price": st.decimals(0, 9, places=3).map(float), "tags": VALUES, "more": VALUES},
)


@given(st.sampled_from(MANY), st.lists(VALUES | ORDERLY, min_size=1, max_size=30))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_records_are_judged_as_by_the_service(text: bytes, values: list[object]) -> None:
    records = [json.dumps(value).encode() for value in values]
    assert judged_here(text, records) == judged_there(text, records)
