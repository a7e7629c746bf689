"""A function as Lambda runs it: a process with the function's memory, whose every start is cold.

``python -m tests.hostile.function HANDLER MEMORY`` reads events, a line of JSON each. For each it
makes a copy of itself that answers this one, and writes a line: the answer, the seconds of CPU and
the bytes of memory that it took, this process's own included.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Self

CODE: Final = Path(__file__).parents[2] / "functions"
MIB: Final = 2**20


@dataclass(frozen=True)
class Cost:
    """What an invocation took."""

    cpu: float
    """Seconds."""
    peak: int
    """The most memory that was held, bytes."""


class Function:
    """The process, and a handler that has it answer."""

    def __init__(self, handler: str, memory: int, code: Path = CODE) -> None:
        """``memory`` in MiB. The environment is that of the caller."""
        # As many threads as Lambda has processors: each reserves addresses, which are limited here.
        few = {"MALLOC_ARENA_MAX": "2", "TOKIO_WORKER_THREADS": "2", "PYTHONPATH": str(code)}
        self._process = subprocess.Popen(
            [sys.executable, __file__, handler, str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | few,
        )
        self.cost = Cost(0, 0)
        """Of the last invocation."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def __call__(self, event: Mapping[str, Any], _: object) -> object:
        """Answer ``event``."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(event, ensure_ascii=False).encode() + b"\n")
        self._process.stdin.flush()
        answer, cpu, peak = json.loads(self._process.stdout.readline())
        self.cost = Cost(cpu, peak)
        return answer


def main() -> None:
    """Answer every event of the standard input."""
    module, _, name = sys.argv[1].rpartition(".")
    memory = int(sys.argv[2]) * MIB
    # The handlers log to the standard output.
    out = os.dup(1)
    os.dup2(2, 1)
    handler = getattr(import_module(module), name)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    context = SimpleNamespace(
        aws_request_id="hostile", get_remaining_time_in_millis=lambda: 600_000
    )
    for line in sys.stdin.buffer:
        if pid := os.fork():
            os.waitpid(pid, 0)
            continue
        start = time.process_time()
        answer = handler(json.loads(line), context)
        cpu = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        os.write(out, json.dumps([answer, cpu, peak]).encode() + b"\n")
        os._exit(0)


if __name__ == "__main__":
    main()
