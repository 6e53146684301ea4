"""Captures on disk: a folder each, whole or not there, the oldest removed where space runs out.

A capture's folder is named after its time and its image, so that names sort by age::

    20261130T104512.123456Z-1f0c2a9b/
        image.jpg           the bytes that were sent
        labelstudio.json    a task with its prediction, for Label Studio
        cvat.json           an image with its shapes, for CVAT
        capture.json        time, reason, mean confidence, size, model

It is written under a hidden name, flushed to the disk, and renamed. Hidden folders of a process that died are removed at start.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import BadSetting

FACTS = "capture.json"
_PARTIAL = ".partial-"


@dataclass(frozen=True)
class Entry:
    """One capture."""

    folder: Path
    size_bytes: int
    """Of all its files."""

    @property
    def name(self) -> str:
        """The folder's name: time and image."""
        return self.folder.name

    def facts(self) -> dict[str, Any]:
        """Read what is told of it.

        Raises:
            OSError, ValueError: if its file cannot be read
        """
        found: dict[str, Any] = json.loads((self.folder / FACTS).read_bytes())
        return found

    def image(self) -> Path:
        """Return the image's file.

        Raises:
            ValueError: if there is none
        """
        found = next(iter(sorted(self.folder.glob("image.*"))), None)
        if found is None:
            raise ValueError(f"{self.folder} has no image")
        return found


def entries(folder: Path) -> list[Entry]:
    """List the captures of a folder, the oldest first.

    Raises:
        OSError: if the folder cannot be read
    """
    found = []
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(".") and (path / FACTS).is_file():
            with contextlib.suppress(FileNotFoundError):  # removed since by the server that writes here
                found.append(Entry(path, _size(path)))
    return found


class Store:
    """The captures of one folder, bounded in bytes. Used by one thread.

    Takes:
        folder: made if it is not there
        max_bytes: of all captures together; the oldest ones are removed for a new one
    Raises:
        BadSetting: if the folder cannot be made or written
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob(f"{_PARTIAL}*"):
                shutil.rmtree(left)
            probe = folder / f"{_PARTIAL}{os.getpid()}"
            probe.mkdir()
            probe.rmdir()
            self._kept = entries(folder)
        except OSError as error:
            raise BadSetting(f"FCN_CAPTURE_DIR: cannot write into {folder}: {error.strerror}") from error
        self.bytes = sum(entry.size_bytes for entry in self._kept)
        """Of all captures now."""

    def add(self, name: str, files: dict[str, bytes]) -> int:
        """Write a capture.

        Takes:
            name: of its folder; names sort by age
            files: content by file name
        Gives:
            how many older ones were removed for it
        Raises:
            OSError: if it cannot be written, or an older one cannot be removed for it; nothing of it is left then
            ValueError: if it is larger than the bound by itself
        """
        needed = sum(map(len, files.values()))
        if needed > self._max_bytes:
            raise ValueError(f"a capture of {needed} bytes exceeds FCN_CAPTURE_MAX_MB by itself")
        removed = self._evict_for(needed)
        partial = self._folder / f"{_PARTIAL}{name}"
        try:
            partial.mkdir()
            for file, content in files.items():
                with (partial / file).open("wb") as sink:
                    sink.write(content)
                    sink.flush()
                    os.fsync(sink.fileno())
            partial.rename(self._folder / name)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self._kept.append(Entry(self._folder / name, needed))
        self.bytes += needed
        return removed

    def _evict_for(self, needed: int) -> int:
        removed = 0
        while self._kept and self.bytes + needed > self._max_bytes:
            oldest = self._kept[0]
            # First out of sight: a reader never finds half of it.
            hidden = self._folder / f"{_PARTIAL}{oldest.name}"
            with contextlib.suppress(FileNotFoundError):  # an operator has removed it
                oldest.folder.rename(hidden)
                shutil.rmtree(hidden, ignore_errors=True)
                removed += 1
            del self._kept[0]
            self.bytes -= oldest.size_bytes
        return removed


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
