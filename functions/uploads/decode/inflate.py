"""Inflates the body of a request, within limits of bytes and CPU time. Pure."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from isal import isal_zlib

from uploads import errors, limits

_GZIP_MAGIC: Final = b"\x1f\x8b"

_FIRST_PIECE_BYTES: Final = 336 * 1024
"""Size of the first piece. Most bodies fit, even 1 MB of JSON at a third of its size, and need no
joining. The slowest blocks for isal take 110 ms until they are noticed."""

_PIECE_BYTES: Final = 64 * 1024
"""Size of later pieces."""


@dataclass(frozen=True)
class Allowance:
    """How large a body may be, bytes, and the advice in the error if it is larger."""

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
"""Returns the CPU seconds that this thread has taken."""


def no_meter() -> float:
    """Measure nothing, so no block counts as slow."""
    return 0


def inflate(
    compressed: bytes, allowance: Allowance = BATCH_ALLOWANCE, cpu: Meter = no_meter
) -> bytes:
    """The content of one or more gzip members, within ``allowance``.

    Stops at the limit (decompression bombs), and when a body contains too little for its size
    (thousands of empty members). If ``cpu`` shows that isal is slow, zlib starts over: it is faster
    for a few kinds of blocks, and slower for all others. Raises InvalidGzipError,
    TruncatedGzipError or InflatedTooLargeError.
    """
    try:
        return _inflate(compressed, allowance, isal_zlib, cpu)
    except _SlowError:
        return _inflate(compressed, allowance, zlib, no_meter)


class _SlowError(Exception):
    """Inflating takes too much CPU for its output."""


def _inflate(
    compressed: bytes,
    allowance: Allowance,
    codec: Any,  # noqa: ANN401
    cpu: Meter,
) -> bytes:
    """``inflate`` with a module like zlib. Also raises _SlowError."""
    most = allowance.inflated
    view = memoryview(compressed)
    pieces: list[bytes] = []
    size = at = 0
    begun = cpu()
    while at < len(view) or not pieces:
        if not begins_as_gzip(view[at:]):
            raise _no_gzip(
                "there is other data after the end of the gzip"
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
                raise _no_gzip("it is larger than its content. Compress the JSON as one member")
            if cpu() - begun > limits.INFLATE_SECONDS_PER_BYTE * (size + _FIRST_PIECE_BYTES):
                raise _SlowError
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def begins_as_gzip(compressed: memoryview) -> bool:
    """Whether this may be gzip, by its first two bytes."""
    return compressed[: len(_GZIP_MAGIC)] == _GZIP_MAGIC[: len(compressed)]


def _no_gzip(reason: str) -> errors.GaplessError:
    return errors.InvalidGzipError(f"Content-Encoding says gzip, but the body is not: {reason}.")
