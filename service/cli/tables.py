"""Tables on the standard output, and what is broken on the standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import typer
from rich.console import Console
from rich.table import Table

_PIPE_WIDTH = 1000
"""A pipe has no width: nothing is folded for it."""


def table(*columns: str) -> Table:
    """A table without rows."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def show(table: Table) -> None:
    """Print it."""
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)


def list_broken(reasons: Iterable[str]) -> None:
    """Say why each of these is not served."""
    for reason in reasons:
        typer.echo(f"broken: {reason}", err=True)
