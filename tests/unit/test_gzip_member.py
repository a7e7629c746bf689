"""Batches joined to one gzip member: it is read as a whole, and each batch can be read alone."""

import gzip
import random
import zlib
from collections.abc import Callable
from functools import reduce
from itertools import accumulate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from isal import isal_zlib

from tests.hostile import deflate
from uploads import gzip_member

MOST = 2**26
FLUSHED = b"\0\0\xff\xff"
"""The empty stored block at the end of a flush (RFC 1951, 3.2.4)."""

LINES = st.lists(st.binary(max_size=40).map(lambda line: line + b"\n"), max_size=50)
# Repeated lines, to which a later block could refer back.
CONTENTS = st.lists(st.one_of(LINES.map(b"".join), st.binary(max_size=3).map(lambda b: b * 9000)))


def member(contents: list[bytes]) -> bytes:
    crc32, size = 0, 0
    for content in contents:
        crc32 = isal_zlib.crc32_combine(crc32, zlib.crc32(content), len(content))
        size += len(content)
    batches = map(gzip_member.deflate, contents)
    return b"".join([gzip_member.HEADER, *batches, gzip_member.trailer(crc32, size)])


@given(CONTENTS)
@example([])
@example([b""])
@example([b"", b"a\n", b"", b"a\n"])
def test_it_is_one_member_and_holds_everything(contents: list[bytes]) -> None:
    whole = member(contents)
    found = zlib.decompressobj(31)
    assert found.decompress(whole) == b"".join(contents)
    # Nothing follows the member.
    assert (found.eof, found.unused_data) == (True, b"")
    assert gzip.decompress(whole) == b"".join(contents)


@given(CONTENTS)
def test_each_batch_can_be_inflated_separately(contents: list[bytes]) -> None:
    whole = member(contents)
    lengths = [len(gzip_member.deflate(content)) for content in contents]
    starts = accumulate(lengths, initial=len(gzip_member.HEADER))
    for content, start, length in zip(contents, starts, lengths, strict=False):
        batch = whole[start : start + length]
        assert batch.endswith(FLUSHED)
        assert zlib.decompressobj(-15).decompress(batch) == content


@pytest.mark.parametrize("damaged", [12, -1, -5, -9])
def test_the_member_proves_itself(damaged: int) -> None:
    whole = bytearray(member([b'{"id":1}\n' * 100, b'{"id":2}\n' * 100]))
    whole[damaged] ^= 1
    with pytest.raises((zlib.error, EOFError, gzip.BadGzipFile)):
        gzip.decompress(whole)


@pytest.mark.parametrize(
    ("size", "written"),
    [
        (0, 0),
        (2**32 - 1, 2**32 - 1),
        (2**32, 0),
        (2**32 + 7, 7),
        (5 * 2**40 + 1, 1),
    ],
)
def test_a_size_wraps_around_at_4_gib(size: int, written: int) -> None:
    assert gzip_member.trailer(0x01020304, size) == (
        b"\x03\0\x04\x03\x02\x01" + written.to_bytes(4, "little")
    )


def test_checksums_combine_beyond_4_gib() -> None:
    """The merged object, its content and their parts may have terabytes."""
    zeros = bytes(2**24)
    rounds = 2**32 // len(zeros)
    found = reduce(lambda crc32, _: isal_zlib.crc32(zeros, crc32), range(rounds), 0)
    one = isal_zlib.crc32(b"a")
    behind = isal_zlib.crc32(b"b", isal_zlib.crc32(zeros, found))
    assert isal_zlib.crc32_combine(found, isal_zlib.crc32(zeros + b"b"), len(zeros) + 1) == behind
    # One part is larger than 4 GiB.
    whole = reduce(lambda crc32, _: isal_zlib.crc32(zeros, crc32), range(rounds), one)
    whole = isal_zlib.crc32(b"bb", whole)
    run = isal_zlib.crc32(b"bb", found)
    assert isal_zlib.crc32_combine(one, run, 2**32 + 2) == whole


LEVELS = st.integers(0, 9)
STRATEGIES = st.sampled_from(
    [zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED]
)
FLUSHES = st.sampled_from([zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH])


def packed(content: bytes, *flushes: int, level: int = 6, strategy: int = 0) -> bytes:
    """One member as zlib makes it; each flush is at the end of a piece of the content."""
    made = zlib.compressobj(level, zlib.DEFLATED, 31, 8, strategy)
    size = -(-len(content) // max(1, len(flushes)))
    found = b""
    for at, flush in enumerate(flushes):
        found += made.compress(content[at * size : (at + 1) * size]) + made.flush(flush)
    return found + (b"" if flushes else made.compress(content)) + made.flush()


def require_storable(blocks: bytes, content: bytes) -> None:
    """The blocks hold the content, alone and between any others."""
    alone = zlib.decompressobj(-15)
    assert (alone.decompress(blocks), alone.eof) == (content, False)
    other = gzip_member.deflate(b'{"id":1}\n')
    contents = b"".join([content, content, b'{"id":1}\n', content])
    end = gzip_member.trailer(zlib.crc32(contents), len(contents))
    whole = b"".join([gzip_member.HEADER, blocks, blocks, other, blocks, end])
    for codec in (zlib, isal_zlib):
        found = codec.decompressobj(31)
        assert found.decompress(whole) == contents
        assert (found.eof, found.unused_data) == (True, b"")


@given(CONTENTS, st.lists(FLUSHES, min_size=1, max_size=4), LEVELS, STRATEGIES)
@example([b'{"id":1}\n' * 9_000], [zlib.Z_FULL_FLUSH], 9, zlib.Z_DEFAULT_STRATEGY)
@example([b'{"id":1}\n' * 9_000], [zlib.Z_SYNC_FLUSH] * 3, 1, zlib.Z_FIXED)
@example([b'{"id":1}\n' * 9_000], [zlib.Z_FULL_FLUSH], 1, zlib.Z_HUFFMAN_ONLY)
def test_what_was_flushed_is_stored_as_sent(
    contents: list[bytes], flushes: list[int], level: int, strategy: int
) -> None:
    content = b"".join(contents)
    sent = packed(content, *flushes, level=level, strategy=strategy)
    # After a flush without new data, zlib does not repeat the empty block.
    assert gzip.decompress(sent) == content
    found = gzip_member.blocks_as_sent(sent, MOST)
    assert (found is not None) == (4 * len(sent) <= 3 * len(content))
    if found:
        assert found == (content, sent[10:-10])
        require_storable(found[1], content)


def test_what_isal_flushed_is_stored_as_sent() -> None:
    content = b'{"id":1}\n' * 9_000
    made = isal_zlib.compressobj(1, zlib.DEFLATED, 31)
    sent = made.compress(content) + made.flush(zlib.Z_FULL_FLUSH) + made.flush()
    assert gzip_member.blocks_as_sent(sent, MOST) == (content, sent[10:-10])
    assert sent[10:-10] == gzip_member.deflate(content)


CONTENT = b'{"id":1}\n' * 9_000
GOOD = packed(CONTENT, zlib.Z_FULL_FLUSH)
LEVEL_0 = packed(b"x" * 9_000, zlib.Z_SYNC_FLUSH)[:-10]
STORED = b"\x01\x0a\0\xf5\xff"
"""A final block of ten bytes as they are."""


def of_codes(**options: object) -> bytes:
    codes = {"literals": {0x31: 1, 10: 2, 256: 2}, "distances": [0]} | options
    block = deflate.Huffman(**codes)  # type: ignore[arg-type]
    return deflate.member(block.put(*b"1\n" * 500, 256).flushed(), b"1\n" * 500)


UNSUITABLE: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "only a header": lambda: deflate.HEADER,
    "only its end": lambda: GOOD[-14:],
    "no flush": lambda: packed(CONTENT),
    "no end": lambda: GOOD[:-1],
    "no final block": lambda: GOOD[:-10] + GOOD[-8:],
    "another checksum": lambda: GOOD[:-5] + bytes([GOOD[-5] ^ 1]) + GOOD[-4:],
    "a smaller size": lambda: GOOD[:-4] + (len(CONTENT) - 1).to_bytes(4, "little"),
    "a larger size": lambda: GOOD[:-4] + (len(CONTENT) + 1).to_bytes(4, "little"),
    "two members": lambda: GOOD + GOOD,
    "an empty member before": lambda: packed(b"") + GOOD,
    "an empty member behind": lambda: GOOD + packed(b"", zlib.Z_FULL_FLUSH),
    "a byte behind": lambda: GOOD + b"\0",
    "a name": lambda: GOOD[:3] + b"\x08" + GOOD[4:10] + b"name\0" + GOOD[10:],
    "a checksum of the header": lambda: (
        GOOD[:3] + b"\x02" + GOOD[4:10] + zlib.crc32(GOOD[:3] + b"\x02" + GOOD[4:10]).to_bytes(4)
    ),
    "damaged": lambda: GOOD[:40] + bytes([GOOD[40] ^ 255]) + GOOD[41:],
    "an early end": lambda: packed(CONTENT)[:-8] + GOOD[-14:],
    "hardly compressed": lambda: packed(CONTENT, zlib.Z_FULL_FLUSH, level=0),
    "within the only block": lambda: deflate.unfinished()[0],
    "within a stored block": lambda: deflate.member(
        LEVEL_0[10:] + b"\0\x06\0\xf9\xff" + FLUSHED, b"x" * 9_000 + FLUSHED
    ),
    "within the last, stored block": lambda: deflate.member(
        LEVEL_0[10:] + STORED + b"\n\n\n\n" + FLUSHED, b"x" * 9_000 + b"\n\n\n\n" + FLUSHED
    ),
    "codes that are too few": lambda: of_codes(literals={0x31: 2, 10: 2, 256: 2}),
    "distances that are too few": lambda: of_codes(distances=[2, 2]),
    "one distance that is too long": lambda: of_codes(distances=[2]),
    "steps that are too few": lambda: of_codes(steps={0: 2, 1: 2, 2: 2}),
    "too many distances": lambda: of_codes(distances=[0] * 31),
    "too many literals": lambda: of_codes(literals={0x31: 1, 10: 2, 256: 2, 286: 0}),
}
ACCEPTED_BY_ISAL = {
    "codes that are too few",
    "distances that are too few",
    "one distance that is too long",
    "steps that are too few",
}
"""Otherwise they would not need zlib-ng."""


@pytest.mark.parametrize("made", UNSUITABLE.values(), ids=UNSUITABLE)
def test_nothing_else_is_stored_as_sent(made: Callable[[], bytes]) -> None:
    assert gzip_member.blocks_as_sent(made(), MOST) is None


def test_the_unsuitable_would_be_suitable() -> None:
    assert gzip_member.blocks_as_sent(GOOD, MOST) == (CONTENT, GOOD[10:-10])
    assert gzip_member.blocks_as_sent(GOOD, len(CONTENT))
    assert not gzip_member.blocks_as_sent(GOOD, len(CONTENT) - 1)
    assert gzip_member.blocks_as_sent(of_codes(), MOST)
    unfinished, content = deflate.unfinished()
    assert gzip.decompress(unfinished) == content
    for name in ACCEPTED_BY_ISAL:
        assert isal_zlib.decompress(UNSUITABLE[name](), 31) == b"1\n" * 500
        with pytest.raises(zlib.error):
            zlib.decompress(UNSUITABLE[name](), 31)


@given(st.data())
def test_a_changed_member_is_stored_only_if_it_can_be(data: st.DataObject) -> None:
    """Whatever is changed, and however its checksum fits."""
    sent = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        sent[data.draw(st.integers(0, len(sent) - 9))] ^= data.draw(st.integers(1, 255))
    try:
        content = zlib.decompressobj(-15).decompress(sent[10:-8])
    except zlib.error:
        content = b""
    whole = deflate.member(bytes(sent[10:-10]), content)
    found = gzip_member.blocks_as_sent(bytes(sent[:10]) + whole[10:], MOST)
    if found:
        assert found == (content, bytes(sent[10:-10]))
        require_storable(found[1], content)


def test_content_of_many_pieces() -> None:
    content = bytes(random.Random(1).choices(b"0123456789\n", k=5_000_000))
    sent = packed(content, *[zlib.Z_FULL_FLUSH] * 3)
    assert len(sent) > 2 * 2**20
    assert gzip_member.blocks_as_sent(sent, MOST) == (content, sent[10:-10])
