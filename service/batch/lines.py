"""One file with a line of JSON for each image: ``masks.jsonl``."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from service.batch.appending import append
from service.batch.targets import spoken, unfinished


class Lines:
    """The one file with a line of JSON for each image.

    Lines are only ever added, each as a whole, so that an interrupted run loses none, of its own or of earlier ones. Of an
    image that has several the last one counts. When the file is closed, those before it are removed, and the lines of this run
    are put in the order of their ranks.

    Takes:
        path: of the file
    """

    def __init__(self, path: Path) -> None:
        self._path, self._end = path, 0
        self._begins: dict[str, int] = {}
        """By the image: where its line begins."""
        self._superseded: set[int] = set()
        self._ranks: dict[int, int] = {}
        """By where a line of this run begins."""
        self._file = path.open("ab", buffering=0)
        with path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                self._note(line)
        self._file.truncate(self._end)

    def has(self, source: Path) -> bool:
        """Say whether an image's line is here."""
        return spoken(source) in self._begins

    def add(self, line: bytes, rank: int = 0) -> None:
        """Write a line.

        Takes:
            rank: its place among the lines of this run; equal ranks keep their order
        Raises:
            OSError: if it cannot be written; nothing of it is left then
        """
        append(self._file, line + b"\n")
        self._ranks[self._end] = rank
        self._note(line + b"\n")

    def _note(self, line: bytes) -> None:
        """Remember which image the next line belongs to."""
        with contextlib.suppress(ValueError, LookupError, TypeError):  # other lines are left alone
            document: dict[str, Any] = json.loads(line)
            file = str(document["file"])
            if file in self._begins:
                self._superseded.add(self._begins[file])
            self._begins[file] = self._end
        self._end += len(line)

    def close(self) -> None:
        """Leave one line an image, in order."""
        if self._file.closed:
            return
        self._file.close()
        if not self._end:
            self._path.unlink(missing_ok=True)
        begins = [*self._ranks]
        ordered = sorted(begins, key=self._ranks.__getitem__)
        if not self._superseded and ordered == begins:
            return
        part = unfinished(self._path)
        with self._path.open("rb") as lines, part.open("wb") as kept:
            before = begins[0] if begins else self._end  # lines of earlier runs keep their places
            begin = 0
            while begin < before:
                line = lines.readline()
                if begin not in self._superseded:
                    kept.write(line)
                begin += len(line)
            for begin in ordered:
                if begin not in self._superseded:
                    lines.seek(begin)
                    kept.write(lines.readline())
        part.replace(self._path)
