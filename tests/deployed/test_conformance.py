"""The client's conformance checks pass on a deployed stack."""

from collections.abc import Iterator

import pytest

from gapless.auth import SigV4Auth
from gapless.conformance import CHECKS, Service
from tests.conftest import DEPLOYED


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    keys = DEPLOYED["credentials"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", keys["access_key"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", keys["secret_key"])
        patch.setenv("SSL_CERT_FILE", DEPLOYED["ca"])
        found = Service(DEPLOYED["url"], SigV4Auth("us-east-1"))
        yield found
        found.close()


@pytest.mark.parametrize("name", CHECKS)
def test_the_service_passes(service: Service, name: str) -> None:
    _, check = CHECKS[name]
    check(service)
