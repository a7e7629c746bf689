"""The service's sessions: the asynchronous client, and the core of the blocking one."""

import base64
import gzip
import hashlib
import os
import re
import zlib
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Sequence,
)
from contextlib import aclosing
from datetime import datetime
from http import HTTPStatus
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Final, TypedDict, TypeVar
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import httpx
import msgspec

from gapless import atomic, objects
from gapless.errors import (
    ChecksumError,
    IncompleteError,
    RecordTooLargeError,
    SettingError,
    UnavailableError,
    api_error,
)
from gapless.http import Http, Report, Trouble, silent, unexpected
from gapless.text import redact
from gapless.transport import Routes, described, permanent

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

try:
    from isal import igzip, isal_zlib
except ImportError:  # no wheel for this platform
    _gzip: Callable[..., bytes] = gzip.compress
    crc32: Callable[..., int] = zlib.crc32
else:
    _gzip, crc32 = igzip.compress, isal_zlib.crc32

ROOT: Final = "/api/upload/sessions"
MEDIA_TYPE: Final = "application/vnd.gapless.batch+json"
"""Under this API Gateway hands a body on untouched; JSON and text it may spoil."""

_POLL_SECONDS: Final = 2.0
_LEASE_SECONDS: Final = 40.0
"""How long a merge may stand still before another finish may take over (docs/protocol.md)."""

_MERGE_ATTEMPTS: Final = 3


class Limits(msgspec.Struct, frozen=True, rename="camel"):
    """What a batch and a session may be, bytes and numbers."""

    max_body_bytes: int = 4_500_000
    max_inflated_bytes: int = 64 * 1024 * 1024
    max_seq_num: int = 99_999


class Range(msgspec.Struct, frozen=True):
    """Consecutive ``seqNum``, both ends included."""

    first: int = msgspec.field(name="from")
    last: int = msgspec.field(name="to")


class Checksum(msgspec.Struct, frozen=True):
    """Of the whole merged object; ``value`` is base64."""

    algorithm: str
    type: str
    value: str


class Result(msgspec.Struct, frozen=True, rename="camel"):
    """What finish answers (openapi.yaml: FinishSuccess and FinishFailed)."""

    session_id: str
    validation_result: str
    reason: str = ""
    detail: str = ""
    missing: list[Range] = []
    missing_truncated: bool = False
    total_record: int = 0
    received_record: int | None = None
    batches: int = 0
    bytes: int = 0
    key: str = ""
    manifest: str = ""
    checksum: Checksum | None = None
    reading: str = ""
    """How the client read the input; of ``upload`` and ``resume``."""

    @property
    def ok(self) -> bool:
        """Whether the merged object is there, whole."""
        return self.validation_result == "Success"

    def incomplete(self) -> IncompleteError:
        """The error for a result that is not ``ok``."""
        return IncompleteError(
            self.reason, self.detail, [(gap.first, gap.last) for gap in self.missing]
        )


class Merge(msgspec.Struct, frozen=True):
    """How far a long merge is."""

    parts: int
    done: int


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """What has arrived, what is missing, and the last answer of finish."""

    session_id: str
    state: str
    total_record: int
    batch_size: int | None
    expires_at: datetime
    batches: int
    missing: list[Range]
    missing_truncated: bool = False
    finish: Result | None = None
    merge: Merge | None = None


def facts_of(found: Result | Status) -> dict[str, Any]:
    """``found`` as JSON has it; without a ``reading`` where nothing was read."""
    facts: dict[str, Any] = msgspec.to_builtins(found)
    for one in (facts, facts.get("finish") or {}):
        if not one.get("reading", True):
            del one["reading"]
    return facts


class _Created(msgspec.Struct, rename="camel"):
    session_id: str
    expires_at: datetime
    limits: Limits


class _Link(msgspec.Struct):
    url: str


_Body = TypeVar("_Body")


def _decode(answer: httpx.Response, kind: type[_Body]) -> _Body:
    try:
        return msgspec.json.decode(answer.content, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise unexpected(answer, str(error)) from None


def service_url(url: str) -> str:
    """The address of a service, as it was typed or copied. Raises SettingError, without secrets."""
    text = url.strip()
    shown = redact(text)
    try:
        parts = urlsplit(text)
        port, host = parts.port, httpx.URL(text).host
    except (ValueError, httpx.InvalidURL):
        raise SettingError(
            f"The URL of the service, {shown!r}, is malformed. Check --url or GAPLESS_URL."
        ) from None
    spaced = re.search(r"[\s\x00-\x20]", text)
    if parts.scheme not in {"http", "https"} or not host or port == 0 or spaced:
        raise SettingError(
            f"{shown!r} is not the URL of a service; it begins with http:// or https:// and a host."
            " Check --url or GAPLESS_URL."
        )
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise SettingError(
            "Credentials, a query or a fragment do not belong into the URL of the service, --url or"
            " GAPLESS_URL; for credentials see --token and --aws."
        )
    # Whoever copies the URL of the sessions means the service.
    return text.rstrip("/").removesuffix(ROOT)


class Timing(TypedDict, total=False):
    """What a test replaces; see ``gapless.http.Http``."""

    now: Callable[[], float]
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    chance: Callable[[], float]
    silence: float


class AsyncClient:
    """A connection to one service; use it in ``async with``, or ``aclose`` it.

    ``url`` is where the API is: the stack's output ``Url``. ``gzip`` compresses batches,
    ``parallel`` is the most requests at once, ``patience`` the seconds that each request is tried
    for, and ``report`` gets what happens. ``transport`` is httpx's. ``timing`` is for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        auth: httpx.Auth | None = None,
        gzip: bool = True,
        parallel: int = 8,
        patience: float = 300.0,
        report: Report = silent,
        transport: httpx.AsyncBaseTransport | None = None,
        **timing: "Unpack[Timing]",
    ) -> None:
        self.url = service_url(url)
        self.gzip = gzip
        self.report = report
        limits = httpx.Limits(max_connections=parallel + 2, max_keepalive_connections=parallel)
        self.http = Http(
            self.url,
            transport or Routes(limits),
            auth=auth,
            most_at_once=parallel,
            patience=patience,
            report=report,
            **timing,
        )

    async def __aenter__(self) -> "Self":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close its connections."""
        await self.http.aclose()

    async def create(self, total_record: int, batch_size: int | None = None) -> "AsyncSession":
        """Open a session. Raises a GaplessError, as everything here does."""
        asked = {"totalRecord": total_record} | ({"batchSize": batch_size} if batch_size else {})
        answer = await self.http.call(
            "POST",
            ROOT,
            msgspec.json.encode(asked),
            {"Content-Type": "application/json"},
            expect={HTTPStatus.CREATED},
        )
        created = _decode(answer, _Created)
        return AsyncSession(self, created.session_id, created.limits, created.expires_at)

    def session(self, session_id: str) -> "AsyncSession":
        """A session that is there already."""
        return AsyncSession(self, session_id, Limits())


class AsyncSession:
    """One session of a service."""

    def __init__(
        self,
        client: AsyncClient,
        session_id: str,
        limits: Limits,
        expires_at: datetime | None = None,
    ) -> None:
        self.client = client
        self.session_id = session_id
        self.limits = limits
        self.expires_at = expires_at
        """When its batches are gone; None where it was not opened here, then see ``status``."""
        self._http = client.http
        self._path = f"{ROOT}/{session_id}"

    async def send(self, seq_num: int, records: Iterable[object] | AsyncIterable[object]) -> None:
        """Store a batch; safe to repeat with the same records.

        Records are Python objects, or ``bytes`` that are JSON already and are kept as they are; see
        ``gapless.objects``. Raises TypeError for what is no iterable of records, and
        InvalidRecordError.
        """
        await self.send_ndjson(
            seq_num, b"".join([line async for line in objects.encode_any(records)])
        )

    async def send_ndjson(self, seq_num: int, ndjson: bytes) -> None:
        """The same for records that are valid NDJSON already."""
        await self._http.gate.enter()
        try:
            await self.send_lines(seq_num, [ndjson])
        finally:
            self._http.gate.leave()

    async def send_lines(self, seq_num: int, pieces: Sequence[bytes]) -> int:
        """The same for pieces of NDJSON, without waiting for room; gives the bytes sent."""
        body, headers = await anyio.to_thread.run_sync(
            encode_batch, seq_num, pieces, self.client.gzip
        )
        del pieces  # only the body is needed until it is sent
        if len(body) > self.limits.max_body_bytes:
            raise RecordTooLargeError(
                f"Batch {seq_num} takes {len(body):,} bytes, the service takes"
                f" {self.limits.max_body_bytes:,}: a record in it is too large."
            )
        await self._http.call("POST", self._path, body, headers, expect={HTTPStatus.NO_CONTENT})
        return len(body)

    async def status(self) -> Status:
        """What the service knows of the session."""
        return _decode(await self._http.call("GET", self._path), Status)

    async def missing(self) -> list[Range]:
        """The batches that have not arrived. Without a batch size the tail is not known."""
        return (await self.status()).missing

    async def finish(self, *, patience: float = 3600.0) -> Result:
        """Check and merge; waits while a merge runs, at most ``patience`` seconds.

        Gives the result, also where it is not ``ok``. Raises UnavailableError if the merge takes
        longer; it goes on all the same, and finish may be called again.
        """
        until = self._http.clock() + patience
        trouble = Trouble(self._http)
        for attempt in range(_MERGE_ATTEMPTS):
            result = await self._finish(until)
            if result.reason != "merge_failed":
                break
            if attempt + 1 < _MERGE_ATTEMPTS:
                error = result.incomplete()
                await trouble.pause(str(error), error)
        return result

    async def _finish(self, until: float) -> Result:
        while True:
            answer = await self._http.call(
                "POST", f"{self._path}/finish", expect={HTTPStatus.OK, HTTPStatus.ACCEPTED}
            )
            if answer.status_code != HTTPStatus.ACCEPTED:
                return _decode(answer, Result)
            seen: Merge | None = None
            moved = self._http.clock()
            # A merge that stands still may have died: another finish takes over.
            while self._http.clock() - moved < _LEASE_SECONDS:
                if self._http.clock() > until:
                    raise UnavailableError("The merge still runs; it goes on by itself.")
                await self._http.sleep(self._http.retry_after(answer) or _POLL_SECONDS)
                status = await self.status()
                if status.state != "FINISHING":
                    if status.finish is not None:
                        return status.finish
                    break
                if status.merge and status.merge != seen:
                    seen, moved = status.merge, self._http.clock()
                    self.client.report("merge", {"parts": seen.parts, "done": seen.done})

    async def abort(self) -> None:
        """Give the session up; the service deletes its batches."""
        await self._http.call("DELETE", self._path, expect={HTTPStatus.NO_CONTENT})

    async def download(self, to: str | os.PathLike[str] | IO[bytes]) -> int:
        """Write the merged object to ``to``; gives its bytes.

        A file of that name is there whole, or not at all. An open binary file is written into as
        the bytes come. Raises ChecksumError if it is not what the service says it merged.
        """
        return await self._download(self.stream(), to)

    async def manifest(self, to: str | os.PathLike[str] | IO[bytes]) -> int:
        """Write the manifest to ``to``: each batch's place in the merged object, its SHA-256."""
        return await self._download(self._fetch("manifest", None), to)

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The merged object, in pieces.

        Raises ChecksumError after the last if it is not what the service says it merged.
        """
        result = (await self.status()).finish
        async for block in self._fetch("file", result if result and result.ok else None):
            yield block

    async def _download(
        self, blocks: AsyncGenerator[bytes, None], to: str | os.PathLike[str] | IO[bytes]
    ) -> int:
        done = 0
        async with aclosing(blocks):
            with atomic.opened_to_write(to) as file:
                async for block in blocks:
                    atomic.write_all(file, block)
                    done += len(block)
        return done

    async def _fetch(self, what: str, expected: Result | None) -> AsyncGenerator[bytes, None]:
        """Read the object to its end, over as many connections as that takes."""
        done = crc = 0
        trouble = Trouble(self._http)
        total = expected.bytes if expected else None
        while True:
            answer = await self._http.call(
                "GET", f"{self._path}/{what}", headers={"Accept": "application/json"}
            )
            before = done
            link = _decode(answer, _Link).url
            try:
                async with self._http.fetch(link, done) as content:
                    _check_download(content, await _problem(content), done)
                    async for block in content.aiter_bytes():
                        crc = crc32(block, crc)
                        done += len(block)
                        yield block
                        self.client.report("download", {"bytes": done, "total": total})
            except httpx.RequestError as error:
                fault = None if done else permanent(error, link, "where the service's files are")
                if fault:
                    raise fault from None
                if done > before:
                    trouble = Trouble(self._http)
                await trouble.pause(f"the download broke off: {described(error)}", error)
            else:
                break
        if expected and expected.checksum:
            check(expected, bytes_=done, crc=crc, what="The download")


async def _problem(content: httpx.Response) -> bytes:
    return await content.aread() if content.status_code >= HTTPStatus.BAD_REQUEST else b""


def _check_download(content: httpx.Response, problem: bytes, start: int) -> None:
    if content.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise httpx.RemoteProtocolError(f"the store answers {content.status_code}")
    if content.status_code >= HTTPStatus.BAD_REQUEST:
        raise api_error(content.status_code, problem)
    if content.status_code not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
        raise unexpected(content)
    if start and content.status_code != HTTPStatus.PARTIAL_CONTENT:
        raise ChecksumError("The store does not go on where a download broke off. Start it again.")


def check(result: Result, *, bytes_: int, crc: int, what: str = "The merged object") -> None:
    """Raise ChecksumError unless ``result`` is of just these bytes."""
    value = base64.b64encode(crc.to_bytes(4, "big")).decode()
    stored = result.checksum.value if result.checksum else value
    if (bytes_, value) != (result.bytes, stored):
        raise ChecksumError(
            f"{what} is not what was sent: {result.bytes:,} bytes with CRC-32 {stored} are stored,"
            f" {bytes_:,} bytes with CRC-32 {value} are here."
        )


def encode_batch(
    seq_num: int,
    pieces: Sequence[bytes],
    compress: bool,  # noqa: FBT001 - called through to_thread
) -> tuple[bytes, dict[str, str]]:
    """The request of a batch: its body, as sent, and its headers."""
    # A valid record has no raw line feed in a string, and these have none between tokens either.
    *some, last = (piece.replace(b"\n", b",") for piece in pieces)
    body = b"".join([b'{"seqNum":%d,"data":[' % seq_num, *some, memoryview(last)[:-1], b"]}"])
    headers = {"Content-Type": MEDIA_TYPE}
    if compress:
        body = _gzip(body, 1, mtime=0)
        headers["Content-Encoding"] = "gzip"
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    return body, headers | {"Content-Digest": f"sha-256=:{digest}:"}
