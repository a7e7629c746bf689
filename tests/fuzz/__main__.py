"""``python -m tests.fuzz`` fuzzes every target for ``FUZZ_SECONDS`` (default: 8).

``python -m tests.fuzz TARGET FILE…`` runs a target on files, for example to replay a crash. Crashes
and the inputs that reached new code are written to ``build/fuzz/``.

The fuzzer is atheris (libFuzzer for Python), guided by line coverage. On platforms without a wheel
of atheris the targets get random mutations, without coverage.
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

    # Instrumented code needs up to three times the CPU: import a second copy for the fuzzer.
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
"""Whether more than the usual run is asked for."""

MEMORY_MB: Final = 1_400
"""Memory limit of a run, MB: the 700 of a request, plus the bookkeeping of ``tracemalloc``."""

ONE_INPUT_SECONDS: Final = 120


def main() -> None:
    """Run the command line; exit with 1 if something was found."""
    name, *files = [*sys.argv[1:], ""][: len(sys.argv)]
    if files[:-1] or (files and files[0]):
        for file in filter(None, files):
            print(file, TARGETS[name](Path(file).read_bytes()) or "", flush=True)
    elif name:
        fuzz(name, float(os.environ.get("FUZZ_SECONDS", "8")))
    else:
        sys.exit(fuzz_all())


def fuzz_all() -> int:
    """Run each target in its own process; return the number of targets that failed."""
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
    """Run one target. Never returns: libFuzzer exits."""
    # The usual run starts without a corpus from earlier runs; a longer one continues with it.
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
        # A fixed seed, or (0) a random one.
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
        if chance.random() < 0.5:  # half structured mutations, half libFuzzer's
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
