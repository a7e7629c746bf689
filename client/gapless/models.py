"""The service's responses as immutable data (openapi.yaml). Imports only ``errors``."""

from datetime import datetime
from typing import Any

import msgspec

from gapless.errors import IncompleteError


class Limits(msgspec.Struct, frozen=True, rename="camel"):
    """Limits of a batch and of a session; the defaults are those in docs/protocol.md."""

    max_body_bytes: int = 4_500_000
    max_inflated_bytes: int = 64 * 1024 * 1024
    max_seq_num: int = 99_999


class Range(msgspec.Struct, frozen=True):
    """Consecutive ``seqNum``, both ends included."""

    first: int = msgspec.field(name="from")
    last: int = msgspec.field(name="to")

    def __len__(self) -> int:
        return self.last - self.first + 1


class Checksum(msgspec.Struct, frozen=True):
    """Checksum of the whole merged object; ``value`` is base64."""

    algorithm: str
    type: str
    value: str


class Content(msgspec.Struct, frozen=True):
    """Size in bytes and checksum of the NDJSON in a compressed merged object."""

    bytes: int
    checksum: Checksum


class Result(msgspec.Struct, frozen=True, rename="camel"):
    """The result of finish (openapi.yaml: FinishSuccess and FinishFailed)."""

    session_id: str
    validation_result: str
    reason: str = ""
    detail: str = ""
    missing: list[Range] = []
    unexpected: list[Range] = []
    """Stored batches beyond the number of batches in the finish request."""
    expected_batches: int | None = None
    """The number of batches in the finish request, if finish failed."""
    missing_truncated: bool = False
    total_record: int = 0
    received_record: int | None = None
    batches: int = 0
    bytes: int = 0
    key: str = ""
    manifest: str = ""
    checksum: Checksum | None = None
    content: Content | None = None
    """The NDJSON in the object if its format is ``ndjson.gz``; ``bytes`` and ``checksum`` are those
    of the stored object."""
    reading: str = ""
    """How the client read the input; set by ``upload`` and ``resume``."""
    skipped: int = 0
    """Records that the client left out (``skip_invalid``); set by ``upload`` and ``resume``."""

    @property
    def ok(self) -> bool:
        """Whether the merged object exists and is complete."""
        return self.validation_result == "Success"

    def incomplete(self) -> IncompleteError:
        """The error for a result that is not ``ok``."""
        return IncompleteError(
            self.reason, self.detail, [(gap.first, gap.last) for gap in self.missing]
        )


class Merge(msgspec.Struct, frozen=True):
    """Progress of a long merge, in parts."""

    parts: int
    done: int


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """What is stored, what is missing, and the last result of finish."""

    session_id: str
    state: str
    total_record: int | None
    """None if it is unknown until finish."""
    batch_size: int | None
    expires_at: datetime
    batches: int
    missing: list[Range]
    missing_truncated: bool = False
    finish: Result | None = None
    merge: Merge | None = None
    format: str = "ndjson"
    """The format of the merged object."""
    metadata: dict[str, str] = {}
    schema: str | None = None
    file_deleted_at: datetime | None = None


class Listed(msgspec.Struct, frozen=True, rename="camel"):
    """A session in the list, without information about its batches."""

    session_id: str
    state: str
    created_at: datetime
    expires_at: datetime
    total_record: int | None
    batch_size: int | None
    format: str = "ndjson"
    metadata: dict[str, str] = {}
    schema: str | None = None
    file_deleted_at: datetime | None = None


class Page(msgspec.Struct, frozen=True):
    """A page of the list; ``cursor`` requests the next page and is None on the last."""

    sessions: list[Listed]
    cursor: str | None


class Created(msgspec.Struct, frozen=True, rename="camel"):
    """A new session."""

    session_id: str
    expires_at: datetime
    limits: Limits


class Link(msgspec.Struct, frozen=True):
    """A presigned URL."""

    url: str


def as_json(model: Result | Status | Listed) -> dict[str, Any]:
    """``model`` as JSON members, without optional members that are empty."""
    members: dict[str, Any] = msgspec.to_builtins(model)
    for result in (members, members.get("finish") or {}):
        for name in ("reading", "skipped", "content", "unexpected", "expectedBatches"):
            if result.get(name, True) in ("", None, [], 0):
                del result[name]
    return members
