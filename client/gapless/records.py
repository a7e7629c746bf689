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
from enum import Enum
from itertools import chain, dropwhile
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import msgspec

from gapless.errors import InputError, InvalidRecordError, RecordTooLargeError

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
_BOM: Final = b"\xef\xbb\xbf"
_GZIP_MAGIC: Final = b"\x1f\x8b"
_RAW: Final = msgspec.json.Decoder(msgspec.Raw)


class Chunk(NamedTuple):
    r"""Some records, and the same as NDJSON, each ended by ``\n``.

    Where the file is trusted the records are not looked for, and a line may go on in the next.
    """

    lines: bytes
    records: Sequence[bytes | msgspec.Raw]


OnInvalid = Callable[[InvalidRecordError, bytes], None]
"""Gets a record that is left out: what is wrong with it, and its bytes."""


class Format(str, Enum):
    """How the records stand in the input."""

    NDJSON = "ndjson"
    JSON = "json"
    CSV = "csv"
    TSV = "tsv"


_SUFFIXES: Final = {
    ".ndjson": Format.NDJSON,
    ".jsonl": Format.NDJSON,
    ".json": Format.JSON,
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
}


def guess_format(name: str) -> Format:
    """The format that a file's name stands for; NDJSON where it says nothing."""
    path = Path(name)
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    return _SUFFIXES.get(suffix.lower(), Format.NDJSON)


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


def read(
    file: io.BufferedReader,
    form: Format,
    *,
    typed: bool = False,
    trusted: bool = False,
    on_invalid: OnInvalid = refuse,
    see: Callable[[bytes], object] = len,
    on_mended: Callable[[], object] = bool,
) -> Iterator[Chunk]:
    """The records in ``file``, which may be gzip, as chunks of NDJSON.

    ``typed`` makes numbers, booleans and null of CSV cells that read as such; otherwise every cell
    is a string. ``trusted`` leaves the checks out, for NDJSON that passed them unchanged. ``see``
    gets every byte of the file as it is read, compressed or not; ``on_mended`` is called where the
    NDJSON is not what stands in the file, so that it may not be trusted. Raises an InputError, for
    a record only through ``on_invalid``.
    """
    gzipped = file.peek(len(_GZIP_MAGIC))[: len(_GZIP_MAGIC)] == _GZIP_MAGIC
    seen = _Seen(file, see)
    stream = _open_gzip(fileobj=seen, mode="rb") if gzipped else seen
    if form is not Format.NDJSON:
        on_mended()
    try:
        blocks = _without_bom(iter(lambda: stream.read(CHUNK), b""))
        if form is Format.JSON:
            blocks = dropwhile(lambda block: not block.strip(_BLANK), blocks)
            first = next(blocks, b"")
            blocks = chain([first], blocks)
            if first.lstrip(_BLANK)[:1] == b"[":
                yield from _array(blocks, on_invalid)
                return
        if form in {Format.CSV, Format.TSV}:
            yield from _table(blocks, "," if form is Format.CSV else "\t", typed, on_invalid)
        elif trusted:
            yield from _as_it_is(blocks)
        else:
            yield from _lines(blocks, on_invalid, on_mended)
    except (EOFError, gzip.BadGzipFile, _inflate_error) as error:
        raise InputError(f"The gzip is damaged, or cut off: {error}") from None


def _without_bom(blocks: Iterator[bytes]) -> Iterator[bytes]:
    yield next(blocks, b"").removeprefix(_BOM)
    yield from blocks


def _whole_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Chunks that end with a line; the last line gets its end where it has none."""
    held: list[bytes] = []
    size = 0
    for block in blocks:
        end = block.rfind(b"\n") + 1
        if end:
            yield b"".join([*held, block[:end]])
            held, size = [], 0
        held.append(block[end:])
        size += len(held[-1])
        if size > MAX_RECORD:
            raise RecordTooLargeError(f"A line is longer than {MAX_RECORD:,} bytes.")
    if rest := b"".join(held):
        yield rest + b"\n"


def _as_it_is(blocks: Iterable[bytes]) -> Iterator[Chunk]:
    block = b""
    for block in blocks:
        if block:
            yield Chunk(block, ())
    if block and not block.endswith(b"\n"):
        yield Chunk(b"\n", ())


def _lines(
    blocks: Iterable[bytes], on_invalid: OnInvalid, on_mended: Callable[[], object]
) -> Iterator[Chunk]:
    line = 1
    for chunk in _whole_lines(blocks):
        found = _values(chunk)
        # Where the records, each with its line end, are all there is, and as many as there are line
        # ends, there is one on every line.
        plain = len(found) == chunk.count(b"\n") and b"\r" not in chunk
        if plain and b"\n".join([*found, b""]) == chunk and _is_utf8(chunk):
            yield Chunk(chunk, found)
            line += len(found)
        else:
            on_mended()
            if kept := list(_good_lines(chunk, line, on_invalid)):
                yield _chunk(kept)
            line += chunk.count(b"\n")


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


def _one_line(record: bytes) -> bytes:
    # What stands in several lines: valid JSON has a raw line end only between tokens.
    spread = b"\n" in record or b"\r" in record
    return msgspec.json.format(record, indent=-1) if spread else record


def _chunk(records: Sequence[bytes]) -> Chunk:
    return Chunk(b"\n".join([*records, b""]), records)


def _good_lines(chunk: bytes, line: int, on_invalid: OnInvalid) -> Iterator[bytes]:
    for number, text in enumerate(chunk[:-1].split(b"\n"), line):
        record = text.strip(_BLANK)
        if not record:
            continue
        if (fault := _fault(record)) is None:
            yield _one_line(record)
        else:
            reason, at = fault
            margin = len(text) - len(text.lstrip(_BLANK))
            on_invalid(InvalidRecordError(number, margin + at + 1, reason), text)


def _fault(record: bytes) -> tuple[str, int] | None:
    """Why ``record`` is not one JSON value, and at which character; None where it is one."""
    try:
        text = record.decode()
    except UnicodeDecodeError as error:
        return "this is not UTF-8", len(record[: error.start].decode(errors="replace"))
    try:
        _RAW.decode(record)
    except (msgspec.DecodeError, RecursionError):
        pass
    else:
        return None
    try:
        _decoder.decode(text)
    except RecursionError:
        return "the JSON is nested too deeply", 0
    except _ConstantError as error:
        return f"{error} is not JSON", text.find(str(error))
    except json.JSONDecodeError as error:
        return error.msg, error.pos
    # json takes everything that msgspec takes, and halves of surrogate pairs.
    half = re.search(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}", text)
    return "a \\ud800 … \\udfff escape without its other half", half.start() if half else 0


# Numbers stay text: nothing is done with them, and to read an integer of 5,000 digits takes long.
_scanner: Final = json.JSONDecoder(parse_int=str, parse_float=str)
_decoder: Final = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_no_constant)


def _array(blocks: Iterator[bytes], on_invalid: OnInvalid) -> Iterator[Chunk]:
    """The elements of one JSON array, as they are written.

    The decoder of the standard library tells where a value ends, which msgspec's does not.
    """
    array = _Array(blocks)
    found: list[bytes] = []
    size = 0
    array.expect("[")
    comma = array.peek() != "]"
    while comma:
        start, text = array.value()
        record = text.encode()
        if fault := _fault(record):
            on_invalid(InvalidRecordError(*array.place(start + fault[1]), fault[0]), record)
        else:
            record = _one_line(record)
            found.append(record)
            size += len(record)
        if size > CHUNK:
            yield _chunk(found)
            found, size = [], 0
        comma = array.peek() == ","
        if comma:
            array.expect(",")
    array.expect("]")
    if rest := array.peek():
        array.fail(f"there is text after the array: {rest!r}")
    if found:
        yield _chunk(found)


_LONGEST_TOKEN: Final = 20
"""More characters than json needs to know a word or an escape."""

_SPACE: Final = re.compile(r"[ \t\r\n]*")


class _Array:
    """A place in the text of an array, read as far as it is needed."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._text = ""
        self._at = 0
        self._line = 1
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
        except UnicodeDecodeError:
            raise InputError("The JSON is not UTF-8.") from None
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

    def fail(self, reason: str, at: int | None = None) -> NoReturn:
        """Raise what is wrong, and where."""
        raise InvalidRecordError(*self.place(at), reason)

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


_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORDS: Final = {"": None, "true": True, "false": False, "null": None}


def _typed(cell: str) -> object:
    if cell in _WORDS:
        return _WORDS[cell]
    # Digits stay as they are written: a float would spoil 30 of them.
    return msgspec.Raw(cell.encode()) if _NUMBER.fullmatch(cell) else cell


def _table(
    blocks: Iterator[bytes],
    delimiter: str,
    typed: bool,  # noqa: FBT001 - called in one place
    on_invalid: OnInvalid,
) -> Iterator[Chunk]:
    """Rows as objects, by the names in the first."""
    # The module's own limit, 128 KB, would refuse cells that the service takes.
    csv.field_size_limit(MAX_RECORD)
    rows = csv.reader(_text_lines(blocks), delimiter=delimiter, strict=True)
    encode = msgspec.json.Encoder().encode
    names: list[str] | None = None
    found: list[bytes] = []
    size = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            break
        except csv.Error as error:
            # Where a quote is wrong nobody knows where the row ends: none can be left out.
            raise InvalidRecordError(rows.line_num, 1, str(error)) from None
        if not row:
            continue
        if names is None:
            names = row
            if len(set(names)) < len(names):
                raise InvalidRecordError(1, 1, "a column's name is given twice")
            continue
        if len(row) != len(names):
            fault = InvalidRecordError(
                rows.line_num, 1, f"the row has {len(row)} cells, the header {len(names)}"
            )
            on_invalid(fault, _row(row, delimiter))
            continue
        found.append(encode(dict(zip(names, map(_typed, row) if typed else row, strict=True))))
        size += len(found[-1])
        if size > CHUNK:
            yield _chunk(found)
            found, size = [], 0
    if found:
        yield _chunk(found)


def _row(cells: list[str], delimiter: str) -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="").writerow(cells)
    return text.getvalue().encode()


def _text_lines(blocks: Iterator[bytes]) -> Iterator[str]:
    line = 0
    for chunk in _whole_lines(blocks):
        for text in chunk.split(b"\n")[:-1]:
            line += 1
            try:
                yield text.decode() + "\n"
            except UnicodeDecodeError as error:
                column = len(text[: error.start].decode(errors="replace")) + 1
                raise InvalidRecordError(line, column, "this is not UTF-8") from None


def encode(records: Iterable[object]) -> Iterator[bytes]:
    """Python objects as NDJSON; ``bytes`` are JSON already. TypeError for what has none."""
    dump = msgspec.json.Encoder().encode
    for number, record in enumerate(records, 1):
        if isinstance(record, bytes):
            if fault := _fault(record):
                raise InvalidRecordError(number, fault[1] + 1, fault[0])
            yield _one_line(record).strip(_BLANK) + b"\n"
        else:
            yield dump(record) + b"\n"
