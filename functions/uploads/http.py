"""API Gateway events in, responses out: the only place where errors become HTTP.

The functions without a route import its logger and ``Context``.
"""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Protocol

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from uploads import errors, identity, limits
from uploads.config import AuthMode, Config
from uploads.decode.body import BATCH_MEDIA_TYPE, Body, digest_as_sent, read_body
from uploads.decode.idempotency_key import read_key
from uploads.decode.inflate import BATCH_ALLOWANCE, Allowance
from uploads.identity import mapping, text
from uploads.retries import within

Response = dict[str, Any]
"""A payload-2.0 response."""

_SESSION_ID: Final = re.compile(r"[0-9a-f]{32}")
_LOGGED_ID: Final = 64
"""Characters of a client's session id that are logged."""
_UNAVAILABLE: Final = 503

# A comma inside a quoted string is not a separator.
_ACCEPTED: Final = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*+(?:"|\\?\Z))++')
_EXCLUDED: Final = re.compile(r";\s*+q=0(?:\.0*+)?+\s*+(?:;|\Z)", re.IGNORECASE)

BYTES: Final = MetricUnit.Bytes
SECONDS: Final = MetricUnit.Seconds

logger: Final = Logger()


class Context(Protocol):
    """What the Lambda runtime passes with an invocation."""

    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the invocation is ended."""


@dataclass(frozen=True)
class Request:
    """A payload-2.0 event, read on demand."""

    event: Mapping[str, Any]
    context: Context
    auth_mode: AuthMode
    # One for each request: a local run serves many concurrently.
    metrics: EphemeralMetrics = field(default_factory=EphemeralMetrics)

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """The headers by lower-case name, as API Gateway sends them; ``sam local`` does not."""
        given = mapping(self.event.get("headers")).items()
        return {name.lower(): value for name, value in given if isinstance(value, str)}

    def body(
        self,
        allowance: Allowance = BATCH_ALLOWANCE,
        media_type: str = BATCH_MEDIA_TYPE,
        *,
        keep_blocks: bool = False,
    ) -> Body:
        """The body, inflated and checked. Raises a GaplessError of status 400, 413 or 415."""
        return read_body(
            text(self.event.get("body")),
            is_base64=self.event.get("isBase64Encoded") is True,
            headers=self.headers,
            allowance=allowance,
            media_type=media_type,
            cpu=time.thread_time,
            keep_blocks=keep_blocks,
        )

    def idempotency(self) -> tuple[str, str] | None:
        """The Idempotency-Key and the digest of the body as sent; None if there is no key.

        Call it after ``body``. Raises InvalidIdempotencyKeyError.
        """
        header = self.headers.get("idempotency-key")
        if header is None:
            return None
        key = read_key(header, is_secret=self.auth_mode is AuthMode.NONE)
        is_base64 = self.event.get("isBase64Encoded") is True
        return key, digest_as_sent(text(self.event.get("body")), is_base64=is_base64)

    @property
    def query(self) -> str:
        """The query string as it was sent."""
        return text(self.event.get("rawQueryString"))

    def in_path(self, name: str) -> str:
        """A parameter of the path as it was sent; empty if the route has none."""
        return text(mapping(self.event.get("pathParameters")).get(name))

    @property
    def session_id(self) -> str:
        """The id in the path. Raises SessionNotFoundError if it is malformed."""
        session_id = self.in_path("sessionId")
        if not _SESSION_ID.fullmatch(session_id):
            raise errors.SessionNotFoundError(
                "There is no session of this id. Create one by POST /api/upload/sessions."
            )
        return session_id

    @property
    def request_context(self) -> Mapping[str, Any]:
        """API Gateway's ``requestContext``."""
        return mapping(self.event.get("requestContext"))

    def accepts(self, media_type: str) -> bool:
        """Whether Accept names ``media_type`` and does not exclude it (RFC 9110)."""
        for one in _ACCEPTED.findall(self.headers.get("accept", "")):
            name, _, parameters = one.partition(";")
            if name.strip().lower() == media_type:
                return not _EXCLUDED.search(f";{parameters}")
        return False

    def accepts_coding(self, coding: str) -> bool:
        """Whether Accept-Encoding admits ``coding``, by its name or ``*`` (RFC 9110).

        False without the header, although the RFC would allow any coding then.
        """
        admitted: dict[str, bool] = {}
        for one in self.headers.get("accept-encoding", "").split(","):
            name, _, parameters = one.partition(";")
            # x-gzip is gzip.
            name = name.strip().lower().removeprefix("x-")
            admitted[name] = not _EXCLUDED.search(f";{parameters}")
        return admitted.get(coding, admitted.get("*", False))

    def count_finishing(self, since: int | None, now: int) -> None:
        """Add the metric of how long the session has been ``FINISHING``, seconds."""
        if since is not None:
            self.count("FinishingSeconds", now - since, MetricUnit.Seconds)
            self.metrics.add_metadata("session_id", self.session_id)

    @property
    def owner(self) -> str:
        """The principal who calls. Raises NoIdentityError."""
        return identity.owner_of(self.request_context, self.auth_mode)

    @property
    def owner_of_a_list(self) -> str:
        """The same. Also raises NoListError if all callers are one principal."""
        if self.auth_mode is AuthMode.NONE:
            raise errors.NoListError(
                "This deployment does not identify callers, so there is no list. Keep the ids of"
                " your sessions."
            )
        return self.owner

    def count(self, name: str, value: float, unit: MetricUnit = MetricUnit.Count) -> None:
        """Add a value to one of the stack's metrics."""
        self.metrics.add_metric(name, unit, value)


Operation = Callable[[Request], Response]
Handler = Callable[[Mapping[str, Any], Context], Response]


def make_handler(operations: Mapping[str, Operation], config: Config) -> Handler:
    """The Lambda handler that runs the operation of an event's ``routeKey``.

    Errors become ``application/problem+json``. Each request logs one line: its id, the session's id
    and a hash of the caller, never anything of the body.
    """

    def lambda_handler(event: Mapping[str, Any], context: Context) -> Response:
        request = Request(event, context, config.auth_mode)
        logger.thread_safe_append_keys(
            correlation_id=request.request_context.get("requestId"),
            session_id=request.in_path("sessionId")[:_LOGGED_ID],
            owner=identity.logged_owner(
                request.request_context, config.auth_mode, config.sessions_table
            ),
            function_request_id=context.aws_request_id,
            route=event.get("routeKey"),
        )
        try:
            with within(context):
                response = operations[event["routeKey"]](request)
            logger.info("answered", status=response["statusCode"])
        except errors.StorageBusyError as error:
            response = _problem(error)
            request.count("StorageBusy", 1)
            logger.warning("busy", status=error.status, code=error.code, why=error.why)
        except errors.GaplessError as error:
            response = _problem(error)
            logger.info("refused", status=error.status, code=error.code)
        except Exception:
            response = _failure(context.aws_request_id)
            logger.exception("failed", status=response["statusCode"])
        finally:
            logger.thread_safe_clear_keys()
            if request.metrics.metric_set:
                request.metrics.flush_metrics()
        return response

    return lambda_handler


def respond(status: int, body: object = None, **headers: str) -> Response:
    """An uncacheable response with a JSON ``body``, or none. ``retry_after=…`` sets Retry-After."""
    named = {"cache-control": "no-store"}
    if body is not None:
        named["content-type"] = "application/json"
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    response: Response = {"statusCode": status, "headers": named}
    if body is not None:
        response["body"] = json.dumps(body, separators=(",", ":"))
    return response


def location(session_id: str) -> str:
    """The path of a session."""
    return f"/api/upload/sessions/{session_id}"


def _problem(error: errors.GaplessError) -> Response:
    headers = {"content_type": "application/problem+json"}
    if isinstance(error, errors.FileSettlingError):
        headers["retry_after"] = str(error.members["retryAfter"])
    elif error.status == _UNAVAILABLE or isinstance(error, errors.SessionFinishingError):
        headers["retry_after"] = str(limits.RETRY_AFTER_SECONDS)
    return respond(error.status, error.problem(), **headers)


def _failure(request_id: str) -> Response:
    return respond(
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
