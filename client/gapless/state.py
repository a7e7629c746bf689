"""State files for ``gapless resume``: one per upload, in the user's state folder.

They contain no secrets: the service's URL, the session id, and how the file was read and divided.
With ``AuthMode`` ``NONE`` the id grants access to a session, so only the user may read the folder.
State files are a convenience: if the folder cannot be read or written, uploads work without.

A file is found by its real path, or else by its inode, as a hard link. Two uploads of one file are
two sessions with a state each: ``FILE-KEY.json``, by the key of its creation.

A state is written before the session is created, with the key of the request and without a session
id: where the answer is lost, the next upload repeats the request and gets the same session.
"""

import hashlib
import os
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
from gapless.batching import Plan
from gapless.errors import SettingError
from gapless.formats import Reading

_RETENTION_SECONDS: Final = 30 * 24 * 3600
"""How long a state is kept: longer than any session."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """An upload that was started on this machine."""

    url: str
    session_id: str
    """Empty until the service has answered."""
    key: str = ""
    """The ``Idempotency-Key`` it was asked for with; a session opened elsewhere has none."""
    pid: int = 0
    """The process that asked."""
    file: str
    """Its real path, as a file: URL, because names are bytes."""
    size: int
    """Bytes; same size and ``mtime_ns`` mean that the file is unchanged."""
    mtime_ns: int
    inode: tuple[int, int]
    """Device and number."""
    sha256: str
    blocks: str
    """The CRC-32 of each block, in hexadecimal (``fingerprint.py``)."""
    reading: Reading
    skip_invalid: bool
    verbatim: bool = msgspec.field(name="clean")
    """Whether the file is NDJSON exactly as it is sent, so that it need not be checked again."""
    plan: Plan
    merged_format: str = "ndjson"
    metadata: dict[str, str] = {}
    schema: str = ""
    """The name of the schema that the session has; "" if it has none."""
    rules: str = ""
    """The text of the schema, if records were left out: the second pass leaves out the same ones,
    whatever becomes of the file that the schema was in."""
    skipped: int = 0
    """How many records were left out."""
    options: list[str] = []
    """The options that the upload was started with, as words of the command."""
    started_at: float = msgspec.field(name="begun")
    """Seconds since 1970."""
    finished: bool = False

    @property
    def path(self) -> Path:
        """The file."""
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(self.file).path))


def file_url(path: Path) -> str:
    """The name of a file in its state."""
    return Path(os.path.realpath(path)).as_uri()


def folder() -> Path:
    """The folder of the state files: ``GAPLESS_STATE_DIR``, or the platform's folder for state.

    Raises SettingError if there is no home folder.
    """
    if given := os.environ.get("GAPLESS_STATE_DIR"):
        return Path(given)
    found = platformdirs.user_state_path("gapless", appauthor=False)
    if not found.is_absolute():
        raise SettingError("there is no home folder; set GAPLESS_STATE_DIR")
    return found


def _key(file: str) -> str:
    return hashlib.sha256(file.encode()).hexdigest()[:16]


def _path(state: State) -> Path:
    return folder() / f"{_key(state.file)}-{state.key or state.session_id}.json"


def _read(pattern: str) -> Iterator[State]:
    with suppress(OSError, SettingError):
        for path in folder().glob(pattern):
            with suppress(OSError, msgspec.DecodeError, msgspec.ValidationError):
                yield msgspec.json.decode(path.read_bytes(), type=State)


def unfinished() -> list[State]:
    """Every upload of this machine that is not finished, the latest first."""
    found = (state for state in _read("*-*.json") if state.session_id and not state.finished)
    return sorted(found, key=lambda state: state.started_at, reverse=True)


def load(
    file: Path,
    url: str | None = None,
    session_id: str | None = None,
    *,
    finished: bool = False,
) -> State | None:
    """The latest upload of ``file``; None if there is none.

    Unfinished uploads are preferred, or those that are ``finished``. ``url`` and ``session_id``
    restrict the search to one service and one session.
    """
    found = list(_read(f"{_key(file_url(file))}-*.json"))
    if not found:
        with suppress(OSError):
            facts = file.stat()
            same = ((facts.st_dev, facts.st_ino), facts.st_size)
            found = [state for state in _read("*-*.json") if (state.inode, state.size) == same]
    found = [
        state
        for state in found
        if state.session_id and url in {None, state.url} and session_id in {None, state.session_id}
    ]
    return max(
        found, key=lambda state: (state.finished is finished, state.started_at), default=None
    )


def find_by_session(session_id: str) -> State | None:
    """The upload into this session; None if it was not started on this machine."""
    found = (state for state in _read("*-*.json") if state.session_id == session_id != "")
    return next(found, None)


def unanswered(file: Path, url: str) -> State | None:
    """The latest upload of ``file`` whose request for a session nobody waits for any more."""
    found = _read(f"{_key(file_url(file))}-*.json")
    asked = (state for state in found if not state.session_id and state.url == url)
    lost = [state for state in asked if not _is_another_running(state.pid)]
    return max(lost, key=lambda state: state.started_at, default=None)


def _is_another_running(pid: int) -> bool:
    """Whether this is another process, and runs; no where that cannot be known."""
    if os.name != "posix" or pid in {0, os.getpid()}:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is another user's
    return True


def save(state: State) -> None:
    """Write a state file, atomically. Raises OSError or SettingError."""
    path = _path(state)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with atomic.write(path) as file:
        file.write(msgspec.json.format(msgspec.json.encode(state)))
    _prune(state)


def _prune(latest: State) -> None:
    """Delete what a finished upload of the file supersedes, and all old states."""
    for state in _read("*-*.json"):
        if _path(state) == _path(latest):
            continue
        done = state.finished or not state.session_id
        superseded = latest.finished and done and state.file == latest.file
        if superseded or state.started_at < time.time() - _RETENTION_SECONDS:
            delete(state)


def mark_finished(state: State | None) -> None:
    """Record that an upload is finished, if possible."""
    if state is not None:
        with suppress(OSError, SettingError):
            save(msgspec.structs.replace(state, finished=True))


def delete(state: State | None) -> None:
    """Delete the saved state, if possible."""
    if state is not None:
        with suppress(OSError, SettingError):
            _path(state).unlink(missing_ok=True)
