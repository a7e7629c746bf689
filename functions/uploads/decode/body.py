"""The body of a request, from API Gateway's event: decoded, checked and inflated. Pure."""

import codecs
import hashlib
from collections.abc import Mapping
from typing import Final, NamedTuple

import pybase64

from uploads import errors, gzip_member
from uploads.decode.content_digest import check_digest
from uploads.decode.inflate import (
    BATCH_ALLOWANCE,
    Allowance,
    Meter,
    begins_as_gzip,
    inflate,
    no_meter,
)

BATCH_MEDIA_TYPE: Final = "application/vnd.gapless.batch+json"
"""API Gateway passes bodies of this media type unchanged."""

_UNNAMED_GZIP: Final = (
    " It begins as gzip does: compress it once, and send it with Content-Encoding: gzip."
)

_PIECE_BYTES: Final = 64 * 1024
"""Bytes of text that are checked in one step."""


class Body(NamedTuple):
    """The body of a request."""

    content: bytes
    blocks: bytes = b""
    """DEFLATE blocks of the content as they were sent, if they can be stored (``gzip_member``)."""


def read_body(
    body: str | None,
    *,
    is_base64: bool,
    headers: Mapping[str, str],
    allowance: Allowance = BATCH_ALLOWANCE,
    media_type: str = BATCH_MEDIA_TYPE,
    cpu: Meter = no_meter,
    keep_blocks: bool = False,
) -> Body:
    """The content of a request's ``body``, checked and inflated.

    ``headers`` have lower-case names. ``media_type`` is recommended if another one has corrupted
    the body; ``cpu`` is passed to ``inflate``. With ``keep_blocks`` the blocks of a compressed body
    are returned, too, if they can be stored. Raises a GaplessError of status 400, 413 or 415.
    """
    if not body:
        return Body(b"")
    if is_base64:
        # Computed from the length of the base64: a body that is too large is not decoded.
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
                "API Gateway corrupts compressed bodies that are sent as JSON or text. Send them"
                f" with Content-Type: {media_type}.",
                expected=media_type,
            )
        _check_length(sent, headers.get("content-length"), media_type)
    if "content-digest" in headers:
        check_digest(sent, headers["content-digest"])
    found = Body(sent)
    if compressed:
        kept = keep_blocks and gzip_member.blocks_as_sent(sent, allowance.inflated)
        found = Body(*kept) if kept else Body(inflate(sent, allowance, cpu))
    if is_base64:
        # Text was checked when it was encoded; msgspec does not check the UTF-8 of bytes.
        _check_utf8(found.content)
    return found


def digest_as_sent(body: str | None, *, is_base64: bool) -> str:
    """SHA-256 of a body that ``read_body`` accepted, before it is inflated; hexadecimal."""
    sent = _decode_base64(body or "") if is_base64 else _encode(body or "")
    return hashlib.sha256(sent).hexdigest()


def _check_size(size: int, allowance: Allowance) -> None:
    if size > allowance.sent:
        raise errors.BodyTooLargeError(
            f"The body has {size} bytes, {allowance.sent} are allowed. {allowance.advice_sent}",
            limit=allowance.sent,
        )


def _decode_base64(text: str) -> bytes:
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError:
        # API Gateway's base64 is valid; this protects against other senders of events.
        raise errors.InvalidBase64Error(
            "The event says that the body is base64, but it is not. Send requests to the API, not"
            " to the function."
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
    # In pieces: the text of the whole content would take up to four times its memory.
    view = memoryview(content)
    at = 0 if not content.isascii() else len(content)
    while at < len(content):
        piece = view[at : at + _PIECE_BYTES]
        try:
            _, used = codecs.utf_8_decode(piece, "strict", at + len(piece) == len(content))
        except UnicodeDecodeError as error:
            offset = at + error.start
            hint = _UNNAMED_GZIP if begins_as_gzip(view) else ""
            raise errors.InvalidUtf8Error(
                f"The body is not UTF-8: {error.reason} at byte {offset}.{hint}", offset=offset
            ) from None
        at += used


def _check_length(sent: bytes, content_length: str | None, media_type: str) -> None:
    # In a body that comes as text, API Gateway has replaced each invalid byte by U+FFFD, 3 bytes.
    if content_length is None:
        return
    # Several headers come as one, with commas: they must agree.
    if {one.strip().lstrip("0") for one in content_length.split(",")} != {str(len(sent))}:
        hint = _UNNAMED_GZIP if sent.startswith("\x1f\ufffd".encode()) else ""
        raise errors.InvalidUtf8Error(
            f"The body arrived as {len(sent)} bytes but Content-Length says {content_length[:20]}:"
            f" it is not UTF-8. Send UTF-8, or {media_type} to get the offset.{hint}",
        )
