"""The identity of a caller, from what API Gateway's authorizer says."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any, Final

from uploads import errors, limits
from uploads.config import AuthMode

_LOGGED_DIGITS: Final = 16
"""Hexadecimal digits of an owner's hash that are logged: 64 bits tell a stack's callers apart."""


def owner_of(request_context: Mapping[str, Any], auth_mode: AuthMode) -> str:
    """The calling principal, which owns the sessions it creates.

    With IAM: the Cognito identity if there is one, else the account and the unique id of the user
    or role, without the role's session name. With JWT: issuer and subject. Raises NoIdentityError.
    """
    if auth_mode is AuthMode.NONE:
        return "anybody"
    authorizer = mapping(request_context.get("authorizer"))
    if auth_mode is AuthMode.IAM:
        iam = mapping(authorizer.get("iam"))
        cognito = text(mapping(iam.get("cognitoIdentity")).get("identityId"))
        if cognito:
            return json.dumps(["cognito", cognito])
        account, user = text(iam.get("accountId")), text(iam.get("userId"))
        # userId is role-id:session-name, account-id:name of a federated user, or, for root,
        # the account id.
        unique = user.partition(":")[0]
        if account and unique:
            return json.dumps(["iam", account, user if unique == account else unique])
    if auth_mode is AuthMode.JWT:
        claims = mapping(mapping(authorizer.get("jwt")).get("claims"))
        issuer, subject = text(claims.get("iss")), text(claims.get("sub"))
        if issuer and subject:
            owner = json.dumps(["jwt", issuer, subject])
            if len(owner) <= limits.MAX_OWNER_BYTES:
                return owner
            # The owner is stored in every item, which must stay small.
            return json.dumps(["jwt", hashlib.sha256(owner.encode()).hexdigest()])
    raise errors.NoIdentityError(
        "The request carries no identity. Sign it with AWS Signature Version 4."
        if auth_mode is AuthMode.IAM
        else "The request carries no identity. Send a bearer token with the claims iss and sub."
    )


def logged_owner(request_context: Mapping[str, Any], auth_mode: AuthMode, key: str) -> str | None:
    """A hash of the owner, for the log; None if all callers are one principal.

    A token's subject may be an e-mail address, and its plain hash could be guessed. So the hash is
    keyed with the table's name, whose random suffix is not in the log.
    """
    if auth_mode is AuthMode.NONE:
        return None
    try:
        owner = owner_of(request_context, auth_mode)
    except errors.NoIdentityError:
        return None
    return hmac.digest(key.encode(), owner.encode(), "sha256").hex()[:_LOGGED_DIGITS]


def mapping(value: object) -> Mapping[str, Any]:
    """``value`` if it is an object, else an empty one: an event may lack any member."""
    return value if isinstance(value, Mapping) else {}


def text(value: object) -> str:
    """``value`` if it is text, else an empty string."""
    return value if isinstance(value, str) else ""
