"""A batch as received, listed and described by its metadata; totals of many batches. Pure."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from isal import isal_zlib


@dataclass(frozen=True)
class Batch:
    """A batch that was received and decoded, ready to be stored."""

    seq_num: int
    records: int
    ndjson: bytes
    """One record a line, every line ended by ``\\n``."""
    sha256: str
    """Of ``ndjson``, hexadecimal: batches with the same digest are the same."""
    crc32: int
    """Of ``ndjson``: merging combines these into the checksum of all content."""
    blocks: bytes = b""
    """DEFLATE blocks of ``ndjson``, if it was sent as such; see ``gzip_member``."""

    @classmethod
    def of(cls, seq_num: int, records: int, ndjson: bytes) -> Self:
        """Compute both checksums of ``ndjson``."""
        sha256 = hashlib.sha256(ndjson).hexdigest()
        return cls(seq_num, records, ndjson, sha256, isal_zlib.crc32(ndjson))


class StoredBatch(NamedTuple):
    """A batch as S3's listing shows it."""

    seq_num: int
    size: int
    """Bytes as stored."""
    etag: str


Listing = list[StoredBatch]
"""The batches of a session in ``seqNum`` order."""


def listing_digest(listing: Sequence[StoredBatch]) -> str:
    """SHA-256 over (``seqNum``, ETag, size) of every batch, hexadecimal."""
    lines = (f"{batch.seq_num} {batch.etag} {batch.size}\n" for batch in listing)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class BatchMetadata(NamedTuple):
    """A batch by the metadata of its object."""

    records: int
    size: int
    """Bytes as stored."""
    sha256: str
    """Of the NDJSON, hexadecimal."""
    crc32: int
    """As stored."""
    content_size: int
    """Bytes of NDJSON."""
    content_crc32: int
    """Of the NDJSON."""


@dataclass(frozen=True)
class RunTotals:
    """Totals of consecutive batches, from their metadata."""

    records: int = 0
    bytes: int = 0
    """As stored, like ``crc32``."""
    crc32: int = 0
    content_bytes: int = 0
    """Of NDJSON, like ``content_crc32``."""
    content_crc32: int = 0

    @classmethod
    def of(cls, batches: Iterable[BatchMetadata]) -> Self:
        """The concatenation of ``batches``."""
        # No object for each batch: there may be 100,000.
        records = size = crc32 = content_size = content_crc32 = 0
        for each in batches:
            records += each.records
            size += each.size
            crc32 = isal_zlib.crc32_combine(crc32, each.crc32, each.size)
            content_size += each.content_size
            content_crc32 = isal_zlib.crc32_combine(
                content_crc32, each.content_crc32, each.content_size
            )
        return cls(records, size, crc32, content_size, content_crc32)

    def __add__(self, other: Self) -> Self:
        """The concatenation of both."""
        return type(self)(
            self.records + other.records,
            self.bytes + other.bytes,
            isal_zlib.crc32_combine(self.crc32, other.crc32, other.bytes),
            self.content_bytes + other.content_bytes,
            isal_zlib.crc32_combine(self.content_crc32, other.content_crc32, other.content_bytes),
        )

    @property
    def checksum(self) -> str:
        """The CRC-32 of the stored bytes, as S3 writes it."""
        return checksum(self.crc32)


def frame(stored: bytes) -> RunTotals:
    """The totals of a header or a trailer, which has no content."""
    return RunTotals(bytes=len(stored), crc32=isal_zlib.crc32(stored))


def checksum(crc32: int) -> str:
    """A CRC-32 as S3 writes it: base64 of 4 big-endian bytes."""
    return base64.b64encode(crc32.to_bytes(4, "big")).decode()
