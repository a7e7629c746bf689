"""Gaps: ranges of missing batches, and how the API reports them. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice

from uploads import limits

Range = tuple[int, int]
"""First and last ``seqNum`` of a run of batches, both included."""


def missing(present: Iterable[int], expected: int | None) -> Iterator[Range]:
    """Ranges of ``seqNum`` that are not in ``present``, in order.

    ``present`` is strictly ascending, as in a listing. ``expected`` is the number of batches; if it
    is None, nothing after the last batch counts as missing.
    """
    following = 0
    for seq_num in present:
        if seq_num > following:
            yield following, seq_num - 1
        following = seq_num + 1
    if expected is not None and following < expected:
        yield following, expected - 1


def runs(present: Iterable[int]) -> Iterator[Range]:
    """``present``, strictly ascending, as ranges."""
    for _, run in groupby(enumerate(present), lambda at: at[1] - at[0]):
        seq_nums = [seq_num for _, seq_num in run]
        yield seq_nums[0], seq_nums[-1]


def count(ranges: Iterable[Range]) -> int:
    """How many batches there are in ``ranges``."""
    return sum(last - first + 1 for first, last in ranges)


def report(name: str, ranges: Sequence[Range]) -> dict[str, object]:
    """The member ``name`` as the API writes ranges, cut at ``limits.MAX_MISSING_RANGES``."""
    cut = islice(ranges, limits.MAX_MISSING_RANGES)
    member: dict[str, object] = {name: [{"from": first, "to": last} for first, last in cut]}
    if len(ranges) > limits.MAX_MISSING_RANGES:
        member[f"{name}Truncated"] = True
    return member
