"""``fcn-serve`` and ``python -m service``: runs the command line, or names the extra that it lacks.

The base installation is the client and the encodings: httpx and numpy, no typer. There ``--help`` and ``--version`` print plain
text, and every command ends with one line and exit code 2.
"""

from __future__ import annotations

import sys

from service import __version__
from service.extras import extra_of, needs

MISUSED = 2

HELP = f"""\
Usage: fcn-serve COMMAND ...

This installation holds the client (service.client) and the encodings (service.encodings).
The commands serve, segment, live, models, check and captures are not installed.
{needs("They need", "serve")}

  --version  Show the version and exit.
  --help     Show this message and exit.
"""
"""Printed where the commands cannot be listed because their packages are absent."""


def main() -> None:
    """Run the command line and end the process with its exit code."""
    try:
        from service import cli  # noqa: PLC0415 - typer may be absent

        cli.main()
    except ModuleNotFoundError as error:
        extra = extra_of(error.name)
        if extra is None:
            raise
        _without(extra, sys.argv[1:])


def _without(extra: str, words: list[str]) -> None:
    if extra == "serve" and words == ["--version"]:
        sys.stdout.write(f"fcn-serve {__version__}\n")
    elif extra == "serve" and words in ([], ["--help"]):
        sys.stdout.write(HELP)
    else:
        command = next((word for word in words if not word.startswith("-")), "this command")
        sys.stderr.write(f"fcn-serve: {needs(f'{command} needs', extra)}\n")
        sys.exit(MISUSED)


if __name__ == "__main__":
    main()
