"""The connections of callers: uvicorn's HTTP/1.1, with bounds on what comes before a request, and its WebSocket.

uvicorn bounds neither the length of a request's head nor the time that it takes, and answers what is no HTTP in plain text.
Here a head has a size and a time, and each refusal is a problem document, counted by its cause.

Nor does it bound how many connections there are: ten thousand that say nothing take all file descriptors of a process, and
nobody else can come in. Here whoever comes when all are taken gets the one that has been without a request for longest; only
where every one of them has a request in work he is refused.

A request that finds no room is refused by :class:`~service.api.transport.early_refusal.Door`, before uvicorn parses it.

May import: httptools, uvicorn, starlette, ``service.api.problems``, ``shedding``, ``telemetry`` and ``upload``.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection
from itertools import takewhile
from typing import Any

import httptools
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from service.api import problems
from service.api.telemetry import PROBES
from service.api.transport.early_refusal import Door
from service.api.upload import ABORT

MAX_HEAD_BYTES = 32 * 1024
"""Of a request line, its headers and its trailers together; and of what stands between a body's chunks, but for a quarter of
the body. What has no end yet in the read in which either begins is not counted: a read has 256 KiB at the most."""

MAX_PIPELINED = 64
"""Requests that have come before the reply to the first of them is out."""

HEAD_S = 10.0
"""How long it may take from a connection's opening, or from its last reply, until the next head is complete."""

STREAM_BUFFER_BYTES = 64 * 1024
"""What the kernel is asked to keep of masks that the other end has not taken (Linux keeps twice that); left alone it keeps
megabytes, which are the masks of minutes."""

PARTING_S = 10.0
"""How long last words may take to be read."""

BODY_HEADERS = frozenset((b"content-length", b"transfer-encoding"))

LOOK_S = 0.5
"""How often somebody looks for those who have taken longer: a timer for each of them would cost every request two."""

MOMENT_S = 0.05
"""How long the first bytes of a body are waited for at the door."""

CONNECTIONS = "connections"
"""The entry of the application's lifespan state that has the :class:`Connections`."""


class _NoRequest(Exception):
    """What the parser would take, and we do not."""


class Connections:
    """All open connections. On the event loop only.

    Takes:
        limit: how many there may be
        on_refusal: called with the code of each refusal of what is no request yet
    """

    def __init__(self, limit: int, on_refusal: Callable[[str], None]) -> None:
        self.limit = limit
        self.on_refusal = on_refusal
        self.door: Door | None = None
        """Nobody is refused there before it exists."""
        self.open: Collection[object] = ()
        """Those that there are, streams too."""
        self.waiting: dict[Connection, float] = {}
        """Those whose next head is not complete, and since when; the one that has waited for longest first."""
        self._look: asyncio.TimerHandle | None = None

    def await_head(self, connection: Connection) -> None:
        """From now on that connection's next head is waited for."""
        loop = connection.loop
        self.waiting.pop(connection, None)
        self.waiting[connection] = loop.time()
        if self._look is None:
            self._look = loop.call_later(LOOK_S, self._give_up_on_the_late, loop)

    def _give_up_on_the_late(self, loop: asyncio.AbstractEventLoop) -> None:
        earliest = loop.time() - HEAD_S
        try:
            for connection in list(takewhile(lambda waiting: self.waiting[waiting] <= earliest, self.waiting)):
                connection.give_up()
        finally:
            self._look = loop.call_later(LOOK_S, self._give_up_on_the_late, loop) if self.waiting else None


class Connection(HttpToolsProtocol):
    """A connection, bounded. For ``uvicorn.Config(http=Connection)``, which gives the arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._all: Connections = self.app_state[CONNECTIONS]
        self._all.open = self.connections
        self._within_head = False
        self._head_bytes = 0
        """Of a request line, its headers and its trailers, as far as they are complete."""
        self._within_body = False
        self._body_bytes = 0
        """Of the body, so far."""
        self._other_bytes = 0
        """Of the reads within a head or within a body, what is no body."""
        self._turns = False
        """Whether a head or a body begins or ends in the bytes that are looked at."""
        self._moment: asyncio.TimerHandle | None = None
        self._at_door: float | None = None
        """The deadline (ms) of a request whose head is complete, and which is let in or refused by its first bytes."""
        self._refused = False
        """Whether the rest of a body is dropped as it comes."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin; the first head is awaited. Where all connections are taken, make room."""
        super().connection_made(transport)
        self._all.await_head(self)
        if len(self._all.open) > self._all.limit:
            longest = next(iter(self._all.waiting))
            if longest is self:
                self.app = self._refuse
            else:
                self._all.on_refusal("crowded_out")
                del self._all.waiting[longest]
                longest.transport.abort()

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Instead of the application, for whoever came when every connection had a request. It has that for probes, which ask
        how the process is, and for everybody once there is room.
        """
        if scope["path"] in PROBES or len(self._all.open) <= self._all.limit:
            await self.config.loaded_app(scope, receive, send)
            return
        self._all.on_refusal("too_many_connections")
        detail = f"{self._all.limit} connections are at work, and FCN_MAX_CONNECTIONS allows no more; try again in 1 s"
        reply = problems.refusal(503, "too_many_connections", detail)
        reply.headers.update({"Retry-After": "1", "Connection": "close"})
        await reply(scope, receive, send)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._all.waiting.pop(self, None)
        self._cancel_moment()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came. The parser keeps what it has of a header or a trailer until that ends, and some never do; nor does
        what may stand beside a chunk's length, nor chunks of a byte each.
        """
        before, self._turns = self._body_bytes, False
        self._parse(data)
        if not self._turns and (self._within_head or self._within_body) and not self.transport.is_closing():
            self._other_bytes += len(data) - (self._body_bytes - before)
            if self._is_too_much():
                self.send_400_response("")
        if self._at_door is not None and self._moment is None:
            self._moment = self.loop.call_later(MOMENT_S, self._let_in)

    def _parse(self, data: bytes) -> None:
        """As uvicorn does, but that a request which asks for another protocol than a WebSocket is served in this one (RFC 9110,
        section 7.8), with its body: Java's client asks for HTTP/2 with every first one.
        """
        self._unset_keepalive_if_required()
        pieces: list[bytes | memoryview] = [data]
        try:
            while pieces:
                piece = pieces.pop()
                try:
                    self.parser.feed_data(piece)
                except httptools.HttpParserUpgrade as upgrade:
                    if self._should_upgrade():
                        self.handle_websocket_upgrade()
                    elif self._within_head:
                        pieces = [memoryview(piece)[upgrade.args[0] :], self._head_without_upgrade()]
        except httptools.HttpParserError as error:
            reason = error.__context__
            self.send_400_response(str(reason) if isinstance(reason, _NoRequest) else "")

    def _head_without_upgrade(self) -> bytes:
        line = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        headers = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        return line + b"".join(headers) + b"\r\n"

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._within_head = self._turns = True
        self._head_bytes = self._other_bytes = self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        """A piece of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, complete; or one of the trailers that may follow a body in chunks, and which nobody here asks for: added
        to the headers they would change what has been decided by them (RFC 9110, section 6.5.1).
        """
        self._count(len(name) + len(value) + 4)
        if self._within_head:
            super().on_header(name, value)
        elif name.lower() == b"connection":  # the parser heeds it, and takes no further request
            self.cycle.keep_alive = False

    def on_headers_complete(self) -> None:
        """The head is complete."""
        if self.parser.should_upgrade():
            names = {name for name, _ in self.headers}
            if self._should_upgrade():
                if names & BODY_HEADERS:
                    raise _NoRequest("a request for a WebSocket has no body")  # and what answers it would wait for ever
            elif b"upgrade" in names:
                return  # still within the head: it is taken once more
        if len(self.pipeline) >= MAX_PIPELINED:
            raise _NoRequest  # told without words, since the replies to others come first
        self._within_head, self._within_body, self._turns = False, True, True
        self._other_bytes = 0
        self._all.waiting.pop(self, None)
        self.scope["state"][ABORT] = self.transport.abort
        self._at_door = self._deadline_at_door()
        if self._at_door is None:
            super().on_headers_complete()
        else:
            self._refused = self._refuses(self._at_door, b"")

    def _deadline_at_door(self) -> float | None:
        door, parser = self._all.door, self.parser
        others = self.cycle is not None and not self.cycle.response_complete  # their replies come first
        if door is None or others or parser.should_upgrade() or not parser.should_keep_alive():
            return None
        if len(self._all.open) > self._all.limit:
            return None
        return door.deadline_ms(parser.get_method(), self.url, self.headers)

    def _refuses(self, deadline_ms: float, body: bytes) -> bool:
        """Tell him who stands at the door if there is no room for him, by what has come of his image. Gives: whether so."""
        if self._all.door is None or (reply := self._all.door.refusal(deadline_ms, self.headers, body)) is None:
            return False
        self._cancel_moment()
        self._at_door = None
        self.transport.write(reply)
        self._all.await_head(self)
        return True

    def _let_in(self) -> None:
        self._cancel_moment()
        self._at_door = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body. The first one says whether there is room for the rest; and often is all: it is handed on as it
        is, where uvicorn would copy it twice.
        """
        self._body_bytes += len(body)
        if self._refused:
            return
        if self._at_door is not None:
            self._refused = self._refuses(self._at_door, body)
            if self._refused:
                return
            self._let_in()
        held: object = self.cycle.body
        if not held:
            self.cycle.body = b""  # type: ignore[assignment]  # nothing and a piece are the piece itself, as are bytes of bytes
        elif isinstance(held, bytes):
            self.cycle.body = bytearray(held)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of the body; or of a head that is taken once more, without what it asks for."""
        if self._within_head:
            return
        self._within_body, self._turns = False, True
        if self._refused:
            self._refused = False
            return
        if self._at_door is not None:  # there was none
            self._let_in()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A reply is out. Unless another request has come already, its head is awaited."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._all.await_head(self)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, and close; where the parser stopped because we did, say so. Where another reply is due
        first, or this request has begun to have its own, nothing is said: it would be taken for a part of that.

        Takes:
            msg: what is wrong; empty where the parser does not say
        """
        if self._is_too_much():
            status, code = 431, "head_too_large"
            detail = f"a request line, its headers and its trailers have at most {MAX_HEAD_BYTES} bytes together"
            if self._within_body:
                detail += ", and what stands between a body's chunks has no more but for a quarter of the body"
        else:
            status, code = 400, "bad_request"
            detail = msg or "this is no HTTP/1.1 request"
        self._all.on_refusal(code)
        reply = problems.refusal(status, code, detail)
        head = [f"HTTP/1.1 {status} {problems.phrase(status)}".encode(), b"connection: close"]
        head += [b"%b: %b" % header for header in reply.raw_headers]
        if not self.pipeline and not (self._within_body and self.cycle is not None and self.cycle.response_started):
            self.transport.write(b"\r\n".join([*head, b"", bytes(reply.body)]))
        self.transport.close()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._is_too_much():
            raise _NoRequest

    def _is_too_much(self) -> bool:
        return self._head_bytes > MAX_HEAD_BYTES or self._other_bytes > MAX_HEAD_BYTES + self._body_bytes // 4

    def _cancel_moment(self) -> None:
        if self._moment is not None:
            self._moment.cancel()
            self._moment = None

    def give_up(self) -> None:
        """Close without a word: whoever sends half a head in ten seconds waits for none. Nor is the end of a reply kept for
        whoever does not read it.
        """
        if self._within_head:
            self._all.on_refusal("head_too_slow")
        self._all.waiting.pop(self, None)
        self.transport.close()
        self.loop.call_later(PARTING_S, self.transport.abort)


class StreamConnection(WebSocketsSansIOProtocol):
    """A connection that became a stream. For ``uvicorn.Config(ws=StreamConnection)``, which gives the arguments.

    Who does not read is noticed soon, and cannot keep the connection when the stream is over.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, STREAM_BUFFER_BYTES)
        super().connection_made(transport)

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """The application has no more to say."""
        super().on_task_complete(task)
        self.loop.call_later(PARTING_S, self.transport.abort)
