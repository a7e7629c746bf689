"""Text for people: numbers with their nouns, commands that can be typed, and no secrets."""

import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_SECRETS: Final = [
    # What follows the path of a URL may be a signature; what comes before the host a password.
    (re.compile(r"(?i)((?:\b[a-z][a-z0-9+.-]*:)?//)[^/\s\"'<>@]*@"), r"\1"),
    (re.compile(r"(?i)\b(https?://[^\s\"'<>?#\\]+)[?#][^\s\"'<>\\]*"), r"\1?…"),
    (re.compile(r"(?i)\b(bearer|basic)(\s+)[\w.~+/=-]{4,}"), r"\1\2…"),
    (
        re.compile(
            r"(?i)\b(x-amz-(?:signature|credential|security-token)|signature|credential"
            r"|awsaccesskeyid|(?:access_|id_|refresh_)?token|client_secret|password|api[_-]?key)"
            r"(\"?\s*[=:]\s*\"?)[^\s&,;\"'<>\\]+"
        ),
        r"\1\2…",
    ),
    (re.compile(r"\beyJ[\w-]+(?:\.[\w-]*)*"), "…"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}"), "…"),
]
_LEAST_SECRET: Final = 4
"""Characters. What is shorter stands in too many words."""

_LONGEST_NAME: Final = 255
"""Bytes of a file's name."""

_NAMELESS: Final = re.compile(r"[^ -~\x80-\ud7ff\ue000-\U0010ffff]|[\x80-\x9f]")
"""Control characters, and bytes of a name that are no UTF-8 (PEP 383)."""


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """``text`` without credentials: those that are known, and what looks like one.

    JSON stays JSON.
    """
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _LEAST_SECRET:
            text = text.replace(secret, "…")
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def count(number: int, noun: str, plural: str = "") -> str:
    """``1 record``, ``2,000 records``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def quoted(word: str | os.PathLike[str]) -> str:
    """``word`` as a shell takes it, whatever bytes a name has."""
    text = os.fspath(word)
    if not _NAMELESS.search(text):
        return shlex.quote(text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    raw = _NAMELESS.sub(
        lambda found: "".join(f"\\x{byte:02x}" for byte in os.fsencode(found[0])), escaped
    )
    return f"$'{raw}'"


def command(*words: str | os.PathLike[str]) -> str:
    """A ``gapless`` command that can be typed just so. A path must not look like an option."""
    return " ".join(["gapless", *map(quoted, words)])


def named(path: str | os.PathLike[str]) -> str:
    """A file's name as an argument of ``command``: one that begins with a dash is no option."""
    text = os.fspath(path)
    return f"./{text}" if text.startswith("-") and text != "-" else text


def shown(path: str | os.PathLike[str]) -> str:
    """A file's name for a message, which may be printed anywhere."""
    return _NAMELESS.sub(
        lambda found: "".join(f"\\x{byte:02x}" for byte in os.fsencode(found[0])), os.fspath(path)
    )


def longer(path: Path, suffix: str) -> Path:
    """``path`` with a suffix more; cut, where a name would be longer than file systems take."""
    name = path.name
    while len(os.fsencode(name + suffix)) > _LONGEST_NAME:
        name = name[:-1]
    return path.with_name(name + suffix)
