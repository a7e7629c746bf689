"""What the command shows: a bar on a terminal, plain lines elsewhere, or JSON for machines.

Results go to standard output, everything on the way to them to standard error; JSON is all output.
No stream that is closed or broken stops an upload.
"""

import io
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from gapless.text import count, redact

if TYPE_CHECKING:
    from typing_extensions import Self

_STANDARD_ERROR: Final = 2
_MB: Final = 1_000_000
_STEPS: Final = 10
"""Plain lines tell of progress at every tenth."""

_AGAIN_SECONDS: Final = 60.0
"""How long the same reason to try again is not repeated: one line, not one per request."""


_WAITS: Final = {
    "finishing": "finishing",
    "merge": "merging, {done:,} of {parts:,} parts",
    "checking": "{check}",
}


class _Steady(io.TextIOWrapper):
    """A stream that takes everything: what it cannot write is lost, and nothing else is."""

    def write(self, text: str) -> int:
        """Write, if that is possible."""
        try:
            return super().write(text)
        except (OSError, ValueError):
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        try:
            super().flush()
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self) -> None:
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)


def steady_streams() -> None:
    """Make standard output and error take everything, whatever became of them."""
    # A file that is opened later must not get the number of a stream that is closed.
    while (number := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        pass
    os.close(number)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            file: Any = open(os.devnull, "wb")  # noqa: PTH123, SIM115 - for as long as the process lives
            encoding = "utf-8"
        elif isinstance(stream, io.TextIOWrapper):
            stream.flush()
            encoding = stream.encoding
            file = stream.detach()
        else:
            continue
        setattr(sys, name, _Steady(file, encoding, errors="backslashreplace", write_through=True))


class Display:
    """Shows plain lines; the base of the others."""

    def __init__(self, secrets: Callable[[], Sequence[str]] = tuple) -> None:
        self._secrets = secrets
        self._total = self._done = 0
        self._what = ""
        self._told: dict[str, float] = {}

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
        if event in {"reading", "batch", "download"}:
            self.advance(*self._progress(event, facts))
        elif event == "stored":
            self._done += facts["bytes"]
        elif event in _WAITS:
            self.wait(_WAITS[event].format(**facts))
        elif event == "retry":
            self._retry(facts["reason"])
        elif event == "check":
            self.result(_line(event, facts), facts)
        else:
            if event == "session":
                self._done, self._total, self._what = 0, facts["bytes"], ""
            if text := _line(event, facts):
                self.say(text)
            if event == "session":
                self.advance("sending", 0, self._total)

    def _progress(self, event: str, facts: dict[str, Any]) -> tuple[str, int, int | None]:
        if event == "batch":
            return "sending", self._done + facts["bytes"], self._total
        if event == "reading":
            return "reading", facts["read"], facts["size"]
        return "download", facts["bytes"], facts["total"]

    def _retry(self, reason: str) -> None:
        now = time.monotonic()
        key = reason.partition(" (request ")[0]
        if now - self._told.get(key, -_AGAIN_SECONDS) >= _AGAIN_SECONDS:
            self._told[key] = now
            self.say(f"{reason}; trying again …")

    def advance(self, what: str, done: int, total: int | None) -> None:
        """Show how far it is."""
        before, self._done = (self._done if what == self._what else 0), done
        self._what = what
        # A tenth of a small thing is not worth a line.
        if total and total > _MB and done * _STEPS // total > before * _STEPS // total:
            self.say(f"{what}: {100 * done // total} %")

    def wait(self, what: str) -> None:
        """Show what is waited for."""
        if what != self._what and what.startswith("merging"):
            self.say(what)
        self._what = what

    def say(self, text: str) -> None:
        """Print a line beside the results."""
        print(self.clean(text), file=sys.stderr, flush=True)

    def clean(self, text: str) -> str:
        """The last look: no line has a secret."""
        return redact(text, self._secrets())

    def result(self, text: str, facts: dict[str, Any]) -> None:
        """Print the result of a command."""
        del facts
        print(self.clean(text), flush=True)

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

    def failed(self, message: str, facts: dict[str, Any]) -> None:
        """Print why a command failed."""
        del facts
        self.say(f"gapless: {message}")

    def restore(self) -> None:
        """Leave the terminal as it was: the process ends at once."""


class Quiet(Display):
    """Shows errors alone."""

    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        """Show nothing."""

    def result(self, text: str, facts: dict[str, Any]) -> None:
        """Show nothing."""

    def gaps(self, missing: Sequence[dict[str, int]], batch_size: int | None, total: int) -> None:
        """Show nothing: the error says how many."""


class _Facts(ProgressColumn):
    """How much of how much, how fast and how long; how long alone where only waiting helps."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text(f"{task.elapsed or 0:.0f} s", style="progress.elapsed")
        said = f"{task.completed / _MB:,.1f} of {task.total / _MB:,.1f} MB"
        if task.speed:
            said += f", {task.speed / _MB:,.1f} MB/s"
        if task.time_remaining is not None:
            minutes, seconds = divmod(int(task.time_remaining), 60)
            said += f", {minutes}:{seconds:02} left"
        return Text(said, style="progress.download")


class Bars(Display):
    """Shows a bar, with rate and time left, on a terminal."""

    def __init__(self, secrets: Callable[[], Sequence[str]] = tuple) -> None:
        super().__init__(secrets)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            _Facts(),
            console=Console(stderr=True, highlight=False),
            transient=True,
        )
        self._task: TaskID | None = None

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
        self._bars.update(self._bar(what, total), completed=done, total=total)

    def wait(self, what: str) -> None:
        """Show a bar that only moves."""
        self._bar(what, None)

    def _bar(self, what: str, total: int | None) -> TaskID:
        if self._task is None or what != self._what:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._what, self._task = what, self._bars.add_task(what, total=total)
        return self._task

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._bars.console.print(Text(self.clean(text)), soft_wrap=True)

    def result(self, text: str, facts: dict[str, Any]) -> None:
        """Print the result, with no bar in its line."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
        self._bars.refresh()
        super().result(text, facts)

    def restore(self) -> None:
        """Remove the bar, and show the cursor."""
        with suppress(Exception):
            self._bars.stop()
        with suppress(OSError):
            os.write(2, b"\r\x1b[K\x1b[?25h")


class Json(Display):
    """Prints one JSON object a line: each event, the result, or the error."""

    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        """Print what is worth a line; bytes read and received are not."""
        if event not in {"reading", "download", "stored", "checking"}:
            self._print(event, facts)

    def _print(self, event: str, facts: dict[str, Any]) -> None:
        print(self.clean(json.dumps({"event": event, **facts})), flush=True)

    def result(self, text: str, facts: dict[str, Any]) -> None:
        """Print the facts."""
        del text
        self._print("result", facts)

    def gaps(self, missing: Sequence[dict[str, int]], batch_size: int | None, total: int) -> None:
        """Print nothing: the result has them."""

    def failed(self, message: str, facts: dict[str, Any]) -> None:
        """Print the error."""
        self._print("error", {"message": message, **facts})


def display(
    *, as_json: bool, quiet: bool = False, secrets: Callable[[], Sequence[str]] = tuple
) -> Display:
    """The one that suits where the output goes."""
    if as_json:
        return Json(secrets)
    if quiet:
        return Quiet(secrets)
    return Bars(secrets) if sys.stderr.isatty() else Display(secrets)


def _line(event: str, facts: dict[str, Any]) -> str:  # noqa: PLR0911 - one for each event
    match event:
        case "input":
            skipped = f", {facts['skipped']:,} left out" if facts["skipped"] else ""
            size = count(facts["bytes"], "byte")
            if facts["bytes"] >= _MB:
                size = f"{facts['bytes'] / _MB:,.1f} MB"
            blank = f", {count(facts['blank'], 'blank line')}" if facts["blank"] else ""
            records = count(facts["records"], "record")
            return f"input: {facts['file']}, {facts['reading']}, {records}, {size}{skipped}{blank}"
        case "session":
            number = facts["batches"]
            size = facts["batchSize"]
            cut = (
                f", {count(number, 'batch', 'batches')} of {count(size, 'record')}"
                if number
                else ""
            )
            stored = f", {facts['stored']:,} stored already" if facts.get("stored") else ""
            return f"session: {facts['sessionId']}{cut}{stored}"
        case "warning":
            return f"gapless: {facts['message']}"
        case "check":
            found = "pass" if facts["passed"] else "FAIL"
            return f"{found}  {facts['check']} ({facts['guarantee']})" + (
                f"\n      {facts['detail']}" if facts["detail"] else ""
            )
        case "summary":
            return str(facts["text"])
        case "finish" if facts["validationResult"] != "Success":
            return f"finish: {facts['reason']}. {facts['detail']}"
        case _:
            return ""
