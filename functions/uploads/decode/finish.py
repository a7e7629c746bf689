"""The optional body that finishes a session. Pure."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from uploads import errors, limits
from uploads.decode import strict_json
from uploads.decode.inflate import Allowance
from uploads.decode.strict_json import Member
from uploads.session import NO_TOTALS, Totals


class FinishRequest(Struct):
    """Body of ``POST /api/upload/sessions/{sessionId}/finish``."""

    totalRecord: Annotated[int, Meta(ge=0, le=limits.MAX_INTEGER)] | None = None
    batches: Annotated[int, Meta(ge=0, le=limits.MAX_SEQ_NUM + 1)] | None = None


_ADVICE: Final = "Finishing a session takes no more than totalRecord and batches."
FINISH_ALLOWANCE: Final = Allowance(
    limits.MAX_SESSION_BODY_BYTES, limits.MAX_SESSION_BODY_BYTES, _ADVICE, _ADVICE
)

_DECODER: Final = msgspec.json.Decoder(FinishRequest)
_MEMBERS: Final = {
    "totalRecord": Member(
        errors.InvalidTotalRecordError,
        f"totalRecord must be an integer from 0 to {limits.MAX_INTEGER}, written as plain digits,"
        " or left out",
        is_integer=True,
    ),
    "batches": Member(
        errors.InvalidBatchesError,
        f"batches must be an integer from 0 to {limits.MAX_SEQ_NUM + 1}, written as plain digits,"
        " or left out",
        is_integer=True,
    ),
}


def read_finish_request(body: bytes) -> Totals:
    """The totals stated in ``body``, which may be empty. Raises a GaplessError of status 400."""
    if not body:
        return NO_TOTALS
    request = strict_json.decode(_DECODER, body, _MEMBERS)
    strict_json.check_members(body, _MEMBERS)
    return Totals(request.totalRecord, request.batches)
