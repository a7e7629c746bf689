"""Gap detection, compared with a plain set, and at its boundaries."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uploads.gaps import count, missing, runs

LAST = 99_999
"""The largest seqNum."""


@pytest.mark.parametrize(
    ("present", "expected", "ranges"),
    [
        pytest.param([], None, [], id="nothing came, number unknown"),
        pytest.param([], 0, [], id="nothing came, nothing was due"),
        pytest.param([], 1, [(0, 0)], id="nothing came, one was due"),
        pytest.param([], 4, [(0, 3)], id="nothing came, some were due"),
        pytest.param([], LAST + 1, [(0, LAST)], id="nothing came, all were due"),
        pytest.param([0], None, [], id="first came, number unknown"),
        pytest.param([0], 1, [], id="the only one came"),
        pytest.param([0], 2, [(1, 1)], id="last of two is missing"),
        pytest.param([1], 2, [(0, 0)], id="first of two is missing"),
        pytest.param([1], None, [(0, 0)], id="hole below the only one, number unknown"),
        pytest.param([0, 1, 2], 3, [], id="whole"),
        pytest.param([0, 1, 2], None, [], id="whole as far as can be known"),
        pytest.param([0, 2], 3, [(1, 1)], id="hole of one"),
        pytest.param([0, 3], 4, [(1, 2)], id="hole of two"),
        pytest.param([0, 1, 2, 6, 7, 8], 10, [(3, 5), (9, 9)], id="hole and tail"),
        pytest.param([0, 1, 2, 6, 7, 8], None, [(3, 5)], id="hole and unknown tail"),
        pytest.param([LAST], None, [(0, LAST - 1)], id="only the last, number unknown"),
        pytest.param([LAST], LAST + 1, [(0, LAST - 1)], id="only the last"),
        pytest.param([0, LAST], LAST + 1, [(1, LAST - 1)], id="only the ends"),
        pytest.param([*range(LAST)], LAST + 1, [(LAST, LAST)], id="only the last is missing"),
        pytest.param([*range(1, LAST + 1)], LAST + 1, [(0, 0)], id="only the first is missing"),
        pytest.param([*range(LAST + 1)], LAST + 1, [], id="all 100,000"),
        pytest.param(
            [*range(1, LAST + 1, 2)],
            LAST + 1,
            [(even, even) for even in range(0, LAST + 1, 2)],
            id="every other one is missing",
        ),
        pytest.param([0, 1, 5], 3, [(2, 4)], id="a batch behind the last due"),
    ],
)
def test_missing(present: list[int], expected: int | None, ranges: list[tuple[int, int]]) -> None:
    assert list(missing(present, expected)) == ranges


@given(
    present=st.sets(st.integers(0, 60)).map(sorted),
    expected=st.none() | st.integers(0, 70),
)
@settings(max_examples=500)
def test_ranges_are_exactly_the_set_difference(present: list[int], expected: int | None) -> None:
    due = max(expected or 0, max(present, default=-1) + 1)
    ranges = list(missing(iter(present), expected))

    assert all(first <= last for first, last in ranges)
    listed = [seq_num for first, last in ranges for seq_num in range(first, last + 1)]
    assert listed == sorted(set(range(due)) - set(present))
    # Ranges never touch: at least one number between two ranges is present.
    assert all(before[1] + 1 < after[0] for before, after in pairwise(ranges))


@given(st.sets(st.integers(0, 60)).map(sorted))
@settings(max_examples=300)
def test_runs_are_what_is_not_missing(present: list[int]) -> None:
    ranges = list(runs(iter(present)))
    assert [at for first, last in ranges for at in range(first, last + 1)] == present
    assert count(ranges) == len(present)
    assert all(before[1] + 1 < after[0] for before, after in pairwise(ranges))
