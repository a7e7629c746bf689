"""Inflating the body of a request, within limits of bytes and of CPU time. Pure."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from isal import isal_zlib

from uploads import errors, limits

_GZIP_MAGIC: Final = b"\x1f\x8b"

_FIRST_PIECE_BYTES: Final = 336 * 1024
"""Read first: most bodies whole, and 1 MB of JSON that compresses to a third. Pieces have to be put
together, and blocks that isal takes longest for take 110 ms until they are noticed."""

_PIECE_BYTES: Final = 64 * 1024
"""Read after that."""


@dataclass(frozen=True)
class Allowance:
    """How large a body may be, bytes, and what to do if it is larger."""

    sent: int
    inflated: int
    advice_sent: str
    advice_inflated: str


BATCH_ALLOWANCE: Final = Allowance(
    limits.MAX_BODY_BYTES,
    limits.MAX_INFLATED_BYTES,
    "Send smaller batches, or compress them with gzip.",
    "Send smaller batches.",
)


Meter = Callable[[], float]
"""Seconds of CPU that this thread has taken."""


def no_meter() -> float:
    """Measure nothing: no block is slow."""
    return 0


def inflate(
    compressed: bytes, allowance: Allowance = BATCH_ALLOWANCE, cpu: Meter = no_meter
) -> bytes:
    """The content of one or more gzip members, within ``allowance``.

    Stops at the limit, and as soon as a body has brought too little for its size, so that no body
    costs much more than its content is worth (decompression bombs, thousands of empty members).
    Blocks that isal is slow at, by ``cpu``, are left to zlib, which is slower at all others. Raises
    InvalidGzipError, TruncatedGzipError, or InflatedTooLargeError.
    """
    try:
        return _inflate(compressed, allowance, isal_zlib, cpu)
    except _SlowError:
        return _inflate(compressed, allowance, zlib, no_meter)


class _SlowError(Exception):
    """Inflating takes long for what it brings."""


def _inflate(
    compressed: bytes,
    allowance: Allowance,
    codec: Any,  # noqa: ANN401
    cpu: Meter,
) -> bytes:
    """The same, with a module like zlib. Raises _SlowError."""
    most = allowance.inflated
    view = memoryview(compressed)
    pieces: list[bytes] = []
    size = at = 0
    begun = cpu()
    while at < len(view) or not pieces:
        if not begins_as_gzip(view[at:]):
            raise _no_gzip(
                "there is something else after the end of the gzip"
                if at
                else "it does not begin as gzip does"
            )
        member = codec.decompressobj(wbits=31)
        while not member.eof:
            if at == len(view):
                raise errors.TruncatedGzipError(
                    "The gzip body ends before its checksum. Send it again, whole."
                )
            piece = view[at : at + (_PIECE_BYTES if pieces else _FIRST_PIECE_BYTES)]
            try:
                pieces.append(member.decompress(piece, most + 1 - size))
            except codec.error as error:
                raise _no_gzip(f"it is damaged ({error})") from None
            size += len(pieces[-1])
            at += len(piece) - len(member.unused_data)
            if size > most:
                raise errors.InflatedTooLargeError(
                    f"The body inflates to more than {most} bytes. {allowance.advice_inflated}",
                    limit=most,
                )
            if 8 * (at - limits.MAX_GZIP_OVERHEAD_BYTES) > 9 * size:
                raise _no_gzip("it is larger than what it holds. Compress the JSON as one member")
            if cpu() - begun > limits.INFLATE_SECONDS_PER_BYTE * (size + _FIRST_PIECE_BYTES):
                raise _SlowError
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def begins_as_gzip(compressed: memoryview) -> bool:
    """Whether this may be gzip, as far as its first two bytes tell."""
    return compressed[: len(_GZIP_MAGIC)] == _GZIP_MAGIC[: len(compressed)]


def _no_gzip(reason: str) -> errors.GaplessError:
    return errors.InvalidGzipError(f"Content-Encoding says gzip, but the body is not: {reason}.")
