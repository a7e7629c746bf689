"""Upload large data sets to a Gapless service: one complete object, or exactly what is missing.

::

    import gapless

    result = gapless.upload("orders.ndjson", "https://…")            # or any records
    result = await gapless.upload_async(records, "https://…", auth=gapless.TokenAuth("…"))

    with gapless.Client("https://…") as client:
        session = client.create(total_record=3, batch_size=2)
        session.send(0, [{"id": 1}, {"id": 2}])
        session.send(1, [{"id": 3}])
        session.finish()
        session.download("orders.ndjson")
"""

import pathlib
from collections.abc import AsyncIterable
from functools import partial
from typing import IO, TYPE_CHECKING, Any

import httpx
from anyio.from_thread import start_blocking_portal

from gapless import state, uploads
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
    NotFoundError,
    RecordTooLargeError,
    RequestError,
    ServerError,
    SessionStateError,
    SettingError,
    StateError,
    TooLargeError,
    UnavailableError,
)
from gapless.http import Report, silent
from gapless.reading import Format, ReadOptions, read_options
from gapless.sessions import (
    AsyncClient,
    AsyncSession,
    Checksum,
    Limits,
    Range,
    Result,
    Status,
    Timing,
)
from gapless.sources import File, Records, opened, opened_async
from gapless.uploads import Source

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
    "ExpiredError",
    "FileChangedError",
    "Format",
    "GaplessError",
    "IncompleteError",
    "InputError",
    "InvalidRecordError",
    "Limits",
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
    "resume",
    "resume_async",
    "upload",
    "upload_async",
]


async def upload_async(
    source: File | IO[bytes] | Records,
    url: str,
    *,
    format: Format | str | None = None,  # noqa: A002 - named like the option
    delimiter: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
    typed: bool = False,
    skip_invalid: bool = False,
    batch_size: int | None = None,
    new: bool = False,
    auth: httpx.Auth | None = None,
    gzip: bool = True,
    parallel: int = 8,
    patience: float = 300.0,
    report: Report = silent,
    transport: httpx.AsyncBaseTransport | None = None,
    **timing: "Unpack[Timing]",
) -> Result:
    """Upload a file, or records, and finish; the result is ``ok``, and checked against the input.

    A ``str`` or a path names a file; an open binary file is read from where it is. Anything else
    is records, from a synchronous or an asynchronous iterable: Python objects, or ``bytes`` that
    are JSON already; see ``gapless.objects``. What is no file by name is spooled to a temporary
    one, for the number of its records must be known first.

    ``format`` to ``skip_invalid`` are for files, and those of ``gapless upload``, as ``batch_size``
    (records) and ``new`` are. The others are ``AsyncClient``'s.

    Raises TypeError for what is neither a file nor records; GaplessError, see ``gapless.errors``.
    """
    return await _upload(
        source,
        url=url,
        options=read_options(
            format=format, delimiter=delimiter, encoding=encoding, header=header, typed=typed
        ),
        skip_invalid=skip_invalid,
        batch_size=batch_size,
        new=new,
        auth=auth,
        gzip=gzip,
        parallel=parallel,
        patience=patience,
        report=report,
        transport=transport,
        **timing,
    )


async def _upload(
    source: File | IO[bytes] | Records | Source,
    *,
    url: str,
    options: ReadOptions,
    skip_invalid: bool,
    batch_size: int | None,
    new: bool,
    **client: Any,  # noqa: ANN401 - AsyncClient's own, from above
) -> Result:
    async with (
        AsyncClient(url, **client) as opened_client,
        opened_async(source, options, skip_invalid=skip_invalid) as file,
    ):
        return await uploads.upload(opened_client, file, batch_size=batch_size, anew=new)


async def resume_async(
    file: File,
    url: str | None = None,
    *,
    auth: httpx.Auth | None = None,
    gzip: bool = True,
    parallel: int = 8,
    patience: float = 300.0,
    report: Report = silent,
    transport: httpx.AsyncBaseTransport | None = None,
    **timing: "Unpack[Timing]",
) -> Result:
    """Go on with the upload of ``file`` that was begun on this machine, and finish.

    ``url`` is where the service is now, if it has moved. Raises StateError if there is no such
    upload, FileChangedError if the file is another, or any other GaplessError.
    """
    begun = state.load(pathlib.Path(file))
    if begun is None:
        raise StateError(
            f"No upload of {file} is known here. Give the session's id to: gapless resume"
        )
    async with AsyncClient(
        url or begun.url,
        auth=auth,
        gzip=gzip,
        parallel=parallel,
        patience=patience,
        report=report,
        transport=transport,
        **timing,
    ) as client:
        return await uploads.resume(client, uploads.source_of(begun), begun.session_id, begun)


def upload(
    source: File | IO[bytes] | Records,
    url: str,
    *,
    format: Format | str | None = None,  # noqa: A002 - named like the option
    delimiter: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
    typed: bool = False,
    skip_invalid: bool = False,
    batch_size: int | None = None,
    new: bool = False,
    auth: httpx.Auth | None = None,
    gzip: bool = True,
    parallel: int = 8,
    patience: float = 300.0,
    report: Report = silent,
    transport: httpx.AsyncBaseTransport | None = None,
    **timing: "Unpack[Timing]",
) -> Result:
    """The same as ``upload_async``, blocking."""
    options = read_options(
        format=format, delimiter=delimiter, encoding=encoding, header=header, typed=typed
    )
    work = partial(
        _upload,
        url=url,
        options=options,
        skip_invalid=skip_invalid,
        batch_size=batch_size,
        new=new,
        auth=auth,
        gzip=gzip,
        parallel=parallel,
        patience=patience,
        report=report,
        transport=transport,
        **timing,
    )
    # Not anyio.run: in a notebook a loop runs in this thread already.
    if isinstance(source, AsyncIterable):
        with start_blocking_portal() as portal:
            return portal.call(work, source)
    # Spooled in this thread: a generator may be of it alone, as one of a database is.
    with (
        opened(source, options, skip_invalid=skip_invalid) as file,
        start_blocking_portal() as portal,
    ):
        return portal.call(work, file)


def resume(
    file: File,
    url: str | None = None,
    *,
    auth: httpx.Auth | None = None,
    gzip: bool = True,
    parallel: int = 8,
    patience: float = 300.0,
    report: Report = silent,
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
