"""One gzip member out of batches that were compressed each by itself (RFC 1951, RFC 1952). Pure.

A batch is raw DEFLATE that ends in a full flush: at a byte, with no reference to what was before.
So batches can be concatenated, and each can be inflated alone. A merged object is ``HEADER``, the
batches, and a trailer: an empty final block, the CRC-32 and the size of the content.

One member, because many readers stop after the first one and say nothing: browsers and ``curl``
with ``Content-Encoding``, ``zlib.decompress``.
"""

import struct
import zlib
from typing import Final

from isal import isal_zlib

HEADER: Final = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
"""No name, no time, an unknown system: the same for every object."""

TRAILER_BYTES: Final = 10

_FINAL_BLOCK: Final = b"\x03\0"
_LEVEL: Final = 1
"""Of 0 to 3. Measured in ``docs/decisions.md``."""


def deflate(content: bytes) -> bytes:
    """``content`` as a run of DEFLATE blocks that is in nobody's way before or after it."""
    made = isal_zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return made.compress(content) + made.flush(zlib.Z_FULL_FLUSH)


def trailer(content_crc32: int, content_size: int) -> bytes:
    """What ends a member whose content has this CRC-32 and so many bytes."""
    return _FINAL_BLOCK + struct.pack("<II", content_crc32, content_size % 2**32)
