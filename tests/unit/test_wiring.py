"""The endpoints of AWS clients, in every partition."""

from datetime import timedelta
from http.client import HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

import obstore
import pytest

from tests.unit.test_config import ENVIRON
from uploads.config import Config
from uploads.wiring import Wiring

SUFFIXES = {
    "eu-west-1": "amazonaws.com",
    "us-gov-west-1": "amazonaws.com",
    "cn-north-1": "amazonaws.com.cn",
    "eusc-de-east-1": "amazonaws.eu",
    "us-iso-east-1": "c2s.ic.gov",
    "xx-north-9": "amazonaws.com",
}
"""Regions, and what CloudFormation's ``AWS::URLSuffix`` is there. botocore must agree."""


def wiring(monkeypatch: pytest.MonkeyPatch, **settings: str) -> Wiring:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    return Wiring(Config.from_env({**ENVIRON, **settings}))


@pytest.mark.parametrize("region", SUFFIXES)
def test_every_service_is_the_regions_own(monkeypatch: pytest.MonkeyPatch, region: str) -> None:
    suffix = SUFFIXES[region]
    wired = wiring(monkeypatch, AWS_REGION=region, URL_SUFFIX=suffix)
    batches = f"https://{wired.config.batches_bucket}.s3.{region}.{suffix}/0/00000000"
    signed = obstore.sign(
        wired._batches_bucket,  # noqa: SLF001 - the store asks for this very address
        "GET",
        "0/00000000",
        timedelta(minutes=1),
    )
    assert signed.partition("?")[0] == batches
    link = urlsplit(wired.presigning_store.presign("0.ndjson", "0.ndjson"))
    assert link.hostname == f"{wired.config.merged_bucket}.s3.{region}.{suffix}"
    connection = wired.sessions._client._connect()  # noqa: SLF001 - nothing is sent
    assert isinstance(connection, HTTPSConnection)
    assert (connection.host, connection.port) == (f"dynamodb.{region}.{suffix}", 443)


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


def test_only_without_lambdas_credentials_botocore_finds_some(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = {"AWS_ACCESS_KEY_ID": "ours", "AWS_SECRET_ACCESS_KEY": "x", "AWS_SESSION_TOKEN": "y"}
    wired = wiring(monkeypatch, **given)
    assert wired._credentials() == ("ours", "x", "y")  # noqa: SLF001
    assert "_botocore" not in vars(wired)
    assert "ours" not in repr(wired.config)
    for name in given:
        monkeypatch.delenv(name, raising=False)
    profiles = tmp_path / "credentials"
    profiles.write_text("[default]\naws_access_key_id = theirs\naws_secret_access_key = z\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profiles))
    found = Wiring(Config.from_env(ENVIRON))._for_obstore()  # noqa: SLF001
    assert (found["access_key_id"], found["secret_access_key"]) == ("theirs", "z")


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({"HTTPS_PROXY": "http://me:p%40ss@proxy:3128"}, "proxy:3128"),
        ({"https_proxy": "proxy"}, "proxy:80"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "x,.amazonaws.com"}, None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": "http://proxy:3128", "AWS_ENDPOINT_URL": "https://localhost"}, None),
        ({"HTTP_PROXY": "http://proxy:3128"}, None),
    ],
)
def test_dynamodb_is_asked_through_the_proxy_as_s3_is(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], asked: str | None
) -> None:
    wired = wiring(monkeypatch, **settings)
    connection = wired.sessions._client._connect()  # noqa: SLF001 - nothing is sent
    direct = (
        "localhost" if "AWS_ENDPOINT_URL" in settings else "dynamodb.eu-central-1.amazonaws.com"
    )
    assert f"{connection.host}:{connection.port}" == (asked or f"{direct}:443")
    assert "p%40ss" not in repr(wired.config)
