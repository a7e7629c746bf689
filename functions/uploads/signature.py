"""The signature of a request to DynamoDB, version 4. Pure."""

import hashlib
import hmac
import time
from collections.abc import Mapping

from uploads.config import Credentials


def sign(
    headers: Mapping[str, str],
    path: str,
    body: bytes,
    region: str,
    credentials: Credentials,
    now: float,
) -> dict[str, str]:
    """``headers``, in lower case, and those of a signature, version 4, of a POST to DynamoDB.

    Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    signed = {**headers, "x-amz-date": stamp}
    if credentials.token:
        signed["x-amz-security-token"] = credentials.token
    names = sorted(signed)
    lines = [f"{name}:{signed[name]}" for name in names]
    digest = hashlib.sha256(body).hexdigest()
    request = "\n".join(["POST", path, "", *lines, "", ";".join(names), digest])
    scope = f"{stamp[:8]}/{region}/dynamodb/aws4_request"
    digest = hashlib.sha256(request.encode()).hexdigest()
    key = f"AWS4{credentials.secret_key}".encode()
    for part in (*scope.split("/"), f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"):
        key = hmac.digest(key, part.encode(), "sha256")
    signed["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope},"
        f" SignedHeaders={';'.join(names)}, Signature={key.hex()}"
    )
    return signed
