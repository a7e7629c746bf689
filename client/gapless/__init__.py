"""Upload large data sets to a Gapless service: one complete object, or exactly what is missing.

::

    import gapless

    result = gapless.upload("orders.ndjson", "https://…")            # or records
    result = await gapless.upload_async(records, "https://…", auth=gapless.TokenAuth("…"))

    with gapless.Client("https://…") as client:
        session = client.create(total_record=3, batch_size=2)
        session.send(0, [{"id": 1}, {"id": 2}])
        session.send(1, [{"id": 3}])
        session.finish()
        session.download("orders.ndjson")

The public interface is what ``__all__`` names; every other name may change.
"""

import os
import pathlib
from collections.abc import AsyncIterable, Mapping
from functools import partial
from typing import IO, TYPE_CHECKING

import httpx
from anyio.from_thread import start_blocking_portal

from gapless import state, streams, uploads
from gapless.auth import SigV4Auth, TokenAuth, TokenError
from gapless.blocking import Client, Session
from gapless.errors import (
    ApiError,
    AuthError,
    BatchConflictError,
    ChecksumError,
    ExpiredError,
    FileChangedError,
    GaplessError,
    IncompleteError,
    InputError,
    InvalidRecordError,
    InvalidRecordsError,
    NotFoundError,
    RecordTooLargeError,
    RequestError,
    ServerError,
    SessionStateError,
    SettingError,
    StateError,
    TooLargeError,
    UnavailableError,
    UnexpectedAnswerError,
    UnreachableError,
    ViolationError,
)
from gapless.formats import Format, MergedFormat, read_merged_format, read_options
from gapless.http import Report, ignore_events
from gapless.inputs import Source
from gapless.metadata import check
from gapless.models import Checksum, Content, Limits, Listed, Range, Result, Status
from gapless.sessions import AsyncClient, AsyncSession, Timing
from gapless.sources import File, Records, open_source
from gapless.streams import Channel, FedStream, Stream

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncSession",
    "AuthError",
    "BatchConflictError",
    "Checksum",
    "ChecksumError",
    "Client",
    "Content",
    "ExpiredError",
    "FileChangedError",
    "Format",
    "GaplessError",
    "IncompleteError",
    "InputError",
    "InvalidRecordError",
    "InvalidRecordsError",
    "Limits",
    "Listed",
    "MergedFormat",
    "NotFoundError",
    "Range",
    "RecordTooLargeError",
    "RequestError",
    "Result",
    "ServerError",
    "Session",
    "SessionStateError",
    "SettingError",
    "SigV4Auth",
    "StateError",
    "Status",
    "TokenAuth",
    "TokenError",
    "TooLargeError",
    "UnavailableError",
    "UnexpectedAnswerError",
    "UnreachableError",
    "ViolationError",
    "resume",
    "resume_async",
    "upload",
    "upload_async",
]


async def upload_async(
    source: File | IO[bytes] | Records,
    url: str,
    *,
    merged_format: MergedFormat | str = MergedFormat.NDJSON,
    metadata: Mapping[str, str] | None = None,
    format: Format | str | None = None,  # noqa: A002 - named like the option
    delimiter: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
    typed: bool = False,
    skip_invalid: bool = False,
    schema: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    session_id: str | None = None,
    idempotency_key: str | None = None,
    new: bool = False,
    auth: httpx.Auth | None = None,
    gzip: bool = True,
    parallel: int = 8,
    patience: float = 300.0,
    report: Report = ignore_events,
    transport: httpx.AsyncBaseTransport | None = None,
    **timing: "Unpack[Timing]",
) -> Result:
    """Upload a file, or records, and finish; the result is ``ok`` and verified.

    ``source``: a ``str`` is a path; an open binary file is read from its current position. Anything
    else is a synchronous or asynchronous iterable of records: Python objects, or ``bytes`` of JSON;
    see ``gapless.objects``. Open files and records are read once and sent while they are read; the
    session is finished only if they are read to their end.

    ``merged_format`` is ``ndjson`` or ``ndjson.gz``. ``metadata`` is stored with the session; the
    name of a file is added, unless it has a ``name``. ``format`` to ``skip_invalid`` are only for
    files. They, ``batch_size`` (records per batch) and ``new`` are the options of
    ``gapless upload``; the others are those of ``AsyncClient``.

    ``schema`` is the file of a JSON Schema, named like the deployed one (``orders.v3.json``), and
    records are checked before they are sent (requires ``gapless[schema]``); or only its name, and
    the service checks them. Both raise InvalidRecordsError, whose ``errors`` are sorted by line.

    ``session_id`` completes an interrupted upload of the same records; the events ``session`` and
    ``interrupted`` have it. Batches that are stored already are compared, not replaced. With an
    ``idempotency_key``, repeating the call completes the upload; see ``AsyncClient.create``.

    Raises TypeError if ``source`` is neither a file nor records; GaplessError (see
    ``gapless.errors``); and any error that iterating over ``source`` raises.
    """
    named = check(metadata or {})
    options = read_options(
        format=format, delimiter=delimiter, encoding=encoding, header=header, typed=typed
    )
    found = open_source(
        source,
        options,
        skip_invalid=skip_invalid,
        schema=schema,
        batch_size=batch_size,
        gzip=gzip,
    )
    client = AsyncClient(
        url,
        auth=auth,
        gzip=gzip,
        parallel=parallel,
        patience=patience,
        report=report,
        transport=transport,
        **timing,
    )
    return await _upload(
        found, client, merged_format, named, batch_size, session_id, idempotency_key, new
    )


async def _upload(
    source: Source | Stream,
    client: AsyncClient,
    merged_format: MergedFormat | str,
    metadata: Mapping[str, str],
    batch_size: int | None,
    session_id: str | None,
    idempotency_key: str | None,
    new: bool,  # noqa: FBT001 - called by position, through a portal
) -> Result:
    merged_format = read_merged_format(merged_format)
    async with client:
        if session_id is not None:
            if isinstance(source, Source):
                return await uploads.resume(client, source, session_id, batch_size=batch_size)
            session = client.session(session_id)
            return await streams.resume(session, source, await session.status())
        if isinstance(source, Source):
            return await uploads.upload(
                client,
                source,
                batch_size=batch_size,
                merged_format=merged_format,
                metadata=metadata,
                idempotency_key=idempotency_key,
                start_over=new,
            )
        return await streams.upload(
            client,
            source,
            merged_format=merged_format.value,
            metadata=metadata,
            idempotency_key=idempotency_key,
        )


async def resume_async(
    file: File,
    url: str | None = None,
    *,
    auth: httpx.Auth | None = None,
    gzip: bool = True,
    parallel: int = 8,
    patience: float = 300.0,
    report: Report = ignore_events,
    transport: httpx.AsyncBaseTransport | None = None,
    **timing: "Unpack[Timing]",
) -> Result:
    """Resume the upload of ``file`` that was started on this machine, and finish.

    ``url`` is needed only if the URL of the service has changed. Raises StateError if no such
    upload is known, FileChangedError if the file has changed, or another GaplessError.
    """
    saved_state = state.load(pathlib.Path(file))
    if saved_state is None:
        raise StateError(
            f"No upload of {file} is known on this machine. Pass the session id to: gapless resume"
        )
    async with AsyncClient(
        url or saved_state.url,
        auth=auth,
        gzip=gzip,
        parallel=parallel,
        patience=patience,
        report=report,
        transport=transport,
        **timing,
    ) as client:
        return await uploads.resume(
            client, uploads.source_from(saved_state), saved_state.session_id, saved_state
        )


def upload(
    source: File | IO[bytes] | Records,
    url: str,
    *,
    merged_format: MergedFormat | str = MergedFormat.NDJSON,
    metadata: Mapping[str, str] | None = None,
    format: Format | str | None = None,  # noqa: A002 - named like the option
    delimiter: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
    typed: bool = False,
    skip_invalid: bool = False,
    schema: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    session_id: str | None = None,
    idempotency_key: str | None = None,
    new: bool = False,
    auth: httpx.Auth | None = None,
    gzip: bool = True,
    parallel: int = 8,
    patience: float = 300.0,
    report: Report = ignore_events,
    transport: httpx.AsyncBaseTransport | None = None,
    **timing: "Unpack[Timing]",
) -> Result:
    """The same as ``upload_async``, blocking."""
    named = check(metadata or {})
    options = read_options(
        format=format, delimiter=delimiter, encoding=encoding, header=header, typed=typed
    )
    found = open_source(
        source,
        options,
        skip_invalid=skip_invalid,
        schema=schema,
        batch_size=batch_size,
        gzip=gzip,
    )
    client = AsyncClient(
        url,
        auth=auth,
        gzip=gzip,
        parallel=parallel,
        patience=patience,
        report=report,
        transport=transport,
        **timing,
    )
    more = (client, merged_format, named, batch_size, session_id, idempotency_key, new)
    # Not anyio.run: in a notebook this thread already runs an event loop.
    with start_blocking_portal() as portal:
        if isinstance(found, Source) or isinstance(source, AsyncIterable):
            return portal.call(_upload, found, *more)
        # Read in this thread: some generators work only in the thread that made them (sqlite3).
        channel = Channel()
        running = portal.start_task_soon(_upload, FedStream(found, channel), *more)
        running.add_done_callback(lambda _: channel.close())
        channel.feed(portal, found)
        return running.result()


def resume(
    file: File,
    url: str | None = None,
    *,
    auth: httpx.Auth | None = None,
    gzip: bool = True,
    parallel: int = 8,
    patience: float = 300.0,
    report: Report = ignore_events,
    transport: httpx.AsyncBaseTransport | None = None,
    **timing: "Unpack[Timing]",
) -> Result:
    """The same as ``resume_async``, blocking."""
    with start_blocking_portal() as portal:
        return portal.call(
            partial(
                resume_async,
                file,
                url,
                auth=auth,
                gzip=gzip,
                parallel=parallel,
                patience=patience,
                report=report,
                transport=transport,
                **timing,
            )
        )
