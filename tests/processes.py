"""Services in separate processes. Standard library only: the client's tests run on Python 3.10."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]


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
