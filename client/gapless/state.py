"""What a later process must know to go on: one small file per upload, in the user's state folder.

It holds no secrets: the service's address, the session's id, and how the file was read and cut.
With ``AuthMode`` ``NONE`` the id is all it takes to reach a session, so the folder is the user's
alone. All of it is a convenience: where nothing can be read or written, an upload works without.

A file is known by its real path; where that is not known, by being the same file, a hard link. Two
uploads of one file are two sessions, and have a state each: ``KEY-SESSION.json``.
"""

import hashlib
import os
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import platformdirs

from gapless import atomic
from gapless.errors import SettingError
from gapless.plan import Plan
from gapless.reading import Reading

_KEPT_SECONDS: Final = 30 * 24 * 3600
"""How long a state is kept: longer than a service keeps any session."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """An upload that was begun."""

    url: str
    session_id: str
    file: str
    """Its real path, as a file: URL, for names are bytes."""
    size: int
    """Bytes; with ``mtime_ns`` the quick sign that the file is the same."""
    mtime_ns: int
    inode: tuple[int, int]
    """Device and number."""
    sha256: str
    blocks: str
    """The CRC-32 of each block, in hexadecimal (``fingerprint.py``)."""
    reading: Reading
    skip_invalid: bool
    clean: bool
    """Whether the file is NDJSON just as it is sent, so that it need not be checked again."""
    plan: Plan
    begun: float
    """Seconds since 1970."""
    finished: bool = False

    @property
    def path(self) -> Path:
        """The file."""
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(self.file).path))


def located(path: Path) -> str:
    """How a state names a file."""
    return Path(os.path.realpath(path)).as_uri()


def folder() -> Path:
    """Where the files are: ``GAPLESS_STATE_DIR``, or the platform's folder for state.

    Raises SettingError where there is none, as without a home folder.
    """
    if given := os.environ.get("GAPLESS_STATE_DIR"):
        return Path(given)
    found = platformdirs.user_state_path("gapless", appauthor=False)
    if not found.is_absolute():
        raise SettingError("there is no home folder; GAPLESS_STATE_DIR may name another one")
    return found


def _key(file: str) -> str:
    return hashlib.sha256(file.encode()).hexdigest()[:16]


def _place(state: State) -> Path:
    return folder() / f"{_key(state.file)}-{state.session_id}.json"


def _read(pattern: str) -> Iterator[State]:
    with suppress(OSError, SettingError):
        for place in folder().glob(pattern):
            with suppress(OSError, msgspec.DecodeError, msgspec.ValidationError):
                yield msgspec.json.decode(place.read_bytes(), type=State)


def unfinished() -> list[State]:
    """Every upload that was begun here and has not come to its end, the latest first."""
    found = (state for state in _read("*-*.json") if not state.finished)
    return sorted(found, key=lambda state: state.begun, reverse=True)


def load(
    file: Path,
    url: str | None = None,
    session_id: str | None = None,
    *,
    finished: bool = False,
) -> State | None:
    """The upload of ``file`` that was begun last; None if there is none.

    One that is unfinished goes before those that are ``finished``, or after them. ``url`` and
    ``session_id`` leave those to another service, and other sessions, out.
    """
    found = list(_read(f"{_key(located(file))}-*.json"))
    if not found:
        with suppress(OSError):
            facts = file.stat()
            same = ((facts.st_dev, facts.st_ino), facts.st_size)
            found = [state for state in _read("*-*.json") if (state.inode, state.size) == same]
    found = [
        state
        for state in found
        if url in {None, state.url} and session_id in {None, state.session_id}
    ]
    return max(found, key=lambda one: (one.finished is finished, one.begun), default=None)


def of_session(session_id: str) -> State | None:
    """The upload into this session; None if it was not begun here."""
    if not re.fullmatch(r"[0-9a-f]{32}", session_id):
        return None
    return next(_read(f"*-{session_id}.json"), None)


def save(state: State) -> None:
    """Write it down, whole or not at all. Raises OSError or SettingError."""
    place = _place(state)
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with atomic.written(place) as file:
        file.write(msgspec.json.format(msgspec.json.encode(state)))
    _tidy(state)


def _tidy(latest: State) -> None:
    """Delete what nobody will ask for: earlier uploads of the file that ended, and old ones."""
    for state in _read("*-*.json"):
        if state.session_id == latest.session_id:
            continue
        ended = latest.finished and state.finished and state.file == latest.file
        if ended or state.begun < time.time() - _KEPT_SECONDS:
            forget(state)


def finished(state: State | None) -> None:
    """Remember that an upload came to its end, if that is possible."""
    if state is not None:
        with suppress(OSError, SettingError):
            save(msgspec.structs.replace(state, finished=True))


def forget(state: State | None) -> None:
    """There is nothing to go on with any more."""
    if state is not None:
        with suppress(OSError, SettingError):
            _place(state).unlink(missing_ok=True)
