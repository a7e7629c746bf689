"""The results of a benchmark: tables, and targets."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, TypeVar

ROOT: Final = Path(__file__).parents[1]
BUILD: Final = ROOT / "build" / "bench"
FULL: Final = os.environ.get("BENCH_FULL") == "1"
"""Whether to measure the sizes that take an hour, too."""

_Found = TypeVar("_Found")
Value = str | float
Row = dict[str, Value]
"""A row of a table, by column title."""


@dataclass(frozen=True)
class Target:
    """A measured value and its bound."""

    what: str
    measured: float
    bound: float
    least: bool = False
    """Whether the bound is a minimum instead of a maximum."""

    @property
    def met(self) -> bool:
        """Whether the value is within the bound."""
        return self.measured >= self.bound if self.least else self.measured <= self.bound


@dataclass(frozen=True)
class Chapter:
    """All results of one benchmark."""

    tables: dict[str, list[Row]] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)


def alternate(ways: Mapping[str, Callable[[], _Found]], rounds: int) -> dict[str, list[_Found]]:
    """The measurements of each way by round; alternating ways meet the same noise."""
    found: dict[str, list[_Found]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, measure in ways.items():
            found[way].append(measure())
    return found


def ratio(these: Iterable[float], those: Iterable[float]) -> float:
    """The median of the ratios by round."""
    return statistics.median(a / b for a, b in zip(these, those, strict=True))


def shown(value: Value) -> str:
    """A value for tables: three significant digits, and separated thousands."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def markdown(rows: list[Row]) -> str:
    """A table in Markdown."""
    titles = list(rows[0])
    left = [isinstance(rows[0][title], str) for title in titles]
    lines = [titles, ["---" if is_left else "---:" for is_left in left]]
    lines += [[shown(row.get(title, "")) for title in titles] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def verdicts(targets: list[Target]) -> list[Row]:
    """The targets as a table."""
    return [
        {
            "target": target.what,
            "bound": f"{'≥' if target.least else '≤'} {shown(target.bound)}",
            "measured": shown(target.measured),
            "": "met" if target.met else "**not met**",
        }
        for target in targets
    ]


def progress(what: str) -> None:
    """Say on the terminal what is measured now; tables may go elsewhere."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def publish(name: str, chapter: Chapter) -> None:
    """Print the results and store them for the report. Exits with 1 if a target is missed."""
    for title, rows in chapter.tables.items():
        print(f"\n{title}\n\n{markdown(rows)}", flush=True)
    if chapter.targets:
        print(markdown(verdicts(chapter.targets)), flush=True)
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / f"{name}.json").write_text(json.dumps(asdict(chapter), indent=1, ensure_ascii=False))
    if not all(target.met for target in chapter.targets):
        sys.exit("Not every target is met.")
