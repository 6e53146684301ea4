"""The time that a call has, with all its attempts: what the caller grants, what is left of it, and how its end is called."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from service.errors import ServiceError

_GRACE_S = 0.25
"""Beyond a request's own deadline: the time in which the server's answer to that deadline can still arrive."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 1.0
"""Pauses between attempts to reach a server that cannot be reached: each twice the one before."""

_SHED = frozenset((429, 503))

OUT_OF_TIME = "no answer in the time given: see Timeouts and deadline_ms"


class ConnectionFailed(ServiceError):
    """The server could not be reached, or hung up before its answer was complete."""

    code = "connection_failed"


class TimedOut(ServiceError):
    """The server did not answer in the time that the caller gave it."""

    code = "timed_out"


@dataclass(frozen=True)
class Timeouts:
    """How long to wait, in seconds; ``total_s`` is the one that a caller feels, the others find a dead server sooner."""

    connect_s: float = 2.0
    """For a connection."""
    write_s: float = 10.0
    """For the network to take the next piece of the image."""
    read_s: float = 30.0
    """For the next piece of the answer."""
    total_s: float = 60.0
    """For the whole call, with all its attempts and the pauses between them."""


DEFAULT_TIMEOUTS = Timeouts()


class Budget:
    """The time and the attempts that one call has left."""

    def __init__(self, timeouts: Timeouts, retries: int, deadline_ms: float | None = None) -> None:
        started = time.monotonic()
        self._timeouts, self._retries_left, self._pause_s = timeouts, retries, _FIRST_PAUSE_S
        self._deadline = started + (timeouts.total_s if deadline_ms is None else deadline_ms / 1000)
        self._end = min(started + timeouts.total_s, self._deadline + _GRACE_S)

    def left_s(self) -> float:
        """Seconds until the caller must have an answer."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimedOut(OUT_OF_TIME)
        return left

    def deadline_left_ms(self) -> float:
        """Milliseconds in which the mask is still of use; at least 1."""
        return max(1.0, (self._deadline - time.monotonic()) * 1000)

    def timeout(self) -> httpx.Timeout:
        """For one attempt."""
        left, limits = self.left_s(), self._timeouts
        return httpx.Timeout(
            connect=min(limits.connect_s, left), write=min(limits.write_s, left), read=min(limits.read_s, left), pool=left
        )

    def while_it_lasts(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Pass on what comes until the time is up."""
        for chunk in chunks:
            self.left_s()
            yield chunk

    def pause_after(self, error: ServiceError) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            ServiceError: the very error, if another attempt cannot help or could not end in time
        """
        wait_s: object = None
        if isinstance(error, ConnectionFailed):
            wait_s = self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        elif error.facts.get("status") in _SHED:
            wait_s = error.facts.get("retry_after_s")
        if not isinstance(wait_s, int | float) or wait_s < 0 or self._retries_left == 0:
            raise error
        pause_s = wait_s * random.uniform(1, 1.2)  # noqa: S311 - callers that were shed together should not return together
        if not time.monotonic() + pause_s < min(self._deadline, self._end):  # so written, NaN is rejected too
            raise error
        self._retries_left -= 1
        return pause_s
