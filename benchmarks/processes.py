"""What chapters that measure whole processes share: how to start them, and what they took."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.handlers import ENVIRON, KEEPING

Measured = dict[str, float]
_IN_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - only the folder that is made in it is used
MEMORY: Final = _IN_MEMORY if _IN_MEMORY.is_dir() else None
"""A folder in memory, so that no disk is measured."""


def peak_mib(pid: int) -> float:
    """Peak memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def cpu_of(pid: int) -> float:
    """CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def clock() -> tuple[float, float]:
    """Wall time and this process's CPU time, seconds."""
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> Measured:
    """Seconds since ``clock`` returned ``start``, and this process's peak memory."""
    return {
        "seconds": time.perf_counter() - start[0],
        "cpu": time.process_time() - start[1],
        "mib": peak_mib(os.getpid()),
    }


def started(
    module: str, *arguments: object, environ: Mapping[str, str] = KEEPING
) -> subprocess.Popen[str]:
    """Start a function of a chapter in another process; ``result`` waits for what it returns."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        env={**os.environ, **ENVIRON, **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What the function returned: its last line. The lines before are the handlers' logs."""
    lines = process.communicate()[0].splitlines()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def in_a_process(
    module: str, *arguments: object, environ: Mapping[str, str] = KEEPING
) -> dict[str, Any]:
    """What a function of a chapter returns, run in another process."""
    return result(started(module, *arguments, environ=environ))


@contextmanager
def server(*command: str) -> Iterator[tuple[int, int]]:
    """Run a server inside the block; yield the port that it prints, and its process id."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | ENVIRON | {"NODE_NO_WARNINGS": "1"},
    ) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process.pid
        finally:
            process.terminate()
