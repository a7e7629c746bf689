"""Run all benchmarks, with the alternatives that they compare Gapless with.

    make bench                    a quarter of an hour
    make bench BENCH_FULL=1       also with 10,000,000 records
    make bench ONLY=compose       one benchmark
    make bench DOCS=1             update the tables in docs/performance.md and scale.md, and plots

The alternatives are installed from PyPI and npm into ``build/bench``. Results are written there:
``results.json``, ``report.md`` and the plots.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from benchmarks import report
from benchmarks.report import BUILD, ROOT
from local.runtime import RUNTIME, runtime_bin

HERE: Final = Path(__file__).parent
DOCS: Final = ROOT / "docs"
PLOTS: Final = DOCS / "performance"
PYTHON: Final = BUILD / "venv" / "bin" / "python"
WITH_THE_DEVELOPERS: Final = ("cold_start",)
"""Run in the developer's environment, and start the functions' Python themselves."""
BENCHMARKS: Final = ("batch_path", "compose", "whole", "cold_start", "cost")


def install() -> None:
    """Install the alternatives, once."""
    python = f"{folder}/{RUNTIME}" if (folder := runtime_bin()) else sys.executable
    for name, requirements in {
        "venv": "requirements.txt",
        "s3fs": "requirements-s3fs.txt",
    }.items():
        done, wanted = BUILD / name / ".done", (HERE / requirements).read_text()
        if done.exists() and done.read_text() == wanted:
            continue
        print(f"Installing {requirements} into build/bench/{name} (once) …", flush=True)
        subprocess.run([python, "-m", "venv", "--clear", BUILD / name], check=True)
        pip = str(BUILD / name / "bin" / "pip")
        quiet = ("--quiet", "--disable-pip-version-check")
        subprocess.run([pip, "install", *quiet, "-r", HERE / requirements], check=True)
        done.write_text(wanted)
    peers = BUILD / "peers"
    wanted = (HERE / "peers" / "package.json").read_text()
    installed = peers / ".done"
    shutil.copytree(HERE / "peers", peers, dirs_exist_ok=True)
    if not installed.exists() or installed.read_text() != wanted:
        print("Installing package.json into build/bench/peers (once) …", flush=True)
        npm = shutil.which("npm") or sys.exit("npm is needed, for the servers to compare with.")
        silent = ("--no-audit", "--no-fund", "--loglevel=error")
        subprocess.run([npm, "install", *silent], cwd=peers, check=True)
        installed.write_text(wanted)


def run(names: Iterable[str]) -> bool:
    """Run benchmarks one after the other; return whether all targets were met."""
    met = True
    for name in names:
        print(f"\n== {name}", flush=True)
        started = time.monotonic()
        python = sys.executable if name in WITH_THE_DEVELOPERS else PYTHON
        environ = os.environ | {"PYTHONPATH": "functions", "PYTHONHASHSEED": "0"}
        done = subprocess.run(
            [python, "-m", f"benchmarks.{name}"], cwd=ROOT, env=environ, check=False
        )
        print(f"{name} took {time.monotonic() - started:.0f} s", flush=True)
        met &= done.returncode == 0
    return met


def tables(found: dict[str, Any]) -> dict[str, str]:
    """All tables in Markdown, by ``benchmark.title``."""
    made = {
        f"{name}.{title}": report.markdown(rows)
        for name, chapter in found.items()
        for title, rows in chapter["tables"].items()
    }
    targets = [
        report.Target(**target) for chapter in found.values() for target in chapter["targets"]
    ]
    return {"targets": report.markdown(report.verdicts(targets)), **made}


def document(made: dict[str, str], plots: Iterable[Path]) -> None:
    """Write the tables between their marks in the documents, and the plots beside them."""
    for path in (DOCS / "performance.md", DOCS / "scale.md"):
        text = path.read_text()
        for title, table in made.items():
            marks = re.compile(rf"(<!-- {re.escape(title)} -->\n).*?(<!-- end -->)", re.DOTALL)
            literal = table.replace("\\", r"\\")
            text = marks.sub(rf"\1\n{literal}\n\2", text)
        path.write_text(text)
    PLOTS.mkdir(exist_ok=True)
    for plot in plots:
        shutil.copy(plot, PLOTS)


def main() -> None:
    """Run all, or the benchmark named by ``ONLY``, and write the results."""
    only = os.environ.get("ONLY")
    install()
    met = run(only.split(",") if only else BENCHMARKS)
    found = {
        name: json.loads((BUILD / f"{name}.json").read_text())
        for name in BENCHMARKS
        if (BUILD / f"{name}.json").exists()
    }
    machine = {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "processor": platform.machine(),
    }
    (BUILD / "results.json").write_text(json.dumps({"machine": machine, **found}, indent=1))
    made = tables(found)
    (BUILD / "report.md").write_text("\n".join(f"## {name}\n\n{made[name]}" for name in made))
    subprocess.run([PYTHON, "-m", "benchmarks.plots"], cwd=ROOT, check=True)
    if os.environ.get("DOCS"):
        # If only some ran, the table of targets would be incomplete.
        all_ran = len(found) == len(BENCHMARKS)
        shown = made if all_ran else {name: made[name] for name in made if name != "targets"}
        document(shown, BUILD.glob("*.svg"))
    print("\n" + made["targets"])
    if not met:
        sys.exit("Not every target is met.")


if __name__ == "__main__":
    main()
