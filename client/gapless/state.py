"""What a later process must know to go on: one small file per upload, in the user's state folder.

It holds no secrets: the service's address, the session's id, and how the file was read and cut.
With ``AuthMode`` ``NONE`` the id is all it takes to reach a session, so the folder is the user's
alone.
"""

import hashlib
import os
from pathlib import Path

import msgspec
import platformdirs

from gapless import atomic
from gapless.plan import Plan
from gapless.reading import Reading


class State(msgspec.Struct, frozen=True, kw_only=True):
    """An upload that was begun."""

    url: str
    session_id: str
    file: str
    """Its absolute path."""
    size: int
    """Bytes; with ``mtime_ns`` the quick sign that the file is the same."""
    mtime_ns: int
    sha256: str
    reading: Reading
    skip_invalid: bool
    clean: bool
    """Whether the file is NDJSON just as it is sent, so that it need not be checked again."""
    plan: Plan
    finished: bool = False


def folder() -> Path:
    """Where the files are: ``GAPLESS_STATE_DIR``, or the platform's folder for state."""
    given = os.environ.get("GAPLESS_STATE_DIR")
    return Path(given) if given else platformdirs.user_state_path("gapless", appauthor=False)


def _place(file: Path) -> Path:
    key = hashlib.sha256(os.fsencode(file.resolve())).hexdigest()[:16]
    return folder() / f"{file.name[:80]}-{key}.json"


def load(file: Path) -> State | None:
    """The upload of ``file`` that was begun last; None if there is none."""
    try:
        return msgspec.json.decode(_place(file).read_bytes(), type=State)
    except (FileNotFoundError, msgspec.DecodeError, msgspec.ValidationError):
        return None


def save(state: State) -> None:
    """Write it down, whole or not at all. Raises OSError."""
    place = _place(Path(state.file))
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with atomic.written(place) as file:
        file.write(msgspec.json.format(msgspec.json.encode(state)))


def forget(file: Path) -> None:
    """There is nothing to go on with any more."""
    _place(file).unlink(missing_ok=True)
