"""The header Content-Digest (RFC 9530), a dictionary of structured fields (RFC 9651). Pure."""

import base64
import binascii
import hashlib
import re
from typing import Final

from uploads import errors

# The grammar of RFC 9651, with possessive quantifiers: matching takes linear time.
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


def check_digest(sent: bytes, header: str) -> None:
    """Raise InvalidContentDigestError or DigestMismatchError unless ``header`` fits ``sent``."""
    expected = _sha256_of(header)
    if len(expected) != hashlib.sha256().digest_size:
        raise errors.InvalidContentDigestError(
            "Content-Digest must hold sha-256=:…: with the base64 of the 32 bytes of SHA-256 over"
            " the body as sent (RFC 9530).",
        )
    actual = hashlib.sha256(sent).digest()
    if actual != expected:
        raise errors.DigestMismatchError(
            "The body was changed in transit, or the digest was not computed over the bytes as sent"
            " (after compression). Send it again.",
            expected=base64.b64encode(expected).decode(),
            received=base64.b64encode(actual).decode(),
        )


def _sha256_of(header: str) -> bytes:
    """The digest under ``sha-256``; empty if there is none, or the header is malformed.

    If the key is repeated, the last value counts. Other keys are ignored.
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
