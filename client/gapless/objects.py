"""Python objects as records: each travels exactly, or is refused with its number.

JSON has words for ``str``, ``int``, finite ``float``, ``bool``, ``None``, ``list``, and ``dict``
with ``str`` keys. A ``tuple`` is sent as an array, as by the standard library, and a ``Decimal`` as
a number with its own digits. A record that is ``bytes``, or ``msgspec.Raw``, is JSON already and
stays as it is. For anything else there is more than one way, and the caller knows which: it is
refused.
"""

import enum
import io
import math
import os
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from decimal import Decimal
from typing import Any, Final, NoReturn

import anyio.lowlevel
import msgspec

from gapless.errors import InvalidRecordError
from gapless.records import one_line, refuse_json

_BREATH: Final = 1_000
"""Records of a generator between two chances for other tasks."""

_PLAIN: Final = {str, int, bool, type(None)}
_STR: Final = {str}
_RECORDS: Final = "Pass a list, a generator or another iterable of records"
_ENCODE: Final = msgspec.json.Encoder(decimal_format="number").encode


def is_path(source: object) -> bool:
    """Whether ``source`` names a file. Raises TypeError for a ``str`` that is its content."""
    if isinstance(source, str):
        text = source.lstrip()
        if (text[:1] in {"{", "["} or "\n" in source) and not os.path.exists(source):  # noqa: PTH110 - never raises
            raise TypeError(
                "A str is the name of a file, and this looks like its content. Pass"
                " io.BytesIO(text.encode()), or records."
            )
        return True
    return isinstance(source, os.PathLike)


def is_file(source: object) -> bool:
    """Whether ``source`` is an open binary file. Raises TypeError for a text file."""
    if isinstance(source, io.TextIOBase) or (
        hasattr(source, "read") and isinstance(getattr(source, "encoding", None), str)
    ):
        raise TypeError('A text file may alter what is in it: open it as binary, open(path, "rb").')
    return hasattr(source, "read")


_PIECES: Final = (
    type(iter("a")),
    type(iter("é")),
    type(iter(b"")),
    type(iter(bytearray())),
    type(iter(dict[str, str]())),
    type(iter(set[str]())),
)


def check_iterable(records: object) -> None:
    """Raise TypeError for what is no iterable of records, though Python may iterate over it."""
    kind = type(records).__name__
    if isinstance(records, (str, bytes, bytearray, memoryview)):
        raise TypeError(
            f"{kind} is not a list of records. {_RECORDS}; JSON that is there already as an open"
            " binary file, io.BytesIO(…), to upload."
        )
    if isinstance(records, Mapping) or hasattr(records, "keys") or _fields(records):
        raise TypeError(
            f"This {kind} is one record, or a table, not a list of records. {_RECORDS}."
        )
    if isinstance(records, _PIECES):
        raise TypeError(
            f"A {kind} goes over the pieces of one value, which are no records. {_RECORDS}."
        )
    if isinstance(records, AbstractSet):
        raise TypeError(f"A {kind} has no order. {_RECORDS}, for instance sorted(…).")
    if isinstance(records, type) or not isinstance(records, (Iterable, AsyncIterable)):
        raise TypeError(f"{kind} is not iterable. {_RECORDS}.")
    is_file(records)
    if hasattr(records, "read"):
        raise TypeError(f"A file is not a list of records. {_RECORDS}, or the file to upload.")


_FIELDS: Final = (
    "_fields",
    "columns",
    "column_names",
    "model_fields",
    "__dataclass_fields__",
    "__struct_fields__",
    "__attrs_attrs__",
)


def _fields(value: object) -> bool:
    """Whether ``value`` is one object with fields, or a table with columns."""
    return any(hasattr(value, mark) for mark in _FIELDS)


def encode(records: Iterable[object]) -> Iterator[bytes]:
    """The records as lines of NDJSON. Raises TypeError or InvalidRecordError."""
    check_iterable(records)
    for number, record in enumerate(records, 1):
        yield encode_one(number, record)


async def encode_any(
    records: Iterable[object] | AsyncIterable[object],
) -> AsyncGenerator[bytes, None]:
    """The same, of an asynchronous iterable too; leaves room for other tasks."""
    if not isinstance(records, AsyncIterable):
        for number, line in enumerate(encode(records)):
            if number % _BREATH == 0:
                await anyio.lowlevel.checkpoint()
            yield line
        return
    number = 0
    async for record in records:
        number += 1
        yield encode_one(number, record)


def encode_one(number: int, record: object) -> bytes:
    """A record as a line of NDJSON. Raises InvalidRecordError with its ``number``."""
    if isinstance(record, (bytes, msgspec.Raw)):
        content = bytes(record)
        refuse_json(content, number)
        return one_line(content.strip(b" \t\r\n")) + b"\n"
    try:
        found = _exact(record, number, "")
        return _ENCODE(record if found is _SAME else found) + b"\n"
    except UnicodeEncodeError:
        _refuse(number, "", "half of a surrogate pair is no character")
    except RecursionError:
        _refuse(number, "", "it is nested too deeply")
    except ValueError:
        _refuse(number, "", "Python writes no int of so many digits; pass bytes of JSON")


_SAME: Final = object()
"""Stands for a value that may be encoded as it is."""


def _exact(value: Any, number: int, where: str) -> Any:  # noqa: ANN401 - any value
    """``value`` as msgspec encodes it exactly; ``_SAME`` where it does already."""
    kind = type(value)
    if kind in _PLAIN:
        return _SAME
    if kind is dict or kind is list or kind is tuple:
        return _members(value, number, where)
    if kind is float or kind is Decimal:
        if not (math.isfinite(value) if kind is float else value.is_finite()):
            _refuse(number, where, f"{value} is not JSON")
        return _SAME
    if kind is msgspec.Raw:
        refuse_json(bytes(value), number)
        return msgspec.Raw(one_line(bytes(value)))
    found = _plain(value, number, where)
    exact = _exact(found, number, where)
    return found if exact is _SAME else exact


def _plain(value: Any, number: int, where: str) -> Any:  # noqa: ANN401 - any value
    """The same without the class of its own, where it is one of JSON's by inheritance."""
    if not isinstance(value, enum.Enum):
        if isinstance(value, str):
            return str.__str__(value)
        kinds: tuple[Any, ...] = (int, float, list, dict)
        for plain in kinds:
            if isinstance(value, plain):
                return plain(value)
    return _refuse(number, where, f"{_a(value)} has no exact form in JSON; {_advice(value)}")


def _members(value: Any, number: int, where: str) -> Any:  # noqa: ANN401 - a dict, list or tuple
    keyed = type(value) is dict
    if keyed and set(map(type, value)) - _STR:
        return _exact(_with_plain_keys(value, number, where), number, where)
    if not set(map(type, value.values() if keyed else value)) - _PLAIN:
        return _SAME
    changed = {
        key: found
        for key, member in (value.items() if keyed else enumerate(value))
        if (found := _exact(member, number, f"{where}[{key!r}]")) is not _SAME
    }
    if not changed:
        return _SAME
    if keyed:
        return {**value, **changed}
    return [changed.get(index, member) for index, member in enumerate(value)]


def _with_plain_keys(value: dict[Any, Any], number: int, where: str) -> dict[str, Any]:
    for key in value:
        if not isinstance(key, str) or isinstance(key, enum.Enum):
            _refuse(number, where, f"the key {key!r} is {_a(key)}, and JSON has only str")
    return {str.__str__(key): member for key, member in value.items()}


def _a(value: object) -> str:
    return f"a value of type {type(value).__name__}"


def _advice(value: object) -> str:
    for mark, advice in (
        ("isoformat", "pass a str, for instance .isoformat()"),
        ("model_dump", "pass .model_dump(mode='json')"),
        ("__dataclass_fields__", "pass dataclasses.asdict(…)"),
        ("_asdict", "pass ._asdict()"),
        ("__struct_fields__", "pass msgspec.to_builtins(…), or msgspec.json.encode(…)"),
        ("keys", "pass dict(…)"),
        ("tolist", "pass .tolist(), of Python's own types"),
    ):
        if hasattr(value, mark):
            return advice
    if isinstance(value, enum.Enum):
        return "pass its .value or .name"
    return "pass a str, a number, a list or a dict"


def _refuse(number: int, where: str, reason: str) -> NoReturn:
    at = f"at {where}: " if where else ""
    raise InvalidRecordError(number, 1, at + reason, record=number)
