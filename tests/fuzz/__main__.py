"""Fuzzing: ``python -m tests.fuzz`` runs every target for ``FUZZ_SECONDS``, 8 if it is not set.

``python -m tests.fuzz TARGET FILE…`` runs a target on files instead: a crash, say. Crashes, and the
inputs that reached something new, are written into ``build/fuzz/``.

The fuzzer is atheris, libFuzzer for Python: it keeps what reaches a new line of the code. Where
atheris has no wheel, the same targets get random mutations, without that feedback.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha1
from pathlib import Path
from random import Random
from typing import Final

from tests.fuzz import documents
from tests.fuzz.documents import BUILD, CORPUS

sys.path.insert(0, str(Path(__file__).parents[2] / "functions"))
try:
    import atheris
except ImportError:
    atheris = None  # type: ignore[assignment]
    from tests.fuzz.targets import TARGETS
else:
    from tests.fuzz import decoders as shipped

    # What the fuzzer looks into takes up to three times the CPU. So it gets modules of its own.
    for name in [*sys.modules]:
        if name.startswith(("uploads.decode", "tests.fuzz.decoders")):
            del sys.modules[name]
    del sys.modules["tests.fuzz"].decoders
    with atheris.instrument_imports(  # type: ignore[attr-defined]
        include=["uploads.decode", "gapless.readers"]
    ):
        from tests.fuzz import targets
        from tests.fuzz.targets import TARGETS
    targets.shipped = shipped

MORE: Final = "FUZZ_SECONDS" in os.environ
"""Whether more is asked for than the usual run."""

MEMORY_MB: Final = 1_400
"""Most memory of a run, MB: the 700 of a request, and what ``tracemalloc`` notes of it."""

ONE_INPUT_SECONDS: Final = 120


def main() -> None:
    """Run what the command line asks for; ends with 1 where something was found."""
    name, *files = [*sys.argv[1:], ""][: len(sys.argv)]
    if files[:-1] or (files and files[0]):
        for file in filter(None, files):
            print(file, TARGETS[name](Path(file).read_bytes()) or "", flush=True)
    elif name:
        fuzz(name, float(os.environ.get("FUZZ_SECONDS", "8")))
    else:
        sys.exit(fuzz_all())


def fuzz_all() -> int:
    """Run each target in a process of its own; gives how many found something."""
    if atheris is None:
        print("atheris is not installed (it has wheels for Linux): random mutations instead")
    executions = failures = 0
    for name in TARGETS:
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz", name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        found = re.search(r"number_of_executed_units: (\d+)", done.stdout)
        count = int(found[1]) if found else 0
        executions += count
        print(f"fuzz {name}: {count:,} executions{'' if not done.returncode else ', FAILED'}")
        if done.returncode:
            failures += 1
            print(done.stdout[-5_000:])
    crashes = len(list((BUILD / "crashes").glob("*"))) if failures else 0
    print(
        f"fuzz: {len(TARGETS)} targets, {executions:,} executions, {failures} failed"
        + (f"; {crashes} crashes in {BUILD / 'crashes'}" if failures else ""),
        flush=True,
    )
    return min(failures, 1)


def fuzz(name: str, seconds: float) -> None:
    """Run one target; does not return."""
    # The usual run takes nothing from an earlier one; who asks for more goes on from there.
    corpus = BUILD / ("corpus" if MORE else "usual") / name
    if not MORE:
        shutil.rmtree(corpus, ignore_errors=True)
    for folder in (corpus, BUILD / "crashes"):
        folder.mkdir(parents=True, exist_ok=True)
    if atheris is None:
        _mutate(name, seconds)
        sys.exit()
    arguments = [
        sys.argv[0],
        f"-max_total_time={max(1, round(seconds))}",
        # The same way every time, or (0) a way of its own.
        f"-seed={0 if MORE else 1}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-timeout={ONE_INPUT_SECONDS}",
        f"-artifact_prefix={BUILD / 'crashes' / name}-",
        "-print_final_stats=1",
        str(corpus),
        str(CORPUS / name),
    ]

    def mutate(content: bytes, most: int, seed: int) -> bytes:
        chance = Random(seed)
        if chance.random() < 0.5:  # half by structure, half by libFuzzer
            return documents.mutated(content, chance)[:most]
        return bytes(atheris.Mutate(content, most))

    def run(content: bytes) -> None:
        TARGETS[name](content)

    atheris.Setup(arguments, run, custom_mutator=mutate)
    atheris.Fuzz()


def _mutate(name: str, seconds: float) -> None:
    count = 0
    until = time.monotonic() + seconds
    try:
        for content in _mutations(name):
            TARGETS[name](content)
            count += 1
            if time.monotonic() > until:
                break
    except Exception:
        crash = BUILD / "crashes" / f"{name}-crash-{sha1(content).hexdigest()}"  # noqa: S324
        crash.write_bytes(content)
        raise
    finally:
        print(f"number_of_executed_units: {count}")


def _mutations(name: str) -> Iterator[bytes]:
    chance = Random(time.time_ns())
    seeds = [file.read_bytes() for file in sorted((CORPUS / name).iterdir())]
    while True:
        content = chance.choice(seeds)
        for _ in range(chance.randrange(1, 6)):
            content = documents.mutated(content, chance)
        yield content


if __name__ == "__main__":
    main()
