"""Freed memory goes back to the system when the service is idle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

TRIM_MEGAPIXELS = 8.0
"""Megapixels served since the last trim, beyond which the next idle moment is followed by a trim in any case."""
TRIM_AFTER_S = 1.0
"""Seconds from an idle moment to the trim: at that moment, the thread that answered last still holds its image."""


class Trimmer:
    """Trims the heap one second after the service went idle, unless it goes idle again before that. On one event loop.

    Takes:
        trim: gives freed memory back; must not block
    """

    def __init__(self, trim: Callable[[], None]) -> None:
        self._trim = trim
        self._served_megapixels = 0.0
        self._due: asyncio.TimerHandle | None = None
        """The trim that the next idle moment postpones."""

    def count(self, megapixels: float) -> None:
        """Count admitted images."""
        self._served_megapixels += megapixels

    def idle(self) -> None:
        """Schedule a trim: no caller is inside. After much work it is not postponed any more."""
        if self._due is not None:
            self._due.cancel()
        due = asyncio.get_running_loop().call_later(TRIM_AFTER_S, self._trim)
        if self._served_megapixels >= TRIM_MEGAPIXELS:
            self._served_megapixels = 0.0
            self._due = None
        else:
            self._due = due
