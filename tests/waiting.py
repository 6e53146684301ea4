"""The one way in which tests wait: until a condition holds, with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

DEADLINE_S = 60.0
"""Long enough for a busy machine. A test that passes waits for its condition only."""

PAUSE_S = 0.005

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T],
    what: str = "",
    *,
    deadline_s: float = DEADLINE_S,
    alive: Callable[[], bool] = lambda: True,
) -> T:
    """Call a condition until it is true, and return what it returned.

    Takes:
        condition: called again and again, 5 ms apart
        what: what is waited for, for the message
        alive: whether it can still come true; a process that has ended makes nothing true
    Raises:
        AssertionError: if it is still false after ``deadline_s`` seconds, or can no longer come true
    """
    end = time.monotonic() + deadline_s
    while not (found := condition()):
        assert alive(), f"it can no longer come true: {what or condition}"
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what or condition}"
        time.sleep(PAUSE_S)
    return found


async def wait_until_async(condition: Callable[[], T], what: str = "", deadline_s: float = DEADLINE_S) -> T:
    """Do the same without holding up the event loop."""
    end = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what or condition}"
        await asyncio.sleep(PAUSE_S)
    return found
