"""The signature of requests to DynamoDB."""

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials
from hypothesis import given
from hypothesis import strategies as st

from uploads.config import Credentials
from uploads.signature import sign


@given(
    body=st.binary(max_size=300),
    token=st.none() | st.text("abc/+=", min_size=1, max_size=50),
    secret=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60),
    region=st.sampled_from(["us-east-1", "cn-north-1", "eusc-de-east-1"]),
    host=st.sampled_from(["dynamodb.eu-west-1.amazonaws.com", "127.0.0.1:5000", "[::1]:80"]),
    operation=st.sampled_from(["GetItem", "UpdateItem"]),
)
def test_the_signature_is_botocores(
    body: bytes, token: str | None, secret: str, region: str, host: str, operation: str
) -> None:
    headers = {
        "content-type": "application/x-amz-json-1.0",
        "host": host,
        "x-amz-target": f"DynamoDB_20120810.{operation}",
    }
    signed = sign(headers, "/", body, region, Credentials("AKID", secret, token), 1_800_000_000.5)
    theirs = AWSRequest("POST", f"http://{host}/", headers=headers, data=body)
    signer = SigV4Auth(BotocoreCredentials("AKID", secret, token), "dynamodb", region)
    theirs.context["timestamp"] = signed["x-amz-date"]
    if token:
        theirs.headers["x-amz-security-token"] = token
    theirs.headers["x-amz-date"] = signed["x-amz-date"]
    scope = signer.credential_scope(theirs)
    request = signer.canonical_request(theirs)
    expected = signer.signature(signer.string_to_sign(theirs, request), theirs)
    assert scope in signed["authorization"]
    assert signed["authorization"].endswith(f"Signature={expected}")
