"""A progress bar on the standard error, where that is a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Speed(ProgressColumn):
    """Frames a second."""

    def render(self, task: Task) -> Text:
        """Show the speed once it is known."""
        return Text(f"{task.speed:.1f} frames/s" if task.speed else "")


class Bar:
    """One progress bar for a whole run; each source begins it again."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._task = progress, progress.add_task("segment", total=None)

    def begin(self, source: str, total: int | None) -> None:
        """Start with a source.

        Takes:
            source: its name
            total: how many frames it has, as far as known
        """
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(escape(source), total=total)

    def advance(self) -> None:
        """Count one more frame."""
        self._progress.advance(self._task)


@contextlib.contextmanager
def progress() -> Iterator[Bar]:
    """Show a progress bar on the standard error, where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as drawn:
        yield Bar(drawn)
