r"""NDJSON batches become the same batch as JSON ones, or the refusal names the line.

The reference splits the body at ``\n`` and reads each line separately.
"""

import itertools
import json
import random
import tracemalloc
from collections.abc import Callable
from typing import Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uploads import errors
from uploads.batch import Batch
from uploads.decode import batch_ndjson
from uploads.decode.batch_json import read_batch
from uploads.decode.batch_ndjson import read_lines, read_seq_num

SPACE: Final = b" \t\r"
_VALUE: Final = msgspec.json.Decoder(msgspec.Raw)

Outcome = tuple[int, bytes] | int
"""Records and stored bytes, or the number of the refused line (0 if there is none)."""


def posted(records: list[bytes], seq_num: int = 7) -> Batch:
    """The same records, sent as the JSON of a POST."""
    return read_batch(b'{"seqNum":%d,"data":[%b]}' % (seq_num, b",".join(records)))


def expected(body: bytes) -> Outcome:
    """What the reference makes of ``body``."""
    records = []
    for number, line in enumerate(body.split(b"\n"), 1):
        if not (record := line.strip(SPACE)):
            continue
        try:
            _VALUE.decode(record)
        except msgspec.DecodeError:
            return number
        records.append(record)
    return (len(records), posted(records).ndjson) if records else 0


def outcome(body: bytes) -> Outcome:
    """What the code under test makes of ``body``."""
    try:
        batch = read_lines(body, 7)
    except errors.EmptyDataError:
        return 0
    except errors.GaplessError as error:
        line = error.members["line"]
        return line if isinstance(line, int) else -1
    return batch.records, batch.ndjson


def refusal(body: bytes) -> errors.GaplessError:
    with pytest.raises(errors.GaplessError) as caught:
        read_lines(body, 0)
    return caught.value


@pytest.fixture(params=[1, 7, 40, 1 << 14])
def piece_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The size of the pieces in which a body is read: it must not matter."""
    size: int = request.param
    monkeypatch.setattr(batch_ndjson, "_PIECE_BYTES", size)
    return size


RECORDS: Final = [
    b"123456789012345678901234567890",
    b"-0",
    b"1e400",
    b"1.50",
    b"null",
    b"true",
    b'""',
    b"{}",
    b"[]",
    b'{"a":1,"a":2}',
    b'{ "a" : [ 1 ,\t2 ] , "b": { } }',
    rb'"\u00e9\u000a\n\r\ud83d\ude00\u0000"',
    '"é漢😀\u2028\u2029\u0085\x7f\ufeff"'.encode(),
    rb'"]}\n{["',
    b'{"seqNum":0,"data":[1,2]}',
    b"[" * 100 + b"]" * 100,
]
ENDS: Final[dict[str, Callable[[list[bytes]], bytes]]] = {
    "LF": lambda lines: b"".join(line + b"\n" for line in lines),
    "LF, but for the last": b"\n".join,
    "CR LF": lambda lines: b"".join(line + b"\r\n" for line in lines),
    "CR LF, but for the last": b"\r\n".join,
    "both": lambda lines: b"\n".join(line + b"\r" * (n % 2) for n, line in enumerate(lines)),
    "CR CR LF": lambda lines: b"".join(line + b"\r\r\n" for line in lines),
    "space around": lambda lines: b"".join(b" \t" + line + b"\t \n" for line in lines),
    "blank lines": lambda lines: b"\n\n \n\r\n" + b"\n\t\n\n".join(lines) + b"\n\r\n\n",
    "one blank line": lambda lines: b"\n".join([*lines[:3], b"", *lines[3:], b""]),
}


@pytest.mark.parametrize("ended", ENDS.values(), ids=ENDS)
@pytest.mark.usefixtures("piece_bytes")
def test_lines_are_the_same_batch_as_json(ended: Callable[[list[bytes]], bytes]) -> None:
    batch = read_lines(ended(RECORDS), 7)
    assert batch == posted(RECORDS)
    assert batch.ndjson == b"".join(record + b"\n" for record in RECORDS)
    assert batch.records == len(RECORDS)


def test_what_came_as_it_is_stored_is_not_copied() -> None:
    body = b"".join(record + b"\n" for record in RECORDS * 1_000)
    assert read_lines(body, 0).ndjson is body


@pytest.mark.usefixtures("piece_bytes")
def test_a_carriage_return_between_tokens_is_space_and_goes() -> None:
    records = [b'{"a":\r[1,\r2]}', b'{ "b" : 1 }', b'"\\r"']
    batch = read_lines(b"\n".join(records), 7)
    assert batch == posted(records)
    assert batch.ndjson == b'{"a":[1,2]}\n{ "b" : 1 }\n"\\r"\n'


TRAPS: Final = {
    "one over two lines, two on a line": (b"[1\n2]\n3,4\n", 1),
    "the other way round": (b"3,4\n[1\n2]\n", 1),
    "two with space between": (b"1\n2 3\n", 2),
    "two with nothing between": (b"1\n{}{}\n", 2),
    "words that run together": (b"1\n\ntruefalse\n", 3),
    "a value that a blank line makes up for": (b"{}{}\n\n", 1),
    "a value over two lines, made up for": (b"{}{}\n{\n}\n", 1),
    "a member on the next line": (b'{"a":1\n"b":2}\n', 1),
    "a comma at the end": (b"1,\n2\n", 1),
    "a comma at the beginning": (b"1\n,2\n", 2),
    "an array of lines": (b"[\n1,\n2\n]\n", 1),
    "an array over two lines": (b"1\n[\n]\n", 2),
    "a string over two lines": (b'1\n"a\nb"\n', 2),
    "a string over two lines, CR LF": (b'1\r\n"a\r\nb"\r\n', 2),
    "a carriage return between values": (b"1\r2\n", 1),
    "a number over two lines": (b"1\n-\n1\n", 2),
    "the wrapping of a POST": (b'{"seqNum":0,"data":[\n1\n]}\n', 1),
    "an indented object": (b'{\n  "a": 1\n}\n', 1),
    "brackets that close and open": (b"1\n1],[2\n", 2),
    "members that close and open": (b'{"a":1},"b":{"c":2}\n', 1),
    "space of Unicode": ("1\n\u00a0\n".encode(), 2),
    "a form feed": (b"1\n\f\n", 2),
    "NUL": (b"1\n\0\n", 2),
}


@pytest.mark.parametrize(("body", "line"), TRAPS.values(), ids=TRAPS)
@pytest.mark.usefixtures("piece_bytes")
def test_what_is_not_one_value_a_line_is_refused_and_the_line_named(body: bytes, line: int) -> None:
    assert outcome(body) == line
    assert expected(body) == line


CODES: Final = {
    "truncated_json": (b'{"a":[1', 8),
    "malformed_json": (b"{'a':1}", 2),
    "trailing_text": (b"1 2", 3),
    "control_character": (b'"a\tb"', 3),
    "not_a_number": (b'{"a":NaN}', 6),
    "lone_surrogate": (rb'"\ud83d"', 2),
}


@pytest.mark.parametrize(("code", "wrong"), CODES.items(), ids=CODES)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
@pytest.mark.usefixtures("piece_bytes")
def test_a_refusal_has_the_code_of_a_post_and_the_place(
    code: str, wrong: tuple[bytes, int], end: bytes
) -> None:
    record, column = wrong
    for before in (0, 1, 2_000):
        error = refusal(b"1\n" * before + b"  " + record + end + b"2" * bool(end))
        assert (error.code, error.members) == (code, {"line": before + 1, "column": column + 2})
    assert f"line {before + 1}, column {column + 2}." in error.detail


def test_a_column_is_counted_in_characters() -> None:
    assert refusal('1\n"é漢😀" x\n'.encode()).members == {"line": 2, "column": 7}


def test_a_byte_order_mark_is_named() -> None:
    error = refusal(b"\xef\xbb\xbf1\n2\n")
    assert (error.code, error.members) == ("malformed_json", {"line": 1, "column": 1})
    assert "byte order mark" in error.detail


@pytest.mark.parametrize("body", [b"", b"\n", b" ", b"\r\n\r\n", b"\n \t\n" * 50_000])
def test_no_records_are_no_batch(body: bytes) -> None:
    assert refusal(body).code == "empty_data"


def test_depth_has_the_bounds_of_a_post() -> None:
    deep = b"[" * 500 + b"]" * 500
    assert read_lines(b"1\n" + deep, 0).records == 2
    error = refusal(b"1\n\n" + b"[" * 200_000 + b"]" * 200_000 + b"\n2")
    assert (error.code, error.members) == ("too_deeply_nested", {"line": 3})
    assert "Line 3" in error.detail
    assert refusal(b"[" * 200_000).code == "too_deeply_nested"


def test_the_limit_on_lines() -> None:
    most = 5_000_000
    assert read_lines(b"1" + b"\n" * most, 0).records == 1
    with pytest.raises(errors.TooManyValuesError) as caught:
        read_lines(b"1" + b"\n" * (most + 1), 0)
    assert caught.value.members == {"limit": most}


def test_a_line_longer_than_what_is_looked_at_together() -> None:
    long = json.dumps("x" * 300_000).encode()
    for records in ([long], [b"1", long, b"2"], [long, long], [b"1"] * 100_000 + [long]):
        for end in (b"", b"\n"):
            assert read_lines(b"\n".join(records) + end, 7) == posted(records)


def test_a_long_line_of_many_values_takes_no_memory_for_them() -> None:
    body = b"1\n" + b"{}" * 2_000_000
    tracemalloc.start()
    try:
        assert refusal(body).code == "trailing_text"
        assert tracemalloc.get_traced_memory()[1] < 5 * len(body)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("value", [b'""', b"[]", b"{}", b'1""', b"1[]", b"0 ", b"0\r", b"true"])
@pytest.mark.parametrize("values", [18, 8_000, 20_000])
@pytest.mark.parametrize("last", [b"1\n", b"\r\n\n"])
def test_lines_of_many_values_take_no_memory_for_them(
    value: bytes, values: int, last: bytes
) -> None:
    line = value * values + last
    body = b"1\n" + line * (250_000 // len(line) + 1)
    tracemalloc.start()
    try:
        error = refusal(body)
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert error.members["line"] == 2
    # Two copies of a line, and the bookkeeping of one piece.
    assert held < 2 * len(line) + 900_000


def test_every_body_of_up_to_four_tokens() -> None:
    tokens = [b"[", b"]", b"{", b"}", b'"', b":", b",", b"1", b"\n", b"\r", b" "]
    accepted = 0
    for length in range(5):
        for some in itertools.product(tokens, repeat=length):
            body = b"".join(some)
            found = outcome(body)
            assert found == expected(body), body
            accepted += isinstance(found, tuple)
    assert accepted == 477


_PIECES: Final = [
    *(b"[1", b"2]", b'{"a":1', b'"b":2}', b"1,2", b"1 2", b"{}{}", b"", b" ", b"\r", b"[", b"]"),
    *(b'"a', b'b"', b"nul", b"l", b"truefalse", b"-", b"1", b",", b":", b"[1,", b",2]", b"]\n["),
    *(b"}\n{", b"null", b"[[],[", b"]]", b'"a":1', b"{", b"}", b"0", b"1e", b"5", b"\t", b"NaN"),
    *(b'{"a":[1,{"b":"x"}]}', b'"\\u2028"', b"[ ]", b"{}", b'{"a":\r1}', '"\u2028"'.encode()),
]
_BETWEEN: Final = [*[b"\n"] * 6, b"\r\n", b"\r", b"", b" ", b",", b"\n\n"]


def test_mixes_in_which_errors_cancel_out(monkeypatch: pytest.MonkeyPatch) -> None:
    made = random.Random(1)
    accepted = 0
    for _ in range(30_000):
        monkeypatch.setattr(batch_ndjson, "_PIECE_BYTES", made.choice([1, 2, 5, 8, 20, 16_384]))
        some = made.sample(_PIECES, made.choice([2, 3, 5, len(_PIECES)]))
        body = b"".join(
            made.choice(some) + made.choice(_BETWEEN) for _ in range(made.randrange(1, 9))
        )
        found = outcome(body)
        assert found == expected(body), body
        accepted += isinstance(found, tuple)
    assert accepted > 500


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(_JSON, min_size=1, max_size=8), st.integers(1, 60), st.data())
@settings(deadline=None)
def test_any_records_however_they_are_set(
    values: list[object], piece: int, data: st.DataObject
) -> None:
    space = st.text(" \t\r\n", max_size=3)
    inner = st.text(" \t\r", max_size=2).map(lambda found: (f",{found}", f"{found}:"))
    records = [
        json.dumps(value, ensure_ascii=data.draw(st.booleans()), separators=data.draw(inner))
        for value in values
    ]
    body = "".join(data.draw(space) + record + "\n" + data.draw(space) for record in records)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_ndjson, "_PIECE_BYTES", piece)
        assert read_lines(body.encode(), 7) == posted([one.encode() for one in records])


@pytest.mark.parametrize("given", ["0", "7", "10", "99999"])
def test_a_seq_num_in_the_path(given: str) -> None:
    assert read_seq_num(given) == int(given)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "00",
        "01",
        "-0",
        "-1",
        "+1",
        "1e3",
        "1.0",
        "100000",
        " 1",
        "1 ",
        "1\n",
        "0x1",
        "1_0",
        "٣",
        "a",
    ],
)
def test_invalid_seq_nums_in_the_path(given: str) -> None:
    with pytest.raises(errors.InvalidSeqNumError) as caught:
        read_seq_num(given)
    assert caught.value.members == {"member": "seqNum"}
