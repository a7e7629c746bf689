"""Detects a file that changed between the two passes over it.

The first pass computes the CRC-32 of each block; the second compares each block before it returns
any of it. So edited content is never sent, even if the modification time is unchanged.
"""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, cast

from gapless.compression import crc32
from gapless.errors import FileChangedError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK: Final = 1 << 20
"""Block size, bytes."""

_DIGITS: Final = 8

CHANGED: Final = "The file has changed since it was read first."


class BlockReader(io.RawIOBase):
    """Reads a file in blocks; ``sums`` are the CRC-32 of the blocks read so far.

    ``see`` is called with each block, whose memory is used again. If the CRC-32 of a block is not
    the ``expected`` one, raises FileChangedError before it returns any of that block.
    """

    def __init__(
        self,
        file: io.BufferedIOBase,
        expected: Sequence[int] | None = None,
        see: Callable[[memoryview], object] = len,
    ) -> None:
        self._file = file
        self._expected = expected
        self._see = see
        self._memory = memoryview(bytearray(BLOCK))
        self._block = self._memory[:0]
        self._ended = False
        self.sums: list[int] = []

    def buffered(self) -> io.BufferedReader:
        """The reader, with a buffer."""
        return cast("io.BufferedReader", io.BufferedReader(self, BLOCK))

    def readable(self) -> bool:
        """Always True."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read some bytes of the current block, or of the next."""
        if not self._block and not self._ended:
            self._next()
        target = memoryview(buffer).cast("B")
        size = min(len(target), len(self._block))
        target[:size] = self._block[:size]
        self._block = self._block[size:]
        return size

    def _next(self) -> None:
        block = self._memory[: self._file.readinto(self._memory)]
        self._ended = len(block) < BLOCK
        number = len(self.sums)
        if block:
            self.sums.append(crc32(block))
        if self._expected is not None and (
            self.sums[number:] != list(self._expected[number : number + 1])
        ):
            raise FileChangedError(CHANGED)
        self._see(block)
        self._block = block


def pack(sums: Sequence[int]) -> str:
    """Sums as hexadecimal text."""
    return "".join(f"{crc:08x}" for crc in sums)


def unpack(text: str) -> list[int]:
    """The reverse of ``pack``."""
    return [int(text[i : i + _DIGITS], 16) for i in range(0, len(text), _DIGITS)]
