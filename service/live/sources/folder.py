"""A folder of images, in the order of their names, one after the other: each file is a frame, and none is superseded.

For trials without a camera. A stamp is the file's time of modification; the frame id is the file's name.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from service.errors import BadSetting, CorruptImage
from service.live.frame import LiveFrame
from service.live.options import LiveOptions

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


class Folder:
    """The images of one folder."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.received = self.dropped = 0
        self._files: deque[Path] = deque()
        self._came: Callable[[], None] = lambda: None

    def open(self, came: Callable[[], None]) -> None:
        """List the files."""
        try:
            found = [path for path in Path(self.address).iterdir() if path.suffix.lower() in SUFFIXES]
        except OSError as error:
            raise BadSetting(f"--from {self.address}: {error.strerror}") from error
        if not found:
            raise BadSetting(f"--from {self.address}: the folder has no images ({', '.join(SUFFIXES)})")
        self._files.extend(sorted(found))
        self._came = came
        came()

    def take(self) -> LiveFrame | None:
        """Return the next file."""
        if not self._files:
            return None
        path = self._files.popleft()
        self.received += 1
        self._came()
        try:
            data, stamp_ns = path.read_bytes(), path.stat().st_mtime_ns
        except OSError as error:
            raise CorruptImage(f"{path.name}: {error.strerror}") from error
        return LiveFrame(data, stamp_ns, path.name, self.address, time.monotonic())

    @property
    def ended(self) -> bool:
        """Whether every file was taken."""
        return not self._files

    def close(self) -> None:
        """Forget the files that are left."""
        self._files.clear()


def open_source(address: str, options: LiveOptions) -> Folder:  # noqa: ARG001 - every kind is made alike
    """Make the source of a folder."""
    return Folder(address)
