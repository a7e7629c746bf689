"""The sources of ``gapless.upload``, as files that can be read more than once."""

import os
import shutil
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any

import anyio.to_thread

from gapless import objects
from gapless.formats import Format, ReadOptions
from gapless.uploads import Source, is_unnamed

File = str | os.PathLike[str]
Records = Iterable[object] | AsyncIterable[object]


@contextmanager
def open_source(
    source: File | IO[bytes] | Iterable[object], options: ReadOptions, *, skip_invalid: bool
) -> Iterator[Source]:
    """A path, an open binary file, or records; copies the last two to disk. Raises TypeError."""
    if objects.is_path(source):
        yield Source(Path(os.fspath(_any(source))), options, skip_invalid)
    elif objects.is_file(source):
        with _temporary_file() as file:
            shutil.copyfileobj(_any(source), file)
            yield _of_file(source, file, options, skip_invalid=skip_invalid)
    else:
        lines = objects.encode(_any(source))
        with _temporary_file() as file:
            file.writelines(lines)
            yield _of_records(file, options, skip_invalid=skip_invalid)


@asynccontextmanager
async def open_source_async(
    source: File | IO[bytes] | Records | Source, options: ReadOptions, *, skip_invalid: bool
) -> AsyncIterator[Source]:
    """The same, for asynchronous iterables too; does not block the event loop."""
    if isinstance(source, Source):
        yield source
    elif objects.is_path(source):
        yield Source(Path(os.fspath(_any(source))), options, skip_invalid)
    elif objects.is_file(source):
        with _temporary_file() as file:
            await anyio.to_thread.run_sync(shutil.copyfileobj, _any(source), file)
            yield _of_file(source, file, options, skip_invalid=skip_invalid)
    else:
        with _temporary_file() as file:
            async for line in objects.encode_async(_any(source)):
                file.write(line)
            yield _of_records(file, options, skip_invalid=skip_invalid)


def _any(source: object) -> Any:  # noqa: ANN401 - its type was checked at runtime
    return source


@contextmanager
def _temporary_file() -> Iterator[IO[bytes]]:
    with tempfile.NamedTemporaryFile(prefix="gapless-") as file:
        yield file


def _of_file(
    source: object, file: IO[bytes], options: ReadOptions, *, skip_invalid: bool
) -> Source:
    file.flush()
    name = getattr(source, "name", "")
    named = os.fsdecode(name) if isinstance(name, (str, bytes)) else ""
    label = named or "the file"
    return Source(
        Path(file.name),
        options,
        skip_invalid,
        keep_state=False,
        rejects_path=Path(f"{Path(label).name}.invalid"),
        label=label,
        file_name="" if is_unnamed(Path(named)) or named.startswith("<") else Path(named).name,
    )


def _of_records(file: IO[bytes], options: ReadOptions, *, skip_invalid: bool) -> Source:
    file.flush()
    if options != ReadOptions() or skip_invalid:
        raise TypeError("The options for reading a file cannot be used for records.")
    options = ReadOptions(format=Format.NDJSON)
    return Source(Path(file.name), options, keep_state=False, label="the records", file_name="")
