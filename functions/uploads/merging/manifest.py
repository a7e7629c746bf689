"""The manifest of a merged object, and the checksums it shares with the result. Pure."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple, Self

import msgspec

from uploads.batch import BatchMetadata, RunTotals, checksum
from uploads.formats import Format
from uploads.session import Session


class _Entry(msgspec.Struct, gc=False, rename="camel"):
    """A batch in a manifest. There may be 100,000, so each must be small."""

    seq_num: int
    records: int
    offset: int
    length: int
    sha256: str
    content_length: int | msgspec.UnsetType
    """Bytes of NDJSON; unset if batches are stored uncompressed."""


class Sums(NamedTuple):
    """The checksums of a merged object, and the size of its content."""

    crc32: str
    """Of the object, in base64 as S3 writes it, like ``content_crc32``."""
    content_bytes: int
    content_crc32: str

    @classmethod
    def of(cls, totals: RunTotals) -> Self:
        """The sums of an object with these totals."""
        return cls(totals.checksum, totals.content_bytes, checksum(totals.content_crc32))

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self:
        """The sums in a manifest's metadata. Older releases wrote only ``crc32``."""
        crc32 = metadata["crc32"]
        size = int(metadata.get("content-bytes", 0))
        return cls(crc32, size, metadata.get("content-crc32", crc32))

    def metadata(self) -> dict[str, str]:
        """The sums as metadata of a manifest."""
        return {
            "crc32": self.crc32,
            "content-bytes": str(self.content_bytes),
            "content-crc32": self.content_crc32,
        }

    def members(self, format_: Format) -> dict[str, object]:
        """The members of manifest and result; ``content`` only if batches are compressed."""
        members: dict[str, object] = {"checksum": _crc32(self.crc32)}
        if format_ is not Format.NDJSON:
            members["content"] = {
                "bytes": self.content_bytes,
                "checksum": _crc32(self.content_crc32),
            }
        return members


def encode(
    session: Session, key: str, batches: Sequence[BatchMetadata], totals: RunTotals
) -> bytes:
    """The manifest of the object ``key`` as JSON; ``totals`` are the whole object's."""
    plain = session.format is Format.NDJSON
    offsets = accumulate((batch.size for batch in batches), initial=len(session.format.header))
    return msgspec.json.encode(
        {
            "sessionId": session.session_id,
            "key": key,
            "metadata": session.metadata,
            "schema": session.schema,
            "records": totals.records,
            "bytes": totals.bytes,
            **Sums.of(totals).members(session.format),
            "batches": [
                _Entry(
                    *(seq_num, batch.records, offset, batch.size, batch.sha256),
                    msgspec.UNSET if plain else batch.content_size,
                )
                for seq_num, (batch, offset) in enumerate(zip(batches, offsets, strict=False))
            ],
        }
    )


def _crc32(value: str) -> dict[str, str]:
    return {"algorithm": "CRC32", "type": "FULL_OBJECT", "value": value}
