"""One listening socket of several workers: the worker with the fewest connections takes the next one.

The kernel wakes all workers for a new connection, and the first one takes it. Of four connections that stay open one worker may
then have three, and another one waits for work. So a worker with more connections than another one leaves the new connection to
that one for a moment, and takes it if it is still there.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

from service.api.peers import Peers

LEFT_S = 0.05
"""Seconds that a connection is left to other workers at most: each of them may be busy or stuck."""
STEP_S = 0.002
"""Seconds between two comparisons with the numbers of the others meanwhile."""
FULL_S = 1.0
"""Seconds until the next try after the process ran out of file descriptors or memory, as of asyncio."""

log = logging.getLogger(__name__)


class ToldConnections(set[Any]):
    """The open connections of a worker; the others are told how many there are, with those that are about to open."""

    def __init__(self, peers: Peers) -> None:
        super().__init__()
        self._peers = peers
        self._opening = 0
        peers.tell_open(0)

    def expect(self, change: int) -> None:
        """Count a connection that is accepted and not yet open (1), or that is open now or never will be (-1)."""
        self._opening += change
        self._peers.tell_open(self.count)

    @property
    def count(self) -> int:
        """How many there are, with those that are about to open."""
        return len(self) + self._opening

    def add(self, connection: Any) -> None:
        """Add a connection."""
        super().add(connection)
        self._peers.tell_open(self.count)

    def discard(self, connection: Any) -> None:
        """Remove a connection, if it is there."""
        super().discard(connection)
        self._peers.tell_open(self.count)

    def remove(self, connection: Any) -> None:
        """Remove a connection that is there."""
        super().remove(connection)
        self._peers.tell_open(self.count)


class SharedListener:
    """Accepts from one socket. It has what uvicorn needs of an ``asyncio.Server``.

    Takes:
        listener: listens, and is closed by its owner
        peers: the other workers
        connections: those that are open here
        protocol: makes the protocol of a connection
    """

    def __init__(
        self, listener: socket.socket, peers: Peers, connections: ToldConnections, protocol: Callable[[], asyncio.Protocol]
    ) -> None:
        self._listener, self._peers, self._connections, self._protocol = listener, peers, connections, protocol
        self._opening: set[asyncio.Task[None]] = set()
        self._later: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        listener.setblocking(False)
        self._loop.add_reader(listener, self._on_readable)

    def close(self) -> None:
        """Accept no more."""
        self._loop.remove_reader(self._listener)
        if self._later is not None:
            self._later.cancel()

    async def wait_closed(self) -> None:
        """Wait for connections that were accepted last."""
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _on_readable(self) -> None:
        if self._peers.has_fewer_open(self._connections.count):
            self._pause(STEP_S, self._loop.time() + LEFT_S)
        else:
            self._accept()

    def _pause(self, for_s: float, until: float) -> None:
        self._loop.remove_reader(self._listener)
        self._later = self._loop.call_later(for_s, self._resume, until)

    def _resume(self, until: float) -> None:
        """Take the connection if it still waits, and no other worker has fewer, or none has taken it in time."""
        self._later = None
        if self._loop.time() < until and self._peers.has_fewer_open(self._connections.count):
            self._pause(STEP_S, until)
        else:
            self._loop.add_reader(self._listener, self._on_readable)
            self._accept()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another worker was faster, or the caller has gone
        except OSError as error:
            log.warning("no connection can be accepted for %g s: %s", FULL_S, error.strerror)
            self._pause(FULL_S, 0.0)
            return
        self._connections.expect(1)
        task = self._loop.create_task(self._open(connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> None:
        try:
            connection.setblocking(False)
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:  # the caller has gone
            connection.close()
        finally:
            self._connections.expect(-1)
