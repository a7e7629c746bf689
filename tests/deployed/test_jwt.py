"""A second stack with ``AuthMode`` ``JWT`` and a real issuer; then an update and a deletion."""

import json
import secrets
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from threading import Thread
from typing import TYPE_CHECKING, Any

import boto3
import pytest
import requests
from joserfc import jwt
from joserfc.jwk import RSAKey
from werkzeug.serving import make_server

from local import ministack
from tests.conftest import DEPLOYED, Stack

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

NAME = "gapless-jwt"
AUDIENCE = "uploads"
ROOT = "/api/upload/sessions"


class Issuer:
    """An OpenID issuer on the loopback interface: configuration, keys and tokens."""

    def __init__(self) -> None:
        self.key = RSAKey.generate_key(2048, parameters={"kid": "one", "alg": "RS256"})
        certificate = ministack.CERTIFICATE
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_name("server.key"))
        self.server = make_server("127.0.0.1", 0, self.answer, threaded=True, ssl_context=context)
        self.url = f"https://localhost:{self.server.port}"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        found: Any = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}
        if environ["PATH_INFO"] == "/jwks":
            found = {"keys": [self.key.as_dict(private=False, use="sig")]}
        start_response("200 OK", [("content-type", "application/json")])
        return [json.dumps(found).encode()]

    def token(self, key: RSAKey | None = None, **claims: object) -> str:
        """A signed token; a claim that is None is left out."""
        now = int(time.time())
        good = {"iss": self.url, "aud": AUDIENCE, "sub": "somebody", "iat": now, "exp": now + 600}
        kept = {name: value for name, value in (good | claims).items() if value is not None}
        return jwt.encode({"alg": "RS256", "kid": "one"}, kept, key or self.key)


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    started = Issuer()
    yield started
    started.server.shutdown()


@pytest.fixture(scope="module")
def outputs(stack: Stack, issuer: Issuer) -> dict[str, str]:  # noqa: ARG001 - sets the environment
    return ministack.deploy(NAME, parameters(issuer))


def parameters(issuer: Issuer) -> dict[str, str]:
    return {"AuthMode": "JWT", "JwtIssuer": issuer.url, "JwtAudience": AUDIENCE}


def call(
    outputs: dict[str, str], token: str | None, method: str = "POST", path: str = ROOT
) -> requests.Response:
    return requests.request(
        method,
        ministack.api_url(outputs) + path,
        json={"totalRecord": 0} if path == ROOT else None,
        headers={"authorization": f"Bearer {token}"} if token else {},
        verify=DEPLOYED["ca"],
        timeout=60,
    )


def test_a_token_opens_and_finishes_a_session(outputs: dict[str, str], issuer: Issuer) -> None:
    created = call(outputs, issuer.token())
    assert created.status_code == 201, created.text
    path = f"{ROOT}/{created.json()['sessionId']}"
    stranger = issuer.token(sub="somebody else")
    for method, suffix in (("GET", ""), ("GET", "/file"), ("POST", "/finish"), ("DELETE", "")):
        answer = call(outputs, stranger, method, path + suffix)
        assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")
    finished = call(outputs, issuer.token(), "POST", f"{path}/finish")
    assert finished.json()["validationResult"] == "Success"


def unsigned(token: str) -> str:
    """``token`` with the algorithm ``none`` and no signature."""
    _, claims, _ = token.split(".")
    return f"eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}."


BAD: dict[str, Callable[[Issuer], str | None]] = {
    "no token": lambda _: None,
    "no JWT": lambda _: secrets.token_hex(16),
    "wrong issuer": lambda issuer: issuer.token(iss="https://localhost:1"),
    "wrong audience": lambda issuer: issuer.token(aud="another"),
    "expired": lambda issuer: issuer.token(exp=int(time.time()) - 600),
    "another's key": lambda issuer: issuer.token(RSAKey.generate_key(2048)),
    "unsigned": lambda issuer: unsigned(issuer.token()),
    "changed": lambda issuer: issuer.token()[:-4] + "AAAA",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_token_is_refused(outputs: dict[str, str], issuer: Issuer, kind: str) -> None:
    answer = call(outputs, BAD[kind](issuer))
    assert answer.status_code in {401, 403}, answer.text
    assert set(answer.json()) == {"message"}


def test_a_token_without_a_subject_is_refused(outputs: dict[str, str], issuer: Issuer) -> None:
    answer = call(outputs, issuer.token(sub=None))
    assert (answer.status_code, answer.json()["code"]) == (403, "no_identity")


def test_building_and_deploying_again_changes_nothing_and_deleting_keeps_the_data(
    outputs: dict[str, str], issuer: Issuer
) -> None:
    cloudformation = boto3.client("cloudformation")

    def when() -> object:
        found = cloudformation.describe_stacks(StackName=NAME)["Stacks"][0]
        return found.get("LastUpdatedTime"), found["StackStatus"]

    before = when()
    ministack.build()
    assert ministack.deploy(NAME, parameters(issuer)) == outputs
    assert when() == before
    ministack.delete(NAME)
    assert NAME not in {
        found["StackName"]
        for found in cloudformation.describe_stacks()["Stacks"]
        if found["StackStatus"] != "DELETE_COMPLETE"
    }
    boto3.client("s3").head_bucket(Bucket=outputs["MergedBucket"])
    boto3.client("dynamodb").describe_table(TableName=outputs["SessionsTable"])
