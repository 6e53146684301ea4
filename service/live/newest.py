"""The newest item wins, between a thread that brings items and the loop that takes them."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Newest(Generic[Item]):
    """One slot. However fast items come, no delay builds up: the item that is taken is the newest there is. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._item: Item | None = None
        self.received = 0
        """Items that came."""
        self.superseded = 0
        """Items whose place a newer one took before they were taken."""

    def put(self, item: Item) -> None:
        """Add an item; it supersedes the one that waits."""
        with self._lock:
            self.received += 1
            self.superseded += self._item is not None
            self._item = item

    def take(self) -> Item | None:
        """Return the newest item, once; None if none came since the last call."""
        with self._lock:
            item, self._item = self._item, None
            return item

    @property
    def waits(self) -> bool:
        """Whether an item waits."""
        return self._item is not None
