"""The body that creates a session. Pure."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from uploads import errors, limits
from uploads.decode import strict_json
from uploads.decode.inflate import Allowance
from uploads.decode.strict_json import Member
from uploads.formats import Format


class SessionRequest(Struct):
    """Body of ``POST /api/upload/sessions``."""

    totalRecord: Annotated[int, Meta(ge=0, le=limits.MAX_INTEGER)]
    batchSize: Annotated[int, Meta(ge=1, le=limits.MAX_INTEGER)] | None = None
    format: str = Format.NDJSON


_ADVICE: Final = "Opening a session takes no more than totalRecord, batchSize and format."
SESSION_ALLOWANCE: Final = Allowance(
    limits.MAX_SESSION_BODY_BYTES, limits.MAX_SESSION_BODY_BYTES, _ADVICE, _ADVICE
)

_DECODER: Final = msgspec.json.Decoder(SessionRequest)
_MEMBERS: Final = {
    "totalRecord": Member(
        errors.InvalidTotalRecordError,
        f"totalRecord must be an integer from 0 to {limits.MAX_INTEGER}, written as plain digits",
        is_integer=True,
    ),
    "batchSize": Member(
        errors.InvalidBatchSizeError,
        f"batchSize must be an integer from 1 to {limits.MAX_INTEGER}, or left out",
        is_integer=True,
    ),
    "format": Member(
        errors.InvalidFormatError,
        f"format must be {' or '.join(map(repr, map(str, Format)))}, or left out",
    ),
}


def read_session_request(body: bytes) -> SessionRequest:
    """What ``body`` asks for. Raises a GaplessError of status 400."""
    request = strict_json.decode(_DECODER, body, _MEMBERS)
    if request.format not in set(Format):
        # Not left to msgspec, whose reason repeats what was sent.
        raise errors.InvalidFormatError(f"{_MEMBERS['format'].rule}.", member="format")
    strict_json.check_members(body, _MEMBERS)
    return request
