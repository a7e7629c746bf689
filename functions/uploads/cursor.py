"""The cursor of a list of sessions: opaque, and valid only for the caller who got it. Pure.

It holds the creation time and the id of the page's last session, and a code over these and the
owner, which detects damaged, invented and other callers' cursors. Security does not depend on the
code, whose key is the table's name: a list only ever reads the caller's own sessions.
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
# The last character has no spare bits, so a cursor can be written in one way only.
_FORM: Final = re.compile(r"[A-Za-z0-9_-]{56}")


class Place(NamedTuple):
    """A session's place in its owner's list."""

    created_at: int
    """Seconds since 1970."""
    session_id: str


def encode(place: Place, owner: str, key: str) -> str:
    """The cursor of ``place`` for ``owner``."""
    packed = _PLACE.pack(place.created_at, bytes.fromhex(place.session_id))
    return base64.urlsafe_b64encode(packed + _code(packed, owner, key)).decode()


def decode(cursor: str, owner: str, key: str) -> Place:
    """The place in ``cursor``. Raises InvalidCursorError unless it was made for ``owner``."""
    if _FORM.fullmatch(cursor):
        found = base64.urlsafe_b64decode(cursor)
        packed, code = found[:-_CODE_BYTES], found[-_CODE_BYTES:]
        if hmac.compare_digest(code, _code(packed, owner, key)):
            created_at, session_id = _PLACE.unpack(packed)
            return Place(created_at, session_id.hex())
    raise errors.InvalidCursorError(
        "cursor must be one that a list returned to you, unchanged. Leave it out to start from the"
        " newest session.",
        parameter="cursor",
    )


def _code(packed: bytes, owner: str, key: str) -> bytes:
    signed = json.dumps([packed.hex(), owner]).encode()
    return hmac.digest(key.encode(), signed, "sha256")[:_CODE_BYTES]
