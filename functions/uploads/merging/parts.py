"""How a merged object is put together: which batches make which part, and who makes it. Pure.

A part is a run of whole batches, or one batch that S3 copies by itself without our reading it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from uploads import limits
from uploads.batch import StoredBatch
from uploads.formats import Format

_HALVINGS: Final = 10
"""After so many, no share has more than one part."""


@dataclass(frozen=True)
class Part:
    """A part of the merged object."""

    batches: Sequence[StoredBatch]
    size: int
    """Bytes; in the first part the format's header is counted."""
    copied: bool
    """True where the part is one batch that S3 copies by itself (UploadPartCopy)."""

    @property
    def seconds(self) -> float:
        """How long one function takes for it, amid others, at most; an estimate."""
        if self.copied:
            return limits.COPY_SECONDS
        return len(self.batches) / limits.READS_PER_SECOND + self.size / limits.BYTES_PER_SECOND


def plan_parts(batches: Sequence[StoredBatch], format_: Format = Format.NDJSON) -> list[Part]:
    """The parts of the merged object of ``batches``, without one for its trailer alone.

    Every part but the last has at least the smallest size S3 takes, and there are never more than
    10,000: the least size of a part grows with the total, and every part but the last reaches it.
    If a trailer follows (``last_part``), every part of several does.
    """
    total = sum(batch.size for batch in batches) + format_.frame_bytes
    min_part = max(limits.MIN_PART_BYTES, -(-total // (limits.MAX_PARTS - 1)))
    target_part = max(limits.PART_BYTES, min_part)
    parts: list[Part] = []
    run: list[StoredBatch] = []
    # The header makes the first part one that is streamed: what S3 copies has none.
    size = len(format_.header)

    def close_run() -> None:
        nonlocal run, size
        if run:
            parts.append(Part(run, size, copied=False))
            run, size = [], 0

    for batch in batches:
        # Before a copied batch the run must be able to stand as a part of its own.
        if batch.size >= min_part and (not size or size >= min_part):
            close_run()
            parts.append(Part([batch], batch.size, copied=True))
            continue
        run.append(batch)
        size += batch.size
        if size >= target_part:
            close_run()
    if run and parts and size < min_part and format_.frame_bytes:
        # The trailer comes after it, so that it is not the last part.
        before = parts.pop()
        run, size = [*before.batches, *run], before.size + size
    close_run()
    return parts


def last_part(parts: Sequence[Part], format_: Format) -> int:
    """The number of the object's last part.

    A trailer is a part by itself, unless one part holds all: it could be too small before it.
    """
    return max(1, len(parts)) + (format_.frame_bytes > 0 and len(parts) > 1)


def max_concurrency(parts: Sequence[Part]) -> int:
    """How many functions may compose ``parts`` at a time, for S3 to keep up with their reads."""
    reads = sum(len(part.batches) for part in parts)
    seconds = sum(part.seconds for part in parts)
    fit = int(limits.PREFIX_READS_PER_SECOND * seconds / reads) if reads else 1
    return max(1, min(limits.CHILDREN_AT_ONCE, fit))


def plan_shares(parts: Sequence[Part], died: int = 0) -> list[range]:
    """``parts`` in runs of about the same time for as many functions: their indexes.

    ``died`` is how many attempts have come to no end: after each, a function gets half as much, for
    all is slower here than the estimates say.
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
