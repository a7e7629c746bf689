"""Text for messages: numbers with nouns, commands to copy, redacted secrets.

Imports no other module of the package.
"""

import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_SECRETS: Final = [
    # The query of a URL may contain a signature, the part before the host a password.
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
_MIN_SECRET: Final = 4
"""Minimum length, characters: shorter strings occur in too many words."""

_MAX_NAME: Final = 255
"""Longest file name, bytes."""

_UNPRINTABLE: Final = re.compile(r"[^ -~\x80-\ud7ff\ue000-\U0010ffff]|[\x80-\x9f]")
"""Control characters, and bytes of a name that are not UTF-8 (PEP 383)."""


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """``text`` without ``secrets`` and anything that looks like a credential. JSON stays valid."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _MIN_SECRET:
            text = text.replace(secret, "…")
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: ``1 record``, ``2,000 records``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def quote(word: str | os.PathLike[str]) -> str:
    """``word``, quoted for a shell; any bytes are possible."""
    text = os.fspath(word)
    if not _UNPRINTABLE.search(text):
        return shlex.quote(text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{printable(escaped)}'"


def command(*words: str | os.PathLike[str]) -> str:
    """A ``gapless`` command, quoted for a shell. A path must come from ``as_argument``."""
    return " ".join(["gapless", *map(quote, words)])


def as_argument(path: str | os.PathLike[str]) -> str:
    """A path as an argument of ``command``, also if it begins with a dash."""
    text = os.fspath(path)
    return f"./{text}" if text.startswith("-") and text != "-" else text


def printable(path: str | os.PathLike[str]) -> str:
    """A path for a message; unprintable bytes are escaped."""
    return _UNPRINTABLE.sub(
        lambda found: "".join(f"\\x{byte:02x}" for byte in os.fsencode(found[0])), os.fspath(path)
    )


def with_suffix(path: Path, suffix: str) -> Path:
    """``path`` with another suffix; a name that would be too long for file systems is truncated."""
    name = path.name
    while len(os.fsencode(name + suffix)) > _MAX_NAME:
        name = name[:-1]
    return path.with_name(name + suffix)
