"""Verifies the merged object and its manifest as they are downloaded. Sends nothing.

An object in the format ``ndjson.gz`` has two checksums: its own, and that of its content, the
NDJSON. Both are always verified.
"""

import base64
from collections.abc import Iterator
from typing import Final

import msgspec

from gapless import compression
from gapless.errors import ChecksumError
from gapless.models import Checksum, Content, Result

_PIECE_BYTES: Final = 1_000_000
"""Largest piece to inflate into: a block of zeros inflates to a thousand times its size."""

_FRAME_BYTES: Final = 10
"""Length of the header before the batches of a compressed object, and of the trailer after them."""


class MergedObject:
    """Verifies the merged object of ``result`` block by block, and inflates it on request."""

    def __init__(self, result: Result, *, inflate: bool) -> None:
        self._result = result
        self._inflate = inflate
        self._inflater = compression.decompressobj(wbits=31) if result.content else None
        self._size = self._crc = 0
        self._content_size = self._content_crc = 0

    def read(self, block: bytes) -> Iterator[bytes]:
        """The bytes to write for the next ``block`` of the object. Raises ChecksumError."""
        self._size += len(block)
        self._crc = compression.crc32(block, self._crc)
        for piece in self._inflated(block):
            self._content_size += len(piece)
            self._content_crc = compression.crc32(piece, self._content_crc)
            if self._inflate:
                yield piece
        if self._inflater is None or not self._inflate:
            yield block

    def verify(self) -> None:
        """Raise ChecksumError unless the bytes read are the complete merged object."""
        _verify(self._result, self._size, self._crc, "The download")
        if self._inflater is not None:
            if not self._inflater.eof or self._inflater.unused_data:
                raise ChecksumError("The download is not one complete gzip member.")
            verify_content(
                self._result, self._content_size, self._content_crc, "The content of the download"
            )

    def _inflated(self, block: bytes) -> Iterator[bytes]:
        if self._inflater is None:
            return
        if self._inflater.eof:
            raise ChecksumError("The download continues after the end of its gzip member.")
        piece = None
        # After a piece of the maximum size there may be more output, even without more input.
        while piece is None or len(piece) == _PIECE_BYTES:
            try:
                piece = self._inflater.decompress(block, _PIECE_BYTES)
            except compression.GZIP_ERRORS as error:
                raise ChecksumError(f"The gzip that was downloaded is damaged: {error}") from None
            block = self._inflater.unconsumed_tail
            if piece:
                yield piece


def verify_content(result: Result, size: int, crc: int, what: str = "The merged object") -> None:
    """Raise ChecksumError unless the merged NDJSON has this size in bytes and this CRC-32."""
    _verify(result.content or result, size, crc, what)


def _verify(expected: Result | Content, size: int, crc: int, what: str) -> None:
    value = base64.b64encode(crc.to_bytes(4, "big")).decode()
    stored = expected.checksum.value if expected.checksum else value
    if (size, value) != (expected.bytes, stored):
        raise ChecksumError(
            f"{what} is not what was sent: the service has {expected.bytes:,} bytes with CRC-32"
            f" {stored}, the client {size:,} bytes with CRC-32 {value}."
        )


class _Entry(msgspec.Struct, frozen=True, rename="camel", gc=False):
    seq_num: int
    records: int
    offset: int
    length: int
    sha256: str
    content_length: int = 0


class _Manifest(msgspec.Struct, frozen=True, rename="camel"):
    session_id: str
    key: str
    records: int
    bytes: int
    checksum: Checksum
    batches: list[_Entry]
    content: Content | None = None


def verify_manifest(manifest: bytes, result: Result) -> None:
    """Raise ChecksumError unless ``manifest`` describes the whole object of ``result``."""
    try:
        found = msgspec.json.decode(manifest, type=_Manifest)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ChecksumError(f"The manifest is damaged: {error}") from None
    described = found.session_id, found.key, found.records, found.bytes
    expected = result.session_id, result.key, result.received_record, result.bytes
    same = (described, found.checksum, found.content) == (expected, result.checksum, result.content)
    frame = _FRAME_BYTES if result.content else 0
    at, records, content = frame, 0, 0
    for number, batch in enumerate(found.batches):
        same = same and (batch.seq_num, batch.offset) == (number, at)
        at += batch.length
        records += batch.records
        content += batch.content_length
    totals = len(found.batches), at + frame, records, content
    size = result.content.bytes if result.content else 0
    if not same or totals != (result.batches, result.bytes, result.received_record, size):
        raise ChecksumError(
            "The manifest does not describe the merged object: it differs from the result of finish"
            f" of session {result.session_id}."
        )
