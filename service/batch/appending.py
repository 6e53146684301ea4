"""Lines that are added to a file as a whole, or not at all."""

from __future__ import annotations

import contextlib
import os
from io import FileIO


def append(file: FileIO, line: bytes) -> None:
    """Add a line to a file. A write that fails, as on a full disk, leaves the file as it was.

    Takes:
        file: opened to append without a buffer, which would write the rest of a failed line later
        line: with its end
    Raises:
        OSError: if it cannot be written
    """
    end = os.fstat(file.fileno()).st_size
    rest = memoryview(line)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        with contextlib.suppress(OSError):  # the first error says more
            file.truncate(end)
        raise
