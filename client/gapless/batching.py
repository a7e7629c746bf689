"""Divides records into batches.

A first pass over the input makes the plan, before anything is sent. Only the input determines the
batches, so that another process on another machine makes the same ones. If a fixed number of
records per batch is efficient, the session is strict, and its ``batchSize`` reproduces the batches.
"""

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from gapless.compression import crc32
from gapless.errors import InputError
from gapless.readers import MAX_RECORD, Chunk

TARGET_BYTES: Final = 4_000_000
"""Largest batch, bytes of NDJSON, unless a single record is larger. Even if it does not compress,
it fits into a request of 4,500,000 bytes."""

MAX_BATCHES: Final = 100_000
"""Maximum number of batches in a session (docs/protocol.md, Limits)."""

_MAX_OVERHEAD: Final = 4
"""If fixed batches need more than this many times the minimum number, the session is flexible."""

_LEVEL: Final = 6
_GROUP: Final = 2**_LEVEL
"""Number of small records that are counted together."""


@dataclass(frozen=True)
class Plan:
    """The records of an upload, and how they are divided into batches."""

    records: int
    bytes: int
    """Size of the merged NDJSON."""
    crc32: int
    """CRC-32 of the merged NDJSON."""
    batch_size: int | None
    """Records in a batch; None if batches are divided by ``batch_bytes``."""
    batch_bytes: int
    """Largest batch, bytes of NDJSON; a single record may be larger."""

    @property
    def batches(self) -> int | None:
        """Number of batches; None if it is known only after dividing."""
        return None if self.batch_size is None else -(-self.records // self.batch_size)


class BatchSizeFinder:
    """Finds the largest power of two for which every batch fits into ``max_bytes``.

    It needs one pass and little memory, because a run of 2ⁿ records is two runs of 2ⁿ⁻¹.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._waiting: list[int] = []
        """Lengths of the last records, fewer than ``_GROUP``."""
        self._held: list[list[int]] = [[] for _ in range(_LEVEL + 1)]
        """Per level, the sizes of runs that are not combined yet: at most one after ``_add``."""
        self._levels: int | None = None
        """The first level that does not fit; None while all fit."""

    def add(self, lengths: list[int]) -> None:
        """Add the lengths of the next records, in bytes, without line ends."""
        lengths = self._waiting + lengths
        whole = len(lengths) - len(lengths) % _GROUP
        self._waiting = lengths[whole:]
        if sum(lengths) + len(lengths) > self._max_bytes:
            self._add(lengths[:whole], 0)
            return
        # These fit into one batch together: no need to check each.
        self._add([sum(lengths[i : i + _GROUP]) for i in range(0, whole, _GROUP)], _LEVEL)

    def _add(self, lengths: list[int], level: int) -> None:
        while lengths and (self._levels is None or level < self._levels):
            if level == len(self._held):
                self._held.append([])
            lengths = self._held[level] + lengths
            # If all runs together fit into one batch, each of them fits.
            ends = 2**level
            if (
                sum(lengths) + len(lengths) * ends > self._max_bytes
                and max(lengths) + ends > self._max_bytes
            ):
                self._levels = level
                return
            odd = len(lengths) % 2
            self._held[level] = lengths[-1:] if odd else []
            lengths = list(map(operator.add, lengths[: len(lengths) - odd : 2], lengths[1::2]))
            level += 1

    def batch_size(self) -> int:
        """The largest power of two for which every batch fits; 0 if there is none."""
        self._add(self._waiting, 0)
        self._waiting = []
        fitting = tail = 0
        for level, held in enumerate(self._held[: self._levels]):
            if tail > self._max_bytes:
                break
            fitting = 2**level
            tail += sum(held) + len(held) * fitting
        return fitting


def make_plan(
    chunks: Iterable[Chunk],
    *,
    batch_size: int | None = None,
    flexible: bool = False,
    max_bytes: int = TARGET_BYTES,
    max_batches: int = MAX_BATCHES,
) -> Plan:
    """Plan the upload of ``chunks``. Raises InputError if it has more than ``max_batches`` batches.

    For an existing session pass its ``batch_size``, or ``flexible`` if it has none. ``max_bytes``
    is the largest request body that the service accepts.
    """
    records = size = crc = longest = 0
    target = min(TARGET_BYTES, max_bytes)
    finder = BatchSizeFinder(target)
    for chunk in chunks:
        size += len(chunk.lines)
        crc = crc32(chunk.lines, crc)
        records += len(chunk.records)
        lengths = list(map(len, chunk.records))
        longest = max(longest, max(lengths, default=0))
        if batch_size is None and not flexible:
            finder.add(lengths)
    # If there would be too many batches, use larger ones, which may fit when compressed, but no
    # larger than necessary. Every batch but the last is less than one line below the target, and
    # two neighbours together are above it.
    each = -(-size // max(1, max_batches - 1))
    target = max(target, min(each + longest + 1, 2 * each))
    if batch_size is None and not flexible:
        fewest = max(1, -(-size // target))
        found = max(records, 1) if size <= target else finder.batch_size()
        limit = min(max_batches, _MAX_OVERHEAD * fewest + 1)
        batch_size = found if found and -(-records // found) <= limit else None
    if batch_size is not None and -(-records // batch_size) > max_batches:
        raise InputError(f"{records:,} records in batches of {batch_size:,} are too many batches.")
    return Plan(records, size, crc, batch_size, target)


class Batch(NamedTuple):
    """Consecutive pieces of NDJSON; the last ends with a line feed."""

    pieces: Sequence[bytes]
    records: int
    first: int = 0
    """Number of records before it."""

    @property
    def bytes(self) -> int:
        """Bytes of NDJSON."""
        return sum(map(len, self.pieces))


def split(chunks: Iterable[Chunk], plan: Plan) -> Iterator[Batch]:
    """Divide ``chunks`` into batches, in order. Raises InputError."""
    splitter = Splitter(plan.batch_size, plan.batch_bytes)
    for chunk in chunks:
        yield from splitter.add(chunk.lines)
    yield from splitter.end()


class Splitter:
    """Divides NDJSON into batches of ``batch_size`` records or, without it, ``batch_bytes`` bytes.

    Only the records determine the batches, not the pieces in which they arrive.
    """

    def __init__(self, batch_size: int | None = None, batch_bytes: int = TARGET_BYTES) -> None:
        self._size = batch_size
        self._missing = batch_size or 0
        self._max_bytes = batch_bytes
        self._held: list[bytes] = []
        self._bytes = 0
        self._records = 0
        """Number of records in the batches so far."""

    def add(self, lines: bytes) -> Iterator[Batch]:
        """Add the next ``lines``; returns the batches that they complete. Raises InputError."""
        return self._by_bytes(lines) if self._size is None else self._by_count(lines, self._size)

    def end(self) -> Iterator[Batch]:
        """The last batch, if records are left."""
        if any(self._held):
            yield self._batch(self._held, sum(piece.count(b"\n") for piece in self._held))

    def _batch(self, pieces: Sequence[bytes], records: int) -> Batch:
        first, self._records = self._records, self._records + records
        return Batch(pieces, records, first)

    def _by_count(self, lines: bytes, size: int) -> Iterator[Batch]:
        rest = lines
        count = lines.count(b"\n")
        while count >= self._missing:
            left = rest.split(b"\n", self._missing)[-1]
            batch = self._batch([*self._held, rest[: len(rest) - len(left)]], size)
            self._held, rest = [], left
            count, self._missing = count - self._missing, size
            yield batch
        if rest:
            self._held.append(rest)
            self._missing -= count
            self._bytes = sum(map(len, self._held))
            if self._bytes > MAX_RECORD:
                raise InputError(
                    f"{size:,} records are more than {MAX_RECORD:,} bytes, the most that a batch"
                    " may have. Use a smaller --batch-size.",
                    "too_large",
                )

    def _by_bytes(self, lines: bytes) -> Iterator[Batch]:
        self._held.append(lines)
        self._bytes += len(lines)
        if self._bytes <= self._max_bytes:
            return
        held = b"".join(self._held)
        at = 0
        # The rest is not a batch yet: the next lines may belong to it.
        while len(held) - at > self._max_bytes:
            end = held.rfind(b"\n", at, at + self._max_bytes) + 1 or held.find(b"\n", at) + 1
            if not end:
                break
            yield self._batch([held[at:end]], held.count(b"\n", at, end))
            at = end
        rest = held[at:]
        self._held, self._bytes = [rest] if rest else [], len(rest)
