"""Which reader a file of a recording gets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from service.batch.recordings import Recording, plain_name
from service.batch.recordings.mcap import McapRecording
from service.batch.recordings.ros1 import Ros1Recording
from service.batch.recordings.sqlite import SqliteRecording


def open_recording(path: Path) -> Recording:
    """Open one file, by its name.

    Raises:
        BadSetting: if the extra ``bags`` is not installed
        UnsupportedImage: if it is not what its name says
        OSError: if it cannot be read
    """
    readers: dict[str, Callable[[Path], Recording]] = {".mcap": McapRecording, ".db3": SqliteRecording, ".bag": Ros1Recording}
    return readers[Path(plain_name(path)).suffix.lower()](path)
