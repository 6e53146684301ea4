"""A server that Foxglove's window reads: ``foxglove://HOST:PORT``, by the protocol ``foxglove.sdk.v1``.

A slow window gets fewer frames, never older ones: this side keeps one mask a source, and the server a few messages a window.
"""

from __future__ import annotations

import logging
from urllib.parse import urlsplit

import foxglove
from foxglove.websocket import WebSocketServer

from service.errors import BadSetting
from service.live.channels import A_SOURCE, Channels
from service.live.frame import LiveFrame
from service.live.options import LiveOptions
from service.live.outbox import Outbox
from service.live.session import LiveResult, LiveSession

BACKLOG_FRAMES = 3
"""Frames that wait for a slow window. The SDK's own default, 1024 messages, becomes seconds of delay."""
PORT = 8765

log = logging.getLogger(__name__)


class Window:
    """A server for Foxglove's windows.

    Takes:
        address: as the command line named it
        host, port: where it listens; port 0 takes a free one
    """

    def __init__(self, address: str, host: str, port: int) -> None:
        self.address = address
        self._host, self.port = host, port
        """The port it listens on, once it has started."""
        self._server: WebSocketServer | None = None
        self._channels: Channels | None = None
        self._outbox: Outbox | None = None

    @property
    def watched(self) -> int:
        """Channels that a window shows; 0 before the start."""
        return 0 if self._channels is None else self._channels.watched

    def start(self, session: LiveSession) -> None:
        """Listen, and announce the channels.

        Raises:
            BadSetting: if the port is taken, or the address is not this machine's
        """
        context = foxglove.Context()
        name = f"fcn-serve: {session.model.name}@{session.model.version}"
        backlog = BACKLOG_FRAMES * A_SOURCE * len(session.sources)
        try:
            self._server = foxglove.start_server(
                name=name, host=self._host, port=self.port, context=context, message_backlog_size=backlog
            )
        except RuntimeError as error:
            raise BadSetting(f"--to {self.address}: {_reason(str(error), self._host, self.port)}") from error
        self.port = self._server.port
        self._channels = Channels(context, session)
        self._outbox = Outbox(self._channels.log, 1, self.address)
        host = f"[{self._host}]" if ":" in self._host else self._host
        log.info("%s: in Foxglove, open a connection to ws://%s:%d", self.address, host, self.port)

    def send(self, frame: LiveFrame, result: LiveResult) -> None:
        """Hand a mask to the windows; one that waits gives way to it."""
        if self._outbox is not None and self.watched:
            self._outbox.put(frame, result)

    def close(self) -> None:
        """Say goodbye to the windows."""
        if self._outbox is not None:
            self._outbox.close()
        if self._server is not None:
            self._server.stop()


def open_sink(address: str, options: LiveOptions) -> Window:  # noqa: ARG001 - every kind is made alike
    """Make the sink of a Foxglove server.

    Raises:
        BadSetting: if the address is not ``foxglove://HOST:PORT``
    """
    try:
        parts = urlsplit(address)
        port = PORT if parts.port is None else parts.port
    except ValueError as error:
        raise BadSetting(f"--to {address}: {error}; as in foxglove://127.0.0.1:{PORT}") from error
    if parts.path.strip("/") or parts.query:
        raise BadSetting(f"--to {address}: only host and port are read, as in foxglove://127.0.0.1:{PORT}")
    return Window(address, parts.hostname or "127.0.0.1", port)


def _reason(error: str, host: str, port: int) -> str:
    if "in use" in error:
        return f"port {port} is taken; name another, such as {port + 1}"
    if "assign" in error or "lookup" in error:
        return f"{host} is not an address of this machine; 127.0.0.1 is for windows here, 0.0.0.0 for all"
    if "denied" in error:
        return f"port {port} is for the administrator; name one from 1024 on"
    return error.removeprefix("FoxgloveError: ")
