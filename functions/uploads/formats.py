"""The formats of merged objects: how batches are stored, and their header and trailer. Pure."""

from enum import StrEnum
from typing import Final

from uploads import gzip_member
from uploads.batch import Batch, RunTotals, frame


class Format(StrEnum):
    """A session's format, as the API and the table write it, and as the suffix of keys.

    A merged object is the format's header, the batches as stored, and the trailer.
    """

    NDJSON = "ndjson"
    NDJSON_GZ = "ndjson.gz"

    @property
    def media_type(self) -> str:
        """The media type of the merged object."""
        return "application/gzip" if self is Format.NDJSON_GZ else "application/x-ndjson"

    @property
    def header(self) -> bytes:
        """The bytes before the batches."""
        return gzip_member.HEADER if self is Format.NDJSON_GZ else b""

    @property
    def frame_bytes(self) -> int:
        """The size of header and trailer, bytes."""
        return _GZIP_FRAME if self is Format.NDJSON_GZ else 0

    def store(self, batch: Batch) -> bytes:
        """The bytes of a batch as stored."""
        if self is Format.NDJSON_GZ:
            return batch.blocks or gzip_member.deflate(batch.ndjson)
        return batch.ndjson

    def trailer(self, batches: RunTotals) -> bytes:
        """The bytes after the batches, given the totals of all."""
        if self is Format.NDJSON_GZ:
            return gzip_member.trailer(batches.content_crc32, batches.content_bytes)
        return b""

    def whole(self, batches: RunTotals) -> RunTotals:
        """The totals of the merged object, given those of all batches."""
        return frame(self.header) + batches + frame(self.trailer(batches))


_GZIP_FRAME: Final = len(gzip_member.HEADER) + gzip_member.TRAILER_BYTES
