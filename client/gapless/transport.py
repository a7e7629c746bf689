"""Connections, direct or through a proxy, and explanations of their failures."""

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
"""Bytes of a body per write: the time-out is per write, not for the whole body."""

_UNSENT: Final = 256 * 1024
"""Unsent bytes that the kernel may buffer; more would hide a stalled connection."""


def _socket_options() -> list[tuple[int, int, int]]:
    """Options that detect a dead peer or a stalled connection, as far as the system has them."""
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


class ChunkedBody(httpx.AsyncByteStream, httpx.SyncByteStream):
    """A request body that is written in pieces; can be iterated repeatedly."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._body), _PIECE):
            yield self._body[start : start + _PIECE]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


def find_proxy(url: httpx.URL) -> tuple[str, str] | None:
    """The proxy for ``url`` and the environment variable that sets it; None without a proxy."""
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


def ssl_context() -> ssl.SSLContext:
    """A context that trusts ``SSL_CERT_FILE`` or ``SSL_CERT_DIR``, or else certifi's certificates.

    Raises SettingError.
    """
    variable = next((n for n in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(n)), "")
    try:
        return httpx.create_ssl_context()
    except (OSError, ssl.SSLError) as error:
        raise SettingError(
            f"{variable or 'The list of certificates'} cannot be used: {_reason(error)}."
            " It must contain certificates in PEM format."
        ) from None


class ProxyTransport(httpx.AsyncBaseTransport):
    """Sends each request directly, or through the proxy for its host."""

    def __init__(self, limits: httpx.Limits) -> None:
        self._limits = limits
        self._transports: dict[tuple[str, str], httpx.AsyncHTTPTransport] = {}
        """By scheme and proxy; created lazily."""
        self._proxies: dict[tuple[str, str, int | None], tuple[str, str]] = {}
        self._ssl_context: ssl.SSLContext | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send ``request``. Raises SettingError if a variable has an invalid value."""
        origin = (request.url.scheme, request.url.host, request.url.port)
        if origin not in self._proxies:
            self._proxies[origin] = find_proxy(request.url) or ("", "")
        proxy, variable = self._proxies[origin]
        key = request.url.scheme, proxy
        if key not in self._transports:
            self._transports[key] = self._create(*key, variable)
        return await self._transports[key].handle_async_request(request)

    def _create(self, scheme: str, proxy: str, variable: str) -> httpx.AsyncHTTPTransport:
        if scheme == "https":
            context = self._ssl_context = self._ssl_context or ssl_context()
        else:
            # Loading certificates takes a tenth of the start. This one trusts nobody.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            return httpx.AsyncHTTPTransport(
                verify=context,
                trust_env=False,
                limits=self._limits,
                proxy=proxy or None,
                socket_options=_socket_options(),
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise proxy_error(variable, error) from None

    async def aclose(self) -> None:
        """Close all connections."""
        for transport in self._transports.values():
            await transport.aclose()


def proxy_error(variable: str, error: Exception) -> SettingError:
    """The error for a proxy that cannot be used."""
    if isinstance(error, ImportError):
        reason = "a SOCKS proxy requires a package: pip install 'httpx[socks]'"
    else:
        reason = redact(str(error))
    return SettingError(
        f"The proxy in {variable} cannot be used: {reason}. Unset {variable}, or add the service's"
        " host to NO_PROXY."
    )


def permanent_error(
    error: httpx.RequestError,
    url: str,
    source: str = "--url or GAPLESS_URL",
    *,
    last: bool = False,
) -> UnreachableError | None:
    """The error to raise if retrying cannot help; None otherwise.

    ``source`` names the setting of ``url``; ``last`` is whether errors that may be temporary were
    retried often enough. Call it only before the first response: after that, an unknown host or a
    closed port is a temporary failure of the network.
    """
    reason = _permanent_reason(error, last=last)
    if not reason:
        return None
    service = redact(url).split("?", maxsplit=1)[0]
    via, check = "", source
    if found := find_proxy(httpx.URL(url)):
        via = f" through the proxy in {found[1]}"
        check = f"{found[1]} and NO_PROXY, and {source}"
    return UnreachableError(f"There is no response from {service}{via}: {reason} Check {check}.")


def _permanent_reason(error: httpx.RequestError, *, last: bool) -> str:  # noqa: PLR0911 - each its own
    """Why retrying cannot help; "" if it may."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not trusted ({cause.verify_message}). Set SSL_CERT_FILE to the"
                " file with the certificate of its authority."
            )
        if isinstance(cause, ssl.SSLError):
            return f"it does not speak TLS ({cause.reason or 'disconnected'}). Is its URL http://?"
        if isinstance(cause, socket.gaierror):
            return f"the host name is unknown ({cause.strerror})."
    if isinstance(error, httpx.ProxyError):
        return f"the proxy responds with {redact(str(error))!r}."
    if isinstance(error, httpx.ConnectError):
        numbered = (cause for cause in causes if isinstance(cause, OSError) and cause.errno)
        return f"{_reason(next(numbered, OSError('no connection')))}. Is the service running?"
    if isinstance(error, httpx.RemoteProtocolError) and "illegal" in str(error):
        return "it does not speak HTTP."
    if last and isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError)):
        return "it closes every connection. Is its URL https://?"
    if last and isinstance(error, httpx.ConnectTimeout):
        return "connecting timed out."
    return ""


def describe_error(error: Exception) -> str:
    """A transport error in a few words."""
    if isinstance(error, httpx.TimeoutException):
        return "timed out"
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno:
            return _reason(cause)
    return redact(str(error)) or type(error).__name__


def _reason(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused"
    # asyncio lists the error of every address; the first is enough.
    return redact(error.strerror or str(error) or type(error).__name__).split(" [Errno")[0]


def _causes(error: BaseException) -> Iterator[BaseException]:
    waiting: list[BaseException] = [error]
    seen: set[int] = set()
    while waiting:
        cause = waiting.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        waiting += [one for one in (cause.__cause__, cause.__context__) if one is not None]
        waiting += getattr(cause, "exceptions", ())
