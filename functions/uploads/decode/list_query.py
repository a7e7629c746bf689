"""The query string of a list of sessions. Pure."""

import re
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from uploads import errors, limits
from uploads.session import State

_DIGITS: Final = re.compile(r"[1-9][0-9]{0,3}")
_NAMES: Final = ("state", "limit", "cursor")
_LOGGED_NAME: Final = 64


class ListRequest(NamedTuple):
    """Query of ``GET /api/upload/sessions``."""

    state: State | None = None
    """None for any state."""
    limit: int = limits.DEFAULT_PAGE
    """Most sessions that the page looks at."""
    cursor: str | None = None


def read_list_request(query: str) -> ListRequest:
    """The request in ``query``, as it is in the URL. Raises a GaplessError of status 400."""
    given: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name.lower().startswith("x-amz-"):
            # Part of a signature.
            continue
        if name not in _NAMES:
            raise errors.UnknownParameterError(
                f"The query string may have {', '.join(_NAMES[:-1])} and {_NAMES[-1]}; it has"
                f" {name[:_LOGGED_NAME]!r}.",
                parameter=name[:_LOGGED_NAME],
                supported=list(_NAMES),
            )
        if name in given:
            raise _invalid(name, f"{name} must be given once.")
        given[name] = value
    return ListRequest(
        _state(given["state"]) if "state" in given else None,
        _limit(given["limit"]) if "limit" in given else limits.DEFAULT_PAGE,
        given.get("cursor"),
    )


def _state(value: str) -> State:
    if value not in set(State):
        raise _invalid("state", f"state must be one of {', '.join(State)}, or left out.")
    return State(value)


def _limit(value: str) -> int:
    if _DIGITS.fullmatch(value) and int(value) <= limits.MAX_PAGE:
        return int(value)
    raise _invalid(
        "limit",
        f"limit must be an integer from 1 to {limits.MAX_PAGE} in plain digits, or left out for"
        f" {limits.DEFAULT_PAGE}.",
    )


_INVALID: Final = {
    "state": errors.InvalidStateError,
    "limit": errors.InvalidLimitError,
    "cursor": errors.InvalidCursorError,
}


def _invalid(name: str, rule: str) -> errors.GaplessError:
    return _INVALID[name](rule, parameter=name)
