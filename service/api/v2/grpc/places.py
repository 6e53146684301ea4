"""Places for messages that arrive: gRPC keeps each in memory until it is complete, so only some may arrive at a time.

A connection gets at most half of them. While a call waits, it gets the place of one whose connection sends nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from service.api.v2.grpc import sockets
from service.errors import DeadlineExceeded
from service.serving.deadline import within


@dataclass(eq=False)
class _Place:
    """A place that is held."""

    peer: str
    timer: asyncio.Timeout
    received: int | None = None
    """Bytes of its connection at the last check."""
    silent: bool = False


class Places:
    """On one event loop only.

    Takes:
        limit: how many there are; at least 2
        port: of gRPC
        silent_s: seconds without a byte after which a place may be taken away
    """

    def __init__(self, limit: int, port: int, silent_s: float) -> None:
        self._limit, self._port, self._silent_s = limit, port, silent_s
        self._held: Counter[str] = Counter()
        self._places: set[_Place] = set()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._checked_at = float("-inf")

    @contextlib.asynccontextmanager
    async def one(self, peer: str, limit_s: float) -> AsyncIterator[None]:
        """Wait for a place, and hold it for as long as the block lasts.

        Takes:
            peer: the connection, as gRPC names it
            limit_s: seconds that the block may take
        Raises:
            DeadlineExceeded: if it takes longer, or if nothing comes while others wait
        """
        await self._take(peer)
        try:
            async with within(limit_s, "the message did not arrive") as timer:
                place = _Place(peer, timer)
                self._places.add(place)
                yield
        except DeadlineExceeded:
            if not place.silent:
                raise
            silent_ms = 1000 * self._silent_s
            reason = f"nothing of the message came for {silent_ms:g} ms, while others waited for its place"
            raise DeadlineExceeded(reason, deadline_ms=silent_ms) from None
        finally:
            self._places.discard(place)
            self._release(peer)

    async def _take(self, peer: str) -> None:
        granted = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(peer, deque()).append(granted)
        self._grant()
        try:
            while not granted.done():
                await asyncio.wait((granted,), timeout=self._silent_s)
                if not granted.done():
                    await self._free_silent_ones()
        except asyncio.CancelledError:
            if granted.done():
                self._release(peer)
            else:
                self._waiting[peer].remove(granted)
                if not self._waiting[peer]:
                    del self._waiting[peer]
            raise

    def _grant(self) -> None:
        """Give free places to those who wait, one connection after the other."""
        given = True
        while given:
            given = False
            for peer in [*self._waiting]:
                if self._held.total() < self._limit and self._held[peer] < self._limit // 2:
                    self._held[peer] += 1
                    waiting = self._waiting.pop(peer)
                    waiting.popleft().set_result(None)
                    if waiting:
                        self._waiting[peer] = waiting  # at the end: the others are next
                    given = True

    def _release(self, peer: str) -> None:
        self._held[peer] -= 1
        if not self._held[peer]:
            del self._held[peer]
        self._grant()

    async def _free_silent_ones(self) -> None:
        """Take the places away whose connections have sent nothing since the last check."""
        loop = asyncio.get_running_loop()
        if self._held.total() < self._limit or loop.time() - self._checked_at < self._silent_s:
            return
        self._checked_at = loop.time()
        received = await asyncio.to_thread(sockets.received, self._port)
        for place in self._places:
            address = sockets.address_of(place.peer)
            count = None if address is None else received.get(address)
            if count is not None and count == place.received and not place.timer.expired():
                place.silent = True
                place.timer.reschedule(loop.time())
            place.received = count
