"""Which batches are missing. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from uploads import limits

Range = tuple[int, int]
"""First and last ``seqNum`` of a run of missing batches, both included."""


def missing(present: Iterable[int], expected: int | None) -> Iterator[Range]:
    """Ranges of ``seqNum`` that are not in ``present``, in order.

    ``present`` is strictly ascending, as in a listing. ``expected`` is the number of batches;
    None if it is unknown: then only what lacks below the last batch is a gap, for nothing tells
    what lies behind it.
    """
    following = 0
    for seq_num in present:
        if seq_num > following:
            yield following, seq_num - 1
        following = seq_num + 1
    if expected is not None and following < expected:
        yield following, expected - 1


def report(ranges: Sequence[Range]) -> dict[str, object]:
    """``missing`` as the API writes it, cut at ``limits.MAX_MISSING_RANGES``."""
    cut = islice(ranges, limits.MAX_MISSING_RANGES)
    missing: dict[str, object] = {"missing": [{"from": first, "to": last} for first, last in cut]}
    if len(ranges) > limits.MAX_MISSING_RANGES:
        missing["missingTruncated"] = True
    return missing
