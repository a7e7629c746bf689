"""Records checked against a schema: exact numbers, repeated members, limits, bounded search.

The reference is ``decimal`` for numbers, and ``json`` for members.
"""

import json
import random
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploads import errors, limits
from uploads.decode.records import RecordCheck

DRAFT_4 = "http://json-schema.org/draft-04/schema#"
TREE = {
    "oneOf": [
        {
            "type": "object",
            "required": ["op"],
            "properties": {"op": {"const": op}, "args": {"items": {"$ref": "#"}}},
        }
        for op in ("and", "or", "not")
    ]
    + [{"type": "number"}]
}
REPEATED = "has an object with a member that is given twice"


def checked(schema: object, *records: str) -> list[tuple[str, str] | None]:
    """For each record, where and why it is invalid; None if it is valid."""
    check = RecordCheck(json.dumps(schema).encode() if not isinstance(schema, bytes) else schema)
    ndjson = "".join(f"{record}\n" for record in records).encode()
    count, found = check.check(ndjson, lambda: 0)
    told = {one.index: (one.path, one.message) for one in found}
    assert len(told) == min(count, limits.MAX_INVALID_SHOWN)
    return [told.get(index) for index in range(len(records))]


def valid(schema: object, record: str) -> bool:
    """Whether the record is valid, alone and in a batch with others."""
    alone = checked(schema, record)[0] is None
    # Records that are checked together with it, and ones that are not.
    for other in ('{"a":1,"a":2}', "1e999", "7"):
        assert (checked(schema, record, other)[0] is None) is alone
    return alone


@pytest.mark.parametrize(
    ("schema", "taken", "refused"),
    [
        (
            b'{"type": "integer"}',
            ["1", "-0", "1.0", "1e2", "1.0e2", "100e-2", "9" * 30, "9" * 4_300, "1e400",
             "12345678901234567890.0", "0.0", "0e99999", "0e-99999999999999999999",
             "1.00000000000000000000", "1e0000000400"],
            ["1.5", "1e-1", "12345678901234567890.5", "1.00000000000000000001", "1e-400"],
        ),
        (b'{"multipleOf": 0.1}', ["0.1", "0.3", "4.7", "1e2"], ["0.15", "0.30000000000000001"]),
        (b'{"multipleOf": 0.01}', ["19.99", "4.35", "1.15", "0.07"], ["19.995", "1e-3"]),
        (b'{"maximum": 9007199254740993}', ["9007199254740993"], ["9007199254740994", "1e400"]),
        (b'{"maximum": 0.3}', ["0.3", "3e-1"], ["0.30000000000000001", "0.30000000000000004"]),
        (b'{"exclusiveMinimum": 0}', ["1e-400", "1e-4000"], ["0", "-0.0", "-1e-400"]),
        (b'{"const": 1}', ["1", "1.0", "10e-1"], ["true", "1.00000000000000001"]),
        (b'{"enum": [0.1]}', ["0.1", "0.10", "1e-1"], ["0.1000000000000000055511151231257827"]),
        (b'{"maximum": 0.09999999999999999999}', ["0.0999999999999999999"], ["1"]),
    ],
)  # fmt: skip
def test_numbers_are_judged_as_they_are_written(
    schema: bytes, taken: list[str], refused: list[str]
) -> None:
    assert [number for number in taken if not valid(schema, number)] == []
    assert [number for number in refused if valid(schema, number)] == []


def test_draft_4_has_integers_without_a_fraction() -> None:
    schema = {"$schema": DRAFT_4, "type": "integer"}
    assert [valid(schema, number) for number in ("1", "1.0", "9" * 30)] == [True, False, True]


@given(
    st.from_regex(r"\A-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?\Z"),
    st.from_regex(r"\A-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?\Z"),
)
def test_numbers_compare_as_decimals_do(number: str, limit: str) -> None:
    # A limit that fits a float: longer limits are the schema's problem.
    limit = str(float(limit)) if abs(float(limit)) < 1e15 and "e" not in str(float(limit)) else "0"
    schema = f'{{"maximum": {limit}}}'.encode()
    assert valid(schema, number) is (Decimal(number) <= Decimal(limit))


@pytest.mark.parametrize(
    "number",
    ["9" * 4_301, "0." + "9" * 4_300, "1e999999999", "-1e-999999999999999999999", "1e4301"],
)
def test_a_number_that_is_too_long_is_refused_at_no_cost(number: str) -> None:
    told = ("", "has a number of more than 4300 digits")
    assert checked({}, number, "1", f"[{number}]") == [told, None, told]


@pytest.mark.parametrize(
    "record",
    [
        '{"a":1,"a":1}',
        '{"a" :1,"a":2}',
        r'{"a":1,"\u0061":2}',
        r'{"a":1,"a":2,"b":"\u003a"}',
        r'{"a":1,"a":2,"b":"\u003A:"}',
        r'{"a":1,"a":2,"b":"\\u003a"}',
        '[{"b":{"a":1,"a":{}}}]',
        '{"":1,"":2}',
    ],
)
def test_a_member_that_is_given_twice_is_refused(record: str) -> None:
    # A reader of the merged object might take the first one, while the last one was checked.
    others = ['{"a":1}', '"a"', r'{"b":"\u003a"}', '"::"']
    assert checked({}, *others, record) == [None] * len(others) + [("", REPEATED)]


@given(
    st.recursive(
        st.sampled_from(["1", '":"', r'"\u003a"', r'"\\u003a"', "1.10", "1e999", '""']),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]"),
            st.lists(
                st.tuples(st.sampled_from(['"a"', r'"\u0061"', '"b"', '":"', r'"\u003a"']), inner),
                max_size=3,
            ).map(lambda members: "{" + ", ".join(f"{n}: {v}" for n, v in members) + "}"),
        ),
        max_leaves=12,
    )
)
def test_members_are_those_that_json_reads(record: str) -> None:
    objects: list[list[tuple[str, Any]]] = []
    json.loads(record, object_pairs_hook=objects.append)
    repeated = any(len({name for name, _ in pairs}) < len(pairs) for pairs in objects)
    assert valid({}, record) is not repeated
    assert valid({}, record.replace(": ", ":").replace(", ", ",")) is not repeated


def test_limits_on_depth_and_values_of_records() -> None:
    recursive = {"items": {"$ref": "#"}, "properties": {"a": {"$ref": "#"}}}
    depth, values = limits.MAX_CHECKED_DEPTH, limits.MAX_CHECKED_VALUES

    def nested(levels: int) -> str:
        return '[{"a":' * (levels // 2) + '"[[]]"' + "}]" * (levels // 2)

    deep, deeper = nested(depth), nested(depth + 2)
    large = f"[{'1,' * (values - 2)}1]"
    larger = f"[{'1,' * values}1]"
    assert checked(recursive, deep, deeper, large, larger, '"' + "[" * 1_000 + '"') == [
        None,
        ("", f"is nested more than {depth} levels deep"),
        None,
        ("", f"has more than {values} values"),
        None,
    ]


def test_a_reason_is_looked_for_only_where_that_takes_no_time() -> None:
    def tree(levels: int, leaf: str) -> str:
        return '{"op":"and","args":[' * levels + leaf + "]}" * levels

    told = checked(TREE, tree(99, "1"), tree(99, '"x"'), tree(2, '"x"'), tree(3, "true"))
    assert told[0] is None
    assert told[2:] == [("", "matches none of the schemas of 'oneOf'")] * 2
    assert told[1] == (
        "",
        "does not satisfy the schema; it is too large, or too deep, to say where",
    )


def test_where_nothing_branches_the_reason_is_found_however_deep() -> None:
    plain = {"type": "array", "items": {"type": "array", "items": {"items": {"maximum": 1}}}}
    assert checked(plain, "[[[1,2]]]", f"[{'[],' * 1_000}[[0,1,7]]]") == [
        ("/0/0/1", "is more than 1"),
        ("/1000/0/2", "is more than 1"),
    ]


def test_records_of_every_size_are_judged_as_one_by_one() -> None:
    some = random.Random(7)
    texts = ["1", "2.50", '{"a": 1}', '{"a":1,"a":1}', '"' + "x" * 70_000 + '"', "1e400", "[[]]"]
    records = [some.choice(texts) for _ in range(3_000)]
    schema = {"type": ["number", "object", "string"], "maxLength": 60_000, "maximum": 10}
    once = {text: checked(schema, text)[0] for text in texts}
    bad = [index for index, record in enumerate(records) if once[record]]
    check = RecordCheck(json.dumps(schema).encode())
    count, found = check.check("".join(f"{one}\n" for one in records).encode(), lambda: 0)
    assert count == len(bad)
    assert [(one.index, (one.path, one.message)) for one in found] == [
        (index, once[records[index]]) for index in bad[:100]
    ]


def test_a_check_that_takes_too_long_ends() -> None:
    check = RecordCheck(b"{}")
    pieces = 1_000_000 // (64 * 1024)
    ticks = iter(range(pieces))
    with pytest.raises(errors.CheckTooLongError):
        check.check(b"1\n" * 500_000, lambda: next(ticks))
    assert next(ticks) == 2


@pytest.mark.parametrize(
    ("schema", "record", "path", "message"),
    [
        ({"type": ["string", "null"]}, "1", "", "is not of type null or string"),
        ({"required": ["id"]}, "{}", "", 'lacks the property "id"'),
        ({"properties": {"a/~": {"const": 1}}}, '{"a/~":2}', "/a~1~0", "is not 1"),
        ({"enum": list("abcde")}, "1", "", 'is none of "a", "b", "c" and 2 more'),
        ({"maxLength": 1}, '"secret"', "", "is longer than 1 characters"),
        ({"propertyNames": {"maxLength": 1}}, '{"secret":1}', "",
         "has a property whose name is longer than 1 characters"),
        ({"properties": {"b": {}}, "additionalProperties": False}, '{"c":"secret"}', "",
         'has properties that are not allowed: "c"'),
        ({"oneOf": [{}, {}]}, "1", "", "matches more than one of the schemas of 'oneOf'"),
        ({"uniqueItems": True}, "[1,1.0]", "", "has an item twice"),
        ({"contains": {"const": 1}}, "[2]", "", "does not have the items that 'contains' asks for"),
        ({"not": {"const": 1}}, "1", "", "is what the schema's 'not' excludes"),
        ({"items": False}, "[1]", "/0", "is not allowed"),
        ({"$schema": DRAFT_4, "format": "date"}, '"secret"', "", 'is not of the format "date"'),
        ({"dependentRequired": {"a": ["b"]}}, '{"a":1}', "", 'lacks the property "b"'),
        ({"minItems": 2, "unevaluatedItems": False}, "[1]", "", "has fewer than 2 items"),
    ],
)  # fmt: skip
def test_reasons_are_in_the_words_of_the_schema(
    schema: object, record: str, path: str, message: str
) -> None:
    assert checked(schema, record) == [(path, message)]
