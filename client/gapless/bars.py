"""The progress bar on a terminal. Imports rich, which is slow: import it only for a terminal."""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from gapless.display import MB, Display, write_now

if TYPE_CHECKING:
    from typing_extensions import Self

_LOCK_SECONDS: Final = 1.0
"""How long the exit waits for the thread that draws."""


class _Facts(ProgressColumn):
    """Amount, rate and time left if they are known; otherwise the elapsed time."""

    def render(self, task: Task) -> Text:
        if task.total is None and task.completed:
            text = f"{task.completed / MB:,.1f} MB"
            return Text(text + (f", {task.speed / MB:,.1f} MB/s" if task.speed else ""))
        if task.total is None:
            return Text(f"{task.elapsed or 0:.0f} s", style="progress.elapsed")
        text = f"{task.completed / MB:,.1f} of {task.total / MB:,.1f} MB"
        if task.speed:
            text += f", {task.speed / MB:,.1f} MB/s"
        if task.time_remaining is not None:
            minutes, seconds = divmod(int(task.time_remaining), 60)
            text += f", {minutes}:{seconds:02} left"
        return Text(text, style="progress.download")


class Bars(Display):
    """Shows a progress bar on a terminal."""

    def __init__(self, secrets: Callable[[], Sequence[str]] = tuple) -> None:
        super().__init__(secrets)
        # While the bar is shown, rich's sys.stdout wraps lines at the width of the terminal.
        self._stdout = sys.stdout
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

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def advance(self, what: str, done: int, total: int | None) -> None:
        """Move the bar of ``what``."""
        self._done = done
        self._bars.update(self._bar(what, total), completed=done, total=total)

    def wait(self, what: str) -> None:
        """Show a bar without an amount."""
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
        """Print the result after removing the bar."""
        del facts
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
        self._bars.refresh()
        print(self.clean(text), file=self._stdout, flush=True)

    def restore(self) -> None:
        """Remove the bar, and show the cursor."""
        # The thread that draws may hold this lock, and wait for one of the interrupted code.
        with suppress(Exception):
            if self._bars.live._lock.acquire(timeout=_LOCK_SECONDS):  # noqa: SLF001 - no other way
                self._bars.stop()
        write_now(2, "\r\x1b[K\x1b[?25h")
