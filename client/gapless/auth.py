"""Authentication of requests. Any other ``httpx.Auth`` works as well.

An auth's attribute ``secrets``, if it has one, lists strings that no message may contain.
"""

import re
import shlex
import subprocess
from collections.abc import AsyncGenerator, Callable, Generator
from http import HTTPStatus
from threading import Lock
from typing import Any, Final

import anyio.to_thread
import httpx

from gapless.errors import GaplessError, SettingError
from gapless.text import redact

_ADVICE: Final = "Check GAPLESS_TOKEN, --token or --token-command."
_UNSENDABLE: Final = re.compile(r"[^!-~]")


class TokenError(GaplessError):
    """No usable credentials: an invalid token, or a token command that failed."""


class TokenAuth(httpx.Auth):
    """A bearer token; ``get`` returns one, and is called again after a 401.

    ``get`` may block and may be called from any thread.
    """

    def __init__(self, token: str | None = None, get: Callable[[], str] | None = None) -> None:
        self.secrets: set[str] = set()
        """Every token that was used, to be removed from messages."""
        self._token = self._checked(token) if token else ""
        self._get = get
        self._lock = Lock()

    def _checked(self, token: str) -> str:
        """The token, stripped. Raises TokenError, without the token in its message."""
        token = token.strip()
        self.secrets.add(token)
        if not token:
            raise TokenError(f"The token is empty. {_ADVICE}")
        if wrong := _UNSENDABLE.search(token):
            raise TokenError(
                f"The token cannot be sent: a header must not contain its character"
                f" {wrong.start() + 1}. {_ADVICE}"
            )
        return token

    @classmethod
    def from_command(cls, command: str) -> "TokenAuth":
        """The token that ``command`` prints; it runs without a shell."""

        def run() -> str:
            # Arguments and output may be secret: no message may contain them.
            try:
                program, *arguments = shlex.split(command)
                done = subprocess.run(  # noqa: S603 - the user's own command
                    [program, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    check=False,
                )
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not a command"
                raise TokenError(f"--token-command cannot be run: {reason}.") from None
            if done.returncode:
                raise TokenError(f"--token-command, {program}, exited with {done.returncode}.")
            return done.stdout.decode(errors="replace")

        return cls(get=run)

    def _renew(self, stale: str) -> str:
        """A token other than ``stale``; concurrent requests share the new one."""
        with self._lock:
            if self._get and self._token == stale:
                self._token = self._checked(self._get())
            return self._token

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        """Send the request; after a 401 send it once more with a new token."""
        token = self._token or self._renew("")
        request.headers["Authorization"] = f"Bearer {token}"
        response = yield request
        if response.status_code == HTTPStatus.UNAUTHORIZED and self._get:
            request.headers["Authorization"] = f"Bearer {self._renew(token)}"
            yield request

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """The same, without blocking the event loop."""
        token = self._token or await anyio.to_thread.run_sync(self._renew, "")
        request.headers["Authorization"] = f"Bearer {token}"
        response = yield request
        if response.status_code == HTTPStatus.UNAUTHORIZED and self._get:
            token = await anyio.to_thread.run_sync(self._renew, token)
            request.headers["Authorization"] = f"Bearer {token}"
            yield request


class SigV4Auth(httpx.Auth):
    """Signs requests with AWS Signature Version 4. Requires ``gapless[aws]``.

    botocore finds the credentials, and renews expired ones. The default region is the one in the
    API Gateway URL, or else that of the environment or profile.
    """

    requires_request_body = True

    def __init__(self, region: str | None = None, profile: str | None = None) -> None:
        try:
            import botocore.auth  # noqa: PLC0415 - an extra
            import botocore.awsrequest  # noqa: PLC0415
            import botocore.exceptions  # noqa: PLC0415
            import botocore.session  # noqa: PLC0415
        except ImportError:
            raise GaplessError("Signing requires botocore: pip install 'gapless[aws]'") from None
        self._fault: Any = botocore.exceptions.BotoCoreError
        session = botocore.session.Session(profile=profile)
        try:
            self._credentials: Any = session.get_credentials()
            self._fallback: str | None = session.get_config_variable("region")
        except self._fault as error:
            raise TokenError(f"The AWS credentials cannot be used: {redact(str(error))}") from None
        if self._credentials is None:
            raise TokenError(
                "No AWS credentials were found. Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and"
                " AWS_SECRET_ACCESS_KEY, or log in with the AWS CLI."
            )
        self.secrets: set[str] = set()
        self._region = region
        self._sign: Any = botocore.auth.SigV4Auth
        self._request: Any = botocore.awsrequest.AWSRequest

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign ``request``; every attempt is signed again, because a signature expires."""
        host = re.fullmatch(r"[^.]+\.execute-api\.([a-z0-9-]+)\.amazonaws\..*", request.url.host)
        region = self._region or (host[1] if host else self._fallback)
        if not region:
            raise SettingError("The AWS region is unknown. Set AWS_REGION, or pass --region.")
        signed = self._request(request.method, str(request.url), data=request.content or None)
        if "Content-Type" in request.headers:
            signed.headers["Content-Type"] = request.headers["Content-Type"]
        try:
            credentials = self._credentials.get_frozen_credentials()
        except self._fault as error:
            raise TokenError(f"The AWS credentials cannot be used: {redact(str(error))}") from None
        self.secrets = {credentials.secret_key, credentials.token or ""}
        self._sign(credentials, "execute-api", region).add_auth(signed)
        request.headers.update(dict(signed.headers.items()))
        yield request
