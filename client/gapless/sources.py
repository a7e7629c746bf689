"""What ``gapless.upload`` takes, as a file that can be read more than once."""

import os
import shutil
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any

import anyio.to_thread

from gapless import objects
from gapless.reading import Format, ReadOptions
from gapless.uploads import Source

File = str | os.PathLike[str]
Records = Iterable[object] | AsyncIterable[object]


@contextmanager
def opened(
    source: File | IO[bytes] | Iterable[object], options: ReadOptions, *, skip_invalid: bool
) -> Iterator[Source]:
    """A path, an open binary file, or records; the last two are spooled. Raises TypeError."""
    if objects.is_path(source):
        yield Source(Path(os.fspath(_any(source))), options, skip_invalid)
    elif objects.is_file(source):
        with _spool() as file:
            shutil.copyfileobj(_any(source), file)
            yield _of_file(source, file, options, skip_invalid=skip_invalid)
    else:
        lines = objects.encode(_any(source))
        with _spool() as file:
            file.writelines(lines)
            yield _of_records(file, options, skip_invalid=skip_invalid)


@asynccontextmanager
async def opened_async(
    source: File | IO[bytes] | Records | Source, options: ReadOptions, *, skip_invalid: bool
) -> AsyncIterator[Source]:
    """The same, of asynchronous iterables too; other tasks go on meanwhile."""
    if isinstance(source, Source):
        yield source
    elif objects.is_path(source):
        yield Source(Path(os.fspath(_any(source))), options, skip_invalid)
    elif objects.is_file(source):
        with _spool() as file:
            await anyio.to_thread.run_sync(shutil.copyfileobj, _any(source), file)
            yield _of_file(source, file, options, skip_invalid=skip_invalid)
    else:
        with _spool() as file:
            async for line in objects.encode_any(_any(source)):
                file.write(line)
            yield _of_records(file, options, skip_invalid=skip_invalid)


def _any(source: object) -> Any:  # noqa: ANN401 - what it is was found out at runtime
    return source


@contextmanager
def _spool() -> Iterator[IO[bytes]]:
    with tempfile.NamedTemporaryFile(prefix="gapless-") as file:
        yield file


def _of_file(
    source: object, file: IO[bytes], options: ReadOptions, *, skip_invalid: bool
) -> Source:
    file.flush()
    name = getattr(source, "name", "")
    label = os.fsdecode(name) if isinstance(name, (str, bytes)) and name else "the file"
    return Source(
        Path(file.name),
        options,
        skip_invalid,
        remembered=False,
        aside=Path(f"{Path(label).name}.invalid"),
        label=label,
    )


def _of_records(file: IO[bytes], options: ReadOptions, *, skip_invalid: bool) -> Source:
    file.flush()
    if options != ReadOptions() or skip_invalid:
        raise TypeError("How a file is read can be said of a file, not of records.")
    how = ReadOptions(format=Format.NDJSON)
    return Source(Path(file.name), how, remembered=False, label="the records")
