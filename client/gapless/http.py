"""Requests that are sent again until they are answered, and no more of them than are welcome."""

import email.utils
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

import anyio
import httpx

from gapless.errors import ApiError, AuthError, UnavailableError, api_error

Report = Callable[[str, dict[str, Any]], None]
"""Gets the name of what happened, and its facts. Called from any thread; it must not block."""

_BUSY: Final = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
_AGAIN: Final = _BUSY | {
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.GATEWAY_TIMEOUT,
}
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 20.0
_TIMEOUT: Final = httpx.Timeout(40, connect=10)
"""API Gateway answers within 30 seconds, whatever happens behind it."""

_MENDS: Final = 2
"""How often a body that was spoiled on its way is sent again (docs/errors.md)."""


def silent(event: str, facts: dict[str, Any]) -> None:
    """Report nothing."""


class Gate:
    """As many requests at once as go well: one more after each round, half after a refusal (AIMD).

    A refusal counts once for all the requests that were under way when it came.
    """

    def __init__(self, most: int, first: int = 2) -> None:
        self.limit = float(min(first, most))
        self._most = most
        self._running = 0
        self._round = 0
        self._room: anyio.Event | None = None

    async def enter(self) -> None:
        """Wait for room, and take it until ``leave``."""
        while self._running >= int(self.limit):
            if self._room is None or self._room.is_set():
                self._room = anyio.Event()
            await self._room.wait()
        self._running += 1

    def leave(self) -> None:
        """Make room."""
        self._running -= 1
        self._wake()

    def _wake(self) -> None:
        if self._room is not None:
            self._room.set()

    @property
    def round(self) -> int:
        """Goes up with each refusal; ``refused`` wants the one the request began in."""
        return self._round

    def went_well(self) -> None:
        """A request was answered."""
        self.limit = min(self._most, self.limit + 1 / self.limit)
        self._wake()

    def refused(self, began: int) -> None:
        """A request was told to come later."""
        if began == self._round:
            self.limit = max(1.0, self.limit / 2)
            self._round += 1


class Http:
    """Sends requests to one service.

    ``patience`` is how many seconds one request is tried for. ``now``, ``sleep`` and ``chance`` are
    seconds since 1970, a pause of some seconds, and a number from 0 to 1.
    """

    def __init__(
        self,
        url: str,
        client: httpx.AsyncClient,
        *,
        auth: httpx.Auth | None = None,
        patience: float = 300.0,
        most_at_once: int = 8,
        report: Report = silent,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._url = url
        self._client = client
        self._auth = auth
        self._patience = patience
        self._report = report
        self.now = now
        self.sleep = sleep
        self._chance = chance
        self.gate = Gate(most_at_once)

    async def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """The answer to a request, of a status below 400.

        What may be sent again is (docs/errors.md): every request that got no answer, 429, 5xx, and
        409 ``session_finishing``. Raises an ApiError, or UnavailableError when patience is over.
        """
        until = self.now() + self._patience
        attempt = mends = 0
        while True:
            began = self.gate.round
            answer: httpx.Response | None = None
            failure: ApiError | None = None
            try:
                answer = await self._client.request(
                    method,
                    self._url + path,
                    content=body,
                    headers=headers,
                    auth=self._auth,
                    timeout=_TIMEOUT,
                    follow_redirects=False,
                )
            except httpx.TransportError as error:
                said = f"no answer from {httpx.URL(self._url).host}: {_name(error)}"
                cause: Exception = error
            else:
                if answer.status_code < HTTPStatus.BAD_REQUEST:
                    self.gate.went_well()
                    return answer
                failure = cause = api_error(answer.status_code, answer.content)
                said = str(failure)
                if failure.code == "digest_mismatch" and mends < _MENDS:
                    mends += 1
                elif not may_be_sent_again(failure):
                    raise explained(failure)
                if answer.status_code in _BUSY:
                    self.gate.refused(began)
            pause = self._pause(attempt, answer)
            attempt += 1
            if self.now() + pause > until:
                raise UnavailableError(
                    f"Given up after {attempt} attempts in {self._patience:.0f} s: {said}. Nothing"
                    " that was acknowledged is lost; go on with: gapless resume"
                ) from cause
            self._report("retry", {"reason": said, "seconds": round(pause, 1), "attempt": attempt})
            await self.sleep(pause)

    def _pause(self, attempt: int, answer: httpx.Response | None) -> float:
        """Full jitter: any time up to a bound that doubles; never before ``Retry-After``."""
        bound = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempt, 10))
        pause = self._chance() * bound
        return pause if answer is None else max(pause, self.retry_after(answer) + pause / 10)

    def retry_after(self, answer: httpx.Response) -> float:
        """Seconds that ``Retry-After`` asks for, as a number or a date; 0 without it."""
        said = answer.headers.get("Retry-After", "").strip()
        if said.isascii() and said.isdecimal():
            return float(said)
        try:
            return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - self.now())
        except ValueError:
            return 0.0

    @asynccontextmanager
    async def fetch(self, url: str, start: int) -> AsyncIterator[httpx.Response]:
        """A file from byte ``start`` on, without any of the service's headers: S3 refuses them."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        async with self._client.stream(
            "GET", url, headers=headers, timeout=_TIMEOUT, auth=None
        ) as answer:
            yield answer

    async def again(self, error: Exception, attempt: int, until: float) -> None:
        """Pause before the next attempt of something larger than one request, or give up."""
        pause = self._pause(attempt, None)
        if self.now() + pause > until:
            raise UnavailableError(f"Given up after {attempt + 1} attempts: {error}") from error
        self._report(
            "retry", {"reason": str(error), "seconds": round(pause, 1), "attempt": attempt}
        )
        await self.sleep(pause)

    def patient_until(self) -> float:
        """When patience with something that begins now is over."""
        return self.now() + self._patience


def may_be_sent_again(failure: ApiError) -> bool:
    """Whether the same request may get another answer."""
    return failure.status in _AGAIN or failure.code == "session_finishing"


def explained(failure: ApiError) -> ApiError:
    """A refusal of credentials, with what to do about it."""
    if isinstance(failure, AuthError) and not failure.code:
        advice = (
            f"{failure}. The token or the signature was refused: check the credentials and the"
            " clock, and go on with new ones by: gapless resume. What is stored stays."
        )
        failure.args = (advice,)
    return failure


def _name(error: httpx.TransportError) -> str:
    said = str(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
