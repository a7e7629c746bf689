"""The metadata of a session: names and values by which people and pipelines recognize it."""

import re
from collections.abc import Mapping
from typing import Final

from gapless.errors import SettingError
from gapless.text import printable

_MAX_MEMBERS: Final = 16
_MAX_BYTES: Final = 2048
"""Bytes of all names and values in UTF-8."""

_NAME: Final = re.compile(r"[a-z0-9_-]{1,64}")
_NOT_PRINTABLE: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def parse(given: tuple[str, ...]) -> dict[str, str]:
    """The metadata of ``--metadata key=value``, repeated. Raises SettingError."""
    metadata: dict[str, str] = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not equals:
            raise SettingError(f"--metadata {printable(word)} has no value. Use key=value.")
        if name in metadata:
            raise SettingError(f"--metadata sets {printable(name)} twice.")
        metadata[name] = value
    return check(metadata)


def check(metadata: Mapping[str, str]) -> dict[str, str]:
    """``metadata``, checked by the rules in docs/protocol.md. Raises SettingError."""
    for name, value in metadata.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise SettingError(
                f"{printable(str(name))!r} cannot be a name in metadata. Use 1 to 64 of a-z, 0-9,"
                " _ and -."
            )
        if not isinstance(value, str) or _NOT_PRINTABLE.search(value):
            raise SettingError(
                f"The value of {name} in metadata must be a string of printable characters: no"
                " control characters, no line breaks, nothing that changes the direction of text."
            )
    if len(metadata) > _MAX_MEMBERS:
        raise SettingError(
            f"Metadata has {len(metadata)} members, and {_MAX_MEMBERS} are possible."
        )
    if (size := _size(metadata)) > _MAX_BYTES:
        raise SettingError(f"Metadata has {size:,} bytes, and {_MAX_BYTES:,} are possible.")
    return dict(metadata)


def with_name(metadata: Mapping[str, str], name: str) -> dict[str, str]:
    """``metadata``, checked, with ``name`` added unless it has one or would exceed the limits."""
    given = check(metadata)
    named = {"name": _NOT_PRINTABLE.sub("_", printable(name))} | given
    fits = len(named) <= _MAX_MEMBERS and _size(named) <= _MAX_BYTES
    return named if name and fits else given


def _size(metadata: Mapping[str, str]) -> int:
    return sum(len(text.encode()) for member in metadata.items() for text in member)
