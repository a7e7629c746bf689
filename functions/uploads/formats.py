"""The formats of merged objects: how batches are stored, and what is put around them. Pure."""

from enum import StrEnum
from typing import Final

from uploads import gzip_member
from uploads.batch import RunTotals, frame


class Format(StrEnum):
    """A session's format; the values are those of the API, of the table, and the ends of keys.

    The merged object is the format's header, the batches as they are stored, and its trailer.
    """

    NDJSON = "ndjson"
    NDJSON_GZ = "ndjson.gz"

    @property
    def media_type(self) -> str:
        """Of the merged object."""
        return "application/gzip" if self is Format.NDJSON_GZ else "application/x-ndjson"

    @property
    def header(self) -> bytes:
        """What comes before the batches."""
        return gzip_member.HEADER if self is Format.NDJSON_GZ else b""

    @property
    def frame_bytes(self) -> int:
        """The size of header and trailer."""
        return _GZIP_FRAME if self is Format.NDJSON_GZ else 0

    def store(self, ndjson: bytes) -> bytes:
        """A batch as it is stored."""
        return gzip_member.deflate(ndjson) if self is Format.NDJSON_GZ else ndjson

    def trailer(self, batches: RunTotals) -> bytes:
        """What comes after ``batches``, which are all."""
        if self is Format.NDJSON_GZ:
            return gzip_member.trailer(batches.content_crc32, batches.content_bytes)
        return b""

    def whole(self, batches: RunTotals) -> RunTotals:
        """The merged object of ``batches``, which are all."""
        return frame(self.header) + batches + frame(self.trailer(batches))


_GZIP_FRAME: Final = len(gzip_member.HEADER) + gzip_member.TRAILER_BYTES
