"""Whether a file that is read a second time is still the one that was read first.

The first reading notes the CRC-32 of each block of the file; the second compares each block before
anything of it is handed on. So nothing of an edited file is ever sent, whatever its time says.
"""

import io
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from gapless.errors import FileChangedError

try:
    from isal import isal_zlib
except ImportError:  # no wheel for this platform
    _crc32: Any = zlib.crc32
else:
    _crc32 = isal_zlib.crc32

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK: Final = 1 << 20
"""Bytes."""

_DIGITS: Final = 8


class Blocks(io.RawIOBase):
    """A file, read in whole blocks, of which ``sums`` are the CRC-32 so far.

    ``see`` gets each block. Raises FileChangedError where a block is not the ``expected`` one,
    before anything of it is handed on.
    """

    def __init__(
        self,
        file: io.BufferedIOBase,
        expected: Sequence[int] | None = None,
        see: Callable[[bytes], object] = len,
    ) -> None:
        self._file = file
        self._expected = expected
        self._see = see
        self._block = memoryview(b"")
        self._ended = False
        self.sums: list[int] = []

    def buffered(self) -> io.BufferedReader:
        """The same, with a buffer."""
        return cast("io.BufferedReader", io.BufferedReader(self, BLOCK))

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Some bytes of the block that is read, or of the next."""
        if not self._block and not self._ended:
            self._next()
        room = memoryview(buffer).cast("B")
        size = min(len(room), len(self._block))
        room[:size] = self._block[:size]
        self._block = self._block[size:]
        return size

    def _next(self) -> None:
        block = self._file.read(BLOCK)
        self._ended = len(block) < BLOCK
        number = len(self.sums)
        if block:
            self.sums.append(_crc32(block))
        if self._expected is not None and (
            self.sums[number:] != list(self._expected[number : number + 1])
        ):
            raise FileChangedError("The file has changed since it was read first.")
        self._see(block)
        self._block = memoryview(block)


def packed(sums: Sequence[int]) -> str:
    """Sums as text."""
    return "".join(f"{one:08x}" for one in sums)


def unpacked(text: str) -> list[int]:
    """What ``packed`` was given."""
    return [int(text[i : i + _DIGITS], 16) for i in range(0, len(text), _DIGITS)]
