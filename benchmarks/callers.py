"""Callers on this machine: few that keep a server busy, or so many a second, whatever comes back.

No client library and no event loop's: what a caller takes is missing from the processors that the server is measured on.

May import: the standard library.
"""

from __future__ import annotations

import select
import socket
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

CALLERS = 4
"""As many keep two processors busy."""
CONNECTIONS = 256
GRACE_S = 0.05
"""What the way back and this program itself may add to a deadline."""
LEAD_S = 1.5
"""Of each phase, before anything is counted in its rate."""
PIECE_BYTES = 1 << 18


@dataclass
class Tally:
    """What came back."""

    sent: int = 0
    late: int = 0
    """Masks and refusals that came after the deadline."""
    statuses: Counter[int] = field(default_factory=Counter)
    good_s: list[float] = field(default_factory=list)
    """When each mask came that was in time."""
    good_ms: list[float] = field(default_factory=list)
    """How long each of those took."""
    refused_ms: list[float] = field(default_factory=list)
    """How long each 429 took."""

    def count(self, status: int, begun_s: float, deadline_s: float) -> None:
        """One more answer, which has come just now."""
        now_s = time.perf_counter()
        self.statuses[status] += 1
        in_time = now_s - begun_s <= deadline_s + GRACE_S
        self.late += not in_time
        if status == 200 and in_time:
            self.good_s.append(now_s)
            self.good_ms.append(1000 * (now_s - begun_s))
        if status == 429:
            self.refused_ms.append(1000 * (now_s - begun_s))

    def rate(self, begin_s: float, end_s: float) -> float:
        """Good ones a second, from one moment to another."""
        return sum(begin_s <= moment < end_s for moment in self.good_s) / (end_s - begin_s)


@dataclass(eq=False)
class _Link:
    """A connection, used again."""

    socket: socket.socket
    begun_s: float = 0.0
    sent: int = 0
    came: bytes = b""
    left: int = -1
    """Bytes of the answer that are still to come; -1 before its head is complete."""


class Callers:
    """Those who send one image to ``POST /segment``.

    Takes:
        port: of 127.0.0.1
        image: the file
        deadline_s: that they name
    """

    def __init__(self, port: int, image: bytes, deadline_s: float) -> None:
        self._address, self._deadline_s = ("127.0.0.1", port), deadline_s
        head = (
            "POST /segment HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
            f"X-Deadline-Ms: {1000 * deadline_s:g}\r\nContent-Length: {len(image)}\r\n\r\n"
        )
        self._request = memoryview(head.encode() + image)
        self._poll = select.epoll()
        self._idle: dict[int, _Link] = {}
        self._asking: dict[int, _Link] = {}

    def closed_loop(self, tally: Tally, seconds: float) -> float:
        """A few, each sending the image again when he has his answer. Gives: good answers a second."""
        begun = time.perf_counter()
        for _ in range(CALLERS):
            self._ask(tally)
        while self._asking:
            for _ in range(self._hear(tally, 1.0)):
                if time.perf_counter() - begun < LEAD_S + seconds:
                    self._ask(tally)
        return tally.rate(begun + LEAD_S, begun + LEAD_S + seconds)

    def open_loop(self, tally: Tally, seconds: float, rate: float) -> float:
        """So many a second, evenly spaced. Gives: good answers a second."""
        begun = time.perf_counter()
        for number in range(round((LEAD_S + seconds) * rate)):
            while (left_s := begun + number / rate - time.perf_counter()) > 0 or len(self._asking) == CONNECTIONS:
                self._hear(tally, max(left_s, 0.001))
            self._ask(tally)
        while self._asking:
            self._hear(tally, 1.0)
        return tally.rate(begun + LEAD_S, begun + LEAD_S + seconds)

    def _ask(self, tally: Tally) -> None:
        tally.sent += 1
        if self._idle:
            number, link = self._idle.popitem()
        else:
            link = _Link(socket.create_connection(self._address))
            link.socket.setblocking(False)
            number = link.socket.fileno()
            self._poll.register(number, select.EPOLLIN)
        self._asking[number] = link
        link.begun_s, link.sent, link.came, link.left = time.perf_counter(), 0, b"", -1
        if not self._is_sent(link):
            self._poll.modify(number, select.EPOLLIN | select.EPOLLOUT)

    def _is_sent(self, link: _Link) -> bool:
        """Send what can be sent now. Gives: whether that was the rest."""
        with suppress(BlockingIOError):
            link.sent += link.socket.send(self._request[link.sent :])
        return link.sent == len(self._request)

    def _hear(self, tally: Tally, seconds: float) -> int:
        """Wait for what comes, but no longer than that. Gives: how many have their answer."""
        answered = 0
        for number, event in self._poll.poll(seconds):
            link = self._asking.get(number)
            if event & select.EPOLLOUT and link is not None and self._is_sent(link):
                self._poll.modify(number, select.EPOLLIN)
            if not event & ~select.EPOLLOUT:
                continue
            piece = (link or self._idle[number]).socket.recv(PIECE_BYTES)
            if link is None:
                self._idle.pop(number).socket.close()  # the server ends what is idle
            elif not piece:
                raise SystemExit("the server closed a connection without an answer")
            elif _is_whole(link, piece):
                tally.count(int(link.came[9:12]), link.begun_s, self._deadline_s)
                self._idle[number] = self._asking.pop(number)
                answered += 1
        return answered


def _is_whole(link: _Link, piece: bytes) -> bool:
    """Whether this was the last piece of an answer."""
    if link.left < 0:
        link.came += piece
        head, end, piece = link.came.partition(b"\r\n\r\n")
        if not end:
            return False
        link.left = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
    link.left -= len(piece)
    return not link.left
