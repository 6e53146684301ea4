"""A video file, played at its own pace as if it were a camera: ``drive.mp4``. The run ends with it.

Its first frame is stamped with the time at which it begins, and each other one as much later as the file says. A frame that
comes while the network is busy gives way to the next, as a camera's does; ``fcn-serve segment`` segments them all.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av

from service.errors import BadSetting
from service.live.frame import LiveFrame
from service.live.options import LiveOptions
from service.live.pictures import Decoder, Inbox, film_of
from service.live.stream_clock import PlayClock

log = logging.getLogger(__name__)


class VideoFile:
    """One file.

    Takes:
        address: its path
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._inbox = Inbox()
        self._stop = threading.Event()
        self._player = threading.Thread(target=self._play, name=f"play {address}", daemon=True)
        self._container: Any = None
        self._played = False

    @property
    def ended(self) -> bool:
        """Whether the last frame was taken."""
        return self._played and not self._inbox.newest.waits

    @property
    def received(self) -> int:
        """Frames that were due."""
        return self._inbox.received

    @property
    def dropped(self) -> int:
        """Frames that a newer one superseded, or that are damaged."""
        return self._inbox.dropped

    def open(self, came: Callable[[], None]) -> None:
        """Open the file and begin to play it.

        Raises:
            BadSetting: if it cannot be read, or is not a video
        """
        self._inbox.came = came
        try:
            with Path(self.address).open("rb"):
                # An absolute path: FFmpeg takes a name with a colon for a protocol.
                self._container = av.open(str(Path(self.address).absolute()), metadata_errors="replace")
            self._stream = film_of(self._container)
        except BadSetting as error:
            raise BadSetting(f"--from {self.address}: {error.message}") from error
        except (av.FFmpegError, OSError, ValueError) as error:
            kind = "not a video that can be read: " if isinstance(error, av.FFmpegError) else ""
            raise BadSetting(f"--from {self.address}: {kind}{getattr(error, 'strerror', None) or error}") from error
        self._player.start()

    def take(self) -> LiveFrame | None:
        """Return the newest frame, once; None if none came since the last call.

        Raises:
            CorruptImage: if it cannot be converted
        """
        picture = self._inbox.newest.take()
        return None if picture is None else picture.frame(self.address)

    def close(self) -> None:
        """End the playing and close the file."""
        self._stop.set()
        if self._player.ident is not None:
            self._player.join()
        if self._container is not None:
            self._container.close()

    def _play(self) -> None:
        packets = self._container.demux(self._stream)
        decoder, first_s, begun_s = None, 0.0, time.monotonic()
        step_s = float(1 / self._stream.average_rate) if self._stream.average_rate else 0.04
        due_s = -step_s
        try:
            for packet in packets:
                if not packet.size:
                    continue
                due_s = float(packet.dts * self._stream.time_base) if packet.dts is not None else due_s + step_s
                if decoder is None:
                    first_s, begun_s = due_s, time.monotonic()
                    decoder = Decoder(self._stream, PlayClock(begun_s, first_s), self._inbox, whole_files=False)
                if self._stop.wait(max(0.0, begun_s + due_s - first_s - time.monotonic())):
                    break
                decoder.put(packet)
        except (av.FFmpegError, OSError, RuntimeError) as error:
            log.warning(
                "%s: damaged after %.1f s: %s", self.address, due_s - first_s, getattr(error, "strerror", None) or error
            )
        finally:
            if decoder is not None:
                decoder.close(drop=self._stop.is_set())
            self._played = True
            self._inbox.came()


def open_source(address: str, options: LiveOptions) -> VideoFile:  # noqa: ARG001 - every kind is made alike
    """Make the source of a video file."""
    return VideoFile(address)
