"""What an interrupted run has made of a video or a bag so far: a line of JSON a frame, so that no mask is computed twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.batch.records import state_of


class Journal:
    """The lines of an unfinished run, and those of this one behind them.

    It lies beside the result, as ``.NAME.<digest>.part``. The digest covers everything that the lines depend on. Lines of
    another network, of other options or of a file that has changed are therefore never used; they are deleted.

    Takes:
        target: what the lines are for; the journal has a name of its own
        source: the file or the folder that is worked on
        run: what else the lines depend on, for JSON
        afresh: whether lines of this very run are deleted too
    """

    def __init__(self, target: Path, source: Path, run: Mapping[str, Any], *, afresh: bool) -> None:
        depends_on = json.dumps([str(source.resolve()), state_of(source), run], sort_keys=True)
        digest = hashlib.sha256(depends_on.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self.path = target.with_name(f".{target.name}.{digest}.part")
        for other in _journals(target):
            if afresh or other != self.path:
                other.unlink()
        self._added = self.path.open("ab")
        self._known = self.path.open("rb")
        self._at_end = False

    def known(self, about: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the line of the next frame. The first torn line, or one of another frame, is cut off with all that follow.

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
        """Turn the journal into the result, or delete it, when everything is written."""
        self._added.close()
        if target is None:
            self.path.unlink()
        else:
            self.path.replace(target)

    def close(self) -> None:
        """Leave it for the next run; one without a line is deleted."""
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
