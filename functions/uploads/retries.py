"""Retries of calls to AWS, limited by time: PATIENCE_SECONDS, and the time of the invocation.

All clients use it: calls of obstore and ``dynamodb`` go through ``persistently``, and botocore asks
after every try (``botocore_clients.govern``). Throttling, errors of the storage (5xx), lost
connections and time-outs are retried. If they last, the call raises StorageBusyError, a 503 that
clients retry.
"""

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf
from typing import Final, Protocol, TypeVar

from obstore.exceptions import GenericError

from uploads import errors, limits

Result = TypeVar("Result")


class Invocation(Protocol):
    """What the Lambda runtime passes with an invocation."""

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the invocation is ended."""


invocation: Final[ContextVar["Invocation | None"]] = ContextVar("invocation", default=None)
"""The invocation that this thread works for, if any. ``Threads`` passes it to its threads."""

_TRANSIENT: Final = re.compile(
    # obstore distinguishes errors only by their text, which it repeats after the first line.
    r"[^\n]*?(status code: (408|429|500|502|503|504)\b|HTTP error: |Got invalid "
    r"|\b(SlowDown|RequestTimeout|InternalError|ServiceUnavailable|Throttling\w*)\b)"
)


@contextmanager
def within(served: Invocation) -> Iterator[None]:
    """Retry no call inside for longer than the invocation has time."""
    token = invocation.set(served)
    try:
        yield
    finally:
        invocation.reset(token)


def _seconds_left() -> float:
    served = invocation.get()
    if served is None:
        return inf
    return served.get_remaining_time_in_millis() / 1000 - limits.ANSWER_SECONDS


class Tries:
    """The tries of one call. The first one ``began`` then, by ``time.monotonic()``."""

    def __init__(self, began: float) -> None:
        self._first = self._last = began
        self._number = 0

    def pause(self, why: object) -> float:
        """Seconds until the next try may begin, after one that failed.

        Raises StorageBusyError if there is no time for a try as long as the last one.
        """
        now = time.monotonic()
        took = now - self._last
        longest = min(limits.LONGEST_PAUSE_SECONDS, limits.FIRST_PAUSE_SECONDS * 2**self._number)
        # Full jitter: callers that were refused together do not retry together.
        pause = random.uniform(0, longest)  # noqa: S311 - no secret
        if pause + took > min(self._first + limits.PATIENCE_SECONDS - now, _seconds_left()):
            raise errors.StorageBusyError(
                "The storage is busy, or cannot be reached. Nothing that was acknowledged is lost."
                " Send the request again after Retry-After.",
                why=str(why).partition("\n")[0],
            )
        self._number += 1
        self._last = now + pause
        return pause


class TransientError(Exception):
    """A try failed; the next one may not."""


def persistently(call: Callable[[], Result]) -> Result:
    """The result of ``call``, with retries after TransientError, and obstore's transient errors.

    Raises StorageBusyError.
    """
    began, tries = time.monotonic(), None
    while True:
        try:
            return call()
        except (GenericError, TransientError) as error:
            if isinstance(error, GenericError) and not _TRANSIENT.match(str(error)):
                raise
            tries = tries or Tries(began)
            time.sleep(tries.pause(error))
