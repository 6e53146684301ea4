"""Masks that a sink writes on a thread of its own: encoding them must not delay the next frame's network."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from service.errors import ServiceError
from service.live.frame import LiveFrame
from service.live.session import LiveResult


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask that a sink was given."""

    frame: LiveFrame
    result: LiveResult
    latency_ms: float
    """From the frame's arrival until the sink was given its mask."""


class Outbox:
    """The masks that wait for one sink.

    Takes:
        write: writes one mask; called on the outbox's thread, one call after another
        depth: masks of each source that may wait; a newer one takes the place of the oldest
        name: of the thread
    """

    def __init__(self, write: Callable[[Mask], None], depth: int, name: str) -> None:
        self.dropped = 0
        """Masks that were not written because newer ones came."""
        self.failure: ServiceError | OSError | None = None
        """What ended the writing."""
        self._write, self._depth = write, depth
        self._changed = threading.Condition()
        self._waiting: deque[Mask] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, frame: LiveFrame, result: LiveResult) -> None:
        """Add a mask; this never waits.

        Raises:
            ServiceError, OSError: what ended the writing
        """
        mask = Mask(frame, result, (time.monotonic() - frame.came_s) * 1000)
        with self._changed:
            if self.failure is not None:
                raise self.failure
            waiting = [each for each in self._waiting if each.frame.source == frame.source]
            if len(waiting) >= self._depth:
                self._waiting.remove(waiting[0])
                self.dropped += 1
            self._waiting.append(mask)
            self._changed.notify()

    def close(self) -> None:
        """Write what waits and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _next(self) -> Mask | None:
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
            return self._waiting.popleft()

    def _run(self) -> None:
        while (mask := self._next()) is not None:
            try:
                self._write(mask)
            except (ServiceError, OSError) as error:
                with self._changed:
                    self.failure = error
                    self._waiting.clear()
                return
