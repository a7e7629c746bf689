"""Run a function like Lambda: in its own process, with limited memory, cold for each event.

``python -m tests.hostile.function HANDLER MEMORY`` reads events from standard input, one JSON line
each. It forks for each event, and the child writes a JSON line: the response, its CPU seconds, and
its peak memory in bytes, including what it shares with the parent.
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
    cpu: float
    """CPU seconds."""
    peak: int
    """Peak memory, bytes."""


class Function:
    """The process; call it to invoke the function."""

    def __init__(self, handler: str, memory: int, code: Path = CODE) -> None:
        """``memory`` is in MiB. The environment is inherited."""
        # As few threads as on Lambda: each reserves address space, which is what is limited here.
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
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(event, ensure_ascii=False).encode() + b"\n")
        self._process.stdin.flush()
        answer, cpu, peak = json.loads(self._process.stdout.readline())
        self.cost = Cost(cpu, peak)
        return answer


def main() -> None:
    module, _, name = sys.argv[1].rpartition(".")
    memory = int(sys.argv[2]) * MIB
    # Handlers log to standard output, so move the answers to another descriptor.
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
