"""Determines the format, encoding and delimiter of an input from its content, name and options.

The rules are in tests/readings/README.md; the web page follows the same rules, and one table of
cases tests both. It never guesses: if name and content disagree, an InputError says what was seen
and which option decides.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from gapless.errors import InputError, InvalidRecordError

HEAD: Final = 65_536
"""Number of bytes at the start of the input that determine the format."""

_BLANK: Final = b" \t\r\n"
_CONTINUES: Final = (b"[", b"{", b",", b":")
"""How a line ends if its JSON value spans several lines."""

_RECORD_SEPARATOR: Final = b"\x1e"

NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


class Format(str, Enum):
    """The format of an input."""

    NDJSON = "ndjson"
    JSON = "json"
    CSV = "csv"
    TSV = "tsv"


class MergedFormat(str, Enum):
    """The format of a merged object."""

    NDJSON = "ndjson"
    NDJSON_GZ = "ndjson.gz"
    """NDJSON in one gzip member."""


def read_merged_format(name: MergedFormat | str) -> MergedFormat:
    """The format of this name. Raises InputError (``option``) for an unknown one."""
    try:
        return MergedFormat(name)
    except ValueError:
        known = " or ".join(format_.value for format_ in MergedFormat)
        raise InputError(
            f"{name!r} is not a format to merge into. Use {known}.", "option"
        ) from None


class ReadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of ``gapless upload`` for reading a file."""

    format: Format | None = None
    delimiter: str | None = None
    encoding: str | None = None
    header: bool | None = None
    typed: bool = False


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """How an input is read: the result of ``choose``."""

    format: Format
    encoding: str = "utf-8"
    gzip: bool = False
    delimiter: str = ""
    """Of CSV and TSV."""
    header: bool = False
    typed: bool = False
    line_end: str = "\n"
    """``\\r`` if the head has no other line end."""
    first_line: int = 1
    """The first line of the table: 2 after a ``sep=`` line."""
    separators: bool = False
    """Whether records begin with U+001E (RFC 7464)."""
    named: bool = False
    """Whether the file's name says NDJSON."""
    given: bool = False
    """Whether an option determined the format."""

    def options(self) -> ReadOptions:
        """Options that read the same bytes in the same way under any file name."""
        return ReadOptions(
            format=self.format,
            delimiter=self.delimiter or None,
            encoding=self.encoding,
            header=self.header if self.delimiter else None,
            typed=self.typed,
        )

    def __str__(self) -> str:
        text = {
            Format.NDJSON: "NDJSON",
            Format.JSON: "JSON text sequence" if self.separators else "JSON",
            Format.CSV: "CSV",
            Format.TSV: "TSV, quotes are data",
        }[self.format]
        if self.delimiter and self.delimiter != {Format.TSV: "\t"}.get(self.format, ","):
            text += f", delimiter {delimiter_name(self.delimiter)}"
        if self.delimiter and not self.header:
            text += ", no header"
        if self.typed:
            text += ", typed"
        if self.encoding != "utf-8":
            text += f", {self.encoding.upper()}"
        return text + (", gzip" if self.gzip else "")


_SUFFIXES: Final = {
    ".ndjson": Format.NDJSON,
    ".jsonl": Format.NDJSON,
    ".json": Format.JSON,
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
    ".tab": Format.TSV,
}

_DELIMITERS: Final = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a pipe"}
_WORDS: Final = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "\\t": "\t"}


def delimiter_name(delimiter: str) -> str:
    """The name of a delimiter in messages."""
    return _DELIMITERS.get(delimiter, repr(delimiter))


def delimiter_word(delimiter: str) -> str:
    """The value of ``--delimiter`` for a delimiter."""
    return next((word for word, mark in _WORDS.items() if mark == delimiter), delimiter)


def read_options(
    *,
    format: Format | str | None = None,  # noqa: A002 - named like the option
    delimiter: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
    typed: bool = False,
) -> ReadOptions:
    """The options, validated. Raises InputError (``option``) for an invalid one."""
    try:
        format_ = None if format is None else Format(format)
    except ValueError:
        known = ", ".join(format_.value for format_ in Format)
        raise InputError(f"{format!r} is not a format. Use one of: {known}.", "option") from None
    if delimiter is not None:
        delimiter = _WORDS.get(delimiter, delimiter)
        if len(delimiter) != 1 or delimiter in '"\r\n\0\ufeff':
            raise InputError(
                "A delimiter is one character, neither a quote nor a line end; or one of:"
                f" {', '.join(list(_WORDS)[:4])}.",
                "option",
            )
        if format_ in {Format.NDJSON, Format.JSON}:
            raise InputError(f"{format_.value} has no delimiter.", "option")
    if encoding is not None:
        encoding = _codec(encoding)
    return ReadOptions(
        format=format_, delimiter=delimiter, encoding=encoding, header=header, typed=typed
    )


_ESCAPES: Final = {"idna", "punycode", "raw-unicode-escape", "unicode-escape"}
"""Python codecs that are not encodings of files."""


def _codec(name: str) -> str:
    try:
        found = codecs.lookup(name).name
        "a".encode(found)  # LookupError for codecs that are not text encodings: base64, rot13
    except (LookupError, ValueError):
        found = ""
    if not found or found in _ESCAPES:
        raise InputError(
            f"{name!r} is not a known encoding. For example: utf-8, utf-16le, windows-1252.",
            "option",
        )
    return {"utf-8-sig": "utf-8", "ascii": "utf-8"}.get(found, found)


_OTHER_FILES: Final[list[tuple[bytes, str, str]]] = [
    (b"\x1f\x8b", "compressed", "gzip within gzip"),
    (b"BZh", "compressed", "compressed by bzip2"),
    (b"\xfd7zXZ\x00", "compressed", "compressed by xz"),
    (b"(\xb5/\xfd", "compressed", "compressed by zstd"),
    (b"PK\x03\x04", "compressed", "a zip archive, or an Excel workbook"),
    (b"PK\x05\x06", "compressed", "an empty zip archive"),
    (b'\x04"M\x18', "compressed", "compressed by lz4"),
    (b"7z\xbc\xaf'\x1c", "compressed", "a 7-Zip archive"),
    (b"\x1f\x9d", "compressed", "compressed by compress (.Z)"),
    (b"LZIP", "compressed", "compressed by lzip"),
    (b"\xff\x06\x00\x00sNaPpY", "compressed", "compressed by snappy"),
    (b"Rar!\x1a\x07", "compressed", "a RAR archive"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "binary", "an old Excel workbook"),
    (b"PAR1", "binary", "Parquet"),
    (b"Obj\x01", "binary", "Avro"),
    (b"ARROW1", "binary", "Arrow"),
    (b"ORC", "binary", "ORC"),
    (b"SQLite format 3\x00", "binary", "a SQLite database"),
    (b"\x89HDF\r\n", "binary", "HDF5"),
    (b"%PDF-", "binary", "PDF"),
]
_TAR: Final = slice(257, 262)
_BZIP2_BLOCKS: Final = (b"1AY&SY", b"\x17rE8P\x90")


def refuse_other_files(start: bytes) -> None:
    """Raise InputError if a file begins like a format that is not text."""
    for magic, code, kind in _OTHER_FILES:
        if not start.startswith(magic):
            continue
        if magic == b"BZh" and start[4:10] not in _BZIP2_BLOCKS:
            continue
        if magic == b"ORC" and b"\x00" not in start[:16]:
            continue
        raise InputError(_other(kind, code), code)
    if start[_TAR] == b"ustar":
        raise InputError(_other("a tar archive", "compressed"), "compressed")


def _other(kind: str, code: str) -> str:
    if code == "compressed":
        return f"The file is {kind}. Only gzip is supported: decompress it, or compress it as .gz."
    return f"The file is {kind}. Export it as NDJSON, JSON or CSV."


_MARKS: Final[list[tuple[bytes, str]]] = [
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
]


def choose_encoding(start: bytes, given: str | None) -> tuple[str, int]:
    """The encoding of a file with this ``start``, and the length of its byte order mark.

    Raises InputError if it cannot be determined, or differs from the one that is ``given``.
    """
    for mark, name in _MARKS:
        if start.startswith(mark):
            if given is not None and not name.startswith(given):
                raise InputError(
                    f"The file begins with the byte order mark of {name}, but --encoding is"
                    f" {given}. Omit --encoding.",
                    "encoding",
                )
            if name.startswith("utf-32"):
                raise InputError("The file is UTF-32. Save it as UTF-8.", "encoding")
            return name, len(mark)
    head = start[:HEAD]
    if given is not None:
        # A line end or a brace of UTF-16 has a zero byte.
        if given.startswith("utf-16") and head.strip(_BLANK) and b"\x00" not in head:
            raise InputError(
                f"The file has no zero bytes, so it is not {given}. Omit --encoding.", "encoding"
            )
        return {"utf-16": "utf-16-le"}.get(given, given), 0
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if (even + odd) * 2 > len(head):
        raise InputError(
            "More than half of the file's bytes are zero: it is UTF-32, or damaged. Save it as"
            " UTF-8.",
            "encoding",
        )
    if max(even, odd) * 4 > len(head):
        likely = "utf-16be" if even > odd else "utf-16le"
        raise InputError(
            f"The file looks like UTF-16 without a byte order mark. Use --encoding {likely}, or"
            " save it as UTF-8.",
            "encoding",
        )
    return "utf-8", 0


_C1: Final = re.compile(r"[\x80-\x9f]")


def transcoded(blocks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """``blocks`` converted to UTF-8. Raises InvalidRecordError (``encoding``)."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line = 1
    ended = False
    rest = iter(blocks)
    while not ended:
        block = next(rest, b"")
        ended = not block
        try:
            text = decoder.decode(block, final=ended)
        except UnicodeDecodeError as error:
            before = error.object[: error.start].decode(encoding, errors="replace")
            raise InvalidRecordError(
                line + before.count("\n"),
                len(before) - before.rfind("\n"),
                f"this is not {encoding}",
                "encoding",
            ) from None
        if encoding.startswith("iso8859") and (found := _C1.search(text)):
            # In ISO 8859 these are control characters, which text does not contain. The encoding is
            # probably the similar Windows code page.
            before = text[: found.start()]
            raise InvalidRecordError(
                line + before.count("\n"),
                len(before) - before.rfind("\n"),
                f"the byte {ord(found[0]):02x} is not a character of {encoding}; try --encoding"
                " windows-1252",
                "encoding",
            )
        line += text.count("\n")
        if text:
            yield text.encode()


def choose(head: bytes, name: str, options: ReadOptions, line_number: int = 1) -> Reading:
    """How to read a UTF-8 text that begins with ``head``, at most ``HEAD`` bytes.

    ``line_number`` is that of the first line in the head, from 1. Raises InputError if name,
    content and options disagree.
    """
    named = _format_of(name)
    text = head.lstrip(_BLANK)
    line, ended, _ = text.partition(b"\n")
    line = line.rstrip(_BLANK)
    whole = bool(ended) or len(head) < HEAD
    if not text:
        return _empty(named, options)
    _refuse_nul_and_markup(head, text, options, line_number)
    first = text[:1]
    format_ = options.format
    if format_ is None and named in {Format.CSV, Format.TSV}:
        format_ = named
        if first in b"[{\x1e":
            _unclear(
                f"The name says {format_.value}, but the content looks like JSON.",
                "ndjson",
                format_,
            )
    if format_ is None:
        format_ = _json_form(head, line if whole else None, first, named)
    reading = Reading(
        format=format_,
        named=named is Format.NDJSON,
        given=options.format is not None,
        separators=format_ is Format.JSON and first == _RECORD_SEPARATOR,
    )
    if format_ in {Format.CSV, Format.TSV}:
        return _table(head, reading, options)
    if options.delimiter is not None:
        raise InputError(f"This is {format_.value}, which has no delimiter.", "option")
    return reading


def _json_form(head: bytes, line: bytes | None, first: bytes, named: Format | None) -> Format:
    """NDJSON or JSON, by the first ``line``, which is None if it is longer than the head."""
    continues = line is not None and line.endswith(_CONTINUES) and first in b"[{"
    if named is Format.NDJSON and continues:
        _unclear("The name says one record per line, but the first spans several lines.", "json")
    if first == _RECORD_SEPARATOR or continues:
        return Format.JSON
    if first == b"[":
        return Format.NDJSON if named is Format.NDJSON else Format.JSON
    if first != b"{" and line is not None and not _is_json(line):
        _refuse_text(head, named)
    return Format.NDJSON


def _format_of(name: str) -> Format | None:
    path = Path(name.lower())
    return _SUFFIXES.get(Path(path.stem).suffix if path.suffix == ".gz" else path.suffix)


def _empty(named: Format | None, options: ReadOptions) -> Reading:
    # Only NDJSON may be empty: JSON has at least brackets, a table at least a header.
    format_ = options.format or named
    if format_ is Format.NDJSON:
        return Reading(format=format_, named=True, given=True)
    raise InputError(
        "The file is empty. If that is intended, use --format ndjson: no records.", "empty"
    )


def _refuse_nul_and_markup(
    head: bytes, text: bytes, options: ReadOptions, line_number: int
) -> None:
    if (at := head.find(b"\x00")) >= 0:
        line = line_number + head.count(b"\n", 0, at)
        reason = "a NUL byte; if the file is UTF-16, use --encoding utf-16le or utf-16be"
        raise InvalidRecordError(line, at - head.rfind(b"\n", 0, at), reason, "nul")
    if re.match(rb"<(?:!doctype|\?xml|html|!--)", text, re.IGNORECASE) or (
        options.format is None and re.match(rb"<[a-z]", text, re.IGNORECASE) and b"</" in text
    ):
        raise InputError(
            "The file is HTML or XML, perhaps an error page or a login page. Export NDJSON, JSON or"
            " CSV.",
            "markup",
        )


def _unclear(seen: str, *formats: Format | str) -> NoReturn:
    choices = " or ".join(f"--format {Format(format_).value}" for format_ in formats)
    raise InputError(f"{seen} Use {choices}.", "format_unclear")


def _refuse_text(head: bytes, named: Format | None) -> NoReturn:
    """Refuse a first line that is not JSON, if the file's name does not say CSV or TSV."""
    first = _first_records(head, quotes=True)[0]
    found = [name for mark, name in _DELIMITERS.items() if mark.encode() in _unquoted(first)]
    looks = f"looks like a table, delimited by {' or '.join(found)}" if found else "is not JSON"
    says = f"The name says {named.value}, but the first line" if named else "The first line"
    tab = found == ["a tab"]
    _unclear(f"{says} {looks}.", "tsv" if tab else "csv", named or "ndjson")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode(), parse_int=str, parse_float=str, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


_SEP: Final = re.compile(r'"?sep=([^\r\n"])"?[ \t]*(?:\r\n|\r|\n|\Z)', re.IGNORECASE)


def _table(head: bytes, reading: Reading, options: ReadOptions) -> Reading:
    tsv = reading.format is Format.TSV
    # A CR at the end of a full head may be followed by LF.
    known = head[:-1] if len(head) == HEAD else head
    line_end = "\r" if b"\r" in known and b"\n" not in head else "\n"
    delimiter = options.delimiter
    first_line = 1
    if not tsv and (sep := _SEP.match(head.decode(errors="replace"))):
        first_line = 2
        delimiter = delimiter or sep[1]
    if delimiter is None and tsv and reading.given:
        delimiter = "\t"
    if delimiter is None:
        delimiter = _delimiter(head, tsv=tsv)
    return msgspec.structs.replace(
        reading,
        delimiter=delimiter,
        header=options.header is not False,
        typed=options.typed,
        line_end=line_end,
        first_line=first_line,
    )


def _delimiter(head: bytes, *, tsv: bool) -> str:
    records = [
        record if tsv else _unquoted(record) for record in _first_records(head, quotes=not tsv)
    ]
    names, *rows = records
    found = [mark for mark in _DELIMITERS if mark.encode() in names]
    usual = "\t" if tsv else ","
    if tsv and usual in found:
        return usual
    if not found:
        # Either one column, or a title above the table.
        others = [mark for mark in ";\t|," if mark != "," or tsv]
        if not any(mark.encode() in row for row in rows for mark in others):
            _refuse_odd_delimiter(names, rows)
            return usual
        found = [mark for mark in others if any(mark.encode() in row for row in rows)]
    elif not tsv:
        if len(found) > 1 and rows:
            equal = [
                mark for mark in found if names.count(mark.encode()) == rows[0].count(mark.encode())
            ]
            found = equal or found
        # A tab is ambiguous: databases write it without quotes, Excel with quotes.
        if len(found) == 1 and found != ["\t"]:
            return found[0]
    seen = " or ".join(map(delimiter_name, found))
    choices = "--delimiter " + " or ".join(
        word for word, mark in _WORDS.items() if mark in [*found, usual] and word != "\\t"
    )
    if "\t" in found:
        choices += "; or --format tsv, where quotes are data"
    raise InputError(
        f"The name says {'TSV' if tsv else 'CSV'}, and the first rows look delimited by {seen}."
        f" Use {choices}.",
        "delimiter_unclear",
    )


def _refuse_odd_delimiter(names: bytes, rows: list[bytes]) -> None:
    """Refuse rows that may have several columns: of Hive, old databases, or aligned by spaces."""
    for mark, advice in _ODD_DELIMITERS.items():
        if rows and names.count(mark) == rows[0].count(mark) > 0:
            raise InputError(
                f"The first rows look like several columns. {advice}; or use --delimiter comma if"
                " they are one.",
                "delimiter_unclear",
            )


_ODD_DELIMITERS: Final = {
    b"\x01": "Use --delimiter $'\\x01'",
    b"\x1f": "Use --delimiter $'\\x1f'",
    b"^": "Use --delimiter '^'",
    b"~": "Use --delimiter '~'",
    b"  ": "Replace the spaces by a delimiter",
}


def _unquoted(record: bytes) -> bytes:
    return re.sub(rb'"[^"]*"?', b"", record)


def _first_records(head: bytes, *, quotes: bool) -> list[bytes]:
    """The first two records that are not blank; one empty record if all are blank."""
    one = rb'(?:"[^"]*(?:"|\Z)|[^"\r\n])+' if quotes else rb"[^\r\n]+"
    found: list[bytes] = []
    for record in re.finditer(one, head):
        if record[0].strip(_BLANK):
            found.append(record[0])
        if len(found) == 2:  # noqa: PLR2004 - two records
            break
    return found or [b""]
