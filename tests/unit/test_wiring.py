"""The endpoints of AWS clients, in every partition."""

from datetime import timedelta
from urllib.parse import urlsplit

import obstore
import pytest

from tests.unit.test_config import ENVIRON
from uploads.config import Config
from uploads.wiring import Wiring

HOSTS = {
    "eu-west-1": "s3.eu-west-1.amazonaws.com",
    "us-east-1": "s3.us-east-1.amazonaws.com",
    "us-gov-west-1": "s3.us-gov-west-1.amazonaws.com",
    "cn-north-1": "s3.cn-north-1.amazonaws.com.cn",
    "cn-northwest-1": "s3.cn-northwest-1.amazonaws.com.cn",
    "eusc-de-east-1": "s3.eusc-de-east-1.amazonaws.eu",
    "us-iso-east-1": "s3.us-iso-east-1.c2s.ic.gov",
    # A region newer than botocore's list.
    "xx-north-9": "s3.xx-north-9.amazonaws.com",
}


def wiring(monkeypatch: pytest.MonkeyPatch, **settings: str) -> Wiring:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    return Wiring(Config.from_env({**ENVIRON, **settings}))


@pytest.mark.parametrize("region", HOSTS)
def test_batches_and_links_are_at_the_regions_own_s3(
    monkeypatch: pytest.MonkeyPatch, region: str
) -> None:
    wired = wiring(monkeypatch, AWS_REGION=region)
    batches = f"https://{wired.config.batches_bucket}.{HOSTS[region]}/0/00000000"
    signed = obstore.sign(
        wired._batches_bucket,  # noqa: SLF001 - the store asks for this very address
        "GET",
        "0/00000000",
        timedelta(minutes=1),
    )
    assert signed.partition("?")[0] == batches
    link = urlsplit(wired.presigning_store.presign("0.ndjson", "0.ndjson"))
    assert link.hostname == f"{wired.config.merged_bucket}.{HOSTS[region]}"


def test_an_endpoint_that_is_given_is_the_one_that_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wired = wiring(monkeypatch, AWS_REGION="cn-north-1", AWS_ENDPOINT_URL="http://localhost:9000")
    signed = obstore.sign(
        wired._batches_bucket,  # noqa: SLF001 - the store asks for this very address
        "GET",
        "0/00000000",
        timedelta(minutes=1),
    )
    expected = f"http://localhost:9000/{wired.config.batches_bucket}/0/00000000"
    assert signed.partition("?")[0] == expected
