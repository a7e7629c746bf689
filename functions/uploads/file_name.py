"""The file name of a downloaded merged object. Pure."""

import re
from typing import Final
from urllib.parse import quote

from uploads import limits
from uploads.session import Session

# Path separators, and characters that Windows forbids in file names.
_UNSAFE: Final = re.compile(r'[/\\:*?"<>|]')
_GZ: Final = re.compile(r"(?:\.gz)+\Z", re.IGNORECASE)
_SUFFIX: Final = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,9}\Z")
_ATTR_CHAR: Final = "!#$&+^`|"
"""RFC 8187 leaves these unencoded, besides those that ``quote`` never encodes."""
_NOT_ASCII: Final = re.compile(r"[^ -~]|%")


def of(session: Session, *, gzipped: bool) -> str:
    """The name from the session's metadata, else its id, with a suffix that fits the content.

    It ends in ``.gz`` exactly if ``gzipped``: the reader gets gzip. A name without a suffix gets
    ``.ndjson``.
    """
    named = _UNSAFE.sub("_", session.metadata.get("name", ""))
    # A leading dot hides a file, or names a folder; Windows drops trailing dots and spaces.
    stem = _GZ.sub("", named.strip(" .")).strip(" .") or session.session_id
    suffix = _SUFFIX.search(stem)
    ending = suffix[0] if suffix else ".ndjson"
    stem = stem.removesuffix(ending)
    if gzipped:
        ending += ".gz"
    room = limits.MAX_FILE_NAME_BYTES - len(ending)
    return stem.encode()[:room].decode(errors="ignore") + ending


def disposition(name: str) -> str:
    """The header Content-Disposition (RFC 6266) that saves a download as ``name``."""
    ascii_name = _NOT_ASCII.sub("_", name)
    if ascii_name == name:
        return f'attachment; filename="{name}"'
    extended = quote(name, safe=_ATTR_CHAR)
    return f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{extended}"
