"""A stream's own time as wall time.

A camera numbers its frames on a clock of its own: RTP's 90 kHz, the time within a file. The receiver knows only when they came,
each late by its own delay. A delay is never negative, so the least difference between arrival and stream time, over the last
seconds, is that of a frame that was hardly delayed (the minimum filter of NTP: RFC 5905, section 10). That difference, added to
the stream time of each frame, gives its stamp:

- two stamps lie as far apart as the camera said, however unevenly the frames came;
- a stamp is never later than the frame's arrival;
- it is later than the capture by the constant part of the delay: exposure, the camera's encoder, the network at its best.

A camera can tell its own wall time too (RTCP sender reports). It is not used: nothing tells how far that clock is off.
"""

from __future__ import annotations

import time
from typing import Protocol

WINDOW_S = 10.0
"""How long a least difference counts: long enough to meet an undelayed frame, short enough to follow a drift."""
_JUMP_S = 1.0
"""A stream time that goes back further has begun again; frames that are sent out of order go back by less."""
_OLDEST_S = 10.0
"""A driver's time further in the past is taken for wrong."""


class Clock(Protocol):
    """Gives frames their stamps. Not thread-safe."""

    def stamp_ns(self, stream_s: float | None, came_s: float) -> int:
        """Return the wall time of a frame, in nanoseconds since 1970.

        Takes:
            stream_s: seconds on the stream's own clock; None if it has none: the stamp is then the arrival
            came_s: ``time.monotonic()`` at its arrival
        """
        ...


class StreamClock:
    """Stamps of one connection to a camera, whose clock began at any time."""

    def __init__(self) -> None:
        self._least_s: tuple[float, float] | None = None
        """The least difference in the current window, and in the one before."""
        self._window_began_s = 0.0
        self._last_s = float("-inf")
        self._last_ns = 0

    def stamp_ns(self, stream_s: float | None, came_s: float) -> int:
        """Return the wall time of a frame; later than that of the frame before, if both were sent in order."""
        moment_s = came_s if stream_s is None else stream_s + self._difference_s(stream_s, came_s)
        stamp = wall_ns(moment_s)
        if stream_s is not None and stream_s > self._last_s and 0 <= self._last_ns - stamp < _JUMP_S * 1e9:
            stamp = self._last_ns + 1  # the least difference fell by more than the time between the frames
        self._last_s, self._last_ns = stream_s if stream_s is not None else self._last_s, stamp
        return stamp

    def _difference_s(self, stream_s: float, came_s: float) -> float:
        difference = came_s - stream_s
        if self._least_s is None or stream_s < self._last_s - _JUMP_S:
            self._least_s, self._window_began_s = (difference, difference), came_s
        least, before = self._least_s
        if came_s > self._window_began_s + WINDOW_S:
            least, before, self._window_began_s = difference, least, came_s
        self._least_s = min(least, difference), before
        return min(self._least_s)


class DriverClock:
    """Stamps of a device whose driver notes the wall time of each capture."""

    def stamp_ns(self, stream_s: float | None, came_s: float) -> int:
        """Return the driver's time; the arrival where that is in the future or long past."""
        arrived_ns = wall_ns(came_s)
        if stream_s is None:
            return arrived_ns
        stamp = round(stream_s * 1e9)
        return stamp if 0 <= arrived_ns - stamp < _OLDEST_S * 1e9 else arrived_ns


class PlayClock:
    """Stamps of a file that is played: its first frame is taken when it begins, each other one at its own distance.

    Takes:
        begun_s: ``time.monotonic()`` when it begins
        first_s: the time of its first packet, in seconds
    """

    def __init__(self, begun_s: float, first_s: float) -> None:
        self._begun_ns, self._first_s = wall_ns(begun_s), first_s

    def stamp_ns(self, stream_s: float | None, came_s: float) -> int:
        """Return when the frame is due."""
        return wall_ns(came_s) if stream_s is None else self._begun_ns + round((stream_s - self._first_s) * 1e9)


def wall_ns(moment_s: float) -> int:
    """Return the wall time of a moment of ``time.monotonic()``, in nanoseconds since 1970."""
    return time.time_ns() + round((moment_s - time.monotonic()) * 1e9)
