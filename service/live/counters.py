"""What is counted of a source."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from dataclasses import dataclass

WINDOW_S = 5.0
"""The rate is that of the last seconds, this many."""
_AGES = 1000
"""So many of the last ages make median and 99th percentile."""


@dataclass(frozen=True)
class Snapshot:
    """The counters of one moment."""

    received: int
    masks: int
    dropped: int
    """Superseded by a newer frame, or lost on their way."""
    failed: int
    """Frames that could not be read or segmented."""
    rate_hz: float
    """Masks a second, over the last :data:`WINDOW_S` seconds."""
    age_ms: float | None
    """Of the newest mask's frame, now: the time since the frame came. None before the first."""
    latency_ms: float | None
    """Median time from a frame's arrival to its mask at every sink; None before the first."""
    latency_p99_ms: float | None
    """99th percentile of the same."""


class Counters:
    """The counters of one source. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._received = self._dropped = self._masks = self._failed = 0
        self._ages: deque[float] = deque(maxlen=_AGES)
        self._sent: deque[float] = deque()
        self._newest_came_s: float | None = None

    def arrivals(self, received: int, dropped: int) -> None:
        """Take over what the source counted so far."""
        with self._lock:
            self._received, self._dropped = received, dropped

    def failure(self) -> None:
        """Count a frame that has no mask because it failed."""
        with self._lock:
            self._failed += 1

    def mask(self, came_s: float) -> None:
        """Count a mask that was sent.

        Takes:
            came_s: when its frame came, ``time.monotonic()``
        """
        now = time.monotonic()
        with self._lock:
            self._masks += 1
            self._ages.append(now - came_s)
            self._sent.append(now)
            self._newest_came_s = came_s
            self._forget(now)

    def snapshot(self) -> Snapshot:
        """Return the counters of this moment."""
        now = time.monotonic()
        with self._lock:
            self._forget(now)
            ages = sorted(self._ages)
            newest = self._newest_came_s
            return Snapshot(
                self._received,
                self._masks,
                self._dropped,
                self._failed,
                len(self._sent) / WINDOW_S,
                None if newest is None else (now - newest) * 1000,
                statistics.median(ages) * 1000 if ages else None,
                ages[min(len(ages) - 1, int(len(ages) * 0.99))] * 1000 if ages else None,
            )

    def _forget(self, now: float) -> None:
        while self._sent and self._sent[0] < now - WINDOW_S:
            self._sent.popleft()
