"""Files to write into: there whole, or not at all; or opened by somebody else."""

import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """A file that becomes ``path`` when all went well, and is gone otherwise. Raises OSError."""
    # Beside it, for a rename is atomic within one file system alone.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def opened_to_write(to: str | os.PathLike[str] | IO[bytes]) -> Iterator[IO[bytes]]:
    """A file to write into: ``to`` itself, or the file of that name, whole or not at all."""
    if isinstance(to, (str, os.PathLike)):
        with written(Path(to)) as file:
            yield file
    elif isinstance(to, io.TextIOBase) or not hasattr(to, "write"):
        raise TypeError(
            f"Cannot write bytes into {type(to).__name__}: pass a path, or a file opened as binary."
        )
    else:
        yield to


def write_all(file: IO[bytes], block: bytes) -> None:
    """Write the whole block; an unbuffered file may take less at a time."""
    rest = memoryview(block)
    while rest:
        rest = rest[file.write(rest) :]
