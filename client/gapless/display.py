"""The command's output: a progress bar on a terminal, plain lines elsewhere, or JSON.

Results go to standard output, progress to standard error; with JSON everything goes to standard
output. A closed or broken stream never stops an upload, and no secret is ever printed.
"""

import io
import json
import os
import select
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from gapless.text import count, redact

if TYPE_CHECKING:
    from typing_extensions import Self

_STANDARD_OUTPUT: Final = 1
_STANDARD_ERROR: Final = 2
_SIGNAL_SECONDS: Final = 1.0
"""How long the last line waits for a reader."""

MB: Final = 1_000_000
_STEPS: Final = 10
"""Plain lines report progress at every tenth of the total."""

_EVERY: Final = 1000 * MB
"""Bytes after which plain lines report progress if the total is unknown."""

_REPEAT_SECONDS: Final = 60.0
"""The same reason for a retry is shown at most once in this time."""


_WAITS: Final = {
    "finishing": "finishing",
    "merge": "merging, {done:,} of {parts:,} parts",
    "checking": "{check}",
}


class _TolerantStream(io.TextIOWrapper):
    """A stream that discards what it cannot write."""

    def write(self, text: str) -> int:
        """Write, if possible."""
        try:
            return super().write(text)
        except (OSError, ValueError):
            self._discard()
            return len(text)

    def flush(self) -> None:
        """Flush, if possible."""
        try:
            super().flush()
        except (OSError, ValueError):
            self._discard()

    def _discard(self) -> None:
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)


def tolerate_broken_streams() -> None:
    """Replace standard output and error: writing to a closed or broken stream does nothing."""
    # Prevent files that are opened later from getting the descriptor of a closed stream.
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
        setattr(
            sys,
            name,
            _TolerantStream(file, encoding, errors="backslashreplace", write_through=True),
        )


def write_now(number: int, text: str) -> None:
    """Write to a descriptor, for a signal handler: no lock, which the interrupted code may hold.

    Writes nothing if nobody reads the pipe.
    """
    with suppress(OSError):
        if os.name != "posix" or select.select([], [number], [], _SIGNAL_SECONDS)[1]:
            os.write(number, text.encode(sys.stderr.encoding or "utf-8", "backslashreplace"))


class Display:
    """Shows plain lines; base class of the other displays."""

    def __init__(self, secrets: Callable[[], Sequence[str]] = tuple) -> None:
        self._secrets = secrets
        self._total = self._done = 0
        self._what = ""
        self._shown: dict[str, float] = {}

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        """Show an event."""
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
        if now - self._shown.get(key, -_REPEAT_SECONDS) >= _REPEAT_SECONDS:
            self._shown[key] = now
            self.say(f"{reason}; retrying …")

    def advance(self, what: str, done: int, total: int | None) -> None:
        """Show progress."""
        before, self._done = (self._done if what == self._what else 0), done
        self._what = what
        if total is None and what == "sending" and done // _EVERY > before // _EVERY:
            self.say(f"sending: {done / MB:,.0f} MB so far")
        # For small amounts a line would come too late to be useful.
        if total and total > MB and done * _STEPS // total > before * _STEPS // total:
            self.say(f"{what}: {100 * done // total} %")

    def wait(self, what: str) -> None:
        """Show what the command waits for."""
        if what != self._what and what.startswith("merging"):
            self.say(what)
        self._what = what

    def say(self, text: str) -> None:
        """Print a line to standard error."""
        print(self.clean(text), file=sys.stderr, flush=True)

    def clean(self, text: str) -> str:
        """``text`` without secrets."""
        return redact(text, self._secrets())

    def result(self, text: str, facts: dict[str, Any]) -> None:
        """Print the result of a command."""
        del facts
        print(self.clean(text), flush=True)

    def heading(self, text: str) -> None:
        """Print the heading of a table, only on a terminal: programs expect uniform lines."""
        if sys.stdout.isatty():
            self.result(text, {})

    def gaps(self, missing: Sequence[dict[str, int]], batch_size: int | None, total: int) -> None:
        """Print the missing batches of ``total`` records as a table."""
        from rich.console import Console  # noqa: PLC0415 - slow to import, and rarely used
        from rich.table import Table  # noqa: PLC0415

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

    def violations(self, errors: Sequence[dict[str, Any]], number: int) -> None:
        """Print a table of records that do not satisfy a schema; ``number`` is how many exist."""
        from rich.console import Console  # noqa: PLC0415 - slow to import, and rarely used
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        some = "" if number <= len(errors) else f", the first {len(errors)} of {number:,}"
        table = Table(title=f"Records to correct{some}", title_justify="left")
        table.add_column("line", justify="right", no_wrap=True)
        for name in ("where", "what is wrong"):
            table.add_column(name, overflow="fold")
        for error in errors:
            table.add_row(str(error["line"]), Text(error["path"]), Text(error["message"]))
        Console(file=sys.stdout).print(table)

    def failed(self, message: str, facts: dict[str, Any]) -> None:
        """Print why a command failed."""
        del facts
        self.say(f"gapless: {message}")

    def restore(self) -> None:
        """Restore the terminal before the process exits. For signal handlers, as the next."""

    def interrupted(self, message: str, facts: dict[str, Any]) -> None:
        """Print why the process exits."""
        del facts
        write_now(_STANDARD_ERROR, f"gapless: {self.clean(message)}\n")


class Quiet(Display):
    """Shows errors only."""

    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        """Show nothing."""

    def result(self, text: str, facts: dict[str, Any]) -> None:
        """Show nothing."""

    def gaps(self, missing: Sequence[dict[str, int]], batch_size: int | None, total: int) -> None:
        """Show nothing: the error contains the number."""

    def violations(self, errors: Sequence[dict[str, Any]], number: int) -> None:
        """Show nothing: the error contains the number and the first one."""


class Json(Display):
    """Prints one JSON object per line: events, the result, or the error."""

    def heading(self, text: str) -> None:
        """Print nothing."""

    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        """Print an event, except the frequent ones."""
        if event not in {"reading", "download", "stored", "checking"}:
            self._print(event, facts)

    def _as_line(self, event: str, facts: dict[str, Any]) -> str:
        return self.clean(json.dumps({"event": event, **facts}))

    def _print(self, event: str, facts: dict[str, Any]) -> None:
        print(self._as_line(event, facts), flush=True)

    def result(self, text: str, facts: dict[str, Any]) -> None:
        """Print the facts."""
        del text
        self._print("result", facts)

    def gaps(self, missing: Sequence[dict[str, int]], batch_size: int | None, total: int) -> None:
        """Print nothing: the result contains them."""

    def violations(self, errors: Sequence[dict[str, Any]], number: int) -> None:
        """Print nothing: the error contains them."""

    def failed(self, message: str, facts: dict[str, Any]) -> None:
        """Print the error."""
        self._print("error", {"message": message, **facts})

    def interrupted(self, message: str, facts: dict[str, Any]) -> None:
        """Print it as an error."""
        write_now(_STANDARD_OUTPUT, f"{self._as_line('error', {'message': message, **facts})}\n")


def display(
    *, as_json: bool, quiet: bool = False, secrets: Callable[[], Sequence[str]] = tuple
) -> Display:
    """The display for the options and the terminal."""
    if as_json:
        return Json(secrets)
    if quiet:
        return Quiet(secrets)
    if not sys.stderr.isatty():
        return Display(secrets)
    from gapless.bars import Bars  # noqa: PLC0415 - rich is slow to import

    return Bars(secrets)


def _line(event: str, facts: dict[str, Any]) -> str:  # noqa: PLR0911 - one for each event
    match event:
        case "input":
            into = f" into {facts['rejects']}" if facts["rejects"] else ""
            skipped = f", {facts['skipped']:,} left out{into}" if facts["skipped"] else ""
            size = count(facts["bytes"], "byte")
            if facts["bytes"] >= MB:
                size = f"{facts['bytes'] / MB:,.1f} MB"
            blank = f", {count(facts['blank'], 'blank line')}" if facts["blank"] else ""
            records = count(facts["records"], "record")
            return f"input: {facts['file']}, {facts['reading']}, {records}, {size}{skipped}{blank}"
        case "session":
            number = facts["batches"]
            size = facts["batchSize"]
            batches = (
                f", {count(number, 'batch', 'batches')} of {count(size, 'record')}"
                if number
                else ""
            )
            stored = f", {facts['stored']:,} stored already" if facts.get("stored") else ""
            into = ", into ndjson.gz" if facts["mergedFormat"] == "ndjson.gz" else ""
            return f"session: {facts['sessionId']}{batches}{into}{stored}"
        case "warning":
            return f"gapless: {facts['message']}"
        case "check":
            found = "pass" if facts["passed"] else "may " if facts["optional"] else "FAIL"
            return f"{found}  {facts['check']} ({facts['guarantee']})" + (
                f"\n      {facts['detail']}" if facts["detail"] else ""
            )
        case "summary":
            return str(facts["text"])
        case "finish" if facts["validationResult"] != "Success":
            return f"finish: {facts['reason']}. {facts['detail']}"
        case _:
            return ""
