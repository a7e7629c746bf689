"""In a local run a merge may take longer than API Gateway waits."""

import threading
import time
from collections.abc import Callable
from itertools import count

import pytest

from local import in_process
from local.gateway import Gateway
from local.template import Template
from tests.api import Api, through_gateway
from tests.aws import Answer, AwsProxy, Call
from tests.conftest import MotoStack

pytestmark = pytest.mark.slow


@pytest.fixture
def hasty(local: MotoStack, monkeypatch: pytest.MonkeyPatch) -> Api:
    """The local API behind a gateway that waits a moment instead of 30 s."""
    monkeypatch.setattr(in_process, "RENEWAL_SECONDS", 0.02)
    routes = in_process.load_gateway(Template.load(in_process.TEMPLATE)).routes
    assert local.gateway.routes.keys() == routes.keys()
    return Api(through_gateway(Gateway(routes, integration_seconds=0.2)))


@pytest.mark.parametrize("batch_size", [None, 1], ids=["flexible", "strict"])
def test_a_merge_that_outlives_the_gateway_and_its_lease_ends(
    api: Api, hasty: Api, aws: AwsProxy, local: MotoStack, batch_size: int | None
) -> None:
    session_id = api.filled([[0], [1], [2]], batch_size)
    storage_answers = threading.Event()

    def slow(call: Call, forward: Callable[[], Answer]) -> Answer:
        if call.operation == "GetObject":
            storage_answers.wait(60)
        return forward()

    with aws.handled(slow):
        assert hasty.finish(session_id).status == 503
        next(_ for _ in count() if local.item(session_id)["state"] == "FINISHING")
        for _ in range(3):
            # As if an AWS invocation's time, and with it the lease, were over.
            past = int(time.time()) - 1
            local.change(session_id, leaseUntil=past)
            renewed = next(_ for _ in count() if local.item(session_id)["leaseUntil"] > past)
            assert renewed is not None
            # The client retries, and no attempt takes the session over.
            assert api.finish(session_id).status == 202
            assert local.item(session_id)["attempt"] == 1
        storage_answers.set()
        polled = (api.finish(session_id) for _ in count())
        result = next(answer for answer in polled if answer.status != 202)
    assert result.json["validationResult"] == "Success"
    assert local.item(session_id)["attempt"] == 1
    assert local.merged(session_id) == b"0\n1\n2\n"


def test_a_local_finish_has_the_time_of_a_long_merge_and_no_longer_lease(
    api: Api, local: MotoStack, aws: AwsProxy
) -> None:
    """If the process is killed, the lease expires after half a minute."""
    (finish,) = (made for key, made in local.gateway.routes.items() if key.endswith("/finish"))
    assert finish.timeout == 12 * 3600
    session_id = api.create(1)
    api.batch(session_id, 0, [0])
    leases: list[int] = []

    def look(call: Call, forward: Callable[[], Answer]) -> Answer:
        if call.operation == "ListObjectsV2":
            leases.append(int(local.item(session_id)["leaseUntil"]))
        return forward()

    with aws.handled(look):
        assert api.finish(session_id).json["validationResult"] == "Success"
    (until,) = leases
    assert until - local.item(session_id)["createdAt"] < 12 * 60
