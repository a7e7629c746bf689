"""Encodes Python objects as records: exactly, or the record is refused with its number.

``str``, ``int``, finite ``float``, ``bool``, ``None``, ``list``, and ``dict`` with ``str`` keys are
JSON. A ``tuple`` becomes an array, as in the standard library, and a ``Decimal`` a number with the
same digits. A record that is ``bytes`` or ``msgspec.Raw`` must be JSON and is sent unchanged.
Anything else has several possible representations and is refused: the caller must choose one.
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
from gapless.readers import check_json, one_line

_YIELD_EVERY: Final = 1_000
"""Number of records of a synchronous iterable after which other tasks may run."""

_PLAIN: Final = {str, int, bool, type(None)}
_STR: Final = {str}
_RECORDS: Final = "Pass a list, a generator or another iterable of records"
_ENCODE: Final = msgspec.json.Encoder(decimal_format="number").encode


def is_path(source: object) -> bool:
    """Whether ``source`` is a path. Raises TypeError for a ``str`` that looks like content."""
    if isinstance(source, str):
        text = source.lstrip()
        if (text[:1] in {"{", "["} or "\n" in source) and not os.path.exists(source):  # noqa: PTH110 - never raises
            raise TypeError(
                "A str is a path, and this looks like the content of a file. Pass"
                " io.BytesIO(text.encode()), or records."
            )
        return True
    return isinstance(source, os.PathLike)


def is_file(source: object) -> bool:
    """Whether ``source`` is an open binary file. Raises TypeError for a text file."""
    if isinstance(source, io.TextIOBase) or (
        hasattr(source, "read") and isinstance(getattr(source, "encoding", None), str)
    ):
        raise TypeError('A text file may change its content: open it as binary, open(path, "rb").')
    return hasattr(source, "read")


_ITERATORS_OF_ONE_VALUE: Final = (
    type(iter("a")),
    type(iter("é")),
    type(iter(b"")),
    type(iter(bytearray())),
    type(iter(dict[str, str]())),
    type(iter(set[str]())),
)


def check_iterable(records: object) -> None:
    """Raise TypeError unless ``records`` is iterable and its items can be records."""
    kind = type(records).__name__
    if isinstance(records, (str, bytes, bytearray, memoryview)):
        raise TypeError(
            f"{kind} is not a list of records. {_RECORDS}; to upload existing JSON pass an open"
            " binary file, io.BytesIO(…)."
        )
    if isinstance(records, Mapping) or hasattr(records, "keys") or _has_fields(records):
        raise TypeError(
            f"This {kind} is one record, or a table, not a list of records. {_RECORDS}."
        )
    if isinstance(records, _ITERATORS_OF_ONE_VALUE):
        raise TypeError(
            f"A {kind} iterates over the parts of one value, not over records. {_RECORDS}."
        )
    if isinstance(records, AbstractSet):
        raise TypeError(f"A {kind} has no order. {_RECORDS}, for example sorted(…).")
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


def _has_fields(value: object) -> bool:
    return any(hasattr(value, mark) for mark in _FIELDS)


def encode(records: Iterable[object]) -> Iterator[bytes]:
    """The records as lines of NDJSON. Raises TypeError or InvalidRecordError."""
    check_iterable(records)
    for number, record in enumerate(records, 1):
        line = _flat(record) if type(record) is dict else None
        yield line or encode_one(number, record)


async def encode_async(
    records: Iterable[object] | AsyncIterable[object],
) -> AsyncGenerator[bytes, None]:
    """Like ``encode``, also for asynchronous iterables; lets other tasks run."""
    if not isinstance(records, AsyncIterable):
        for number, encoded in enumerate(encode(records)):
            if number % _YIELD_EVERY == 0:
                await anyio.lowlevel.checkpoint()
            yield encoded
        return
    number = 0
    async for record in records:
        number += 1
        line = _flat(record) if type(record) is dict else None
        yield line or encode_one(number, record)


def encode_one(number: int, record: object) -> bytes:
    """A record as a line of NDJSON. Raises InvalidRecordError with its ``number``."""
    if isinstance(record, (bytes, msgspec.Raw)):
        content = bytes(record)
        check_json(content, number)
        return one_line(content.strip(b" \t\r\n")) + b"\n"
    try:
        found = _exact(record, number, "")
        return _ENCODE(record if found is _UNCHANGED else found) + b"\n"
    except UnicodeEncodeError:
        _refuse(number, "", "it contains a lone surrogate, which is not a character")
    except RecursionError:
        _refuse(number, "", "it is nested too deeply")
    except ValueError:
        _refuse(
            number, "", "Python does not format an int with this many digits; pass bytes of JSON"
        )


_MOST_SHAPES: Final = 1_000
_shapes: dict[tuple[type, ...], bool] = {}
"""Types of the names and values of plain records; whether one of them is a float."""


def _flat(record: dict[Any, Any]) -> bytes | None:
    """The line of a record without nested values; None if ``encode_one`` must decide.

    Fast path: most records are flat, and most have the same few combinations of types.
    """
    shape = (*map(type, record), *map(type, record.values()))
    with_float = _shapes.get(shape)
    if with_float is None:
        half = len(record)
        if not (set(shape[:half]) <= _STR and set(shape[half:]) <= _PLAIN | {float}):
            return None
        if len(_shapes) == _MOST_SHAPES:
            _shapes.clear()
        with_float = _shapes[shape] = float in shape
    try:
        line = _ENCODE(record)
    except (ValueError, RecursionError):
        return None
    # msgspec encodes NaN and infinity as null.
    if with_float and b"null" in line and not all(map(math.isfinite, _floats(record))):
        return None
    return line + b"\n"


def _floats(record: dict[Any, Any]) -> Iterator[float]:
    return (value for value in record.values() if type(value) is float)


_UNCHANGED: Final = object()
"""Stands for a value that is encoded exactly without conversion."""


def _exact(value: Any, number: int, where: str) -> Any:  # noqa: ANN401 - any value
    """``value`` converted so that msgspec encodes it exactly; ``_UNCHANGED`` if not necessary."""
    kind = type(value)
    if kind in _PLAIN:
        return _UNCHANGED
    if kind is dict or kind is list or kind is tuple:
        return _members(value, number, where)
    if kind is float or kind is Decimal:
        if not (math.isfinite(value) if kind is float else value.is_finite()):
            _refuse(number, where, f"{value} is not JSON")
        return _UNCHANGED
    if kind is msgspec.Raw:
        check_json(bytes(value), number)
        return msgspec.Raw(one_line(bytes(value)))
    found = _plain(value, number, where)
    exact = _exact(found, number, where)
    return found if exact is _UNCHANGED else exact


def _plain(value: Any, number: int, where: str) -> Any:  # noqa: ANN401 - any value
    """``value`` converted to the JSON type that its class inherits from; refused if none."""
    if not isinstance(value, enum.Enum):
        if isinstance(value, str):
            return str.__str__(value)
        kinds: tuple[Any, ...] = (int, float, list, dict)
        for plain in kinds:
            if isinstance(value, plain):
                return plain(value)
    return _refuse(
        number, where, f"{_type_name(value)} has no exact representation in JSON; {_advice(value)}"
    )


def _members(value: Any, number: int, where: str) -> Any:  # noqa: ANN401 - a dict, list or tuple
    keyed = type(value) is dict
    if keyed and set(map(type, value)) - _STR:
        return _exact(_with_plain_keys(value, number, where), number, where)
    if not set(map(type, value.values() if keyed else value)) - _PLAIN:
        return _UNCHANGED
    changed = {
        key: found
        for key, member in (value.items() if keyed else enumerate(value))
        if (found := _exact(member, number, f"{where}[{key!r}]")) is not _UNCHANGED
    }
    if not changed:
        return _UNCHANGED
    if keyed:
        return {**value, **changed}
    return [changed.get(index, member) for index, member in enumerate(value)]


def _with_plain_keys(value: dict[Any, Any], number: int, where: str) -> dict[str, Any]:
    for key in value:
        if not isinstance(key, str) or isinstance(key, enum.Enum):
            _refuse(number, where, f"the key {key!r} is {_type_name(key)}; JSON has only str keys")
    return {str.__str__(key): member for key, member in value.items()}


def _type_name(value: object) -> str:
    return f"a value of type {type(value).__name__}"


def _advice(value: object) -> str:
    for mark, advice in (
        ("isoformat", "pass a str, for example .isoformat()"),
        ("model_dump", "pass .model_dump(mode='json')"),
        ("__dataclass_fields__", "pass dataclasses.asdict(…)"),
        ("_asdict", "pass ._asdict()"),
        ("__struct_fields__", "pass msgspec.to_builtins(…), or msgspec.json.encode(…)"),
        ("keys", "pass dict(…)"),
        ("tolist", "pass .tolist(), which has Python's own types"),
    ):
        if hasattr(value, mark):
            return advice
    if isinstance(value, enum.Enum):
        return "pass its .value or .name"
    return "pass a str, a number, a list or a dict"


def _refuse(number: int, where: str, reason: str) -> NoReturn:
    at = f"at {where}: " if where else ""
    raise InvalidRecordError(number, 1, at + reason, record=number)
