"""gzip and CRC-32: ISA-L if it is installed (several times as fast), else the standard library."""

import gzip
import zlib
from collections.abc import Callable, Iterable
from typing import Any, Final

try:
    from isal import igzip, isal_zlib
except ImportError:
    compressobj: Callable[..., Any] = zlib.compressobj
    crc32: Callable[..., int] = zlib.crc32
    GzipFile: Callable[..., Any] = gzip.GzipFile
    decompressobj: Callable[..., Any] = zlib.decompressobj
    _inflate_error: Any = zlib.error
else:
    compressobj, crc32, GzipFile = isal_zlib.compressobj, isal_zlib.crc32, igzip.IGzipFile
    decompressobj = isal_zlib.decompressobj
    _inflate_error = isal_zlib.error

GZIP_ERRORS: Final = (EOFError, gzip.BadGzipFile, _inflate_error)
"""What reading a damaged or truncated gzip raises."""


def pack(pieces: Iterable[bytes]) -> bytes:
    """Consecutive ``pieces`` as one gzip member whose blocks the service can store as they are.

    They end in a flush: at a byte boundary, before an empty final block.
    """
    made = compressobj(1, zlib.DEFLATED, 31)
    # Not joined first: a copy of a batch is new memory, which takes longer than copying.
    compressed = [*map(made.compress, pieces)]
    return b"".join([*compressed, made.flush(zlib.Z_FULL_FLUSH), made.flush()])
