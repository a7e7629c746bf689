"""What can go wrong, as one tree.

::

    GaplessError
    ├── InputError               the input cannot be sent as it is; nothing was sent
    │   ├── InvalidRecordError   line and column of the fault
    │   ├── RecordTooLargeError
    │   └── FileChangedError     it is not the file that the session was opened for
    ├── StateError               no unfinished upload is known, or one is in the way
    ├── SettingError             an option or a variable of the environment cannot be used
    ├── UnavailableError         no answer, or "later", until patience ran out; may be sent again
    │   └── UnreachableError     nothing answers there at all: it was not tried again
    ├── UnexpectedAnswerError    something else than the service answered: a portal, a log-in
    ├── IncompleteError          finish found gaps
    ├── ChecksumError            what is stored, or was downloaded, is not what was sent
    └── ApiError                 the service refused; has status, code and the problem
        ├── RequestError         a body or a number that the service cannot take
        ├── AuthError            401, 403
        ├── NotFoundError        404
        ├── BatchConflictError   another batch is stored under this seqNum
        ├── SessionStateError    the session is not in a state for this
        ├── ExpiredError         410
        ├── TooLargeError        413
        └── ServerError          5xx and 429
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from gapless.text import redact


class GaplessError(Exception):
    """Anything this package raises on purpose. The message says what to do."""


class InputError(GaplessError):
    """The input cannot be sent as it is; ``code`` is a stable word for why (docs/client.md)."""

    def __init__(self, message: str, code: str = "input") -> None:
        super().__init__(message)
        self.code = code


class InvalidRecordError(InputError):
    """A record is not what its format asks for; ``line`` and ``column`` count from 1.

    ``record`` is its number, from 1, if it is a Python object and not in a file; ``line`` is the
    same then.
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


class RecordTooLargeError(InputError):
    """A record, or a batch of one record, is larger than the service takes."""


class FileChangedError(InputError):
    """The file is not the one that the session was opened for."""


class StateError(GaplessError):
    """No upload of this file is known here, or an unfinished one is in the way."""


class UnavailableError(GaplessError):
    """The service gave no answer, or said "later", until patience ran out."""


class SettingError(GaplessError):
    """An option, or a variable of the environment, cannot be used; the message names it."""


class UnreachableError(UnavailableError):
    """Nothing answers there: another port, an unknown host, a certificate that is not trusted."""


class UnexpectedAnswerError(GaplessError):
    """What answered is not the service: a portal's page, a log-in, another server."""


class IncompleteError(GaplessError):
    """Finish found that the session is not whole; ``missing`` are inclusive ranges."""

    def __init__(self, reason: str, detail: str, missing: Sequence[tuple[int, int]]) -> None:
        super().__init__(f"The session is not whole ({reason}). {detail}")
        self.reason = reason
        self.detail = detail
        self.missing = list(missing)


class ChecksumError(GaplessError):
    """What is stored, or what was downloaded, is not what was sent."""


class ApiError(GaplessError):
    """The service, or the API Gateway before it, refused a request.

    ``status`` is the HTTP status, ``code`` the service's stable code or "" where API Gateway
    answered, and ``problem`` the whole answer, with the members that docs/errors.md lists.
    """

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        said = next(
            (text for name in ("detail", "title", "message") if (text := problem.get(name))),
            HTTPStatus(status).phrase if status in set(HTTPStatus) else "no reason",
        )
        self.status = status
        self.code: str = str(problem.get("code", ""))
        self.problem = dict(problem)
        where = f"{status} {self.code}".strip()
        if request_id := problem.get("requestId"):
            said = f"{said} (request {request_id})"
        super().__init__(f"{said} [{where}]")


class RequestError(ApiError):
    """A body, or a number in it, that the service cannot take."""


class AuthError(ApiError):
    """The credentials are missing, wrong, run out, or not allowed to do this."""


class NotFoundError(ApiError):
    """There is no such session, or it is somebody else's, or there is no such route."""


class BatchConflictError(ApiError):
    """Another batch is stored under this ``seqNum``, and stays."""


class SessionStateError(ApiError):
    """The session is finishing, finished, aborted, or not finished yet; ``code`` says which."""


class ExpiredError(ApiError):
    """The session, or its batches, are gone. Start over."""


class TooLargeError(ApiError):
    """The body is larger than the service takes."""


class ServerError(ApiError):
    """The service failed, or is busy. It may be sent again."""


_BY_STATUS: Final[dict[int, type[ApiError]]] = {
    400: RequestError,
    401: AuthError,
    403: AuthError,
    404: NotFoundError,
    409: SessionStateError,
    410: ExpiredError,
    413: TooLargeError,
    415: RequestError,
    429: ServerError,
}
_SAID: Final = re.compile(r"(?is)<(?:title|code)>\s*([^<]*)")
_BY_CODE: Final[dict[str, type[ApiError]]] = {"batch_conflict": BatchConflictError}


def api_error(status: int, body: bytes, secrets: Iterable[str] = ()) -> ApiError:
    """The error that an answer means, whoever made it: the service, API Gateway or a proxy.

    What it says may repeat what it was sent: credentials are taken out, ``secrets`` among them.
    """
    text = redact(body.decode(errors="replace"), secrets)
    try:
        problem = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError):
        # A page says most in its title, S3 in its code.
        found = _SAID.search(text)
        said = found[1] if found else "" if text.lstrip().startswith("<") else text
        problem = {"message": " ".join(said.split())[:200]}
    server = ServerError if status >= 500 else ApiError  # noqa: PLR2004 - HTTP's own number
    kind = _BY_CODE.get(str(problem.get("code"))) or _BY_STATUS.get(status, server)
    return kind(status, problem)
