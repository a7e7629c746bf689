"""A client of DynamoDB for the four calls that ``session_store`` makes.

botocore's takes half of a plain start, and four times the CPU of a call (docs/decisions.md). This
one is a signature and a request of http.client. Items are as in DynamoDB's JSON: binary values are
base64 in an answer, and may be bytes in a request.
"""

import re
import select
import ssl
import time
import weakref
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property, partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Final, Literal
from urllib.parse import unquote, urlsplit
from zlib import crc32

import msgspec

from uploads import limits
from uploads.config import Credentials
from uploads.retries import TransientError, persistently
from uploads.signature import sign

Operation = Literal["GetItem", "PutItem", "UpdateItem", "Query"]

_OK: Final = 200
_TOO_MANY_REQUESTS: Final = 429
_SERVER_ERROR: Final = 500
_TRANSIENT: Final = re.compile(
    r"ProvisionedThroughputExceeded|RequestLimitExceeded|BandwidthLimitExceeded|TooManyRequests"
    r"|Throttl|RequestTimeout|PriorRequestNotComplete|TransactionInProgress|SlowDown"
    r"|\bLimitExceeded|ReplicatedWriteConflict"
)
"""Of the codes of 400, those that botocore repeats, too."""


class DynamoDBError(Exception):
    """DynamoDB refused a call, and would again: a fault of the deployment or of this code."""


class ConditionFailedError(Exception):
    """The item does not fulfil the condition of a write, which changed nothing."""

    def __init__(self, item: Mapping[str, Any]) -> None:
        super().__init__("The condition of a write is not fulfilled.")
        self.item = item
        """The item as it is; empty if there is none."""


class DynamoDB:
    """DynamoDB at ``endpoint``, a URL. Safe for use by many threads, which share connections."""

    def __init__(
        self,
        endpoint: str,
        region: str,
        credentials: Callable[[], Credentials],
        ca_bundle: str | None = None,
        proxy: str | None = None,
    ) -> None:
        url = urlsplit(endpoint)
        self._is_https = url.scheme == "https"
        self._host, self._path = url.netloc, url.path or "/"
        self._region = region
        self._credentials = credentials
        self._ca_bundle = ca_bundle
        self._proxy = proxy
        self._idle: list[HTTPConnection] = []
        weakref.finalize(self, _close, self._idle)

    def call(self, operation: Operation, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a call, with retries.

        Raises ConditionFailedError, StorageBusyError or DynamoDBError.
        """
        body = msgspec.json.encode(asked)
        return persistently(lambda: self._try(operation, body))

    def _try(self, operation: Operation, body: bytes) -> dict[str, Any]:
        headers = {
            "content-type": "application/x-amz-json-1.0",
            "host": self._host,
            "x-amz-target": f"DynamoDB_20120810.{operation}",
        }
        headers = sign(headers, self._path, body, self._region, self._credentials(), time.time())
        try:
            # Not signed is what a proxy may change.
            status, sent, content = self.exchange(body, {**headers, "user-agent": "gapless"})
        except (OSError, HTTPException) as error:
            raise TransientError(repr(error)) from error
        if sent and sent != str(crc32(content)):
            raise TransientError(f"{operation}: the answer was changed on its way")
        answer: dict[str, Any] = {}
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            answer = msgspec.json.decode(content, type=dict[str, Any])
            if status == _OK:
                return answer
        code = str(answer.get("__type", "")).rpartition("#")[2]
        if code == "ConditionalCheckFailedException":
            raise ConditionFailedError(answer.get("Item", {}))
        why = f"{operation}: {status} {code}"
        if (
            # Without JSON, 200 is no answer of DynamoDB.
            status in {_OK, _TOO_MANY_REQUESTS}
            or status >= _SERVER_ERROR
            or _TRANSIENT.search(code)
        ):
            raise TransientError(why)
        raise DynamoDBError(f"{why}: {answer.get('message') or answer.get('Message')}")

    def exchange(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, str | None, bytes]:
        """The status, the CRC-32 and the body of the response to a request."""
        connection = self._connection()
        try:
            connection.request("POST", self._path, body, headers)
            response = connection.getresponse()
            content = response.read()
        except BaseException:
            connection.close()
            raise
        if connection.sock:
            self._idle.append(connection)
        return response.status, response.headers["x-amz-crc32"], content

    def _connection(self) -> HTTPConnection:
        """An open connection that no other thread uses."""
        with suppress(IndexError):
            while True:
                idle = self._idle.pop()
                poll = select.poll()
                poll.register(idle.sock, select.POLLIN)
                # What can be read before a request is the end of the connection.
                if not poll.poll(0):
                    return idle
                idle.close()
        connection = self._connect()
        connection.connect()
        connection.sock.settimeout(limits.READ_SECONDS)
        return connection

    @cached_property
    def _connect(self) -> Callable[[], HTTPConnection]:
        """Makes connections.

        The first loads the certificates, as botocore does: they would take a fifth of a start.
        """
        if not self._is_https:
            return partial(HTTPConnection, self._host, timeout=limits.CONNECT_SECONDS)
        try:
            tls = ssl.create_default_context(cafile=self._ca_bundle)
        except OSError as error:
            # To try again would not help.
            raise DynamoDBError(f"certificates, {self._ca_bundle or 'default'}: {error}") from error
        if self._proxy:
            return partial(_through, self._proxy, self._host, tls)
        return partial(HTTPSConnection, self._host, timeout=limits.CONNECT_SECONDS, context=tls)


def _through(proxy: str, host: str, tls: ssl.SSLContext) -> HTTPSConnection:
    """A connection to ``host`` through a proxy, which sees only encrypted bytes."""
    url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    named = url.hostname or "localhost"
    connection = HTTPSConnection(named, url.port or 80, timeout=limits.CONNECT_SECONDS, context=tls)
    headers = {}
    if url.username is not None:
        keys = f"{unquote(url.username)}:{unquote(url.password or '')}".encode()
        headers["proxy-authorization"] = f"Basic {b64encode(keys).decode()}"
    connection.set_tunnel(host, headers=headers)
    return connection


def _close(connections: list[HTTPConnection]) -> None:
    for connection in connections:
        connection.close()


class EmulatedDynamoDB(DynamoDB):
    """An emulator, which may not return the item that failed a condition: 1 more read then."""

    def call(self, operation: Operation, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The same as of AWS."""
        try:
            return super().call(operation, asked)
        except ConditionFailedError as failed:
            key = asked.get("Key") or {"sessionId": asked["Item"]["sessionId"]}
            values = asked.get("Item") or {"owner": asked["ExpressionAttributeValues"][":owner"]}
            # Also read the item of another owner, so that its id takes as long as an unknown one.
            # The item of an Idempotency-Key has no owner.
            if failed.item and failed.item.get("owner") == values.get("owner"):
                raise
            read = {"TableName": asked["TableName"], "Key": key, "ConsistentRead": True}
            found = super().call("GetItem", read).get("Item", {})
            raise ConditionFailedError(found) from None
