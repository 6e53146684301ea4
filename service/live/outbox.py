"""Masks that a sink writes on a thread of its own: encoding them must not delay the next frame's network."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from service.errors import BadSetting, ServiceError
from service.live.complaints import Complaints
from service.live.frame import LiveFrame
from service.live.session import LiveResult

log = logging.getLogger(__name__)


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
        write: writes one mask; called on the outbox's thread, one call after another. A BadSetting ends the writing; any other
            error belongs to its mask
        depth: masks of each source that may wait; a newer one takes the place of the oldest
        name: of the sink, for the log
    """

    def __init__(self, write: Callable[[Mask], None], depth: int, name: str) -> None:
        self.dropped = 0
        """Masks that were not written: newer ones came, or they failed."""
        self.failure: BadSetting | None = None
        """What ended the writing."""
        self._write, self._depth, self._name = write, depth, name
        self._complaints = Complaints(log)
        self._changed = threading.Condition()
        self._waiting: deque[Mask] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, frame: LiveFrame, result: LiveResult) -> None:
        """Add a mask; this never waits.

        Raises:
            BadSetting: what ended the writing
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
            except BadSetting as error:
                with self._changed:
                    self.failure = error
                    self._waiting.clear()
                return
            except Exception as error:  # noqa: BLE001 - a thread that ends would lose every later mask in silence
                self.dropped += 1
                told = error.message if isinstance(error, ServiceError) else f"{type(error).__name__}: {error}"
                self._complaints.say(f"{self._name}: a mask is lost: {told}")
