"""All errors of the package, as one tree. Imports only ``text``.

::

    GaplessError
    ├── InputError               the input cannot be sent; nothing was sent
    │   ├── InvalidRecordError   has line and column
    │   ├── InvalidRecordsError  records do not satisfy the schema; has a list of errors
    │   ├── RecordTooLargeError
    │   └── FileChangedError     the session was opened for other content
    ├── StateError               no unfinished upload is known, or one must be resumed first
    ├── SettingError             an option or an environment variable is invalid
    ├── TokenError               no usable credentials (in gapless.auth)
    ├── UnavailableError         no request succeeded while patience lasted; retry later
    │   └── UnreachableError     no server responds: the request was not retried
    ├── UnexpectedAnswerError    the response is not from the service: a portal, a login page
    ├── IncompleteError          finish found missing batches or records
    ├── ChecksumError            what is stored, or was downloaded, is not what was sent
    └── ApiError                 the service refused; has status, code and problem
        ├── RequestError         the service does not accept the request
        ├── AuthError            401, 403
        ├── NotFoundError        404
        ├── BatchConflictError   another batch is stored under this seqNum
        ├── SessionStateError    not possible in the session's state
        ├── ExpiredError         410: the session or its batches were deleted
        ├── TooLargeError        413
        └── ServerError          5xx and 429
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from gapless.text import redact

CHECK_URL: Final = "Check --url or GAPLESS_URL."


class GaplessError(Exception):
    """Base class of all errors of this package. The message says what to do."""


class InputError(GaplessError):
    """The input cannot be sent; ``code`` is the stable reason (docs/client.md)."""

    def __init__(self, message: str, code: str = "input") -> None:
        super().__init__(message)
        self.code = code


class InvalidRecordError(InputError):
    """A record is malformed; ``line`` and ``column`` count from 1.

    For Python objects ``record`` is the number of the record, from 1, and ``line`` is the same.
    """

    def __init__(
        self,
        line: int,
        column: int,
        reason: str,
        code: str = "malformed_record",
        *,
        record: int | None = None,
    ) -> None:
        place = f"line {line}, column {column}" if record is None else f"record {record}"
        super().__init__(f"{place}: {reason}", code)
        self.line = line
        self.column = column
        self.reason = reason
        self.record = record


class ViolationError(InvalidRecordError):
    """A record does not satisfy the schema, at ``path``, a JSON Pointer; "" is the whole record.

    For Python objects ``record`` is the number of the record, from 1, and ``line`` is the same.
    """

    def __init__(self, line: int, path: str, reason: str, *, record: int | None = None) -> None:
        super().__init__(line, 1, reason, "invalid_records", record=record)
        place = f"line {line}" if record is None else f"record {record}"
        self.args = (f"{place}{', at ' if path else ''}{path}: {reason}",)
        self.path = path


MAX_VIOLATIONS: Final = 100
"""Maximum number of records in one error."""


class InvalidRecordsError(InputError):
    """Records do not satisfy the schema.

    ``count`` is their number; ``errors`` are the first 100, sorted by line. ``by_service`` is True
    if the service refused them; then the session stays open.
    """

    def __init__(
        self,
        message: str,
        count: int,
        errors: Sequence[ViolationError],
        *,
        by_service: bool = False,
    ) -> None:
        super().__init__(message, "invalid_records")
        self.by_service = by_service
        self.count = count
        self.errors = list(errors)


class RecordTooLargeError(InputError):
    """A record, or a batch of one record, is larger than the service accepts."""


class FileChangedError(InputError):
    """The file does not have the content that the session was opened for."""


class StateError(GaplessError):
    """No upload of the file is known here, or an unfinished one must be resumed first."""


class UnavailableError(GaplessError):
    """No request succeeded while ``patience`` lasted."""


class SettingError(GaplessError):
    """An option or an environment variable is invalid; the message names it."""


class UnreachableError(UnavailableError):
    """No server responds: closed port, unknown host or untrusted certificate."""


class UnexpectedAnswerError(GaplessError):
    """The response is not from the service: a captive portal, a login page, another server."""


class IncompleteError(GaplessError):
    """Finish found that the session is incomplete; ``missing`` are inclusive ranges."""

    def __init__(self, reason: str, detail: str, missing: Sequence[tuple[int, int]]) -> None:
        super().__init__(f"The session is incomplete ({reason}). {detail}")
        self.reason = reason
        self.detail = detail
        self.missing = list(missing)


class ChecksumError(GaplessError):
    """The stored object, or the download, is not what was sent."""


class ApiError(GaplessError):
    """The service, or API Gateway in front of it, refused a request.

    ``status`` is the HTTP status; ``code`` the service's stable code, "" if API Gateway responded;
    ``problem`` the response body, with the members in docs/errors.md.
    """

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        reason = next(
            (text for name in ("detail", "title", "message") if (text := problem.get(name))),
            HTTPStatus(status).phrase if status in set(HTTPStatus) else "no reason",
        )
        self.status = status
        self.code: str = str(problem.get("code", ""))
        self.problem = dict(problem)
        status_and_code = f"{status} {self.code}".strip()
        if request_id := problem.get("requestId"):
            reason = f"{reason} (request {request_id})"
        super().__init__(f"{reason} [{status_and_code}]")


class RequestError(ApiError):
    """The service does not accept the request: its body, or a value in it."""


class AuthError(ApiError):
    """The credentials are missing, wrong, expired, or not allowed to do this."""


class NotFoundError(ApiError):
    """The session does not exist or belongs to another user, or the route does not exist."""


class BatchConflictError(ApiError):
    """A different batch is already stored under this ``seqNum``; it is kept."""


class SessionStateError(ApiError):
    """The session is finishing, finished, aborted, or not finished yet; ``code`` says which."""


class ExpiredError(ApiError):
    """The session or its batches were deleted. Start over."""


class TooLargeError(ApiError):
    """The body is larger than the service accepts."""


class ServerError(ApiError):
    """The service failed, or is busy. The request may be retried."""


_BY_STATUS: Final[dict[int, type[ApiError]]] = {
    400: RequestError,
    401: AuthError,
    403: AuthError,
    404: NotFoundError,
    409: SessionStateError,
    410: ExpiredError,
    413: TooLargeError,
    415: RequestError,
    422: RequestError,
    429: ServerError,
}
_SUMMARY: Final = re.compile(r"(?is)<(?:title|code)>\s*([^<]*)")
_BY_CODE: Final[dict[str, type[ApiError]]] = {
    "batch_conflict": BatchConflictError,
    "no_list": RequestError,  # its 403 is not about credentials
}


def api_error(status: int, body: bytes, secrets: Iterable[str] = ()) -> ApiError:
    """The error for a response of the service, API Gateway or a proxy.

    A response may repeat the request: credentials and ``secrets`` are removed.
    """
    text = redact(body.decode(errors="replace"), secrets)
    try:
        problem = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError):
        # Summarize a web page by its title, an S3 error by its code.
        found = _SUMMARY.search(text)
        summary = found[1] if found else "" if text.lstrip().startswith("<") else text
        problem = {"message": " ".join(summary.split())[:200]}
    server = ServerError if status >= 500 else ApiError  # noqa: PLR2004 - HTTP's own number
    class_ = _BY_CODE.get(str(problem.get("code"))) or _BY_STATUS.get(status, server)
    return class_(status, problem)
