"""Checks records against a JSON Schema with the rules and messages of the service.

What passes here passes there. ``jsonschema-rs`` (extra ``gapless[schema]``) does the work; it must
be imported only when a schema is used.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from gapless.errors import SettingError
from gapless.text import printable
from gapless.violations import message_of, pointer

if TYPE_CHECKING:
    from jsonschema_rs import Validator

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

_RECORD: Final = "json-schema:///record"

MAX_DEPTH: Final = 200
"""Deepest nesting of a record."""
MAX_VALUES: Final = 200_000
"""Maximum number of values in one record."""
MAX_DIGITS: Final = 4_300
"""Maximum number of digits, and largest exponent, of a number."""
MAX_EXPLAINED_BYTES: Final = 64 * 1024
"""Largest record for which a reason is searched if the schema has ``anyOf`` or ``oneOf``."""
MAX_EXPLAINED_DEPTH: Final = 6
"""Deepest nesting for which a reason is searched if the schema is recursive."""

_PIECE: Final = 500
"""Number of records that one call validates."""

_DOUBLE_DIGITS: Final = 15
"""A float represents every decimal with at most this many digits uniquely."""
_LEAST, _MOST = 1e-300, 1e300
"""Floats between these are not subnormal, so the above holds."""

_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_STEPS: Final = bytes(1 if byte in b"[{" else 255 for byte in range(256))
"""An opening bracket as 1, a closing one as -1."""

_UNIONS: Final = (b'"anyOf"', b'"oneOf"')
_REFERENCES: Final = {"$ref", "$dynamicRef", "$recursiveRef"}


@dataclass(frozen=True)
class Violation:
    """How a record does not satisfy a schema."""

    index: int
    """Of the record, from 0."""
    path: str
    """JSON Pointer to the invalid value or to what contains it; "" is the whole record."""
    message: str


@dataclass(frozen=True)
class _Refused:
    """Replaces the value of a record that cannot be validated."""

    why: str


class Schema:
    """A schema of the service: its name, and its compiled text if that is known here."""

    def __init__(self, name: str, text: bytes = b"", file: Path | None = None) -> None:
        """Compile ``text``. Raises SettingError if it is invalid or the library is missing."""
        self.name = name
        self.text = text
        self.file = file
        if text:
            self._compile()

    def _compile(self) -> None:
        try:
            import jsonschema_rs  # noqa: PLC0415 - an extra
        except ImportError:
            raise SettingError(
                "Checking records against a schema requires jsonschema-rs: pip install"
                ' "gapless[schema]". Or pass the name of the schema, --schema'
                f" {self.name or 'NAME'}: then only the service checks."
            ) from None
        self._library = jsonschema_rs
        options: dict[str, Any] = {
            "offline": True,
            "pattern_options": jsonschema_rs.RegexOptions(),
        }
        wrong = (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError)
        try:
            # Pass text, so that numbers keep their digits. "mask" keeps values out of messages.
            self._one = jsonschema_rs.validator_for(self.text.decode(), mask="it", **options)
            self._parsed = json.loads(self.text, parse_float=Decimal)
        except wrong as error:
            name = printable(self.file or self.name)
            raise SettingError(
                f"{name} is not a JSON Schema that the service accepts:"
                f" {getattr(error, 'message', error)}"
            ) from None
        named = isinstance(self._parsed, dict) and "$schema" in self._parsed
        draft = {"$schema": self._parsed["$schema"]} if named else {}
        self._many: Validator | None
        try:
            registry = jsonschema_rs.Registry([(_RECORD, self._parsed)])
            schema = draft | {"items": {"$ref": _RECORD}}
            self._many = jsonschema_rs.validator_for(schema, registry=registry, **options)
        except wrong:
            self._many = None  # it refers to a draft, which a registry does not contain

    def violations(self, records: Sequence[bytes | msgspec.Raw]) -> Iterator[Violation]:
        """The violations in ``records``, in order: one for each invalid record."""
        for start in range(0, len(records), _PIECE):
            piece = list(map(bytes, records[start : start + _PIECE]))
            read: list[object] = []
            refused: dict[int, str] = {}
            for index, record in enumerate(piece):
                value = _read_exactly(record)
                if isinstance(value, _Refused):
                    refused[index] = value.why
                read.append(value)
            if not refused and self._many and self._many.is_valid(read):
                continue
            for index, value in enumerate(read):
                if reason := refused.get(index):
                    yield Violation(start + index, "", reason)
                elif not self._one.is_valid(value):
                    path, message = self._explain(piece[index], value)
                    yield Violation(start + index, path, message)

    def _explain(self, record: bytes, value: object) -> tuple[str, str]:
        """Path and message of the violation in ``record``."""
        unions = any(keyword in self.text for keyword in _UNIONS)
        if (unions and len(record) > MAX_EXPLAINED_BYTES) or (
            self._is_recursive and _is_deeper(record, MAX_EXPLAINED_DEPTH)
        ):
            return "", "does not satisfy the schema; it is too large, or too deep, to say where"
        try:
            self._one.validate(value)
        except self._library.ValidationError as error:
            return pointer(error.instance_path), message_of(error)
        return "", "does not satisfy the schema"

    @cached_property
    def _is_recursive(self) -> bool:
        # ``dereference`` replaces all other references.
        return _refers(self._library.dereference(self._parsed, offline=True))


def read_schema(given: str) -> Schema:
    """The schema for ``--schema``: a NAME (only the service checks) or a FILE (checked here too).

    A FILE ends with ``.json`` or has a folder, and its stem is the name. Raises SettingError.
    """
    is_file = given.lower().endswith(".json") or "/" in given or Path(given).name != given
    name = Path(given).stem if is_file else given
    if not NAME.fullmatch(name):
        raise SettingError(
            f"{printable(name)!r} is not the name of a schema: 1 to 64 of a-z, 0-9, '.', '_' and"
            " '-', beginning with a letter or a digit. A file is named after the deployed schema,"
            " for example orders.v3.json."
        )
    return read_file(Path(given), name) if is_file else Schema(name)


def read_file(path: Path, name: str = "") -> Schema:
    """The schema in a file of any name. Raises SettingError."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise SettingError(f"{printable(path)}: {error.strerror}") from None
    if not text.strip():
        raise SettingError(f"{printable(path)} is empty: it is not a JSON Schema.")
    return Schema(name, text, path)


def _refers(node: object) -> bool:
    if isinstance(node, dict):
        return not _REFERENCES.isdisjoint(node) or any(map(_refers, node.values()))
    return isinstance(node, list) and any(map(_refers, node))


def _exact(number: str) -> float | Decimal:
    """A number with a fraction or exponent, without rounding. Raises ValueError if too long."""
    if len(number) > MAX_DIGITS:
        raise ValueError
    value = float(number)
    if (len(number) <= _DOUBLE_DIGITS and _LEAST < abs(value) < _MOST) or repr(value) == number:
        return value
    exact = Decimal(number)
    if exact and abs(exact.adjusted()) > MAX_DIGITS:
        raise ValueError
    return exact or 0.0


_DECODER: Final = msgspec.json.Decoder(float_hook=_exact)
_ENCODER: Final = msgspec.json.Encoder()


def _read_exactly(record: bytes) -> object:
    """The value of a record; ``_Refused`` if it cannot be validated."""
    if record.count(b",") + record.count(b"[") + record.count(b"{") > MAX_VALUES:
        return _Refused(f"has more than {MAX_VALUES} values")
    if _is_deeper(record, MAX_DEPTH):
        return _Refused(f"is nested more than {MAX_DEPTH} levels deep")
    try:
        value = _DECODER.decode(record)
    except msgspec.DecodeError:
        return _Refused(f"has a number of more than {MAX_DIGITS} digits")
    # Every member has a colon; decoding drops a repeated member.
    if rb"\u003" in record or _ENCODER.encode(value).count(b":") != record.count(b":"):
        try:
            json.loads(record, object_pairs_hook=_members, parse_int=_nothing, parse_float=_nothing)
        except _TwiceError:
            return _Refused("has an object with a member that is given twice")
    return value


class _TwiceError(Exception):
    """An object has a member twice."""


def _members(pairs: Sequence[tuple[str, object]]) -> None:
    if len({name for name, _ in pairs}) < len(pairs):
        raise _TwiceError


def _nothing(_: str) -> None:
    """Skip parsing a number."""


def _is_deeper(record: bytes, depth: int) -> bool:
    """Whether the JSON in ``record`` is nested more than ``depth`` levels deep."""
    if len(record) < 2 * depth or record.count(b"[") + record.count(b"{") <= depth:
        return False
    brackets = _STRING.sub(b"", record).translate(_STEPS, _NO_BRACKETS)
    return max(accumulate(memoryview(brackets).cast("b"))) > depth
