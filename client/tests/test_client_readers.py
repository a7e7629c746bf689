"""The readers and the division into batches, compared with the standard library's json and csv."""

import csv
import gzip
import io
import json
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gapless import batching, formats, readers
from gapless.batching import TARGET_BYTES, Plan
from gapless.errors import InputError, InvalidRecordError
from gapless.formats import Format, read_options
from gapless.readers import Chunk, Reader

quickly = settings(deadline=None, max_examples=60)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
spaces = st.text(" \t\r\n", max_size=3)
ascii_or_not = st.booleans()


def reader(content: bytes, format_: Format, **settings: Any) -> Reader:  # noqa: ANN401
    """A reader of ``content``; ``settings`` are read options and arguments of ``Reader``."""
    names = {"delimiter", "header", "typed"} & settings.keys()
    options = read_options(format=format_, **{name: settings.pop(name) for name in names})
    file: Any = io.BufferedReader(io.BytesIO(content))
    return Reader(file, "", options, **settings)


def read(content: bytes, format_: Format, **settings: Any) -> bytes:  # noqa: ANN401
    """All records as NDJSON."""
    return b"".join(chunk.lines for chunk in reader(content, format_, **settings))


@quickly
@given(st.lists(values), st.sampled_from([b"\n", b"\r\n", b"\n\n", b" \n\t"]), ascii_or_not)
def test_ndjson_stays_byte_for_byte(found: list[object], end: bytes, escape: bool) -> None:  # noqa: FBT001
    lines = [json.dumps(value, ensure_ascii=escape).encode() for value in found]
    plain = b"".join(line + b"\n" for line in lines)
    found_again = reader(end.join(lines), Format.NDJSON)
    assert b"".join(chunk.lines for chunk in found_again) == plain
    assert read(gzip.compress(plain), Format.NDJSON) == plain
    assert read(b"\xef\xbb\xbf" + plain, Format.NDJSON) == plain
    if not found_again.modified:
        assert read(end.join(lines), Format.NDJSON, trusted=True) == plain


@quickly
@given(st.lists(values), st.none() | st.integers(0, 3), spaces, ascii_or_not, st.integers(1, 40))
def test_a_json_array(
    found: list[object],
    indent: int | None,
    space: str,
    escape: bool,  # noqa: FBT001
    block: int,
) -> None:
    """With any space around the elements, and reads that end anywhere."""
    content = (space + json.dumps(found, indent=indent, ensure_ascii=escape) + space).encode()
    with patch.object(readers, "CHUNK", block), patch.object(formats, "HEAD", block):
        lines = read(content, Format.JSON)
    assert [json.loads(line) for line in lines.splitlines()] == found
    if indent is None:
        kept = [json.dumps(value, ensure_ascii=escape).encode() + b"\n" for value in found]
        assert lines == b"".join(kept)


@quickly
@given(st.binary(max_size=60) | text.map(str.encode))
def test_ndjson_accepts_what_json_accepts(content: bytes) -> None:
    """For any bytes: every line is one JSON value, or the input is refused."""
    assume(content[:2] not in {b"\xff\xfe", b"\xfe\xff"})  # read as UTF-16
    lines = [line.strip(b" \t\r") for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    try:
        for line in filter(None, lines):
            json.loads(line.decode(), parse_constant=lambda name: json.loads(name[:0]))
    except ValueError:
        with pytest.raises(InputError):
            read(content, Format.NDJSON)
    else:
        kept = b"".join(line + b"\n" for line in filter(None, lines))
        assert read(content, Format.NDJSON) == kept


cells = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from(',"\n\t'), max_size=9
)


def plain(cell: str) -> bool:
    """Whether TSV can hold it."""
    return not {"\t", "\n", "\r"}.intersection(cell)


@quickly
@given(
    st.lists(cells, min_size=2, max_size=4, unique=True),
    st.lists(st.lists(cells, min_size=4, max_size=4), max_size=5),
    st.sampled_from(["\n", "\r\n"]),
)
def test_tables_are_what_csv_reads(header: list[str], rows: list[list[str]], end: str) -> None:
    made = io.StringIO()
    writer = csv.writer(made, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([header, *(row[: len(header)] for row in rows)])
    lines = read(made.getvalue().encode(), Format.CSV, delimiter=",", header=True).splitlines()
    expected = [dict(zip(header, row, strict=False)) for row in rows]
    assert [json.loads(line) for line in lines] == expected


@quickly
@given(
    st.lists(cells.filter(plain), min_size=2, max_size=4, unique=True),
    st.lists(st.lists(cells.filter(plain), min_size=4, max_size=4), max_size=5),
    st.sampled_from(["\n", "\r\n"]),
)
def test_in_tsv_every_character_is_data(header: list[str], rows: list[list[str]], end: str) -> None:
    table = [header, *(row[: len(header)] for row in rows)]
    made = "".join("\t".join(row) + end for row in table)
    lines = read(made.encode(), Format.TSV, header=True).splitlines()
    assert [json.loads(line) for line in lines] == [
        dict(zip(header, row, strict=True)) for row in table[1:]
    ]


@pytest.mark.parametrize(
    ("format_", "content", "line", "column"),
    [
        (Format.NDJSON, b'1\n\n {"a": }\n', 3, 8),
        (Format.NDJSON, b"1\nNaN\n", 2, 1),
        (Format.NDJSON, b"1 2\n{\n}\n", 1, 3),
        (Format.NDJSON, b'"\\ud800"\n', 1, 2),
        (Format.NDJSON, b'1\n"a\xff"\n', 2, 3),
        (Format.JSON, b"[1,\n 2,\n  x]", 3, 3),
        (Format.JSON, b"[1,\n NaN]", 2, 2),
        (Format.JSON, b"[1] 2", 1, 5),
        (Format.JSON, b"[1", 1, 3),
        (Format.JSON, b"[1,]", 1, 4),
        (Format.CSV, b"a,b\n1,2\n3\n", 3, 1),
        (Format.CSV, b"a\n\xff\n", 2, 1),
        (Format.CSV, b"a,a\n", 1, 1),
    ],
)
def test_what_is_wrong_is_named(format_: Format, content: bytes, line: int, column: int) -> None:
    with pytest.raises(InvalidRecordError) as raised:
        read(content, format_)
    assert (raised.value.line, raised.value.column) == (line, column)


lengths = st.lists(st.integers(1, 30) | st.sampled_from([500, 900]), max_size=200)


@quickly
@given(lengths, st.integers(1, 50), st.integers(120, 1_000))
def test_every_batch_fits_and_is_cut_the_same_whatever_the_reads(
    sizes: Sequence[int], at_once: int, most: int
) -> None:
    found = [b'"' + b"x" * size + b'"' for size in sizes]
    content = b"".join(record + b"\n" for record in found)
    chunks = [
        Chunk(b"\n".join([*part, b""]), part)
        for i in range(0, len(found), at_once)
        if (part := found[i : i + at_once])
    ]
    plan = batching.make_plan(chunks, max_bytes=most)
    assert (plan.records, plan.bytes) == (len(found), len(content))
    pieces = [Chunk(content[i : i + at_once], ()) for i in range(0, len(content), at_once)]
    flexible = Plan(plan.records, plan.bytes, plan.crc32, None, most)
    for cut in (plan, flexible):
        batches = [(b"".join(batch.pieces), batch.records) for batch in batching.split(chunks, cut)]
        assert b"".join(lines for lines, _ in batches) == content
        assert [lines.count(b"\n") for lines, _ in batches] == [count for _, count in batches]
        again = [b"".join(batch.pieces) for batch in batching.split(pieces, cut)]
        assert again == [lines for lines, _ in batches]
        assert all(len(lines) <= most or count == 1 for lines, count in batches)
        if cut.batch_size:
            assert all(count == cut.batch_size for _, count in batches[:-1])


def test_small_records_make_a_strict_session() -> None:
    line = b"1" * 99
    chunks = [Chunk((line + b"\n") * 10_000, [line] * 10_000)] * 12
    plan = batching.make_plan(chunks)
    assert plan.batch_size == 32_768
    assert plan.batch_size * 100 <= TARGET_BYTES


@quickly
@given(lengths, st.integers(120, 1_000), st.integers(2, 50))
def test_batches_are_no_larger_than_their_number_makes_them(
    sizes: Sequence[int], most: int, batches: int
) -> None:
    """A batch of several MB may not fit into a request, so none is larger than necessary."""
    lines = [b"x" * (size - 1) + b"\n" for size in sizes]
    chunk = Chunk(b"".join(lines), [line[:-1] for line in lines])
    found = batching.make_plan([chunk], flexible=True, max_bytes=most, max_batches=batches)
    assert len(list(batching.split([chunk], found))) <= batches
    needed = -(-sum(sizes) // (batches - 1)) + max(sizes, default=0)
    assert found.batch_bytes <= max(most, needed)


def test_a_terabyte_is_sent_in_batches_that_compress_into_a_request() -> None:
    """Batches were 32 MB, which even at a quarter of the size exceed a request."""
    line = b"1" * 99
    chunks = [Chunk((line + b"\n") * 10, [line] * 10)] * 100
    plan = batching.make_plan(chunks, max_bytes=400, max_batches=10)
    assert (plan.batch_size, plan.bytes) == (None, 100_000)
    assert plan.batch_bytes == 11_212


def test_regression_a_record_over_several_lines_is_not_ndjson() -> None:
    """It was accepted as one record, and sent with commas instead of its line ends."""
    with pytest.raises(InvalidRecordError, match="line 1, column 2"):
        read(b'{\n"a":1\n}\n', Format.NDJSON)
    left_out: list[bytes] = []
    content = b'{\n"a":1\n}\n2\n'
    kept = read(content, Format.NDJSON, on_invalid=lambda _, record: left_out.append(record))
    assert (kept, left_out) == (b"2\n", [b"{", b'"a":1', b"}"])


BLANK_LINES = [b"\n" * 70_000, b" \t\r\n" * 20_000, b"\n" * 65_535 + b" \n"]


@pytest.mark.parametrize("blank", BLANK_LINES, ids=["bare", "spaces", "head"])
@pytest.mark.parametrize(
    "margin", [b" ", b"\t ", b"\r", b" " * 70_000], ids=["space", "tab", "cr", "wide"]
)
def test_regression_the_first_line_after_blank_lines_keeps_its_margin(
    blank: bytes, margin: bytes
) -> None:
    line = blank.count(b"\n") + 1
    left_out: list[tuple[int, int, bytes]] = []
    found = reader(
        blank + margin + b"F 1\n3\n",
        Format.NDJSON,
        on_invalid=lambda error, record: left_out.append((error.line, error.column, record)),
    )
    assert b"".join(chunk.lines for chunk in found) == b"3\n"
    assert left_out == [(line, len(margin) + 1, margin + b"F 1")]
    assert found.blank == line - 1
    with pytest.raises(InvalidRecordError) as caught:
        read(blank + margin + b"[NaN]", Format.JSON)
    assert (caught.value.line, caught.value.column) == (line, len(margin) + 2)
    if len(margin) < 100:
        with pytest.raises(InvalidRecordError) as caught:
            read(blank + margin + b"a,\0\n", Format.CSV)
        assert (caught.value.line, caught.value.column) == (line, len(margin) + 3)


def test_regression_the_header_after_blank_lines_keeps_its_first_name() -> None:
    content = b"\n" * 70_000 + b"\ta\tb\n1\t2\t3\n"
    assert read(content, Format.TSV) == b'{"":"1","a":"2","b":"3"}\n'
    content = b"\n" * 70_000 + b" a,b\n1,2\n"
    assert read(content, Format.CSV) == b'{" a":"1","b":"2"}\n'


def test_a_blank_line_before_the_content_has_the_maximum_length_of_a_line() -> None:
    content = b"\n\n" + b" " * 3_000_000
    with patch.object(readers, "MAX_RECORD", 2_000_000), pytest.raises(InputError) as caught:
        read(content + b"1\n", Format.NDJSON)
    assert (caught.value.code, str(caught.value).partition(":")[0]) == ("too_large", "line 3")
    assert read(content + b"1\n", Format.NDJSON) == b"1\n"


def test_regression_a_carriage_return_in_a_record_is_removed() -> None:
    """The service removes it too, so the checksum would differ."""
    found = reader(b'{"a":1,\r"b":[\r2 ]}\n3\n', Format.NDJSON)
    assert b"".join(chunk.lines for chunk in found) == b'{"a":1,"b":[2]}\n3\n'
    assert found.modified


@pytest.mark.parametrize("format_", Format)
def test_regression_a_damaged_gzip_is_an_input_error(format_: Format) -> None:
    for damaged in (gzip.compress(b"1\n2\n")[:10] + b"\xff" * 20, b"\x1f\x8b" + b"\xff" * 20):
        with pytest.raises(InputError, match="gzip is damaged"):
            read(damaged, format_)


@pytest.mark.parametrize(
    "encoding",
    ["idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "rot13", "hex", ""],
)
def test_a_codec_that_is_not_an_encoding_of_files_is_refused(encoding: str) -> None:
    with pytest.raises(InputError, match="is not a known encoding") as raised:
        read_options(encoding=encoding)
    assert raised.value.code == "option"


@pytest.mark.parametrize("encoding", ["latin-1", "iso-8859-15"])
def test_quotes_of_windows_are_not_control_characters(encoding: str) -> None:
    file: Any = io.BufferedReader(io.BytesIO("a,b\n1,é\n2,“x”\n".encode("cp1252")))
    read = Reader(file, "a.csv", read_options(encoding=encoding))
    with pytest.raises(InvalidRecordError, match=r"byte 93 .* windows-1252") as raised:
        list(read)
    assert (raised.value.code, raised.value.line) == ("encoding", 3)
    file = io.BufferedReader(io.BytesIO("a\né\n".encode(encoding)))
    read = Reader(file, "a.csv", read_options(encoding=encoding))
    assert b"".join(chunk.lines for chunk in read) == '{"a":"é"}\n'.encode()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"a":1}{"a":2}', "another value follows on the line; use --format json"),
        (b'{"a":1', "use --format json if records span several lines"),
        (b'{"a":1},', "Extra data"),
    ],
)
def test_an_invalid_line_is_refused_with_advice(line: bytes, said: str) -> None:
    file: Any = io.BufferedReader(io.BytesIO(b'{"b":1}\n' + line + b"\n"))
    with pytest.raises(InvalidRecordError, match=said) as raised:
        list(Reader(file, "a.ndjson"))
    assert raised.value.line == 2


@pytest.mark.parametrize(
    ("mark", "said"),
    [("\x01", r"--delimiter \$'\\x01'"), ("\x1f", r"\$'\\x1f'"), ("^", r"'\^'"), ("  ", "spaces")],
)
def test_an_odd_delimiter_is_named_as_the_option_takes_it(mark: str, said: str) -> None:
    file: Any = io.BufferedReader(io.BytesIO(f"a{mark}b\n1{mark}2\n".encode()))
    with pytest.raises(InputError, match=said) as raised:
        list(Reader(file, "a.csv"))
    assert raised.value.code == "delimiter_unclear"
