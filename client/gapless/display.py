"""What the command shows: a bar on a terminal, plain lines elsewhere, or JSON for machines.

Results go to standard output, everything on the way to them to standard error; JSON is all output.
"""

import json
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from gapless.conformance import Outcome

if TYPE_CHECKING:
    from typing_extensions import Self

_MB = 1_000_000
_STEPS = 10
"""Plain lines tell of progress at every tenth."""


class Display:
    """Shows plain lines; the base of the other two."""

    def __init__(self) -> None:
        self._total = self._done = 0
        self._what = ""

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        """Show what happened."""
        if event == "reading":
            self.advance("reading", facts["read"], facts["size"])
        elif event == "stored":
            self._done += facts["bytes"]
        elif event == "batch":
            self.advance("sending", self._done + facts["bytes"], self._total)
        elif event == "download":
            self.advance("download", facts["bytes"], facts["total"])
        elif event == "merge":
            self.say(f"merging: {facts['done']:,} of {facts['parts']:,} parts")
        else:
            if event == "session":
                self._done, self._total = 0, facts["bytes"]
            if text := _line(event, facts):
                self.say(text)

    def advance(self, what: str, done: int, total: int | None) -> None:
        """Show how far it is."""
        before, self._done = (self._done if what == self._what else 0), done
        self._what = what
        # A tenth of a small thing is not worth a line.
        if total and total > _MB and done * _STEPS // total > before * _STEPS // total:
            self.say(f"{what}: {100 * done // total} %")

    def say(self, text: str) -> None:
        """Print a line beside the results."""
        print(text, file=sys.stderr, flush=True)

    def result(self, text: str, facts: dict[str, Any]) -> None:
        """Print the result of a command."""
        del facts
        print(text, flush=True)

    def gaps(self, missing: Sequence[dict[str, int]], batch_size: int | None, total: int) -> None:
        """Print what is missing of ``total`` records as a table."""
        table = Table("batches", "how many", "records", title="Missing", title_justify="left")
        for gap in missing:
            first, last = gap["from"], gap["to"]
            span = "?"
            if batch_size:
                end = min((last + 1) * batch_size, total)
                span = f"{first * batch_size + 1:,} to {end:,}"
            named = f"{first}" if first == last else f"{first} to {last}"
            table.add_row(named, f"{last - first + 1:,}", span)
        Console(file=sys.stdout).print(table)

    def checks(self, outcomes: Sequence[Outcome]) -> None:
        """Print what the checks of a service found as a table."""
        table = Table("check", "guarantee", "", "detail", title="Checks", title_justify="left")
        for outcome in outcomes:
            found = "pass" if outcome.passed else "FAIL"
            table.add_row(outcome.check, outcome.guarantee, found, Text(outcome.detail))
        Console(file=sys.stdout).print(table)

    def failed(self, message: str, facts: dict[str, Any]) -> None:
        """Print why a command failed."""
        del facts
        self.say(f"gapless: {message}")


class Bars(Display):
    """Shows bars, with rate and time left, on a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._bars = Progress(
            TextColumn("{task.description:>8}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True, highlight=False),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "Self":
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def advance(self, what: str, done: int, total: int | None) -> None:
        """Move the bar of ``what``."""
        self._done = done
        if what not in self._tasks:
            for other in self._tasks.values():
                self._bars.remove_task(other)
            self._tasks = {what: self._bars.add_task(what)}
        self._bars.update(self._tasks[what], completed=done, total=total)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._bars.console.print(text, markup=False, soft_wrap=True)


class Json(Display):
    """Prints one JSON object a line: each event, the result, or the error."""

    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        """Print what is worth a line; bytes read and received are not."""
        if event not in {"reading", "download", "stored"}:
            print(json.dumps({"event": event, **facts}), flush=True)

    def result(self, text: str, facts: dict[str, Any]) -> None:
        """Print the facts."""
        del text
        print(json.dumps({"event": "result", **facts}), flush=True)

    def gaps(self, missing: Sequence[dict[str, int]], batch_size: int | None, total: int) -> None:
        """Print nothing: the result has them."""

    def checks(self, outcomes: Sequence[Outcome]) -> None:
        """Print nothing: each was an event."""

    def failed(self, message: str, facts: dict[str, Any]) -> None:
        """Print the error."""
        print(json.dumps({"event": "error", "message": message, **facts}), flush=True)


def display(*, as_json: bool) -> Display:
    """The one that suits where the output goes."""
    if as_json:
        return Json()
    return Bars() if sys.stderr.isatty() else Display()


def _line(event: str, facts: dict[str, Any]) -> str:
    match event:
        case "input":
            skipped = f", {facts['skipped']:,} left out" if facts["skipped"] else ""
            size = facts["bytes"] / _MB
            blank = f", {facts['blank']:,} blank lines" if facts["blank"] else ""
            return (
                f"input: {facts['file']}, {facts['reading']}, {facts['records']:,} records,"
                f" {size:,.1f} MB{skipped}{blank}"
            )
        case "session":
            number = facts["batches"]
            cut = f", {number:,} batches of {facts['batchSize']:,} records" if number else ""
            return f"session: {facts['sessionId']}{cut}"
        case "retry":
            return f"again in {facts['seconds']} s: {facts['reason']}"
        case "finish" if facts["validationResult"] != "Success":
            return f"finish: {facts['reason']}. {facts['detail']}"
        case _:
            return ""
