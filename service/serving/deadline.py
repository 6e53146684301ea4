"""The time limit of one request or of a block, and the one error that reports a miss."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from service.errors import DeadlineExceeded


class Deadline:
    """A moment after which an answer is of no use.

    ``async with deadline:`` enforces it: the block is cancelled at that moment and raises :class:`DeadlineExceeded`. One such
    block spans a request, from the first byte of its body to its reply.

    Takes:
        limit_s: seconds that the caller grants, as the error will name them
        spent_s: seconds of them that have passed already
    """

    def __init__(self, limit_s: float, spent_s: float = 0.0) -> None:
        self.limit_s = limit_s
        self.at = time.monotonic() - spent_s + limit_s
        """The moment, as ``time.monotonic()`` tells it."""
        self._timer: asyncio.Timeout | None = None

    @property
    def left_s(self) -> float:
        """Seconds until then; negative afterwards."""
        return self.at - time.monotonic()

    def change(self, limit_s: float) -> None:
        """Set another limit, counted from the same beginning: a body may name one of its own."""
        self.at += limit_s - self.limit_s
        self.limit_s = limit_s
        if self._timer is not None:
            self._timer.reschedule(asyncio.get_running_loop().time() + self.left_s)

    def error(self) -> DeadlineExceeded:
        """Return the error of a miss."""
        return DeadlineExceeded.after(round(1000 * self.limit_s, 3))

    async def __aenter__(self) -> Self:
        self._timer = asyncio.timeout(self.left_s)
        await self._timer.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        timer, self._timer = self._timer, None
        assert timer is not None  # noqa: S101  # __aenter__ made it
        try:
            await timer.__aexit__(kind, error, traceback)
        except TimeoutError:
            missed = self.error()
        else:
            return
        try:
            raise missed
        finally:
            # Break the reference cycles: the cancellation's traceback refers to the request's frames and their images, and the
            # timer to the task that keeps this error.
            missed.__context__ = None
            del missed, error, traceback, timer


@contextlib.asynccontextmanager
async def within(limit_s: float, late: str) -> AsyncIterator[asyncio.Timeout]:
    """Bound the time of a block, whatever the deadline of its request.

    Takes:
        limit_s: seconds that it may take
        late: what is said of a miss, before the limit
    Gives:
        its timer
    Raises:
        DeadlineExceeded: if it takes longer
    """
    timer = asyncio.timeout(limit_s)
    try:
        async with timer:
            yield timer
    except TimeoutError:
        if not timer.expired():
            raise
        raise DeadlineExceeded(f"{late} within {1000 * limit_s:g} ms", deadline_ms=1000 * limit_s) from None
