"""The plan of a merge: which batches make which part, and which parts make which share. Pure.

A part is several whole batches, or one large batch that S3 copies without our reading it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from uploads import limits
from uploads.batch import StoredBatch
from uploads.formats import Format

_HALVINGS: Final = 10
"""After this many, no share has more than one part."""


@dataclass(frozen=True)
class Part:
    """A part of the merged object."""

    batches: Sequence[StoredBatch]
    size: int
    """Bytes; the first part's include the format's header."""
    copied: bool
    """True if S3 copies the part, which is one batch (UploadPartCopy)."""

    @property
    def seconds(self) -> float:
        """Estimate of the time that this part adds to a function's work, at most."""
        if self.copied:
            return limits.COPY_SECONDS
        return len(self.batches) / limits.READS_PER_SECOND + self.size / limits.BYTES_PER_SECOND


def plan_parts(batches: Sequence[StoredBatch], format_: Format = Format.NDJSON) -> list[Part]:
    """The parts of the merged object of ``batches``, without a part for the trailer only.

    Every part but the last reaches the smallest size that S3 takes. That size grows with the total,
    so there are never more than 10,000 parts. If a part for the trailer follows (``last_part``),
    all of them reach it.
    """
    total = sum(batch.size for batch in batches) + format_.frame_bytes
    min_part = max(limits.MIN_PART_BYTES, -(-total // (limits.MAX_PARTS - 1)))
    target_part = max(limits.PART_BYTES, min_part)
    parts: list[Part] = []
    run: list[StoredBatch] = []
    # A header before the first batch: S3 cannot copy such a part.
    size = len(format_.header)

    def close_run() -> None:
        nonlocal run, size
        if run:
            parts.append(Part(run, size, copied=False))
            run, size = [], 0

    for batch in batches:
        # A copied batch ends the run before it, which must be large enough for a part.
        if batch.size >= min_part and (not size or size >= min_part):
            close_run()
            parts.append(Part([batch], batch.size, copied=True))
            continue
        run.append(batch)
        size += batch.size
        if size >= target_part:
            close_run()
    if run and parts and size < min_part and format_.frame_bytes:
        # The part for the trailer follows, so this one would be too small.
        before = parts.pop()
        run, size = [*before.batches, *run], before.size + size
    close_run()
    return parts


def last_part(parts: Sequence[Part], format_: Format) -> int:
    """The number of the object's last part.

    The trailer has a part of its own, except in an object of one part.
    """
    return max(1, len(parts)) + (format_.frame_bytes > 0 and len(parts) > 1)


def max_concurrency(parts: Sequence[Part]) -> int:
    """How many functions may compose ``parts`` concurrently without exceeding S3's read rate."""
    reads = sum(len(part.batches) for part in parts)
    seconds = sum(part.seconds for part in parts)
    fit = int(limits.PREFIX_READS_PER_SECOND * seconds / reads) if reads else 1
    return max(1, min(limits.CHILDREN_AT_ONCE, fit))


def plan_shares(parts: Sequence[Part], died: int = 0) -> list[range]:
    """Divide ``parts`` into shares of about the same time: ranges of indexes.

    ``died`` is how many attempts died. Each halves the shares, because the merge may be slower than
    the estimates.
    """
    total = sum(part.seconds for part in parts)
    most = min(limits.CHILD_SECONDS, total / limits.CHILDREN) / 2 ** min(died, _HALVINGS)
    found: list[range] = []
    first, seconds = 0, 0.0
    for index, part in enumerate(parts):
        if index > first and seconds + part.seconds > most:
            found.append(range(first, index))
            first, seconds = index, 0.0
        seconds += part.seconds
    found.append(range(first, len(parts)))
    return found
