r"""From the body of a request to the NDJSON that is stored. Pure; the hot path of the service.

Records are never parsed into Python objects and never written anew: ``msgspec`` checks the whole
body and hands out each record as the bytes the client wrote, which are joined by ``\n``. So big
integers, ``1.0``, ``1e400``, escapes and duplicate keys inside a record survive byte for byte.
"""

import base64
import binascii
import codecs
import hashlib
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, NoReturn, TypeVar

import msgspec
from isal import isal_zlib
from msgspec import Meta, Raw, Struct

from uploads import errors, limits, malformed

BATCH_MEDIA_TYPE: Final = "application/vnd.gapless.batch+json"
"""The media type under which API Gateway hands a body on untouched."""


class SessionRequest(Struct):
    """Body of ``POST /api/upload/sessions``."""

    totalRecord: Annotated[int, Meta(ge=0, le=limits.MAX_INTEGER)]
    batchSize: Annotated[int, Meta(ge=1, le=limits.MAX_INTEGER)] | None = None


class BatchRequest(Struct):
    """Body of ``POST /api/upload/sessions/{sessionId}``."""

    seqNum: Annotated[int, Meta(ge=0, le=limits.MAX_SEQ_NUM)]
    data: list[Raw]


@dataclass(frozen=True)
class Batch:
    """A batch, ready to be stored."""

    seq_num: int
    records: int
    ndjson: bytes
    """One record a line, every line ended by ``\\n``."""
    sha256: str
    """Of ``ndjson``, hexadecimal: two batches are the same where this is."""
    crc32: int
    """Of ``ndjson``: merging combines these into the checksum of the whole object."""


Meter = Callable[[], float]
"""Seconds of CPU that this thread has taken."""


def _no_meter() -> float:
    return 0


@dataclass(frozen=True)
class Allowance:
    """How large a body may be, bytes, and what to do where it is larger."""

    sent: int
    inflated: int
    advice_sent: str
    advice_inflated: str


BATCH_ALLOWANCE: Final = Allowance(
    limits.MAX_BODY_BYTES,
    limits.MAX_INFLATED_BYTES,
    "Send smaller batches, or compress them with gzip.",
    "Send smaller batches.",
)
_SESSION_ADVICE: Final = "Opening a session takes no more than totalRecord and batchSize."
SESSION_ALLOWANCE: Final = Allowance(
    limits.MAX_SESSION_BODY_BYTES, limits.MAX_SESSION_BODY_BYTES, _SESSION_ADVICE, _SESSION_ADVICE
)


def read_body(
    body: str | None,
    *,
    is_base64: bool,
    headers: Mapping[str, str],
    allowance: Allowance = BATCH_ALLOWANCE,
    cpu: Meter = _no_meter,
) -> bytes:
    """The bytes of a request's JSON, checked and inflated, from the event's ``body``.

    ``headers`` have lower-case names; for ``cpu`` see ``inflate``. Raises a BadRequestError,
    BodyTooLargeError, InflatedTooLargeError, UnsupportedEncodingError or GzipAsTextError.
    """
    if not body:
        raise errors.EmptyBodyError("Send a JSON object as the request's body.")
    if is_base64:
        # Its length tells how many bytes it stands for: too many are not even decoded.
        _check_size(len(body) // 4 * 3 - body.count("=", -2), allowance)
        sent = _decode_base64(body)
    else:
        sent = _encode(body)
    _check_size(len(sent), allowance)
    encoding = headers.get("content-encoding", "").strip().lower() or "identity"
    if encoding not in {"identity", "gzip", "x-gzip"}:
        raise errors.UnsupportedEncodingError(
            f"Content-Encoding {encoding[:100]!r} is not supported; use gzip, or none.",
            supported=["gzip", "identity"],
        )
    compressed = encoding != "identity"
    if not is_base64:
        if compressed:
            raise errors.GzipAsTextError(
                "API Gateway spoils compressed bodies that are sent as JSON or text. Send them with"
                f" Content-Type: {BATCH_MEDIA_TYPE}.",
                expected=BATCH_MEDIA_TYPE,
            )
        _check_length(sent, headers.get("content-length"))
    if "content-digest" in headers:
        _check_digest(sent, headers["content-digest"])
    if compressed:
        sent = inflate(sent, allowance, cpu)
    if is_base64:
        # Text is valid by now; msgspec does not check the UTF-8 of bytes.
        _check_utf8(sent)
    return sent


def _check_size(size: int, allowance: Allowance) -> None:
    if size > allowance.sent:
        raise errors.BodyTooLargeError(
            f"The body has {size} bytes, {allowance.sent} are allowed. {allowance.advice_sent}",
            limit=allowance.sent,
        )


def _decode_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        # API Gateway makes it. Whatever stands in its place must not lose bytes in silence.
        raise errors.InvalidBase64Error(
            "The function was told that the body is base64, and it is not. Send it to the API."
        ) from None


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise errors.InvalidUtf8Error(
            f"The body holds half of a surrogate pair at character {error.start}.",
            offset=error.start,
        ) from None


def _check_utf8(content: bytes) -> None:
    # Piece by piece: the text of all of it takes up to four times its memory.
    view = memoryview(content)
    at = 0 if not content.isascii() else len(content)
    while at < len(content):
        piece = view[at : at + _PIECE_BYTES]
        try:
            _, used = codecs.utf_8_decode(piece, "strict", at + len(piece) == len(content))
        except UnicodeDecodeError as error:
            offset = at + error.start
            raise errors.InvalidUtf8Error(
                f"The body is not UTF-8: {error.reason} at byte {offset}.", offset=offset
            ) from None
        at += used


def _check_length(sent: bytes, content_length: str | None) -> None:
    # Where a body comes as text, API Gateway has replaced each invalid byte by U+FFFD: 3 bytes.
    if content_length is None:
        return
    # Several header lines are one, with commas: they must agree.
    if {one.strip().lstrip("0") for one in content_length.split(",")} != {str(len(sent))}:
        raise errors.InvalidUtf8Error(
            f"The body arrived as {len(sent)} bytes but Content-Length says {content_length[:20]}:"
            f" it is not UTF-8. Send UTF-8, or {BATCH_MEDIA_TYPE} to find the place.",
        )


def _check_digest(sent: bytes, header: str) -> None:
    expected = _sha256_of(header)
    if len(expected) != hashlib.sha256().digest_size:
        raise errors.InvalidDigestError(
            "Content-Digest must hold sha-256=:…: with the base64 of the 32 bytes of SHA-256 over"
            " the body as sent (RFC 9530).",
        )
    actual = hashlib.sha256(sent).digest()
    if actual != expected:
        raise errors.DigestMismatchError(
            "The body was changed on its way, or the digest was not made over the bytes as sent"
            " (after compression). Send it again.",
            expected=base64.b64encode(expected).decode(),
            received=base64.b64encode(actual).decode(),
        )


# A dictionary of RFC 9651 (RFC 9530), by its grammar. Nothing is tried twice: it takes linear time.
_KEY: Final = r"[a-z*][a-z0-9_.*-]*+"
_BYTES: Final = r":[A-Za-z0-9+/=]*+:"
_BARE_ITEM: Final = "|".join(
    (
        _BYTES,
        r'"(?:[ !#-\[\]-~]|\\["\\])*+"',
        r"[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*+",
        r"-?[0-9]{1,12}\.[0-9]{1,3}",
        r"@?-?[0-9]{1,15}",
        r"\?[01]",
        r'%"(?:[ !#$&-~]|%[0-9a-f]{2})*+"',
    )
)
_PARAMETERS: Final = f"(?:; *+{_KEY}(?:=(?:{_BARE_ITEM}))?+)*+"
_INNER_LIST: Final = rf"\( *+(?:(?:{_BARE_ITEM}){_PARAMETERS}(?: ++|(?=\))))*+\)"
_MEMBER: Final = f"({_KEY})(?:=(?:({_BYTES})|{_BARE_ITEM}|{_INNER_LIST}))?+{_PARAMETERS}"
_COMMA: Final = r"[ \t]*+,[ \t]*+"


def _sha256_of(header: str) -> bytes:
    """What a Content-Digest says of ``sha-256``; empty where it cannot be read, or does not.

    Of a key that is given twice the last value holds, and whatever stands beside it is ignored.
    """
    header = header.strip(" \t")
    found = ""
    at = 0
    while member := re.compile(_MEMBER).match(header, at):
        if member[1] == "sha-256":
            found = (member[2] or "").strip(":")
        at = member.end()
        if at == len(header):
            try:
                # Padding may be left out.
                return base64.b64decode(found + "=" * (-len(found) % 4), validate=True)
            except binascii.Error:
                return b""
        if not (comma := re.compile(_COMMA).match(header, at)):
            return b""
        at = comma.end()
    return b""


def inflate(
    compressed: bytes, allowance: Allowance = BATCH_ALLOWANCE, cpu: Meter = _no_meter
) -> bytes:
    """The content of one or more gzip members, as much as ``allowance`` has room for.

    Inflating stops at the limit, and where what was read has brought too little: so neither what a
    body inflates to, nor members and blocks that hold next to nothing, can make it dear. Blocks
    that isal takes long for, by ``cpu``, are left to zlib, which is slower with all others.
    """
    try:
        return _inflate(compressed, allowance, isal_zlib, cpu)
    except _SlowError:
        return _inflate(compressed, allowance, zlib, _no_meter)


class _SlowError(Exception):
    """Inflating takes long for what it brings."""


def _inflate(
    compressed: bytes,
    allowance: Allowance,
    codec: Any,  # noqa: ANN401
    cpu: Meter,
) -> bytes:
    """The same, with a module like zlib. Raises _SlowError."""
    most = allowance.inflated
    view = memoryview(compressed)
    pieces: list[bytes] = []
    size = at = 0
    begun = cpu()
    while at < len(view) or not pieces:
        if not _begins_as_gzip(view[at:]):
            raise _no_gzip(
                "there is something else after the end of the gzip"
                if at
                else "it does not begin as gzip does"
            )
        member = codec.decompressobj(wbits=31)
        while not member.eof:
            if at == len(view):
                raise errors.TruncatedGzipError(
                    "The gzip body ends before its checksum. Send it again, whole."
                )
            piece = view[at : at + (_PIECE_BYTES if pieces else _FIRST_PIECE_BYTES)]
            try:
                pieces.append(member.decompress(piece, most + 1 - size))
            except codec.error as error:
                raise _no_gzip(f"it is damaged ({error})") from None
            size += len(pieces[-1])
            at += len(piece) - len(member.unused_data)
            if size > most:
                raise errors.InflatedTooLargeError(
                    f"The body inflates to more than {most} bytes. {allowance.advice_inflated}",
                    limit=most,
                )
            if 8 * (at - limits.MAX_GZIP_OVERHEAD_BYTES) > 9 * size:
                raise _no_gzip("it is larger than what it holds. Compress the JSON as one member")
            if cpu() - begun > limits.INFLATE_SECONDS_PER_BYTE * (size + _FIRST_PIECE_BYTES):
                raise _SlowError
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _begins_as_gzip(compressed: memoryview) -> bool:
    return compressed[: len(_GZIP_MAGIC)] == _GZIP_MAGIC[: len(compressed)]


def _no_gzip(reason: str) -> errors.InvalidGzipError:
    return errors.InvalidGzipError(f"Content-Encoding says gzip, but the body is not: {reason}.")


_SESSION_DECODER: Final = msgspec.json.Decoder(SessionRequest)
_BATCH_DECODER: Final = msgspec.json.Decoder(BatchRequest)
_ARRAY_DECODER: Final = msgspec.json.Decoder(list[Raw])
_AT_ONCE: Final = 1_000
"""Records that are taken together where some are spread over lines."""
_SPACE: Final = bytes.maketrans(b"\t\r", b" \n")
_NO_SPACE: Final = bytes(set(range(256)) - set(b" \t\n\r\0"))

# The body nearly every client sends: {"seqNum":0,"data":[ … ]} with no space between the records.
_USUAL_HEAD: Final = re.compile(rb'\s*+\{\s*+"seqNum"\s*+:\s*+[0-9]++\s*+,\s*+"data"\s*+:\s*+\[')
_USUAL_TAIL: Final = b"]}"

_LINES: Final = msgspec.json.Encoder()
"""Writes the bytes of each ``Raw`` and a line end, quicker than they can be joined."""

_GZIP_MAGIC: Final = b"\x1f\x8b"

_FIRST_PIECE_BYTES: Final = 256 * 1024
"""Read of a gzip body at once: most bodies whole."""

_PIECE_BYTES: Final = 64 * 1024
"""Read after that, and of text."""


def read_session_request(body: bytes) -> SessionRequest:
    """What ``POST /api/upload/sessions`` asks for. Raises a BadRequestError."""
    request = _decode(_SESSION_DECODER, body)
    _check_members(body)
    return request


def read_batch(body: bytes) -> Batch:
    """The batch in ``body``, which is UTF-8. Raises a BadRequestError or TooManyValuesError.

    Every record must be valid JSON; only one that is spread over lines is rewritten, without the
    space between its tokens, to keep one record on one line.
    """
    if len(body) > limits.MAX_VALUES and body.count(b",") > limits.MAX_VALUES:
        raise errors.TooManyValuesError(
            f"The body has more than {limits.MAX_VALUES} values (commas). Send smaller batches.",
            limit=limits.MAX_VALUES,
        )
    request = _decode(_BATCH_DECODER, body)
    seq_num, count = request.seqNum, len(request.data)
    if not count:
        raise errors.EmptyDataError(
            "data must hold at least one record. An empty data set is a session with totalRecord 0"
            " and no batches."
        )
    ndjson = _LINES.encode_lines(request.data)
    head = _USUAL_HEAD.match(body)
    # Where the records and a comma between them fill all the room there is, nothing is hidden
    # there: no member is given twice. Anything else is looked at member by member.
    is_usual = (
        head
        and body.endswith(_USUAL_TAIL)
        and len(body) == head.end() + len(ndjson) - 1 + len(_USUAL_TAIL)
    )
    # Nearly every body is on one line, which is seen more quickly than lines are counted.
    if (b"\n" in body or b"\r" in body) and _has_spread(ndjson, count):
        ndjson = _one_line_each(request.data)
    # What marks each record takes many times the memory of a short one.
    del request
    if not is_usual:
        _check_members(body)
    return Batch(
        seq_num=seq_num,
        records=count,
        ndjson=ndjson,
        sha256=hashlib.sha256(ndjson).hexdigest(),
        crc32=isal_zlib.crc32(ndjson),
    )


def _one_line_each(records: list[Raw]) -> bytes:
    """The NDJSON of ``records``, some of which are spread over lines."""
    pieces = []
    for start in range(0, len(records), _AT_ONCE):
        some = records[start : start + _AT_ONCE]
        ndjson = _LINES.encode_lines(some)
        if _has_spread(ndjson, len(some)):
            # All of them at once: a call for each record would take as long as all the rest.
            compact = _ARRAY_DECODER.decode(msgspec.json.format(_LINES.encode(some), indent=-1))
            # Then back to those on one line that have lost space. JSON has no raw NUL.
            space = b"\0".join(some).translate(_SPACE, _NO_SPACE)
            if b" " in space:
                for at, found in enumerate(space.split(b"\0")):
                    if found and b"\n" not in found:
                        compact[at] = some[at]
            ndjson = _LINES.encode_lines(compact)
        pieces.append(ndjson)
    return b"".join(pieces)


def _has_spread(ndjson: bytes, records: int) -> bool:
    # Valid JSON has a raw line end only between tokens, never in a string.
    return ndjson.count(b"\n") > records or b"\r" in ndjson


_Request = TypeVar("_Request", SessionRequest, BatchRequest)


def _decode(decoder: "msgspec.json.Decoder[_Request]", body: bytes) -> _Request:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        _refuse_member(str(error))
    except msgspec.DecodeError:
        raise malformed.explain(body) from None
    except RecursionError:
        raise malformed.too_deeply_nested() from None


class _Member:
    """A member's name as a key that equals no other, so that none hides another."""

    def __init__(self, name: str) -> None:
        self.is_integer = name in _INTEGERS
        self.name = name[:_LONGEST_NAME_KEPT]


_INTEGERS: Final = frozenset({"seqNum", "totalRecord", "batchSize"})
_LONGEST_NAME_KEPT: Final = 100


def _check_members(body: bytes) -> None:
    """Refuse a member that is given twice, and an integer that is not plain digits (``-0``)."""
    seen: set[str | bytes] = set()

    def see(member: type[_Member], name: str) -> _Member:
        # A name may be as long as the body: one at a time is held, and of the others a digest.
        key = name if len(name) <= _LONGEST_NAME_KEPT else hashlib.sha256(name.encode()).digest()
        if key in seen:
            raise errors.RepeatedMemberError(
                f"The member {name[:100]!r} is given twice. Give every member once.",
                member=name[:100],
            )
        seen.add(key)
        if len(seen) > limits.MAX_MEMBERS:
            raise errors.TooManyValuesError(
                f"The body has more than {limits.MAX_MEMBERS} members. Send records in data.",
                limit=limits.MAX_MEMBERS,
            )
        return member(name)

    members = msgspec.json.decode(body, type=dict[_Member, Raw], dec_hook=see)
    for member, value in members.items():
        if member.is_integer and bytes(value) == b"-0":
            _refuse_member(f"Expected plain digits, got -0 - at `$.{member.name}`")


_MEMBER_ERRORS: Final[dict[str, tuple[type[errors.BadRequestError], str]]] = {
    "seqNum": (
        errors.InvalidSeqNumError,
        f"seqNum must be an integer from 0 to {limits.MAX_SEQ_NUM}, written as plain digits",
    ),
    "data": (errors.InvalidDataError, "data must be an array of records"),
    "totalRecord": (
        errors.InvalidTotalRecordError,
        f"totalRecord must be an integer from 0 to {limits.MAX_INTEGER}, written as plain digits",
    ),
    "batchSize": (
        errors.InvalidBatchSizeError,
        f"batchSize must be an integer from 1 to {limits.MAX_INTEGER}, or left out",
    ),
}


def _refuse_member(reason: str) -> NoReturn:
    """Turn msgspec's reason, which ends in the member's path, into the error of that member."""
    if missing := re.search(r"missing required field `(\w+)`", reason):
        raise errors.MissingMemberError(
            f"The body needs the member {missing[1]!r}: {_MEMBER_ERRORS[missing[1]][1]}.",
            member=missing[1],
        )
    if path := re.match(r"(.*) - at `\$\.(\w+)`", reason):
        error, rule = _MEMBER_ERRORS[path[2]]
        raise error(f"{rule}. {path[1].replace('`', '')}.", member=path[2])
    raise errors.NotAnObjectError(f"The body must be a JSON object. {reason.replace('`', '')}.")
