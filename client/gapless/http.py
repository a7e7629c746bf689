"""Sends requests to the service: retries with backoff, limits concurrency adaptively.

It knows HTTP and the service's errors, but not sessions. No message may contain a credential.
"""

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
    CHECK_URL,
    ApiError,
    UnavailableError,
    UnexpectedAnswerError,
    api_error,
)
from gapless.text import count, redact
from gapless.transport import ChunkedBody, describe_error, permanent_error

Report = Callable[[str, dict[str, Any]], None]
"""Called with the name and the facts of each event, from any thread; it must not block."""

_BUSY: Final = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
_RETRYABLE: Final = _BUSY | {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.GATEWAY_TIMEOUT,
}
_FIRST_PAUSE: Final = 0.5
_MAX_PAUSE: Final = 20.0
_MIN_PAUSE: Final = 0.001

SILENCE: Final = 40.0
"""Seconds without progress after which a request counts as lost. API Gateway always responds within
30 s of the last byte."""

_CONNECT_SECONDS: Final = 10.0
_BUFFERED_RATE: Final = 50_000
"""Assumed rate, bytes per second, at which network buffers, which hide progress, are emptied."""

_SLOW_SECONDS: Final = 10.0
"""A slower response counts as congestion, so that concurrency adapts to the bandwidth."""

_JUMP_SECONDS: Final = 5.0
"""If a pause takes this much longer, the process was stopped or the machine slept."""

_FIRST_ATTEMPTS: Final = 3
"""Attempts to connect to a host that has never responded."""

_MAX_CORRUPTIONS: Final = 2
"""How often a body that was damaged in transit is sent again (docs/errors.md)."""


def ignore_events(event: str, facts: dict[str, Any]) -> None:
    """Report nothing."""


class AdaptiveLimiter:
    """Limits concurrent requests by additive increase and multiplicative decrease (AIMD).

    The limit starts at 1 and grows by 1 with each success. Congestion (a 429 or 503, a time-out or
    a slow response) halves it; after that it grows by 1 per round of successes. All requests that
    are in flight when congestion occurs count once.
    """

    def __init__(self, maximum: int) -> None:
        self.limit = 1.0
        self.congestions = 0
        """How often the limit was halved."""
        self._maximum = maximum
        self._running = 0
        self._changed: anyio.Event | None = None

    async def acquire(self) -> None:
        """Wait for a slot and take it until ``release``; any task may release it."""
        while self._running >= int(self.limit):
            if self._changed is None or self._changed.is_set():
                self._changed = anyio.Event()
            await self._changed.wait()
        self._running += 1

    def release(self) -> None:
        """Free a slot."""
        self._running -= 1
        self._notify()

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set()

    def succeeded(self) -> None:
        """Raise the limit: a request succeeded."""
        increase = 1 / self.limit if self.congestions else 1.0
        self.limit = min(self._maximum, self.limit + increase)
        self._notify()

    def congested(self, congestions: int) -> None:
        """Halve the limit, unless it was halved since the request began, with ``congestions``."""
        if congestions == self.congestions:
            self.limit = max(1.0, self.limit / 2)
            self.congestions += 1


class Backoff:
    """The pauses between the attempts of one request, until ``patience`` ends.

    Patience starts with the first failure. It restarts when any request succeeds, and after a jump
    of the clock: a stopped process or a sleeping machine made no attempts.
    """

    def __init__(self, http: "Http") -> None:
        self._http = http
        self._since: float | None = None
        self.attempts = 0
        """Consecutive failures since the last jump of the clock."""
        self._failures = 0

    async def wait(
        self, reason: str, cause: Exception, *, response: httpx.Response | None = None
    ) -> None:
        """Wait until the next attempt. Raises UnavailableError if patience ends before it."""
        http = self._http
        if self._since is None:
            self._since = http.clock()
        began = max(self._since, http.last_success, http.last_jump)
        if http.last_jump > self._since:
            self._since, self.attempts = http.last_jump, 0
        seconds = http.pause(self.attempts, response)
        self.attempts += 1
        self._failures += 1
        waited = http.clock() - began
        left = http.patience - waited
        requested = 0.0 if response is None else http.retry_after(response)
        if left < _MIN_PAUSE or requested > left:
            if requested > http.patience:
                reason = f"{reason.rstrip('.')}; it asks to wait {requested:,.0f} s, see --patience"
            raise UnavailableError(
                f"Stopped after {count(self._failures, 'attempt')}, {waited:.0f} s without a good"
                f" response: {reason.rstrip('.')}. Nothing that was acknowledged is lost."
            ) from cause
        # Make the last attempt when patience ends, not after a longer pause.
        seconds = min(seconds, left)
        facts = {"reason": reason, "seconds": round(seconds, 1), "attempt": self._failures}
        http.report("retry", facts)
        before = http.clock()
        await http.sleep(seconds)
        http.notice_jump(http.clock() - before, seconds)


class Http:
    """Sends requests to one service.

    A request is retried until no request succeeds for ``patience`` seconds. ``now`` returns seconds
    since 1970, ``clock`` monotonic seconds, ``chance`` a random number from 0 to 1; ``sleep``
    pauses for some seconds. ``silence`` is the maximum time without progress, in seconds.
    """

    def __init__(
        self,
        url: str,
        transport: httpx.AsyncBaseTransport,
        limiter: AdaptiveLimiter,
        *,
        auth: httpx.Auth | None = None,
        patience: float = 300.0,
        report: Report = ignore_events,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        chance: Callable[[], float] = random.random,
        silence: float = SILENCE,
    ) -> None:
        self._url = url
        self._host = httpx.URL(url).host
        self._transport = transport
        # The transport handles proxies.
        self._client = httpx.AsyncClient(transport=transport, trust_env=False)
        self._limiter = limiter
        self._auth = auth
        self.patience = patience
        self.report = report
        self.now = now
        self.clock = clock
        self.sleep = sleep
        self._chance = chance
        self._silence = silence
        self._responded = False
        self.last_success = self.last_jump = float("-inf")

    async def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        expect: Collection[int] = (HTTPStatus.OK,),
    ) -> httpx.Response:
        """Send a request until its response has a status in ``expect``; returns that response.

        Retries if there is no response, after 429 and 5xx, and after 409 ``session_finishing`` and
        ``file_settling`` (docs/errors.md). Raises ApiError; UnreachableError if the first request
        reaches no server; UnavailableError if patience ends; UnexpectedAnswerError for an
        undocumented success or a redirect.
        """
        backoff = Backoff(self)
        corruptions = timeouts = 0
        # Network buffers may hide progress on a slow line, so each time-out doubles the limit.
        read_timeout = self._silence * (1 + len(body or b"") / _BUFFERED_RATE / SILENCE)
        while True:
            congestions, began = self._limiter.congestions, self.clock()
            response: httpx.Response | None = None
            cause: Exception
            try:
                response = await self._send(method, path, body, headers, read_timeout * 2**timeouts)
            except httpx.RequestError as error:
                reason, cause = self._no_response(error, backoff.attempts), error
                if isinstance(error, httpx.TimeoutException):
                    timeouts += 1
                    self._limiter.congested(congestions)
            else:
                self._responded = True
                if response.status_code in expect:
                    self._succeeded(congestions, began)
                    return response
                refusal = self._refusal(response, resend=corruptions < _MAX_CORRUPTIONS)
                reason, cause = str(refusal), refusal
                corruptions += refusal.code == "digest_mismatch"
                if response.status_code in _BUSY:
                    self._limiter.congested(congestions)
            await backoff.wait(reason, cause, response=response)

    def _succeeded(self, congestions: int, began: float) -> None:
        self.last_success = self.clock()
        if self.last_success - began > _SLOW_SECONDS:
            self._limiter.congested(congestions)
        else:
            self._limiter.succeeded()

    def _no_response(self, error: httpx.RequestError, attempts: int) -> str:
        """The reason; raises the error if another attempt would fail in the same way."""
        if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
            # httpx's message may contain the header with the token.
            raise TokenError(
                f"The request to {self._host} cannot be sent: a header contains a character that"
                " HTTP does not allow. Check the token and the other credentials."
            ) from None
        last = attempts + 1 >= _FIRST_ATTEMPTS
        if not self._responded and (fault := permanent_error(error, self._url, last=last)):
            raise fault from None
        return f"no response from {self._host}: {describe_error(error)}"

    def _refusal(self, response: httpx.Response, *, resend: bool) -> ApiError:
        """The error of a response if it is retryable; otherwise raises it.

        ``resend``: whether a body that was damaged in transit may be sent again.
        """
        if response.status_code < HTTPStatus.BAD_REQUEST:
            raise unexpected_response(response)
        failure = api_error(response.status_code, response.content, self._secrets())
        if is_retryable(failure) or (failure.code == "digest_mismatch" and resend):
            return failure
        raise with_advice(failure)

    async def _send(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str] | None,
        read_timeout: float,
    ) -> httpx.Response:
        request = self._client.build_request(
            method,
            self._url + path,
            content=body,
            headers=headers,
            timeout=self._timeout(read_timeout),
        )
        if body:
            request.stream = ChunkedBody(body)
        return await self._client.send(request, auth=self._auth, follow_redirects=False)

    def _timeout(self, read: float, pool: float | None = None) -> httpx.Timeout:
        connect = min(_CONNECT_SECONDS, self._silence)
        return httpx.Timeout(self._silence, connect=connect, read=read, pool=pool)

    def _secrets(self) -> Collection[str]:
        return getattr(self._auth, "secrets", ())

    def pause(self, attempt: int, response: httpx.Response | None) -> float:
        """Seconds to wait: full jitter, the bound doubles per attempt; not before Retry-After."""
        bound = min(_MAX_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempt, 10))
        pause = self._chance() * bound
        return pause if response is None else max(pause, self.retry_after(response) + pause / 10)

    def retry_after(self, response: httpx.Response) -> float:
        """Seconds in ``Retry-After``, which is a number or a date; 0 without it."""
        value = response.headers.get("Retry-After", "").strip()
        if value.isascii() and value.isdecimal():
            return float(value)
        try:
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - self.now())
        except ValueError:
            return 0.0

    @asynccontextmanager
    async def fetch(self, url: str, start: int) -> AsyncIterator[httpx.Response]:
        """A file from byte ``start`` on, without the service's credentials, which S3 refuses."""
        # A response that the server compresses could not be continued at a byte.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        request = self._client.build_request(
            "GET", url, headers=headers, timeout=self._timeout(self._silence, self._silence)
        )
        # Bypass httpx's client: it logs URLs, and a presigned URL is a secret.
        response = await self._transport.handle_async_request(request)
        response.request = request
        try:
            yield response
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def watch_clock(self) -> None:
        """Detect jumps of the clock, until cancelled."""
        while True:
            # Not ``clock``: this pause is real also if that one is not.
            before = time.monotonic()
            await anyio.sleep(1)
            self.notice_jump(time.monotonic() - before, 1)

    def notice_jump(self, took: float, seconds: float) -> None:
        """Record a jump of the clock if a pause of ``seconds`` took much longer."""
        if took > seconds + _JUMP_SECONDS:
            self.last_jump = self.clock()


def is_retryable(failure: ApiError) -> bool:
    """Whether the same request may succeed later."""
    return failure.status in _RETRYABLE or failure.code in {"session_finishing", "file_settling"}


_CREDENTIALS: Final = (
    "The token or the signature was refused: check the credentials and the clock. Stored batches"
    " are kept."
)
_ADVICE: Final[dict[int, str]] = {
    HTTPStatus.UNAUTHORIZED: _CREDENTIALS,
    HTTPStatus.FORBIDDEN: _CREDENTIALS,
    HTTPStatus.NOT_FOUND: (
        "There is no Gapless service at this URL, or it is older than this client and does not"
        f" accept batches as NDJSON. {CHECK_URL}"
    ),
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: (
        "The proxy requires credentials: set them in HTTPS_PROXY or HTTP_PROXY."
    ),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (
        "A proxy or gateway does not accept a body of this size. Start over with smaller batches,"
        " by --new and --batch-size; or raise its limit."
    ),
    HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED: (
        "The network requires a login: open a browser and log in."
    ),
}


def with_advice(failure: ApiError) -> ApiError:
    """``failure``, with advice in its message if a proxy or gateway refused the request."""
    advice = _ADVICE.get(failure.status)
    if advice and not failure.code:
        failure.args = (f"{failure}. {advice}",)
    return failure


def unexpected_response(response: httpx.Response, reason: str = "") -> UnexpectedAnswerError:
    """The error for an undocumented success, or a redirect."""
    host = response.request.url.host
    if response.is_redirect:
        try:
            to = response.request.url.join(response.headers["Location"])
        except httpx.InvalidURL:
            to = response.request.url
        # Its path and query may contain secrets.
        what = f"a redirect to {to.scheme}://{to.host} ({response.status_code})"
        if (to.host, to.scheme) == (host, "https") and response.request.url.scheme == "http":
            return UnexpectedAnswerError(
                f"The response of {host} is not from Gapless: {what}. The URL must begin with"
                f" https://. {CHECK_URL}"
            )
    elif "html" in response.headers.get("Content-Type", ""):
        title = re.search(r"(?is)<title>\s*([^<]{1,80})", response.text)
        quoted = f", {' '.join(redact(title[1]).split())!r}" if title else ""
        what = f"a web page{quoted} ({response.status_code})"
    else:
        what = f"status {response.status_code}{f', {reason}' if reason else ''}"
    return UnexpectedAnswerError(
        f"The response of {host} is not from Gapless: {what}. A captive portal or a login page is"
        f" in the way, or the URL is that of another service. Log in, or: {CHECK_URL}"
    )
