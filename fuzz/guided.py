"""One target under atheris, in a process of its own: libFuzzer ends it. ``python -m fuzz.guided TARGET CORPUS [FLAG...]``."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["service", "python_multipart", "PIL"]):
    from fuzz.targets import TARGETS


def main() -> None:
    """Write the seeds and search for new inputs; the exit code is 0 if none broke the target."""
    name, corpus, *flags = sys.argv[1:]
    target = TARGETS[name]
    for number, seed in enumerate(target.seeds()):
        (Path(corpus) / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], corpus, *flags], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
