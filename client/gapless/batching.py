"""How records are divided into batches: one pass over the input plans it, before any is sent.

The division depends on the input alone, so that another process, on another machine, makes the same
batches. If a fixed number of records makes good batches the session is strict: its ``batchSize`` is
all it takes to make them again.
"""

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from gapless.compression import crc32
from gapless.errors import InputError
from gapless.readers import MAX_RECORD, Chunk

TARGET_BYTES: Final = 4_000_000
"""Largest batch, bytes of NDJSON, unless a single record is larger: it fits into a request of
4,500,000 bytes even if it does not compress."""

MAX_BATCHES: Final = 100_000
"""Batches in a session (docs/protocol.md, Limits)."""

_MAX_OVERHEAD: Final = 4
"""How many times the minimum of batches a strict session may have; beyond, it is flexible."""

_LEVEL: Final = 6
_GROUP: Final = 2**_LEVEL
"""Small records that are counted together."""


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
        """How many batches; None if only dividing them tells."""
        return None if self.batch_size is None else -(-self.records // self.batch_size)


class BatchSizeFinder:
    """Finds the largest of 1, 2, 4, 8 … records for which every batch fits into ``max_bytes``.

    One pass in little memory: a run of 2ⁿ records is two runs of 2ⁿ⁻¹.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._waiting: list[int] = []
        """Lengths of fewer records than ``_GROUP``."""
        self._held: list[list[int]] = [[] for _ in range(_LEVEL + 1)]
        """Per level, the one run without its other half."""
        self._levels: int | None = None
        """How many levels fit, as soon as one does not."""

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
        """Add runs of one level, and combine them into those of the next."""
        while lengths and (self._levels is None or level < self._levels):
            if level == len(self._held):
                self._held.append([])
            lengths = self._held[level] + lengths
            # If all of them fit into one batch, each of them fits.
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
    """Plan the upload of ``chunks``. Raises InputError if a session cannot hold so many batches.

    ``batch_size``, or ``flexible`` if it has none, is that of an existing session. The service
    accepts ``max_bytes`` in a body and ``max_batches`` in a session.
    """
    records = size = crc = longest = 0
    target = min(TARGET_BYTES, max_bytes)
    finder = BatchSizeFinder(target)
    for chunk in chunks:
        size += len(chunk.lines)
        crc = crc32(chunk.lines, crc)
        records += len(chunk.records)
        lengths = list(map(len, chunk.records))
        longest = max(longest, *lengths, 0)
        if batch_size is None and not flexible:
            finder.add(lengths)
    # If there would be too many, larger ones may fit when compressed: no larger than it takes. A
    # batch, but the last, lacks less than a line, and two neighbours have more than the target.
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
    """How many records are before it."""

    @property
    def bytes(self) -> int:
        """Bytes of NDJSON."""
        return sum(map(len, self.pieces))


def split(chunks: Iterable[Chunk], plan: Plan) -> Iterator[Batch]:
    """The batches, in order."""
    splitter = Splitter(plan.batch_size, plan.batch_bytes)
    for chunk in chunks:
        yield from splitter.add(chunk.lines)
    yield from splitter.end()


class Splitter:
    """Divides NDJSON into batches of ``batch_size`` records, or of ``batch_bytes`` without one.

    The division depends on the records alone, not on the pieces in which they come.
    """

    def __init__(self, batch_size: int | None = None, batch_bytes: int = TARGET_BYTES) -> None:
        self._size = batch_size
        self._missing = batch_size or 0
        self._max_bytes = batch_bytes
        self._held: list[bytes] = []
        self._bytes = 0
        self._records = 0
        """How many records are in batches."""

    def add(self, lines: bytes) -> Iterator[Batch]:
        """The batches that ``lines``, the next ones, complete. Raises InputError."""
        return self._by_bytes(lines) if self._size is None else self._by_count(lines, self._size)

    def end(self) -> Iterator[Batch]:
        """The last batch, if there is one."""
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
        # The rest may grow with the next lines: it is no batch yet.
        while len(held) - at > self._max_bytes:
            end = held.rfind(b"\n", at, at + self._max_bytes) + 1 or held.find(b"\n", at) + 1
            if not end:
                break
            yield self._batch([held[at:end]], held.count(b"\n", at, end))
            at = end
        rest = held[at:]
        self._held, self._bytes = [rest] if rest else [], len(rest)
