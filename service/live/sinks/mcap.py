"""A recording: ``out.mcap`` holds the channels that Foxglove's window shows, compressed with zstd.

The end of an MCAP file holds its index. Space for it is reserved ahead of what is written, so that a disk that fills up leaves
a whole file too.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
from pathlib import Path

import foxglove
from foxglove.mcap import MCAPWriteOptions

from service.errors import BadSetting
from service.live.channels import Channels, facts_of
from service.live.frame import LiveFrame
from service.live.options import LiveOptions
from service.live.outbox import Mask, Outbox
from service.live.session import LiveResult, LiveSession

DEPTH = 8
"""Masks of each source that may wait for the disk."""
RESERVE = 16 * 2**20
"""Bytes that are kept free for the chunk in work and the index."""
_INDEX_SHARE = 1000
"""The index is smaller than the file by more than this factor."""
_KEEP_SIZE = 1
"""FALLOC_FL_KEEP_SIZE of Linux: reserve, and leave the file as long as it is."""

_fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)

log = logging.getLogger(__name__)


class ReservedFile:
    """A new file, whose disk space is reserved ahead. What ``foxglove.open_mcap`` needs of a file.

    Takes:
        path: must not exist
        reserve: bytes kept free ahead of the end
    Raises:
        OSError: if it exists, or cannot be created
    """

    def __init__(self, path: Path, reserve: int = RESERVE) -> None:
        self.failure: OSError | None = None
        """The error of a write or of a reservation. The SDK only logs it."""
        self._file = path.open("xb", buffering=0)
        self._reserve, self._reserved, self._end = reserve, 0, 0
        self._extend()

    def write(self, data: bytes | bytearray) -> int:
        """Write all of it."""
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.failure = self.failure or error
            raise
        self._end = max(self._end, self._file.tell())
        self._extend()
        return len(data)

    def seek(self, position: int, whence: int = 0) -> int:
        """Move to a position."""
        return self._file.seek(position, whence)

    def flush(self) -> None:
        """Do nothing: every write goes to the operating system at once."""

    def close(self) -> None:
        """Give back what was reserved and not needed."""
        self._file.truncate(self._end)
        self._file.close()

    def _extend(self) -> None:
        """Reserve further; a file system that cannot is written to as it is."""
        needed = self._end + self._reserve + self._end // _INDEX_SHARE
        if needed - self._reserve // 4 < self._reserved or self.failure is not None or _fallocate is None:
            return
        amount = ctypes.c_int64(needed - self._reserved)
        if _fallocate(self._file.fileno(), _KEEP_SIZE, ctypes.c_int64(self._reserved), amount) == 0:
            self._reserved = needed
            return
        number = ctypes.get_errno()
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            self.failure = OSError(number, os.strerror(number))


class Recording:
    """One MCAP file.

    Takes:
        address: its path
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._path = Path(address)
        self._file: ReservedFile | None = None
        self._writer: foxglove.MCAPWriter | None = None
        self._outbox: Outbox | None = None
        self._masks = 0
        self._told = False
        """Whether the run knows that the disk is full."""

    def start(self, session: LiveSession) -> None:
        """Create the file.

        Raises:
            BadSetting: if it is there already, or cannot be created
        """
        try:
            self._file = ReservedFile(self._path)
        except FileExistsError as error:
            raise BadSetting(f"--to {self.address}: the file is there already; name another, or delete it") from error
        except OSError as error:
            raise BadSetting(f"--to {self.address}: {error.strerror}") from error
        self._stop_if_failed()
        logging.getLogger("foxglove").setLevel(logging.CRITICAL)  # the errors of writing are told here
        context = foxglove.Context()
        options = MCAPWriteOptions(profile="", compression_threads=0)
        self._writer = foxglove.open_mcap(self._file, context=context, writer_options=options)
        self._writer.write_metadata("fcn-serve", facts_of(session))
        self._channels = Channels(context, session)
        self._outbox = Outbox(self._write, DEPTH, self.address)

    def send(self, frame: LiveFrame, result: LiveResult) -> None:
        """Record a mask; if the disk is too slow, the oldest that waits is left out.

        Raises:
            BadSetting: if the disk is full
        """
        if self._outbox is not None:
            self._told = self._outbox.failure is not None
            self._outbox.put(frame, result)

    def close(self) -> None:
        """Write the index. A recording without a mask is deleted.

        Raises:
            BadSetting: if the disk was full and :meth:`send` has not said so
        """
        if self._outbox is not None:
            self._outbox.close()
        if self._writer is not None:
            with contextlib.suppress(RuntimeError):  # after a failed write
                self._writer.close()
        if self._file is not None:
            self._file.close()
            if not self._masks:
                self._path.unlink(missing_ok=True)
        if self._outbox is not None and self._masks:
            left_out = f", {self._outbox.dropped} left out" if self._outbox.dropped else ""
            log.info("%s: %d masks%s", self.address, self._masks, left_out)
        if not self._told:
            self._stop_if_failed()

    def _write(self, mask: Mask) -> None:
        self._channels.log(mask)
        self._masks += 1
        self._stop_if_failed()

    def _stop_if_failed(self) -> None:
        if self._file is not None and self._file.failure is not None:
            kept = f"; the {self._masks} masks until then are whole" if self._masks else ""
            raise BadSetting(f"--to {self.address}: {self._file.failure.strerror}{kept}")


def open_sink(address: str, options: LiveOptions) -> Recording:  # noqa: ARG001 - every kind is made alike
    """Make the sink of a recording."""
    return Recording(address)
