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
        self._source = ""
        self._frames = 0

    def begin(self, source: str, total: int | None) -> None:
        """Start with a source.

        Takes:
            source: its name
            total: how many frames it has, as far as known
        """
        self._progress.remove_task(self._task)
        self._source, self._frames = escape(source), 0
        self._task = self._progress.add_task(self._source, total=total)

    def part(self, done: int, total: int) -> None:
        """Show how many slices or blocks of the scan under way are done; each is its share of a frame."""
        described = f"{self._source}, part {done} of {total}"
        self._progress.update(self._task, completed=self._frames + done / total, description=described)

    def advance(self) -> None:
        """Count one more frame."""
        self._frames += 1
        self._progress.update(self._task, completed=self._frames, description=self._source)


@contextlib.contextmanager
def progress() -> Iterator[Bar]:
    """Show a progress bar on the standard error, where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as drawn:
        yield Bar(drawn)
