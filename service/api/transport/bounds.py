"""Bounds on what a connection may send before and beside the bodies of its requests. Pure: no sockets, no clock.

uvicorn's parser keeps a header, a trailer or a chunk extension in memory until it is complete, and some never are. So bytes are
counted twice over: complete parts when the parser reports them, and reads that complete nothing by their length.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Scope

CONNECTIONS = "connections"
"""The entry of the application's lifespan state that has the table of connections, and with it these bounds."""


@dataclass(frozen=True)
class Bounds:
    """The bounds of every connection."""

    head_bytes: int = 32 * 1024
    """A request line, its headers and its trailers together. Also what may stand between the chunks of a body, beyond a quarter
    of that body."""
    pipelined: int = 64
    """Requests that wait for the reply to an earlier one of their connection."""
    head_s: float = 10.0
    """Seconds from the opening of a connection, or from the end of its idle time, until its next head is complete."""
    keep_alive_s: float = 5.0
    """Seconds that a connection may be idle after a reply."""
    first_bytes_s: float = 0.05
    """Seconds that an early decision waits for the first bytes of a body."""
    body_s: float = 30.0
    """Seconds from a complete head until its body is complete. The connection is closed then, whatever its request does."""
    upload_s: float = 25.0
    """Seconds that the application waits for a body. They leave time to say so before ``body_s`` is over."""
    silent_s: float = 2.0
    """Seconds without a byte after which a message of gRPC loses its place to another that waits."""
    linger_s: float = 2.0
    """Seconds for which the rest of a rejected body is read and dropped, so that its sender still sees the reply."""
    reply_s: float = 30.0
    """Seconds that a caller may take to read a reply."""
    stream_idle_s: float = 60.0
    """Seconds without a frame after which a stream is closed: it takes the place of another."""
    close_s: float = 10.0
    """Seconds that a closing connection has to take what was written last."""
    probe_after_s: float = 0.2
    """Seconds that the reply to a complete request may take before its half-closed connection is probed."""
    probe_s: float = 0.05
    """Seconds between two checks of whether the other end of a half-closed connection still reads."""
    sweep_s: float = 0.5
    """Seconds between two searches for connections that took too long. A timer for each would cost every request two."""


def bounds_of(scope: Scope) -> Bounds:
    """Return the bounds of the connection that a request came by; the default ones where no server gives any."""
    connections = scope.get("state", {}).get(CONNECTIONS)
    return Bounds() if connections is None else connections.bounds


class HeadBound:
    """Counts the bytes of one request line, its headers and its trailers.

    A read in which a head or a body begins or ends counts only by its complete parts. It adds one read of memory at the most.

    Takes:
        limit: bytes
    """

    __slots__ = ("_complete", "_limit", "_pending")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._complete = self._pending = 0

    def begin(self) -> None:
        """Begin the next request."""
        self._complete = self._pending = 0

    def end(self) -> None:
        """End the head. Trailers count on."""
        self._pending = 0

    def add_part(self, size: int) -> bool:
        """Count a part that is complete: a request line, a header or a trailer. Return True if that is too much."""
        self._complete += size
        return self._complete > self._limit

    def add_read(self, size: int) -> bool:
        """Count a read that lies within the head. Return True if that is too much."""
        self._pending += size
        return self._pending > self._limit

    @property
    def is_exceeded(self) -> bool:
        """Whether more came than is allowed."""
        return self._complete > self._limit or self._pending > self._limit


class BodyBound:
    """Counts what comes beside the bytes of one body: chunk lengths, chunk extensions and trailers.

    Takes:
        limit: bytes allowed beyond a quarter of the body
    """

    __slots__ = ("_limit", "_other", "body_bytes")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._other = 0
        self.body_bytes = 0
        """Bytes of the body itself so far, counted by the caller."""

    def begin(self) -> None:
        """Begin the next body."""
        self.body_bytes = self._other = 0

    def add_read(self, size: int, of_body: int) -> bool:
        """Count a read that lies within the body.

        Takes:
            size: bytes of the read
            of_body: how many of them are bytes of the body, which ``body_bytes`` has already
        Gives:
            True if there is too much beside the body
        """
        self._other += size - of_body
        return self.is_exceeded

    @property
    def is_exceeded(self) -> bool:
        """Whether more came beside the body than is allowed."""
        return self._other > self._limit + self.body_bytes // 4


def is_pipeline_full(waiting: int, limit: int) -> bool:
    """Return whether one more request must not wait for the replies to those before it."""
    return waiting >= limit
