"""The reference for batches: Python's ``json``, without any code of the service.

``CLASSES`` are the kinds of documents that only one of the two accepts; README.md explains each.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

ALWAYS_DEEP_ENOUGH: Final = 500
"""Levels of nesting that are always accepted (docs/errors.md)."""

CLASSES: Final[dict[str, set[str]]] = {
    # json accepts it, the service does not, because of its encoding
    "byte order mark": {"malformed_json"},
    "UTF-16 or UTF-32": {
        "invalid_utf8",
        "malformed_json",
        "control_character",
        "not_an_object",
    },
    "surrogate as UTF-8": {"invalid_utf8"},
    "lone surrogate": {"lone_surrogate"},
    "NaN or Infinity": {"not_a_number"},
    # json accepts it, the service does not: valid JSON, but not a batch
    "not an object": {"not_an_object"},
    "repeated member": {"repeated_member"},
    "missing member": {"missing_member"},
    "too many members": {"too_many_values"},
    "seqNum": {"invalid_seq_num"},
    "data": {"invalid_data"},
    "empty data": {"empty_data"},
    # either may refuse it
    "nested deeply": {"too_deeply_nested"},
    # the service accepts it, json does not
    "long integer": set(),
}
"""Each class with the error codes with which the service refuses it."""


@dataclass
class Reading:
    """What the reference says of a document."""

    taken: bool
    """Whether ``json.loads`` accepts it."""
    classes: set[str] = field(default_factory=set)
    """The members of ``CLASSES`` it belongs to."""
    seq_num: int = 0
    records: list[str] = field(default_factory=list)
    """The records of a valid batch, as they are written."""


def read(body: bytes) -> Reading:
    try:
        json.loads(body, parse_int=str)
        found = Reading(taken=True)
        json.loads(body)
    except RecursionError:
        return Reading(taken=False, classes={"nested deeply"})
    except ValueError as error:
        # Python refuses to build an int of so many digits.
        if "integer string conversion" not in str(error):
            return Reading(taken=False)
        found = Reading(taken=False, classes={"long integer"})
    if json.detect_encoding(body) not in {"utf-8", "utf-8-sig"}:
        found.classes.add("UTF-16 or UTF-32")
    elif body.startswith(b"\xef\xbb\xbf"):
        found.classes.add("byte order mark")
    else:
        try:
            _understand(body.decode(), found)
        except UnicodeDecodeError:
            found.classes.add("surrogate as UTF-8")
    return found


def _understand(text: str, found: Reading) -> None:
    if _is_deep(text):
        found.classes.add("nested deeply")
    constants: list[str] = []
    tree = json.loads(
        text,
        object_pairs_hook=list,
        parse_int=str,
        parse_float=str,
        parse_constant=constants.append,
    )
    if constants:
        found.classes.add("NaN or Infinity")
    if "\\u" in text and _has_lone_surrogate(tree):
        found.classes.add("lone surrogate")
    at = _skip(text, 0)
    if text[at] == "{":
        _look_at_members(text, at, found)
    else:
        found.classes.add("not an object")


def _look_at_members(text: str, at: int, found: Reading) -> None:
    members = list(_items(text, at))
    values = dict(members)
    if len(values) < len(members):
        found.classes.add("repeated member")
    if len(values) > 1_000:
        found.classes.add("too many members")
    if not {"seqNum", "data"} <= values.keys():
        found.classes.add("missing member")
    for name, value in members:
        if name == "seqNum" and not re.fullmatch(r"0|[1-9][0-9]{0,4}", value):
            found.classes.add("seqNum")
        if name == "data" and not value.startswith("["):
            found.classes.add("data")
        if name == "data" and re.fullmatch(r"\[\s*\]", value):
            found.classes.add("empty data")
    if not found.classes - {"nested deeply", "long integer"}:
        found.seq_num = int(values["seqNum"])
        found.records = [record for _, record in _items(values["data"], 0)]


def one_line(record: str) -> str:
    """``record`` as it is stored: without space between tokens if it spans several lines."""
    if "\n" not in record and "\r" not in record:
        return record
    return re.sub(r'("(?:[^"\\]|\\.)*")|\s+', lambda found: found[1] or "", record)


def loads(text: str | bytes) -> Any:  # noqa: ANN401 - any JSON
    """Strict JSON, made comparable: numbers stay text and objects are lists of pairs."""
    return json.loads(
        text, object_pairs_hook=list, parse_int=str, parse_float=str, parse_constant=no_constant
    )


def no_constant(name: str) -> NoReturn:
    """Refuse NaN and Infinity."""
    raise ValueError(name)


def elements(text: str) -> list[str]:
    """The elements of a JSON array as they are written. Raises ValueError or RecursionError."""
    json.loads(text, parse_int=str)
    return [element for _, element in _items(text, _skip(text, 0))]


def _has_lone_surrogate(tree: object) -> bool:
    try:
        json.dumps(tree, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _is_deep(text: str) -> bool:
    if text.count("[") + text.count("{") <= ALWAYS_DEEP_ENOUGH:
        return False
    depth = deepest = 0
    for bracket in re.findall(r"[\[{\]}]", re.sub(r'"(?:[^"\\]|\\.)*"', "", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    # The body and ``data`` are two levels themselves.
    return deepest > ALWAYS_DEEP_ENOUGH


_DECODER: Final = json.JSONDecoder(parse_int=str, parse_float=str)
_SPACE: Final = re.compile(r"[ \t\n\r]*")


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _items(text: str, at: int) -> Iterator[tuple[str, str]]:
    """The members of the object, or the elements of the array, that begins at ``at``.

    Yields each name and its value as it is written. ``text`` must be JSON.
    """
    named = text[at] == "{"
    at = _skip(text, at + 1)
    while text[at] not in "]}":
        name = ""
        if named:
            name, at = _DECODER.raw_decode(text, at)
            at = _skip(text, _skip(text, at) + len(":"))
        _, end = _DECODER.raw_decode(text, at)
        yield name, text[at:end]
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
