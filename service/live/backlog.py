"""Packets between the thread that reads a stream and the one that decodes it.

A decoder that is slower than its camera must not fall behind: the newest frame wins in front of it too. What may be left out
depends on the codec:

- where each packet is a picture by itself (Motion JPEG, raw video), the newest packet takes the place of the one that waits;
- where a packet needs those before it (H.264, H.265), it is left out together with all that need it: up to the next key frame.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

LONGEST = 30
"""Packets that may wait: a second of most cameras. More are dropped, up to the next key frame."""
CATCH_UP = 5
"""If more packets wait when a key frame comes, they are dropped: decoding goes on with it."""
PATIENCE = 300
"""Packets without a key frame after which decoding goes on all the same: some encoders refresh a picture piece by piece."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A packet that waits."""

    packet: Any
    """An ``av.Packet``."""
    came_s: float
    """``time.monotonic()`` at its arrival."""
    after_gap: bool
    """Whether packets were dropped before it: the decoder forgets what it knows."""


class Backlog:
    """Packets of one connection, in order. One thread puts, another gets.

    Takes:
        independent: whether every packet is a picture by itself
    """

    def __init__(self, *, independent: bool) -> None:
        self.dropped = 0
        """Packets that no decoder saw."""
        self._independent = independent
        self._changed = threading.Condition()
        self._entries: deque[Entry] = deque()
        self._gap = self._closed = False
        self._until_key = 0

    def put(self, packet: Any, came_s: float, *, is_key: bool) -> None:
        """Add a packet; drop those that it makes useless, or the packet itself if it cannot be decoded."""
        with self._changed:
            room = 1 if self._independent else CATCH_UP + 1 if is_key else LONGEST
            if len(self._entries) >= room:
                self.dropped += len(self._entries)
                self._entries.clear()
                self._until_key = 0 if self._independent else PATIENCE
                self._gap = not self._independent
            if self._until_key and not is_key:
                self._until_key -= 1
                self.dropped += 1
                return
            self._until_key = 0
            self._entries.append(Entry(packet, came_s, self._gap))
            self._gap = False
            self._changed.notify()

    def get(self) -> Entry | None:
        """Wait for the next packet; return None when the backlog is closed and empty."""
        with self._changed:
            while not self._entries:
                if self._closed:
                    return None
                self._changed.wait()
            return self._entries.popleft()

    def close(self, *, drop: bool) -> None:
        """Accept that no more packets come.

        Takes:
            drop: whether those that wait are dropped: the connection is lost, or the run ends
        """
        with self._changed:
            if drop:
                self._entries.clear()
            self._closed = True
            self._changed.notify()
