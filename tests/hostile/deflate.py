"""DEFLATE streams that no compressor makes, written bit by bit."""

import zlib
from functools import cache
from typing import Final

from isal import isal_zlib

MIB: Final = 2**20
HEADER: Final = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
FLUSHED: Final = b"\0\0\0\xff\xff"
"""An empty stored block at a byte boundary."""


def packed(content: bytes) -> bytes:
    """One gzip member, compressed at the fastest level, and flushed: it may be stored as sent."""
    packer = isal_zlib.compressobj(1, isal_zlib.DEFLATED, 31)
    return packer.compress(content) + packer.flush(zlib.Z_FULL_FLUSH) + packer.flush()


@cache
def spaces(size: int) -> bytes:
    """One gzip member of ``size`` spaces: one compressed MiB, repeated, and the remainder."""
    mib = b" " * MIB
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(mib) + packer.flush(zlib.Z_FULL_FLUSH)
    whole, rest = divmod(size, MIB)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    last = packer.compress(mib[:rest]) + packer.flush()
    crc = 0
    for _ in range(whole):
        crc = isal_zlib.crc32(mib, crc)
    crc = isal_zlib.crc32(mib[:rest], crc)
    end = crc.to_bytes(4, "little") + (size % 2**32).to_bytes(4, "little")
    return HEADER + block * whole + last + end


def bomb(mib: int) -> bytes:
    return spaces(mib * MIB)


class _Bits:
    """A bit stream, least significant bit first."""

    def __init__(self) -> None:
        self.value = self.count = 0

    def put(self, value: int, count: int) -> None:
        self.value |= value << self.count
        self.count += count

    def code(self, code: int, count: int) -> None:
        """Append a Huffman code, most significant bit first."""
        for place in reversed(range(count)):
            self.put(code >> place & 1, 1)

    def whole(self) -> bytes:
        """The bits, and zeros up to a byte."""
        return self.value.to_bytes(-(-self.count // 8), "little")

    def repeated(self, size: int) -> bytes:
        """The bits repeated to at most ``size`` bytes."""
        period = self.value
        count = self.count
        while count % 8:
            period |= self.value << count
            count += self.count
        return period.to_bytes(count // 8, "little") * (size // (count // 8))


def fixed_blocks(size: int, literals: bytes = b"") -> bytes:
    """``size`` bytes of fixed-Huffman blocks; each holds ``literals`` and nothing else."""
    bits = _Bits()
    bits.put(0b010, 3)
    for literal in literals:
        bits.code(0x30 + literal, 8)  # below 144
    bits.code(0, 7)
    return HEADER + bits.repeated(size)


def dynamic_blocks(size: int) -> bytes:
    """``size`` bytes of empty blocks, each with its own Huffman tables of 286 codes."""
    bits = _Bits()
    bits.put(0b100, 3)
    bits.put(286 - 257, 5)
    bits.put(1, 5)
    # Code length codes: 1 bit for "repeat", 2 bits for 8, 3 bits for 9 and 1.
    lengths = {16: 1, 8: 2, 9: 3, 1: 3}
    order = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1]
    bits.put(len(order) - 4, 4)
    for symbol in order:
        bits.put(lengths.get(symbol, 0), 3)
    codes = {16: (0b0, 1), 8: (0b10, 2), 1: (0b110, 3), 9: (0b111, 3)}

    def again(symbol: int, times: int) -> None:
        bits.code(*codes[symbol])
        left = times - 1
        while left >= 3:
            some = min(left, 6)
            bits.code(*codes[16])
            bits.put(some - 3, 2)
            left -= some
        for _ in range(left):
            bits.code(*codes[symbol])

    again(8, 226)
    again(9, 60)
    again(1, 2)
    # End of block is symbol 256, the 31st with 9 bits.
    bits.code((226 << 1) + 256 - 226, 9)
    return HEADER + bits.repeated(size)


def _codes(lengths: list[int]) -> list[tuple[int, int]]:
    """The canonical code of each symbol, and its length (RFC 1951, 3.2.2)."""
    found: list[tuple[int, int]] = [(0, 0)] * len(lengths)
    code = 0
    for length in range(1, 16):
        for symbol in (at for at, each in enumerate(lengths) if each == length):
            found[symbol] = (code, length)
            code += 1
        code <<= 1
    return found


class Huffman:
    """A dynamic block with the given code lengths, which need not make sense."""

    def __init__(
        self,
        literals: dict[int, int],
        distances: list[int],
        *,
        final: bool = False,
        steps: dict[int, int] | None = None,
    ) -> None:
        """``steps`` are the lengths of the codes for code lengths, 4 for each by default."""
        lengths = [literals.get(symbol, 0) for symbol in range(max(257, *literals) + 1)]
        steps = steps or dict.fromkeys(range(16), 4)
        self.bits = bits = _Bits()
        bits.put(int(final) | 0b100, 3)
        bits.put(len(lengths) - 257, 5)
        bits.put(len(distances) - 1, 5)
        bits.put(15, 4)
        for symbol in [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]:
            bits.put(steps.get(symbol, 0), 3)
        codes = _codes([steps.get(symbol, 0) for symbol in range(19)])
        for length in lengths + distances:
            bits.code(*codes[length])
        self._literals = _codes(lengths)

    def put(self, *symbols: int) -> "Huffman":
        """Append literals, or the end of the block (256)."""
        for symbol in symbols:
            self.bits.code(*self._literals[symbol])
        return self

    def flushed(self) -> bytes:
        """The block, and the empty stored block of a flush."""
        self.bits.put(0, 3)
        return self.bits.whole() + b"\0\0\xff\xff"


def member(blocks: bytes, content: bytes) -> bytes:
    """A gzip member of ``blocks`` and an empty final block, with the checksum of ``content``."""
    end = zlib.crc32(content).to_bytes(4, "little") + len(content).to_bytes(4, "little")
    return HEADER + blocks + b"\x03\0" + end


def unfinished() -> tuple[bytes, bytes]:
    """A member that seems to end in a flush, but is within its only block; and its content.

    What would follow the flush is read by the codes of this block: ``0000ffff`` is 16 times a code
    of one bit, one of 13 ones, and the first 3 bits of the block's end, which ``0300`` completes.
    """
    # All codes that begin with five ones: the end is the first of those with 12 bits.
    literals = {0x41: 1, 0x42: 2, 0x43: 3, 0x44: 4, 0x45: 5}
    literals |= dict.fromkeys(range(256, 286), 12) | dict.fromkeys(range(0x46, 0x46 + 186), 13)
    literals |= dict.fromkeys(range(10), 13)
    block = Huffman(literals, [1], final=True)
    content = b"A" * (4_000 - block.bits.count % 8)
    content += b"A" * 16 + b"\xff"
    block.put(*content)
    block.bits.put(0b111, 3)
    return member(block.bits.whole(), content), content
