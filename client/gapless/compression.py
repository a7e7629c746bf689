"""gzip and CRC-32: ISA-L if it is installed (several times as fast), else the standard library."""

import gzip
import zlib
from collections.abc import Callable
from typing import Any, Final

try:
    from isal import igzip, isal_zlib
except ImportError:
    compress: Callable[..., bytes] = gzip.compress
    crc32: Callable[..., int] = zlib.crc32
    GzipFile: Callable[..., Any] = gzip.GzipFile
    decompressobj: Callable[..., Any] = zlib.decompressobj
    _inflate_error: Any = zlib.error
else:
    compress, crc32, GzipFile = igzip.compress, isal_zlib.crc32, igzip.IGzipFile
    decompressobj = isal_zlib.decompressobj
    _inflate_error = isal_zlib.error

GZIP_ERRORS: Final = (EOFError, gzip.BadGzipFile, _inflate_error)
"""What reading a damaged or truncated gzip raises."""
