"""Callers on this machine: as many as keep a server busy, so many a second, whatever comes back, or both at once.

No client library and no event loop's: what a caller takes is missing from the processors that the server is measured on.

May import: the standard library.
"""

from __future__ import annotations

import select
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

WAITING = 16
"""As many keep two processors busy, and the queue full."""
PATIENCE_S = 30.0
"""The deadline of those who wait their turn."""
CONNECTIONS = 256
GRACE_S = 0.05
"""What the way back and this program itself may add to a deadline."""
LEAD_S = 1.5
"""Before the first window."""
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
class _Request:
    """One that is under way."""

    socket: socket.socket
    """Used again by the next."""
    tally: Tally
    deadline_s: float
    message: memoryview
    begun_s: float
    sent: int = 0
    came: bytes = b""
    left: int = -1
    """Bytes of the answer that are still to come; -1 before its head is complete."""


class Callers:
    """Those who send one image to ``POST /segment``.

    Takes:
        port: of 127.0.0.1
        image: the file
    """

    def __init__(self, port: int, image: bytes) -> None:
        self._address, self._image = ("127.0.0.1", port), image
        self._messages: dict[float, memoryview] = {}
        self._poll = select.epoll()
        self._idle: dict[int, socket.socket] = {}
        self._asking: dict[int, _Request] = {}

    def closed_loop(self, tally: Tally, seconds: float) -> None:
        """As many who wait as fill the queue."""
        self._begin_waiting(tally)
        self._wait_turns(tally, until_s=time.perf_counter() + seconds)
        self._hear_all()

    def open_loop(self, tally: Tally, seconds: float, rate: float, deadline_s: float) -> None:
        """So many a second, evenly spaced."""
        begun = time.perf_counter()
        for number in range(round(seconds * rate)):
            while (left_s := begun + number / rate - time.perf_counter()) > 0 or len(self._asking) == CONNECTIONS:
                self._hear(max(left_s, 0.001))
            self._ask(tally, deadline_s)
        self._hear_all()

    def waves(
        self, waiting: Tally, others: Tally, seconds: float, *, count: int, factor: float, deadline_s: float
    ) -> list[tuple[float, float]]:
        """As many who wait as fill the queue; on top, in every other of equally long windows, others.

        Takes:
            waiting, others: what becomes of either
            seconds: of a window
            count: of windows with others
            factor: how many others there are to each who had his mask in the calm window before
            deadline_s: of the others
        Gives:
            (begin, end) of every window; the first, the third and so on until the last are those without others
        """
        begun = time.perf_counter() + LEAD_S
        windows = [(begun + at * seconds, begun + (at + 1) * seconds) for at in range(2 * count + 1)]
        self._begin_waiting(waiting)
        self._wait_turns(waiting, until_s=windows[0][1])
        for calm, flooded, after in zip(windows[:-1:2], windows[1::2], windows[2::2], strict=True):
            rate = factor * max(waiting.rate(*calm) + others.rate(*calm), 1.0)
            due_s = flooded[0]
            while due_s < flooded[1]:
                self._wait_turns(waiting, until_s=due_s)
                if len(self._asking) < CONNECTIONS:
                    self._ask(others, deadline_s)
                due_s += 1 / rate
            self._wait_turns(waiting, until_s=after[1])
        self._hear_all()
        return windows

    def _begin_waiting(self, waiting: Tally) -> None:
        for _ in range(WAITING):
            self._ask(waiting, PATIENCE_S)

    def _wait_turns(self, waiting: Tally, until_s: float) -> None:
        """Until then, whoever waits sends the image again when he has his answer."""
        while (left_s := until_s - time.perf_counter()) > 0:
            for tally in self._hear(left_s):
                if tally is waiting:
                    self._ask(waiting, PATIENCE_S)

    def _ask(self, tally: Tally, deadline_s: float) -> None:
        tally.sent += 1
        if self._idle:
            number, link = self._idle.popitem()
        else:
            link = socket.create_connection(self._address)
            link.setblocking(False)
            number = link.fileno()
            self._poll.register(number, select.EPOLLIN)
        request = _Request(link, tally, deadline_s, self._message(deadline_s), time.perf_counter())
        self._asking[number] = request
        if not _is_sent(request):
            self._poll.modify(number, select.EPOLLIN | select.EPOLLOUT)

    def _message(self, deadline_s: float) -> memoryview:
        if deadline_s not in self._messages:
            head = (
                "POST /segment HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
                f"X-Deadline-Ms: {1000 * deadline_s:g}\r\nContent-Length: {len(self._image)}\r\n\r\n"
            )
            self._messages[deadline_s] = memoryview(head.encode() + self._image)
        return self._messages[deadline_s]

    def _hear_all(self) -> None:
        """Wait until everybody has his answer."""
        while self._asking:
            self._hear(1.0)

    def _hear(self, seconds: float) -> list[Tally]:
        """Wait for what comes, but no longer than that. Gives: the tallies of those who have their answer."""
        return [tally for number, event in self._poll.poll(seconds) for tally in self._answered(number, event)]

    def _answered(self, number: int, event: int) -> Iterator[Tally]:
        request = self._asking.get(number)
        if request is None:  # the server ends what is idle
            self._idle.pop(number).close()
            return
        if event & select.EPOLLOUT and _is_sent(request):
            self._poll.modify(number, select.EPOLLIN)
        if event & ~select.EPOLLOUT:
            piece = request.socket.recv(PIECE_BYTES)
            if not piece:
                raise SystemExit("the server closed a connection without an answer")
            if _is_whole(request, piece):
                request.tally.count(int(request.came[9:12]), request.begun_s, request.deadline_s)
        # An answer may come before all of the image is sent; the connection is free when both are done.
        if request.left == 0 and request.sent == len(request.message):
            self._idle[number] = self._asking.pop(number).socket
            yield request.tally


def _is_sent(request: _Request) -> bool:
    """Send what can be sent now. Gives: whether that was the rest."""
    with suppress(BlockingIOError):
        request.sent += request.socket.send(request.message[request.sent :])
    return request.sent == len(request.message)


def _is_whole(request: _Request, piece: bytes) -> bool:
    """Whether this was the last piece of an answer."""
    if request.left < 0:
        request.came += piece
        head, end, piece = request.came.partition(b"\r\n\r\n")
        if not end:
            return False
        request.left = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
    request.left -= len(piece)
    return not request.left
