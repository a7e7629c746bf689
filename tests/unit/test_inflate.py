"""Inflating gzip: whole and undamaged, within the limit."""

import base64
import gzip
import itertools
import random
import zlib
from collections.abc import Callable

import pytest

from tests.hostile.deflate import spaces
from tests.unit.bodies import MIB, WHOLE, read_body, refusal
from uploads import errors
from uploads.decode.batch_json import read_batch
from uploads.decode.inflate import inflate

MOST_INFLATED = 64 * MIB


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 5])
def test_the_tests_own_gzip_is_right(size: int) -> None:
    assert gzip.decompress(spaces(size)) == b" " * size


PACKED = gzip.compress(WHOLE.encode(), mtime=0)
RICH = (
    # Extra field, file name, comment and header checksum (RFC 1952, 2.3.1).
    b"\x1f\x8b\x08\x1e\0\0\0\0\0\xff\x03\0abcname\0comment\0"
)
RICH += (zlib.crc32(RICH) & 0xFFFF).to_bytes(2, "little") + PACKED[10:]


@pytest.mark.parametrize("packed", [PACKED, RICH], ids=["plain", "rich header"])
def test_gzip_headers(packed: bytes) -> None:
    assert inflate(packed) == WHOLE.encode()


@pytest.mark.parametrize("packed", [PACKED, RICH], ids=["plain", "rich header"])
def test_gzip_truncated_at_every_length(packed: bytes) -> None:
    for length in range(1, len(packed)):
        error = refusal(
            errors.TruncatedGzipError,
            lambda cut=packed[:length]: read_body(cut, content_encoding="gzip"),  # type: ignore[misc]
        )
        assert "Send it again, whole" in error.detail


@pytest.mark.parametrize("length", range(1, len(PACKED)))
def test_a_second_member_truncated_at_every_length(length: int) -> None:
    refusal(errors.TruncatedGzipError, lambda: inflate(PACKED + PACKED[:length]))


def changed(at: int, to: int | None = None) -> bytes:
    damaged = bytearray(PACKED)
    damaged[at] = damaged[at] ^ 0xFF if to is None else to
    return bytes(damaged)


NOT_GZIP, DAMAGED, MORE = "does not begin as gzip", "is damaged", "after the end of the gzip"
INVALID_GZIP = {
    "plain JSON": (WHOLE.encode(), NOT_GZIP),
    "zlib": (zlib.compress(WHOLE.encode()), NOT_GZIP),
    "raw deflate": (PACKED[10:-8], NOT_GZIP),
    "zip": (b"PK\x03\x04" + bytes(40), NOT_GZIP),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(40), NOT_GZIP),
    "gzip in base64": (base64.b64encode(PACKED), NOT_GZIP),
    "wrong magic": (changed(1), NOT_GZIP),
    "one byte": (b"x", NOT_GZIP),
    "unknown method": (changed(2, 7), DAMAGED),
    "reserved block type": (changed(10, 0x07), DAMAGED),
    "damaged checksum": (changed(-8), DAMAGED),
    "damaged length": (changed(-1), DAMAGED),
    "trailing garbage": (PACKED + b"garbage behind the member", MORE),
    "trailing JSON": (PACKED + b'{"seqNum":0,"data":[1]}', MORE),
    "trailing zeros": (PACKED + bytes(512), MORE),
    "two bytes of garbage": (PACKED + b"xx", MORE),
    "one byte of garbage": (PACKED + b"x", MORE),
}


@pytest.mark.parametrize(("body", "says"), INVALID_GZIP.values(), ids=INVALID_GZIP)
def test_invalid_gzip(body: bytes, says: str) -> None:
    error = refusal(errors.InvalidGzipError, lambda: read_body(body, content_encoding="gzip"))
    assert says in error.detail


@pytest.mark.parametrize("at", range(len(PACKED)))
def test_a_damaged_byte_is_never_accepted_as_something_else(at: int) -> None:
    try:
        content = inflate(changed(at))
    except (errors.InvalidGzipError, errors.TruncatedGzipError):
        return
    # Only flags, time and operating system of the header are not checked.
    assert 3 <= at < 10
    assert content == WHOLE.encode()


@pytest.mark.parametrize("cuts", [(0,), (1,), (5, 9), (0, 0, 40), (len(WHOLE),)], ids=str)
def test_several_members_are_one_body(cuts: tuple[int, ...]) -> None:
    body = WHOLE.encode()
    ends = [*cuts, len(body)]
    pieces = [body[start:end] for start, end in zip([0, *cuts], ends, strict=True)]
    assert inflate(b"".join(map(gzip.compress, pieces))) == body


def test_empty_gzip_is_an_empty_body() -> None:
    content = read_body(gzip.compress(b""), content_encoding="gzip")
    assert content == b""
    refusal(errors.EmptyBodyError, lambda: read_batch(content))


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("members", [1, 2])
def test_the_largest_inflated_body(members: int, off: int) -> None:
    half = MOST_INFLATED // 2
    sizes = [MOST_INFLATED + off] if members == 1 else [half, half + off]
    packed = b"".join(map(spaces, sizes))
    if off <= 0:
        content = read_body(packed, content_encoding="gzip")
        assert len(content) == MOST_INFLATED + off
        assert not content.strip()
        return
    error = refusal(
        errors.InflatedTooLargeError, lambda: read_body(packed, content_encoding="gzip")
    )
    assert error.status == 413
    assert error.members == {"limit": MOST_INFLATED}
    assert "Send smaller batches" in error.detail


def test_an_empty_member_behind_the_largest_body_is_fine() -> None:
    packed = spaces(MOST_INFLATED) + gzip.compress(b"")
    assert len(inflate(packed)) == MOST_INFLATED


EMPTY_MEMBER = gzip.compress(b"", mtime=0)
HUNDRED_SPACES = gzip.compress(b" " * 100, mtime=0)
ONE_SPACE = gzip.compress(b" ", mtime=0)


def with_name(length: int) -> bytes:
    """A member with a file name of ``length`` bytes and the content ``WHOLE``."""
    return PACKED[:3] + b"\x08" + PACKED[4:10] + b"n" * length + b"\0" + PACKED[10:]


def blocks(of: bytes, times: int) -> bytes:
    """A member that begins with ``times`` empty blocks."""
    return PACKED[:10] + of * times + PACKED[10:]


# Eight empty blocks of fixed codes: three bits each to begin, seven to end.
EIGHT_FIXED = sum(0b010 << (10 * n) for n in range(8)).to_bytes(10, "little")
STORED = b"\0\0\0\xff\xff"


@pytest.mark.parametrize(
    ("packed", "content"),
    [
        (EMPTY_MEMBER * 3_000, b""),
        (HUNDRED_SPACES * 10_000, b" " * 1_000_000),
        (with_name(65_000), WHOLE.encode()),
        (blocks(STORED, 13_000), WHOLE.encode()),
        (blocks(EIGHT_FIXED, 6_500), WHOLE.encode()),
    ],
    ids=["empty members", "short members", "name", "stored blocks", "fixed blocks"],
)
def test_gzip_may_be_a_little_larger_than_what_it_holds(packed: bytes, content: bytes) -> None:
    assert inflate(packed) == content


@pytest.mark.parametrize(
    "packed",
    [
        EMPTY_MEMBER * 225_000,
        ONE_SPACE * 200_000,
        with_name(4_000_000),
        blocks(STORED, 800_000),
        blocks(EIGHT_FIXED, 400_000),
    ],
    ids=["empty members", "short members", "name", "stored blocks", "fixed blocks"],
)
def test_gzip_that_brings_next_to_nothing_is_not_read_to_its_end(packed: bytes) -> None:
    """Otherwise its CPU per byte could be a hundred times that of other bodies."""
    for sent in (packed, packed[:500_000]):
        error = refusal(errors.InvalidGzipError, lambda sent=sent: inflate(sent))  # type: ignore[misc]
        assert "larger than its content" in error.detail


@pytest.mark.parametrize(
    "packed",
    [
        PACKED,
        PACKED * 3,
        spaces(3 * MIB),
        gzip.compress(random.Random(1).randbytes(1_000_000)),
        blocks(EIGHT_FIXED, 6_500),
        spaces(MOST_INFLATED // 2) * 3,
        EMPTY_MEMBER * 225_000,
        PACKED[:-1],
        PACKED + b"x",
        PACKED + changed(-8),
        PACKED + changed(10, 0x07),
    ],
)
def test_what_is_slow_to_inflate_is_inflated_all_the_same(packed: bytes) -> None:
    def outcome(cpu: Callable[[], float]) -> object:
        try:
            return inflate(packed, cpu=cpu)
        except errors.GaplessError as error:
            return type(error)

    seconds = itertools.count()
    assert outcome(lambda: next(seconds)) == outcome(lambda: 0)
    assert next(seconds) == 2, "isal must stop after the first piece"
