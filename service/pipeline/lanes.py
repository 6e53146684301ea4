"""Which session an inference runs on, where several run at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

Session = TypeVar("Session")


class Lanes(Generic[Session]):
    """Sessions of one network, each with memory of its own. Thread-safe.

    A thread gets the session that it had last, so what a run writes stays in the cache of the thread's processor. In one
    arena for all, two runs take memory that the other one has just freed. On some machines that costs a fifth of the frames.

    Takes:
        sessions: at least one. Where all are in use, the next callers share them in turn
    """

    def __init__(self, sessions: Sequence[Session]) -> None:
        self.sessions = tuple(sessions)
        self._callers = [0] * len(self.sessions)
        self._lock = threading.Lock()
        self._had = threading.local()

    @contextmanager
    def taken(self) -> Iterator[Session]:
        """Give a session for as long as the block lasts."""
        with self._lock:
            at = self._choose(getattr(self._had, "at", 0))
            self._callers[at] += 1
        self._had.at = at
        try:
            yield self.sessions[at]
        finally:
            with self._lock:
                self._callers[at] -= 1

    def _choose(self, had: int) -> int:
        """Return the place of the session with the fewest callers; of several, the one that this thread had last."""
        return min(range(len(self._callers)), key=lambda at: (self._callers[at], at != had))
