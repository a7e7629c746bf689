"""The local run as a child process on a free port, for those who need its URL.

Imports the standard library only: the pytest plugin imports this into its user's process.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

START_SECONDS: Final = 120
"""How long a start may take: 2 s on an idle machine."""

STOP_SECONDS: Final = 10
"""How long an end may take before the process is killed."""

# Unlike -m this leaves the current folder off the path, where the user's own modules are.
_CODE: Final = (
    f"import sys; sys.path.append({str(Path(__file__).parents[1])!r});"
    f" from {__package__} import process; process.serve_until_parent_ends()"
)


class StartError(Exception):
    """The local run has not started; the message has its output."""


class LocalServer:
    """A running local run."""

    def __init__(self, url: str, log: Path) -> None:
        self.url: Final = url
        self._log = log
        self._read = log.stat().st_size

    def new_output(self) -> str:
        """What the process printed since the last ``skip_output``, or since its start."""
        with self._log.open("rb") as log:
            log.seek(self._read)
            return log.read().decode(errors="replace")

    def skip_output(self) -> None:
        """Leave out of ``new_output`` what was printed until now."""
        self._read = self._log.stat().st_size


@contextmanager
def running(environ: Mapping[str, str]) -> Iterator[LocalServer]:
    """Start the local run with ``environ`` on a free port, and stop it at the end.

    It also stops if this process dies. Raises StartError.
    """
    with TemporaryDirectory(prefix="gapless-") as folder:
        log = Path(folder) / "log"
        with (
            log.open("wb") as output,
            subprocess.Popen(
                [sys.executable, "-P", "-c", _CODE],
                env={**environ, "PORT": "0"},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C on the terminal is for the parent, which may still need the server.
                start_new_session=True,
            ) as process,
        ):
            try:
                yield LocalServer(_wait_for_url(process, log), log)
            finally:
                process.terminate()
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()


def _wait_for_url(process: subprocess.Popen[bytes], log: Path) -> str:
    """The URL that the process prints once it serves."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        ended = process.poll() is not None
        output = log.read_text(errors="replace")
        if found := re.search(r"^Gapless is at (\S+)[^\n]*\n", output, re.MULTILINE):
            return found[1]
        if ended:
            raise StartError(f"The local Gapless has not started:\n{output}")
        time.sleep(0.05)
    raise StartError(f"The local Gapless has not started within {START_SECONDS} s:\n{output}")


def serve_until_parent_ends() -> None:
    """What the child process runs. Its standard input ends when the parent does."""
    from .__main__ import main  # noqa: PLC0415 - the child's alone: it imports everything

    def follow() -> None:
        with suppress(OSError):
            while os.read(0, 1):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()
    main([])
