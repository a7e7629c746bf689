"""Messages about invalid records, in words from the schema and not from the record. Pure.

The messages of ``jsonschema-rs`` contain values of the record. These contain only the names that a
message is about. The client has the same file.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    # Not installed where no schemas are used.
    from jsonschema_rs import ValidationError

_PATH_BYTES: Final = 200
_MESSAGE_BYTES: Final = 200
"""An answer has at most a hundred paths and messages."""
_NAME_CHARACTERS: Final = 40
_VALUE_CHARACTERS: Final = 60
_NAMES: Final = 3
"""Most names in a message."""

_COMPARED: Final = {
    "minimum": "is less than {}",
    "maximum": "is more than {}",
    "exclusiveMinimum": "is not more than {}",
    "exclusiveMaximum": "is not less than {}",
    "multipleOf": "is not a multiple of {}",
    "const": "is not {}",
    "pattern": "does not match the pattern {}",
    "format": "is not of the format {}",
    "contentEncoding": "is not encoded as {}",
    "contentMediaType": "is not of the media type {}",
    "minLength": "is shorter than {} characters",
    "maxLength": "is longer than {} characters",
    "minItems": "has fewer than {} items",
    "maxItems": "has more than {} items",
    "additionalItems": "has more than {} items",
    "minProperties": "has fewer than {} properties",
    "maxProperties": "has more than {} properties",
}
"""Keyword → message with the keyword's value."""
_FIXED: Final = {
    "falseSchema": "is not allowed",
    "not": "is what the schema's 'not' excludes",
    "anyOf": "matches none of the schemas of 'anyOf'",
    "contains": "does not have the items that 'contains' asks for",
    "uniqueItems": "has an item twice",
    "unevaluatedItems": "has items that are not allowed",
}


def pointer(path: Sequence[str | int]) -> str:
    """The JSON Pointer (RFC 6901) of ``path``, or of its longest prefix that is short enough."""
    whole = ""
    for step in path:
        longer = f"{whole}/{str(step).replace('~', '~0').replace('/', '~1')}"
        if _size(longer) > _PATH_BYTES:
            break
        whole = longer
    return whole


def message_of(error: "ValidationError") -> str:
    """The message of ``error``. Of the record it has only a few names."""
    kind: Any = error.kind
    keyword = kind.name
    if keyword in _COMPARED:
        (value,) = kind.as_dict().values()
        words = _COMPARED[keyword].format(_shown(value))
    else:
        words = _FIXED.get(keyword) or _SPOKEN.get(keyword, _other)(kind)
    return _cut(words, _MESSAGE_BYTES)


def _type(kind: Any) -> str:  # noqa: ANN401
    return f"is not of type {' or '.join(sorted(kind.types))}"


def _required(kind: Any) -> str:  # noqa: ANN401
    return f"lacks the property {_shown(kind.property)}"


def _enum(kind: Any) -> str:  # noqa: ANN401
    return f"is none of {_listed(map(_shown, kind.options), len(kind.options))}"


def _unexpected(kind: Any) -> str:  # noqa: ANN401
    names = kind.unexpected
    shown = (_shown(name, _NAME_CHARACTERS) for name in names)
    return f"has properties that are not allowed: {_listed(shown, len(names))}"


def _one_of(kind: Any) -> str:  # noqa: ANN401
    most = "more than one" if type(kind).__name__ == "OneOfMultipleValid" else "none"
    return f"matches {most} of the schemas of 'oneOf'"


def _property_names(kind: Any) -> str:  # noqa: ANN401
    return f"has a property whose name {message_of(kind.error)}"


def _other(kind: Any) -> str:  # noqa: ANN401
    return f"does not satisfy '{kind.name}'"


_SPOKEN: Final[dict[str, Callable[[Any], str]]] = {
    "type": _type,
    "required": _required,
    "enum": _enum,
    "additionalProperties": _unexpected,
    "unevaluatedProperties": _unexpected,
    "oneOf": _one_of,
    "propertyNames": _property_names,
}


def _listed(shown: Iterable[str], count: int) -> str:
    first = [one for one, _ in zip(shown, range(_NAMES), strict=False)]
    rest = count - len(first)
    return ", ".join(first) + (f" and {rest} more" if rest else "")


def _shown(value: object, characters: int = _VALUE_CHARACTERS) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= characters else f"{text[:characters]}…"


def _cut(text: str, most: int) -> str:
    while _size(text) > most:
        text = text[: len(text) * 3 // 4] + "…"
    return text


def _size(text: str) -> int:
    """Bytes of ``text`` as JSON."""
    return len(json.dumps(text))
