r"""From the body of a request to the NDJSON that is stored. Pure; the hot path of the service.

Records are never parsed into Python objects and never written anew: ``msgspec`` checks the whole
body and hands out each record as the bytes the client wrote, which are joined by ``\n``. So big
integers, ``1.0``, ``1e400``, escapes and duplicate keys inside a record survive byte for byte.
"""

import base64
import binascii
import gzip
import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, NoReturn, TypeVar, cast

import msgspec
from isal import igzip, isal_zlib
from msgspec import Meta, Raw, Struct

from uploads import errors, limits

_IsalError = cast("type[Exception]", isal_zlib.error)  # typed as an instance

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


def read_body(body: str | None, *, is_base64: bool, headers: Mapping[str, str]) -> bytes:
    """The bytes of a request's JSON, checked and inflated, from the event's ``body``.

    ``headers`` have lower-case names. Raises a BadRequestError, BodyTooLargeError,
    InflatedTooLargeError, UnsupportedEncodingError or GzipAsTextError.
    """
    if not body:
        raise errors.EmptyBodyError("Send a JSON object as the request's body.")
    sent = base64.b64decode(body) if is_base64 else _encode(body)
    if len(sent) > limits.MAX_BODY_BYTES:
        raise errors.BodyTooLargeError(
            f"The body has {len(sent)} bytes, {limits.MAX_BODY_BYTES} are allowed. Send smaller"
            " batches, or compress them with gzip.",
            limit=limits.MAX_BODY_BYTES,
        )
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
        sent = inflate(sent)
    if is_base64:
        # Text is valid by now; msgspec does not check the UTF-8 of bytes.
        try:
            sent.decode()
        except UnicodeDecodeError as error:
            raise errors.InvalidUtf8Error(
                f"The body is not UTF-8: {error.reason} at byte {error.start}.",
                offset=error.start,
            ) from None
    return sent


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise errors.InvalidUtf8Error(
            f"The body holds half of a surrogate pair at character {error.start}.",
            offset=error.start,
        ) from None


def _check_length(sent: bytes, content_length: str | None) -> None:
    # Where a body comes as text, API Gateway has replaced each invalid byte by U+FFFD: 3 bytes.
    if content_length is not None and content_length != str(len(sent)):
        raise errors.InvalidUtf8Error(
            f"The body arrived as {len(sent)} bytes but Content-Length says {content_length[:20]}:"
            f" it is not UTF-8. Send UTF-8, or {BATCH_MEDIA_TYPE} to find the place.",
        )


def _check_digest(sent: bytes, header: str) -> None:
    # RFC 9530 with the byte sequences of RFC 9651; what stands beside sha-256 is ignored.
    found = re.search(r"(?:^|,)\s*sha-256\s*=\s*:([A-Za-z0-9+/=]*):", header)
    try:
        expected = base64.b64decode(found[1], validate=True) if found else b""
    except binascii.Error:
        expected = b""
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


def inflate(compressed: bytes) -> bytes:
    """The content of one or more gzip members, at most ``limits.MAX_INFLATED_BYTES`` of it.

    A bomb costs no more than that: inflating stops at the limit.
    """
    most = limits.MAX_INFLATED_BYTES
    if not _begins_as_gzip(compressed):
        raise _no_gzip("it does not begin as gzip does")
    try:
        member = isal_zlib.decompressobj(wbits=31)
        content = member.decompress(compressed, most + 1)
        if member.unused_data and not _begins_as_gzip(member.unused_data):
            raise _no_gzip("there is something else after the end of the gzip")
        if not member.eof or member.unused_data:
            # Not the one whole member that nearly every client sends: read it as files are read.
            with igzip.IGzipFile(fileobj=io.BytesIO(compressed)) as members:  # type: ignore[no-untyped-call]
                content = members.read(most + 1)
    except EOFError:
        raise errors.TruncatedGzipError(
            "The gzip body ends before its checksum. Send it again, whole."
        ) from None
    except (_IsalError, gzip.BadGzipFile) as error:
        raise _no_gzip(f"it is damaged ({error})") from None
    if len(content) > most:
        raise errors.InflatedTooLargeError(
            f"The body inflates to more than {most} bytes. Send smaller batches.", limit=most
        )
    return content


def _begins_as_gzip(compressed: bytes) -> bool:
    return compressed[: len(_GZIP_MAGIC)] == _GZIP_MAGIC[: len(compressed)]


def _no_gzip(reason: str) -> errors.InvalidGzipError:
    return errors.InvalidGzipError(f"Content-Encoding says gzip, but the body is not: {reason}.")


_SESSION_DECODER: Final = msgspec.json.Decoder(SessionRequest)
_BATCH_DECODER: Final = msgspec.json.Decoder(BatchRequest)

# The body nearly every client sends: {"seqNum":0,"data":[ … ]} with no space between the records.
_USUAL_HEAD: Final = re.compile(rb'\s*\{\s*"seqNum"\s*:\s*[0-9]+\s*,\s*"data"\s*:\s*\[')
_USUAL_TAIL: Final = b"]}"

_LINES: Final = msgspec.json.Encoder()
"""Writes the bytes of each ``Raw`` and a line end, quicker than they can be joined."""

_GZIP_MAGIC: Final = b"\x1f\x8b"


def read_session_request(body: bytes) -> SessionRequest:
    """What ``POST /api/upload/sessions`` asks for. Raises a BadRequestError."""
    request = _decode(_SESSION_DECODER, body)
    _check_members(body)
    return request


def read_batch(body: bytes) -> Batch:
    """The batch in ``body``, which is UTF-8. Raises a BadRequestError.

    Every record must be valid JSON; only one that is spread over lines is rewritten, without the
    space between its tokens, to keep one record on one line.
    """
    if len(body) > limits.MAX_VALUES and body.count(b",") > limits.MAX_VALUES:
        raise errors.TooManyValuesError(
            f"The body has more than {limits.MAX_VALUES} values (commas). Send smaller batches.",
            limit=limits.MAX_VALUES,
        )
    request = _decode(_BATCH_DECODER, body)
    records = request.data
    if not records:
        raise errors.EmptyDataError(
            "data must hold at least one record. An empty data set is a session with totalRecord 0"
            " and no batches."
        )
    ndjson = _LINES.encode_lines(records)
    head = _USUAL_HEAD.match(body)
    # Where the records and a comma between them fill all the room there is, nothing is hidden
    # there: no member is given twice. Anything else is looked at member by member.
    if not (
        head
        and body.endswith(_USUAL_TAIL)
        and len(body) == head.end() + len(ndjson) - 1 + len(_USUAL_TAIL)
    ):
        _check_members(body)
    if b"\n" in body or b"\r" in body:
        # Valid JSON has a raw line end only between tokens, never in a string.
        lines = map(bytes, records)
        ndjson = b"".join(
            (msgspec.json.format(line, indent=-1) if b"\n" in line or b"\r" in line else line)
            + b"\n"
            for line in lines
        )
    return Batch(
        seq_num=request.seqNum,
        records=len(records),
        ndjson=ndjson,
        sha256=hashlib.sha256(ndjson).hexdigest(),
        crc32=isal_zlib.crc32(ndjson),
    )


_Request = TypeVar("_Request", SessionRequest, BatchRequest)


def _decode(decoder: "msgspec.json.Decoder[_Request]", body: bytes) -> _Request:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        _refuse_member(str(error))
    except msgspec.DecodeError:
        _refuse_json(body.decode())
    except RecursionError:
        raise errors.TooDeeplyNestedError(
            "The JSON is nested too deeply. 500 levels are always accepted."
        ) from None


class _Member:
    """A member's name as a key that equals no other, so that none hides another."""

    def __init__(self, name: str) -> None:
        self.name = name


_INTEGERS: Final = frozenset({"seqNum", "totalRecord", "batchSize"})


def _check_members(body: bytes) -> None:
    """Refuse a member that is given twice, and an integer that is not plain digits (``-0``)."""
    seen: set[str] = set()

    def see(member: type[_Member], name: str) -> _Member:
        if name in seen:
            raise errors.RepeatedMemberError(
                f"The member {name[:100]!r} is given twice. Give every member once.",
                member=name[:100],
            )
        seen.add(name)
        if len(seen) > limits.MAX_MEMBERS:
            raise errors.TooManyValuesError(
                f"The body has more than {limits.MAX_MEMBERS} members. Send records in data.",
                limit=limits.MAX_MEMBERS,
            )
        return member(name)

    members = msgspec.json.decode(body, type=dict[_Member, Raw], dec_hook=see)
    for member, value in members.items():
        if member.name in _INTEGERS and bytes(value) == b"-0":
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


_JSON_ERRORS: Final = (
    ("Extra data", errors.TrailingTextError),
    ("Invalid control character", errors.ControlCharacterError),
    ("Unterminated string", errors.TruncatedJsonError),
)


# What can be left of a value whose end was cut off, from where json stumbles over it.
_CUT: Final = re.compile(
    r"\s*|t(ru?)?|f(a(ls?)?)?|n(ul?)?|-|\.|[eE][+-]?|\\?u?[0-9a-fA-F]{0,4}", re.ASCII
)


def _refuse_json(text: str) -> NoReturn:
    """Say what is wrong with ``text``, which msgspec refused: json knows the line and column."""
    try:
        # Numbers stay text: json must not refuse, or spend time on, an integer of 5,000 digits.
        json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse_constant)
    except RecursionError:
        raise errors.TooDeeplyNestedError(
            "The JSON is nested too deeply. 500 levels are always accepted."
        ) from None
    except json.JSONDecodeError as error:
        place = {"line": error.lineno, "column": error.colno}
        detail = f"{error.msg} at line {error.lineno}, column {error.colno}."
        refusal = next((to for said, to in _JSON_ERRORS if error.msg.startswith(said)), None)
        if refusal is None and _CUT.fullmatch(text, error.pos):
            refusal = errors.TruncatedJsonError
        raise (refusal or errors.MalformedJsonError)(detail, **place) from None
    # json takes everything msgspec takes, and lone surrogates.
    raise errors.LoneSurrogateError(
        "A string holds a \\ud800 … \\udfff escape without its other half, which is no character"
        " and cannot be stored as UTF-8. Send the pair, or U+FFFD."
    )


def _refuse_constant(name: str) -> NoReturn:
    raise errors.NotANumberError(f"{name} is not JSON. Send null, or a string.")
