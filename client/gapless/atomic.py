"""Files to write into: there whole, or not at all, or opened by somebody else; temporary ones."""

import errno
import io
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

_PREFIX: Final = ".gapless-"
_temporary: Final[set[str]] = set()


def discard() -> None:
    """Delete every temporary file: for a process that ends at once."""
    for path in list(_temporary):
        with suppress(OSError):
            os.unlink(path)  # noqa: PTH108 - a signal's handler does as little as it can


@contextmanager
def _registered(path: Path) -> Iterator[None]:
    _temporary.add(os.fspath(path))
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        _temporary.discard(os.fspath(path))


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """A file that becomes ``path`` when all went well, and is gone otherwise. Raises OSError.

    A link stays one: its target is written. What is no regular file, a device or a pipe, cannot be
    replaced and is written into.
    """
    try:
        if replaceable(path):
            yield from _replaced(path)
        else:
            with path.open("wb") as file:
                yield file
    except OSError as error:
        # A temporary file, and a write that fails, say nothing to whoever named the file.
        if error.filename is None or Path(error.filename).name.startswith(_PREFIX):
            error.filename, error.filename2 = os.fspath(path), None
        raise


def _replaced(path: Path) -> Iterator[IO[bytes]]:
    path = Path(os.path.realpath(path))
    # Beside it, for a rename is atomic within one file system alone; and short, as names have a
    # greatest length.
    temporary = path.with_name(f"{_PREFIX}{secrets.token_hex(8)}")
    with _registered(temporary):
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with suppress(OSError):
            shutil.copymode(path, temporary)
        temporary.replace(path)


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


def replaceable(path: Path) -> bool:
    """Whether another file may take the place of ``path``: nothing, or a regular file."""
    # /dev/stdout may lead to a regular file, that somebody else writes to.
    if os.fspath(path).startswith(("/dev/", "/proc/")):
        return False
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return True


@contextmanager
def spool() -> Iterator[tuple[IO[bytes], Path]]:
    """A temporary file, to write and then to read by its name. Raises OSError."""
    number, name = tempfile.mkstemp(prefix="gapless-")
    with _registered(Path(name)), os.fdopen(number, "wb") as file:
        yield file, Path(name)


@contextmanager
def standard_output() -> Iterator[IO[bytes]]:
    """Standard output, for bytes. Raises OSError where it is closed."""
    if sys.__stdout__ is None:
        raise OSError(errno.EBADF, "Standard output is closed")
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()
