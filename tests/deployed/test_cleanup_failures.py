"""A clean-up that fails on a deployed stack is reported, and can be repeated."""

from collections.abc import Iterator

import pytest

from tests.api import Api
from tests.conftest import Stack
from tests.deployed.failing import allow, denied, failure, with_retries


def aborted(api: Api) -> str:
    session_id = api.create(1)
    assert api.batch(session_id, 0, [0]).status == 204
    assert api.abort(session_id).status == 204
    return session_id


@pytest.fixture
def _without_permission(api: Api, stack: Stack) -> Iterator[None]:
    """Deny listing to the clean-up, with three attempts instead of a hundred."""
    with with_retries(2, "Cleanup"):
        # Finish the sessions of other tests first: their records would be retried a hundred times.
        assert stack.cleaned_up(aborted(api)) == (0, 0)
        with denied("s3:ListBucket", "Cleanup"):
            yield


@pytest.mark.usefixtures("_without_permission")
def test_a_clean_up_that_fails_for_good_is_reported(api: Api, stack: Stack) -> None:
    session_id = aborted(api)
    told = failure("Cleanup")
    assert told["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert told["DDBStreamBatchInfo"]["batchSize"] == 1
    assert stack.left(session_id) == (1, 0)
    # Repaired as the runbook says: any change of the item triggers a clean-up.
    allow("Cleanup")
    stack.change(session_id, cleanedAgain=1)
    assert stack.cleaned_up(session_id) == (0, 0)
