"""Turns the ``source`` argument of ``gapless.upload`` into a file or a stream."""

import os
from collections.abc import AsyncIterable, Iterable
from pathlib import Path
from typing import IO, Any

from gapless import objects
from gapless.errors import SettingError
from gapless.formats import ReadOptions
from gapless.inputs import Source, is_unnamed
from gapless.schemas import read_schema
from gapless.streams import FileStream, RecordStream

File = str | os.PathLike[str]
Records = Iterable[object] | AsyncIterable[object]


def open_source(
    source: File | IO[bytes] | Records,
    options: ReadOptions,
    *,
    skip_invalid: bool,
    schema: str | os.PathLike[str] | None = None,
    batch_size: int | None,
    gzip: bool,
) -> Source | FileStream | RecordStream:
    """A path as a Source; an open binary file or records as a stream.

    Raises TypeError for anything else; SettingError for an invalid batch size or schema.
    """
    if batch_size is not None and batch_size < 1:
        raise SettingError(f"batch_size is {batch_size}: a batch has at least 1 record.")
    found: Any = source  # its type is checked at runtime
    rules = None if schema is None else read_schema(os.fspath(schema))
    if objects.is_path(source):
        return Source(Path(os.fspath(found)), options, skip_invalid, rules)
    if not objects.is_file(source):
        stream = RecordStream(found, batch_size=batch_size, compress=gzip, schema=rules)
        if options != ReadOptions() or skip_invalid:
            raise TypeError("The options for reading a file cannot be used for records.")
        return stream
    name = getattr(source, "name", "")
    named = os.fsdecode(name) if isinstance(name, (str, bytes)) else ""
    label = named or "the file"
    file = Source(
        Path(Path(label).name),
        options,
        skip_invalid,
        rules,
        stream=found,
        label=label,
        file_name="" if is_unnamed(Path(named)) or named.startswith("<") else Path(named).name,
    )
    return FileStream(file, batch_size=batch_size, compress=gzip)
