"""One gzip member from batches that were compressed separately (RFC 1951, RFC 1952). Pure.

A batch is raw DEFLATE that ends in a flush: with a whole block, at a byte boundary. Later data
refers to nothing before it. So batches can be concatenated, and each can be inflated separately. A
merged object is ``HEADER``, the batches, and a trailer: an empty final block, the CRC-32 and the
size of the content. A batch that was sent as such a member is stored as its blocks.

It is a single member because many readers silently stop after the first one: browsers and ``curl``
with ``Content-Encoding``, ``zlib.decompress``.
"""

import struct
import zlib
from typing import Any, Final

from isal import isal_zlib

HEADER: Final = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
"""No name, no time, unknown system: the same for every object."""

TRAILER_BYTES: Final = 10

_PLAIN_HEADER: Final = b"\x1f\x8b\x08\0"
"""The fixed bytes of a header without name, comment, extra field or checksum."""
_FLUSHED: Final = b"\0\0\xff\xff"
"""How a flush ends: an empty stored block, except for the 3 bits that begin it."""
_FINAL_BLOCK: Final = b"\x03\0"
_WORTH_STORING: Final = 0.75
"""Blocks that are larger, as a share of their content, were hardly compressed."""

_EMPTY_BLOCKS: Final = b"\0\0\0\xff\xff" * 130
"""More bytes than the longest header of a block (14 + 57 + 316 * 14 bits) and a symbol (48)."""

_PIECE_BYTES: Final = 3 * 2**19
"""Compressed bytes that are inflated in one step. After each they must have brought their size, so
that blocks without content are noticed. Most bodies are one piece, and need no joining."""

_LEVEL: Final = 1
"""0 to 3 in isal. ``docs/decisions.md`` has measurements."""


def deflate(content: bytes) -> bytes:
    """``content`` as DEFLATE blocks that can be concatenated with others, before or after."""
    made = isal_zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return made.compress(content) + made.flush(zlib.Z_FULL_FLUSH)


def trailer(content_crc32: int, content_size: int) -> bytes:
    """The end of a member whose content has this CRC-32 and size (bytes)."""
    return _FINAL_BLOCK + struct.pack("<II", content_crc32, content_size % 2**32)


def blocks_as_sent(compressed: bytes, most: int) -> tuple[bytes, bytes] | None:
    """The content of a gzip member, and its blocks; None unless they can be stored as they are.

    They can if they end in a flush, before an empty final block. ``most`` bounds the content,
    bytes. Nothing is known of a body for which this returns None: it may be damaged.
    """
    size = int.from_bytes(compressed[-4:], "little")
    if not (
        compressed.startswith(_PLAIN_HEADER)
        and compressed[-TRAILER_BYTES - len(_FLUSHED) : -8] == _FLUSHED + _FINAL_BLOCK
        and len(compressed) <= _WORTH_STORING * size
        and size <= most
    ):
        return None
    # Other readers must be able to read the blocks. isal inflates some that zlib refuses
    # (incomplete Huffman codes); zlib-ng refuses the same as zlib.
    from zlib_ng import zlib_ng  # noqa: PLC0415 - few functions need it

    # Its stubs lack ``copy``.
    codec: Any = zlib_ng
    member = codec.decompressobj(31)
    before_end = memoryview(compressed)[:-TRAILER_BYTES]
    pieces: list[bytes] = []
    room = size + 1
    try:
        for at in range(0, len(before_end), _PIECE_BYTES):
            pieces.append(member.decompress(before_end[at : at + _PIECE_BYTES], room))
            room -= len(pieces[-1])
            if room <= 0 or size - room < at:
                return None
        # Only between blocks, at a byte boundary, can both follow: nothing but empty blocks, and
        # the end. Inside a block that is not the last, two bytes cannot end it and begin and end
        # another. Inside the last one, that many bytes make a symbol: content, or the end.
        other = member.copy()
        goes_on = not other.decompress(_EMPTY_BLOCKS) and not other.eof
        ends = not member.decompress(compressed[-TRAILER_BYTES:]) and member.eof
    except codec.error:
        return None
    if member.unused_data or not (goes_on and ends):
        return None
    content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    return content, compressed[len(HEADER) : -TRAILER_BYTES]
