r"""Reads the records of any input as NDJSON: chunks of complete lines, each ended by ``\n``.

Only one chunk is held in memory. Records of NDJSON and JSON keep their bytes; they are checked but
not reformatted. One exception: a record that spans several lines loses the space between its
tokens, as in the service.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Final, NamedTuple, NoReturn

import msgspec

from gapless import formats
from gapless.compression import GZIP_ERRORS, GzipFile
from gapless.errors import InputError, InvalidRecordError, RecordTooLargeError, ViolationError
from gapless.formats import Format, Reading, ReadOptions
from gapless.schemas import Schema

CHUNK: Final = 256 * 1024
"""Bytes per read: the overhead per chunk is negligible, and a chunk and its copies stay in the
processor's cache, and in memory that malloc keeps."""

MAX_RECORD: Final = 64 * 1024 * 1024
"""Largest record, bytes: the limit of an inflated batch, and a chunk must fit into memory."""

_BLANK: Final = b" \t\r\n"
_GZIP_MAGIC: Final = b"\x1f\x8b"
_RAW: Final = msgspec.json.Decoder(msgspec.Raw)
_DEFAULT: Final = ReadOptions()


class Chunk(NamedTuple):
    r"""Some records, and the same as NDJSON, each ended by ``\n``.

    If the file is trusted, ``records`` is empty and the last line may continue in the next chunk.
    """

    lines: bytes
    records: Sequence[bytes | msgspec.Raw]
    places: Sequence[int] = ()
    """The first line of each record in the input, from 1."""


OnInvalid = Callable[[InvalidRecordError, bytes], None]
"""Called with the error of an invalid record, and the record's bytes."""


def refuse(error: InvalidRecordError, record: bytes) -> NoReturn:
    """Raise the error of an invalid record: the default ``on_invalid``."""
    del record
    raise error


class Reader:
    """The records in ``file``, as chunks of NDJSON; iterate over it once.

    ``name`` and the content determine the format, unless ``options`` do. ``trusted`` skips the
    checks, for NDJSON that has passed them unchanged. ``on_invalid`` is called for each record that
    is malformed or does not satisfy the ``schema``. A record of more than ``largest`` bytes is
    refused unless ``fits`` returns True for it. Iterating raises InputError.
    """

    def __init__(
        self,
        file: io.BufferedReader,
        name: str = "",
        options: ReadOptions = _DEFAULT,
        *,
        trusted: bool = False,
        on_invalid: OnInvalid = refuse,
        schema: Schema | None = None,
        largest: int = MAX_RECORD,
        fits: Callable[[bytes], bool] = bool,
    ) -> None:
        self.reading = Reading(format=Format.NDJSON)
        """How the input is read; known after the first chunk, or at the end of an empty input."""
        self.blank = 0
        self.literal = 0
        """Lines of a TSV so far that contain quotes or backslashes, which are data."""
        self.modified = False
        """Whether the records differ from the bytes of the file; then it cannot be ``trusted``."""
        self._file = file
        self._name = name
        self._options = options
        self._trusted = trusted
        self._on_invalid = on_invalid
        self._schema = schema if schema and schema.text and not trusted else None
        self._largest = largest
        self._fits = fits
        self._line = 1
        """The first line of the content; for NDJSON the next line to read."""
        self._records = 0
        self._listed = False

    def __iter__(self) -> Iterator[Chunk]:
        gzipped = self._file.peek(len(_GZIP_MAGIC))[: len(_GZIP_MAGIC)] == _GZIP_MAGIC
        stream = GzipFile(fileobj=self._file, mode="rb") if gzipped else self._file
        try:
            chunks = self._chunks(iter(lambda: stream.read(CHUNK), b""), gzipped=gzipped)
            yield from self._satisfying(chunks, self._schema) if self._schema else chunks
        except GZIP_ERRORS as error:
            raise InputError(f"The gzip is damaged or truncated: {error}", "gzip") from None

    def _satisfying(self, chunks: Iterator[Chunk], schema: Schema) -> Iterator[Chunk]:
        """``chunks`` of the records that satisfy the schema."""
        for chunk in chunks:
            wrong = set()
            for found in schema.violations(chunk.records):
                wrong.add(found.index)
                error = ViolationError(chunk.places[found.index], found.path, found.message)
                self._on_invalid(error, bytes(chunk.records[found.index]))
            if not wrong:
                yield chunk
                continue
            self.modified = True
            left = [index for index in range(len(chunk.records)) if index not in wrong]
            if left:
                yield _chunk([(chunk.places[index], chunk.records[index]) for index in left])

    def _chunks(self, blocks: Iterator[bytes], *, gzipped: bool) -> Iterator[Chunk]:
        start = _head(blocks)
        formats.refuse_other_files(start)
        encoding, mark = formats.choose_encoding(start, self._options.encoding)
        blocks = chain([start[mark:]], blocks)
        if encoding != "utf-8":
            self.modified = True
            blocks = formats.transcoded(blocks, encoding)
        margin, blocks = self._from_content(blocks)
        start = _head(blocks)
        # Limit the margin, so that the head always includes content.
        head = (margin[: formats.HEAD // 2] + start)[: formats.HEAD]
        chosen = formats.choose(head, self._name, self._options, self._line)
        self.reading = chosen = msgspec.structs.replace(chosen, encoding=encoding, gzip=gzipped)
        blocks = chain([margin + start], blocks)
        if chosen.format in {Format.CSV, Format.TSV}:
            self.modified = True
            yield from _chunked(self._table(blocks, chosen))
        elif chosen.format is Format.NDJSON:
            if self._trusted:
                yield from _unchecked(blocks)
            else:
                yield from self._refuse_single_wrapper(self._lines(blocks), chosen)
        else:
            self.modified = True
            if chosen.separators:
                # Neither occurs unescaped in a string; between values both are whitespace.
                blocks = (block.replace(b"\x1e", b"\t") for block in blocks)
            yield from self._refuse_single_wrapper(_chunked(self._values(blocks, chosen)), chosen)

    def _from_content(self, blocks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
        """``blocks`` without the blank lines before the content.

        Also returns the space before the content on its line, which is part of the line.
        """
        margin = b""
        for block in blocks:
            content = block
            if margin or not block[: formats.HEAD].strip(_BLANK):
                self.modified = True
                content = block.lstrip(_BLANK)
                space = block[: len(block) - len(content)]
                blank = space.count(b"\n")
                self._line += blank
                self.blank += blank
                margin = space.rpartition(b"\n")[2] if blank else margin + space
                if len(margin) > MAX_RECORD:
                    _refuse_endless(self._line)
            if content:
                return margin, chain([content], blocks)
        return margin, blocks

    def _refuse_single_wrapper(self, chunks: Iterator[Chunk], chosen: Reading) -> Iterator[Chunk]:
        """``chunks``; raises InputError if a single record contains the list of records."""
        first = b""
        count = 0
        for chunk in chunks:
            if count == 0 and chunk.records:
                first = bytes(chunk.records[0])
            count += len(chunk.records)
            if count > 1:
                first = b""
            yield chunk
        if count == 1 and not chosen.given and not self._listed:
            _refuse_wrapper(first, chosen)

    def _refuse_too_large(self, record: bytes | msgspec.Raw, line: int, number: int) -> None:
        """Raise RecordTooLargeError if a record does not fit into a batch of one record."""
        content = bytes(record)
        if not self._fits(content):
            raise RecordTooLargeError(
                f"record {number}, line {line}: it has {len(content):,} bytes, more than the"
                " service accepts in a request.",
                "too_large",
            )

    def _lines(self, blocks: Iterable[bytes]) -> Iterator[Chunk]:
        for chunk in _whole_lines(blocks, lambda: self._line):
            # Line feeds become other space, so one within a record is missed below.
            found = [] if b"\r" in chunk else _values(chunk.replace(b"\n", b"\r"))
            # Fast path: the records joined by line feeds are the chunk, so every line has one.
            if b"\n".join([*found, b""]) == chunk and _is_utf8(chunk):
                count = len(found)
                whole = Chunk(chunk, found, range(self._line, self._line + count))
            else:
                self.modified = True
                count = chunk.count(b"\n")
                whole = _chunk(list(self._valid_lines(chunk, self._line)))
            if len(chunk) > self._largest:
                for index, record in enumerate(whole.records):
                    if len(record) > self._largest:
                        self._refuse_too_large(
                            record, whole.places[index], self._records + index + 1
                        )
            self._records += len(whole.records)
            if whole.records:
                yield whole
            self._line += count

    def _valid_lines(self, chunk: bytes, line: int) -> Iterator["_Placed"]:
        for number, text in enumerate(chunk[:-1].split(b"\n"), line):
            record = text.strip(_BLANK)
            if not record:
                self.blank += 1
            elif (fault := _fault(record)) is None:
                yield number, one_line(record)
            else:
                margin = len(text) - len(text.lstrip(_BLANK))
                reason = _line_reason(fault, record)
                self._on_invalid(
                    InvalidRecordError(number, margin + fault.at + 1, reason, fault.code), text
                )

    def _values(self, blocks: Iterator[bytes], chosen: Reading) -> Iterator["_Placed"]:
        """The elements of one JSON array, or consecutive values, unchanged."""
        text = _JsonText(blocks, self._line)
        self._listed = not chosen.separators and text.peek() == "["
        for start, value in text.elements() if self._listed else text.sequence():
            record = value.encode()
            if fault := _fault(record):
                place = text.place(start + fault.at)
                self._on_invalid(InvalidRecordError(*place, fault.reason, fault.code), record)
                continue
            record = one_line(record)
            self._records += 1
            line = text.line(start)
            if len(record) > self._largest:
                self._refuse_too_large(record, line, self._records)
            yield line, record

    def _table(self, blocks: Iterator[bytes], chosen: Reading) -> Iterator["_Placed"]:
        """Rows as objects with the names in the header; as arrays if there is no header."""
        rows = _csv_rows if chosen.format is Format.CSV else self._tsv_rows
        numbered = rows(_TextLines(blocks, self._line, chosen.line_end), chosen.delimiter)
        if chosen.first_line > 1:
            next(numbered)
        encode = msgspec.json.Encoder().encode
        names: list[str] | None = None
        width = 0
        for line, read in numbered:
            row = read
            if not row:
                if width != 1:
                    self.blank += 1
                    continue
                row = [""]
            if row[0].startswith("\ufeff"):
                raise InvalidRecordError(line, 1, _MARK, "encoding")
            if not width:
                width = len(row)
                if chosen.header:
                    names = row
                    _check_names(names, line, chosen, self._options)
                    continue
            if fault := _row_fault(row, line, width, names):
                self._on_invalid(fault, _row(row, chosen))
                continue
            cells = map(_parse_cell, row) if chosen.typed else row
            record = encode(dict(zip(names, cells, strict=True)) if names else list(cells))
            self._records += 1
            if len(record) > self._largest:
                self._refuse_too_large(record, line, self._records)
            yield line, record

    def _tsv_rows(self, lines: "_TextLines", delimiter: str) -> Iterator[tuple[int, list[str]]]:
        """Every line is a row; every character except the delimiter is data."""
        for text in lines:
            line = text.rstrip("\r\n")
            if "\r" in line or "\n" in line:
                raise InvalidRecordError(lines.number, 1, _MIXED_LINE_ENDS, "line_end")
            if '"' in line or "\\" in line:
                self.literal += 1
            yield lines.number, line.split(delimiter) if line else []


def _head(blocks: Iterator[bytes]) -> bytes:
    """At least the bytes that determine the format, if there are that many."""
    head = next(blocks, b"")
    while len(head) < formats.HEAD and (block := next(blocks, b"")):
        head += block
    return head


def _refuse_wrapper(record: bytes, chosen: Reading) -> None:
    """Raise InputError if the only record contains a list, which is probably the records."""
    try:
        value = msgspec.json.decode(record)
    except (msgspec.DecodeError, RecursionError):
        return
    if isinstance(value, list):
        raise InputError(
            "The only record is an array. Use --format json to send its elements, or --format"
            " ndjson to send it as one record.",
            "format_unclear",
        )
    if chosen.named or not isinstance(value, dict):
        return
    objects = [value]
    for one in objects:
        for name, member in one.items():
            if isinstance(member, dict):
                objects.append(member)
            if isinstance(member, list) and any(isinstance(each, (dict, list)) for each in member):
                raise InputError(
                    f"The file is one object, and its member {name!r} is a list of"
                    f" {len(member):,}. Extract the list to send its records, or use --format"
                    " ndjson to send the object as one record.",
                    "wrapped",
                )


def _refuse_endless(line: int) -> NoReturn:
    raise RecordTooLargeError(f"line {line}: it is longer than {MAX_RECORD:,} bytes.", "too_large")


def _whole_lines(
    blocks: Iterable[bytes], line: Callable[[], int], end: bytes = b"\n"
) -> Iterator[bytes]:
    """Chunks of whole lines; a line end is added to the last line if it has none.

    ``line`` returns the first line number of the next chunk, for the error message.
    """
    held: list[bytes] = []
    size = 0
    for block in blocks:
        after = block.rfind(end) + 1
        if after:
            yield b"".join([*held, block[:after]])
            held, size = [], 0
        held.append(block[after:])
        size += len(held[-1])
        if size > MAX_RECORD:
            _refuse_endless(line())
    if rest := b"".join(held):
        yield rest + end


def _unchecked(blocks: Iterable[bytes]) -> Iterator[Chunk]:
    block = b""
    for block in blocks:
        if block:
            yield Chunk(block, ())
    if block and not block.endswith(b"\n"):
        yield Chunk(b"\n", ())


class _ConstantError(ValueError):
    """``NaN`` or an infinity, which Python's json accepts."""


def _refuse_constant(name: str) -> NoReturn:
    raise _ConstantError(name)


def _is_utf8(text: bytes) -> bool:
    # msgspec does not validate the UTF-8 of msgspec.Raw.
    try:
        return text.isascii() or bool(text.decode())
    except UnicodeDecodeError:
        return False


def _values(chunk: bytes) -> list[msgspec.Raw]:
    """The JSON values in ``chunk``; an empty list if one is malformed."""
    try:
        return _RAW.decode_lines(chunk)
    except (msgspec.DecodeError, RecursionError):
        return []


def one_line(record: bytes) -> bytes:
    """``record`` on one line: valid JSON has unescaped line ends only between tokens."""
    multiline = b"\n" in record or b"\r" in record
    return msgspec.json.format(record, indent=-1) if multiline else record


_Placed = tuple[int, bytes | msgspec.Raw]
"""A record and its first line."""


def _chunked(records: Iterable[_Placed]) -> Iterator[Chunk]:
    found: list[_Placed] = []
    size = 0
    for placed in records:
        found.append(placed)
        size += len(placed[1])
        if size > CHUNK:
            yield _chunk(found)
            found, size = [], 0
    if found:
        yield _chunk(found)


def _chunk(placed: Sequence[_Placed]) -> Chunk:
    records = [record for _, record in placed]
    return Chunk(b"\n".join([*records, b""]), records, [line for line, _ in placed])


class _Fault(NamedTuple):
    """Why a record is not one JSON value; ``at`` is the character, from 0."""

    reason: str
    at: int
    code: str = "malformed_record"


_NOT_UTF8: Final = "this is not UTF-8; set --encoding, for example to windows-1252"
_MIXED_LINE_ENDS: Final = "a line end outside quotes differs from the others"
_MARK: Final = (
    "the row begins with a byte order mark, as in concatenated files. Upload each file separately"
)
_REPEATED: Final = (
    "the row repeats the header, as in concatenated files. Upload each file separately, or leave"
    " this row out with --skip-invalid"
)


def _fault(record: bytes) -> _Fault | None:
    try:
        text = record.decode()
    except UnicodeDecodeError as error:
        at = len(record[: error.start].decode(errors="replace"))
        return _Fault(_NOT_UTF8, at, "encoding")
    try:
        _RAW.decode(record)
    except (msgspec.DecodeError, RecursionError):
        pass
    else:
        return None
    try:
        _decoder.decode(text)
    except RecursionError:
        return _Fault("the JSON is nested too deeply", 0)
    except _ConstantError as error:
        return _Fault(f"{error} is not JSON", text.find(str(error)))
    except json.JSONDecodeError as error:
        return _Fault(error.msg, error.pos)
    # json accepts lone surrogates, msgspec does not.
    lone = re.search(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}", text)
    return _Fault("a \\ud800 … \\udfff escape without its other half", lone.start() if lone else 0)


def _line_reason(fault: _Fault, record: bytes) -> str:
    """The reason of a fault in a line, with advice if there is any."""
    if fault.code == "malformed_record" and record[:1] in b"[{":
        rest = record.decode()[fault.at :]
        if fault.reason == "Extra data" and rest[0] in "[{":
            return "another value follows on the line; use --format json if that is intended"
        if not rest:
            return f"{fault.reason}; use --format json if records span several lines"
    return fault.reason


# Numbers are not used. Do not parse them: an integer of 5,000 digits is slow.
_scanner: Final = json.JSONDecoder(parse_int=str, parse_float=str)
_decoder: Final = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse_constant)


_MAX_TOKEN: Final = 20
"""An upper bound of the length of a constant or an escape in JSON."""

_SPACE: Final = re.compile(r"[ \t\r\n]*")


class _JsonText:
    """A position in a text of JSON values, which is read block by block.

    It uses the standard library because msgspec's decoder does not return where a value ends.
    """

    def __init__(self, blocks: Iterator[bytes], line: int = 1) -> None:
        self._text = ""
        self._at = 0
        self._line = line
        self._column = 1
        self._counted = (0, line)
        """A position and its line: where ``line`` continues counting."""
        self._blocks = blocks
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._ended = False

    def _more(self) -> bool:
        """Read another block, and drop what was consumed; False at the end."""
        if self._ended:
            return False
        self._line, self._column = self.place()
        block = next(self._blocks, b"")
        self._ended = not block
        try:
            text = self._decode(block, final=self._ended)
        except UnicodeDecodeError as error:
            line = self._line + self._text.count("\n") + error.object[: error.start].count(b"\n")
            raise InvalidRecordError(line, 1, _NOT_UTF8, "encoding") from None
        self._text = self._text[self._at :] + text
        self._at = 0
        self._counted = (0, self._line)
        return True

    def place(self, at: int | None = None) -> tuple[int, int]:
        """Line and column of a position, by default the current one, from 1."""
        at = self._at if at is None else at
        newlines = self._text.count("\n", 0, at)
        if newlines:
            return self._line + newlines, at - self._text.rfind("\n", 0, at)
        return self._line, self._column + at

    def line(self, at: int) -> int:
        """The line of a position, from 1; positions must not decrease from call to call."""
        before, line = self._counted
        line += self._text.count("\n", before, at)
        self._counted = (at, line)
        return line

    def elements(self) -> Iterator[tuple[int, str]]:
        """The position (for ``place``) and the text of each element of one array."""
        self.expect("[")
        comma = self.peek() != "]"
        while comma:
            yield self.value()
            comma = self.peek() == ","
            if comma:
                self.expect(",")
        self.expect("]")
        if self.peek():
            self.fail(
                "there is text after the array. If each line is a record, use --format ndjson",
                code="format_unclear",
            )

    def sequence(self) -> Iterator[tuple[int, str]]:
        """The same for consecutive values; numbers and words must be followed by space."""
        while self.peek():
            start, value = self.value()
            if value[-1] not in '}]"' and self._text[self._at : self._at + 1].strip():
                self.fail("expected space after the value")
            yield start, value

    def fail(self, reason: str, at: int | None = None, code: str = "malformed_record") -> NoReturn:
        """Raise InvalidRecordError for a position."""
        raise InvalidRecordError(*self.place(at), reason, code)

    def peek(self) -> str:
        """Skip space; returns the next character, "" at the end."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def expect(self, character: str) -> None:
        """Consume ``character``, which must be next."""
        if self.peek() != character:
            self.fail(f"expected {character!r}" + (" or ','" if character == "]" else ""))
        self._at += 1

    def value(self) -> tuple[int, str]:
        """Consume the next value; returns its position (for ``place``) and its text."""
        self.peek()
        while True:
            try:
                _, end = _scanner.raw_decode(self._text, self._at)
            except RecursionError:
                self.fail("the JSON is nested too deeply", self._at)
            except json.JSONDecodeError as error:
                truncated = error.msg.startswith("Unterminated") or (
                    error.pos > len(self._text) - _MAX_TOKEN
                )
                too_long = len(self._text) - self._at > MAX_RECORD
                if too_long or not truncated or not self._more():
                    self.fail(error.msg, error.pos)
                continue
            # A number at the end of the text may continue in the next block.
            if end + _MAX_TOKEN < len(self._text) or not self._more():
                start, self._at = self._at, end
                return start, self._text[start:end]


_WORDS: Final = {"": None, "true": True, "false": False, "null": None}


def _parse_cell(cell: str) -> object:
    if cell in _WORDS:
        return _WORDS[cell]
    # Keep the digits: a float has only 17.
    return msgspec.Raw(cell.encode()) if formats.NUMBER.fullmatch(cell) else cell


def _doubtful_header(names: list[str]) -> str:
    """How the first row begins if that cannot be a name, with advice; "" if it can."""
    seen = repr(names[0][:40])
    if re.match(r"[-+.]?[0-9]", names[0]):
        return f"{seen}. Use --no-header if it is a record, --header if it is the header"
    if names[0][:4].lower() == "sep=" or (len(names) == 1 and names[0][:1] == "#"):
        return f"{seen}. Remove this line, or use --header if it is the header"
    return ""


def _check_names(names: list[str], line: int, chosen: Reading, options: ReadOptions) -> None:
    """Raise InvalidRecordError if the first row cannot be a header."""

    def fail(reason: str, code: str) -> NoReturn:
        raise InvalidRecordError(line, 1, reason, code)

    if options.header is None and (reason := _doubtful_header(names)):
        fail(f"the first row should name the columns, and begins with {reason}", "header_unclear")
    if chosen.format is Format.TSV and not chosen.given:
        for name in names:
            if len(name) > 1 and name[0] == name[-1] == '"':
                fail(
                    f"the name {name} is in quotes, which TSV does not have. Use --format tsv if"
                    " the quotes are data, --format csv --delimiter tab if they are not",
                    "format_unclear",
                )
    columns: dict[str, list[str]] = {}
    for number, name in enumerate(names, 1):
        columns.setdefault(name, []).append(str(number))
    for name, numbers in columns.items():
        if len(numbers) > 1:
            what = f"are both called {name!r}" if name else "both have no name"
            fail(f"columns {' and '.join(numbers[:2])} {what}", "header_names")


def _row_fault(
    row: list[str], line: int, width: int, names: list[str] | None
) -> InvalidRecordError | None:
    """Why ``row`` is not a record of a table with ``width`` columns; None if it is."""
    if len(row) != width:
        than = f"the header {width}" if names else f"the first {width}"
        return InvalidRecordError(line, 1, f"the row has {len(row)} cells, {than}", "ragged")
    # In a table of one column a value may equal the name.
    if row == names and width > 1:
        return InvalidRecordError(line, 1, _REPEATED, "header_repeated")
    return None


def _row(cells: list[str], chosen: Reading) -> bytes:
    """A row as text, close to the original."""
    if chosen.format is Format.TSV:
        return chosen.delimiter.join(cells).encode()
    text = io.StringIO()
    csv.writer(text, delimiter=chosen.delimiter, lineterminator="").writerow(cells)
    return text.getvalue().encode()


class _TextLines:
    """The lines of a table, each with its end; tracks open quotes, for error messages."""

    def __init__(self, blocks: Iterator[bytes], line: int, end: str) -> None:
        self.number = line - 1
        """The last line that was read, from 1."""
        self.quoted: list[str] = []
        """Lines with quotes that are not complete rows; the caller clears it."""
        self.open: tuple[int, int] | None = None
        """Line and column of the quote that is open after the last line."""
        self.was_open: tuple[int, int] | None = None
        """Line and column of the quote that was open before the last line."""
        self.is_row: Callable[[str], object] = bool
        """Whether a line with quotes is a complete row."""
        self._blocks = blocks
        self._end = end

    def __iter__(self) -> Iterator[str]:
        end = self._end
        is_row = self.is_row
        for chunk in _whole_lines(self._blocks, lambda: self.number + 1, end.encode()):
            for text in self._decoded(chunk).split(end)[:-1]:
                self.number += 1
                # Skip the tracking for complete rows, which most lines are.
                if '"' in text and (self.open or not is_row(text)):
                    self._quotes(text)
                yield text + end

    def _quotes(self, text: str) -> None:
        """Track quoted cells that span lines."""
        self.quoted.append(text + self._end)
        self.was_open = self.open
        if text.count('"') % 2:
            self.open = None if self.open else (self.number, text.rfind('"') + 1)

    def _decoded(self, chunk: bytes) -> str:
        try:
            text = chunk.decode()
        except UnicodeDecodeError as error:
            at, reason, code = error.start, _NOT_UTF8, "encoding"
        else:
            if "\0" not in text:
                return text
            at, reason, code = chunk.index(b"\0"), "a NUL byte", "nul"
        before = chunk[:at].decode(errors="replace").split(self._end)
        raise InvalidRecordError(self.number + len(before), len(before[-1]) + 1, reason, code)


def _csv_rows(lines: _TextLines, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The first line and the cells of each row (RFC 4180); a blank line is an empty row."""
    # The default, 128 KB, would refuse cells that the service accepts.
    csv.field_size_limit(MAX_RECORD)
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    cell = rf'(?:"[^"]*(?:""[^"]*)*"|[^"{re.escape(delimiter)}\r\n]*)'
    is_row = re.compile(rf"{cell}(?:{re.escape(delimiter)}{cell})*[\r\n]*").fullmatch
    lines.is_row = is_row
    while True:
        line = lines.number + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            # After a wrong quote the end of the row is unknown, so it cannot be skipped.
            raise _quote_fault(lines, str(error)) from None
        if lines.quoted:
            # csv accepts quotes within a cell that does not begin with one.
            if not is_row("".join(lines.quoted)):
                raise InvalidRecordError(line, 1, _STRAY, "quote")
            lines.quoted.clear()
        yield line, row


_STRAY: Final = (
    "a quote within a cell that does not begin with one. If quotes are data, use --format tsv with"
    " the --delimiter"
)


def _quote_fault(lines: _TextLines, reason: str) -> InvalidRecordError:
    if "new-line" in reason:
        return InvalidRecordError(lines.number, 1, _MIXED_LINE_ENDS, "line_end")
    if "field larger" in reason and lines.open is None:
        reason = f"a cell is longer than {MAX_RECORD:,} characters"
        return InvalidRecordError(lines.number, 1, reason, "too_large")
    if "expected after" in reason:
        place = lines.was_open or (lines.number, 1)
        reason = (
            f"a quoted cell is followed by text, on line {lines.number}; a quote within it is"
            ' written ""'
        )
        return InvalidRecordError(*place, reason, "quote")
    place = lines.open or (lines.number, 1)
    return InvalidRecordError(*place, "the quote that opens here is never closed", "quote")


def check_json(record: bytes, number: int) -> None:
    """Raise InvalidRecordError with ``number`` unless ``record`` is one JSON value."""
    if fault := _fault(record):
        at = f"character {fault.at + 1}: {fault.reason}"
        raise InvalidRecordError(number, fault.at + 1, at, fault.code, record=number)
