r"""A batch sent as NDJSON: from its body to the lines that are stored. Pure; a hot path.

A line is a record under the rules of ``batch_json``: the same records are the same batch, whichever
way they come. Space around a record, and blank lines, do not count. CR LF ends a line; a carriage
return between the tokens of a record is space, and a record that has one is minified.
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
"""The registered name of NDJSON; API Gateway hands such a body on untouched."""

_SEQ_NUM: Final = re.compile(r"0|[1-9][0-9]{0,4}")
_SCANNER: Final = msgspec.json.Decoder(Raw)
_LINES: Final = msgspec.json.Encoder()
_SPACE: Final = b" \t\r\n"
_STRIP: Final = operator.methodcaller("strip", _SPACE)

_PIECE_BYTES: Final = 16 * 1024
"""Looked at in one step: what marks each value takes many times the memory of a short one, and how
many values stand on a line is not known before. Larger pieces are no faster."""


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
    # Nearly every body is stored as it came; of any other, what is stored in place of its pieces.
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
    """Add to each record that ``error`` tells of the line of ``body`` that it is on."""
    lines = (number for number, line in enumerate(io.BytesIO(body), 1) if line.strip(_SPACE))
    taken = 0
    for one in cast("list[dict[str, int]]", error.members["errors"]):
        one["line"] = next(islice(lines, one["index"] - taken, None))
        taken = one["index"] + 1


def _read_piece(piece: bytes, body: bytes, start: int) -> tuple[int, bytes]:
    """The records of ``piece``, which begins at byte ``start``, counted, and their NDJSON."""
    if len(piece) > _PIECE_BYTES:
        # It is one line, which may hold any number of values.
        lines = [piece] if piece.strip(_SPACE) else []
    else:
        found, ndjson = _read_at_once(piece)
        if ndjson:
            return found, ndjson
        # No value has a line end in it, nor begins or ends with space.
        lines = list(filter(None, map(_STRIP, piece.split(b"\n"))))
        stripped = b"\n".join(lines)
        if len(stripped) < len(piece) - 1:
            found, ndjson = _read_at_once(stripped)
            if ndjson:
                return found, ndjson
    records: list[Raw] = []
    try:
        for line in lines:
            records.append(_SCANNER.decode(line))  # noqa: PERF401 - what was read is counted
    except (msgspec.DecodeError, RecursionError) as error:
        raise _refusal(piece, len(records), body.count(b"\n", 0, start), error) from None
    return len(records), one_line_each(records)


def _read_at_once(piece: bytes) -> tuple[int, bytes]:
    r"""The records of some whole lines, counted, and their NDJSON; none where that is not so plain.

    All lines are looked at by one call. To it line ends are mere space: it takes ``1 2`` for two
    values, and ``[1`` with ``2]`` on the next line for one. So they are hidden from it, as carriage
    returns, and what it found is written down, each value with a line end. That is the piece again
    only where each line end of the piece stands after a value, and nothing else between two: every
    value is a line, and every line a value.
    """
    try:
        records = _SCANNER.decode_lines(piece.replace(b"\n", b"\r"))
    except (msgspec.DecodeError, RecursionError):
        return 0, b""
    ndjson = _LINES.encode_lines(records)
    if b"\r" in piece:
        is_plain = b"\r" not in ndjson and ndjson.replace(b"\n", b"\r\n") == piece
    elif ndjson == piece:
        return len(records), piece
    else:
        # The end of the last line may be missing.
        is_plain = ndjson[:-1] == piece
    return (len(records), ndjson) if is_plain else (0, b"")


def _refusal(piece: bytes, records: int, before: int, error: Exception) -> errors.GaplessError:
    """The error of the line behind so many ``records`` of ``piece``, and ``before`` other lines."""
    lines = enumerate(io.BytesIO(piece), before + 1)
    not_blank = ((number, line) for number, line in lines if line.strip(_SPACE))
    number, line = next(itertools.islice(not_blank, records, None))
    if isinstance(error, RecursionError):
        found = strict_json.too_deeply_nested()
    else:
        # Line ends before it are mere space to JSON, and tell which line it is.
        content = line.removesuffix(b"\n").removesuffix(b"\r")
        found = strict_json.explain(b"\n" * (number - 1) + content)
    words = f"{found.detail} Line {number} must hold one JSON value, and nothing else."
    return type(found)(words, **(found.members | {"line": number}))
