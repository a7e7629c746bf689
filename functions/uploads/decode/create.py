"""The body that creates a session. Pure."""

import re
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

    totalRecord: Annotated[int, Meta(ge=0, le=limits.MAX_INTEGER)] | None
    """None if finish states it."""
    batchSize: Annotated[int, Meta(ge=1, le=limits.MAX_INTEGER)] | None = None
    format: str = Format.NDJSON
    metadata: dict[str, str] = {}
    schema: str | None = None


_ADVICE: Final = (
    "Opening a session takes no more than totalRecord, batchSize, format, metadata and schema."
)
SESSION_ALLOWANCE: Final = Allowance(
    limits.MAX_SESSION_BODY_BYTES, limits.MAX_SESSION_BODY_BYTES, _ADVICE, _ADVICE
)

_DECODER: Final = msgspec.json.Decoder(SessionRequest)
_MEMBERS: Final = {
    "totalRecord": Member(
        errors.InvalidTotalRecordError,
        f"totalRecord must be an integer from 0 to {limits.MAX_INTEGER}, written as plain digits,"
        " or null if finish will state it",
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
    "metadata": Member(
        errors.InvalidMetadataError,
        f"metadata must be an object of at most {limits.MAX_METADATA_MEMBERS} members whose values"
        " are strings, or left out",
        is_object=True,
    ),
    "schema": Member(
        errors.UnknownSchemaError,
        "schema must be the name of a schema that is deployed, or left out",
    ),
}
_NAME: Final = re.compile(r"[a-z0-9_-]{1,64}")
# Control characters, line ends and direction changes. Unassigned characters depend on the version
# of Unicode, and many languages need joiners, so both are allowed.
_NOT_PRINTABLE: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufffe\uffff]"
)


def read_session_request(body: bytes) -> SessionRequest:
    """The request in ``body``. Raises a GaplessError of status 400."""
    request = strict_json.decode(_DECODER, body, _MEMBERS)
    if request.format not in set(Format):
        # msgspec's own reason would repeat what was sent.
        raise errors.InvalidFormatError(f"{_MEMBERS['format'].rule}.", member="format")
    _check_metadata(request.metadata)
    strict_json.check_members(body, _MEMBERS)
    if request.totalRecord is None and request.batchSize is not None:
        raise errors.InvalidBatchSizeError(
            "A session whose totalRecord is null takes batches of any length: leave batchSize out,"
            " or say how many records there are.",
            member="batchSize",
        )
    return request


def _check_metadata(metadata: dict[str, str]) -> None:
    """Raise InvalidMetadataError, which repeats nothing but a valid name."""

    def refuse(rule: str, **members: object) -> errors.GaplessError:
        return errors.InvalidMetadataError(rule, member="metadata", **members)

    if len(metadata) > limits.MAX_METADATA_MEMBERS:
        raise refuse(
            f"{_MEMBERS['metadata'].rule}. It has {len(metadata)}.",
            limit=limits.MAX_METADATA_MEMBERS,
        )
    for name, value in metadata.items():
        if not _NAME.fullmatch(name):
            raise refuse(
                "A name in metadata must have 1 to 64 characters, each a lower-case letter from a"
                " to z, a digit, _ or -."
            )
        if _NOT_PRINTABLE.search(value):
            raise refuse(
                f"The value of {name!r} in metadata must be of printable characters: no control"
                " characters, no line breaks, nothing that changes the direction of text.",
                name=name,
            )
    size = sum(len((name + value).encode()) for name, value in metadata.items())
    if size > limits.MAX_METADATA_BYTES:
        raise refuse(
            f"metadata must have at most {limits.MAX_METADATA_BYTES} bytes of UTF-8, names and"
            f" values together; it has {size}.",
            limit=limits.MAX_METADATA_BYTES,
        )
