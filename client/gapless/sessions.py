"""The asynchronous client: the service's routes as methods. ``blocking`` wraps it.

It reads no input files and saves no state; ``uploads`` and ``streams`` do that.
"""

import base64
import hashlib
import os
import re
import secrets
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from datetime import datetime
from http import HTTPStatus
from pathlib import PurePath
from typing import IO, TYPE_CHECKING, Final, TypedDict, TypeVar
from urllib.parse import urlencode, urlsplit

import anyio
import anyio.to_thread
import httpx
import msgspec

from gapless import atomic, compression, objects
from gapless.errors import (
    CHECK_URL,
    ChecksumError,
    RecordTooLargeError,
    SessionStateError,
    SettingError,
    UnavailableError,
    api_error,
)
from gapless.formats import MergedFormat, read_merged_format
from gapless.http import (
    AdaptiveLimiter,
    Backoff,
    Http,
    Report,
    ignore_events,
    unexpected_response,
)
from gapless.merged import MergedObject, verify_manifest
from gapless.metadata import check
from gapless.models import Created, Limits, Link, Listed, Merge, Page, Range, Result, Status
from gapless.text import count, printable, redact
from gapless.transport import ProxyTransport, describe_error, permanent_error

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

ROOT: Final = "/api/upload/sessions"
NDJSON: Final = "application/x-ndjson"
"""API Gateway forwards a body of this type unchanged; it may damage binary bodies of JSON or text
types."""
_KEY: Final = re.compile(r"[!#-+\--~]{1,255}")
"""An idempotency key: no comma, which separates keys, and no quote, which encloses one."""

_POLL_SECONDS: Final = 2.0
_LEASE_SECONDS: Final = 40.0
"""Time without progress after which another finish may take over a merge (docs/protocol.md)."""

_MAX_MERGE_ATTEMPTS: Final = 3

_Model = TypeVar("_Model")


def _decode(response: httpx.Response, model: type[_Model]) -> _Model:
    try:
        return msgspec.json.decode(response.content, type=model)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise unexpected_response(response, str(error)) from None


def service_url(url: str) -> str:
    """The normalized URL of a service. Raises SettingError, without secrets in its message."""
    text = url.strip()
    shown = redact(text)
    try:
        parts = urlsplit(text)
        port, host = parts.port, httpx.URL(text).host
    except (ValueError, httpx.InvalidURL):
        raise SettingError(
            f"The URL of the service, {shown!r}, is malformed. {CHECK_URL}"
        ) from None
    spaced = re.search(r"[\s\x00-\x20]", text)
    if parts.scheme not in {"http", "https"} or not host or port == 0 or spaced:
        raise SettingError(
            f"{shown!r} is not a valid service URL: it must begin with http:// or https:// and a"
            f" host. {CHECK_URL}"
        )
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise SettingError(
            "The URL of the service, --url or GAPLESS_URL, must not contain credentials, a query or"
            " a fragment. For credentials see --token and --aws."
        )
    # Also accept the URL of the sessions.
    return text.rstrip("/").removesuffix(ROOT)


class Timing(TypedDict, total=False):
    """Clocks and limits that tests replace; see ``gapless.http.Http``."""

    now: Callable[[], float]
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    chance: Callable[[], float]
    silence: float


class AsyncClient:
    """Connections to one service; use it in ``async with``, or call ``aclose``.

    ``url`` is the base URL of the API: the stack's output ``Url``. ``gzip`` compresses batches;
    ``parallel`` is the maximum number of concurrent requests; requests are retried until none
    succeeds for ``patience`` seconds; ``report`` is called with every event; ``transport`` replaces
    httpx's. ``timing`` is for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        auth: httpx.Auth | None = None,
        gzip: bool = True,
        parallel: int = 8,
        patience: float = 300.0,
        report: Report = ignore_events,
        transport: httpx.AsyncBaseTransport | None = None,
        **timing: "Unpack[Timing]",
    ) -> None:
        self.url = service_url(url)
        self.gzip = gzip
        self.report = report
        limits = httpx.Limits(max_connections=parallel + 2, max_keepalive_connections=parallel)
        self.limiter = AdaptiveLimiter(parallel)
        self.http = Http(
            self.url,
            transport or ProxyTransport(limits),
            self.limiter,
            auth=auth,
            patience=patience,
            report=report,
            **timing,
        )

    async def __aenter__(self) -> "Self":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self.http.aclose()

    async def create(
        self,
        total_record: int | None,
        batch_size: int | None = None,
        *,
        merged_format: MergedFormat | str = MergedFormat.NDJSON,
        metadata: Mapping[str, str] | None = None,
        schema: str | None = None,
        idempotency_key: str | None = None,
    ) -> "AsyncSession":
        """Open a session. Raises GaplessError, as every method does.

        If ``total_record`` is None, pass it to ``finish``; then there is no ``batch_size``, the
        number of records in every batch but the last. ``merged_format`` is ``ndjson``, or
        ``ndjson.gz``, which stores batches and object compressed. ``metadata`` is stored with the
        session; its ``name`` names the download. ``schema`` is the name of a deployed schema: the
        service refuses batches with records that do not satisfy it (RequestError
        ``invalid_records``, whose ``problem`` lists them).

        Repeating the call with the same ``idempotency_key`` and arguments returns the same session,
        also from another process. The key is a secret of at least 22 random characters; the default
        is ``secrets.token_hex(16)``.
        """
        members: dict[str, object] = {"totalRecord": total_record}
        if batch_size:
            members["batchSize"] = batch_size
        if (format_ := read_merged_format(merged_format)) is not MergedFormat.NDJSON:
            members["format"] = format_
        if metadata:
            members["metadata"] = check(metadata)
        if schema:
            members["schema"] = schema
        # Every attempt has the same key, so that a lost response leaves no second session.
        key = secrets.token_hex(16) if idempotency_key is None else idempotency_key
        if not _KEY.fullmatch(key):
            raise SettingError(
                "An idempotency key must have 1 to 255 visible ASCII characters, and neither"
                " spaces, commas nor double quotes. Use a random one, such as a UUID."
            )
        response = await self.http.call(
            "POST",
            ROOT,
            msgspec.json.encode(members),
            {"Content-Type": "application/json", "Idempotency-Key": key},
            expect={HTTPStatus.CREATED},
        )
        created = _decode(response, Created)
        return AsyncSession(self, created.session_id, created.limits, created.expires_at)

    async def list_sessions(self, state: str | None = None) -> AsyncGenerator[Listed, None]:
        """The caller's sessions, newest first; pages are fetched lazily.

        ``state`` is ``OPEN``, ``FINISHING``, ``FINISHED`` or ``ABORTED``. Raises RequestError
        (``no_list``) if the service does not authenticate its callers.
        """
        cursor: str | None = ""
        while cursor is not None:
            page = await self.list_page(state, cursor)
            for listed in page.sessions:
                yield listed
            cursor = page.cursor

    async def list_page(self, state: str | None, cursor: str) -> Page:
        """One page of the list; the cursor of the first page is ""."""
        given = {"state": state, "cursor": cursor}
        query = urlencode({name: value for name, value in given.items() if value})
        response = await self.http.call("GET", f"{ROOT}?{query}" if query else ROOT)
        return _decode(response, Page)

    def session(self, session_id: str) -> "AsyncSession":
        """An existing session; sends nothing."""
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
        """When its batches are deleted; None if another client opened it (see ``status``)."""
        self._http = client.http
        self._path = f"{ROOT}/{session_id}"

    async def send(self, seq_num: int, records: Iterable[object] | AsyncIterable[object]) -> None:
        """Store a batch; repeating it with the same records is safe.

        Records are Python objects, or ``bytes`` of JSON, which are stored unchanged; see
        ``gapless.objects``. Raises TypeError if ``records`` is not an iterable of records;
        InvalidRecordError if one cannot be encoded exactly.
        """
        await self.send_ndjson(
            seq_num, b"".join([line async for line in objects.encode_async(records)])
        )

    async def send_ndjson(self, seq_num: int, ndjson: bytes) -> None:
        """Store a batch of valid NDJSON."""
        async with self.client.limiter:
            await self.send_lines(seq_num, [ndjson])

    async def send_lines(self, seq_num: int, pieces: Sequence[bytes]) -> int:
        """Store a batch of consecutive pieces of NDJSON; returns the size of the request body.

        The caller must hold a slot of the client's limiter.
        """
        body, headers = await anyio.to_thread.run_sync(encode_batch, pieces, self.client.gzip)
        del pieces  # free them while the body is sent
        if len(body) > self.limits.max_body_bytes:
            raise RecordTooLargeError(
                f"Batch {seq_num} has {len(body):,} bytes, the service accepts"
                f" {self.limits.max_body_bytes:,}: it contains a record that is too large,"
                " or too many records."
            )
        path = f"{self._path}/batches/{seq_num}"
        await self._http.call("PUT", path, body, headers, expect={HTTPStatus.NO_CONTENT})
        return len(body)

    async def status(self) -> Status:
        """What the service has stored, and what is missing."""
        return _decode(await self._http.call("GET", self._path), Status)

    async def missing(self) -> list[Range]:
        """The missing batches. Without a batch size the last ones are unknown."""
        return (await self.status()).missing

    async def finish(
        self,
        total_record: int | None = None,
        batches: int | None = None,
        *,
        patience: float = 3600.0,
    ) -> Result:
        """Validate and merge; waits for a long merge, at most ``patience`` seconds.

        ``total_record`` is the number of records, required if the session was opened without it;
        ``batches`` is the number of batches sent. Returns the result even if it is not ``ok``.
        Raises SessionStateError (``totals_conflict``) if the session has other totals;
        UnavailableError if the merge takes longer: it continues, and finish may be called again.
        """
        deadline = self._http.clock() + patience
        backoff = Backoff(self._http)
        given = {"totalRecord": total_record, "batches": batches}
        totals = {name: number for name, number in given.items() if number is not None}
        for attempt in range(_MAX_MERGE_ATTEMPTS):
            result = await self._finish(totals, deadline)
            if result.reason != "merge_failed":
                break
            if attempt + 1 < _MAX_MERGE_ATTEMPTS:
                error = result.incomplete()
                await backoff.wait(str(error), error)
        return result

    async def _finish(self, totals: dict[str, int], deadline: float) -> Result:
        body = msgspec.json.encode(totals) if totals else None
        headers = {"Content-Type": "application/json"} if totals else None
        while True:
            response = await self._http.call(
                "POST",
                f"{self._path}/finish",
                body,
                headers,
                expect={HTTPStatus.OK, HTTPStatus.ACCEPTED},
            )
            if response.status_code != HTTPStatus.ACCEPTED:
                return _decode(response, Result)
            progress: Merge | None = None
            progressed = self._http.clock()
            # A merge without progress may have crashed: send another finish, which takes over.
            while self._http.clock() - progressed < _LEASE_SECONDS:
                if self._http.clock() > deadline:
                    raise UnavailableError(
                        "The merge is still running; it continues on the service."
                    )
                await self._http.sleep(self._http.retry_after(response) or _POLL_SECONDS)
                status = await self.status()
                if status.state != "FINISHING":
                    if status.finish is not None and _answers(status.finish, totals):
                        return status.finish
                    break
                if status.merge and status.merge != progress:
                    progress, progressed = status.merge, self._http.clock()
                    self.client.report("merge", {"parts": progress.parts, "done": progress.done})

    async def abort(self) -> None:
        """Abort the session; the service deletes its batches."""
        await self._http.call("DELETE", self._path, expect={HTTPStatus.NO_CONTENT})

    async def delete_file(self) -> None:
        """Permanently delete the merged object and its manifest. May be repeated.

        Waits while a slow merge might still publish the object (``file_settling``). Raises
        SessionStateError if the session is not finished.
        """
        path = f"{self._path}/file"
        await self._http.call("DELETE", path, expect={HTTPStatus.NO_CONTENT})

    async def download(
        self, to: str | os.PathLike[str] | IO[bytes], *, inflate: bool | None = None
    ) -> int:
        """Write the merged object to ``to``; returns the number of bytes written.

        A file at a path appears only when it is complete; an open binary file is written as the
        bytes arrive. ``inflate``: whether to decompress an ``ndjson.gz`` object; by default True,
        unless ``to`` is a path that ends with ``.gz`` or ``.gzip``. Raises ChecksumError if the
        bytes are not the merged object; SettingError if such a path would get plain NDJSON.
        """
        path = os.fspath(to) if isinstance(to, (str, os.PathLike)) else ""
        suffix = PurePath(path).suffix
        named_gzip = suffix.lower() in {".gz", ".gzip"}
        inflate = not named_gzip if inflate is None else inflate
        result = await self._result("file")
        if named_gzip and (inflate or not result.content):
            raise SettingError(
                f"{printable(path)} would contain NDJSON, not gzip. Choose a name that does not"
                f" end with {suffix}."
            )
        return await self._download(self._merged(result, inflate=inflate), to)

    async def manifest(self, to: str | os.PathLike[str] | IO[bytes]) -> int:
        """Write the manifest (offset and SHA-256 of each batch) to ``to``; returns its size.

        Raises ChecksumError if it does not describe the merged object.
        """
        return await self._download(self._manifest(), to)

    async def stream(self, *, inflate: bool = True) -> AsyncGenerator[bytes, None]:
        """The merged object in pieces: as NDJSON, or with ``inflate=False`` as it is stored.

        Raises ChecksumError after the last piece if the bytes are not the merged object.
        """
        async for piece in self._merged(await self._result("file"), inflate=inflate):
            yield piece

    async def _merged(self, result: Result, *, inflate: bool) -> AsyncGenerator[bytes, None]:
        merged = MergedObject(result, inflate=inflate)
        async for block in self._fetch("file", result.bytes):
            for piece in merged.read(block):
                yield piece
        merged.verify()

    async def _manifest(self) -> AsyncGenerator[bytes, None]:
        result = await self._result("manifest")
        manifest = b"".join([block async for block in self._fetch("manifest")])
        verify_manifest(manifest, result)
        yield manifest

    async def _result(self, what: str) -> Result:
        """The result of a finished session; for any other raises the error of the link."""
        found = (await self.status()).finish
        if found is None or not found.ok:
            await self._link(what)  # raises, unless the session was finished meanwhile
            found = (await self.status()).finish or Result(self.session_id, "")
        return found

    async def _link(self, what: str) -> str:
        # Ask for the stored bytes, not for NDJSON with Content-Encoding.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        response = await self._http.call("GET", f"{self._path}/{what}", headers=headers)
        return _decode(response, Link).url

    async def _download(
        self, blocks: AsyncGenerator[bytes, None], to: str | os.PathLike[str] | IO[bytes]
    ) -> int:
        done = 0
        async with aclosing(blocks):
            with atomic.open_for_writing(to) as file:
                async for block in blocks:
                    atomic.write_all(file, block)
                    done += len(block)
        return done

    async def _fetch(self, what: str, total: int | None = None) -> AsyncGenerator[bytes, None]:
        """Read an object to its end; after a lost connection continue at the same byte."""
        done = 0
        backoff = Backoff(self._http)
        while True:
            link = await self._link(what)
            before = done
            try:
                async with self._http.fetch(link, done) as content:
                    _check_download(content, await _problem(content), done)
                    async for block in content.aiter_raw():
                        done += len(block)
                        yield block
                        self.client.report("download", {"bytes": done, "total": total})
            except httpx.RequestError as error:
                if not done and (fault := permanent_error(error, link, "the service's storage")):
                    raise fault from None
                if done > before:
                    backoff = Backoff(self._http)
                reason = f"the download was interrupted: {describe_error(error)}"
                await backoff.wait(reason, error)
            else:
                break


def _answers(result: Result, totals: dict[str, int]) -> bool:
    """Whether the stored ``result`` is that of a finish with these totals.

    Raises SessionStateError if the session was merged with other totals.
    """
    total = totals.get("totalRecord", result.total_record)
    if not result.ok:
        return (result.total_record, result.expected_batches) == (total, totals.get("batches"))
    batches = totals.get("batches", result.batches)
    if (result.total_record, result.batches) != (total, batches):
        raise SessionStateError(
            HTTPStatus.CONFLICT,
            {
                "code": "totals_conflict",
                "detail": f"Another finish merged the session, with"
                f" {count(result.total_record, 'record')} in"
                f" {count(result.batches, 'batch', 'batches')}; this one has {total:,} in"
                f" {batches:,}.",
            },
        )
    return True


async def _problem(content: httpx.Response) -> bytes:
    return await content.aread() if content.status_code >= HTTPStatus.BAD_REQUEST else b""


def _check_download(content: httpx.Response, problem: bytes, start: int) -> None:
    if content.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise httpx.RemoteProtocolError(f"the storage responds with {content.status_code}")
    if content.status_code >= HTTPStatus.BAD_REQUEST:
        raise api_error(content.status_code, problem)
    if content.status_code not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
        raise unexpected_response(content)
    if start and content.status_code != HTTPStatus.PARTIAL_CONTENT:
        raise ChecksumError("The storage cannot continue an interrupted download. Start it again.")


def encode_batch(
    pieces: Sequence[bytes],
    compress: bool,  # noqa: FBT001 - called through to_thread
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of the request for a batch of consecutive pieces of NDJSON."""
    headers = {"Content-Type": NDJSON}
    if compress:
        headers["Content-Encoding"] = "gzip"
    body = compression.pack(pieces) if compress else b"".join(pieces)
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    return body, headers | {"Content-Digest": f"sha-256=:{digest}:"}
