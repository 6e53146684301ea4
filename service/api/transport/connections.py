"""The table of open connections: how many there may be, how long each may wait, and which one gives way to a new one.

Ten thousand silent connections would take every file descriptor of the process, and no caller could connect any more. When the
limit is reached, a new connection replaces the one that has been without a request for longest. Only where every connection has
a request is the new one rejected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from itertools import takewhile
from typing import Protocol

from service.api.transport.bounds import Bounds
from service.api.transport.early_refusal import EarlyRefusal


class Waiting(Protocol):
    """What the table needs of a connection."""

    loop: asyncio.AbstractEventLoop

    def give_up(self, reason: str) -> None:
        """Close, because something took too long."""

    def evict(self) -> None:
        """Close at once, because a new connection needs the place."""


class Waits:
    """The connections that wait for one thing, the longest wait first.

    Takes:
        reason: the code by which a wait that takes too long is counted
        patience_s: seconds that it may take
    """

    def __init__(self, reason: str, patience_s: float) -> None:
        self.reason, self.patience_s = reason, patience_s
        self.since: dict[Waiting, float] = {}
        """The event loop's time at which each one began."""

    def begin(self, connection: Waiting) -> None:
        """Begin to wait, from now on."""
        self.since.pop(connection, None)  # the order is that of the times
        self.since[connection] = connection.loop.time()

    def end(self, connection: Waiting) -> None:
        """End the wait, if there is one."""
        self.since.pop(connection, None)

    def take_late(self, now: float) -> list[Waiting]:
        """Remove the waits that have taken too long, and return their connections.

        Takes:
            now: the event loop's time in seconds
        """
        earliest = now - self.patience_s
        late = [*takewhile(lambda connection: self.since[connection] <= earliest, self.since)]
        for connection in late:
            del self.since[connection]
        return late


class Connections:
    """All open connections. On the event loop only.

    Takes:
        limit: how many there may be
        on_refusal: called with the code of each rejection that happens before there is a request
        bounds: of each connection
    """

    def __init__(self, limit: int, on_refusal: Callable[[str], None], bounds: Bounds | None = None) -> None:
        self.limit = limit
        self.on_refusal = on_refusal
        self.bounds = bounds or Bounds()
        self.early_refusal: EarlyRefusal | None = None
        """Set once the models are open; before that no request is rejected early."""
        self.open: Collection[object] = ()
        """Every open connection, streams too."""
        self.head = Waits("head_too_slow", self.bounds.head_s)
        """From the opening, or from the first read of a later head, until that head is complete."""
        self.idle = Waits("head_too_slow", self.bounds.keep_alive_s + self.bounds.head_s)
        """From a reply until the next head. uvicorn closes idle connections earlier, but empty lines keep them open."""
        self.body = Waits("body_too_slow", self.bounds.body_s)
        """From a head until its body is complete. The application has a shorter time; this one holds whatever it does."""
        self.reader = Waits("reply_not_read", self.bounds.reply_s)
        """From the moment that the buffers of both ends are full until the other end reads on."""
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def is_full(self) -> bool:
        """Whether there are more connections than allowed."""
        return len(self.open) > self.limit

    def add(self, connection: Waiting) -> bool:
        """Add a connection. Where all places are taken, evict the one that has been without a request for longest.

        Gives:
            whether there is a place for it
        """
        has_place = not self.is_full or self._evict_one()
        self.head.begin(connection)
        if self._sweep is None:
            self._sweep = connection.loop.call_later(self.bounds.sweep_s, self._sweep_again, connection.loop)
        return has_place

    def remove(self, connection: Waiting) -> None:
        """Forget a connection."""
        for waits in self._all:
            waits.end(connection)

    def sweep(self, now: float) -> None:
        """Close every connection that has waited for too long.

        Takes:
            now: the event loop's time in seconds
        """
        for waits in self._all:
            for connection in waits.take_late(now):
                connection.give_up(waits.reason)

    @property
    def _all(self) -> tuple[Waits, ...]:
        return self.head, self.idle, self.body, self.reader

    def _evict_one(self) -> bool:
        oldest = [next(iter(waits.since.items()), None) for waits in (self.head, self.idle)]
        candidates = [found for found in oldest if found is not None]
        if not candidates:
            return False
        longest, _ = min(candidates, key=lambda found: found[1])
        self.remove(longest)
        self.on_refusal("crowded_out")
        longest.evict()
        return True

    def _sweep_again(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweep = None
        try:
            self.sweep(loop.time())
        finally:
            if self.open:
                self._sweep = loop.call_later(self.bounds.sweep_s, self._sweep_again, loop)
