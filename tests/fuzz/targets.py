"""Fuzz targets: each takes any bytes, and raises if a promise is broken.

The promises: only documented errors; what is accepted is what the standard library's ``json``
(``gzip``, ``csv``) accepts, except for the classes in README.md; what is stored is what was sent.
"""

import base64
import csv
import gzip
import hashlib
import io
import json
import re
import time
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any, Final
from unittest.mock import patch

from gapless import errors as client_errors
from gapless import formats
from gapless import readers as inputs
from gapless.formats import Format, read_options
from tests.fuzz import decoders, reference
from uploads import errors
from uploads.batch import Batch
from uploads.decode.batch_json import read_batch
from uploads.decode.batch_ndjson import read_lines
from uploads.decode.body import read_body
from uploads.decode.create import read_session_request

BOM: Final = b"\xef\xbb\xbf"


class DifferenceError(AssertionError):
    """The code under test and its reference differ in a way that README.md does not list."""


def _same(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise DifferenceError(f"{what}: {found!r:.500}, expected {expected!r:.500}")


def _holds(what: str, found: bool) -> None:  # noqa: FBT001 - a condition
    if not found:
        raise DifferenceError(what)


def _as_text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def batch(body: bytes) -> str:
    """The body of a batch; return how the decoder and json judge it, as a class or "both …"."""
    expected = reference.read(body)
    try:
        found = read_batch(read_body(_as_text(body), is_base64=True, headers={}).content)
    except errors.GaplessError as error:
        error.problem()
        if not expected.taken and expected.classes <= {"nested deeply"}:
            return "both refuse"
        for name in expected.classes:
            if error.code in reference.CLASSES[name]:
                return name if expected.taken else "both refuse"
        raise DifferenceError(
            f"refused as {error.code}, but it is {expected.classes or 'a batch'}: {body!r:.500}"
        ) from error
    if harmful := expected.classes - {"nested deeply", "long integer"}:
        raise DifferenceError(f"accepted, but it is {harmful}: {body!r:.500}")
    if not expected.taken and not expected.classes:
        raise DifferenceError(f"accepted, but json refuses it: {body!r:.500}")
    if expected.taken or "long integer" in expected.classes:
        _check_stored(found, expected)
    if expected.taken:
        return "both accept"
    return next(iter(expected.classes))


def _check_stored(found: Batch, expected: reference.Reading) -> None:
    _same("seqNum", found.seq_num, expected.seq_num)
    lines = found.ndjson.decode().split("\n")
    _same("end", lines.pop(), "")
    _same("lines", lines, [*map(reference.one_line, expected.records)])
    _same("records", found.records, len(lines))
    for line, record in zip(lines, expected.records, strict=True):
        # Equal text is an equal value. Python's == fails on hundreds of levels.
        if line != record:
            with suppress(RecursionError):
                _same("value", reference.loads(line), reference.loads(record))
    _same("sha256", found.sha256, hashlib.sha256(found.ndjson).hexdigest())
    _same("crc32", found.crc32, zlib.crc32(found.ndjson))


def lines(body: bytes) -> None:
    """The body of an NDJSON batch: compared with json, line by line."""
    try:
        read = body.decode()
    except UnicodeDecodeError:
        read = ""
    expected: list[str] = []
    wrong = 0
    for number, line in enumerate(read.split("\n"), 1):
        if text := line.strip(" \t\r"):
            # A batch of this one record. An extra comma or bracket changes the number of records.
            found = reference.read(b'{"seqNum":0,"data":[%b]}' % text.encode())
            if _taken(text.encode()) is None or found.classes == {"long integer"}:
                return  # too deep or too long for json
            if not found.taken or found.records != [text]:
                wrong = number
                break
            expected.append(reference.one_line(text))
    try:
        sent = read_body(_as_text(body), is_base64=True, headers={}).content
        found_batch = read_lines(sent, 7)
    except errors.GaplessError as error:
        error.problem()
        if error.code == "invalid_utf8":
            _holds("it is not UTF-8", not _is_utf8(body))
        elif error.code == "empty_data":
            _same("records", (expected, wrong), ([], 0))
        else:
            _same("line", error.members["line"], wrong)
        return
    _same("line that is wrong", wrong, 0)
    _same("lines", found_batch.ndjson.decode(), "".join(line + "\n" for line in expected))
    _same("records", found_batch.records, len(expected))
    if found_batch.ndjson:
        posted = b'{"seqNum":7,"data":[%b]}' % ",".join(expected).encode()
        _same("batch", found_batch, read_batch(posted))


def session(body: bytes) -> None:
    """The body of a create."""
    expected = reference.read(body)
    try:
        sent = read_body(_as_text(body), is_base64=True, headers={}).content
        found = read_session_request(sent)
    except errors.GaplessError:
        return
    if not expected.taken and not expected.classes:
        raise DifferenceError(f"accepted, but json refuses it: {body!r:.500}")
    if not expected.taken:
        return
    members = json.loads(body, object_pairs_hook=list, parse_int=str, parse_float=str)
    asked = dict(members)
    _same("members", len(asked), len(members))
    total = asked["totalRecord"]
    _same("totalRecord", found.totalRecord, None if total is None else int(total))
    size = asked.get("batchSize")
    _same("batchSize", found.batchSize, None if size is None else int(size))
    _holds("range", found.totalRecord is None or 0 <= found.totalRecord < 2**53)
    _holds("range", found.batchSize is None or 1 <= found.batchSize < 2**53)


BASE64, COMPRESS, SAYS_GZIP, DIGEST, WRONG_DIGEST, LENGTH, ODD_HEADER, TWICE = (
    1 << bit for bit in range(8)
)


def _request(content: bytes) -> tuple[int, str, dict[str, str], bytes, bytes]:
    """Derive flags, an odd header's value, headers, and the body before and after compression."""
    flags = content[0] if content else 0
    sent = content[1:]
    headers: dict[str, str] = {}
    odd, said = b"", ""
    if flags & ODD_HEADER:
        odd, _, sent = sent.partition(b"\n")
        said = odd.decode("latin-1")
    inner = sent
    if flags & COMPRESS:
        sent = gzip.compress(sent, 1, mtime=0) * (2 if flags & TWICE else 1)
        inner = inner * (2 if flags & TWICE else 1)
    if flags & SAYS_GZIP:
        headers["content-encoding"] = said or "gzip"
    if flags & DIGEST:
        digest = hashlib.sha256(sent + (b"x" if flags & WRONG_DIGEST else b"")).digest()
        headers["content-digest"] = f"{said}, sha-256=:{base64.b64encode(digest).decode()}:"
    elif flags & WRONG_DIGEST:
        headers["content-digest"] = said
    if flags & LENGTH:
        headers["content-length"] = said or str(len(sent))
    return flags, said, headers, inner, sent


def body(content: bytes) -> None:
    """Transport of a body, with headers that the bits of the first byte select."""
    flags, said, headers, inner, sent = _request(content)
    is_base64 = bool(flags & BASE64)
    text = (
        _as_text(sent)
        if is_base64
        else sent.decode(errors="surrogateescape" if flags & ODD_HEADER else "replace")
    )
    try:
        found = read_body(text, is_base64=is_base64, headers=headers).content
    except errors.GaplessError as error:
        error.problem()
        _holds("status", error.status in {400, 413, 415})
        plain = headers.keys() <= {"content-length"} and not said
        right = is_base64 and flags & COMPRESS and headers == {"content-encoding": "gzip"}
        if right or (is_base64 and plain and sent):
            _holds(f"refused as {error.code}", error.code == "invalid_utf8")
            _holds("it is UTF-8", not _is_utf8(inner if right else sent))
        return
    if is_base64 and headers.get("content-encoding", "").strip().lower() in {"gzip", "x-gzip"}:
        # gzip ignores zeros after the last member; RFC 1952 does not allow them.
        _same("inflated", found, gzip.decompress(sent))
    elif is_base64:
        _same("body", found, sent)
    else:
        _same("body", found, text.encode())
    _holds("UTF-8", _is_utf8(found))


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


shipped: ModuleType = decoders
"""The decoders that are measured: the fuzzer puts the uninstrumented ones here."""

LONGEST: Final = 128 * 1024
"""Largest body that is measured, bytes: enough to show costs that grow with the square."""
CPU_PER_BYTE: Final = 150e-9
CPU_OF_ANY: Final = 0.010
CPU_OF_ODD_GZIP: Final = 0.100
"""Seconds; includes finding out that isal is slow for this body."""
BYTES_PER_BYTE: Final = 4
BYTES_PER_VALUE: Final = 136
"""A record takes 48 bytes and its place in a list that grows; if it spans lines, twice that."""
BYTES_OF_ANY: Final = 1_000_000


def _unfolded(content: bytes) -> bytes:
    """Repeat each piece, which ``|`` ends, two to the power of its first byte times."""
    pieces = (piece[1:] * (1 << piece[0] % 18) for piece in content.split(b"|") if piece)
    return b"".join(pieces)[:LONGEST]


def cost(content: bytes) -> None:
    """The cost of a body; the first byte says how it is sent."""
    kind, body = content[:1], _unfolded(content[1:])
    headers = {"content-encoding": "gzip"} if kind in {b"g", b"z"} else {}
    sent = _as_text(gzip.compress(body, 1, mtime=0) if kind == b"g" else body)
    decoders.take(kind, sent, headers)  # for coverage
    size = len(body)

    def take() -> None:
        nonlocal size
        size = max(size, shipped.take(kind, sent, headers))

    def seconds() -> float:
        start = time.thread_time()
        take()
        return time.thread_time() - start

    taken = seconds()
    most = (CPU_OF_ODD_GZIP if kind == b"z" else CPU_OF_ANY) + CPU_PER_BYTE * size
    for _ in range(4):  # a busy machine inflates CPU times
        taken = taken if taken <= most else min(taken, seconds())
    _holds(f"{taken * 1000:.0f} ms of CPU for {size} bytes", taken <= most)
    if kind == b"z":
        return  # the number of its values is unknown
    tracemalloc.start()
    try:
        take()
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    allowed = (
        BYTES_OF_ANY
        + BYTES_PER_BYTE * size
        + BYTES_PER_VALUE * body.count(b"\n" if kind == b"l" else b",")
    )
    _holds(f"{held} bytes of memory for {size}, {allowed} allowed", held <= allowed)


Read = tuple[list[bytes], list[bytes], client_errors.InputError | None]
"""Lines that were read, records that were skipped, and why reading ended early."""


def _read(content: bytes, form: Format, block: int, **options: Any) -> Read:  # noqa: ANN401
    file: Any = io.BufferedReader(io.BytesIO(content))
    lines: list[bytes] = []
    refused: list[bytes] = []

    def on_invalid(error: client_errors.InvalidRecordError, record: bytes) -> None:
        _holds("place", error.line > 0 and error.column > 0 and bool(error.reason))
        refused.append(record)

    failure: client_errors.InputError | None = None
    chosen = read_options(format=form, **options)
    # Blank lines before a table are cells, unless they fill the head.
    space = len(content) - len(content.lstrip(b" \t\r\n"))
    head = max(block, space + 1) if form in {Format.CSV, Format.TSV} else block
    with patch.object(inputs, "CHUNK", block), patch.object(formats, "HEAD", head):
        try:
            for chunk in inputs.Reader(file, "", chosen, on_invalid=on_invalid):
                lines += chunk.lines.split(b"\n")[:-1]
                _same(
                    "records", [bytes(one) for one in chunk.records], lines[-len(chunk.records) :]
                )
        except client_errors.InputError as error:
            failure = error
    return lines, refused, failure


def _taken(record: bytes) -> bool | None:
    """Whether json accepts the record; None if it is too deep to decide."""
    try:
        text = record.decode()
        tree = reference.loads(text)
        json.dumps(tree, ensure_ascii=False).encode()
    except RecursionError:
        return None
    except ValueError:
        return False
    return True


def _opened(content: bytes) -> tuple[bytes, int]:
    """Return content and block size; the first byte is the size, its highest bit means gzip."""
    flags = content[0] if content else 1
    found = content[1:]
    if flags & 128:
        found = gzip.compress(found, 1, mtime=0)
    return found, len(BOM) + flags % 128


_CHOSEN: Final = {"binary", "compressed", "encoding", "markup", "nul"}
"""Codes with which a file is refused as a whole, by its first bytes."""


def _is_another_file(failure: client_errors.InputError | None, sent: bytes) -> bool:
    return sent[:2] in {b"\xff\xfe", b"\xfe\xff"} or (
        failure is not None and failure.code in _CHOSEN
    )


def ndjson(content: bytes) -> None:
    """The client's NDJSON reader sends exactly what json accepts."""
    sent, block = _opened(content)
    lines, refused, failure = _read(sent, Format.NDJSON, block)
    zipped = sent[:2] == b"\x1f\x8b"
    if zipped:
        try:
            sent = gzip.decompress(sent)
        except (OSError, EOFError, zlib.error):
            _holds("damaged gzip", failure is not None)
            return
    if _is_another_file(failure, sent):
        return
    if failure:
        _holds(f"it is read: {failure}", zipped)
        return
    texts = sent.removeprefix(BOM).split(b"\n")
    judged = [(text, _taken(text.strip(b" \t\r"))) for text in texts if text.strip(b" \t\r")]
    if all(taken is not None for _, taken in judged):
        kept = [text.decode().strip(" \t\r") for text, taken in judged if taken]
        _same("sent", [line.decode() for line in lines], [*map(reference.one_line, kept)])
        _same("left out", refused, [text for text, taken in judged if not taken])


def array(content: bytes) -> None:
    """The client's JSON array reader sends exactly what json accepts, element by element."""
    sent, block = _opened(content)
    lines, refused, failure = _read(sent, Format.JSON, block)
    if sent[:2] == b"\x1f\x8b":
        try:
            sent = gzip.decompress(sent)
        except (OSError, EOFError, zlib.error):
            _holds("damaged gzip", failure is not None)
            return
    if _is_another_file(failure, sent):
        return
    sent = sent.removeprefix(BOM)
    if sent.lstrip(b" \t\r\n")[:1] != b"[":
        return  # a sequence of values
    try:
        expected = [reference.one_line(text) for text in reference.elements(sent.decode())]
    except RecursionError:
        return
    except ValueError:
        _holds("refused", failure is not None)
        return
    if failure:
        raise failure
    _same(
        "sent",
        [line.decode() for line in lines],
        [text for text in expected if _taken(text.encode())],
    )
    _same("left out", len(refused), len(expected) - len(lines))


_SEP: Final = re.compile('"?sep=', re.IGNORECASE)


def table(content: bytes) -> None:
    """The client's CSV reader sends the rows that csv reads, each as an object."""
    sent, block = _opened(content)
    for typed in (False, True):
        lines, refused, failure = _read(
            sent, Format.CSV, block, typed=typed, delimiter=",", header=True
        )
        if sent[:2] == b"\x1f\x8b" or _is_another_file(failure, sent):
            continue
        bare = re.search(rb"\r(?!\n)", sent)
        try:
            text = sent.removeprefix(BOM).decode()
            rows = [*csv.reader(io.StringIO(text, newline="\n"), strict=True)]
        except (UnicodeDecodeError, csv.Error):
            # Except a file with bare carriage returns as line ends.
            _holds("refused", failure is not None or bare is not None)
            continue
        if failure:
            # Stricter than csv: quotes within a cell, repeated names, mixed line ends.
            why = {"quote", "header_names", "line_end", "empty"}
            if any(row and row[0].startswith("\ufeff") for row in rows):
                why.add("encoding")  # another file was appended there
            _holds("why", failure.code in why)
            continue
        if bare or _SEP.match(text):
            continue
        while rows and not rows[0]:
            del rows[0]
        names = rows[0] if rows else []
        rows = [row or [""] for row in rows[1:] if row or len(names) == 1]
        # A repeated header begins another table.
        kept = [row for row in rows if len(row) == len(names) and (row != names or len(names) == 1)]
        _same("left out", len(refused), len(rows) - len(kept))
        _same("rows", len(lines), len(kept))
        for line, row in zip(lines, kept, strict=True):
            expected = [
                [name, _cell(cell) if typed else cell]
                for name, cell in zip(names, row, strict=True)
            ]
            _same("row", [list(pair) for pair in reference.loads(line)], expected)


def _cell(cell: str) -> object:
    """A typed cell; numbers stay text, as in ``reference.loads``."""
    if cell in {"", "null"}:
        return None
    if cell in {"true", "false"}:
        return cell == "true"
    return cell


TARGETS: Final[dict[str, Callable[[bytes], object]]] = {
    "batch": batch,
    "lines": lines,
    "session": session,
    "body": body,
    "cost": cost,
    "ndjson": ndjson,
    "array": array,
    "table": table,
}
