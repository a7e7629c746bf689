"""From an API Gateway event to an operation, and from its outcome or error to an answer."""

import gc
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final, Protocol

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from uploads import errors, limits, records
from uploads.config import AuthMode, Config
from uploads.retries import within

Answer = dict[str, Any]
"""A payload-2.0 response."""

_SESSION_ID: Final = re.compile(r"[0-9a-f]{32}")
_LOGGED_ID: Final = 64
_UNAVAILABLE: Final = 503
"""How much of an id that a client sent is logged."""
_OWNER_DIGITS: Final = 16
"""How much of an owner's hash is logged: 64 bits tell a stack's callers apart."""

# A comma in a string separates nothing.
_ACCEPTED: Final = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*+(?:"|\\?\Z))++')
_EXCLUDED: Final = re.compile(r";\s*+q=0(?:\.0*+)?+\s*+(?:;|\Z)", re.IGNORECASE)

logger: Final = Logger()

# What a start makes stays. Searching it for garbage, time and again, would take a twentieth of the
# start, so that has to wait for `entry`.
gc.disable()


class Context(Protocol):
    """What the Lambda runtime tells of an invocation."""

    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the invocation is ended."""


@dataclass(frozen=True)
class Request:
    """A payload-2.0 event, read on demand."""

    event: Mapping[str, Any]
    context: Context
    auth_mode: AuthMode
    # Ephemeral, as everything here: a process may serve many requests at once.
    metrics: EphemeralMetrics = field(default_factory=EphemeralMetrics)

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """The headers by lower-case name. API Gateway sends them so; ``sam local`` does not."""
        given = _object(self.event.get("headers")).items()
        return {name.lower(): value for name, value in given if isinstance(value, str)}

    def body(self, allowance: records.Allowance = records.BATCH_ALLOWANCE) -> bytes:
        """The body's JSON as bytes, inflated and checked. Raises what is wrong with it."""
        return records.read_body(
            _text(self.event.get("body")),
            is_base64=self.event.get("isBase64Encoded") is True,
            headers=self.headers,
            allowance=allowance,
            cpu=time.thread_time,
        )

    @property
    def given_session_id(self) -> str:
        """The id in the path as it was sent; empty where the route has none."""
        return _text(_object(self.event.get("pathParameters")).get("sessionId"))

    @property
    def session_id(self) -> str:
        """The id in the path. Raises SessionNotFoundError where it cannot be one."""
        session_id = self.given_session_id
        if not _SESSION_ID.fullmatch(session_id):
            raise errors.SessionNotFoundError(
                "There is no session of this id. Create one by POST /api/upload/sessions."
            )
        return session_id

    @property
    def request_context(self) -> Mapping[str, Any]:
        """What API Gateway tells of the request."""
        return _object(self.event.get("requestContext"))

    def accepts(self, media_type: str) -> bool:
        """Whether the header Accept names ``media_type``, and does not exclude it (RFC 9110)."""
        for one in _ACCEPTED.findall(self.headers.get("accept", "")):
            name, _, parameters = one.partition(";")
            if name.strip().lower() == media_type:
                return not _EXCLUDED.search(f";{parameters}")
        return False

    def count_finishing(self, since: int | None, now: int) -> None:
        """Write down how long the session is ``FINISHING`` that the caller is told so of."""
        if since is not None:
            self.metrics.add_metric("FinishingSeconds", MetricUnit.Seconds, now - since)
            self.metrics.add_metadata("session_id", self.session_id)

    @property
    def owner(self) -> str:
        """The principal who calls: the owner of what it creates, and of nothing else.

        With IAM the Cognito identity where there is one, else the account and the user's or role's
        own id without the name of the role's session; with JWT the issuer and the subject. Raises
        NoIdentityError.
        """
        if self.auth_mode is AuthMode.NONE:
            return "anybody"
        authorizer = _object(self.request_context.get("authorizer"))
        if self.auth_mode is AuthMode.IAM:
            iam = _object(authorizer.get("iam"))
            cognito = _text(_object(iam.get("cognitoIdentity")).get("identityId"))
            if cognito:
                return json.dumps(["cognito", cognito])
            account, user = _text(iam.get("accountId")), _text(iam.get("userId"))
            # A role's id comes with the name of its session, a federated user's own name with the
            # account's id, and root's is the account's id alone.
            unique = user.partition(":")[0]
            if account and unique:
                return json.dumps(["iam", account, user if unique == account else unique])
        if self.auth_mode is AuthMode.JWT:
            claims = _object(_object(authorizer.get("jwt")).get("claims"))
            issuer, subject = _text(claims.get("iss")), _text(claims.get("sub"))
            if issuer and subject:
                owner = json.dumps(["jwt", issuer, subject])
                if len(owner) <= limits.MAX_OWNER_BYTES:
                    return owner
                # It is in every item, which must stay small.
                return json.dumps(["jwt", hashlib.sha256(owner.encode()).hexdigest()])
        raise errors.NoIdentityError(
            "The request carries no identity. Sign it with AWS Signature Version 4."
            if self.auth_mode is AuthMode.IAM
            else "The request carries no identity. Send a bearer token with the claims iss and sub."
        )


Operation = Callable[[Request], Answer]
Handler = Callable[[Mapping[str, Any], Context], Answer]


def entry(operations: Mapping[str, Operation], config: Config) -> Handler:
    """The Lambda handler that runs the operation of an event's ``routeKey``.

    The one place where errors become ``application/problem+json``. Logs one line a request, with
    its id, the session's and a hash of the caller, and nothing of its body. It ends a start:
    garbage is collected from now on, and never looked for in what is there already.
    """

    def lambda_handler(event: Mapping[str, Any], context: Context) -> Answer:
        request = Request(event, context, config.auth_mode)
        logger.thread_safe_append_keys(
            correlation_id=request.request_context.get("requestId"),
            session_id=request.given_session_id[:_LOGGED_ID],
            owner=_owner_hash(request, config.sessions_table),
            function_request_id=context.aws_request_id,
            route=event.get("routeKey"),
        )
        try:
            with within(context):
                given = operations[event["routeKey"]](request)
            logger.info("answered", status=given["statusCode"])
        except errors.StorageBusyError as error:
            given = _problem(error)
            request.metrics.add_metric("StorageBusy", MetricUnit.Count, 1)
            logger.warning("busy", status=error.status, code=error.code, why=error.why)
        except errors.GaplessError as error:
            given = _problem(error)
            logger.info("refused", status=error.status, code=error.code)
        except Exception:
            given = _failure(context.aws_request_id)
            logger.exception("failed", status=given["statusCode"])
        finally:
            logger.thread_safe_clear_keys()
            if request.metrics.metric_set:
                request.metrics.flush_metrics()
        return given

    gc.freeze()
    gc.enable()
    return lambda_handler


def _object(value: object) -> Mapping[str, Any]:
    """``value`` where it is an object, else an empty one: an event may lack what it wants."""
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str:
    """``value`` where it is text, else none."""
    return value if isinstance(value, str) else ""


def answer(status: int, body: object = None, **headers: str) -> Answer:
    """An answer with a JSON ``body``, or with none. ``retry_after=…`` is the header Retry-After.

    No cache may keep any: it is of this moment, and for this caller alone.
    """
    named = {"cache-control": "no-store"}
    if body is not None:
        named["content-type"] = "application/json"
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    given: Answer = {"statusCode": status, "headers": named}
    if body is not None:
        given["body"] = json.dumps(body, separators=(",", ":"))
    return given


def timestamp(seconds: int) -> str:
    """Seconds since 1970 as the API writes times (RFC 3339)."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def location(session_id: str) -> str:
    """The path of a session."""
    return f"/api/upload/sessions/{session_id}"


def _owner_hash(request: Request, key: str) -> str | None:
    """Who calls, as the log has it; None where nobody is told apart.

    A token's subject may be an e-mail address, and a bare hash of one is found by trying. So it is
    keyed with the table's name, whose random end a reader of the log alone does not know.
    """
    if request.auth_mode is AuthMode.NONE:
        return None
    try:
        owner = request.owner
    except errors.NoIdentityError:
        return None
    return hmac.digest(key.encode(), owner.encode(), "sha256").hex()[:_OWNER_DIGITS]


def _problem(error: errors.GaplessError) -> Answer:
    headers = {"content_type": "application/problem+json"}
    if error.status == _UNAVAILABLE or isinstance(error, errors.SessionFinishingError):
        headers["retry_after"] = str(limits.RETRY_AFTER_SECONDS)
    return answer(error.status, error.problem(), **headers)


def _failure(request_id: str) -> Answer:
    return answer(
        500,
        {
            "type": "urn:gapless:error:internal_error",
            "title": "The service failed.",
            "status": 500,
            "code": "internal_error",
            "requestId": request_id,
        },
        content_type="application/problem+json",
    )
