r"""Any input, as NDJSON: chunks of whole records, each on one line that ends in ``\n``.

Nothing is ever held but a chunk. The records of NDJSON and JSON stay the bytes they are: they are
checked, not parsed and written anew. Only a record of a JSON array that is spread over lines loses
the space between its tokens, which is what the service does with it too.
"""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple, NoReturn

import msgspec

from gapless import reading as readings
from gapless.errors import InputError, InvalidRecordError, RecordTooLargeError
from gapless.reading import Format, Reading, ReadOptions

try:
    from isal import igzip, isal_zlib
except ImportError:  # no wheel for this platform
    _open_gzip: Callable[..., Any] = gzip.GzipFile
    _inflate_error: Any = zlib.error
else:
    _open_gzip = igzip.IGzipFile
    _inflate_error = isal_zlib.error

CHUNK: Final = 1_000_000
"""Bytes read at once: large enough that the work per chunk is nothing beside the work per byte."""

MAX_RECORD: Final = 64 * 1024 * 1024
"""Largest record, bytes. No batch may be larger than this, and a chunk must fit into memory."""

_BLANK: Final = b" \t\r\n"
_GZIP_MAGIC: Final = b"\x1f\x8b"
_RAW: Final = msgspec.json.Decoder(msgspec.Raw)
_DEFAULT: Final = ReadOptions()


class Chunk(NamedTuple):
    r"""Some records, and the same as NDJSON, each ended by ``\n``.

    Where the file is trusted the records are not looked for, and a line may go on in the next.
    """

    lines: bytes
    records: Sequence[bytes | msgspec.Raw]


OnInvalid = Callable[[InvalidRecordError, bytes], None]
"""Gets a record that is left out: what is wrong with it, and its bytes."""


def refuse(error: InvalidRecordError, record: bytes) -> NoReturn:
    """What to do with a record that is wrong, unless somebody asks for more: stop."""
    del record
    raise error


class _Seen:
    """A file that tells what was read of it."""

    def __init__(self, file: io.BufferedReader, see: Callable[[bytes], object]) -> None:
        self._file = file
        self._see = see

    def read(self, size: int = -1) -> bytes:
        """Some bytes; fewer than asked for at the end."""
        found = self._file.read(size)
        self._see(found)
        return found

    def readinto(self, room: memoryview) -> int:
        """The same, into ``room``."""
        found = self.read(len(room))
        room[: len(found)] = found
        return len(found)


class Reader:
    """The records in ``file``, as chunks of NDJSON; iterate over it once.

    ``name`` and the content say how it is read, unless ``options`` do. ``trusted`` leaves the
    checks out, for NDJSON that passed them unchanged. ``on_invalid`` gets a record that is wrong,
    ``see`` every byte of the file as it is read, compressed or not. Of a record of more than
    ``largest`` bytes ``fits`` is asked whether it can be sent. Iterating raises an InputError, for
    a record only through ``on_invalid``.
    """

    def __init__(
        self,
        file: io.BufferedReader,
        name: str = "",
        options: ReadOptions = _DEFAULT,
        *,
        trusted: bool = False,
        on_invalid: OnInvalid = refuse,
        see: Callable[[bytes], object] = len,
        largest: int = MAX_RECORD,
        fits: Callable[[bytes], bool] = bool,
    ) -> None:
        self.reading = Reading(format=Format.NDJSON)
        """How the input is read; known with the first chunk, or the end of none."""
        self.blank = 0
        """Blank lines so far; they are no records."""
        self.literal = 0
        """Lines of a TSV so far with quotes or backslashes, which are data."""
        self.mended = False
        """Whether what is sent is not what stands in the file, so that it may not be trusted."""
        self._file = file
        self._name = name
        self._options = options
        self._trusted = trusted
        self._on_invalid = on_invalid
        self._see = see
        self._largest = largest
        self._fits = fits
        self._line = 1
        """Where the content begins; of NDJSON, where what was not read yet does."""
        self._records = 0
        self._listed = False
        """Whether an array holds the records."""

    def __iter__(self) -> Iterator[Chunk]:
        gzipped = self._file.peek(len(_GZIP_MAGIC))[: len(_GZIP_MAGIC)] == _GZIP_MAGIC
        seen = _Seen(self._file, self._see)
        stream = _open_gzip(fileobj=seen, mode="rb") if gzipped else seen
        try:
            yield from self._chunks(iter(lambda: stream.read(CHUNK), b""), gzipped=gzipped)
        except (EOFError, gzip.BadGzipFile, _inflate_error) as error:
            raise InputError(f"The gzip is damaged, or cut off: {error}", "gzip") from None

    def _chunks(self, blocks: Iterator[bytes], *, gzipped: bool) -> Iterator[Chunk]:
        start = _head(blocks)
        readings.refuse_other_files(start)
        encoding, mark = readings.choose_encoding(start, self._options.encoding)
        blocks = chain([start[mark:]], blocks)
        if encoding != "utf-8":
            self.mended = True
            blocks = readings.transcoded(blocks, encoding)
        blocks = self._from_content(blocks)
        start = _head(blocks)
        chosen = readings.choose(start[: readings.HEAD], self._name, self._options)
        self.reading = chosen = msgspec.structs.replace(chosen, encoding=encoding, gzip=gzipped)
        blocks = chain([start], blocks)
        if chosen.format in {Format.CSV, Format.TSV}:
            self.mended = True
            yield from _chunked(self._table(blocks, chosen))
        elif chosen.format is Format.NDJSON:
            if self._trusted:
                yield from _as_it_is(blocks)
            else:
                yield from self._several(self._lines(blocks), chosen)
        else:
            self.mended = True
            if chosen.separators:
                # Raw, neither stands in a string of valid JSON; between values both are space.
                blocks = (block.replace(b"\x1e", b"\t") for block in blocks)
            yield from self._several(_chunked(self._values(blocks, chosen)), chosen)

    def _from_content(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """The same from where a head holds something, however long the space before it."""
        for block in blocks:
            content = block
            if not block[: readings.HEAD].strip(_BLANK):
                self.mended = True
                content = block.lstrip(_BLANK)
                blank = block.count(b"\n", 0, len(block) - len(content))
                self._line += blank
                self.blank += blank
            if content:
                yield content
                break
        yield from blocks

    def _several(self, chunks: Iterator[Chunk], chosen: Reading) -> Iterator[Chunk]:
        """The same; refuses a single record that is a list of records itself."""
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

    def _ask(self, record: bytes | msgspec.Raw, line: int, number: int) -> None:
        """Refuse a record that is too large for a batch of its own."""
        content = bytes(record)
        if not self._fits(content):
            raise RecordTooLargeError(
                f"record {number}, line {line}: it has {len(content):,} bytes, more than the"
                " service takes in a request.",
                "too_large",
            )

    def _lines(self, blocks: Iterable[bytes]) -> Iterator[Chunk]:
        for chunk in _whole_lines(blocks, lambda: self._line):
            found = _values(chunk)
            count = chunk.count(b"\n")
            # Where the records, each with its line end, are all there is, and as many as there are
            # line ends, there is one on every line.
            plain = len(found) == count and b"\r" not in chunk
            if plain and b"\n".join([*found, b""]) == chunk and _is_utf8(chunk):
                whole = Chunk(chunk, found)
                places: Sequence[int] = range(self._line, self._line + count)
            else:
                self.mended = True
                places = []
                whole = _chunk(list(self._good_lines(chunk, self._line, places)))
            if len(chunk) > self._largest:
                for index, record in enumerate(whole.records):
                    if len(record) > self._largest:
                        self._ask(record, places[index], self._records + index + 1)
            self._records += len(whole.records)
            if whole.records:
                yield whole
            self._line += count

    def _good_lines(self, chunk: bytes, line: int, places: list[int]) -> Iterator[bytes]:
        for number, text in enumerate(chunk[:-1].split(b"\n"), line):
            record = text.strip(_BLANK)
            if not record:
                self.blank += 1
            elif (fault := _fault(record)) is None:
                places.append(number)
                yield one_line(record)
            else:
                margin = len(text) - len(text.lstrip(_BLANK))
                reason = _on_a_line(fault, record)
                self._on_invalid(
                    InvalidRecordError(number, margin + fault.at + 1, reason, fault.code), text
                )

    def _values(self, blocks: Iterator[bytes], chosen: Reading) -> Iterator[bytes]:
        """The elements of one JSON array, or values one after the other, as they are written."""
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
            if len(record) > self._largest:
                self._ask(record, text.place(start)[0], self._records)
            yield record

    def _table(self, blocks: Iterator[bytes], chosen: Reading) -> Iterator[bytes]:
        """Rows as objects, by the names in the first; as arrays where there is no header."""
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
            cells = map(_typed, row) if chosen.typed else row
            record = encode(dict(zip(names, cells, strict=True)) if names else list(cells))
            self._records += 1
            if len(record) > self._largest:
                self._ask(record, line, self._records)
            yield record

    def _tsv_rows(self, lines: "_TextLines", delimiter: str) -> Iterator[tuple[int, list[str]]]:
        """Every line is a row, and every character but the delimiter is data."""
        for text in lines:
            line = text.rstrip("\r\n")
            if "\r" in line or "\n" in line:
                raise InvalidRecordError(lines.number, 1, _BARE, "line_end")
            if '"' in line or "\\" in line:
                self.literal += 1
            yield lines.number, line.split(delimiter) if line else []


def _head(blocks: Iterator[bytes]) -> bytes:
    """What a reading is chosen from, or more."""
    head = next(blocks, b"")
    while len(head) < readings.HEAD and (block := next(blocks, b"")):
        head += block
    return head


def _refuse_wrapper(record: bytes, chosen: Reading) -> None:
    """Where the only record holds a list, that list is likely what was meant."""
    try:
        value = msgspec.json.decode(record)
    except (msgspec.DecodeError, RecursionError):
        return
    if isinstance(value, list):
        raise InputError(
            "The only record is an array. Say --format json to send its elements, or --format"
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
                    f" {len(member):,}. Take the list out to send its records, or say --format"
                    " ndjson to send the object as one record.",
                    "wrapped",
                )


def _whole_lines(
    blocks: Iterable[bytes], line: Callable[[], int], end: bytes = b"\n"
) -> Iterator[bytes]:
    """Chunks that end with a line; the last line gets its end where it has none.

    ``line`` is asked for the number of the next chunk's first line, where that line is too long.
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
            raise RecordTooLargeError(
                f"line {line()}: it is longer than {MAX_RECORD:,} bytes.", "too_large"
            )
    if rest := b"".join(held):
        yield rest + end


def _as_it_is(blocks: Iterable[bytes]) -> Iterator[Chunk]:
    block = b""
    for block in blocks:
        if block:
            yield Chunk(block, ())
    if block and not block.endswith(b"\n"):
        yield Chunk(b"\n", ())


class _ConstantError(ValueError):
    """``NaN`` and the like, which Python's json takes."""


def _no_constant(name: str) -> NoReturn:
    raise _ConstantError(name)


def _is_utf8(text: bytes) -> bool:
    # msgspec does not look at the UTF-8 of bytes.
    try:
        return text.isascii() or bool(text.decode())
    except UnicodeDecodeError:
        return False


def _values(chunk: bytes) -> list[msgspec.Raw]:
    """The JSON values in ``chunk``, whatever space is between them; none where one is malformed."""
    try:
        return _RAW.decode_lines(chunk)
    except (msgspec.DecodeError, RecursionError):
        return []


def one_line(record: bytes) -> bytes:
    """The same on one line."""
    # What stands in several lines: valid JSON has a raw line end only between tokens.
    spread = b"\n" in record or b"\r" in record
    return msgspec.json.format(record, indent=-1) if spread else record


def _chunked(records: Iterable[bytes]) -> Iterator[Chunk]:
    found: list[bytes] = []
    size = 0
    for record in records:
        found.append(record)
        size += len(record)
        if size > CHUNK:
            yield _chunk(found)
            found, size = [], 0
    if found:
        yield _chunk(found)


def _chunk(records: Sequence[bytes]) -> Chunk:
    return Chunk(b"\n".join([*records, b""]), records)


class _Fault(NamedTuple):
    """Why a record is not one JSON value, and at which character."""

    reason: str
    at: int
    code: str = "malformed_record"


_NOT_UTF8: Final = "this is not UTF-8; --encoding says what it is, for instance windows-1252"
_BARE: Final = "a line end of another kind than the others, outside quotes"
_MARK: Final = (
    "the row begins with a byte order mark, as where files were put one after the other. Send each"
    " by itself"
)
_REPEATED: Final = (
    "the row is the header once more, as where files were put one after the other. Send each by"
    " itself, or leave this row out with --skip-invalid"
)


def _fault(record: bytes) -> _Fault | None:
    """Why ``record`` is not one JSON value; None where it is one."""
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
    # json takes everything that msgspec takes, and halves of surrogate pairs.
    half = re.search(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}", text)
    return _Fault("a \\ud800 … \\udfff escape without its other half", half.start() if half else 0)


def _on_a_line(fault: _Fault, record: bytes) -> str:
    """The reason of a fault in a line, with what may help."""
    if fault.code == "malformed_record" and record[:1] in b"[{":
        rest = record.decode()[fault.at :]
        if fault.reason == "Extra data" and rest[0] in "[{":
            return "another value follows on the line; say --format json if that is meant"
        if not rest:
            return f"{fault.reason}; say --format json if records go on over lines"
    return fault.reason


# Numbers stay text: nothing is done with them, and to read an integer of 5,000 digits takes long.
_scanner: Final = json.JSONDecoder(parse_int=str, parse_float=str)
_decoder: Final = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_no_constant)


_LONGEST_TOKEN: Final = 20
"""More characters than json needs to know a word or an escape."""

_SPACE: Final = re.compile(r"[ \t\r\n]*")


class _JsonText:
    """A place in a text of JSON values, read as far as it is needed.

    The decoder of the standard library tells where a value ends, which msgspec's does not.
    """

    def __init__(self, blocks: Iterator[bytes], line: int = 1) -> None:
        self._text = ""
        self._at = 0
        self._line = line
        self._column = 1
        self._blocks = blocks
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._ended = False

    def _more(self) -> bool:
        """Read on, and forget what is behind; False at the end."""
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
        return True

    def place(self, at: int | None = None) -> tuple[int, int]:
        """Line and column, from 1, of where it is."""
        at = self._at if at is None else at
        newlines = self._text.count("\n", 0, at)
        if newlines:
            return self._line + newlines, at - self._text.rfind("\n", 0, at)
        return self._line, self._column + at

    def elements(self) -> Iterator[tuple[int, str]]:
        """The elements of one array: where each begins, for ``place``, and as it is written."""
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
                "there is text after the array. If each line is a record, say --format ndjson",
                code="format_unclear",
            )

    def sequence(self) -> Iterator[tuple[int, str]]:
        """Values, one after the other; space between them wherever one could go on."""
        while self.peek():
            start, value = self.value()
            if value[-1] not in '}]"' and self._text[self._at : self._at + 1].strip():
                self.fail("expected space after the value")
            yield start, value

    def fail(self, reason: str, at: int | None = None, code: str = "malformed_record") -> NoReturn:
        """Raise what is wrong, and where."""
        raise InvalidRecordError(*self.place(at), reason, code)

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def expect(self, character: str) -> None:
        """Go past ``character``, which must be next."""
        if self.peek() != character:
            self.fail(f"expected {character!r}" + (" or ','" if character == "]" else ""))
        self._at += 1

    def value(self) -> tuple[int, str]:
        """The next value, as it is written, and where it begins, for ``place``."""
        self.peek()
        while True:
            try:
                _, end = _scanner.raw_decode(self._text, self._at)
            except RecursionError:
                self.fail("the JSON is nested too deeply", self._at)
            except json.JSONDecodeError as error:
                cut_off = error.msg.startswith("Unterminated") or (
                    error.pos > len(self._text) - _LONGEST_TOKEN
                )
                too_long = len(self._text) - self._at > MAX_RECORD
                if too_long or not cut_off or not self._more():
                    self.fail(error.msg, error.pos)
                continue
            # A number at the end of what was read may go on, if only by "." or "e+" so far.
            if end + _LONGEST_TOKEN < len(self._text) or not self._more():
                start, self._at = self._at, end
                return start, self._text[start:end]


_WORDS: Final = {"": None, "true": True, "false": False, "null": None}


def _typed(cell: str) -> object:
    if cell in _WORDS:
        return _WORDS[cell]
    # Digits stay as they are written: a float would spoil 30 of them.
    return msgspec.Raw(cell.encode()) if readings.NUMBER.fullmatch(cell) else cell


def _no_name(names: list[str]) -> str:
    """How the first row begins where that is no name, and what to do; "" where it may be one."""
    seen = repr(names[0][:40])
    if re.match(r"[-+.]?[0-9]", names[0]):
        return f"{seen}. Say --no-header if it is a record, --header if it is the header"
    if names[0][:4].lower() == "sep=" or (len(names) == 1 and names[0][:1] == "#"):
        return f"{seen}. Take this line out, or say --header if it is the header"
    return ""


def _check_names(names: list[str], line: int, chosen: Reading, options: ReadOptions) -> None:
    """Raise InvalidRecordError where the first row does not name the columns."""

    def fail(reason: str, code: str) -> NoReturn:
        raise InvalidRecordError(line, 1, reason, code)

    if options.header is None and (reason := _no_name(names)):
        fail(f"the first row should name the columns, and begins with {reason}", "header_unclear")
    if chosen.format is Format.TSV and not chosen.given:
        for name in names:
            if len(name) > 1 and name[0] == name[-1] == '"':
                fail(
                    f"the name {name} is in quotes, which TSV has not. Say --format tsv if the"
                    " quotes are data, --format csv --delimiter tab if they are not",
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
    """Why ``row`` is no record of a table of so many columns; None where it is one."""
    if len(row) != width:
        than = f"the header {width}" if names else f"the first {width}"
        return InvalidRecordError(line, 1, f"the row has {len(row)} cells, {than}", "ragged")
    # A single cell may well hold what its column is called.
    if row == names and width > 1:
        return InvalidRecordError(line, 1, _REPEATED, "header_repeated")
    return None


def _row(cells: list[str], chosen: Reading) -> bytes:
    """A row as it was, more or less."""
    if chosen.format is Format.TSV:
        return chosen.delimiter.join(cells).encode()
    text = io.StringIO()
    csv.writer(text, delimiter=chosen.delimiter, lineterminator="").writerow(cells)
    return text.getvalue().encode()


class _TextLines:
    """The lines of a table, each with its end; remembers what a fault in a quoted cell needs."""

    def __init__(self, blocks: Iterator[bytes], line: int, end: str) -> None:
        self.number = line - 1
        """Of the line that was read last, from 1."""
        self.quoted: list[str] = []
        """Lines with quotes, for whom it concerns to clear."""
        self.open: tuple[int, int] | None = None
        """Line and column of the quote that is open after the last line."""
        self.was_open: tuple[int, int] | None = None
        """The same before it."""
        self.is_row: Callable[[str], object] = bool
        """Whether a line with quotes is a row by itself."""
        self._blocks = blocks
        self._end = end

    def __iter__(self) -> Iterator[str]:
        end = self._end
        is_row = self.is_row
        for chunk in _whole_lines(self._blocks, lambda: self.number + 1, end.encode()):
            for text in self._decoded(chunk).split(end)[:-1]:
                self.number += 1
                # Most lines are rows by themselves.
                if '"' in text and (self.open or not is_row(text)):
                    self._quotes(text)
                yield text + end

    def _quotes(self, text: str) -> None:
        """Follow a cell over lines, and what is no row."""
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
    """Rows by RFC 4180, and the line that each begins on; a blank line is an empty row."""
    # The module's own limit, 128 KB, would refuse cells that the service takes.
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
            # Where a quote is wrong nobody knows where the row ends: none can be left out.
            raise _quote_fault(lines, str(error)) from None
        if lines.quoted:
            # The module takes quotes within a cell that does not begin with one.
            if not is_row("".join(lines.quoted)):
                raise InvalidRecordError(line, 1, _STRAY, "quote")
            lines.quoted.clear()
        yield line, row


_STRAY: Final = (
    "a quote within a cell that does not begin with one. If quotes are data, say --format tsv with"
    " the --delimiter"
)


def _quote_fault(lines: _TextLines, reason: str) -> InvalidRecordError:
    if "new-line" in reason:
        return InvalidRecordError(lines.number, 1, _BARE, "line_end")
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


def refuse_json(record: bytes, number: int) -> None:
    """Raise InvalidRecordError unless ``record`` is one JSON value; it is the ``number``-th."""
    if fault := _fault(record):
        at = f"character {fault.at + 1}: {fault.reason}"
        raise InvalidRecordError(number, fault.at + 1, at, fault.code, record=number)
