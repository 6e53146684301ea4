"""A progress bar on the standard error, where that is a terminal.

May import: rich.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Speed(ProgressColumn):
    """Frames a second."""

    def render(self, task: Task) -> Text:
        """Nothing until there is something to say."""
        return Text(f"{task.speed:.1f} frames/s" if task.speed else "")


class Bar:
    """A progress bar that somebody may look at."""

    def __init__(self, progress: Progress, total: int | None) -> None:
        self._progress, self._task = progress, progress.add_task("segment", total=total)

    def advance(self) -> None:
        """One more is done."""
        self._progress.advance(self._task)

    def expect(self, total: int | None) -> None:
        """How many there will be, as far as known."""
        self._progress.update(self._task, total=total)


@contextlib.contextmanager
def progress(total: int | None) -> Iterator[Bar]:
    """A progress bar on the standard error, where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("segment"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as drawn:
        yield Bar(drawn, total)
