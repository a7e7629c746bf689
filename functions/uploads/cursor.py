"""Where a page of a list of sessions ends: opaque to the caller, and good for that caller alone.

It has the creation and the id of the caller's own session that was looked at last, and a code over
these and the owner. The code refuses what was damaged, made up, or another caller's. Nothing rests
on its key, which is the table's name: a list begins in the sessions of who asks, whatever the
cursor says. Pure.
"""

import base64
import hmac
import json
import re
import struct
from typing import Final, NamedTuple

from uploads import errors

_PLACE: Final = struct.Struct(">Q16s")
_CODE_BYTES: Final = 18
# No bit of its last character is spare, or it could be written in two ways.
_FORM: Final = re.compile(r"[A-Za-z0-9_-]{56}")


class Place(NamedTuple):
    """A session's place in the list of its owner's."""

    created_at: int
    """Seconds since 1970."""
    session_id: str


def encode(place: Place, owner: str, key: str) -> str:
    """The cursor of ``place`` for ``owner``."""
    packed = _PLACE.pack(place.created_at, bytes.fromhex(place.session_id))
    return base64.urlsafe_b64encode(packed + _code(packed, owner, key)).decode()


def decode(cursor: str, owner: str, key: str) -> Place:
    """The place that ``cursor`` was made of. Raises InvalidCursorError unless it is ``owner``'s."""
    if _FORM.fullmatch(cursor):
        found = base64.urlsafe_b64decode(cursor)
        packed, code = found[:-_CODE_BYTES], found[-_CODE_BYTES:]
        if hmac.compare_digest(code, _code(packed, owner, key)):
            created_at, session_id = _PLACE.unpack(packed)
            return Place(created_at, session_id.hex())
    raise errors.InvalidCursorError(
        "cursor must be one that a list of yours has answered, unchanged. Leave it out to begin"
        " anew.",
        parameter="cursor",
    )


def _code(packed: bytes, owner: str, key: str) -> bytes:
    told = json.dumps([packed.hex(), owner]).encode()
    return hmac.digest(key.encode(), told, "sha256")[:_CODE_BYTES]
