"""A client of HTTP/2 by hand, for callers that no library writes: those who send nothing, and those who read nothing."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple, Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM = ACK = 1
END_HEADERS = 4
INITIAL_WINDOW_SIZE = 4
"""The setting that says how many bytes of a stream may come unasked."""


class Frame(NamedTuple):
    """A frame of HTTP/2 (RFC 9113, section 4)."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class Caller:
    """One connection that speaks HTTP/2 with prior knowledge. It grants no window unless it is told to.

    Takes:
        port: on 127.0.0.1
        window: bytes that each reply may have before more is granted
    """

    def __init__(self, port: int, window: int = 65_535) -> None:
        self.link = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._next = 1
        self.link.sendall(PREFACE)
        self.send(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, window))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.link.close()

    def send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        """Send a frame."""
        self.link.sendall(len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload)

    def call(self, path: str) -> int:
        """Begin a call of gRPC, and return its stream."""
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "localhost",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        # Literal fields without indexing, names and values as they are (RFC 7541, section 6.2.2).
        block = b"".join(
            b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
            for name, value in fields.items()
        )
        stream, self._next = self._next, self._next + 2
        self.send(HEADERS, END_HEADERS, stream, block)
        return stream

    def message(self, stream: int, body: bytes) -> None:
        """Send the one message of a call, at most as long as the window that a server grants at first."""
        framed = b"\0" + struct.pack(">I", len(body)) + body
        for at in range(0, len(framed), 16_384):
            end = END_STREAM if at + 16_384 >= len(framed) else 0
            self.send(DATA, end, stream, framed[at : at + 16_384])

    def frames(self) -> Iterator[Frame]:
        """Yield what comes, until the connection ends. Settings and pings are acknowledged."""
        while True:
            head = self._read(9)
            if head is None:
                return
            payload = self._read(int.from_bytes(head[:3], "big"))
            if payload is None:
                return
            frame = Frame(head[3], head[4], int.from_bytes(head[5:9], "big") & 0x7FFF_FFFF, payload)
            if frame.kind in (SETTINGS, PING) and not frame.flags & ACK:
                self.send(frame.kind, ACK, 0, payload if frame.kind == PING else b"")
            yield frame

    def _read(self, size: int) -> bytes | None:
        parts = bytearray()
        while len(parts) < size:
            try:
                part = self.link.recv(size - len(parts))
            except ConnectionResetError:
                return None
            if not part:
                return None
            parts += part
        return bytes(parts)
