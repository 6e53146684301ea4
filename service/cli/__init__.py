"""``fcn-serve serve | segment | live | models | check | captures | cluster``: a file a command,
imported when it runs.

Exit codes: 0 all went well; 1 a file or an artifact failed; 2 the command line or a setting cannot be used (a port that is
taken, a folder that is not there, a folder that another run writes into); 130 Ctrl-C in ``segment``; 130 or 143 a second Ctrl-C
or SIGTERM in ``serve``. Each error is one line on the standard error, never a trace. ``--install-completion`` teaches the shell
the commands, their options and the values of these.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from service import __version__, log, process
from service.errors import BadSetting, ServiceError

FAILED, MISUSED, INTERRUPTED = 1, 2, 130

COMMANDS = ("serve", "segment", "live", "models", "check", "captures", "cluster")
"""Each is the function of its name in the file of its name, or the group of commands of that name."""

# Where ``serve`` has not set up the log, the commands themselves say what matters.
logging.getLogger("service").addHandler(logging.NullHandler())


class _Commands(TyperGroup):
    """Imports a command when it is asked for: a server starts without what only ``segment`` needs."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - as typer calls it
        """Return their names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, or None; then all of them are imported, so that typer can suggest one."""
        for name in (cmd_name,) if cmd_name in COMMANDS else COMMANDS:
            if name not in self.commands:
                self.add_command(_imported(name), name)
        return super().get_command(ctx, cmd_name)


def _imported(name: str) -> Any:
    module = importlib.import_module(f"{__name__}.{name}")
    command = getattr(module, name)
    if isinstance(command, typer.Typer):
        return typer.main.get_command(command)
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    single.command(name, cls=getattr(module, "Command", None))(command)
    return typer.main.get_command(single)


app = typer.Typer(
    name="fcn-serve",
    cls=_Commands,
    help="Semantic segmentation with fully convolutional networks, as a service.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"fcn-serve {__version__}")
        raise typer.Exit


@app.callback()
def _commands(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Typer takes an application without commands of its own for a group only if there is something before them."""


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    process.configure_process()
    # A shell has SIGINT ignored in what it starts in the background; `kill -INT` must end that in order too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app()
    except ServiceError as error:
        log.flush()
        typer.echo(f"fcn-serve: {error.message}", err=True)
        sys.exit(MISUSED if isinstance(error, BadSetting) else FAILED)
    except OSError as error:  # the standard output's disk is full, say
        typer.echo(f"fcn-serve: {error.strerror or error}", err=True)
        os._exit(FAILED)  # a buffer that cannot be written would be tried once more, with a trace
