"""State files for ``gapless resume``: one per upload, in the user's state folder.

A state file contains the URL, the session id, and how the file was read and divided; no secrets.
With ``AuthMode`` ``NONE`` the session id grants access, so only the user may read the folder. If
the folder cannot be read or written, uploads still work.

A file is found by its real path, or else by its inode (a hard link). Each upload of a file has its
own state, ``FILE-KEY.json``, where KEY is the idempotency key of the session's creation.

The state is written before the session is created, with the key but without a session id. If the
response is lost, the next upload repeats the request with the same key and gets the same session.
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
"""States are deleted after this time, which is longer than any session."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """An upload that was started on this machine."""

    url: str
    session_id: str
    """Empty until the service has responded."""
    key: str = ""
    """The ``Idempotency-Key`` of its creation; "" if the session was opened elsewhere."""
    pid: int = 0
    file: str
    """Its real path as a file: URL, because names are bytes."""
    size: int
    """Bytes; same size and ``mtime_ns`` mean that the file is unchanged."""
    mtime_ns: int
    inode: tuple[int, int]
    sha256: str
    blocks: str
    """The CRC-32 of each block, in hexadecimal (``fingerprint.py``)."""
    reading: Reading
    skip_invalid: bool
    verbatim: bool = msgspec.field(name="clean")
    """Whether the file is NDJSON exactly as it is sent; then it is not checked again."""
    plan: Plan
    merged_format: str = "ndjson"
    metadata: dict[str, str] = {}
    schema: str = ""
    """The name of the session's schema; "" if it has none."""
    rules: str = ""
    """The text of the schema if records were left out: the second pass must leave out the same
    records, even if the schema's file has changed."""
    skipped: int = 0
    options: list[str] = []
    """The command-line words of the options that the upload was started with."""
    started_at: float = msgspec.field(name="begun")
    """Seconds since 1970."""
    finished: bool = False

    @property
    def path(self) -> Path:
        """The file."""
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(self.file).path))


def file_url(path: Path) -> str:
    """The value of ``State.file`` for a path."""
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
    """The unfinished uploads of this machine, the latest first."""
    found = (state for state in _read("*-*.json") if state.session_id and not state.finished)
    return sorted(found, key=lambda state: state.started_at, reverse=True)


def load(
    file: Path,
    url: str | None = None,
    session_id: str | None = None,
    *,
    finished: bool = False,
) -> State | None:
    """The latest upload of ``file``; None if none is known.

    Unfinished uploads are preferred; with ``finished``, finished ones. ``url`` and ``session_id``
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
    """The latest upload of ``file`` that got no response to its request for a session.

    Uploads of other processes that still run do not count.
    """
    found = _read(f"{_key(file_url(file))}-*.json")
    asked = (state for state in found if not state.session_id and state.url == url)
    lost = [state for state in asked if not _is_another_running(state.pid)]
    return max(lost, key=lambda state: state.started_at, default=None)


def _is_another_running(pid: int) -> bool:
    """Whether ``pid`` is another process that runs; False if that cannot be known."""
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
    """Delete the states that a finished upload of the same file supersedes, and all old ones.

    Never a later one: of two uploads that finish at once, each would delete the other's. A process
    that still waits for the response to its request for a session keeps its state.
    """
    for state in _read("*-*.json"):
        if _path(state) == _path(latest):
            continue
        done = state.finished or not (state.session_id or _is_another_running(state.pid))
        earlier = state.file == latest.file and state.started_at < latest.started_at
        superseded = latest.finished and done and earlier
        if superseded or state.started_at < time.time() - _RETENTION_SECONDS:
            delete(state)


def mark_finished(state: State | None) -> None:
    """Record that an upload is finished; ignores errors of the file system."""
    if state is not None:
        with suppress(OSError, SettingError):
            save(msgspec.structs.replace(state, finished=True))


def delete(state: State | None) -> None:
    """Delete the saved state; ignores errors of the file system."""
    if state is not None:
        with suppress(OSError, SettingError):
            _path(state).unlink(missing_ok=True)
