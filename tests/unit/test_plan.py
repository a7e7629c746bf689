"""The plan of a merge keeps S3's limits for any batches.

The limits are repeated here, so that a wrong constant in the code fails, too.
"""

import random
import tracemalloc
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from uploads.batch import StoredBatch
from uploads.formats import Format
from uploads.merging.parts import Part, last_part, plan_parts, plan_shares

MIB = 2**20
SMALLEST_PART = 5 * MIB
LARGEST_PART = 5 * 2**30
MOST_PARTS = 10_000
MOST_BATCHES = 100_000
LARGEST_BATCH = 64 * MIB


def stored(sizes: Sequence[int]) -> list[StoredBatch]:
    return [StoredBatch(seq_num, size, f'"{seq_num}"') for seq_num, size in enumerate(sizes)]


def shape(parts: Sequence[Part]) -> list[tuple[int, bool]]:
    """For each part: how many batches it has, and whether S3 copies it."""
    return [(len(part.batches), part.copied) for part in parts]


def check(batches: list[StoredBatch], parts: list[Part]) -> None:
    assert [batch for part in parts for batch in part.batches] == batches
    assert len(parts) <= MOST_PARTS
    for part in parts:
        assert part.batches
        assert part.size == sum(batch.size for batch in part.batches)
        assert part.size <= LARGEST_PART
        if part.copied:
            assert len(part.batches) == 1
            assert part.size >= SMALLEST_PART
    assert all(part.size >= SMALLEST_PART for part in parts[:-1])


def test_nothing_makes_no_parts() -> None:
    assert plan_parts([]) == []


@given(
    sizes=st.lists(
        st.integers(1, LARGEST_BATCH)
        | st.integers(SMALLEST_PART - 2, SMALLEST_PART + 2)
        | st.integers(1, 100),
        max_size=60,
    )
)
@settings(max_examples=500)
def test_limits_hold_for_few_batches(sizes: list[int]) -> None:
    batches = stored(sizes)
    check(batches, plan_parts(batches))


Draw = Callable[[random.Random], int]
DRAWS: dict[str, Draw] = {
    "one byte": lambda _: 1,
    "the largest": lambda _: LARGEST_BATCH,
    "any": lambda at: at.randint(1, LARGEST_BATCH),
    "any magnitude": lambda at: min(LARGEST_BATCH, 2 ** at.randint(0, 26) + at.randint(0, 3)),
    "just under a part": lambda _: SMALLEST_PART - 1,
    "a part": lambda _: SMALLEST_PART,
    "around a part": lambda at: SMALLEST_PART + at.randint(-1, 1),
    "small or the largest": lambda at: at.choice((1, LARGEST_BATCH)),
    "rarely large": lambda at: LARGEST_BATCH if at.random() < 0.01 else at.randint(1, 1000),
}


@given(
    draw=st.sampled_from(sorted(DRAWS)),
    count=st.integers(1, 15_000),
    seed=st.integers(0, 2**32),
)
@example(draw="any magnitude", count=MOST_BATCHES, seed=0)
@example(draw="any", count=MOST_BATCHES, seed=0)
@example(draw="around a part", count=MOST_BATCHES, seed=0)
@example(draw="the largest", count=MOST_BATCHES, seed=0)
@example(draw="one byte", count=MOST_BATCHES, seed=0)
@example(draw="rarely large", count=MOST_BATCHES, seed=0)
@settings(max_examples=25)
def test_limits_hold_for_many_batches(draw: str, count: int, seed: int) -> None:
    at = random.Random(seed)
    batches = stored([DRAWS[draw](at) for _ in range(count)])
    check(batches, plan_parts(batches))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        pytest.param([1], [(1, False)], id="one byte"),
        pytest.param([1, 1, 1], [(3, False)], id="a few bytes make one part"),
        pytest.param([SMALLEST_PART - 1], [(1, False)], id="a byte less than a part is streamed"),
        pytest.param([SMALLEST_PART], [(1, True)], id="exactly a part is copied"),
        pytest.param([SMALLEST_PART + 1], [(1, True)], id="a byte more than a part is copied"),
        pytest.param([LARGEST_BATCH], [(1, True)], id="the largest batch is copied"),
        pytest.param([SMALLEST_PART] * 3, [(1, True)] * 3, id="large batches are copied each"),
        pytest.param(
            [SMALLEST_PART - 1, SMALLEST_PART],
            [(2, False)],
            id="a run a byte too short takes the large batch along",
        ),
        pytest.param(
            [SMALLEST_PART - 1, 1, SMALLEST_PART],
            [(2, False), (1, True)],
            id="a run that is just long enough stands by itself",
        ),
        pytest.param(
            [SMALLEST_PART - 1, 2, SMALLEST_PART],
            [(2, False), (1, True)],
            id="a run a byte longer stands by itself",
        ),
        pytest.param(
            [SMALLEST_PART, SMALLEST_PART - 1], [(1, True), (1, False)], id="a small last part"
        ),
        pytest.param([SMALLEST_PART, 1], [(1, True), (1, False)], id="a last part of one byte"),
        pytest.param([1, SMALLEST_PART], [(2, False)], id="one byte before a large batch"),
        pytest.param(
            [1, SMALLEST_PART, SMALLEST_PART],
            [(2, False), (1, True)],
            id="one byte before two large batches",
        ),
    ],
)
def test_boundaries(sizes: list[int], expected: list[tuple[int, bool]]) -> None:
    batches = stored(sizes)
    parts = plan_parts(batches)
    check(batches, parts)
    assert shape(parts) == expected


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_limits_hold_around_the_most_parts(off: int) -> None:
    """About as many minimal parts as S3 allows."""
    batches = stored([SMALLEST_PART] * (MOST_PARTS + off))
    check(batches, plan_parts(batches))


@pytest.mark.parametrize("rest", [1, MOST_PARTS - 1, MOST_PARTS, MOST_PARTS + 1])
@pytest.mark.parametrize("each", [1, 2, 9])
def test_a_small_rest_does_not_make_one_part_too_many(each: int, rest: int) -> None:
    """The batches except the last make exactly the maximum number of parts."""
    batches = stored([16 * MIB] * (MOST_PARTS * each) + [rest])
    check(batches, plan_parts(batches))


@pytest.mark.parametrize("size", [SMALLEST_PART - 1, SMALLEST_PART, SMALLEST_PART + 1, 8 * MIB])
def test_the_most_batches_of_about_a_part_fit(size: int) -> None:
    batches = stored([size] * MOST_BATCHES)
    parts = plan_parts(batches)
    check(batches, parts)
    assert len(parts) > MOST_PARTS // 2


def test_small_sessions_are_streamed_in_parts_that_fit_memory() -> None:
    batches = stored([MIB] * 4_000)
    assert all(part.size <= 16 * MIB for part in plan_parts(batches))


def test_a_plan_keeps_gaps_and_etags() -> None:
    """Numbers may have gaps: the plan only uses their order, and passes ETags on."""
    batches = [StoredBatch(7, 3, '"a"'), StoredBatch(9, SMALLEST_PART, '"b"')]
    assert [batch for part in plan_parts(batches) for batch in part.batches] == batches


# --- The parts of a gzip file ---

HEADER = 10
"""Bytes of the header; the trailer has as many."""


def check_gzip(batches: list[StoredBatch], parts: list[Part]) -> None:
    """S3's limits, with a header in the first part and a trailer after the last."""
    assert [batch for part in parts for batch in part.batches] == batches
    last = last_part(parts, Format.NDJSON_GZ)
    assert last <= MOST_PARTS
    for number, part in enumerate(parts, 1):
        header = HEADER if number == 1 else 0
        assert part.batches
        assert part.size == header + sum(batch.size for batch in part.batches)
        assert part.size + HEADER <= LARGEST_PART
        # The first part contains the header, so it cannot be a copy.
        assert not (part.copied and number == 1)
        if part.copied:
            assert len(part.batches) == 1
    if len(parts) > 1:
        # The trailer is the last part, so no other part may be below S3's minimum.
        assert last == len(parts) + 1
        assert all(part.size >= SMALLEST_PART for part in parts)
    else:
        assert last == 1


@given(
    sizes=st.lists(
        st.integers(1, LARGEST_BATCH)
        | st.integers(SMALLEST_PART - 12, SMALLEST_PART + 2)
        | st.integers(1, 100),
        max_size=60,
    )
)
@settings(max_examples=500)
def test_limits_hold_for_a_gzip_file_of_few_batches(sizes: list[int]) -> None:
    batches = stored(sizes)
    check_gzip(batches, plan_parts(batches, Format.NDJSON_GZ))


@pytest.mark.parametrize("draw", DRAWS)
def test_limits_hold_for_a_gzip_file_of_the_most_batches(draw: str) -> None:
    at = random.Random(0)
    batches = stored([DRAWS[draw](at) for _ in range(MOST_BATCHES)])
    check_gzip(batches, plan_parts(batches, Format.NDJSON_GZ))


@pytest.mark.parametrize("off", [-2, -1, 0, 1])
@pytest.mark.parametrize("rest", [[], [1], [SMALLEST_PART - 1]])
def test_limits_hold_for_a_gzip_file_of_about_the_most_parts(off: int, rest: list[int]) -> None:
    batches = stored([SMALLEST_PART] * (MOST_PARTS + off) + rest)
    check_gzip(batches, plan_parts(batches, Format.NDJSON_GZ))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([1], [(1, False)], id="one byte"),
        pytest.param([LARGEST_BATCH], [(1, False)], id="a first batch is never copied"),
        pytest.param([SMALLEST_PART] * 3, [(1, False), (1, True), (1, True)], id="the others are"),
        pytest.param(
            [SMALLEST_PART - HEADER, SMALLEST_PART],
            [(1, False), (1, True)],
            id="with its header the first is just large enough",
        ),
        pytest.param(
            [SMALLEST_PART - HEADER - 1, SMALLEST_PART],
            [(2, False)],
            id="a byte less takes the large batch along",
        ),
        pytest.param(
            [SMALLEST_PART, SMALLEST_PART, 1],
            [(1, False), (2, False)],
            id="a small rest goes with the part before it, which is then not copied",
        ),
        pytest.param(
            [SMALLEST_PART, SMALLEST_PART - 1], [(2, False)], id="so that one part may be left"
        ),
    ],
)
def test_boundaries_of_a_gzip_file(sizes: list[int], expected: list[tuple[int, bool]]) -> None:
    batches = stored(sizes)
    parts = plan_parts(batches, Format.NDJSON_GZ)
    check_gzip(batches, parts)
    assert shape(parts) == expected


# --- The shares of a long merge ---

CHILDREN = 32
"""Minimum number of functions to share a merge, if they can."""
CHILD_SECONDS = 8
"""Maximum seconds of a share, by the plan's estimate."""


def seconds(parts: Sequence[Part]) -> float:
    return sum(part.seconds for part in parts)


def check_shares(parts: list[Part], shared: list[range]) -> None:
    # The shares cover all parts in order, and none is empty.
    assert [index for share in shared for index in share] == list(range(len(parts)))
    assert all(share.step == 1 and len(share) for share in shared)
    most = min(CHILD_SECONDS, seconds(parts) / CHILDREN)
    for share, following in pairwise(shared):
        # With the next part a share would take too long.
        with_next = parts[share.start : following.start + 1]
        assert seconds(with_next) > most - 1e-6
    # Only a share of a single part may take longer.
    taken = [seconds(parts[share.start : share.stop]) for share in shared]
    long = [time for time in taken if time > most + 1e-6]
    assert all(len(share) == 1 for share, time in zip(shared, taken, strict=True) if time in long)
    # The number of the other shares fits the remaining work.
    assert len(shared) - len(long) >= (sum(taken) - sum(long)) / most - 1e-6


@given(
    draw=st.sampled_from(sorted(DRAWS)),
    count=st.integers(1, 15_000),
    seed=st.integers(0, 2**32),
)
@example(draw="any magnitude", count=MOST_BATCHES, seed=0)
@example(draw="the largest", count=MOST_BATCHES, seed=0)
@example(draw="one byte", count=MOST_BATCHES, seed=0)
@settings(max_examples=50)
def test_a_merge_is_shared_out(draw: str, count: int, seed: int) -> None:
    at = random.Random(seed)
    parts = plan_parts(stored([DRAWS[draw](at) for _ in range(count)]))
    check_shares(parts, plan_shares(parts))


@pytest.mark.parametrize("parts", [1, 2, CHILDREN - 1, CHILDREN, CHILDREN + 1, 1_000, MOST_PARTS])
def test_like_parts_are_shared_among_as_many_functions_as_there_can_be(parts: int) -> None:
    shared = plan_shares(plan_parts(stored([SMALLEST_PART] * parts)))
    assert len(shared) >= min(parts, CHILDREN)
    check_shares(plan_parts(stored([SMALLEST_PART] * parts)), shared)


def test_the_largest_plan_fits_the_memory_of_its_function() -> None:
    """100,000 batches of all sizes: memory in addition to their listing."""
    at = random.Random(0)
    batches = stored([DRAWS["any magnitude"](at) for _ in range(MOST_BATCHES)])
    tracemalloc.start()
    try:
        parts = plan_parts(batches)
        shared = plan_shares(parts)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    check(batches, parts)
    check_shares(parts, shared)
    assert peak <= 200 * MIB
