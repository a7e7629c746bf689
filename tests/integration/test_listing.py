"""Listing a session's batches in parallel ranges, with any gaps."""

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from threading import Barrier

import pytest
from hypothesis import example, given, settings, target
from hypothesis import strategies as st
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from tests.aws import Answer, AwsProxy, Call
from tests.conftest import MotoStack
from uploads import limits
from uploads.batch_store import BatchStore, key
from uploads.config import Config
from uploads.wiring import Wiring

pytestmark = pytest.mark.slow

MOST = 100_000
BORDERS = [0, 998, 999, 1_000, 1_001, 1_999, 2_000, 9_998, 9_999, 10_000, 10_001, 98_999, 99_999]
"""Numbers around the ends of pages."""
SMALLER = 100
"""Factor by which random sets, and their pages, are smaller."""
SESSION = "1" * 32
BUCKET = "gapless-listing"


@pytest.fixture(scope="module")
def batches(local: MotoStack) -> BatchStore:
    """A store with its own bucket."""
    local.s3.create_bucket(Bucket=BUCKET)
    return Wiring(Config.from_env({**os.environ, "BATCHES_BUCKET": BUCKET})).batches


@pytest.fixture(scope="module")
def small_pages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "LIST_PAGE", limits.LIST_PAGE // SMALLER)
        patch.setattr(limits, "MAX_SEQ_NUM", MOST // SMALLER - 1)
        yield


def fill(bucket: str, session_id: str, seq_nums: Iterable[int]) -> None:
    """Store batches directly in moto, which is faster than PutObject."""
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    for seq_num in seq_nums:
        backend.put_object(bucket, key(session_id, seq_num), b"x")


def refill(seq_nums: Iterable[int]) -> None:
    """Replace the bucket's content by these batches, between other sessions'."""
    s3_backends[DEFAULT_ACCOUNT_ID]["aws"].get_bucket(BUCKET).keys.clear()
    for session, numbers in (("0" * 32, [MOST - 1]), (SESSION, seq_nums), ("2" * 32, [0])):
        fill(BUCKET, session, numbers)


def check(batches: BatchStore, aws: AwsProxy, there: set[int], below: int | None) -> int:
    """Check the listing, and return its number of requests."""
    with aws.recording() as calls:
        listing = batches.list(SESSION, below)
    expected = [n for n in sorted(there) if below is None or n < below]
    assert [batch.seq_num for batch in listing] == expected
    assert all(batch.size == 1 and batch.etag for batch in listing)
    assert {call.operation for call in calls} <= {"ListObjectsV2"}
    assert len(calls) <= 2 * -(-len(expected) // limits.LIST_PAGE) + 2
    return len(calls)


@pytest.mark.parametrize(
    ("there", "requests"),
    [
        pytest.param(set(), 1, id="nothing"),
        pytest.param(set(range(999)), 1, id="999"),
        pytest.param(set(range(1_000)), 3, id="1,000"),
        pytest.param(set(range(1_001)), 3, id="1,001"),
        pytest.param(set(range(9_000, 10_000)), 3, id="1,000, far away"),
        pytest.param({*range(999), MOST - 1}, 1, id="1,000, the last far away"),
        pytest.param(set(range(MOST - 1_000, MOST)), 1, id="the last 1,000"),
        pytest.param(set(range(0, MOST, 100)), 2, id="1,000, evenly spread"),
        pytest.param(set(range(0, MOST, 50)), 3, id="2,000, evenly spread"),
        pytest.param({*range(1_000), *BORDERS}, 3, id="the borders"),
        pytest.param({*range(1_000), *range(9_000, 10_000)}, 5, id="up to 10,000"),
        pytest.param({*range(1_000), *range(9_000, 10_000), *BORDERS}, 7, id="beyond 10,000"),
        pytest.param(set(range(10_000)), 15, id="10,000"),
    ],
)
def test_pages_of_1000(batches: BatchStore, aws: AwsProxy, there: set[int], requests: int) -> None:
    refill(there)
    assert check(batches, aws, there, None) == requests
    assert check(batches, aws, there, 2_001) <= requests
    # If all expected batches are found, no further request looks for more.
    if there == set(range(10_000)):
        assert check(batches, aws, there, 10_000) == 10


@pytest.mark.usefixtures("small_pages")
def test_100_full_pages_are_read_many_at_once(batches: BatchStore, aws: AwsProxy) -> None:
    there = set(range(MOST // SMALLER))
    refill(there)
    meet = Barrier(limits.LISTS_IN_FLIGHT)
    one_by_one = 1 + 2 + 4 + 8

    def wait_for_the_others(_: Call, forward: Callable[[], Answer]) -> Answer:
        # The barrier breaks unless this many requests run at the same time.
        if one_by_one < next(number) <= one_by_one + 5 * limits.LISTS_IN_FLIGHT:
            meet.wait(60)
        return forward()

    number = count(1)
    with aws.handled(wait_for_the_others):
        assert check(batches, aws, there, None) == 100


ANY = st.integers(0, MOST // SMALLER - 1) | st.sampled_from(
    sorted({n // SMALLER + off for n in BORDERS for off in (0, 1)} - {MOST // SMALLER})
)
RUNS = st.lists(
    st.builds(range, ANY, ANY, st.sampled_from([1, 1, 1, 2, 3, 9, 10, 11, 99])), max_size=4
)
"""Ranges of batches, with and without gaps."""


@pytest.mark.usefixtures("small_pages")
@given(runs=RUNS, holes=st.sets(ANY, max_size=3), more=st.sets(ANY, max_size=30), below=st.data())
@example(runs=[range(10), range(90, 100)], holes=set(), more={100, 500, 999}, below=None)
@example(runs=[range(10), range(90, 110), range(990, 1_000)], holes=set(), more=set(), below=None)
@example(runs=[range(10), range(90, 100)], holes={95}, more={100, 101, 999}, below=None)
@example(runs=[range(0, 1_000, 2)], holes=set(), more=set(), below=None)
@settings(max_examples=40, derandomize=True)
def test_any_holes(
    batches: BatchStore,
    aws: AwsProxy,
    runs: list[range],
    holes: set[int],
    more: set[int],
    below: st.DataObject | None,
) -> None:
    """Pages of 10 in sessions of 1,000 stand for 1,000 and 100,000."""
    there = {n for run in runs for n in run} - holes | more
    refill(there)
    # The known end is usually just after the last batch, or a little before.
    ends = [None, 0, *(n + 1 for n in (max(there, default=0), min(there, default=0)))]
    end = below.draw(st.sampled_from(ends) | ANY.map(lambda n: n + 1)) if below else None
    target(float(check(batches, aws, there, end) - 2 * -(-len(there) // limits.LIST_PAGE)))
