"""The application behind uvicorn, from the first request to the last signal."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from logging.handlers import MemoryHandler
from types import FrameType

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import __version__, process
from service.api.app import create_app
from service.api.peers import Peers
from service.api.transport.connection import Connection, StreamConnection
from service.api.transport.shared_listener import SharedListener, ToldConnections
from service.errors import ServiceError
from service.log import log_config
from service.pipeline.repository import Repository
from service.settings import Settings

SPARE_DESCRIPTORS = 100
"""File descriptors for models, pipes and listeners. There are some thirty."""
BACKLOG = 1024
"""Connections that wait to be accepted. All of them may be accepted at once, before others are evicted for them."""

log = logging.getLogger(__name__)


def run(
    settings: Settings,
    listeners: Sequence[socket.socket],
    opening: Callable[[], Repository],
    early: MemoryHandler,
    peers: Peers | None = None,
) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Takes:
        listeners: sockets that listen; the first is the public one
        opening: gives the models, when they are open
        early: has the log's lines of before it was set up
        peers: the other workers, where this process is one of several
    Raises:
        ServiceError: the reason for which it did not start
    """
    transports = "connections" if settings.grpc_port is None else "connections of HTTP and as many of gRPC"
    purpose = f"FCN_MAX_CONNECTIONS: {settings.max_connections} {transports}"
    needed = (1 if settings.grpc_port is None else 2) * settings.max_connections + SPARE_DESCRIPTORS
    process.allow_descriptors(needed, needed + BACKLOG, purpose)
    application = create_app(settings, opening, peers=peers)
    startup = _Startup(application)
    config = uvicorn.Config(
        startup,
        http=Connection,
        log_config=log_config(settings.log_format, settings.log_level),
        access_log=False,
        backlog=BACKLOG,
        server_header=False,
        lifespan="on",
        root_path=settings.root_path,
        timeout_graceful_shutdown=round(settings.drain_s),
        ws=StreamConnection,
        ws_max_size=settings.max_image_bytes,
        ws_per_message_deflate=False,  # images and masks are compressed already; a window a stream would cost memory
    )
    early.setTarget(logging.getLogger().handlers[0])
    logging.getLogger("service").removeHandler(early)
    early.close()
    # After its shutdown uvicorn raises the signal once more, for the handler that was there before: all is done then.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _Server(config, listeners[0], application, settings.drain_s, peers).run(sockets=list(listeners))
    except KeyboardInterrupt:
        return
    except SystemExit:
        if startup.failure is not None:
            raise startup.failure from None
        raise


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _address(listener: socket.socket) -> str:
    """Return where a socket listens, as a caller names it."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """Logs where it listens, once it does. It goes on listening while it drains, so that new callers are told, and lets streams
    end in order: uvicorn itself would cut them off. A second signal ends it at once.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        listener: socket.socket,
        application: FastAPI,
        drain_s: float,
        peers: Peers | None,
    ) -> None:
        super().__init__(config)
        self._peers = peers
        self._application = application
        self._drain_s = drain_s
        self._address = _address(listener)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then log the address."""
        if self._peers is None:
            await super().startup(sockets)
        else:
            await self._startup_beside(self._peers, sockets or [])
        process.freeze_garbage()
        log.info("fcn-serve %s listens on %s; Ctrl-C ends it", __version__, self._address)
        if self._peers is not None:
            self._peers.on_start()

    async def _startup_beside(self, peers: Peers, sockets: list[socket.socket]) -> None:
        """Start as one of several workers, which share the connections."""
        await super().startup([])
        # Told only now: the others would leave new connections to a worker that does not accept yet.
        self.server_state.connections = connections = ToldConnections(peers)

        def protocol() -> asyncio.Protocol:
            return Connection(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

        for listener in sockets:
            shared = SharedListener(listener, peers, connections, protocol)
            self.servers.append(shared)  # type: ignore[arg-type]  # it has what uvicorn calls

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish the requests that were there when the signal came, then close."""
        deadline = time.monotonic() + self._drain_s
        if self._peers is not None:
            self._peers.leave()
        answered = asyncio.create_task(self._application.state.in_flight.wait_for_those_here(deadline))
        await self._application.state.streams.drain(self._drain_s)
        await answered
        self.config.timeout_graceful_shutdown = max(1, round(deadline - time.monotonic()))
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal. The first begins to drain; the second ends the process, and requests in work are lost. A terminal
        sends Ctrl-C to one of several processes and to their supervisor, which sends SIGTERM: that is one signal.
        """
        if self.should_exit and (self._peers is None or sig != signal.SIGTERM):
            os._exit(128 + sig)
        super().handle_exit(sig, frame)


class _Startup:
    """Keeps a start that failed with an error of ours to one line: servers print a trace of it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.failure: ServiceError | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_without_trace(message: Message) -> None:
            failed_for_a_reason = message["type"] == "lifespan.startup.failed" and isinstance(sys.exception(), ServiceError)
            await send({"type": message["type"]} if failed_for_a_reason else message)

        try:
            await self._app(scope, receive, send_without_trace)
        except ServiceError as error:
            self.failure = error
            raise
