r"""JSON batches: every record is kept byte for byte, or the refusal says where and why.

The reference is Python's ``json``, which the code under test does not use to accept anything.
"""

import hashlib
import itertools
import json
import re
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import reference
from tests.unit.bodies import NOT_AN_INTEGER, PLAIN_DIGITS, WHOLE, Error, batch, refusal
from uploads import errors
from uploads.batch import Batch
from uploads.decode.batch_json import read_batch
from uploads.decode.create import read_session_request

NOT_JSON = (
    errors.MalformedJsonError,
    errors.TruncatedJsonError,
    errors.TrailingTextError,
    errors.ControlCharacterError,
    errors.NotANumberError,
    errors.LoneSurrogateError,
    errors.TooDeeplyNestedError,
)


def lines(stored: Batch) -> list[bytes]:
    """The stored lines: one per record, each with a line feed."""
    assert stored.ndjson.endswith(b"\n")
    found = stored.ndjson[:-1].split(b"\n")
    assert len(found) == stored.records
    assert b"\r" not in stored.ndjson
    return found


# --- Records survive ------------------------------------------------------------------------------

KEPT = {
    "integer of 30 digits": "123456789012345678901234567890",
    "integer of 5,000 digits": "9" * 5_000,
    "negative zero": "-0",
    "float of an integer": "1.0",
    "float of negative zero": "-0.0",
    "trailing zeros": "1.50",
    "float beyond a double": "1e400",
    "exponents": "1E+2",
    "more digits than a double has": "0.1000000000000000055511151231257827",
    "null": "null",
    "true": "true",
    "false": "false",
    "empty string": '""',
    "empty object": "{}",
    "empty array": "[]",
    "empty member name": '{"":1}',
    "spaces inside": '{ "a" : [ 1 , 2 ] ,\t"b":\t{ } }',
    "duplicate keys": '{"a":1,"a":2,"a":1}',
    "duplicate keys named as ours": '{"data":[1],"data":[2],"seqNum":-0}',
    "escapes": r'"\u00e9\u000a\n\r\t\"\\\/\b\f\u0000\u007F"',
    "escaped surrogate pair": r'"\ud83d\ude00"',
    "escaped newline in a key": r'{"a\nb":"\r\n"}',
    "letters beyond ASCII": '"é漢😀"',
    "line separators of Unicode": '"\u2028\u2029\u0085"',
    "delete character": '"\x7f"',
    "a noncharacter and U+FFFD": '"\ufffe\ufffd"',
    "byte order mark inside": '"\ufeff"',
    "what looks like the end": '"]}"',
    "what looks like members": r'"],\"data\":[1"',
    "nested 100 deep": "[" * 100 + '{"a":1}' + "]" * 100,
}


@pytest.mark.parametrize("record", KEPT.values(), ids=KEPT)
@pytest.mark.parametrize(
    "data", ["[{}]", "[ {} ]", "[0,{}]", "[{},0]", "[ 0 , {} , 0 ]", "[\n  {}\n]", "[\r\n{},\r\n0]"]
)
def test_a_record_is_kept_byte_for_byte(record: str, data: str) -> None:
    stored = read_batch(batch(data.replace("{}", record)))
    assert record.encode() in lines(stored)
    assert set(lines(stored)) <= {record.encode(), b"0"}


def test_all_of_them_together_are_kept_in_order() -> None:
    stored = read_batch(batch(f"[{','.join(KEPT.values())}]"))
    assert lines(stored) == [record.encode() for record in KEPT.values()]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r", "\n\n\t"])
@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ("{~}", "{}"),
        ("[~]", "[]"),
        ('{~"a":~1~}', '{"a":1}'),
        ('{"a" : 1,~"a" : 2}', '{"a":1,"a":2}'),
        ("[~1,~1.0,~-0.0,~1e400~]", "[1,1.0,-0.0,1e400]"),
        ("[~123456789012345678901234567890~]", "[123456789012345678901234567890]"),
        (r'{~"\n \u00e9" : "\r\n  \/"}', r'{"\n \u00e9":"\r\n  \/"}'),
        (r'[~"a , b : { }"~]', r'["a , b : { }"]'),
        (r'[~"\\",~"\"",~"\ud83d\ude00"]', r'["\\","\"","\ud83d\ude00"]'),
        ('{~"\u2028":~"é😀"~}', '{"\u2028":"é😀"}'),
        ("[[~[{~}]]~]", "[[[{}]]]"),
        ("[~true,~false,~null~]", "[true,false,null]"),
    ],
)
def test_a_record_spread_over_lines_loses_only_the_space_between_its_tokens(
    record: str, expected: str, newline: str
) -> None:
    kept = '{"kept" : 1}'
    body = batch(f"[{kept},{record.replace('~', newline)},{kept}]")
    assert lines(read_batch(body)) == [kept.encode(), expected.encode(), kept.encode()]


@pytest.mark.parametrize("opening", ["[", '{"a":', "[\n", '{"a":\r\n', "[{\n", "[0,["])
def test_deep_records(opening: str) -> None:
    """In a new thread, whose stack is empty."""
    if opening.startswith("[{"):
        opening, closing = '[{"a":\n', "}]"
    else:
        closing = "".join({"[": "]", "{": "}"}.get(at, "") for at in reversed(opening))
    times = 900 // len(closing)
    record = opening * times + "1" + closing * times
    with ThreadPoolExecutor(1) as thread:
        stored = thread.submit(read_batch, batch(f"[{record}]")).result()
    assert lines(stored) == [record.replace("\n", "").replace("\r", "").encode()]


def test_metadata_of_a_batch() -> None:
    stored = read_batch(batch('[{"id":1}, "two" ,3]', seq_num="99999"))
    assert stored == Batch(
        seq_num=99_999,
        records=3,
        ndjson=b'{"id":1}\n"two"\n3\n',
        sha256=hashlib.sha256(b'{"id":1}\n"two"\n3\n').hexdigest(),
        crc32=zlib.crc32(b'{"id":1}\n"two"\n3\n'),
    )


SPELLINGS = [
    '{"seqNum":7,"data":[1,{"a":"b c"},"x"]}',
    '{"seqNum": 7, "data": [1, {"a":"b c"}, "x"]}',
    '{"data":[1,{"a":"b c"},"x"],"seqNum":7}',
    ' \t\r\n{ "seqNum" : 7 , "data" : [ 1 , {"a":"b c"} , "x" ] } \n',
    '{"seqNum":7,"data":[\n1,\n{"a":"b c"},\n"x"\n]}',
    '{"seqNum":7,"data":[1,{"a":\r\n"b c"},"x"]}',
    '{"seqNum":7,"data":[1,{"a":"b c"},"x"],"comment":{"data":[]}}',
    '{"":null,"seqNum":7,"data":[1,{"a":"b c"},"x"]}',
    '{"seqNum":7,"data":[1,{"a":"b c"},"x"],"dat":0,"Data":1,"data ":2,"seqnum":3,"seqNum2":4}',
    r'{"\u0073eqNum":7,"\u0064\u0061ta":[1,{"a":"b c"},"x"]}',
]


@pytest.mark.parametrize("body", SPELLINGS)
def test_spellings_of_one_batch_are_the_same(body: str) -> None:
    assert read_batch(body.encode()) == read_batch(SPELLINGS[0].encode())
    assert read_batch(SPELLINGS[0].encode()).ndjson == b'1\n{"a":"b c"}\n"x"\n'


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "1.0"), ("1", "1e0"), ('{"a":1}', '{"a": 1}'), ('"é"', r'"\u00e9"'), ("0", "-0")],
)
def test_spellings_of_a_record_are_not_the_same(one: str, other: str) -> None:
    assert read_batch(batch(f"[{one}]")).sha256 != read_batch(batch(f"[{other}]")).sha256


# --- What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read_batch, read_session_request])
def test_no_body(read: Callable[[bytes], object]) -> None:
    assert "Send a JSON object" in refusal(errors.EmptyBodyError, lambda: read(b"")).detail


@pytest.mark.parametrize("read", [read_batch, read_session_request])
@pytest.mark.parametrize("body", [" ", "\n", " \t\r\n "], ids=repr)
def test_nothing_but_space(read: Callable[[bytes], object], body: str) -> None:
    refusal(errors.TruncatedJsonError, lambda: read(body.encode()))


@pytest.mark.parametrize("read", [read_batch, read_session_request])
@pytest.mark.parametrize(
    "body", ["[]", '[{"seqNum":0,"data":[1]}]', "0", "1.5", '"text"', "null", "true", " [1] "]
)
def test_not_an_object(read: Callable[[bytes], object], body: str) -> None:
    error = refusal(errors.NotAnObjectError, lambda: read(body.encode()))
    assert "must be a JSON object" in error.detail


NOT_JSON_INTEGERS = [
    "00",
    "01",
    "+1",
    ".5",
    "1.",
    "0x1",
    "1_0",
    "1e",
    "-",
    "- 1",
    "Infinit",
    "\u0661",
]


@pytest.mark.parametrize(
    "value", ["null", "100000", str(2**53), *NOT_AN_INTEGER], ids=lambda value: value[:30]
)
@pytest.mark.parametrize("form", ['{{"seqNum":{},"data":[1]}}', '{{"data":[1], "seqNum" : {} }}'])
def test_invalid_seq_num(form: str, value: str) -> None:
    error = refusal(errors.InvalidSeqNumError, lambda: read_batch(form.format(value).encode()))
    assert "from 0 to 99999" in error.detail
    assert PLAIN_DIGITS in error.detail
    assert error.members == {"member": "seqNum"}


@pytest.mark.parametrize("seq_num", [0, 1, 9, 10, 99_998, 99_999])
def test_valid_seq_num(seq_num: int) -> None:
    assert read_batch(batch("[1]", str(seq_num))).seq_num == seq_num


@pytest.mark.parametrize("value", NOT_JSON_INTEGERS)
@pytest.mark.parametrize(
    "form", ['{{"seqNum":{},"data":[1]}}', '{{"seqNum":0,"data":[{}]}}', '{{"x":{},"seqNum":0}}']
)
def test_invalid_json_numbers(form: str, value: str) -> None:
    error = refusal(errors.MalformedJsonError, lambda: read_batch(form.format(value).encode()))
    assert f"line {error.members['line']}, column {error.members['column']}" in error.detail


@pytest.mark.parametrize("value", ["{}", "null", '"text"', '""', "0", "1.5", "true", '{"0":1}'])
def test_invalid_data(value: str) -> None:
    error = refusal(errors.InvalidDataError, lambda: read_batch(batch(value)))
    assert "must be an array of records" in error.detail
    assert error.members == {"member": "data"}


@pytest.mark.parametrize("value", ["[]", "[ ]", "[\n]"])
def test_empty_data(value: str) -> None:
    error = refusal(errors.EmptyDataError, lambda: read_batch(batch(value)))
    assert "at least one record" in error.detail
    assert "totalRecord 0" in error.detail


@pytest.mark.parametrize(
    ("body", "member", "rule"),
    [
        ("{}", "seqNum", PLAIN_DIGITS),
        ('{"data":[1]}', "seqNum", PLAIN_DIGITS),
        ('{"seqnum":0,"data":[1]}', "seqNum", PLAIN_DIGITS),
        ('{"seqNum":0}', "data", "an array of records"),
        ('{"seqNum":0,"Data":[1]}', "data", "an array of records"),
        ('{"seqNum":0,"records":[1],"":{"data":[1]}}', "data", "an array of records"),
    ],
)
def test_missing_member(body: str, member: str, rule: str) -> None:
    error = refusal(errors.MissingMemberError, lambda: read_batch(body.encode()))
    assert error.members == {"member": member}
    assert member in error.detail
    assert rule in error.detail


@pytest.mark.parametrize("length", range(1, len(WHOLE)), ids=lambda at: f"{at} {WHOLE[at - 1]}")
def test_a_body_cut_anywhere_is_called_truncated(length: int) -> None:
    error = refusal(errors.TruncatedJsonError, lambda: read_batch(WHOLE[:length].encode()))
    assert f"line {error.members['line']}, column {error.members['column']}" in error.detail


MALFORMED: dict[str, tuple[str, Error]] = {
    "trailing comma in data": ('{"seqNum":0,"data":[1,]}', errors.MalformedJsonError),
    "trailing comma in the body": ('{"seqNum":0,"data":[1],}', errors.MalformedJsonError),
    "trailing comma in a record": ('{"seqNum":0,"data":[{"a":1,}]}', errors.MalformedJsonError),
    "leading comma": ('{"seqNum":0,"data":[,1]}', errors.MalformedJsonError),
    "two commas": ('{"seqNum":0,"data":[1,,2]}', errors.MalformedJsonError),
    "no comma": ('{"seqNum":0,"data":[1 2]}', errors.MalformedJsonError),
    "no comma between members": ('{"seqNum":0 "data":[1]}', errors.MalformedJsonError),
    "no colon": ('{"seqNum":0,"data" [1]}', errors.MalformedJsonError),
    "no value": ('{"seqNum":0,"data":}', errors.MalformedJsonError),
    "bare key": ('{seqNum:0,"data":[1]}', errors.MalformedJsonError),
    "number as key": ('{"seqNum":0,"data":[{1:1}]}', errors.MalformedJsonError),
    "single quotes": ("{'seqNum':0,'data':[1]}", errors.MalformedJsonError),
    "comment": ('{"seqNum":0,"data":[1]/**/}', errors.MalformedJsonError),
    "Python's literals": ('{"seqNum":0,"data":[None,True]}', errors.MalformedJsonError),
    "misspelt literal": ('{"seqNum":0,"data":[nul]}', errors.MalformedJsonError),
    "longer literal": ('{"seqNum":0,"data":[nulll]}', errors.MalformedJsonError),
    "wrong bracket": ('{"seqNum":0,"data":[1}]', errors.MalformedJsonError),
    "unknown escape": (r'{"seqNum":0,"data":["\x41"]}', errors.MalformedJsonError),
    "escape of three digits": (r'{"seqNum":0,"data":["\u041"]}', errors.MalformedJsonError),
    "escape with a sign": (r'{"seqNum":0,"data":["\u+041"]}', errors.MalformedJsonError),
    "space of Unicode": ('{"seqNum":0,"data":[\u00a01]}', errors.MalformedJsonError),
    "vertical tab between tokens": ('{"seqNum":0,"data":[\v1]}', errors.MalformedJsonError),
    "form feed between tokens": ('{"seqNum":0,"data":[1\f]}', errors.MalformedJsonError),
    "NUL between tokens": ('{"seqNum":0,"data":[1\0]}', errors.MalformedJsonError),
    "byte order mark": ('\ufeff{"seqNum":0,"data":[1]}', errors.MalformedJsonError),
    "not JSON at all": ("seqNum=0&data=1", errors.MalformedJsonError),
    "trailing text": ('{"seqNum":0,"data":[1]} x', errors.TrailingTextError),
    "trailing comma after the body": ('{"seqNum":0,"data":[1]},', errors.TrailingTextError),
    "two bodies": ('{"seqNum":0,"data":[1]}{"seqNum":1}', errors.TrailingTextError),
    "two bodies on two lines": (
        '{"seqNum":0,"data":[1]}\n{"seqNum":1,"data":[1]}\n',
        errors.TrailingTextError,
    ),
    "bracket too many": ('{"seqNum":0,"data":[1]}]', errors.TrailingTextError),
    "trailing NUL": ('{"seqNum":0,"data":[1]}\0', errors.TrailingTextError),
    "newline in a string": ('{"seqNum":0,"data":["a\nb"]}', errors.ControlCharacterError),
    "carriage return in a string": ('{"seqNum":0,"data":["a\rb"]}', errors.ControlCharacterError),
    "tab in a string": ('{"seqNum":0,"data":["a\tb"]}', errors.ControlCharacterError),
    "NUL in a string": ('{"seqNum":0,"data":["\0"]}', errors.ControlCharacterError),
    "U+001F in a string": ('{"seqNum":0,"data":["\x1f"]}', errors.ControlCharacterError),
    "newline in a record's key": ('{"seqNum":0,"data":[{"\n":1}]}', errors.ControlCharacterError),
    "newline in a member's name": (
        '{"seqNum":0,"data":[1],"a\nb":1}',
        errors.ControlCharacterError,
    ),
    "newline in an ignored member": (
        '{"seqNum":0,"data":[1],"x":"\n"}',
        errors.ControlCharacterError,
    ),
}


@pytest.mark.parametrize(("body", "expected"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_json_is_refused_with_the_place(body: str, expected: Error) -> None:
    error = refusal(expected, lambda: read_batch(body.encode()))
    line, column = error.members["line"], error.members["column"]
    assert isinstance(line, int)
    assert isinstance(column, int)
    assert f"at line {line}, column {column}." in error.detail
    assert 1 <= line <= body.count("\n") + 1
    assert 1 <= column <= len(body) + 1


@pytest.mark.parametrize(
    ("body", "line", "column"),
    [
        ('{"seqNum":0,"data":[nul]}', 1, 21),
        ('{"seqNum":0,\n"data":[\n1,\n x]}', 4, 2),
        ('{"é😀":0,"data":[nul]}', 1, 17),
        ('{"seqNum":0,"data":[1]}\n\nx', 3, 1),
    ],
)
def test_the_place_is_the_right_one(body: str, line: int, column: int) -> None:
    with pytest.raises(NOT_JSON) as caught:
        read_batch(body.encode())
    assert caught.value.members == {"line": line, "column": column}


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize(
    "form",
    [
        '{"seqNum":0,"data":[~]}',
        '{"seqNum":0,"data":[{"a":[1,~]}]}',
        '{"seqNum":0,"data":[1],"x":~}',
        '{"seqNum":~,"data":[1]}',
    ],
)
def test_not_a_number(form: str, name: str) -> None:
    error = refusal(errors.NotANumberError, lambda: read_batch(form.replace("~", name).encode()))
    assert error.detail.startswith(name)
    assert "Send null, or a string" in error.detail


LONE = {
    "high alone": r"\ud800",
    "last high alone": r"\uDBFF",
    "low alone": r"\udc00",
    "last low alone": r"\uDfFf",
    "high before a letter": r"\ud83dx",
    "high before an escape": r"\ud83d\n",
    "high before an escaped letter": r"\ud83d\u0041",
    "two high": r"\ud83d\ud83d",
    "two high, one low": r"\ud83d\ud83d\ude00",
    "low before high": r"\ude00\ud83d",
    "low after a pair": r"\ud83d\ude00\ude00",
    "at the end of a string": r"abc\ud83d",
}


@pytest.mark.parametrize("escape", LONE.values(), ids=LONE)
@pytest.mark.parametrize(
    "form",
    [
        '{"seqNum":0,"data":["~"]}',
        '{"seqNum":0,"data":[{"a":{"~":1}}]}',
        '{"seqNum":0,"data":[\n{\n"a":"~"}]}',
        '{"seqNum":0,"data":[1],"x":"~"}',
        '{"~":0,"seqNum":0,"data":[1]}',
    ],
    ids=["record", "key", "spread", "ignored value", "ignored name"],
)
def test_lone_surrogates(form: str, escape: str) -> None:
    body = form.replace("~", escape)
    error = refusal(errors.LoneSurrogateError, lambda: read_batch(body.encode()))
    assert "Send the pair, or U+FFFD" in error.detail
    line, column = error.members["line"], error.members["column"]
    assert isinstance(line, int)
    assert isinstance(column, int)
    assert re.match(r"\\u[dD][89a-fA-F]", body.split("\n")[line - 1][column - 1 :])


@pytest.mark.parametrize("text", [r"\ud83d\ude00", r"\uD83D\uDE00", r"\\ud800", r"\ud800\udc00"])
def test_what_only_looks_like_a_lone_surrogate_is_kept(text: str) -> None:
    assert read_batch(batch(f'["{text}"]')).ndjson == f'"{text}"\n'.encode()


NESTS = {
    "arrays": ("[", "]"),
    "objects": ('{"a":', "}"),
    "spread arrays": ("[\n", "\n]"),
    "unclosed arrays": ("[", ""),
    "unclosed objects": ('{"a":', ""),
}


@pytest.mark.parametrize("nest", NESTS.values(), ids=NESTS)
@pytest.mark.parametrize(
    "form",
    ['{"seqNum":0,"data":[~]}', '{"seqNum":0,"data":~}', '{"x":~,"seqNum":0,"data":[1]}'],
    ids=["record", "data", "ignored"],
)
def test_nesting_without_end(form: str, nest: tuple[str, str]) -> None:
    opening, closing = nest
    deep = opening * 200_000 + "1" + closing * 200_000
    if form.endswith(":~}") and opening.startswith("{"):
        # The error that it is not an array comes first.
        refusal(errors.InvalidDataError, lambda: read_batch(form.replace("~", deep).encode()))
        return
    error = refusal(
        errors.TooDeeplyNestedError, lambda: read_batch(form.replace("~", deep).encode())
    )
    assert "levels are always accepted" in error.detail


@pytest.mark.parametrize("depth", range(900, 12_000, 300))
@pytest.mark.parametrize("nest", ["arrays", "spread arrays", "unclosed arrays"])
def test_any_depth_is_taken_or_refused(nest: str, depth: int) -> None:
    """Parsers have different depth limits; none may accept what a later one fails on."""
    opening, closing = NESTS[nest]
    body = batch(f"[{opening * depth}1{closing * depth}]")
    try:
        stored = read_batch(body)
    except NOT_JSON:
        assert depth > 900 or not closing or sys.version_info < (3, 12)
    else:
        assert stored.ndjson == b"[" * depth + b"1" + b"]" * depth + b"\n"


# --- Members given twice --------------------------------------------------------------------------

ARRAYS = ["[1]", "[1,2]", "[[1],[2]]", '["]}"]', '[{"data":[1]}]', "[0,0,0,0,0,0,0,0,0,0,0]"]


@pytest.mark.parametrize(
    "order", sorted(set(itertools.permutations(["seqNum", "data", "{}", "{}"])))
)
@pytest.mark.parametrize(
    "twice",
    [
        ('"seqNum"', '"seqNum"'),
        ('"data"', '"data"'),
        ('"data"', r'"\u0064ata"'),
        (r'"d\u0061ta"', r'"\u0064ata"'),
        ('"x"', '"x"'),
        ('"x"', r'"\u0078"'),
        ('""', '""'),
        (r'"\ud83d\ude00"', '"😀"'),
        (r'"\/"', '"/"'),
        (r'"\n"', r'"\u000A"'),
    ],
)
def test_repeated_in_every_order(twice: tuple[str, str], order: tuple[str, ...]) -> None:
    spellings = iter(twice)
    name = json.loads(twice[0])
    members = []
    for member in order:
        key = next(spellings) if member == "{}" else f'"{member}"'
        if member == name:
            continue
        value = "[1]" if json.loads(key) == "data" else "0"
        members.append(f"{key}:{value}")
    body = f"{{{','.join(members)}}}"
    error = refusal(errors.RepeatedMemberError, lambda: read_batch(body.encode()))
    assert error.members == {"member": name}
    assert "Give every member once" in error.detail


@pytest.mark.parametrize("values", [*itertools.product(["[]", *ARRAYS], [*ARRAYS, "[11111111]"])])
@pytest.mark.parametrize("space", ["", " "])
def test_a_second_array_never_hides_behind_the_usual_shape(
    values: tuple[str, str], space: str
) -> None:
    one, other = values
    for name in ("data", r"\u0064ata"):
        body = f'{{"seqNum":0,"data":{one.replace("[", "[" + space)},"{name}":{other}}}'
        refusal(errors.RepeatedMemberError, lambda body=body: read_batch(body.encode()))  # type: ignore[misc]


def test_a_long_repeated_name_is_not_repeated_whole() -> None:
    name = "n" * 100_000
    body = f'{{"seqNum":0,"data":[1],"{name}":1,"{name}":2}}'
    error = refusal(errors.RepeatedMemberError, lambda: read_batch(body.encode()))
    assert len(json.dumps(error.problem())) < 1_000


def test_members_of_records_may_repeat() -> None:
    record = '{"seqNum":-0,"seqNum":0,"data":1,"data":2,"x":1,"x":1}'
    assert read_batch(batch(f"[{record}]")).ndjson == record.encode() + b"\n"


# --- Any JSON -------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
STYLES: dict[str, dict[str, Any]] = {
    "compact": {"separators": (",", ":")},
    "compact, beyond ASCII": {"separators": (",", ":"), "ensure_ascii": False},
    "default": {},
    "wide": {"separators": (" ,  ", "\t: "), "ensure_ascii": False},
    "indented": {"indent": 2},
    "indented by tabs, beyond ASCII": {"indent": "\t", "ensure_ascii": False},
    "not indented": {"indent": 0},
}


@given(
    data=st.lists(JSON, min_size=1, max_size=5),
    style=st.sampled_from(sorted(STYLES)),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
)
@settings(max_examples=500)
def test_any_records_are_kept_each_on_one_line(data: list[Any], style: str, newline: str) -> None:
    """tests/fuzz compares all documents, valid or not, with ``json``."""
    written = [json.dumps(record, **STYLES[style]).replace("\n", newline) for record in data]
    stored = lines(read_batch(batch(f"[{','.join(written)}]")))
    assert stored == [reference.one_line(record).encode() for record in written]


@pytest.mark.parametrize(
    "wrong", ['"a\n"', '"\\ud800"', '"\\x"', "tru", "[1,]", "NaN", '"a', "{1:2}", "1 2"]
)
def test_an_error_at_the_greatest_depth_is_explained_or_too_deep(wrong: str) -> None:
    """Explaining an error takes a few more levels of the stack than refusing does."""
    told = set()
    for depth in range(800, 1_100):
        body = f'{{"seqNum":0,"data":{"[" * depth}{wrong}{"]" * depth}}}'.encode()
        with pytest.raises(NOT_JSON) as refused:
            read_batch(body)
        told.add(refused.value.code)
    assert "too_deeply_nested" in told
    assert len(told) > 1
