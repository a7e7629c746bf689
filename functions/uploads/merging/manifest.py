"""The manifest of a merged object: what each batch brought, and where it is. Pure."""

from collections.abc import Sequence
from itertools import accumulate

import msgspec

from uploads.batch import BatchMetadata, RunTotals


class _Entry(msgspec.Struct, gc=False, rename="camel"):
    """A batch in a manifest. There may be 100,000, so that each must be small."""

    seq_num: int
    records: int
    offset: int
    length: int
    sha256: str


def encode(session_id: str, key: str, batches: Sequence[BatchMetadata]) -> bytes:
    """The manifest of the object ``key`` that ``batches`` make, as JSON."""
    totals = RunTotals.of(batches)
    offsets = accumulate((batch.size for batch in batches), initial=0)
    return msgspec.json.encode(
        {
            "sessionId": session_id,
            "key": key,
            "records": totals.records,
            "bytes": totals.bytes,
            "checksum": checksum(totals.checksum),
            "batches": [
                _Entry(seq_num, batch.records, offset, batch.size, batch.sha256)
                for seq_num, (batch, offset) in enumerate(zip(batches, offsets, strict=False))
            ],
        }
    )


def checksum(crc32: str) -> dict[str, str]:
    """A merged object's CRC-32 (base64 of 4 big-endian bytes) as the API writes it."""
    return {"algorithm": "CRC32", "type": "FULL_OBJECT", "value": crc32}
