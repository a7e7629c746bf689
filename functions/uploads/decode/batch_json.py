r"""A batch sent as one JSON object: from the body to the NDJSON that is stored. Pure; the hot path.

Records are never parsed into Python objects and never re-serialised: msgspec checks the whole body
and returns each record as the bytes that the client wrote. They are joined by ``\n``. So big
integers, ``1.0``, ``1e400``, escapes and duplicate keys inside a record survive byte for byte.
"""

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from uploads import errors, limits
from uploads.batch import Batch
from uploads.decode import strict_json
from uploads.decode.strict_json import Member


class BatchRequest(Struct):
    """Body of ``POST /api/upload/sessions/{sessionId}``."""

    seqNum: Annotated[int, Meta(ge=0, le=limits.MAX_SEQ_NUM)]
    data: list[Raw]


SEQ_NUM_RULE: Final = (
    f"seqNum must be an integer from 0 to {limits.MAX_SEQ_NUM}, written as plain digits"
)
_BATCH_DECODER: Final = msgspec.json.Decoder(BatchRequest)
_ARRAY_DECODER: Final = msgspec.json.Decoder(list[Raw])
_MEMBERS: Final = {
    "seqNum": Member(errors.InvalidSeqNumError, SEQ_NUM_RULE, is_integer=True),
    "data": Member(errors.InvalidDataError, "data must be an array of records"),
}

_CHUNK_RECORDS: Final = 1_000
"""Records that are minified together if some are spread over several lines."""
_SPACE: Final = bytes.maketrans(b"\t\r", b" \n")
_NO_SPACE: Final = bytes(set(range(256)) - set(b" \t\n\r\0"))

# Nearly every body: {"seqNum":0,"data":[ … ]} without space between records.
_FAST_PATH_HEAD: Final = re.compile(
    rb'\s*+\{\s*+"seqNum"\s*+:\s*+[0-9]++\s*+,\s*+"data"\s*+:\s*+\['
)
_FAST_PATH_TAIL: Final = b"]}"

_LINES: Final = msgspec.json.Encoder()
"""Writes the bytes of each ``Raw`` and a line end, faster than ``join``."""


def read_batch(body: bytes) -> Batch:
    """The batch in ``body``, which is UTF-8. Raises a GaplessError of status 400 or 413.

    A record that is spread over several lines is minified, so that it fits on one line. All other
    records stay byte for byte.
    """
    if len(body) > limits.MAX_VALUES and body.count(b",") > limits.MAX_VALUES:
        raise errors.TooManyValuesError(
            f"The body has more than {limits.MAX_VALUES} values (commas). Send smaller batches.",
            limit=limits.MAX_VALUES,
        )
    request = strict_json.decode(_BATCH_DECODER, body, _MEMBERS)
    seq_num, count = request.seqNum, len(request.data)
    if not count:
        raise errors.EmptyDataError(
            "data must hold at least one record. An empty data set is a session with totalRecord 0"
            " and no batches."
        )
    ndjson = _LINES.encode_lines(request.data)
    head = _FAST_PATH_HEAD.match(body)
    # If the records, with single commas between them, fill the body from head to tail, there are no
    # other members, so none is repeated. Any other body is checked member by member.
    is_fast_path = (
        head
        and body.endswith(_FAST_PATH_TAIL)
        and len(body) == head.end() + len(ndjson) - 1 + len(_FAST_PATH_TAIL)
    )
    # Nearly every body is on one line; finding that out is faster than counting lines.
    if (b"\n" in body or b"\r" in body) and _has_spread(ndjson, count):
        ndjson = one_line_each(request.data)
    # Free the ``Raw`` objects, which take many times the memory of short records.
    del request
    if not is_fast_path:
        strict_json.check_members(body, _MEMBERS)
    return Batch.of(seq_num, count, ndjson)


def one_line_each(records: list[Raw]) -> bytes:
    """The NDJSON of ``records``, some of which are spread over several lines."""
    pieces = []
    for start in range(0, len(records), _CHUNK_RECORDS):
        some = records[start : start + _CHUNK_RECORDS]
        ndjson = _LINES.encode_lines(some)
        if _has_spread(ndjson, len(some)):
            # One call for all: a call for each record would double the time of the request.
            compact = _ARRAY_DECODER.decode(msgspec.json.format(_LINES.encode(some), indent=-1))
            # Then restore records on one line that lost space. JSON contains no raw NUL.
            space = b"\0".join(some).translate(_SPACE, _NO_SPACE)
            if b" " in space:
                # As text, in which a search takes a fifth of the time.
                for at, found in enumerate(space.decode().split("\0")):
                    if found and "\n" not in found:
                        compact[at] = some[at]
            ndjson = _LINES.encode_lines(compact)
        pieces.append(ndjson)
    return b"".join(pieces)


def _has_spread(ndjson: bytes, records: int) -> bool:
    # Valid JSON has a raw line end only between tokens, never in a string.
    return ndjson.count(b"\n") > records or b"\r" in ndjson
