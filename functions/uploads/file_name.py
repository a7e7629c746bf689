"""What a merged object is called where it is downloaded. Pure."""

import re
from typing import Final
from urllib.parse import quote

from uploads import limits
from uploads.session import Session

# Separators of paths, and what Windows has no files of.
_UNSAFE: Final = re.compile(r'[/\\:*?"<>|]')
_GZ: Final = re.compile(r"(?:\.gz)+\Z", re.IGNORECASE)
_SUFFIX: Final = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,9}\Z")
_ATTR_CHAR: Final = "!#$&+^`|"
"""What RFC 8187 lets stand, beside what ``quote`` never encodes."""
_NOT_ASCII: Final = re.compile(r"[^ -~]|%")


def of(session: Session, *, gzipped: bool) -> str:
    """What the merged object of ``session`` is saved as; ``gzipped``: it is read as gzip.

    That is ``name`` of its metadata, else its id. It ends in ``.gz`` where it is gzip, and only
    there; a name without a suffix gets ``.ndjson``.
    """
    named = _UNSAFE.sub("_", session.metadata.get("name", ""))
    # A leading dot hides a file, or is a folder; Windows drops what trails.
    stem = _GZ.sub("", named.strip(" .")).strip(" .") or session.session_id
    suffix = _SUFFIX.search(stem)
    ending = suffix[0] if suffix else ".ndjson"
    stem = stem.removesuffix(ending)
    if gzipped:
        ending += ".gz"
    room = limits.MAX_FILE_NAME_BYTES - len(ending)
    return stem.encode()[:room].decode(errors="ignore") + ending


def disposition(name: str) -> str:
    """The header Content-Disposition (RFC 6266) that has a download saved as ``name``."""
    ascii_name = _NOT_ASCII.sub("_", name)
    if ascii_name == name:
        return f'attachment; filename="{name}"'
    extended = quote(name, safe=_ATTR_CHAR)
    return f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{extended}"
