"""Packets of a stream to pictures: the newest waits for the loop, and an older one gives way.

The decoder has a thread of its own for each connection, so that neither the reader of the packets nor the loop waits for it. A
Motion JPEG needs none: its packets are image files, and only those that are segmented are decoded, by the network's side.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from service.errors import BadSetting, CorruptImage
from service.live.backlog import Backlog
from service.live.frame import LiveFrame
from service.live.newest import Newest
from service.live.stream_clock import Clock

_REMEMBERED = 256
"""Packets whose arrival is remembered until their picture is decoded."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture that waits."""

    content: Any
    """An ``av.VideoFrame``, or the bytes of a JPEG."""
    stamp_ns: int
    came_s: float

    def frame(self, address: str) -> LiveFrame:
        """Convert it for the network.

        Raises:
            CorruptImage: if its pixels cannot be converted
        """
        return LiveFrame(_pixels(self.content), self.stamp_ns, "", address, self.came_s)


class Inbox:
    """The newest picture of a source, and what is counted of it, over all its connections."""

    def __init__(self) -> None:
        self.newest: Newest[Picture] = Newest()
        self.received = 0
        """Packets that came; a packet holds a frame."""
        self.skipped = 0
        """Frames that no decoder saw; counted by the reader alone."""
        self.damaged = 0
        """Frames that could not be decoded; counted by the decoder alone."""
        self.came: Callable[[], None] = lambda: None
        """Wakes the loop."""

    @property
    def dropped(self) -> int:
        """Frames without a mask, so far."""
        return self.skipped + self.damaged + self.newest.superseded

    def put(self, picture: Picture) -> None:
        """Add a picture and wake the loop."""
        self.newest.put(picture)
        self.came()


class Decoder:
    """Turns the packets of one connection into pictures, on a thread of its own.

    Takes:
        stream: an ``av.VideoStream``, from :func:`film_of`
        clock: gives the stamps; None stands for the arrival
        inbox: where the pictures go
        timed: whether the packets carry a time of their own
        whole_files: whether the packets of a Motion JPEG are handed on as they are
    """

    def __init__(self, stream: Any, clock: Clock, inbox: Inbox, *, timed: bool = True, whole_files: bool = True) -> None:
        self._clock, self._inbox, self._timed = clock, inbox, timed
        self._context, self._time_base = stream.codec_context, stream.time_base
        self._came_s: dict[int | None, float] = {}
        self._backlog = Backlog(independent=self._context.codec.intra_only)
        self._failure: Exception | None = None
        """What ended the thread before its time."""
        self._thread: threading.Thread | None = None
        if not (whole_files and self._context.name == "mjpeg"):
            self._context.thread_type = "SLICE"  # threads by frames would hold frames back
            self._thread = threading.Thread(target=self._run, name="decode", daemon=True)
            self._thread.start()

    def put(self, packet: Any) -> None:
        """Take a packet that has just come.

        Raises:
            RuntimeError: if the decoder's thread has failed; the connection is of no use then
        """
        if self._failure is not None:
            failure = self._failure
            raise RuntimeError(f"the decoder failed: {type(failure).__name__}: {failure}") from failure
        came_s = time.monotonic()
        self._inbox.received += 1
        if self._thread is None:
            self._inbox.put(Picture(bytes(packet), self._stamp_ns(packet.pts, came_s), came_s))
            return
        before = self._backlog.dropped
        self._backlog.put(packet, came_s, is_key=packet.is_keyframe)
        self._inbox.skipped += self._backlog.dropped - before

    def close(self, *, drop: bool) -> None:
        """Decode what waits, unless it is to be dropped, and end the thread."""
        self._backlog.close(drop=drop)
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._follow()
        except Exception as error:  # noqa: BLE001 - the reader raises it
            self._failure = error

    def _follow(self) -> None:
        while (entry := self._backlog.get()) is not None:
            if entry.after_gap:
                self._context.flush_buffers()
            self._remember(entry.packet.pts, entry.came_s)
            self._decode(entry.packet, entry.came_s)
        self._decode(None, time.monotonic())

    def _decode(self, packet: Any, came_s: float) -> None:
        try:
            pictures = self._context.decode(packet)
        except (av.FFmpegError, EOFError):
            self._inbox.damaged += packet is not None
            return
        for picture in pictures:
            if picture.is_corrupt:  # made up of what is missing
                self._inbox.damaged += 1
                continue
            arrived_s = self._came_s.get(picture.pts, came_s)
            self._inbox.put(Picture(picture, self._stamp_ns(picture.pts, arrived_s), arrived_s))

    def _remember(self, pts: int | None, came_s: float) -> None:
        while len(self._came_s) >= _REMEMBERED:
            del self._came_s[next(iter(self._came_s))]
        self._came_s[pts] = came_s

    def _stamp_ns(self, pts: int | None, came_s: float) -> int:
        return self._clock.stamp_ns(float(pts * self._time_base) if self._timed and pts is not None else None, came_s)


def film_of(container: Any) -> Any:
    """Return the video stream with the most pixels; attached pictures are none.

    Raises:
        BadSetting: if there is none, or FFmpeg has no decoder for it
    """
    films = [stream for stream in container.streams.video if "attached_pic" not in str(stream.disposition)]
    if not films:
        raise BadSetting("there is no video in it, only " + (", ".join(each.type for each in container.streams) or "silence"))
    known = [stream for stream in films if stream.codec_context is not None]
    if not known:
        raise BadSetting("its codec has no decoder here; have the camera send H.264, H.265 or Motion JPEG")
    return max(known, key=lambda stream: stream.width * stream.height)


def _pixels(content: Any) -> NDArray[np.uint8] | bytes:
    if isinstance(content, bytes):
        return content
    try:
        image = content.to_ndarray(format="rgb24")
    except (av.FFmpegError, ValueError) as error:
        raise CorruptImage(f"a picture of {content.format.name} cannot be converted: {error}") from error
    return np.ascontiguousarray(np.rot90(image, round(content.rotation / 90) % 4))
