"""The newest item wins: one is in work, one waits, and a newer one takes the place of the one that waits."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Latest(Generic[Item]):
    """A source that is faster than its consumer. On one event loop.

    However fast items come, no delay builds up: what the consumer gets next is the newest item there is.
    """

    def __init__(self) -> None:
        self.in_work: Item | None = None
        self.waiting: Item | None = None
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, item: Item) -> Item | None:
        """Add an item.

        Gives:
            the item that it supersedes, which will never be in work; None if there is none
        """
        if self.in_work is None:
            self.in_work = item
            self._changed.set()
            return None
        superseded, self.waiting = self.waiting, item
        return superseded

    async def next(self) -> Item | None:
        """Wait for the item in work; return None when the source is closed and nothing is left."""
        while self.in_work is None and not self._closed:
            self._changed.clear()
            await self._changed.wait()
        return self.in_work

    def done(self) -> None:
        """The item in work is finished: the one that waits takes its place."""
        self.in_work, self.waiting = self.waiting, None

    def close(self) -> None:
        """Accept that no more items come: :meth:`next` ends when nothing is left."""
        self._closed = True
        self._changed.set()
