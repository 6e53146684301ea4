"""Compressed bodies (RFC 9110, section 8.4.1): ``gzip``, of one or several members (RFC 1952), and ``deflate``.

``deflate`` is a zlib stream (RFC 1950). Many senders leave its header out (RFC 1951), and that is read, too.

A body is inflated piece by piece, and the pieces are counted: a bomb is refused while it inflates. Replies are compressed at
the fastest level. A label map becomes a fiftieth of its size in a millisecond, and a slower level gains little.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from functools import lru_cache

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BadParameter

try:
    from isal.isal_zlib import compressobj
except ImportError:  # the same streams, more slowly
    from zlib import compressobj  # type: ignore[assignment]

CODINGS = {"gzip": 31, "deflate": 15}
"""Codings by their name in headers, the preferred first; with zlib's ``wbits``."""

PIECE_BYTES = 256 * 1024
"""The most that comes out at a time: a quarter of a millisecond's work."""

WORTHWHILE_BYTES = 1024
"""Shorter replies are not compressed."""

AT_ONCE_BYTES = 64 * 1024
"""Longer replies are compressed on another thread: this much takes the event loop a quarter of a millisecond."""

_LEVEL = 1

_GZIP, _ZLIB, _RAW = 31, 15, -15
"""``wbits`` of zlib's streams."""


class Inflater:
    """Undoes the coding of one body.

    Takes:
        coding: the header ``Content-Encoding``, a list; None, an empty one and ``identity`` leave everything as it is
    Raises:
        HTTPException: 415, if the coding is not read, or the body is compressed more than once
    """

    def __init__(self, coding: str | None) -> None:
        names = [word.strip().lower().removeprefix("x-") for word in (coding or "").split(",")]
        name = ", ".join(word for word in names if word not in ("", "identity")) or "identity"
        if name != "identity" and name not in CODINGS:
            detail = f"Content-Encoding {name[:64]!r} is not read; send {' or '.join(CODINGS)}, or a body as it is"
            raise HTTPException(415, detail, headers={"Accept-Encoding": ", ".join(CODINGS)})
        self._stream = None if name == "identity" else zlib.decompressobj(CODINGS[name])
        self._several = name == "gzip"
        """Whether another stream may follow the end of one."""
        self._first: bytes | None = b"" if name == "deflate" else None
        """The first byte of a ``deflate`` stream whose second one has not come; None when its kind is known."""

    @property
    def is_idle(self) -> bool:
        """Whether pieces come out as they go in."""
        return self._stream is None

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """Inflate a part of the body, in pieces of limited size.

        Takes:
            chunk: the next bytes of the body
        Raises:
            BadParameter: if the bytes are not such a stream
        """
        if self._stream is None:
            yield chunk
            return
        if self._first is not None and not (chunk := self._begun(chunk)):
            return
        piece = b""
        while chunk or len(piece) == PIECE_BYTES:  # a full piece may have left something behind
            if self._stream.eof:
                if not chunk:
                    return
                if not self._several or not chunk.startswith(b"\x1f"):
                    raise _unreadable("bytes follow its end")
                self._stream = zlib.decompressobj(_GZIP)
            try:
                piece = self._stream.decompress(chunk, PIECE_BYTES)
            except zlib.error as error:
                raise _unreadable(str(error)) from error
            chunk = self._stream.unconsumed_tail or self._stream.unused_data
            yield piece

    def _begun(self, chunk: bytes) -> bytes:
        """Choose the kind of a ``deflate`` stream by its first two bytes.

        Gives:
            the bytes to inflate; none if the second byte has not come
        """
        begun = (self._first or b"") + chunk
        if len(begun) < 2:
            self._first = begun
            return b""
        self._first = None
        has_header = begun[0] & 15 == zlib.DEFLATED and int.from_bytes(begun[:2]) % 31 == 0  # RFC 1950, section 2.2
        self._stream = zlib.decompressobj(_ZLIB if has_header else _RAW)
        return begun

    def end(self) -> None:
        """Return None if the body was whole.

        Raises:
            BadParameter: if its end is missing
        """
        if self._stream is not None and not self._stream.eof:
            raise _unreadable("its end is missing")


class CompressedJson:
    """Compresses replies in JSON for callers that accept it. Masks are compressed already, and pass untouched.

    Takes:
        app: the application below
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        coding = accepted_coding(_accept_encoding(scope)) if scope["type"] == "http" else None
        await self._app(scope, receive, send if coding is None else _Compressing(send, coding))


class _Compressing:
    """Sends one reply, compressed if it is worth it."""

    def __init__(self, send: Send, coding: str) -> None:
        self._send, self._coding = send, coding
        self._start: Message | None = None
        """The beginning of a reply that will be compressed, held until its length is known."""
        self._pieces: list[bytes] = []

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_worthwhile(Headers(raw=message["headers"])):
            self._start = message
        elif self._start is None or message["type"] != "http.response.body":
            await self._send(message)
        else:
            self._pieces.append(message.get("body", b""))
            if not message.get("more_body", False):
                await self._finish(self._start, b"".join(self._pieces))

    async def _finish(self, start: Message, body: bytes) -> None:
        small = len(body) <= AT_ONCE_BYTES
        body = compressed(body, self._coding) if small else await asyncio.to_thread(compressed, body, self._coding)
        headers = MutableHeaders(raw=list(start["headers"]))
        headers["Content-Encoding"], headers["Content-Length"] = self._coding, str(len(body))
        headers.add_vary_header("Accept-Encoding")
        await self._send({**start, "headers": headers.raw})
        for at in range(0, len(body), PIECE_BYTES):  # as fast as it is read
            end = at + PIECE_BYTES
            await self._send({"type": "http.response.body", "body": body[at:end], "more_body": end < len(body)})


def _accept_encoding(scope: Scope) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"accept-encoding"), None)


def _is_worthwhile(headers: Headers) -> bool:
    """Return whether a reply is JSON, long enough, and not compressed yet."""
    media_type = headers.get("content-type", "").partition(";")[0].strip()
    is_json = media_type == "application/json" or media_type.endswith("+json")
    length = headers.get("content-length", "")
    return is_json and "content-encoding" not in headers and length.isdecimal() and int(length) >= WORTHWHILE_BYTES


@lru_cache(maxsize=32)
def accepted_coding(header: str | None) -> str | None:
    """Choose the coding of a reply.

    Takes:
        header: the caller's ``Accept-Encoding``: codings with weights
    Gives:
        the one of ours with the highest weight; None if the reply must stay as it is
    """
    weights = dict(_weighted(word) for word in (header or "").split(","))
    best = max(CODINGS, key=lambda name: weights.get(name, 0.0))
    weight = weights.get(best, 0.0)
    return best if weight > 0 and weight >= weights.get("identity", 0.0) else None


def compressed(body: bytes, coding: str) -> bytes:
    """Compress a reply.

    Takes:
        coding: one of :data:`CODINGS`
    """
    stream = compressobj(_LEVEL, zlib.DEFLATED, CODINGS[coding])
    return bytes(stream.compress(body) + stream.flush())


def _weighted(word: str) -> tuple[str, float]:
    name, _, weight = word.strip().lower().partition(";")
    try:
        return name.strip(), float(weight.strip().removeprefix("q=")) if weight else 1.0
    except ValueError:
        return name.strip(), 0.0


def _unreadable(reason: str) -> BadParameter:
    message = f"the body is not what its Content-Encoding says: {reason}; send it whole, or as it is without that header"
    return BadParameter(message, parameter="Content-Encoding")
