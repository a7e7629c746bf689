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

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from anyio.from_thread import start_blocking_portal

from gapless import records, state, uploads
from gapless.auth import SigV4Auth, TokenAuth
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
    StateError,
    TooLargeError,
    UnavailableError,
)
from gapless.reading import Format, read_options
from gapless.sessions import AsyncClient, AsyncSession, Checksum, Limits, Range, Result, Status

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
    "SigV4Auth",
    "StateError",
    "Status",
    "TokenAuth",
    "TooLargeError",
    "UnavailableError",
    "resume",
    "resume_async",
    "upload",
    "upload_async",
]

File = str | os.PathLike[str]


async def upload_async(
    source: File | Iterable[object],
    url: str,
    *,
    form: Format | str | None = None,
    typed: bool = False,
    skip_invalid: bool = False,
    anew: bool = False,
    batch_size: int | None = None,
    **client: Any,  # noqa: ANN401 - AsyncClient's own
) -> Result:
    """Upload a file, or records, and finish; the result is ``ok``, and checked against the input.

    A ``str`` or a path names a file, read as ``form`` or as its name says. Anything else is
    records: Python objects, or ``bytes`` that are JSON already; they are spooled to a temporary
    file, for their number must be known first. ``typed`` and ``skip_invalid`` are those of
    ``gapless upload``, ``anew`` is its ``--new``. ``client`` is what ``AsyncClient`` takes.

    Raises GaplessError; see ``gapless.errors``.
    """
    async with AsyncClient(url, **client) as opened:
        if isinstance(source, (str, os.PathLike)):
            path = Path(source)
            file = uploads.Source(path, read_options(format=form, typed=typed), skip_invalid)
            return await uploads.upload(opened, file, batch_size=batch_size, anew=anew)
        with uploads.spooled(records.encode(source)) as path:
            file = uploads.Source(path, read_options(format=Format.NDJSON), remembered=False)
            return await uploads.upload(opened, file, batch_size=batch_size)


async def resume_async(file: File, **client: Any) -> Result:  # noqa: ANN401 - AsyncClient's own
    """Go on with the upload of ``file`` that was begun on this machine, and finish.

    Raises StateError if there is none, FileChangedError if the file is another, or any other
    GaplessError.
    """
    begun = state.load(Path(file))
    if begun is None:
        raise StateError(
            f"No upload of {file} is known here. Give the session's id to: gapless resume"
        )
    async with AsyncClient(client.pop("url", begun.url), **client) as opened:
        return await uploads.resume(opened, uploads.source_of(begun), begun.session_id, begun)


def upload(source: File | Iterable[object], url: str, **options: Any) -> Result:  # noqa: ANN401
    """The same as ``upload_async``, blocking."""
    # Not anyio.run: in a notebook a loop runs in this thread already.
    with start_blocking_portal() as portal:
        return portal.call(partial(upload_async, source, url, **options))


def resume(file: File, **client: Any) -> Result:  # noqa: ANN401 - AsyncClient's own
    """The same as ``resume_async``, blocking."""
    with start_blocking_portal() as portal:
        return portal.call(partial(resume_async, file, **client))
