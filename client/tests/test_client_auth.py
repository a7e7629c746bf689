"""SigV4 signatures, compared with the algorithm in the AWS documentation."""

import hashlib
import hmac
import re

import httpx
import pytest

import gapless


def expected(request: httpx.Request, secret: str) -> str:
    """The signature of a request, computed here.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """
    found = re.search(
        r"Credential=\w+/([^,]+), SignedHeaders=([^,]+)", request.headers["authorization"]
    )
    assert found
    scope, signed = found[1], found[2]
    headers = "".join(f"{name}:{request.headers[name]}\n" for name in signed.split(";"))
    body = hashlib.sha256(request.content).hexdigest()
    canonical = f"{request.method}\n{request.url.path}\n\n{headers}\n{signed}\n{body}"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", request.headers["x-amz-date"], scope, digest])
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def test_a_request_is_signed_as_aws_describes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session")
    request = httpx.Request(
        "POST",
        "https://abc.execute-api.eu-central-1.amazonaws.com/api/upload/sessions",
        content=b"{}",
        headers={"Content-Type": "application/json"},
    )
    (signed,) = gapless.SigV4Auth().auth_flow(request)
    assert "/eu-central-1/execute-api/aws4_request" in signed.headers["authorization"]
    assert signed.headers["x-amz-security-token"] == "session"
    assert signed.headers["authorization"].endswith(f"Signature={expected(signed, 'secret')}")


def test_without_credentials_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, f"{tmp_path}/none")
    with pytest.raises(gapless.GaplessError, match="AWS_PROFILE"):
        gapless.SigV4Auth()
