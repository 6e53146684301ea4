"""Connections to callers: uvicorn's HTTP/1.1 with bounds on what comes before a request, and its WebSocket.

uvicorn bounds neither the length of a request's head nor the time that it takes, and answers malformed HTTP in plain text.
Here a head has a size and a time, and each rejection is a problem document that is counted by its cause.

A request that cannot be served in time is rejected by :class:`~service.api.transport.early_refusal.EarlyRefusal` before uvicorn
makes a request of it.

The members of uvicorn that this file uses are those of one minor version. pyproject.toml pins it, and
tests/test_uvicorn_contract.py names each member.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from typing import Any

import httptools
from starlette.types import Receive, Scope, Send
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from service.api import problems
from service.api.record import TRANSPORT
from service.api.telemetry import PROBES, path_of
from service.api.transport.bounds import CONNECTIONS, BodyBound, HeadBound, is_pipeline_full
from service.api.transport.connections import Connections
from service.api.transport.early_refusal import OPENING, Opening
from service.log import OPENINGS_LOGGER

STREAM_BUFFER_BYTES = 64 * 1024
"""What the kernel is asked to keep of masks that the other end has not taken (Linux keeps twice that). By default it keeps
megabytes, which are the masks of minutes."""

_log = logging.getLogger(OPENINGS_LOGGER)

REPLY_BEGINS = b"HTTP/1.1 "
"""The first bytes of every reply."""
INTERIM = REPLY_BEGINS + b"1"
"""The first bytes of a reply before the reply: 100 (Continue)."""


class _Rejected(Exception):
    """A request that httptools accepts and this service rejects."""


class Connection(HttpToolsProtocol):
    """A connection with bounds. For ``uvicorn.Config(http=Connection)``, which gives the arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._all: Connections = self.app_state[CONNECTIONS]
        self._all.open = self.connections
        self._bounds = self._all.bounds
        self.timeout_keep_alive = self._bounds.keep_alive_s
        self._head = HeadBound(self._bounds.head_bytes)
        self._body = BodyBound(self._bounds.head_bytes)
        self._prefix = f"{self.root_path}/".encode() if self.root_path else b""
        """What a proxy may have left before the path: uvicorn puts it before every path."""
        self._within_head = False
        self._within_body = False
        self._turns = False
        """Whether a head or a body begins or ends in the read that is being parsed."""
        self._is_broken = False
        """Whether the rest of what comes is dropped: it is not HTTP, and replies to earlier requests are due."""
        self._opening: Opening | None = None
        """The decisions on a request whose head is complete, and which its first bytes may reject. None: nothing to decide."""
        self._first_bytes: asyncio.TimerHandle | None = None
        self._is_rejected = False
        """Whether the body that comes belongs to a request that was rejected early, and is dropped."""
        self._awaits_body = False
        """Whether the table of connections knows that this one is within a body."""
        self._complete_s = 0.0
        """When the last request was complete."""
        self._earlier: deque[RequestResponseCycle] = deque()
        """The requests before ``self.cycle`` whose replies are due. uvicorn forgets the one that is in work."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for the first head. Where all connections are taken, make a place."""
        super().connection_made(transport)
        if not self._all.add(self):
            self.app = self._reject_if_full

    async def _reject_if_full(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reject the request of a connection that came when every other one had a request. Serve probes, which ask about the
        process; serve every request once there is a place.
        """
        if path_of(scope) in PROBES or not self._all.is_full:
            await self.config.loaded_app(scope, receive, send)
            return
        self._all.on_refusal("too_many_connections")
        detail = f"{self._all.limit} connections are at work, and FCN_MAX_CONNECTIONS allows no more; try again in 1 s"
        reply = problems.refusal(503, "too_many_connections", detail)
        reply.headers.update({"Retry-After": "1", "Connection": "close"})
        await reply(scope, receive, send)

    def connection_lost(self, exc: Exception | None) -> None:
        """End, and tell every request of this connection that its caller is gone."""
        self._all.remove(self)
        self._stop_awaiting_first_bytes()
        for cycle in self._earlier:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and count it where the parser keeps it and reports nothing: an incomplete header, trailer or chunk
        extension, and chunks of a byte each.
        """
        if self._is_broken:
            return
        body_before, self._turns = self._body.body_bytes, False
        self._parse(data)
        if not self._turns and not self.transport.is_closing():
            if self._within_head:
                if self._head.add_read(len(data)):
                    self.send_400_response("")
            elif self._within_body and self._body.add_read(len(data), self._body.body_bytes - body_before):
                self.send_400_response("")
        if self._within_head and self in self._all.idle.since:
            self._all.idle.end(self)
            self._all.head.begin(self)
        if self._within_body and not self._awaits_body:
            self._awaits_body = True
            self._all.body.begin(self)
        if self._opening is not None and self._first_bytes is None:
            self._first_bytes = self.loop.call_later(self._bounds.first_bytes_s, self._accept)

    def _parse(self, data: bytes) -> None:
        """Parse as uvicorn does, except that a request for a protocol other than WebSocket is served in this one, with its body
        (RFC 9110, section 7.8). Java's client asks for HTTP/2 with the first request of every connection.
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
                        self.parser = _new_parser(self)  # after ``Connection: close`` the old one drops all that comes
        except httptools.HttpParserError as error:
            reason = error.__context__
            self.send_400_response(str(reason) if isinstance(reason, _Rejected) else "")

    def _get_upgrade(self) -> bytes | None:
        """Return the protocol that is asked for. Several headers ``Connection`` are one list (RFC 9110, section 5.3)."""
        words = [word.strip().lower() for name, value in self.headers if name == b"connection" for word in value.split(b",")]
        return dict(self.headers).get(b"upgrade", b"").lower() if b"upgrade" in words else None

    def _head_without_upgrade(self) -> bytes:
        line = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        headers = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        return line + b"".join(headers) + b"\r\n"

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._within_head = self._turns = True
        self._head.begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One complete header, or one complete trailer. Trailers are left out of the headers: they would change what was
        decided by them (RFC 9110, section 6.5.1).
        """
        if self._head.add_part(len(name) + len(value) + 4):
            raise _Rejected
        if self._within_head:
            super().on_header(name, value)
        elif name.lower() == b"connection":  # the parser heeds it, and takes no further request
            self.cycle.keep_alive = False

    def on_headers_complete(self) -> None:
        """The head is complete."""
        if self._head.add_part(len(self.url)):
            raise _Rejected
        if self.parser.should_upgrade():
            if self._should_upgrade():
                self._check_opening()
            elif any(name == b"upgrade" for name, _ in self.headers):
                return  # still within the head, which is parsed once more without this header
        if is_pipeline_full(len(self.pipeline), self._bounds.pipelined):
            raise _Rejected
        self._within_head, self._within_body, self._turns = False, True, True
        self._head.end()
        self._body.begin()
        self._all.head.end(self)
        self._all.idle.end(self)
        if self._prefix and self.url.startswith(self._prefix):
            self.url = self.url[len(self._prefix) - 1 :]
        self.scope["state"][TRANSPORT] = self.transport
        self._opening = self._open_early()
        if self._opening is None:
            self._begin_request()
        else:
            self._is_rejected = self._reject_early(self._opening, b"")

    def _check_opening(self) -> None:
        """Accept the opening of a WebSocket without a body. Java's, Dart's and Netty's clients say ``Content-Length: 0``."""
        if self._is_reply_due():
            raise _Rejected("a WebSocket is opened only after the replies to earlier requests")
        headers = dict(self.headers)
        if b"transfer-encoding" in headers or headers.get(b"content-length", b"0").strip(b"0"):
            raise _Rejected("a request for a WebSocket has no body")  # uvicorn would never answer it
        self.headers[:] = [header for header in self.headers if header[0] != b"content-length"]

    def _is_reply_due(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _begin_request(self) -> None:
        before = self.cycle
        if self._is_reply_due():
            self._earlier.append(before)
        super().on_headers_complete()
        if self.cycle is not before:  # the opening of a WebSocket has no cycle
            self.cycle.transport = _ReplyTransport(self.transport)

    def _open_early(self) -> Opening | None:
        """Check the head of a request that may be rejected early; None if it must be read to its end first."""
        early, parser = self._all.early_refusal, self.parser
        if early is None or self._is_reply_due() or parser.should_upgrade() or not parser.should_keep_alive():
            return None
        if self._all.is_full:
            return None
        return early.open(parser.get_method(), self.url, self.headers)

    def _reject_early(self, opening: Opening, body: bytes) -> bool:
        """Send 429 if an image that begins so does not fit into the queue. Return True if it was sent."""
        early = self._all.early_refusal
        if early is None or (reply := early.rejection(opening, self.headers, body)) is None:
            return False
        self._stop_awaiting_first_bytes()
        self._opening = None
        self._write(reply)
        self._all.idle.begin(self)
        return True

    def _accept(self) -> None:
        """Make a request of a head that was not rejected early."""
        self._stop_awaiting_first_bytes()
        self.scope["state"][OPENING] = self._opening
        self._opening = None
        self._begin_request()

    def on_body(self, body: bytes) -> None:
        """A piece of the body. The first one says whether the request is rejected early. It is often the whole body: it is
        passed on as it is, where uvicorn would copy it twice.
        """
        self._body.body_bytes += len(body)
        if self._is_rejected:
            return
        if self._opening is not None:
            self._is_rejected = self._reject_early(self._opening, body)
            if self._is_rejected:
                return
            self._accept()
        held: object = self.cycle.body
        if not held:
            self.cycle.body = b""  # type: ignore[assignment]  # `b"" + body` is `body` (no copy), and so is `bytes(body)`
        elif isinstance(held, bytes):
            self.cycle.body = bytearray(held)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of the body; or of a head that is parsed once more."""
        if self._within_head:
            return
        self._within_body, self._turns = False, True
        if self._awaits_body:
            self._awaits_body = False
            self._all.body.end(self)
        self._complete_s = self.loop.time()
        if self._is_rejected:
            self._is_rejected = False
            return
        if self._opening is not None:  # there was no body
            self._accept()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A reply is out. Wait for the next head, unless another request has come already."""
        replied = self._earlier.popleft() if self._earlier else self.cycle
        if isinstance(replied.transport, _ReplyTransport):
            replied.transport.end()
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            (self._all.head if self._within_head else self._all.idle).begin(self)

    def pause_writing(self) -> None:
        """The buffers of both ends are full. Begin to wait for the other end to read."""
        super().pause_writing()
        self._all.reader.begin(self)

    def resume_writing(self) -> None:
        """The other end reads."""
        self._all.reader.end(self)
        super().resume_writing()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn closes
        """Close; but where complete requests wait for their replies, send those first: the other end may have closed one
        direction only (``shutdown(SHUT_WR)``).

        Gives:
            True if the connection stays open
        """
        if not self._is_reply_due() or (self._within_body and not self._earlier):
            return False
        self.cycle.keep_alive = False
        waited_s = self.loop.time() - self._complete_s
        self.loop.call_later(max(0.0, self._bounds.probe_after_s - waited_s), self._probe)
        return True

    def _probe(self) -> None:
        """Cancel the requests of a half-closed connection whose other end does not read any more.

        TCP has one signal for "I send no more" and "I am gone". The difference shows only after something is sent: a closed
        socket answers with a reset. So the first bytes of the reply are sent before the rest is known.
        """
        if self.transport.is_closing() or not self._is_reply_due():
            return
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
            return
        if not self._earlier and isinstance(reply := self.cycle.transport, _ReplyTransport):
            reply.begin()
        self.loop.call_later(self._bounds.probe_s, self._probe)

    def send_400_response(self, msg: str) -> None:
        """Reject malformed HTTP, and close. Where replies to earlier requests are due, send those first, and no rejection: it
        would be taken for one of them. Nor is one sent where the reply to this very request has begun.

        Takes:
            msg: what is wrong; empty where the parser does not say
        """
        if self._head.is_exceeded or self._body.is_exceeded:
            status, code = 431, "head_too_large"
            limit = self._bounds.head_bytes
            detail = f"a request line, its headers and its trailers have at most {limit} bytes together"
            if self._within_body:
                detail += f", and between the chunks of a body come at most {limit} bytes more than a quarter of the body"
        else:
            status, code = 400, "bad_request"
            detail = msg or "this is not an HTTP/1.1 request"
        self._all.on_refusal(code)
        reply = problems.refusal(status, code, detail)
        if self._is_reply_due() and not self._within_body:
            self._is_broken = True
            self.cycle.keep_alive = False
            return
        if not self._earlier and not (self._within_body and self.cycle is not None and self.cycle.response_started):
            head = [f"HTTP/1.1 {status} {problems.phrase(status)}".encode(), b"connection: close"]
            head += [b"%b: %b" % header for header in reply.raw_headers]
            self._write(b"\r\n".join([*head, b"", bytes(reply.body)]))
        self.transport.close()

    def give_up(self, reason: str) -> None:
        """Close without a reply, because something took too long. A caller who does not read loses the end of a reply.

        Takes:
            reason: the code to count it by; that an idle connection is closed does not count
        """
        is_idle = reason == self._all.idle.reason and not self._within_head
        if not is_idle:
            self._all.on_refusal(reason)
        if self._within_body or reason == self._all.reader.reason:
            self.transport.abort()
            return
        self.transport.close()
        self.loop.call_later(self._bounds.close_s, self.transport.abort)

    def evict(self) -> None:
        """Close at once."""
        self.transport.abort()

    def _write(self, data: bytes) -> None:
        """Write, unless the other end has reset the connection: uvloop raises then."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def _stop_awaiting_first_bytes(self) -> None:
        if self._first_bytes is not None:
            self._first_bytes.cancel()
            self._first_bytes = None


def _new_parser(connection: Connection) -> httptools.HttpRequestParser:
    """Make a parser as uvicorn makes that of a new connection."""
    parser = httptools.HttpRequestParser(connection)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


class _ReplyTransport(asyncio.Transport):
    """The transport of one request. The head of its reply waits for the first piece of the body: one write of both saves the
    kernel, and the caller, half of their work. ASGI sends no head before there is a piece of the body.
    """

    __slots__ = ("_head", "_is_begun", "_is_out", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self._is_begun = self._is_out = False

    def begin(self) -> None:
        """Send the first bytes of every reply, unless they are out already. The head leaves them out then."""
        if not (self._is_begun or self._head or self._is_out):
            self._is_begun = True
            self._transport.write(REPLY_BEGINS)

    def write(self, data: bytes) -> None:  # type: ignore[override]  # what uvicorn gives it
        """Keep the head; write it with what comes next, and everything else at once."""
        if self._head:
            head, self._head, self._is_out = self._head, b"", True
            self._transport.writelines((head, data))
        elif self._is_out or data.startswith(INTERIM):
            self._transport.write(data)
        else:
            self._head = data.removeprefix(REPLY_BEGINS) if self._is_begun else data

    def end(self) -> None:
        """Write the head of a reply without a body."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        """Write what is left, and close."""
        self.end()
        self._transport.close()

    def is_closing(self) -> bool:
        """Return whether the connection closes."""
        return self._transport.is_closing()


class StreamConnection(WebSocketsSansIOProtocol):
    """A WebSocket with bounds on what waits to be sent. For ``uvicorn.Config(ws=StreamConnection)``, which gives the arguments.

    A caller who does not read is noticed soon, and cannot keep the connection when the stream is over.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = self.conn.logger = _log

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, STREAM_BUFFER_BYTES)
        super().connection_made(transport)

    async def send(self, message: ASGISendEvent) -> None:
        """Send a message.

        Raises:
            ClientDisconnected: if the caller is gone, even where uvicorn has not heard of it yet
        """
        try:
            await super().send(message)
        except RuntimeError:  # uvloop's, of a transport that is closed
            if not self.transport.is_closing():
                raise
            raise ClientDisconnected from None
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True  # by a refusal; uvicorn would log that there was none

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """Close the connection soon after the application has ended."""
        super().on_task_complete(task)
        connections: Connections = self.app_state[CONNECTIONS]
        self.loop.call_later(connections.bounds.close_s, self.transport.abort)
