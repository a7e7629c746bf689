"""Requests that are sent again until they are answered, and no more of them than are welcome."""

import email.utils
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

import anyio
import httpx

from gapless.auth import TokenError
from gapless.errors import (
    ApiError,
    AuthError,
    UnavailableError,
    UnexpectedAnswerError,
    api_error,
)
from gapless.text import count, redact
from gapless.transport import Body, described, permanent

Report = Callable[[str, dict[str, Any]], None]
"""Gets the name of what happened, and its facts. Called from any thread; it must not block."""

_BUSY: Final = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
_AGAIN: Final = _BUSY | {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.GATEWAY_TIMEOUT,
}
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 20.0
_LEAST_PAUSE: Final = 0.001

SILENCE: Final = 40.0
"""Seconds without any progress until a request counts as lost. API Gateway answers within 30 s of
the last byte, whatever happens behind it."""

_CONNECT_SECONDS: Final = 10.0
_HIDDEN_RATE: Final = 50_000
"""Bytes per second at which buffers on the way, which hide progress, are taken to empty."""

_SLOW_SECONDS: Final = 10.0
"""An answer that takes longer means that less should be under way: so batches fit the line."""

_JUMP_SECONDS: Final = 5.0
"""A pause that took this much longer was a process that stood still, or a machine that slept."""

_FIRST_ATTEMPTS: Final = 3
"""How often a host that has never answered may drop a connection, or not take one in time."""

_MENDS: Final = 2
"""How often a body that was spoiled on its way is sent again (docs/errors.md)."""


def silent(event: str, facts: dict[str, Any]) -> None:
    """Report nothing."""


class Gate:
    """As many requests at once as go well: at first one, and one more with each answer.

    Half of it after congestion: a refusal, a time-out, or an answer that took long. From then on
    one more after each round (AIMD). Congestion counts once for all the requests that were under
    way when it showed.
    """

    def __init__(self, most: int) -> None:
        self.limit = 1.0
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
        """Goes up with each congestion; ``congested`` wants the one the request began in."""
        return self._round

    def went_well(self) -> None:
        """A request was answered."""
        more = 1 / self.limit if self._round else 1.0
        self.limit = min(self._most, self.limit + more)
        self._wake()

    def congested(self, began: int) -> None:
        """A request was told to come later, or took too long."""
        if began == self._round:
            self.limit = max(1.0, self.limit / 2)
            self._round += 1


class Trouble:
    """How long something is tried that fails: ``patience`` seconds without any good answer.

    They begin with the first failure, anew with each good answer to whatever request, and anew
    after a jump of the clock: a process that was stopped, or a machine that slept, has not tried.
    """

    def __init__(self, http: "Http") -> None:
        self._http = http
        self._since: float | None = None
        self.attempts = 0
        """Failures in a row since the last jump."""
        self._failures = 0

    async def pause(
        self, reason: str, cause: Exception, *, answer: httpx.Response | None = None
    ) -> None:
        """Wait for the next attempt. Raises UnavailableError once patience is over."""
        http = self._http
        if self._since is None:
            self._since = http.clock()
        began = max(self._since, http.last_good, http.last_jump)
        if http.last_jump > self._since:
            self._since, self.attempts = http.last_jump, 0
        seconds = http.pause(self.attempts, answer)
        self.attempts += 1
        self._failures += 1
        waited = http.clock() - began
        left = http.patience - waited
        asked = 0.0 if answer is None else http.retry_after(answer)
        if left < _LEAST_PAUSE or asked > left:
            if asked > http.patience:
                reason = f"{reason.rstrip('.')}; it asks to wait {asked:,.0f} s, see --patience"
            raise UnavailableError(
                f"Given up after {count(self._failures, 'attempt')}, {waited:.0f} s without a good"
                f" answer: {reason.rstrip('.')}. Nothing that was acknowledged is lost."
            ) from cause
        # The last attempt is at the end of patience, and not where a long pause would be over.
        seconds = min(seconds, left)
        facts = {"reason": reason, "seconds": round(seconds, 1), "attempt": self._failures}
        http.report("retry", facts)
        before = http.clock()
        await http.sleep(seconds)
        if http.clock() - before > seconds + _JUMP_SECONDS:
            http.last_jump = http.clock()


class Http:
    """Sends requests to one service.

    ``patience`` is how many seconds are tried without a good answer. ``now``, ``clock``, ``sleep``
    and ``chance`` are seconds since 1970, seconds that never go back, a pause of some seconds, and
    a number from 0 to 1. ``silence`` is how many seconds without progress a request is given.
    """

    def __init__(
        self,
        url: str,
        transport: httpx.AsyncBaseTransport,
        *,
        auth: httpx.Auth | None = None,
        patience: float = 300.0,
        most_at_once: int = 8,
        report: Report = silent,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        chance: Callable[[], float] = random.random,
        silence: float = SILENCE,
    ) -> None:
        self._url = url
        self._host = httpx.URL(url).host
        self._transport = transport
        # Proxies are the transport's business.
        self._client = httpx.AsyncClient(transport=transport, trust_env=False)
        self._auth = auth
        self.patience = patience
        self.report = report
        self.now = now
        self.clock = clock
        self.sleep = sleep
        self._chance = chance
        self._silence = silence
        self._answered = False
        """Whether anything ever answered here."""
        self.last_good = self.last_jump = float("-inf")
        self.gate = Gate(most_at_once)

    async def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        expect: Collection[int] = (HTTPStatus.OK,),
    ) -> httpx.Response:
        """The answer to a request, of a status that is in ``expect``.

        What may be sent again is (docs/errors.md): every request that got no answer, 429, 5xx, and
        409 ``session_finishing``. Raises an ApiError; UnreachableError where nothing answers at the
        first time; UnavailableError when patience is over; UnexpectedAnswerError for any other
        success than the documented ones, and for redirects.
        """
        trouble = Trouble(self)
        mends = timeouts = 0
        # Buffers on the way may hide that a slow line moves; each time-out doubles what is given.
        patient = self._silence * (1 + len(body or b"") / _HIDDEN_RATE / SILENCE)
        while True:
            round_, began = self.gate.round, self.clock()
            answer: httpx.Response | None = None
            cause: Exception
            try:
                answer = await self._send(method, path, body, headers, patient * 2**timeouts)
            except httpx.RequestError as error:
                said, cause = self._no_answer(error, trouble.attempts), error
                if isinstance(error, httpx.TimeoutException):
                    timeouts += 1
                    self.gate.congested(round_)
            else:
                self._answered = True
                if answer.status_code in expect:
                    self._went_well(round_, began)
                    return answer
                refusal = self._refusal(answer, mended=mends == _MENDS)
                said, cause = str(refusal), refusal
                mends += refusal.code == "digest_mismatch"
                if answer.status_code in _BUSY:
                    self.gate.congested(round_)
            await trouble.pause(said, cause, answer=answer)

    def _went_well(self, round_: int, began: float) -> None:
        self.last_good = self.clock()
        if self.last_good - began > _SLOW_SECONDS:
            self.gate.congested(round_)
        else:
            self.gate.went_well()

    def _no_answer(self, error: httpx.RequestError, attempts: int) -> str:
        """Why; raises where another attempt would end in the same way."""
        if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
            # Its text may hold the header, and that the token.
            raise TokenError(
                f"The request to {self._host} cannot be sent: a header holds a character that HTTP"
                " does not allow. Check the token and the other credentials."
            ) from None
        last = attempts + 1 >= _FIRST_ATTEMPTS
        if not self._answered and (fault := permanent(error, self._url, last=last)):
            raise fault from None
        return f"no answer from {self._host}: {described(error)}"

    def _refusal(self, answer: httpx.Response, *, mended: bool) -> ApiError:
        """The error of an answer, if it may be sent again; raises it otherwise."""
        if answer.status_code < HTTPStatus.BAD_REQUEST:
            raise unexpected(answer)
        failure = api_error(answer.status_code, answer.content, self._secrets())
        if failure.code == "digest_mismatch" and not mended:
            return failure
        if not may_be_sent_again(failure):
            raise explained(failure)
        return failure

    async def _send(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str] | None,
        patient: float,
    ) -> httpx.Response:
        timeout = httpx.Timeout(
            self._silence, connect=min(_CONNECT_SECONDS, self._silence), read=patient, pool=None
        )
        request = self._client.build_request(
            method, self._url + path, content=body, headers=headers, timeout=timeout
        )
        if body:
            request.stream = Body(body)
        return await self._client.send(request, auth=self._auth, follow_redirects=False)

    def _secrets(self) -> Collection[str]:
        return getattr(self._auth, "secrets", ())

    def pause(self, attempt: int, answer: httpx.Response | None) -> float:
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
        timeout = httpx.Timeout(self._silence, connect=min(_CONNECT_SECONDS, self._silence))
        request = self._client.build_request("GET", url, headers=headers, timeout=timeout)
        # Not through the client, which logs addresses: whoever has this one has the file.
        answer = await self._transport.handle_async_request(request)
        answer.request = request
        try:
            yield answer
        finally:
            await answer.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def watch(self) -> None:
        """Notice that the process stood still, for as long as this runs."""
        while True:
            before = self.clock()
            await anyio.sleep(1)
            if self.clock() - before > 1 + _JUMP_SECONDS:
                self.last_jump = self.clock()


def may_be_sent_again(failure: ApiError) -> bool:
    """Whether the same request may get another answer."""
    return failure.status in _AGAIN or failure.code == "session_finishing"


def explained(failure: ApiError) -> ApiError:
    """A refusal by what stands before the service, with what to do about it."""
    advice = ""
    if isinstance(failure, AuthError):
        advice = (
            "The token or the signature was refused: check the credentials and the clock. What is"
            " stored stays."
        )
    elif failure.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        advice = (
            "What stands before the service takes no body of this size. Start over in smaller"
            " batches, with --new and --batch-size; or raise its limit."
        )
    elif failure.status == HTTPStatus.NOT_FOUND:
        advice = "There is no Gapless service at this address: check --url or GAPLESS_URL."
    elif failure.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        advice = "The proxy wants credentials: put them into HTTPS_PROXY or HTTP_PROXY."
    elif failure.status == HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED:
        advice = "The network wants a log-in: open a browser and log in."
    if advice and not failure.code:
        failure.args = (f"{failure}. {advice}",)
    return failure


def unexpected(answer: httpx.Response, reason: str = "") -> UnexpectedAnswerError:
    """The error for a success that the service does not give, or a redirect."""
    host = answer.request.url.host
    if answer.is_redirect:
        try:
            to = answer.request.url.join(answer.headers["Location"])
        except httpx.InvalidURL:
            to = answer.request.url
        # Its path and query may hold anything.
        what = f"a redirect to {to.scheme}://{to.host} ({answer.status_code})"
        if (to.host, to.scheme) == (host, "https") and answer.request.url.scheme == "http":
            return UnexpectedAnswerError(
                f"Gapless did not answer at {host}: {what} came instead. Let the URL begin with"
                " https://, in --url or GAPLESS_URL."
            )
    elif "html" in answer.headers.get("Content-Type", ""):
        title = re.search(r"(?is)<title>\s*([^<]{1,80})", answer.text)
        named = f", {' '.join(redact(title[1]).split())!r}" if title else ""
        what = f"a web page{named} ({answer.status_code})"
    else:
        what = f"status {answer.status_code}{f', {reason}' if reason else ''}"
    return UnexpectedAnswerError(
        f"Gapless did not answer at {host}: {what} came instead. A portal or a log-in stands before"
        " the service, or it is another one. Log in, or check --url or GAPLESS_URL."
    )
