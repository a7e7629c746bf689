"""Batches joined to one gzip member: it is read as a whole, and each batch can be read alone."""

import gzip
import zlib
from functools import reduce
from itertools import accumulate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from isal import isal_zlib

from uploads import gzip_member

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
