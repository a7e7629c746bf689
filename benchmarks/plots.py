"""Plots of the results, as SVG in ``build/bench``."""

import json
from typing import Any, Final

import matplotlib as mpl  # type: ignore[import-not-found]
from matplotlib import pyplot as plt

from benchmarks.report import BUILD

OURS: Final = "#0b6e4f"
OURS_TOO: Final = "#6fbf73"
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
    figure, (seconds, memory, calls) = plt.subplots(1, 3, figsize=(10, 3.4))
    for format_, color in (("ndjson", OURS), ("ndjson.gz", OURS_TOO)):
        some = [row for row in found if row["format"] == format_]
        batches = [row["batches"] for row in some]
        for axes, name in ((seconds, "seconds"), (memory, "MiB"), (calls, "calls")):
            axes.plot(batches, [row[name] for row in some], "o-", color=color, label=format_)
    titles = {seconds: "seconds", memory: "MiB beyond the start", calls: "calls to S3"}
    for axes, title in titles.items():
        axes.set_xscale("log")
        axes.set_xlabel("batches of 10 KB")
        axes.set_title(title, fontsize=10)
    seconds.set_yscale("log")
    calls.set_yscale("log")
    memory.set_ylim(bottom=0)
    seconds.legend(fontsize=8)
    save(figure, "growth")


def whole() -> None:
    """Speed, CPU and memory of whole uploads, beside others."""
    found = rows("whole", "beside")
    if not found:
        return
    names = [row[""] for row in found]
    colors = [OURS if name.startswith("Gapless") else THEIRS for name in names]
    figure, plots = plt.subplots(1, 3, figsize=(11, 4.2), sharey=True)
    for axes, title in zip(plots, ("MB/s", "ms CPU per MB", "MiB"), strict=True):
        bars = axes.barh(names, [row[title] for row in found], color=colors)
        axes.bar_label(bars, fmt="%.3g", fontsize=7, padding=2)
        axes.set_xlabel({"MiB": "MiB of the processes"}.get(title, title))
        axes.tick_params(labelsize=8)
    plots[0].invert_yaxis()
    save(figure, "whole")


def wide() -> None:
    """Speed and CPU of a batch by number of senders."""
    found = rows("wide", "senders")
    if not found:
        return
    figure, (speed, cpu) = plt.subplots(1, 2, figsize=(10, 3.6))
    styles = ((OURS, "o-"), (OURS_TOO, "o-"), (OURS, "s--"), (THEIRS, "s--"))
    for way, (color, style) in zip(dict.fromkeys(row[""] for row in found), styles, strict=True):
        some = [row for row in found if row[""] == way]
        senders = [row["senders"] for row in some]
        for axes, name in ((speed, "1,000 records/s"), (cpu, "ms CPU a batch")):
            axes.plot(senders, [row[name] for row in some], style, color=color, label=way)
    for axes, title in ((speed, "1,000 records a second"), (cpu, "ms of CPU a batch of 100 KB")):
        axes.set_xscale("log", base=4)
        axes.set_xticks([1, 4, 16, 64], ["1", "4", "16", "64"])
        axes.minorticks_off()
        axes.set_xlabel("senders")
        axes.set_title(title, fontsize=10)
        axes.set_ylim(bottom=0)
    cpu.legend(fontsize=8)
    save(figure, "wide")


def main() -> None:
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "gapless"
    mpl.rcParams["svg.fonttype"] = "none"
    mpl.rcParams["axes.spines.top"] = mpl.rcParams["axes.spines.right"] = False
    for plot in (batch_path, compose, growth, whole, wide):
        plot()


if __name__ == "__main__":
    main()
