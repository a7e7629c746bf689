"""Run all benchmarks, with the alternatives that they compare Gapless with.

    make bench                    a quarter of an hour
    make bench BENCH_FULL=1       also with 10,000,000 records
    make bench ONLY=compose       one benchmark, or several with commas between
    make bench DOCS=1             update the tables and plots in docs, and the README's numbers

The alternatives are installed from PyPI and npm into ``build/bench``. Results are written there:
``results.json``, ``report.md`` and the plots. A benchmark that fails leaves no results; the others
still run, and are written.
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

from benchmarks import readme, report
from benchmarks.handlers import KEEPING
from benchmarks.report import BUILD, FULL, ROOT
from local.runtime import RUNTIME, runtime_bin

HERE: Final = Path(__file__).parent
DOCS: Final = ROOT / "docs"
PLOTS: Final = DOCS / "performance"
PYTHON: Final = BUILD / "venv" / "bin" / "python"
WITH_THE_DEVELOPERS: Final = ("cold_start", "client")
"""Run in the developer's environment."""
IN_THE_SAME_PROCESS: Final = ("batch_path",)
"""Call the functions in their own process."""
BENCHMARKS: Final = (
    "batch_path",
    "compose",
    "whole",
    "wide",
    "client",
    "cold_start",
    "cost",
    "largest",
)
PAGES: Final = ("performance.md", "performance-appendix.md", "scale.md")


def needs(requirements: Path) -> str:
    """The content of a file of requirements, and of those that it includes."""
    text = requirements.read_text()
    included = re.findall(r"^-r (.+)$", text, re.MULTILINE)
    return "".join([text, *(needs(requirements.parent / name) for name in included)])


def install() -> None:
    """Install the alternatives, once."""
    python = f"{folder}/{RUNTIME}" if (folder := runtime_bin()) else sys.executable
    for name, requirements in {
        "venv": "requirements.txt",
        "s3fs": "requirements-s3fs.txt",
        "awscli": "requirements-awscli.txt",
    }.items():
        done, wanted = BUILD / name / ".done", needs(HERE / requirements)
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


def run(names: Iterable[str]) -> list[str]:
    """Run benchmarks one after the other; return those that failed."""
    failed = []
    for name in names:
        print(f"\n== {name}", flush=True)
        results = BUILD / f"{name}.json"
        results.unlink(missing_ok=True)
        started = time.monotonic()
        python = sys.executable if name in WITH_THE_DEVELOPERS else PYTHON
        environ = os.environ | {"PYTHONPATH": "functions", "PYTHONHASHSEED": "0"}
        if name in IN_THE_SAME_PROCESS:
            environ |= KEEPING
        subprocess.run([python, "-m", f"benchmarks.{name}"], cwd=ROOT, env=environ, check=False)
        print(f"{name} took {time.monotonic() - started:.0f} s", flush=True)
        if not results.exists():
            failed.append(name)
    return failed


def machine() -> str:
    """When and where this is measured. Says how busy the machine is before anything starts."""
    return (
        f"Measured {time.strftime('%Y-%m-%d')} on {os.cpu_count()} cores ({platform.machine()},"
        f" {platform.system()}), Python {platform.python_version()}; load average before the start:"
        f" {os.getloadavg()[0]:.1f}.\n"
    )


def targets(found: dict[str, Any]) -> list[report.Target]:
    """The targets of all benchmarks."""
    return [report.Target(**target) for chapter in found.values() for target in chapter["targets"]]


def tables(found: dict[str, Any]) -> dict[str, str]:
    """All tables in Markdown, by ``benchmark.title``."""
    made = {
        f"{name}.{title}": report.markdown(rows)
        for name, chapter in found.items()
        for title, rows in chapter["tables"].items()
    }
    all_ = targets(found)
    missed = [target for target in all_ if not target.met]
    summary = f"{len(all_) - len(missed)} of {len(all_)} targets are met."
    if missed:
        summary += f" Not met:\n\n{report.markdown(report.verdicts(missed))}"
    return {
        "targets": report.markdown(report.verdicts(all_)),
        "missed": summary.rstrip() + "\n",
        **made,
    }


def document(made: dict[str, str], plots: Iterable[Path]) -> None:
    """Write the tables between their marks in the documents, and the plots beside them."""
    for path in (DOCS / page for page in PAGES):
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
    before = machine()
    asked = only.split(",") if only else [name for name in BENCHMARKS if FULL or name != "largest"]
    failed = run(asked)
    found = {
        name: json.loads((BUILD / f"{name}.json").read_text())
        for name in BENCHMARKS
        if (BUILD / f"{name}.json").exists()
    }
    (BUILD / "results.json").write_text(json.dumps({"machine": before, **found}, indent=1))
    made = tables(found) | {"machine": before}
    (BUILD / "report.md").write_text("\n".join(f"## {name}\n\n{made[name]}" for name in made))
    subprocess.run([PYTHON, "-m", "benchmarks.plots"], cwd=ROOT, check=True)
    if os.environ.get("DOCS"):
        # If only some were asked for, the date is not that of all, and targets may be missing.
        if only:
            del made["machine"]
        if only and len(found) < len(BENCHMARKS):
            del made["targets"], made["missed"]
        document(made, BUILD.glob("*.svg"))
        readme.update()
    print("\n" + report.markdown(report.verdicts(targets(found))))
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}.")
    if not all(target.met for target in targets(found)):
        sys.exit("Not every target is met.")


if __name__ == "__main__":
    main()
