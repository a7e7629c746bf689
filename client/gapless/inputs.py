"""The input of an upload: a file, or a pipe, which can be read only once. Sends nothing."""

import hashlib
import io
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, cast

import msgspec

from gapless import atomic, readers
from gapless.errors import (
    MAX_VIOLATIONS,
    InputError,
    InvalidRecordError,
    InvalidRecordsError,
    RecordTooLargeError,
    ViolationError,
)
from gapless.formats import ReadOptions
from gapless.models import Limits
from gapless.schemas import Schema
from gapless.sessions import encode_batch
from gapless.text import count, printable, with_suffix

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from typing_extensions import Self

EMPTY: Final = (
    "The input is empty: did the command that writes it fail? To upload no records, use an empty"
    " .ndjson file."
)


_MAGIC: Final = 2
"""Length of the gzip signature; the first read returns at least this many bytes."""


@dataclass(frozen=True)
class Source:
    """A file with records, and how to read it."""

    path: Path
    options: ReadOptions = ReadOptions()  # noqa: RUF009 - it is immutable
    skip_invalid: bool = False
    schema: Schema | None = None
    stream: IO[bytes] | None = None
    """If set, it is read once instead of ``path``."""
    label: str = ""
    """The name in messages, by default the path; its suffix determines the format."""
    file_name: str | None = None
    """The name in the session's metadata, by default that of the path; "" for none."""
    connection: Sequence[str] = ()
    """Command-line words that say how to reach the service, for commands in messages."""
    sending: Sequence[str] = ()
    """Command-line words that say how to send."""

    @property
    def name(self) -> str:
        """The name in messages."""
        return self.label or printable(self.path)

    @property
    def base_name(self) -> str:
        """The name of the file; "" for standard input and devices."""
        if self.file_name is not None:
            return self.file_name
        return "" if is_unnamed(self.path) else self.path.name

    @property
    def rejects(self) -> Path:
        """The file for records that are left out."""
        path = Path("stdin") if is_unnamed(self.path) and self.is_read_once() else self.path
        if not self.has_rules:
            return with_suffix(path, ".invalid")
        # Never overwrite such a file: it may contain the only copy of a record.
        number, found = 1, with_suffix(path, ".invalid.ndjson")
        while os.path.lexists(found):
            number += 1
            found = with_suffix(path, f".invalid-{number}.ndjson")
        return found

    @property
    def has_rules(self) -> bool:
        """Whether the client checks records against a schema."""
        return self.schema is not None and bool(self.schema.text)

    def is_read_once(self) -> bool:
        """Whether it is a pipe or a device, which is read once. Raises InputError for a folder."""
        if self.stream is not None:
            return True
        try:
            mode = self.path.stat().st_mode
        except OSError:
            return False  # opening it raises the error
        if stat.S_ISDIR(mode):
            raise InputError(f"{self.name} is a folder. Pass the files in it.")
        return not stat.S_ISREG(mode)


def is_unnamed(path: Path) -> bool:
    """Whether ``path`` is standard input, a pipe of the shell or a device."""
    return os.fspath(path).startswith(("/dev/", "/proc/")) or str(path) == "-"


@contextmanager
def opened(source: Source) -> Iterator[io.BufferedReader]:
    """The file of ``source``, open. Raises InputError."""
    if source.stream is not None:
        yield _buffered(source.stream)
        return
    once = source.is_read_once()
    try:
        file = source.path.open("rb")
    except OSError as error:
        raise InputError(f"{printable(source.path)}: {error.strerror}") from None
    with file:
        yield _buffered(file) if once else file


def _buffered(file: IO[bytes]) -> io.BufferedReader:
    return cast("io.BufferedReader", _Available(ReadOnce(file), readers.CHUNK))


class _Available(io.BufferedReader):
    """Returns available bytes without waiting for more: a slow pipe is sent as it arrives."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Some bytes, at most ``size``; none at the end."""
        return self.read1(-1 if size is None else size)


class ReadOnce(io.RawIOBase):
    """A file that is read once, from its current position. Raises InputError if it is empty."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._read = 0

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes read so far, hexadecimal."""
        return self._digest.hexdigest()

    def readable(self) -> bool:
        """Always True."""
        return True

    def fileno(self) -> int:
        """The descriptor of the file."""
        return self._file.fileno()

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read some of the next bytes; returns 0 at the end."""
        target = memoryview(buffer).cast("B")
        block = self._some(len(target))
        while not self._read and block and len(block) < _MAGIC:
            more = self._some(len(target) - len(block))
            if not more:
                break
            block += more
        self._digest.update(block)
        self._read += len(block)
        if not self._read:
            raise InputError(EMPTY, "empty")
        target[: len(block)] = block
        return len(block)

    def _some(self, size: int) -> bytes:
        block: bytes | None = getattr(self._file, "read1", self._file.read)(size)
        if block is None:
            # Returning it would look like the end of the input.
            raise InputError("The input is in non-blocking mode. Pass it through a pipe: cat |")
        return block


@contextmanager
def naming(source: Source) -> Iterator[None]:
    """Prefix the messages of errors with the name of the source."""
    try:
        yield
    except InputError as error:
        located = isinstance(error, (InvalidRecordError, RecordTooLargeError))
        error.args = (f"{source.name}{',' if located else ':'} {error}",)
        raise
    except OSError as error:
        raise InputError(f"{source.name}: {error.strerror}") from None


class SizeLimit:
    """Decides which records can be sent: those that fit into a batch of one record."""

    def __init__(self, limits: Limits, *, compress: bool) -> None:
        self._limits = limits
        self._compress = compress
        self.bytes = min(limits.max_body_bytes, limits.max_inflated_bytes) - 1
        """A record of at most this many bytes always fits."""

    def fits(self, record: bytes) -> bool:
        """Whether a larger record fits after compression."""
        if not self._compress or len(record) >= self._limits.max_inflated_bytes:
            return False
        body, _ = encode_batch([record + b"\n"], compress=True)
        return len(body) <= self._limits.max_body_bytes


def checked(
    source: Source, file: io.BufferedReader, rejects: "RejectsFile", largest: SizeLimit
) -> readers.Reader:
    """A reader of ``source`` that checks every record."""
    return readers.Reader(
        file,
        source.name,
        source.options,
        on_invalid=rejects,
        schema=source.schema,
        largest=largest.bytes,
        fits=largest.fits,
    )


class RejectsFile:
    """Handles invalid records: with ``skip_invalid`` writes them to a file, else reports them.

    Without a schema the file is FILE.invalid with the unchanged records; without ``skip_invalid``
    the first invalid record is the error. With a schema the file is FILE.invalid.ndjson, which has
    a reason for each record; without ``skip_invalid`` one error reports all invalid records.

    ``keep`` is whether to write the file; ``partial`` whether it stays if a signal ends the process
    in the middle.
    """

    def __init__(self, source: Source, *, keep: bool, partial: bool) -> None:
        self.count = 0
        self.path: Path | None = None
        """The file; None if none was written."""
        self._keep = keep
        self._partial = partial
        self._source = source
        self._file: IO[bytes] | None = None
        self._invalid = 0
        self._errors: list[ViolationError] = []

    def __call__(self, error: InvalidRecordError, record: bytes) -> None:
        """Handle an invalid record. Raises ``error`` if the first one is to stop the upload."""
        if not self._source.skip_invalid:
            if not self._source.has_rules:
                raise error
            self._invalid += 1
            if len(self._errors) < MAX_VIOLATIONS:
                self._errors.append(_as_violation(error))
            return
        self.count += 1
        if not self._keep:
            return
        if self._file is None:
            self.path = self._source.rejects
            try:
                self._file = self.path.open("xb" if self._source.has_rules else "wb")
            except OSError as fault:
                raise InputError(
                    f"{printable(self.path)}, for records that are left out: {fault.strerror}"
                ) from None
            if not self._partial:
                atomic.begin(self.path)
        self._file.write((_explained(error, record) if self._source.has_rules else record) + b"\n")

    def raise_errors(self, advice: str) -> None:
        """Raise InvalidRecordsError, with ``advice``, if there are records to report."""
        if not self._invalid:
            return
        # In each piece of the file malformed records are found first.
        errors = sorted(self._errors, key=lambda error: error.line)
        schema = self._source.schema
        name = f" {schema.name!r}" if schema and schema.name else ""
        verb = "does" if self._invalid == 1 else "do"
        raise InvalidRecordsError(
            f"{count(self._invalid, 'record')} {verb} not satisfy the schema{name}. The first:"
            f" {errors[0]}. {advice}",
            self._invalid,
            errors,
        )

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None and self.path is not None:
            self._file.close()
            atomic.complete(self.path)


def _as_violation(error: InvalidRecordError) -> ViolationError:
    """A malformed record as a violation: it has a column, but no JSON Pointer."""
    if isinstance(error, ViolationError):
        return error
    return ViolationError(error.line, "", f"column {error.column}: {error.reason}")


def _explained(error: InvalidRecordError, record: bytes) -> bytes:
    """A line of FILE.invalid.ndjson; a record that is not JSON becomes a string."""
    is_json = isinstance(error, ViolationError)
    found = _as_violation(error)
    return msgspec.json.encode(
        {
            "line": found.line,
            "path": found.path if is_json else None,
            "message": found.reason,
            "record": msgspec.Raw(record) if is_json else record.decode(errors="replace"),
        }
    )
