"""What an interrupted run has made of a video or a bag so far: a line of JSON a frame, so that no mask is computed twice.

May import: the standard library.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class Journal:
    """The lines of an unfinished run, and those of this one behind them.

    It lies beside the result, as ``.NAME.<digest>.part``. The digest is of all that the lines depend on, so that those of
    another network, of other options or of a file that has changed are never taken for this run's; they are thrown away.

    Takes:
        target: what the lines are for; the journal has a name of its own
        source: the file or the folder that is worked on
        run: what else the lines depend on, for JSON
        anew: whether lines of this very run are thrown away too
    """

    def __init__(self, target: Path, source: Path, run: Mapping[str, Any], *, anew: bool) -> None:
        depends_on = json.dumps([sorted(_files(source)), run], sort_keys=True)
        self.path = target.with_name(f".{target.name}.{hashlib.sha256(depends_on.encode()).hexdigest()[:16]}.part")
        for other in _journals(target):
            if anew or other != self.path:
                other.unlink()
        self._added = self.path.open("ab")
        self._known = self.path.open("rb")
        self._at_end = False

    def known(self, about: Mapping[str, Any]) -> dict[str, Any] | None:
        """The line of the next frame. At the first that is torn, or of another frame, it and all that follow are cut off.

        Takes:
            about: what its line must say of the frame
        """
        if self._at_end:
            return None
        line = self._known.readline()
        try:
            document: dict[str, Any] = json.loads(line)
            if line.endswith(b"\n") and {name: document[name] for name in about} == about:
                return document
        except (ValueError, LookupError, TypeError):
            pass
        self._at_end = True
        os.truncate(self.path, self._known.tell() - len(line))
        return None

    def add(self, line: bytes) -> None:
        """Write the line of a frame that was not known."""
        self._added.write(line + b"\n")
        self._added.flush()

    def finish(self, target: Path | None) -> None:
        """All is written: let the journal become the result, or vanish."""
        self._added.close()
        if target is None:
            self.path.unlink()
        else:
            self.path.replace(target)

    def close(self) -> None:
        """Leave it for the next run; one without a line is of no use to it."""
        self._known.close()
        self._added.close()
        if self.path.exists() and not self.path.stat().st_size:
            self.path.unlink()


def _journals(target: Path) -> list[Path]:
    before, after = f".{target.name}.", ".part"
    return [
        path
        for path in target.parent.iterdir()
        if path.name.startswith(before) and path.name.endswith(after) and len(path.name) == len(before) + 16 + len(after)
    ]


def _files(source: Path) -> Iterator[tuple[str, int, int]]:
    for path in source.rglob("*") if source.is_dir() else (source,):
        if path.is_file():
            found = path.stat()
            yield path.name, found.st_size, found.st_mtime_ns
