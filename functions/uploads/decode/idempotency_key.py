"""The header Idempotency-Key (draft-ietf-httpapi-idempotency-key-header). Pure."""

import re
from typing import Final

from uploads import errors, limits

_VISIBLE: Final = re.compile(r"[!-~]*")
_STRING: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')


def read_key(header: str, *, is_secret: bool) -> str:
    """The key in ``header``, without the quotes of a structured field's string, if there are any.

    ``is_secret``: anyone with the key gets the session, so it must be long. Raises
    InvalidIdempotencyKeyError, which does not repeat the key.
    """
    key = header.strip(" \t")
    if string := _STRING.fullmatch(key):
        key = re.sub(r"\\(.)", r"\1", string[1])
    elif key.startswith('"'):
        raise errors.InvalidIdempotencyKeyError(
            "An Idempotency-Key that begins with a double quote must be a whole string of RFC 9651,"
            ' such as "8e03978e-40d5-43dd-bc93-6894a57f9324", with nothing after it.'
        )
    elif "," in key:
        # API Gateway joins several headers of one name with commas.
        raise errors.InvalidIdempotencyKeyError(
            "An Idempotency-Key with a comma may be two keys, and a request has one. Send the"
            " header once, and put a key that has commas in double quotes."
        )
    least = limits.MIN_SECRET_KEY if is_secret else 1
    if not (least <= len(key) <= limits.MAX_IDEMPOTENCY_KEY and _VISIBLE.fullmatch(key)):
        raise errors.InvalidIdempotencyKeyError(
            f"An Idempotency-Key must have {least} to {limits.MAX_IDEMPOTENCY_KEY} visible ASCII"
            " characters, without spaces. Use a random one, such as a UUID.",
            minimum=least,
            limit=limits.MAX_IDEMPOTENCY_KEY,
        )
    return key
