"""How a merged object is put together: which batches make which part. Pure.

A part is a run of whole batches, or one batch that S3 copies by itself without our reading it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from uploads import limits


class StoredBatch(NamedTuple):
    """A batch as the listing shows it."""

    seq_num: int
    size: int
    """Bytes of NDJSON."""
    etag: str


@dataclass(frozen=True)
class Part:
    """A part of the merged object."""

    batches: Sequence[StoredBatch]
    size: int
    """Bytes."""
    copied: bool
    """True where the part is one batch that S3 copies by itself (UploadPartCopy)."""


def plan(batches: Sequence[StoredBatch]) -> list[Part]:
    """The parts of the object that is the concatenation of ``batches``.

    Every part but the last has at least the smallest size S3 takes, and there are never more than
    10,000: the least size of a part grows with the total, and every part but the last reaches it.
    """
    total = sum(batch.size for batch in batches)
    least = max(limits.MIN_PART_BYTES, -(-total // (limits.MAX_PARTS - 1)))
    enough = max(limits.PART_BYTES, least)
    parts: list[Part] = []
    run: list[StoredBatch] = []
    size = 0

    def close_run() -> None:
        nonlocal run, size
        if run:
            parts.append(Part(run, size, copied=False))
            run, size = [], 0

    for batch in batches:
        # Before a copied batch the run must be able to stand as a part of its own.
        if batch.size >= least and (not run or size >= least):
            close_run()
            parts.append(Part([batch], batch.size, copied=True))
            continue
        run.append(batch)
        size += batch.size
        if size >= enough:
            close_run()
    close_run()
    return parts
