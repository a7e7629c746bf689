"""What is sent, known before anything is: one pass over the input counts, checks and sums it.

Batches are cut by rules that depend on the input alone, so that another process, on another
machine, cuts the same ones. A session is strict wherever a fixed number of records makes good
batches: then the service's own ``batchSize`` is all that anybody needs to cut them again.
"""

import operator
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from gapless.errors import InputError
from gapless.records import Chunk

try:
    from isal import isal_zlib
except ImportError:  # no wheel for this platform
    _crc32: Any = zlib.crc32
else:
    _crc32 = isal_zlib.crc32

TARGET: Final = 4_000_000
"""Bytes of JSON in a batch, at most, if its records allow: what fits into a request of 4,500,000
bytes whether it compresses or not."""

MAX_BATCHES: Final = 100_000
"""Batches in a session (docs/protocol.md, Limits)."""

_WASTE: Final = 4
"""How many times the fewest batches a strict session may take, before a flexible one is better."""

_LEVEL: Final = 6
_AT_ONCE: Final = 2**_LEVEL
"""Records that are summed at once, where they are small."""

ROOM: Final = 100
"""Bytes of a request around its records: ``{"seqNum":99999,"data":[]}``, generously."""


@dataclass(frozen=True)
class Plan:
    """What is sent, and how it is cut."""

    records: int
    bytes: int
    """Of the NDJSON that the service will merge."""
    crc32: int
    """Of that NDJSON."""
    batch_size: int | None
    """Records in a batch; None where batches are cut by ``batch_bytes``."""
    batch_bytes: int
    """Largest batch, bytes of JSON; a single record may be larger."""

    @property
    def batches(self) -> int | None:
        """How many batches; None where that is known only once they are cut."""
        return None if self.batch_size is None else -(-self.records // self.batch_size)


class Runs:
    """Which of 1, 2, 4, 8 … records make batches that all fit into ``most`` bytes.

    Takes the records once, in little memory: a run of 2ⁿ records is two runs of 2ⁿ⁻¹.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: list[int] = []
        """Fewer records than ``_AT_ONCE``."""
        self._held: list[list[int]] = [[] for _ in range(_LEVEL + 1)]
        """Per level, the one run that waits for its other half."""
        self._levels: int | None = None
        """How many levels fit, once one does not."""

    def add(self, lengths: list[int]) -> None:
        """Take the next records' bytes, without their commas."""
        lengths = self._waiting + lengths
        whole = len(lengths) - len(lengths) % _AT_ONCE
        self._waiting = lengths[whole:]
        if sum(lengths) + len(lengths) > self._most:
            self._add(lengths[:whole], 0)
            return
        # What fits into one batch as a whole need not be looked at record by record.
        self._add([sum(lengths[i : i + _AT_ONCE]) for i in range(0, whole, _AT_ONCE)], _LEVEL)

    def _add(self, lengths: list[int], level: int) -> None:
        """Take runs of a level, and make those of the next."""
        while lengths and (self._levels is None or level < self._levels):
            if level == len(self._held):
                self._held.append([])
            lengths = self._held[level] + lengths
            # Where all of them fit into one batch, none of them needs to be looked at.
            commas = 2**level
            if (
                sum(lengths) + len(lengths) * commas > self._most
                and max(lengths) + commas > self._most
            ):
                self._levels = level
                return
            odd = len(lengths) % 2
            self._held[level] = lengths[-1:] if odd else []
            lengths = list(map(operator.add, lengths[: len(lengths) - odd : 2], lengths[1::2]))
            level += 1

    def batch_size(self) -> int:
        """The largest power of two whose every batch fits, the last one too; 0 if none does."""
        self._add(self._waiting, 0)
        self._waiting = []
        fitting = tail = 0
        for level, held in enumerate(self._held[: self._levels]):
            if tail > self._most:
                break
            fitting = 2**level
            tail += sum(held) + len(held) * fitting
        return fitting


def make(
    chunks: Iterable[Chunk],
    *,
    batch_size: int | None = None,
    flexible: bool = False,
    most_bytes: int = TARGET + ROOM,
    max_batches: int = MAX_BATCHES,
) -> Plan:
    """Plan the upload of ``chunks``. Raises InputError where it is too much for a session.

    ``batch_size``, or ``flexible`` without one, is that of a session that is there already. The
    service takes ``most_bytes`` in a body and ``max_batches`` in a session.
    """
    records = size = crc = 0
    target = min(TARGET, most_bytes - ROOM)
    runs = Runs(target)
    for chunk in chunks:
        size += len(chunk.lines)
        crc = _crc32(chunk.lines, crc)
        records += len(chunk.records)
        if batch_size is None and not flexible:
            runs.add(list(map(len, chunk.records)))
    # Batches are rarely full. Where even full ones would not do, larger ones may, once compressed.
    while size > target * max_batches // 3:
        target *= 2
    if batch_size is None and not flexible:
        fewest = max(1, -(-size // target))
        found = max(records, 1) if size <= target else runs.batch_size()
        most = min(max_batches, _WASTE * fewest + 1)
        batch_size = found if found and -(-records // found) <= most else None
    if batch_size is not None and -(-records // batch_size) > max_batches:
        raise InputError(f"{records:,} records in batches of {batch_size:,} make too many batches.")
    return Plan(records, size, crc, batch_size, target)


class Batch(NamedTuple):
    """Records as pieces of NDJSON; put one after the other they end in a line end."""

    pieces: Sequence[bytes]
    records: int

    @property
    def bytes(self) -> int:
        """Bytes of NDJSON."""
        return sum(map(len, self.pieces))


def cut(chunks: Iterable[Chunk], plan: Plan) -> Iterator[Batch]:
    """The batches, in order."""
    lines = (chunk.lines for chunk in chunks)
    if plan.batch_size is None:
        return _cut_by_bytes(lines, plan.batch_bytes)
    return _cut_by_count(lines, plan.batch_size)


def _cut_by_count(chunks: Iterable[bytes], size: int) -> Iterator[Batch]:
    held: list[bytes] = []
    wanted = size
    for chunk in chunks:
        rest = chunk
        count = chunk.count(b"\n")
        while count >= wanted:
            left = rest.split(b"\n", wanted)[-1]
            held.append(rest[: len(rest) - len(left)])
            yield Batch(held, size)
            held, rest = [], left
            count, wanted = count - wanted, size
        if rest:
            held.append(rest)
            wanted -= count
    if held:
        yield Batch(held, size - wanted)


def _cut_by_bytes(chunks: Iterable[bytes], most: int) -> Iterator[Batch]:
    held = b""
    for chunk in chunks:
        held += chunk
        at = 0
        # What is left must not end a batch early only because nothing more was read yet.
        while len(held) - at > most:
            end = held.rfind(b"\n", at, at + most) + 1 or held.find(b"\n", at) + 1
            if not end:
                break
            yield Batch([held[at:end]], held.count(b"\n", at, end))
            at = end
        held = held[at:]
    if held:
        yield Batch([held], held.count(b"\n"))
