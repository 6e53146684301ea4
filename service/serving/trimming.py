"""Freed memory goes back to the system when the service is idle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

TRIM_AFTER_S = 1.0
"""Seconds without traffic before a trim. At the idle moment itself, the thread that answered last still holds its image."""
TRIM_MEGAPIXELS = 8.0
"""Megapixels served since the last trim, beyond which traffic without such a pause is trimmed in too."""
TRIM_EVERY_S = 60.0
"""Seconds between two trims in such traffic: a large image's memory must not stay for good."""


class Trimmer:
    """Trims the heap when there was no traffic for a second. On one event loop.

    A trim takes the heap's lock and makes the next images fault their pages in again. So traffic postpones it, and traffic that
    never pauses is trimmed in once a minute at the most.

    Takes:
        trim: gives freed memory back; must not block
    """

    def __init__(self, trim: Callable[[], None]) -> None:
        self._trim = trim
        self._served_megapixels = 0.0
        self._trimmed_s: float | None = None
        """When, on the loop's clock; at first, when the first caller left."""
        self._due: asyncio.TimerHandle | None = None
        """The trim that traffic postpones."""

    def count(self, megapixels: float) -> None:
        """Count admitted images: this is traffic."""
        self._served_megapixels += megapixels
        self._postpone()

    def idle(self) -> None:
        """Schedule a trim: no caller is inside."""
        self._postpone()
        loop = asyncio.get_running_loop()
        if self._trimmed_s is None:
            self._trimmed_s = loop.time()
        self._due = loop.call_later(TRIM_AFTER_S, self._now)
        if self._served_megapixels >= TRIM_MEGAPIXELS and loop.time() - self._trimmed_s >= TRIM_EVERY_S:
            self._trimmed_s = loop.time()  # the next idle moments need not schedule another
            loop.call_later(TRIM_AFTER_S, self._now)

    def _postpone(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _now(self) -> None:
        self._trimmed_s = asyncio.get_running_loop().time()
        self._served_megapixels = 0.0
        self._trim()
