"""Caller and session id, read from a request's event."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from uploads import errors
from uploads.config import AuthMode
from uploads.http import Request

ACCOUNT = "123456789012"
ISSUER = "https://issuer.example.com/pool"


class NoContext:
    """A context that these tests never need."""

    aws_request_id = ""

    def get_remaining_time_in_millis(self) -> int:
        """No time is left."""
        return 0


def request(event: Mapping[str, Any], auth_mode: AuthMode = AuthMode.NONE) -> Request:
    return Request(event, NoContext(), auth_mode)


def iam_event(
    user_id: str | None, account_id: str | None = ACCOUNT, cognito: str | None = None
) -> dict[str, Any]:
    identity = {"amr": ["authenticated"], "identityId": cognito, "identityPoolId": "pool"}
    iam = {
        "accessKey": "AKIAEXAMPLE",
        "accountId": account_id,
        "callerId": user_id,
        "cognitoIdentity": identity if cognito else None,
        "principalOrgId": None,
        "userArn": "arn:aws:iam::123456789012:user/example",
        "userId": user_id,
    }
    return {"requestContext": {"authorizer": {"iam": iam}}}


def jwt_event(**claims: object) -> dict[str, Any]:
    return {"requestContext": {"authorizer": {"jwt": {"claims": claims, "scopes": None}}}}


def iam_owner(user_id: str, account_id: str = ACCOUNT, cognito: str | None = None) -> str:
    return request(iam_event(user_id, account_id, cognito), AuthMode.IAM).owner


def jwt_owner(issuer: str, subject: str) -> str:
    return request(jwt_event(iss=issuer, sub=subject), AuthMode.JWT).owner


def test_two_sessions_of_a_role_are_one_owner() -> None:
    assert iam_owner("AROAEXAMPLE:first") == iam_owner("AROAEXAMPLE:second")


def test_a_session_name_may_hold_anything() -> None:
    assert iam_owner("AROAEXAMPLE:a:b c") == iam_owner("AROAEXAMPLE:")


@pytest.mark.parametrize(
    "others",
    [
        pytest.param([("AIDAFIRST", ACCOUNT), ("AIDASECOND", ACCOUNT)], id="two users"),
        pytest.param([("AROAFIRST:x", ACCOUNT), ("AROASECOND:x", ACCOUNT)], id="two roles"),
        pytest.param([("AIDASAME", ACCOUNT), ("AIDASAME", "210987654321")], id="two accounts"),
        pytest.param([(ACCOUNT, ACCOUNT), ("AIDAUSER", ACCOUNT)], id="root and a user"),
        # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html:
        # a federated user's id is "account:name", root's is the account.
        pytest.param(
            [(f"{ACCOUNT}:first", ACCOUNT), (f"{ACCOUNT}:second", ACCOUNT)],
            id="two federated users",
        ),
        pytest.param([(ACCOUNT, ACCOUNT), (f"{ACCOUNT}:x", ACCOUNT)], id="root, federated user"),
    ],
)
def test_different_principals_are_different_owners(others: list[tuple[str, str]]) -> None:
    assert len({iam_owner(user_id, account) for user_id, account in others}) == len(others)


def test_each_cognito_identity_is_a_different_owner() -> None:
    """All users of an identity pool call with the same role."""
    first = iam_owner("AROAEXAMPLE:CognitoIdentityCredentials", cognito="eu-central-1:1")
    second = iam_owner("AROAEXAMPLE:CognitoIdentityCredentials", cognito="eu-central-1:2")
    role = iam_owner("AROAEXAMPLE:CognitoIdentityCredentials")
    assert len({first, second, role}) == 3
    assert first == iam_owner("AROAOTHER:CognitoIdentityCredentials", cognito="eu-central-1:1")


def test_a_token_is_its_issuer_and_subject_whatever_else_it_claims() -> None:
    claims = {"iss": ISSUER, "sub": "42"}
    plain = request(jwt_event(**claims), AuthMode.JWT).owner
    more = request(jwt_event(**claims, jti="7", owner="root", username="x"), AuthMode.JWT).owner
    assert plain == more


URLS = st.text("abc:/.%", min_size=1).map(lambda rest: f"https://{rest}")
"""Issuers that can be configured: URLs without spaces."""


@given(
    one=st.tuples(URLS, st.text("ab/: ", min_size=1) | st.text(min_size=1)),
    other=st.tuples(URLS, st.text("ab/: ", min_size=1) | st.text(min_size=1)),
)
@example(one=(ISSUER, "42"), other=("https://other.example.com", "42"))
@example(one=(f"{ISSUER}/a", "b"), other=(ISSUER, "/ab"))
@example(one=(f"{ISSUER}1", "2"), other=(ISSUER, "12"))
@example(one=("https://b.example.com", f"x {ISSUER} x"), other=(ISSUER, "x"))
@example(one=(ISSUER, " x"), other=(ISSUER, "x"))
@example(one=(ISSUER, "\nx"), other=(ISSUER, "x"))
@example(one=(ISSUER, "x\u2028"), other=(ISSUER, "x"))
def test_no_subject_makes_another_issuers_owner(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    assert (jwt_owner(*one) == jwt_owner(*other)) == (one == other)


def test_the_kinds_of_identity_never_meet() -> None:
    owners = {
        iam_owner("x", "y"),
        iam_owner("x", "y", cognito="y x"),
        jwt_owner("y", "x"),
        request({}).owner,
    }
    assert len(owners) == 4


@pytest.mark.parametrize(
    "event",
    [
        pytest.param({}, id="nothing"),
        pytest.param(iam_event("AIDAFIRST"), id="signed"),
        pytest.param(jwt_event(iss=ISSUER, sub="42"), id="token"),
    ],
)
def test_without_authorization_everybody_is_one(event: dict[str, Any]) -> None:
    assert request(event, AuthMode.NONE).owner == request({}, AuthMode.NONE).owner


ODD: list[Any] = ["text", ["a", "list"], 5, True]
NO_IDENTITY: list[dict[str, Any]] = [
    {},
    {"requestContext": {}},
    {"requestContext": {"authorizer": None}},
    {"requestContext": {"authorizer": {}}},
    {"requestContext": {"authorizer": {"lambda": {"sub": "42", "iss": ISSUER}}}},
    {"requestContext": None},
    *({"requestContext": odd} for odd in ODD),
    *({"requestContext": {"authorizer": odd}} for odd in ODD),
]
NO_IAM = [
    {"requestContext": {"authorizer": {"iam": None}}},
    {"requestContext": {"authorizer": {"iam": {}}}},
    iam_event(None),
    iam_event(""),
    iam_event(":session"),
    iam_event("AIDAUSER", None),
    iam_event("AIDAUSER", ""),
    jwt_event(iss=ISSUER, sub="42"),
    *({"requestContext": {"authorizer": {"iam": odd}}} for odd in ODD),
    *({"requestContext": {"authorizer": {"iam": {"cognitoIdentity": odd}}}} for odd in ODD),
    {"requestContext": {"authorizer": {"iam": {"cognitoIdentity": {"identityId": 5}}}}},
    {"requestContext": {"authorizer": {"iam": {"accountId": 1, "userId": "AIDAUSER"}}}},
    {"requestContext": {"authorizer": {"iam": {"accountId": ACCOUNT, "userId": ["AIDAUSER"]}}}},
]
NO_JWT = [
    {"requestContext": {"authorizer": {"jwt": None}}},
    {"requestContext": {"authorizer": {"jwt": {"claims": None}}}},
    jwt_event(),
    jwt_event(iss=ISSUER),
    jwt_event(sub="42"),
    jwt_event(iss=ISSUER, sub=""),
    jwt_event(iss="", sub="42"),
    iam_event("AIDAUSER"),
    # Some issuers' client credentials tokens name an application and have no subject.
    jwt_event(iss=ISSUER, client_id="42"),
    *({"requestContext": {"authorizer": {"jwt": odd}}} for odd in ODD),
    *({"requestContext": {"authorizer": {"jwt": {"claims": odd}}}} for odd in ODD),
    # RFC 7519: both are strings. A list is not its only element, and 42 is not "42".
    *(jwt_event(iss=ISSUER, sub=odd) for odd in (["42"], 42, 4.2, True, {"sub": "42"}, None)),
    *(jwt_event(iss=odd, sub="42") for odd in ([ISSUER], 42, True, {"iss": ISSUER}, None)),
]


@pytest.mark.parametrize("event", [*NO_IDENTITY, *NO_IAM])
def test_a_request_without_a_signer_is_refused(event: dict[str, Any]) -> None:
    with pytest.raises(errors.NoIdentityError) as caught:
        _ = request(event, AuthMode.IAM).owner
    assert "Sign it with AWS Signature Version 4" in caught.value.detail


@pytest.mark.parametrize("event", [*NO_IDENTITY, *NO_JWT])
def test_a_request_without_a_subject_is_refused(event: dict[str, Any]) -> None:
    with pytest.raises(errors.NoIdentityError) as caught:
        _ = request(event, AuthMode.JWT).owner
    assert "bearer token with the claims iss and sub" in caught.value.detail


@pytest.mark.parametrize("session_id", ["0" * 32, "f" * 32, "0123456789abcdef" * 2])
def test_session_ids(session_id: str) -> None:
    assert request({"pathParameters": {"sessionId": session_id}}).session_id == session_id


@pytest.mark.parametrize(
    "session_id",
    [
        pytest.param("", id="empty"),
        pytest.param("0123456789ABCDEF" * 2, id="upper case"),
        pytest.param("0" * 31, id="31 characters"),
        pytest.param("0" * 33, id="33 characters"),
        pytest.param("0" * 600, id="600 characters"),
        pytest.param("g" * 32, id="not hexadecimal"),
        pytest.param("../x", id="path"),
        pytest.param("../" + "0" * 29, id="path of 32 characters"),
        pytest.param("0" * 31 + "/", id="slash"),
        pytest.param("0" * 31 + "\u0663", id="Arabic digit"),
        pytest.param("\uff10" * 32, id="full-width digits"),
        pytest.param("0" * 32 + "\n", id="trailing newline"),
        pytest.param("0" * 31 + "\n", id="newline as the 32nd"),
        pytest.param("\n" + "0" * 32, id="leading newline"),
        pytest.param(" " + "0" * 31, id="space"),
        pytest.param("0" * 31 + "\0", id="NUL"),
        pytest.param("%30" * 10 + "00", id="percent-encoded"),
    ],
)
def test_a_malformed_session_id_is_one_that_does_not_exist(session_id: str) -> None:
    with pytest.raises(errors.SessionNotFoundError) as caught:
        _ = request({"pathParameters": {"sessionId": session_id}}).session_id
    assert "POST /api/upload/sessions" in caught.value.detail
    assert not caught.value.members


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"pathParameters": {}},
        {"pathParameters": None},
        {"pathParameters": "text"},
        {"pathParameters": {"sessionId": None}},
        {"pathParameters": {"sessionId": 5}},
        {"pathParameters": {"sessionId": ["0" * 32]}},
    ],
    ids=str,
)
def test_a_path_without_an_id_names_no_session(event: dict[str, Any]) -> None:
    with pytest.raises(errors.SessionNotFoundError):
        _ = request(event).session_id


@pytest.mark.parametrize("headers", [None, "text", [], {}, {"Accept": None}, {"accept": ["a"]}])
def test_headers_that_are_none(headers: object) -> None:
    assert request({"headers": headers}).headers == {}
    assert not request({"headers": headers}).accepts("application/json")


@pytest.mark.parametrize("body", [None, "", {}, {"totalRecord": 1}, [1], 5])
@pytest.mark.parametrize("is_base64", [None, True, False, "true", 1])
def test_a_body_that_is_not_text_is_ignored(body: object, is_base64: object) -> None:
    assert request({"body": body, "isBase64Encoded": is_base64}).body().content == b""


@pytest.mark.parametrize(
    "accept",
    [
        "application/json",
        "Application/JSON",
        " application/json ; charset=utf-8",
        "text/html, application/json",
        "text/html,application/json;q=0.5,*/*",
        "application/json;q=0.001",
        "application/json;x=0",
        'text/html;x=",", application/json',
        'text/html;x="\\",", application/json',
    ],
)
def test_headers_that_accept_json(accept: str) -> None:
    assert request({"headers": {"Accept": accept}}).accepts("application/json")


@pytest.mark.parametrize(
    "accept",
    [
        "",
        ",",
        "*/*",
        "application/*",
        "application/jsonx",
        "application/json-seq",
        "application/problem+json",
        "x/application/json",
        "application/json;q=0",
        "application/json; Q=0.000 ;x=1",
        'text/html;x="application/json"',
        'text/html;x=", application/json"',
        'text/html;x=", application/json',
        '"' + '\\"' * 50_000,
        '"\\',
    ],
)
def test_headers_that_do_not_accept_json(accept: str) -> None:
    assert not request({"headers": {"accept": accept}}).accepts("application/json")
