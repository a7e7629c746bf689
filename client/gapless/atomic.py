"""Writes files atomically: complete, or not at all. Imports no other module of the package."""

import atexit
import errno
import io
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

_PREFIX: Final = ".gapless-"
_temporary: Final[set[str]] = set()


def delete_temporary_files() -> None:
    """Delete every temporary file of this process, before it exits."""
    for path in list(_temporary):
        with suppress(OSError):
            os.unlink(path)  # noqa: PTH108 - a signal handler does as little as possible


# A client that is not closed may be writing in its thread, which ends without cleaning up.
atexit.register(delete_temporary_files)


def begin(path: Path) -> None:
    """Treat ``path`` as a temporary file until ``complete``."""
    _temporary.add(os.fspath(path))


def complete(path: Path) -> None:
    """Keep ``path``."""
    _temporary.discard(os.fspath(path))


@contextmanager
def _registered(path: Path) -> Iterator[None]:
    begin(path)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        complete(path)


@contextmanager
def write(path: Path) -> Iterator[IO[bytes]]:
    """A file that becomes ``path`` on success, and is deleted otherwise. Raises OSError.

    The target of a symbolic link is replaced, not the link. A device or a pipe cannot be replaced:
    it is written directly.
    """
    try:
        if _is_replaceable(path):
            yield from _replaced(path)
        else:
            with path.open("wb") as file:
                yield file
    except OSError as error:
        # The user knows ``path``, not the temporary file.
        if error.filename is None or Path(error.filename).name.startswith(_PREFIX):
            error.filename, error.filename2 = os.fspath(path), None
        raise


def _replaced(path: Path) -> Iterator[IO[bytes]]:
    path = Path(os.path.realpath(path))
    # Renaming is atomic only within one file system, so use the same folder. The name is short
    # because names have a maximum length.
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
def open_for_writing(to: str | os.PathLike[str] | IO[bytes]) -> Iterator[IO[bytes]]:
    """``to`` itself if it is an open binary file; otherwise see ``write``. Raises TypeError."""
    if isinstance(to, (str, os.PathLike)):
        with write(Path(to)) as file:
            yield file
    elif isinstance(to, io.TextIOBase) or not hasattr(to, "write"):
        raise TypeError(
            f"Cannot write bytes to {type(to).__name__}: pass a path, or a file opened as binary."
        )
    else:
        yield to


def write_all(file: IO[bytes], block: bytes) -> None:
    """Write the whole block; an unbuffered file may write only a part of it per call."""
    rest = memoryview(block)
    while rest:
        rest = rest[file.write(rest) :]


def _is_replaceable(path: Path) -> bool:
    """Whether ``path`` is a regular file or does not exist, so that renaming may replace it."""
    # /dev/stdout may be a regular file that another process writes to.
    if os.fspath(path).startswith(("/dev/", "/proc/")):
        return False
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return True


@contextmanager
def standard_output() -> Iterator[IO[bytes]]:
    """Standard output, for bytes. Raises OSError if it is closed."""
    if sys.__stdout__ is None:
        raise OSError(errno.EBADF, "Standard output is closed")
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()
