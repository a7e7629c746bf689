"""Plots of the results, as SVG in ``build/bench``."""

import json
from typing import Any, Final

import matplotlib as mpl  # type: ignore[import-not-found]
from matplotlib import pyplot as plt

from benchmarks.report import BUILD

OURS: Final = "#0b6e4f"
THEIRS: Final = "#9aa5b1"
LIMIT: Final = "#d1495b"
Rows = list[dict[str, Any]]


def rows(benchmark: str, title: str) -> Rows:
    """A table of a benchmark, or no rows if it has not run."""
    path = BUILD / f"{benchmark}.json"
    found: Rows = json.loads(path.read_text())["tables"][title] if path.exists() else []
    return found


def save(figure: Any, name: str) -> None:  # noqa: ANN401
    figure.tight_layout()
    figure.savefig(BUILD / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def batch_path() -> None:
    """CPU per MB, by shape."""
    found = rows("batch_path", "plain")
    if not found:
        return
    figure, axes = plt.subplots(figsize=(8, 5))
    ways = {
        "scan only": LIMIT,
        "record work": OURS,
        "handler": "#5aa786",
        "orjson": THEIRS,
        "json": "#5c6773",
    }
    high = 0.8 / len(ways)
    for number, (way, color) in enumerate(ways.items()):
        places = [index + number * high for index in range(len(found))]
        axes.barh(places, [row[way] for row in found], high, label=way, color=color)
    axes.set_yticks([index + 0.4 - high / 2 for index in range(len(found))])
    axes.set_yticklabels([row["records"] for row in found])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("ms of CPU per MB of JSON")
    axes.legend()
    save(figure, "batch-path")


def compose() -> None:
    """Time of each way, as a multiple of the limit."""
    found = rows("compose", "compose")
    if not found:
        return
    cases = list(dict.fromkeys((row["batches"], row["ms a read, a write"]) for row in found))
    figure, axes = plt.subplots(figsize=(8, 5))
    ways = [way for way in dict.fromkeys(row[""] for row in found) if way != "limit"]
    wide = 0.85 / len(ways)
    for number, way in enumerate(ways):
        times = [row["/ limit"] for row in found if row[""] == way]
        places = [index + number * wide for index in range(len(cases))]
        color = OURS if way == "gapless" else str(0.35 + 0.12 * number)
        axes.bar(places, times, wide, label=way, color=color)
    axes.axhline(1, color=LIMIT, label="limit: read all, write all")
    axes.set_xticks([index + 0.35 for index in range(len(cases))])
    axes.set_xticklabels(
        [f"{batches}\n{'network' if wait != '0, 0' else 'no latency'}" for batches, wait in cases],
        fontsize=8,
    )
    axes.set_yscale("log")
    axes.set_ylabel("seconds / those of the limit")
    axes.legend(fontsize=8)
    save(figure, "compose")


def growth() -> None:
    """Seconds, memory and calls by number of batches."""
    found = [row for row in rows("compose", "growth") if row["KB each"] == 10]
    if not found:
        return
    batches = [row["batches"] for row in found]
    figure, (seconds, memory, calls) = plt.subplots(1, 3, figsize=(10, 3.4))
    for axes, name, label in (
        (seconds, "seconds", "seconds"),
        (memory, "MiB", "MiB beyond the start"),
        (calls, "calls", "calls to S3"),
    ):
        axes.plot(batches, [row[name] for row in found], "o-", color=OURS)
        axes.set_xscale("log")
        axes.set_xlabel("batches of 10 KB")
        axes.set_title(label, fontsize=10)
    seconds.set_yscale("log")
    calls.set_yscale("log")
    memory.set_ylim(bottom=0)
    save(figure, "growth")


def whole() -> None:
    """Records per second, and memory."""
    found = [row for row in rows("whole", "uploads") if row["records"] == "1,000,000"]
    if not found:
        return
    names = [row[""] for row in found]
    colors = [OURS if name.startswith("Gapless") else THEIRS for name in names]
    figure, (speed, memory) = plt.subplots(1, 2, figsize=(10, 2.8), sharey=True)
    speed.barh(names, [row["1,000 records/s"] for row in found], color=colors)
    speed.set_xlabel("1,000 records a second")
    memory.barh(names, [row["MiB"] for row in found], color=colors)
    memory.set_xlabel("MiB of the process, at most")
    speed.invert_yaxis()
    save(figure, "whole")


def main() -> None:
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "gapless"
    mpl.rcParams["svg.fonttype"] = "none"
    mpl.rcParams["axes.spines.top"] = mpl.rcParams["axes.spines.right"] = False
    for plot in (batch_path, compose, growth, whole):
        plot()


if __name__ == "__main__":
    main()
