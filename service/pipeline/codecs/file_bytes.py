"""A file as if its bytes were at hand: slices are read from the disk when they are asked for.

Not a memory map: a file that is cut short while it is mapped ends the process.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self, SupportsIndex

from service.errors import CorruptImage

CHANGED = "the file changed while it was read; run again when it is whole"


class FileBytes:
    """An open file. Thread-safe.

    Takes:
        path: of a regular file
    Raises:
        OSError: if it cannot be opened
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.state = self._state()
        """Changes with the file: size, inode, time of change."""
        self._length = self.state[0]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> bytes:
        """Read some bytes; fewer than asked for where the file ends, as of ``bytes``.

        Raises:
            CorruptImage: if the file is shorter than it was when it was opened
        """
        start, stop, _ = part.indices(self._length)
        pieces = []
        while start < stop:
            piece = os.pread(self._file, stop - start, start)
            if not piece:
                raise CorruptImage(CHANGED)
            pieces.append(piece)
            start += len(piece)
        return b"".join(pieces) if len(pieces) != 1 else pieces[0]

    def startswith(self, prefix: bytes | tuple[bytes, ...], start: SupportsIndex = 0) -> bool:
        """Compare the first bytes, as of ``bytes``."""
        return self[:64].startswith(prefix, start)

    def check_unchanged(self) -> None:
        """Check that the file is still the one that was opened.

        Raises:
            CorruptImage: if it was written to meanwhile
        """
        if self._state() != self.state:
            raise CorruptImage(CHANGED)

    def _state(self) -> tuple[int, int, int]:
        found = os.fstat(self._file)
        return found.st_size, found.st_ino, found.st_mtime_ns

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
