"""Services in separate processes. Standard library only: the client's tests run on Python 3.10."""

import os
import random
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
PORTS = range(10_000, 20_000)
"""The system gives none of them to a program that asks for any port (Linux: 32,768 and up)."""


@contextmanager
def serving(
    module: str, environ: Mapping[str, str] = os.environ, python: str = sys.executable
) -> Iterator[str]:
    """Run a module that prints its URL, on a free port, and yield the URL."""
    with subprocess.Popen(
        [python, "-m", module],
        cwd=ROOT,
        env={**environ, "PORT": "0"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found
            yield found[0]
        finally:
            process.terminate()


def free_ports(count: int, *beside: int) -> list[int]:
    """Free ports of this machine, so that those higher by each of ``beside`` are free, too.

    Nobody else gets them before they are used, as could happen to a port that the system chose.
    """
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with suppress(OSError), ExitStack() as taken:
            for offset in (0, *beside):
                taken.enter_context(socket.create_server(("127.0.0.1", port + offset)))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError(f"of {PORTS} fewer than {count} are free")
