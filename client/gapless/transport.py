"""Connections: directly or through a proxy, and what is wrong where there is none."""

import os
import socket
import ssl
import urllib.request
from collections.abc import AsyncIterator, Iterator
from typing import Final

import httpx

from gapless.errors import SettingError, UnreachableError
from gapless.text import redact

_PIECE: Final = 64 * 1024
"""Bytes of a body that are written at once: a time-out watches each of them, not the whole body."""

_UNSENT: Final = 256 * 1024
"""Bytes that the kernel takes before it sends them. More would hide that nothing moves."""


def _socket_options() -> list[tuple[int, int, int]]:
    """Notice a dead peer and a line that stands still; not every system has all of these."""
    wanted = [
        ("TCP_KEEPIDLE", 15),
        ("TCP_KEEPINTVL", 5),
        ("TCP_KEEPCNT", 5),
        ("TCP_NOTSENT_LOWAT", _UNSENT),
    ]
    found = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in wanted:
        if (option := getattr(socket, name, None)) is not None:
            found.append((socket.IPPROTO_TCP, option, value))
    return found


class Body(httpx.AsyncByteStream, httpx.SyncByteStream):
    """The bytes of a request in pieces, as often as they are asked for."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._body), _PIECE):
            yield self._body[start : start + _PIECE]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


def proxy_of(url: httpx.URL) -> tuple[str, str] | None:
    """The proxy for ``url`` and the variable that names it; None where there is none."""
    host = url.host
    inside = f"[{host}]" if ":" in host else host
    if any(urllib.request.proxy_bypass(name) for name in (host, inside, f"{inside}:{url.port}")):
        return None
    proxies = urllib.request.getproxies()
    for kind in (url.scheme, "all"):
        if proxy := proxies.get(kind, "").strip():
            names = (f"{kind}_proxy", f"{kind}_PROXY".upper())
            variable = next((name for name in names if os.environ.get(name)), f"{kind} proxy")
            return (proxy if "://" in proxy else f"http://{proxy}"), variable
    return None


def trusted() -> ssl.SSLContext:
    """Whom to trust: ``SSL_CERT_FILE`` or ``SSL_CERT_DIR``, or else certifi's list."""
    named = next((n for n in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(n)), "")
    try:
        return httpx.create_ssl_context()
    except (OSError, ssl.SSLError) as error:
        raise SettingError(
            f"{named or 'The list of certificates'} cannot be used: {_reason(error)}."
            " It must name certificates in PEM format."
        ) from None


class Routes(httpx.AsyncBaseTransport):
    """Sends each request on its way; a way is made when it is first needed."""

    def __init__(self, limits: httpx.Limits) -> None:
        self._limits = limits
        self._ways: dict[str, httpx.AsyncHTTPTransport] = {}
        self._proxies: dict[tuple[str, str, int | None], tuple[str, str]] = {}
        self._trusted: ssl.SSLContext | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send ``request``. Raises SettingError where a variable cannot be used."""
        origin = (request.url.scheme, request.url.host, request.url.port)
        if origin not in self._proxies:
            self._proxies[origin] = proxy_of(request.url) or ("", "")
        proxy, variable = self._proxies[origin]
        if proxy not in self._ways:
            self._ways[proxy] = self._way(proxy, variable)
        return await self._ways[proxy].handle_async_request(request)

    def _way(self, proxy: str, variable: str) -> httpx.AsyncHTTPTransport:
        self._trusted = self._trusted or trusted()
        try:
            return httpx.AsyncHTTPTransport(
                verify=self._trusted,
                trust_env=False,
                limits=self._limits,
                proxy=proxy or None,
                socket_options=_socket_options(),
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise bad_proxy(variable, error) from None

    async def aclose(self) -> None:
        """Close every connection."""
        for way in self._ways.values():
            await way.aclose()


def bad_proxy(variable: str, error: Exception) -> SettingError:
    """The error for a proxy that cannot be used at all."""
    if isinstance(error, ImportError):
        reason = "a SOCKS proxy needs a package: pip install 'httpx[socks]'"
    else:
        reason = redact(str(error))
    return SettingError(
        f"The proxy that {variable} names cannot be used: {reason}. Unset {variable}, or except"
        " the service's host by NO_PROXY."
    )


def permanent(
    error: httpx.RequestError,
    url: str,
    source: str = "--url or GAPLESS_URL",
    *,
    last: bool = False,
) -> UnreachableError | None:
    """What to say of an error that is the same however often it is tried; None for others.

    ``source`` is where ``url`` came from; ``last`` is whether what may pass was tried enough. Only
    before anything answered there: afterwards a name that is not found, or a port where nothing
    listens, is a network that will be back.
    """
    reason = _lasting(error, last=last)
    if not reason:
        return None
    service = redact(url).split("?", maxsplit=1)[0]
    via, look = "", source
    if found := proxy_of(httpx.URL(url)):
        via = f" through the proxy that {found[1]} names"
        look = f"{found[1]} and NO_PROXY, and {source}"
    return UnreachableError(f"There is no answer from {service}{via}: {reason} Check {look}.")


def _lasting(error: httpx.RequestError, *, last: bool) -> str:  # noqa: PLR0911 - each its own
    """Why another attempt would end in the same way; "" where it might not."""
    causes = list(_chain(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not trusted ({cause.verify_message}). Name the file with its"
                " authority's certificate in SSL_CERT_FILE."
            )
        if isinstance(cause, ssl.SSLError):
            return f"there is no TLS ({cause.reason or 'it ended'}). Does it begin with http://?"
        if isinstance(cause, socket.gaierror):
            return f"the host's name is not known ({cause.strerror})."
    if isinstance(error, httpx.ProxyError):
        return f"the proxy says {redact(str(error))!r}."
    if isinstance(error, httpx.ConnectError):
        numbered = (cause for cause in causes if isinstance(cause, OSError) and cause.errno)
        return f"{_reason(next(numbered, OSError('no connection')))}. Does it run there?"
    if isinstance(error, httpx.RemoteProtocolError) and "illegal" in str(error):
        return "what listens there does not speak HTTP."
    if last and isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError)):
        return "every connection ends without one. Does it begin with https://?"
    if last and isinstance(error, httpx.ConnectTimeout):
        return "no connection is made in time."
    return ""


def described(error: Exception) -> str:
    """A transport error in some words."""
    if isinstance(error, httpx.TimeoutException):
        return "nothing came for too long"
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno:
            return _reason(cause)
    return redact(str(error)) or type(error).__name__


def _reason(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused"
    # asyncio tells every address that it tried; the first is enough.
    return redact(error.strerror or str(error) or type(error).__name__).split(" [Errno")[0]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """``error`` and all that led to it."""
    waiting: list[BaseException] = [error]
    seen: set[int] = set()
    while waiting:
        found = waiting.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        waiting += [one for one in (found.__cause__, found.__context__) if one is not None]
        waiting += getattr(found, "exceptions", ())
