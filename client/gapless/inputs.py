"""What an upload reads: a file, or what can be read only once, as a pipe."""

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

from gapless import readers
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
"""Bytes by which a gzip is recognized: the first read returns so many."""


@dataclass(frozen=True)
class Source:
    """A file with records, and how to read it."""

    path: Path
    options: ReadOptions = ReadOptions()  # noqa: RUF009 - it is immutable
    skip_invalid: bool = False
    schema: Schema | None = None
    """What the records are held against."""
    stream: IO[bytes] | None = None
    """Read, once, instead of ``path``."""
    label: str = ""
    """The name in messages, if not the path; its suffix tells the format."""
    file_name: str | None = None
    """The name for the session's metadata, if not that of the path; "" for none."""
    connection: Sequence[str] = ()
    """The options of the command that reach the service, as words, for commands in messages."""
    sending: Sequence[str] = ()
    """Those that say how to send."""

    @property
    def name(self) -> str:
        """The name in messages."""
        return self.label or printable(self.path)

    @property
    def base_name(self) -> str:
        """The name of the file; "" if it has none: standard input, a device."""
        if self.file_name is not None:
            return self.file_name
        return "" if is_unnamed(self.path) else self.path.name

    @property
    def rejects(self) -> Path:
        """The file for records that are left out."""
        path = Path("stdin") if is_unnamed(self.path) and self.is_read_once() else self.path
        if not self.has_rules:
            return with_suffix(path, ".invalid")
        # What is in it may be all that is left of a record: it is never overwritten.
        number, found = 1, with_suffix(path, ".invalid.ndjson")
        while os.path.lexists(found):
            number += 1
            found = with_suffix(path, f".invalid-{number}.ndjson")
        return found

    @property
    def has_rules(self) -> bool:
        """Whether records are checked against a schema here."""
        return self.schema is not None and bool(self.schema.text)

    def is_read_once(self) -> bool:
        """Whether it can be read only once: a pipe, a device. Raises InputError for a folder."""
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
    """Returns what is there: a slow pipe is sent as it comes, not a megabyte at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Some bytes, at most ``size``; none at the end."""
        return self.read1(-1 if size is None else size)


class ReadOnce(io.RawIOBase):
    """A file that is read once, from where it stands. Raises InputError if nothing is there."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._read = 0

    @property
    def sha256(self) -> str:
        """Of what was read."""
        return self._digest.hexdigest()

    def readable(self) -> bool:
        """Yes."""
        return True

    def fileno(self) -> int:
        """That of the file."""
        return self._file.fileno()

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Some of the next bytes; 0 at the end."""
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
            # It would look like the end.
            raise InputError("The input is in non-blocking mode. Pass it through a pipe: cat |")
        return block


@contextmanager
def naming(source: Source) -> Iterator[None]:
    """Put the name of the source before the errors of its content."""
    try:
        yield
    except InputError as error:
        located = isinstance(error, (InvalidRecordError, RecordTooLargeError))
        error.args = (f"{source.name}{',' if located else ':'} {error}",)
        raise
    except OSError as error:
        raise InputError(f"{source.name}: {error.strerror}") from None


class Largest:
    """Which records fit into a batch by themselves, and so can be sent at all."""

    def __init__(self, limits: Limits, *, compress: bool) -> None:
        self._limits = limits
        self._compress = compress
        self.bytes = min(limits.max_body_bytes, limits.max_inflated_bytes) - 1
        """A record of so many bytes fits, whatever is in it."""

    def fits(self, record: bytes) -> bool:
        """Whether a larger record fits when it is compressed."""
        if not self._compress or len(record) >= self._limits.max_inflated_bytes:
            return False
        body, _ = encode_batch([record + b"\n"], compress=True)
        return len(body) <= self._limits.max_body_bytes


def checked(
    source: Source, file: io.BufferedReader, rejects: "RejectsFile", largest: Largest
) -> readers.Reader:
    """The records of ``source``, all of them checked."""
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
    """Takes invalid records: leaves them out, into FILE.invalid, or tells which they are.

    Without a schema the file has the records, unchanged, and the first invalid one is an error if
    they are not left out. With a schema it is FILE.invalid.ndjson, which has the reason beside each
    record, and all of them are told together.
    """

    def __init__(self, source: Source, *, keep: bool) -> None:
        self.count = 0
        """Records that were left out."""
        self.path: Path | None = None
        """The file, if there is one."""
        self._keep = keep
        self._source = source
        self._file: IO[bytes] | None = None
        self._told = 0
        self._errors: list[ViolationError] = []

    def __call__(self, error: InvalidRecordError, record: bytes) -> None:
        """Handle an invalid record. Raises ``error`` where it is the only one to be told."""
        if not self._source.skip_invalid:
            if not self._source.has_rules:
                raise error
            self._told += 1
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
        self._file.write((_explained(error, record) if self._source.has_rules else record) + b"\n")

    def tell(self, advice: str) -> None:
        """Raise InvalidRecordsError if there are records to tell of, with what to do."""
        if not self._told:
            return
        # Malformed ones are found first, a piece of the file at a time.
        errors = sorted(self._errors, key=lambda error: error.line)
        schema = self._source.schema
        name = f" {schema.name!r}" if schema and schema.name else ""
        verb = "does" if self._told == 1 else "do"
        raise InvalidRecordsError(
            f"{count(self._told, 'record')} {verb} not satisfy the schema{name}. The first:"
            f" {errors[0]}. {advice}",
            self._told,
            errors,
        )

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def _as_violation(error: InvalidRecordError) -> ViolationError:
    """A malformed record has no place within it but a column."""
    if isinstance(error, ViolationError):
        return error
    return ViolationError(error.line, "", f"column {error.column}: {error.reason}")


def _explained(error: InvalidRecordError, record: bytes) -> bytes:
    """A line of FILE.invalid.ndjson: a record that is JSON as it is, another one as a text."""
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
