"""How requests prove who sends them. Any other ``httpx.Auth`` will do too."""

import re
import shlex
import subprocess
from collections.abc import AsyncGenerator, Callable, Generator
from http import HTTPStatus
from threading import Lock
from typing import Any

import anyio.to_thread
import httpx

from gapless.errors import GaplessError


class TokenError(GaplessError):
    """The command that prints a token failed."""


class TokenAuth(httpx.Auth):
    """A bearer token; where it comes from a function, a new one is asked for after a 401.

    ``get`` may block and may be called from any thread.
    """

    def __init__(self, token: str | None = None, get: Callable[[], str] | None = None) -> None:
        self._token = token or ""
        self._get = get
        self._lock = Lock()

    @classmethod
    def from_command(cls, command: str) -> "TokenAuth":
        """The token is what ``command`` prints, which is run without a shell."""

        def run() -> str:
            try:
                done = subprocess.run(  # noqa: S603 - the user's own command
                    shlex.split(command), stdout=subprocess.PIPE, check=True, text=True
                )
            except (OSError, subprocess.CalledProcessError) as error:
                raise TokenError(f"The command for a token failed: {error}") from None
            return done.stdout.strip()

        return cls(get=run)

    def _renew(self, stale: str) -> str:
        """A token that is not ``stale``; requests that wait for one share it."""
        with self._lock:
            if self._get and self._token == stale:
                self._token = self._get()
            return self._token

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        """Send, and once more with a new token if the first was refused."""
        token = self._token or self._renew("")
        request.headers["Authorization"] = f"Bearer {token}"
        response = yield request
        if response.status_code == HTTPStatus.UNAUTHORIZED and self._get:
            request.headers["Authorization"] = f"Bearer {self._renew(token)}"
            yield request

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """The same, with the command beside the event loop."""
        token = self._token or await anyio.to_thread.run_sync(self._renew, "")
        request.headers["Authorization"] = f"Bearer {token}"
        response = yield request
        if response.status_code == HTTPStatus.UNAUTHORIZED and self._get:
            token = await anyio.to_thread.run_sync(self._renew, token)
            request.headers["Authorization"] = f"Bearer {token}"
            yield request


class SigV4Auth(httpx.Auth):
    """Signs requests as AWS wants it, with the usual chain of credentials. Needs ``gapless[aws]``.

    The region is the one in the URL of an API Gateway, or else that of the environment or profile.
    Credentials that run out are renewed by botocore.
    """

    requires_request_body = True

    def __init__(self, region: str | None = None, profile: str | None = None) -> None:
        try:
            import botocore.auth  # noqa: PLC0415 - an extra
            import botocore.awsrequest  # noqa: PLC0415
            import botocore.session  # noqa: PLC0415
        except ImportError:
            raise GaplessError("Signing needs botocore: pip install 'gapless[aws]'") from None
        session = botocore.session.Session(profile=profile)
        self._credentials: Any = session.get_credentials()
        if self._credentials is None:
            raise GaplessError(
                "No AWS credentials were found. Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and"
                " AWS_SECRET_ACCESS_KEY, or log in with the AWS CLI."
            )
        self._region = region
        self._fallback: str | None = session.get_config_variable("region")
        self._sign: Any = botocore.auth.SigV4Auth
        self._request: Any = botocore.awsrequest.AWSRequest

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign ``request``; each time anew, for a signature lives five minutes."""
        host = re.fullmatch(r"[^.]+\.execute-api\.([a-z0-9-]+)\.amazonaws\..*", request.url.host)
        region = self._region or (host[1] if host else self._fallback)
        if not region:
            raise GaplessError("The AWS region is not known. Set AWS_REGION, or give --region.")
        signed = self._request(request.method, str(request.url), data=request.content or None)
        if "Content-Type" in request.headers:
            signed.headers["Content-Type"] = request.headers["Content-Type"]
        credentials = self._credentials.get_frozen_credentials()
        self._sign(credentials, "execute-api", region).add_auth(signed)
        request.headers.update(dict(signed.headers.items()))
        yield request
