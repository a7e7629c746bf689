"""Checks records against a JSON Schema. Pure; a hot path of sessions with a schema.

``jsonschema-rs`` takes Python objects, so the NDJSON is decoded piece by piece. What is stored
stays byte for byte.

Verdicts come only from ``is_valid``, which caches them within a record and so takes no exponential
time under a recursive schema. ``validate``, which explains, may: it is called for few records, and
under such schemas only for small ones.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from itertools import accumulate
from typing import Any, Final

import jsonschema_rs
import msgspec
from jsonschema_rs import (
    ReferencingError,
    RegexOptions,
    Registry,
    ValidationError,
    Validator,
    validator_for,
)

from uploads import errors, limits
from uploads.decode.violations import message_of, pointer

_DECODER: Final = msgspec.json.Decoder()
_ENCODER: Final = msgspec.json.Encoder()

_PIECE_BYTES: Final = 64 * 1024
"""Bytes that are decoded in one step: objects may take fifty times the memory of their text."""

_OPTIONS: Final[dict[str, Any]] = {"offline": True, "pattern_options": RegexOptions()}
_RECORD: Final = "json-schema:///record"

_NUMBERS: Final = bytes.maketrans(b"123456789.E", b"0000000000e")
_MANY_DIGITS: Final = b"0" * 16
"""A number with fewer digits is exact as a float: they are its shortest decimal."""
_SMALL_EXPONENT: Final = b"e-000"
"""Without such an exponent, a float does not underflow."""
_EXPONENT_CHARACTERS: Final = 10
"""More than the largest allowed exponent has."""
_LEAST, _MOST = 1e-300, 1e300
"""Floats in between have full precision."""
_COLON: Final = re.compile(rb"\\u003[aA]")

_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"')
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_STEPS: Final = bytes(1 if byte in b"[{" else 255 for byte in range(256))
"""An opening bracket as 1, a closing one as -1."""

_UNIONS: Final = (b'"anyOf"', b'"oneOf"')
_REFERENCES: Final = {"$ref", "$dynamicRef", "$recursiveRef"}


@dataclass(frozen=True)
class Invalid:
    """A record that does not satisfy the schema."""

    index: int
    """From 0."""
    path: str
    """JSON Pointer to the wrong value, or to one that contains it."""
    message: str


class RecordCheck:
    """Checks records against one schema."""

    def __init__(self, text: bytes) -> None:
        """Compile the schema. Raises ValueError, which says what is wrong with it."""
        self._schema = json.loads(text, parse_float=Decimal)
        try:
            # From text, numbers keep their digits. ``mask`` keeps the record out of messages.
            self._one = validator_for(text.decode(), mask="it", **_OPTIONS)
        except ValidationError as error:
            raise ValueError(f"at {pointer(error.instance_path) or '/'}: {error.message}") from None
        self._many = self._compile_many()
        self._has_unions = any(keyword in text for keyword in _UNIONS)

    def _compile_many(self) -> "Validator | None":
        """A validator for many records in one call, which takes two thirds of the time.

        None if the schema refers to the schema of a draft, which is unknown to a registry.
        """
        is_named = isinstance(self._schema, dict) and "$schema" in self._schema
        draft = {"$schema": self._schema["$schema"]} if is_named else {}
        schema = draft | {"items": {"$ref": _RECORD}}
        try:
            return validator_for(schema, registry=Registry([(_RECORD, self._schema)]), **_OPTIONS)
        except (ValidationError, ReferencingError):
            return None

    def check(self, ndjson: bytes, cpu: Callable[[], float]) -> tuple[int, list[Invalid]]:
        """How many records do not satisfy the schema, and the first MAX_INVALID_SHOWN of them.

        ``cpu`` returns the CPU seconds used so far. Raises CheckTooLongError.
        """
        begun = cpu()
        most = limits.CHECK_SECONDS + limits.CHECK_SECONDS_PER_BYTE * len(ndjson)
        records = count = wrong = explained = 0
        found: list[Invalid] = []
        for piece in _pieces(ndjson):
            if cpu() - begun > most:
                raise errors.CheckTooLongError(
                    "Checking these records against the schema takes too long. Send smaller"
                    " batches."
                )
            verdicts = self._judge_together(piece, likely_valid=not wrong)
            if verdicts is None:
                verdicts = list(map(self._judge, piece.splitlines()))
            wrong = len(verdicts) - verdicts.count(True)
            if wrong:
                count += wrong
                lines = piece.splitlines() if len(found) < limits.MAX_INVALID_SHOWN else []
                for at, (line, verdict) in enumerate(zip(lines, verdicts, strict=False)):
                    if verdict is not True and len(found) < limits.MAX_INVALID_SHOWN:
                        explained += len(line)
                        why = verdict or self._explain(line, explained)
                        found.append(Invalid(records + at, *why))
            records += len(verdicts)
        return count, found

    def _judge_together(self, piece: bytes, *, likely_valid: bool) -> "list[_Verdict] | None":
        """A verdict for every record of ``piece``; None if they must be judged one by one."""
        objects = _read_together(piece)
        if objects is None:
            return None
        if likely_valid and self._many and self._many.is_valid(objects):
            return [True] * len(objects)
        return list(map(self._one.is_valid, objects))

    def _judge(self, line: bytes) -> "_Verdict":
        """The verdict on one record."""
        record, reason = _read_exactly(line)
        return ("", reason) if reason else self._one.is_valid(record)

    def _explain(self, line: bytes, explained: int) -> tuple[str, str]:
        """Where and how the record in ``line`` does not satisfy the schema."""
        if (self._has_unions and explained > limits.MAX_EXPLAINED_BYTES) or (
            self._is_recursive and _is_deeper(line, limits.MAX_EXPLAINED_DEPTH)
        ):
            return "", "does not satisfy the schema; it is too large, or too deep, to say where"
        try:
            self._one.validate(_read_exactly(line)[0])
        except ValidationError as error:
            return pointer(error.instance_path), message_of(error)
        return "", "does not satisfy the schema"

    @cached_property
    def _is_recursive(self) -> bool:
        # Dereferencing replaces all other references.
        return _refers(jsonschema_rs.dereference(self._schema, offline=True))


_Verdict = bool | tuple[str, str]
"""Whether a record is valid; or the path and the reason why it cannot be judged."""

_REPEATED: Final = "has an object with a member that is given twice"


def _refers(node: object) -> bool:
    if isinstance(node, dict):
        return not _REFERENCES.isdisjoint(node) or any(map(_refers, node.values()))
    return isinstance(node, list) and any(map(_refers, node))


def _pieces(ndjson: bytes) -> Iterator[bytes]:
    """Pieces of as many whole lines as fit, or of one longer line."""
    start = 0
    while start < len(ndjson):
        end = ndjson.rfind(b"\n", start, start + _PIECE_BYTES) + 1
        end = end or ndjson.find(b"\n", start) + 1
        yield ndjson[start:end]
        start = end


def _read_together(piece: bytes) -> list[Any] | None:
    """The records of some lines; None if one may be refused or not decoded exactly."""
    # A record with too many values is longer than a piece.
    records = _decode(_DECODER, piece) if len(piece) <= _PIECE_BYTES else None
    if records is None:
        return None
    if _is_flat(piece, records):
        if not _has_long_numbers(piece):
            return records
    elif any(_is_deeper(line, limits.MAX_CHECKED_DEPTH) for line in piece.split(b"\n")):
        return None
    written = _ENCODER.encode_lines(records)
    # Encoded it is the same: no number has lost digits, and no object a repeated member.
    if written == piece:
        return records
    # Each member has a colon, and strings keep theirs: fewer colons mean a repeated member.
    unescaped = _COLON.sub(b":", piece) if rb"\u003" in piece else piece
    if written.count(b":") != unescaped.count(b":"):
        return None
    return _decode(_EXACT_DECODER, piece) if _has_long_numbers(piece) else records


def _decode(decoder: "msgspec.json.Decoder[Any]", piece: bytes) -> list[Any] | None:
    """The records of some lines; None if a number is too large."""
    try:
        return decoder.decode_lines(piece)
    except msgspec.DecodeError:
        return None


def _has_long_numbers(piece: bytes) -> bool:
    """Whether there may be numbers that are not exact as floats."""
    numbers = piece.translate(_NUMBERS)
    return _MANY_DIGITS in numbers or _SMALL_EXPONENT in numbers


def _is_flat(piece: bytes, records: list[Any]) -> bool:
    """Whether every record is an object without nested objects, arrays or repeated members."""
    try:
        members = sum(map(dict.__len__, records))
    except TypeError:
        return False
    # Each member has a colon. More colons may mean nested or repeated members.
    return members == piece.count(b":") and b"[" not in piece


def _read_exactly(line: bytes) -> tuple[Any, str]:
    """The record in ``line``, and the reason if it cannot be judged."""
    if len(line) > limits.MAX_CHECKED_VALUES:
        values = line.count(b",") + line.count(b"[") + line.count(b"{")
        if values > limits.MAX_CHECKED_VALUES:
            return None, f"has more than {limits.MAX_CHECKED_VALUES} values"
    if _is_deeper(line, limits.MAX_CHECKED_DEPTH):
        return None, f"is nested more than {limits.MAX_CHECKED_DEPTH} levels deep"
    try:
        record = _EXACT_DECODER.decode(line)
    except msgspec.DecodeError:
        return None, f"has a number of more than {limits.MAX_DIGITS} digits"
    # As in ``_read_together``: fewer colons mean a repeated member.
    if rb"\u003" in line:
        if _has_repeats(line):
            return None, _REPEATED
    elif _ENCODER.encode(record).count(b":") != line.count(b":"):
        return None, _REPEATED
    return record, ""


def _has_repeats(line: bytes) -> bool:
    """Whether an object in ``line`` has a repeated member."""
    found = False

    def see(members: list[tuple[str, object]]) -> None:
        nonlocal found
        found = found or len({name for name, _ in members}) < len(members)

    json.loads(line.decode(), object_pairs_hook=see, parse_int=_nothing, parse_float=_nothing)
    return found


def _nothing(_: str) -> None:
    """Make no numbers, which could be too long for Python."""


def _is_deeper(line: bytes, depth: int) -> bool:
    """Whether the JSON in ``line`` is nested more than ``depth`` levels deep."""
    if len(line) < 2 * depth or line.count(b"[") + line.count(b"{") <= depth:
        return False
    brackets = _STRING.sub(b"", line).translate(_STEPS, _NO_BRACKETS)
    return max(accumulate(memoryview(brackets).cast("b")), default=0) > depth


def _exact(number: str) -> float | Decimal:
    """A number with a fraction or exponent, without loss. Raises ValueError if it is too long."""
    if len(number) > limits.MAX_DIGITS:
        raise ValueError
    value = float(number)
    if (len(number) < len(_MANY_DIGITS) and _LEAST < abs(value) < _MOST) or repr(value) == number:
        return value
    digits, _, exponent = number.lower().partition("e")
    if not digits.strip("-0."):
        return 0.0
    # Checked first, because Decimal fails for a longer exponent.
    if len(exponent) > _EXPONENT_CHARACTERS:
        raise ValueError
    exact = Decimal(number)
    if abs(exact.adjusted()) > limits.MAX_DIGITS:
        raise ValueError
    return exact


_EXACT_DECODER: Final = msgspec.json.Decoder(float_hook=_exact)
