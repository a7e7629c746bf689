"""The listing of a session's batches, read in parallel by ranges, whatever holes there are."""

import os
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from tests.aws import Aws
from tests.conftest import LocalStack
from uploads import limits
from uploads.batch_store import BatchStore, key
from uploads.config import Config
from uploads.wiring import Wiring

MOST = 100_000
BORDERS = [0, 998, 999, 1_000, 1_001, 1_999, 2_000, 9_998, 9_999, 10_000, 10_001, 98_999, 99_999]
"""Where a page ends or begins."""
SMALLER = 100
"""By how much pages, and so all the rest, are smaller where sets are drawn at random."""
SESSION = "1" * 32
BUCKET = "gapless-listing"


@pytest.fixture(scope="module")
def batches(local: LocalStack) -> BatchStore:
    """The store of a bucket of its own."""
    local.s3.create_bucket(Bucket=BUCKET)
    return Wiring(Config.from_env({**os.environ, "BATCHES_BUCKET": BUCKET})).batches


@pytest.fixture(scope="module")
def small_pages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "LIST_PAGE", limits.LIST_PAGE // SMALLER)
        patch.setattr(limits, "MAX_SEQ_NUM", MOST // SMALLER - 1)
        yield


def fill(seq_nums: Iterable[int]) -> None:
    """Let the bucket hold exactly these batches. Thousands of PutObject would take their time."""
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    backend.get_bucket(BUCKET).keys.clear()
    # With those of its neighbours, which must not be shown.
    for session, seq_num in (
        ("0" * 32, MOST - 1),
        *((SESSION, n) for n in seq_nums),
        ("2" * 32, 0),
    ):
        backend.put_object(BUCKET, key(session, seq_num), b"x")


def check(batches: BatchStore, there: set[int], below: int | None) -> None:
    listing = batches.list(SESSION, below)
    expected = [n for n in sorted(there) if below is None or n < below]
    assert [batch.seq_num for batch in listing] == expected
    assert all(batch.size == 1 and batch.etag for batch in listing)


@pytest.mark.parametrize(
    ("there", "requests"),
    [
        pytest.param(set(), 1, id="nothing"),
        pytest.param(set(range(999)), 1, id="999"),
        pytest.param(set(range(1_000)), 10, id="1,000"),
        pytest.param(set(range(1_001)), 10, id="1,001"),
        pytest.param({*range(999), MOST - 1}, 10, id="1,000, the last far away"),
        pytest.param({*range(1_000), *BORDERS}, 10, id="the borders"),
        pytest.param({*range(1_000), *range(9_000, 10_000)}, 100, id="up to 10,000"),
        pytest.param({*range(1_000), *range(9_000, 10_000), *BORDERS}, 100, id="beyond 10,000"),
    ],
)
def test_pages_of_1000(batches: BatchStore, aws: Aws, there: set[int], requests: int) -> None:
    fill(there)
    with aws.recording() as calls:
        check(batches, there, None)
    assert [call.operation for call in calls] == ["ListObjectsV2"] * requests
    with aws.recording() as calls:
        check(batches, there, 2_001)
    assert len(calls) == min(requests, 3)


ANY = st.integers(0, MOST // SMALLER - 1) | st.sampled_from(
    sorted({n // SMALLER + off for n in BORDERS for off in (0, 1)} - {MOST // SMALLER})
)


@pytest.mark.usefixtures("small_pages")
@given(
    full=st.sets(st.sampled_from([0, 0, 1, 8, 9, 9, 10, 50, 99])),
    holes=st.sets(ANY, max_size=3),
    more=st.sets(ANY, max_size=30),
    below=st.none() | st.just(0) | ANY.map(lambda n: n + 1),
)
@example(full={0, 9}, holes=set(), more={100, 500, 999}, below=None)
@example(full={0, 9, 10, 99}, holes=set(), more=set(), below=1_000)
@example(full={0, 9}, holes={95}, more={100, 101, 999}, below=None)
@settings(max_examples=40, derandomize=True)
def test_any_holes(
    batches: BatchStore, full: set[int], holes: set[int], more: set[int], below: int | None
) -> None:
    """Pages of 10 of a session of 1,000: 10 and 100 are what 1,000 and 10,000 are in truth."""
    there = {page * 10 + n for page in full for n in range(10)} - holes | more
    fill(there)
    check(batches, there, below)
