"""One gzip member from batches that were compressed separately (RFC 1951, RFC 1952). Pure.

A batch is raw DEFLATE that ends in a full flush: at a byte boundary, and later data refers to
nothing before it. So batches can be concatenated, and each can be inflated separately. A merged
object is ``HEADER``, the batches, and a trailer: an empty final block, the CRC-32 and the size of
the content.

It is a single member because many readers silently stop after the first one: browsers and ``curl``
with ``Content-Encoding``, ``zlib.decompress``.
"""

import struct
import zlib
from typing import Final

from isal import isal_zlib

HEADER: Final = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
"""No name, no time, unknown system: the same for every object."""

TRAILER_BYTES: Final = 10

_FINAL_BLOCK: Final = b"\x03\0"
_LEVEL: Final = 1
"""0 to 3 in isal. ``docs/decisions.md`` has measurements."""


def deflate(content: bytes) -> bytes:
    """``content`` as DEFLATE blocks that can be concatenated with others, before or after."""
    made = isal_zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return made.compress(content) + made.flush(zlib.Z_FULL_FLUSH)


def trailer(content_crc32: int, content_size: int) -> bytes:
    """The end of a member whose content has this CRC-32 and size (bytes)."""
    return _FINAL_BLOCK + struct.pack("<II", content_crc32, content_size % 2**32)
