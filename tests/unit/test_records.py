r"""What becomes of a request's body: every record kept byte for byte, or a refusal that helps.

The reference throughout is ``json`` of the standard library, which the code under test does not use
to accept anything.
"""

import base64
import gzip
import hashlib
import itertools
import json
import random
import re
import sys
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import reference
from tests.hostile.deflate import spaces
from uploads import errors
from uploads.batch import Batch
from uploads.decode.batch_json import read_batch
from uploads.decode.body import read_body as read_any
from uploads.decode.create import SESSION_ALLOWANCE, SessionRequest, read_session_request
from uploads.decode.inflate import inflate

MIB = 2**20
MOST_SENT = 4_500_000
MOST_INFLATED = 64 * MIB
LARGEST = 2**53 - 1
MEDIA_TYPE = "application/vnd.gapless.batch+json"

NOT_JSON = (
    errors.MalformedJsonError,
    errors.TruncatedJsonError,
    errors.TrailingTextError,
    errors.ControlCharacterError,
    errors.NotANumberError,
    errors.LoneSurrogateError,
    errors.TooDeeplyNestedError,
)

Error = type[errors.GaplessError]
Raised = TypeVar("Raised", bound=errors.GaplessError)


def read_body(body: bytes, **headers: str) -> bytes:
    """Read a body that came as base64, whole."""
    text = base64.b64encode(body).decode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_any(text, is_base64=True, headers=named)


def read_text(body: str, **headers: str) -> bytes:
    """Read a body that came as text."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_any(body, is_base64=False, headers=named)


def batch(data: str, seq_num: str = "0") -> bytes:
    return f'{{"seqNum":{seq_num},"data":{data}}}'.encode()


def lines(stored: Batch) -> list[bytes]:
    """The stored lines, which must be as many as there are records, and end in a newline."""
    assert stored.ndjson.endswith(b"\n")
    found = stored.ndjson[:-1].split(b"\n")
    assert len(found) == stored.records
    assert b"\r" not in stored.ndjson
    return found


def refusal(error: type[Raised], call: Callable[[], object]) -> Raised:
    """The error that ``call`` raises: exactly this class, which says something and has a code."""
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert len(caught.value.detail) > 20
    assert caught.value.problem()["code"] == error.code
    return caught.value


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
    """In a thread of its own, where none of the test's own calls count against the depth."""
    if opening.startswith("[{"):
        opening, closing = '[{"a":\n', "}]"
    else:
        closing = "".join({"[": "]", "{": "}"}.get(at, "") for at in reversed(opening))
    times = 900 // len(closing)
    record = opening * times + "1" + closing * times
    with ThreadPoolExecutor(1) as thread:
        stored = thread.submit(read_batch, batch(f"[{record}]")).result()
    assert lines(stored) == [record.replace("\n", "").replace("\r", "").encode()]


def test_what_is_told_of_a_batch() -> None:
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


@pytest.mark.parametrize("body", [None, ""])
@pytest.mark.parametrize("is_base64", [False, True])
def test_no_body(body: str | None, is_base64: bool) -> None:  # noqa: FBT001
    error = refusal(errors.EmptyBodyError, lambda: read_any(body, is_base64=is_base64, headers={}))
    assert "Send a JSON object" in error.detail


@pytest.mark.parametrize("read", [read_batch, read_session_request])
@pytest.mark.parametrize("body", ["", " ", "\n", " \t\r\n "], ids=repr)
def test_nothing_but_space(read: Callable[[bytes], object], body: str) -> None:
    refusal(errors.TruncatedJsonError, lambda: read(body.encode()))


@pytest.mark.parametrize("read", [read_batch, read_session_request])
@pytest.mark.parametrize(
    "body", ["[]", '[{"seqNum":0,"data":[1]}]', "0", "1.5", '"text"', "null", "true", " [1] "]
)
def test_not_an_object(read: Callable[[bytes], object], body: str) -> None:
    error = refusal(errors.NotAnObjectError, lambda: read(body.encode()))
    assert "must be a JSON object" in error.detail


PLAIN_DIGITS = "written as plain digits"

NOT_AN_INTEGER = {
    '"0"': "string",
    '""': "empty string",
    "0.5": "half",
    "1.0": "float",
    "-0.0": "float of negative zero",
    "1e3": "exponent",
    "1E2": "big exponent",
    "0e0": "exponent of nothing",
    "1e400": "float beyond a double",
    "1e-400": "float below a double",
    "true": "true",
    "false": "false",
    "-0": "negative zero",
    "-1": "minus one",
    "[]": "array",
    "[0]": "array of one",
    "{}": "object",
    "9" * 20: "20 digits",
    "9" * 30: "30 digits",
    "9" * 5_000: "5,000 digits",
    "-" + "9" * 30: "minus 30 digits",
    str(2**63): "2**63",
    str(2**64): "2**64",
    str(-(2**63) - 1): "-2**63 - 1",
}

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
def test_what_is_no_number_in_json(form: str, value: str) -> None:
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


WHOLE = (
    '{"seqNum": 0, "data": [{"a": [1, 2.5, -1e-3]}, "b\\n\\u00e9\\ud83d\\ude00c", true, false,'
    ' null, "é", {}, []], "x": 0}'
)


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
        # That it is no array is seen first.
        refusal(errors.InvalidDataError, lambda: read_batch(form.replace("~", deep).encode()))
        return
    error = refusal(
        errors.TooDeeplyNestedError, lambda: read_batch(form.replace("~", deep).encode())
    )
    assert "levels are always accepted" in error.detail


@pytest.mark.parametrize("depth", range(900, 12_000, 300))
@pytest.mark.parametrize("nest", ["arrays", "spread arrays", "unclosed arrays"])
def test_any_depth_is_taken_or_refused(nest: str, depth: int) -> None:
    """Where the parsers give up differs, and one must not take what the next one chokes on."""
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


# --- How the body came ----------------------------------------------------------------------------

NOT_UTF8 = {
    "byte that never occurs": b"\xff",
    "lone continuation": b"\x80",
    "sequence broken off": b"\xc3(",
    "overlong": b"\xc0\x80",
    "encoded surrogate": b"\xed\xa0\x80",
    "surrogate pair encoded as two": b"\xed\xa0\xbd\xed\xb8\x80",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
    "Latin-1": "é".encode("latin-1"),
}


@pytest.mark.parametrize("wrong", NOT_UTF8.values(), ids=NOT_UTF8)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_invalid_utf8_is_refused_with_its_offset(wrong: bytes, packed: bool) -> None:  # noqa: FBT001
    begin = '{"seqNum":0,"data":["é'.encode()
    body = begin + wrong + b'"]}'
    error = refusal(
        errors.InvalidUtf8Error,
        lambda: (
            read_body(gzip.compress(body), content_encoding="gzip") if packed else read_body(body)
        ),
    )
    assert error.members == {"offset": len(begin)}
    assert f"at byte {len(begin)}" in error.detail


@pytest.mark.parametrize("ending", [b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98"])
def test_utf8_that_ends_too_early(ending: bytes) -> None:
    error = refusal(errors.InvalidUtf8Error, lambda: read_body(b'{"' + ending))
    assert error.members == {"offset": 2}


def test_text_that_lost_a_byte_on_its_way_is_refused() -> None:
    """The gateway hands U+FFFD on for what was not UTF-8: three bytes instead of one."""
    sent = b'{"seqNum":0,"data":["\xff"]}'
    arrived = sent.decode(errors="replace")
    error = refusal(
        errors.InvalidUtf8Error, lambda: read_text(arrived, content_length=str(len(sent)))
    )
    assert MEDIA_TYPE in error.detail


@pytest.mark.parametrize("text", ['{"a":"é漢😀"}', '{"a":"\ufffd"}', "{}"])
def test_text_of_the_right_length_is_taken(text: str) -> None:
    body = text.encode()
    assert read_text(text, content_length=str(len(body))) == body
    assert read_text(text) == body


def test_text_with_half_of_a_surrogate_pair() -> None:
    error = refusal(errors.InvalidUtf8Error, lambda: read_text('{"a":"\ud83d"}'))
    assert error.members == {"offset": 6}


@pytest.mark.parametrize("length", ["5", "22", "24", "2300", "-23", "23x"])
def test_the_length_of_what_came_whole_does_not_matter(length: str) -> None:
    body = batch("[1]")
    assert read_body(body, content_length=length) == body


@pytest.mark.parametrize("length", ["2", "02", " 2 ", "2, 2", "2,2"])
def test_spellings_of_the_right_length(length: str) -> None:
    assert read_text("{}", content_length=length) == b"{}"


@pytest.mark.parametrize(
    "length", ["", "0", "3", "22", "-2", "+2", "2,3", "2.0", "two", "9" * 5000]
)
def test_wrong_lengths(length: str) -> None:
    refusal(errors.InvalidUtf8Error, lambda: read_text("{}", content_length=length))


@pytest.mark.parametrize(
    "body",
    [
        "A",
        "AAA",
        "A===",
        "AB=C",
        "e30",
        "e30=\n",
        "!!!!",
        "-_-_",
        "e30=e30=",
        "====",
        "    ",
        "éééé",
        "\ud800AAA",
        '{"totalRecord":1}',
    ],
)
def test_what_is_no_base64_is_refused(body: str) -> None:
    error = refusal(errors.InvalidBase64Error, lambda: read_any(body, is_base64=True, headers={}))
    assert error.status == 400


def test_a_session_that_inflates_to_too_much_is_told_what_it_needs() -> None:
    packed = base64.b64encode(gzip.compress(b"{}" + b" " * SESSION_ALLOWANCE.inflated)).decode()
    error = refusal(
        errors.InflatedTooLargeError,
        lambda: read_any(
            packed,
            is_base64=True,
            headers={"content-encoding": "gzip"},
            allowance=SESSION_ALLOWANCE,
        ),
    )
    assert "totalRecord and batchSize" in error.detail
    assert "batches" not in error.detail


@pytest.mark.parametrize("encoding", ["identity", "Identity", " identity ", "", " "])
def test_identity(encoding: str) -> None:
    assert read_body(b"{}", content_encoding=encoding) == b"{}"
    assert read_text("{}", content_encoding=encoding) == b"{}"


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "Gzip", " gzip ", "x-gzip", "X-GZip"])
def test_gzip(encoding: str) -> None:
    body = batch("[1]")
    assert read_body(gzip.compress(body), content_encoding=encoding) == body


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip"])
@pytest.mark.parametrize("text", ["\x1f\ufffd\x08", '{"seqNum":0,"data":[1]}'])
def test_gzip_that_came_as_text(encoding: str, text: str) -> None:
    error = refusal(errors.GzipAsTextError, lambda: read_text(text, content_encoding=encoding))
    assert error.status == 415
    assert error.members == {"expected": MEDIA_TYPE}
    assert f"Content-Type: {MEDIA_TYPE}" in error.detail


@pytest.mark.parametrize(
    "encoding", ["br", "deflate", "zstd", "compress", "gzip, gzip", "gzip, br", "utf-8", "é" * 5000]
)
@pytest.mark.parametrize("read", [lambda e: read_body(b"{}", **e), lambda e: read_text("{}", **e)])
def test_unknown_encodings(read: Callable[[Mapping[str, str]], bytes], encoding: str) -> None:
    error = refusal(errors.UnsupportedEncodingError, lambda: read({"content_encoding": encoding}))
    assert error.status == 415
    assert error.members == {"supported": ["gzip", "identity"]}
    assert "use gzip, or none" in error.detail
    assert len(error.detail) < 200


def padded(length: int) -> bytes:
    """A batch of exactly this many bytes."""
    return batch(f'["{"x" * (length - len(batch("[]")) - 2)}"]')


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("form", ["base64", "text", "text beyond ASCII"])
def test_the_largest_body(form: str, off: int) -> None:
    body = padded(MOST_SENT + off)
    if form == "text beyond ASCII":
        body = body.replace(b"xx", "é".encode())
    assert len(body) == MOST_SENT + off

    def read() -> bytes:
        return read_body(body) if form == "base64" else read_text(body.decode())

    if off <= 0:
        assert read() == body
        return
    error = refusal(errors.BodyTooLargeError, read)
    assert error.status == 413
    assert error.members == {"limit": MOST_SENT}
    assert "Send smaller batches, or compress them" in error.detail


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_the_largest_compressed_body(off: int) -> None:
    """The limit is on the bytes as sent. They are stored, and a file name makes up the length."""
    content = padded(MOST_SENT - 10_000)
    packed = gzip.compress(content, 0)
    named = MOST_SENT + off - len(packed) - 1
    body = packed[:3] + b"\x08" + packed[4:10] + b"n" * named + b"\0" + packed[10:]
    assert len(body) == MOST_SENT + off
    if off <= 0:
        assert read_body(body, content_encoding="gzip") == content
    else:
        refusal(errors.BodyTooLargeError, lambda: read_body(body, content_encoding="gzip"))


# --- Inflating ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 5])
def test_the_tests_own_gzip_is_right(size: int) -> None:
    assert gzip.decompress(spaces(size)) == b" " * size


PACKED = gzip.compress(WHOLE.encode(), mtime=0)
RICH = (
    # Extra field, file name, comment and header checksum: RFC 1952, 2.3.1.
    b"\x1f\x8b\x08\x1e\0\0\0\0\0\xff\x03\0abcname\0comment\0"
)
RICH += (zlib.crc32(RICH) & 0xFFFF).to_bytes(2, "little") + PACKED[10:]


@pytest.mark.parametrize("packed", [PACKED, RICH], ids=["plain", "rich header"])
def test_gzip_headers(packed: bytes) -> None:
    assert inflate(packed) == WHOLE.encode()


@pytest.mark.parametrize("packed", [PACKED, RICH], ids=["plain", "rich header"])
def test_gzip_truncated_at_every_length(packed: bytes) -> None:
    for length in range(1, len(packed)):
        error = refusal(
            errors.TruncatedGzipError,
            lambda cut=packed[:length]: read_body(cut, content_encoding="gzip"),  # type: ignore[misc]
        )
        assert "Send it again, whole" in error.detail


@pytest.mark.parametrize("length", range(1, len(PACKED)))
def test_a_second_member_truncated_at_every_length(length: int) -> None:
    refusal(errors.TruncatedGzipError, lambda: inflate(PACKED + PACKED[:length]))


def changed(at: int, to: int | None = None) -> bytes:
    damaged = bytearray(PACKED)
    damaged[at] = damaged[at] ^ 0xFF if to is None else to
    return bytes(damaged)


NOT_GZIP, DAMAGED, MORE = "does not begin as gzip", "is damaged", "after the end of the gzip"
INVALID_GZIP = {
    "plain JSON": (WHOLE.encode(), NOT_GZIP),
    "zlib": (zlib.compress(WHOLE.encode()), NOT_GZIP),
    "raw deflate": (PACKED[10:-8], NOT_GZIP),
    "zip": (b"PK\x03\x04" + bytes(40), NOT_GZIP),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(40), NOT_GZIP),
    "gzip in base64": (base64.b64encode(PACKED), NOT_GZIP),
    "wrong magic": (changed(1), NOT_GZIP),
    "one byte": (b"x", NOT_GZIP),
    "unknown method": (changed(2, 7), DAMAGED),
    "reserved block type": (changed(10, 0x07), DAMAGED),
    "damaged checksum": (changed(-8), DAMAGED),
    "damaged length": (changed(-1), DAMAGED),
    "trailing garbage": (PACKED + b"garbage behind the member", MORE),
    "trailing JSON": (PACKED + b'{"seqNum":0,"data":[1]}', MORE),
    "trailing zeros": (PACKED + bytes(512), MORE),
    "two bytes of garbage": (PACKED + b"xx", MORE),
    "one byte of garbage": (PACKED + b"x", MORE),
}


@pytest.mark.parametrize(("body", "says"), INVALID_GZIP.values(), ids=INVALID_GZIP)
def test_invalid_gzip(body: bytes, says: str) -> None:
    error = refusal(errors.InvalidGzipError, lambda: read_body(body, content_encoding="gzip"))
    assert says in error.detail


@pytest.mark.parametrize("at", range(len(PACKED)))
def test_a_damaged_byte_is_never_accepted_as_something_else(at: int) -> None:
    try:
        content = inflate(changed(at))
    except (errors.InvalidGzipError, errors.TruncatedGzipError):
        return
    # Flags, time and system in the header do not matter.
    assert 3 <= at < 10
    assert content == WHOLE.encode()


@pytest.mark.parametrize("cuts", [(0,), (1,), (5, 9), (0, 0, 40), (len(WHOLE),)], ids=str)
def test_several_members_are_one_body(cuts: tuple[int, ...]) -> None:
    body = WHOLE.encode()
    ends = [*cuts, len(body)]
    pieces = [body[start:end] for start, end in zip([0, *cuts], ends, strict=True)]
    assert inflate(b"".join(map(gzip.compress, pieces))) == body


def test_empty_gzip_is_an_empty_body() -> None:
    content = read_body(gzip.compress(b""), content_encoding="gzip")
    assert content == b""
    refusal(errors.TruncatedJsonError, lambda: read_batch(content))


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("members", [1, 2])
def test_the_largest_inflated_body(members: int, off: int) -> None:
    half = MOST_INFLATED // 2
    sizes = [MOST_INFLATED + off] if members == 1 else [half, half + off]
    packed = b"".join(map(spaces, sizes))
    if off <= 0:
        content = read_body(packed, content_encoding="gzip")
        assert len(content) == MOST_INFLATED + off
        assert not content.strip()
        return
    error = refusal(
        errors.InflatedTooLargeError, lambda: read_body(packed, content_encoding="gzip")
    )
    assert error.status == 413
    assert error.members == {"limit": MOST_INFLATED}
    assert "Send smaller batches" in error.detail


def test_an_empty_member_behind_the_largest_body_is_fine() -> None:
    packed = spaces(MOST_INFLATED) + gzip.compress(b"")
    assert len(inflate(packed)) == MOST_INFLATED


EMPTY_MEMBER = gzip.compress(b"", mtime=0)
HUNDRED_SPACES = gzip.compress(b" " * 100, mtime=0)
ONE_SPACE = gzip.compress(b" ", mtime=0)


def with_name(length: int) -> bytes:
    """A member with a file name of so many bytes, and ``WHOLE`` in it."""
    return PACKED[:3] + b"\x08" + PACKED[4:10] + b"n" * length + b"\0" + PACKED[10:]


def blocks(of: bytes, times: int) -> bytes:
    """A member whose content begins with blocks that hold nothing."""
    return PACKED[:10] + of * times + PACKED[10:]


# Eight times the three bits that begin a block of the fixed codes, and the seven that end one.
EIGHT_FIXED = sum(0b010 << (10 * n) for n in range(8)).to_bytes(10, "little")
STORED = b"\0\0\0\xff\xff"


@pytest.mark.parametrize(
    ("packed", "content"),
    [
        (EMPTY_MEMBER * 3_000, b""),
        (HUNDRED_SPACES * 10_000, b" " * 1_000_000),
        (with_name(65_000), WHOLE.encode()),
        (blocks(STORED, 13_000), WHOLE.encode()),
        (blocks(EIGHT_FIXED, 6_500), WHOLE.encode()),
    ],
    ids=["empty members", "short members", "name", "stored blocks", "fixed blocks"],
)
def test_gzip_may_be_a_little_larger_than_what_it_holds(packed: bytes, content: bytes) -> None:
    assert inflate(packed) == content


@pytest.mark.parametrize(
    "packed",
    [
        EMPTY_MEMBER * 225_000,
        ONE_SPACE * 200_000,
        with_name(4_000_000),
        blocks(STORED, 800_000),
        blocks(EIGHT_FIXED, 400_000),
    ],
    ids=["empty members", "short members", "name", "stored blocks", "fixed blocks"],
)
def test_gzip_that_brings_next_to_nothing_is_not_read_to_its_end(packed: bytes) -> None:
    """Else a byte of it would take a hundred times the CPU of one that brings something."""
    for sent in (packed, packed[:500_000]):
        error = refusal(errors.InvalidGzipError, lambda sent=sent: inflate(sent))  # type: ignore[misc]
        assert "larger than what it holds" in error.detail


@pytest.mark.parametrize(
    "packed",
    [
        PACKED,
        PACKED * 3,
        spaces(3 * MIB),
        gzip.compress(random.Random(1).randbytes(1_000_000)),
        blocks(EIGHT_FIXED, 6_500),
        spaces(MOST_INFLATED // 2) * 3,
        EMPTY_MEMBER * 225_000,
        PACKED[:-1],
        PACKED + b"x",
        PACKED + changed(-8),
        PACKED + changed(10, 0x07),
    ],
)
def test_what_is_slow_to_inflate_is_inflated_all_the_same(packed: bytes) -> None:
    def outcome(cpu: Callable[[], float]) -> object:
        try:
            return inflate(packed, cpu=cpu)
        except errors.GaplessError as error:
            return type(error)

    seconds = itertools.count()
    assert outcome(lambda: next(seconds)) == outcome(lambda: 0)
    assert next(seconds) == 2, "isal was given up after the first piece"


# --- Content-Digest -------------------------------------------------------------------------------

BODY = batch('["é"]')


def digest(body: bytes, algorithm: str = "sha256") -> str:
    return base64.b64encode(hashlib.new(algorithm, body).digest()).decode()


RIGHT = f"sha-256=:{digest(BODY)}:"
WRONG = f"sha-256=:{digest(b'{}')}:"
SHA512 = f"sha-512=:{digest(BODY, 'sha512')}:"

GOOD_DIGESTS = {
    "alone": RIGHT,
    "first of two": f"{RIGHT}, {SHA512}",
    "last of two": f"{SHA512}, {RIGHT}",
    "without a space": f"{SHA512},{RIGHT}",
    "among unknown ones": f"unixsum=:AAAA:, {RIGHT}, crc32c=:AAAA:",
    "with a wrong one of another algorithm": f"sha-512=:AAAA:, {RIGHT}",
    "with a parameter": f"{RIGHT};a=1",
    "with space around": f"  {RIGHT}  ",
    "with parameters of every type": (
        f'{RIGHT};a;b=?0;c=-1.5;d=@1659578233;e="\\"\\\\, x";f=tok/en:*;g=:AAAA:;h=%"%c3%a9"; i=1'
    ),
    # RFC 9651, 3.2: of a key that is given twice, the last value holds.
    "after a wrong one": f"{WRONG}, {RIGHT}",
    "after one that is no byte sequence": f"sha-256, sha-256=(1 2), {RIGHT}",
    "after a wrong one in a string": f'x="a, {WRONG}", {RIGHT}',
    "before a wrong one in a string": f'{RIGHT};x=", {WRONG}"',
    "after a wrong one in an inner list": f'x=("a, {WRONG}";sha-256=:AAAA: {WRONG[8:]});y, {RIGHT}',
    "after an empty inner list": f"x=( ),{RIGHT}",
    "with tabs around the comma": f"{SHA512}\t,\t{RIGHT}",
    # RFC 9651, 4.2.7: what lacks padding should be read.
    "without its padding": f"sha-256=:{digest(BODY).rstrip('=')}:",
}


@pytest.mark.parametrize("header", GOOD_DIGESTS.values(), ids=GOOD_DIGESTS)
def test_right_digests(header: str) -> None:
    assert read_body(BODY, content_digest=header) == BODY
    assert read_text(BODY.decode(), content_digest=header) == BODY


def test_the_digest_is_over_the_bytes_as_sent() -> None:
    packed = gzip.compress(BODY)
    sent = f"sha-256=:{digest(packed)}:"
    assert read_body(packed, content_encoding="gzip", content_digest=sent) == BODY
    error = refusal(
        errors.DigestMismatchError,
        lambda: read_body(packed, content_encoding="gzip", content_digest=RIGHT),
    )
    assert "as sent" in error.detail
    assert "after compression" in error.detail


@pytest.mark.parametrize(
    "header",
    [
        WRONG,
        f"{SHA512}, {WRONG}",
        f"{WRONG},{SHA512}",
        f"{RIGHT}, {WRONG}",
        f'x="a, {RIGHT}", {WRONG}',
        f'{WRONG};x=", {RIGHT}"',
    ],
)
def test_wrong_digests(header: str) -> None:
    error = refusal(
        errors.DigestMismatchError, lambda: read_text(BODY.decode(), content_digest=header)
    )
    assert error.members == {"expected": digest(b"{}"), "received": digest(BODY)}
    assert "Send it again" in error.detail


def test_a_digest_shows_damage_before_anything_else_does() -> None:
    damaged = BODY[:-4]
    refusal(errors.DigestMismatchError, lambda: read_body(damaged, content_digest=RIGHT))
    refusal(
        errors.DigestMismatchError,
        lambda: read_body(b"not gzip", content_encoding="gzip", content_digest=RIGHT),
    )


BAD_DIGESTS = {
    "empty": "",
    "no value": "sha-256",
    "not a byte sequence": f"sha-256={digest(BODY)}",
    "opened only": f"sha-256=:{digest(BODY)}",
    "closed only": f"sha-256={digest(BODY)}:",
    "a string": f'sha-256="{digest(BODY)}"',
    "nothing in it": "sha-256=::",
    "too short": "sha-256=:AAAA:",
    "too long": f"sha-256=:{digest(BODY, 'sha512')}:",
    "URL-safe alphabet": "sha-256=:" + "_-" * 21 + "_=:",
    "not base64": "sha-256=:" + "%" * 44 + ":",
    "hexadecimal": f"sha-256=:{hashlib.sha256(BODY).hexdigest()}:",
    "another algorithm only": SHA512,
    "a name that ends alike": f"x{RIGHT}",
    "a name that begins alike": RIGHT.replace("256", "256x"),
    "Digest of RFC 3230": f"SHA-256={digest(BODY)}",
    "an upper-case key": f"SHA-256=:{digest(BODY)}:",
    "in a string alone": f'x="a, {RIGHT}"',
    "in an inner list alone": f"x=({RIGHT[8:]})",
    "a parameter alone": f"x;{RIGHT}",
    "an inner list": f"sha-256=({RIGHT[8:]})",
    "no byte sequence after a right one": f"{RIGHT}, sha-256",
    "a comma at its end": f"{RIGHT},",
    "a comma at its beginning": f",{RIGHT}",
    "two commas": f"{SHA512},,{RIGHT}",
    "something behind it": f"{RIGHT} x",
    "something close behind it": f"{RIGHT}x",
    "something broken before it": f"%%%, {RIGHT}",
    "a string without its end": f'x="a, {RIGHT}',
    "an inner list without its end": f"x=(1, {RIGHT}",
    "an integer of 16 digits": f"x=1234567890123456, {RIGHT}",
    "space around the equals sign": RIGHT.replace("=", " = ", 1),
    "a line end behind it": f"{RIGHT}\n",
    "space that is none in HTTP": f"\u00a0{RIGHT}",
    "padding in the middle": "sha-256=:" + "AA==" * 10 + "AAA=:",
    "very many members": "a," * 50_000,
    "very many escapes": 'a="' + '\\"' * 50_000,
}


@pytest.mark.parametrize("header", BAD_DIGESTS.values(), ids=BAD_DIGESTS)
def test_malformed_digests(header: str) -> None:
    error = refusal(
        errors.InvalidContentDigestError, lambda: read_body(BODY, content_digest=header)
    )
    assert "sha-256=:…:" in error.detail
    assert "RFC 9530" in error.detail


# --- Sessions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "total_record", "batch_size"),
    [
        ('{"totalRecord":0}', 0, None),
        ('{"totalRecord":1}', 1, None),
        (f'{{"totalRecord":{LARGEST - 1}}}', LARGEST - 1, None),
        (f'{{"totalRecord":{LARGEST}}}', LARGEST, None),
        ('{"totalRecord":0,"batchSize":1}', 0, 1),
        ('{"totalRecord":5,"batchSize":2}', 5, 2),
        ('{"batchSize":2,"totalRecord":5}', 5, 2),
        (f'{{"totalRecord":5,"batchSize":{LARGEST}}}', 5, LARGEST),
        ('{"totalRecord":5,"batchSize":null}', 5, None),
        (' {\n"totalRecord" :\t5 ,\r\n"comment" : "ignored" } ', 5, None),
        (r'{"total\u0052ecord":5}', 5, None),
        ('{"totalRecord":5,"x":[-0,1e400,{"a":1,"a":2}]}', 5, None),
    ],
)
def test_session_requests(body: str, total_record: int, batch_size: int | None) -> None:
    assert read_session_request(body.encode()) == SessionRequest(total_record, batch_size)


@pytest.mark.parametrize(
    "value", ["null", str(LARGEST + 1), str(LARGEST + 2), *NOT_AN_INTEGER], ids=lambda at: at[:30]
)
@pytest.mark.parametrize(
    "form",
    [
        '{{"totalRecord":{}}}',
        '{{"totalRecord":{},"batchSize":1}}',
        '{{"x":1, "totalRecord" : {} }}',
    ],
)
def test_invalid_total_record(form: str, value: str) -> None:
    error = refusal(
        errors.InvalidTotalRecordError, lambda: read_session_request(form.format(value).encode())
    )
    assert f"from 0 to {LARGEST}" in error.detail
    assert PLAIN_DIGITS in error.detail
    assert error.members == {"member": "totalRecord"}


@pytest.mark.parametrize(
    "value", ["0", str(LARGEST + 1), *NOT_AN_INTEGER], ids=lambda value: value[:30]
)
@pytest.mark.parametrize(
    "form", ['{{"totalRecord":1,"batchSize":{}}}', '{{"batchSize":{},"totalRecord":1}}']
)
def test_invalid_batch_size(form: str, value: str) -> None:
    error = refusal(
        errors.InvalidBatchSizeError, lambda: read_session_request(form.format(value).encode())
    )
    assert f"from 1 to {LARGEST}, or left out" in error.detail
    assert error.members == {"member": "batchSize"}


@pytest.mark.parametrize("body", ["{}", '{"batchSize":1}', '{"totalrecord":1}', '{"data":[1]}'])
def test_missing_total_record(body: str) -> None:
    error = refusal(errors.MissingMemberError, lambda: read_session_request(body.encode()))
    assert error.members == {"member": "totalRecord"}
    assert "'totalRecord'" in error.detail
    assert PLAIN_DIGITS in error.detail


@pytest.mark.parametrize(
    ("body", "member"),
    [
        ('{"totalRecord":1,"totalRecord":1}', "totalRecord"),
        ('{"totalRecord":1,"totalRecord":2}', "totalRecord"),
        (r'{"totalRecord":1,"\u0074otalRecord":2}', "totalRecord"),
        ('{"batchSize":1,"totalRecord":1,"batchSize":null}', "batchSize"),
        ('{"batchSize":null,"totalRecord":1,"batchSize":1}', "batchSize"),
        ('{"x":1,"totalRecord":1,"x":1}', "x"),
        ('{"":1,"totalRecord":1,"":1}', ""),
    ],
)
def test_session_members_given_twice(body: str, member: str) -> None:
    error = refusal(errors.RepeatedMemberError, lambda: read_session_request(body.encode()))
    assert error.members == {"member": member}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"totalRecord":1', errors.TruncatedJsonError),
        ('{"totalRecord":', errors.TruncatedJsonError),
        ('{"totalRecord":1}}', errors.TrailingTextError),
        ('{"totalRecord":1,}', errors.MalformedJsonError),
        ('{"totalRecord":01}', errors.MalformedJsonError),
        ('{"totalRecord":NaN}', errors.NotANumberError),
        ('{"totalRecord":1,"x":"\n"}', errors.ControlCharacterError),
        (r'{"totalRecord":1,"x":"\ud800"}', errors.LoneSurrogateError),
        ('{"totalRecord":1,"x":' + "[" * 200_000, errors.TooDeeplyNestedError),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else value.__name__,
)
def test_malformed_session_requests(body: str, expected: Error) -> None:
    assert refusal(expected, lambda: read_session_request(body.encode())).status == 400


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
    """Any document, right or wrong, is compared with ``json`` in ``tests/fuzz``."""
    written = [json.dumps(record, **STYLES[style]).replace("\n", newline) for record in data]
    stored = lines(read_batch(batch(f"[{','.join(written)}]")))
    assert stored == [reference.one_line(record).encode() for record in written]


@pytest.mark.parametrize(
    "wrong", ['"a\n"', '"\\ud800"', '"\\x"', "tru", "[1,]", "NaN", '"a', "{1:2}", "1 2"]
)
def test_what_is_wrong_at_the_greatest_depth_is_told_or_too_deep(wrong: str) -> None:
    """To explain takes a few calls more than to refuse."""
    told = set()
    for depth in range(800, 1_100):
        body = f'{{"seqNum":0,"data":{"[" * depth}{wrong}{"]" * depth}}}'.encode()
        with pytest.raises(NOT_JSON) as refused:
            read_batch(body)
        told.add(refused.value.code)
    assert "too_deeply_nested" in told
    assert len(told) > 1
