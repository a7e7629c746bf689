r"""A batch sent as NDJSON: from the body to the lines that are stored. Pure; a hot path.

Each line is a record under the rules of ``batch_json``, so the same records make the same batch in
both forms. Space around a record and blank lines are ignored. CR LF also ends a line. A carriage
return between the tokens of a record is space, and such a record is minified.
"""

import io
import itertools
import operator
import re
from itertools import islice
from typing import Final, cast

import msgspec
from msgspec import Raw

from uploads import errors, limits
from uploads.batch import Batch
from uploads.decode import strict_json
from uploads.decode.batch_json import SEQ_NUM_RULE, one_line_each

LINES_MEDIA_TYPE: Final = "application/x-ndjson"
"""The usual name of NDJSON; API Gateway passes such bodies unchanged."""

_SEQ_NUM: Final = re.compile(r"0|[1-9][0-9]{0,4}")
_SCANNER: Final = msgspec.json.Decoder(Raw)
_LINES: Final = msgspec.json.Encoder()
_SPACE: Final = b" \t\r\n"
_STRIP: Final = operator.methodcaller("strip", _SPACE)

_PIECE_BYTES: Final = 16 * 1024
"""Bytes that are decoded in one step. A ``Raw`` takes many times the memory of a short value, and a
line may hold any number of values. Larger pieces are no faster."""


def read_seq_num(given: str) -> int:
    """The ``seqNum`` in a path. Raises InvalidSeqNumError."""
    if not _SEQ_NUM.fullmatch(given):
        raise errors.InvalidSeqNumError(f"{SEQ_NUM_RULE}; got {given[:20]!r}.", member="seqNum")
    return int(given)


def read_lines(body: bytes, seq_num: int) -> Batch:
    """The batch whose records are the lines of ``body``, which is UTF-8.

    Raises a GaplessError of status 400, which names the line, or 413.
    """
    if len(body) > limits.MAX_VALUES and body.count(b"\n") > limits.MAX_VALUES:
        raise errors.TooManyValuesError(
            f"The body has more than {limits.MAX_VALUES} lines. Send smaller batches.",
            limit=limits.MAX_VALUES,
        )
    records = start = 0
    # Nearly every body is stored as it came. From the first piece that is not, all are collected.
    changed: list[bytes] = []
    while start < len(body):
        end = len(body)
        if end - start > _PIECE_BYTES:
            most = start + _PIECE_BYTES
            end = body.rfind(b"\n", start, most) + 1 or body.find(b"\n", most) + 1 or end
        piece = body[start:end]
        found, ndjson = _read_piece(piece, body, start)
        if changed or ndjson != piece:
            changed = changed or [body[:start]]
            changed.append(ndjson)
        records += found
        start = end
    if not records:
        raise errors.EmptyDataError(
            "The body must hold at least one record, one a line. An empty data set is a session"
            " with totalRecord 0 and no batches."
        )
    return Batch.of(seq_num, records, b"".join(changed) or body)


def add_lines(error: errors.GaplessError, body: bytes) -> None:
    """Add to each record in ``error`` the line of ``body`` that it is on, from 1."""
    lines = (number for number, line in enumerate(io.BytesIO(body), 1) if line.strip(_SPACE))
    taken = 0
    for one in cast("list[dict[str, int]]", error.members["errors"]):
        one["line"] = next(islice(lines, one["index"] - taken, None))
        taken = one["index"] + 1


def _read_piece(piece: bytes, body: bytes, start: int) -> tuple[int, bytes]:
    """The number of records in ``piece``, which begins at byte ``start``, and their NDJSON."""
    if len(piece) > _PIECE_BYTES:
        # One long line, which may hold any number of values.
        lines = [piece] if piece.strip(_SPACE) else []
    else:
        found, ndjson = _read_together(piece)
        if ndjson:
            return found, ndjson
        # Try again without blank lines and space around records.
        fewer = piece
        # Each turn halves the blank lines in a row: faster than to strip each of them.
        while b"\n\n" in fewer:
            fewer = fewer.replace(b"\n\n", b"\n")
        lines = list(filter(None, map(_STRIP, fewer.split(b"\n"))))
        stripped = b"\n".join(lines)
        if len(stripped) < len(piece) - 1:
            found, ndjson = _read_together(stripped)
            if ndjson:
                return found, ndjson
    records: list[Raw] = []
    try:
        # An error needs the number of those before it, which this has added.
        records.extend(map(_SCANNER.decode, lines))
    except (msgspec.DecodeError, RecursionError) as error:
        raise _refusal(piece, len(records), body.count(b"\n", 0, start), error) from None
    return len(records), one_line_each(records)


def _read_together(piece: bytes) -> tuple[int, bytes]:
    r"""The number of records in whole lines, and their NDJSON; 0 if it cannot tell by one call.

    One call decodes all lines. It treats line ends as space: ``1 2`` would be two values, and
    ``[1`` followed by ``2]`` on the next line would be one. So line ends are replaced by carriage
    returns, and the values found are written with one line end each. The result equals the piece
    only if every line is exactly one value.
    """
    try:
        records = _SCANNER.decode_lines(piece.replace(b"\n", b"\r"))
    except (msgspec.DecodeError, RecursionError):
        return 0, b""
    ndjson = _LINES.encode_lines(records)
    if b"\r" not in ndjson:
        if ndjson == piece:
            return len(records), piece
        # The end of the last line may be missing.
        if ndjson[:-1] == piece or ndjson.replace(b"\n", b"\r\n") == piece:
            return len(records), ndjson
    elif piece in (ndjson, ndjson[:-1]):
        return len(records), one_line_each(records)
    return 0, b""


def _refusal(piece: bytes, records: int, before: int, error: Exception) -> errors.GaplessError:
    """The error of the line after ``records`` records of ``piece``.

    ``before`` is the number of lines before the piece.
    """
    lines = enumerate(io.BytesIO(piece), before + 1)
    not_blank = ((number, line) for number, line in lines if line.strip(_SPACE))
    number, line = next(itertools.islice(not_blank, records, None))
    if isinstance(error, RecursionError):
        found = strict_json.too_deeply_nested()
    else:
        # Line ends before it are space in JSON, and set the line number in the error.
        content = line.removesuffix(b"\n").removesuffix(b"\r")
        found = strict_json.explain(b"\n" * (number - 1) + content)
    words = f"{found.detail} Line {number} must hold one JSON value, and nothing else."
    return type(found)(words, **(found.members | {"line": number}))
