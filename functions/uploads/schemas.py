"""The schemas that are deployed with the stack: a folder of ``NAME.json``.

``packing/check_schemas.py`` checked them at build time. Here each is compiled for the first batch
that needs it. A session keeps the digest of its schema, so that no deployment changes what its
batches are checked against.
"""

import hashlib
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from uploads import errors

if TYPE_CHECKING:
    from uploads.batch import Batch
    from uploads.decode.records import RecordCheck
    from uploads.session import Session


_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class _Schema:
    text: bytes
    digest: str


class Schemas:
    """The schemas in a folder, each read once, and compiled when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, _Schema] = {}
        self._compiled: dict[str, RecordCheck] = {}

    def digest(self, name: str) -> str:
        """SHA-256 of a schema without whitespace, hexadecimal. Raises UnknownSchemaError."""
        schema = self._find(name)
        if schema is None:
            raise errors.UnknownSchemaError(
                "No schema of this name is deployed. Ask the receiver of the data for the name.",
                member="schema",
            )
        return schema.digest

    def require_unchanged(self, session: "Session") -> None:
        """Raise SchemaChangedError unless the schema is the one that the session began with."""
        schema = self._find(session.schema or "")
        if schema is None or schema.digest != session.schema_digest:
            raise errors.SchemaChangedError(
                f"The schema {session.schema!r} was changed or removed after this session was"
                " created. Create a new one and send all batches again."
            )

    def check(self, session: "Session", batch: "Batch") -> None:
        """Check all records; call ``require_unchanged`` first.

        Raises InvalidRecordsError or CheckTooLongError.
        """
        check = self._compiled.get(session.schema or "")
        if check is None:
            from uploads.decode.records import RecordCheck  # noqa: PLC0415

            name = session.schema or ""
            check = self._compiled[name] = RecordCheck(self._read[name].text)
        count, found = check.check(batch.ndjson, time.thread_time)
        if count:
            shown = "" if count == len(found) else f" errors has the first {len(found)}."
            raise errors.InvalidRecordsError(
                f"{count} of {batch.records} records do not satisfy the schema {session.schema!r},"
                f" so nothing of this batch is stored.{shown} Correct them, and send the batch"
                " again.",
                count=count,
                errors=[asdict(one) for one in found],
            )

    def _find(self, name: str) -> _Schema | None:
        if name not in self._read:
            if not _NAME.fullmatch(name):
                return None
            try:
                text = (self._folder / f"{name}.json").read_bytes()
            except OSError:
                return None
            compact = msgspec.json.format(text, indent=-1)
            self._read[name] = _Schema(text, hashlib.sha256(compact).hexdigest())
        return self._read[name]
