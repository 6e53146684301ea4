"""The bytes on the wire. The body of a request as images: read as a stream, counted as it comes, refused the moment that it
is too large; and replies to peers who are slower than they should be.

A body is either the image itself (whatever its Content-Type says: the bytes decide what it is), or ``multipart/form-data``
with one or several parts named ``image``. Nothing is spooled to disk, and no more than the limit is ever held.

May import: starlette, python_multipart, ``service.errors``, ``service.api.compression``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.compression import Inflater
from service.errors import BadParameter, BodyTooLarge, DeadlineExceeded, EmptyBody, Overloaded

FIELD = "image"
"""The one form field that there is; everything else about a request is said in the query or in headers."""

MAX_PARTS = 64
"""Images a request."""

MULTIPART_ALLOWANCE = 64 * 1024
"""Bytes that boundaries and part headers may add to the images of a form: 1 KiB for each of the parts allowed."""

LINGER_S = 2.0
"""How long the rest of a refused upload is read and dropped, so that a sender who has not finished can still see the reply."""

UPLOADS_AT_ONCE = 8
"""How many of the largest bodies may be in memory together; of smaller ones accordingly more."""

UPLOAD_S = 30.0
"""How long a body may take to arrive, whatever deadline its sender names: it holds memory."""

ABORT = "abort"
"""The entry of a request's state that ends its connection at once, if there is one."""

REPLY_S = 30.0
"""How long a mask may take to be read."""
PIECE_BYTES = 256 * 1024

T = TypeVar("T")


class Uploads:
    """The bodies of all requests together: no more of them is held than fits.

    Takes:
        capacity: bytes
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.size = 0
        """Bytes held now."""

    @contextlib.contextmanager
    def one_more(self) -> Iterator[Callable[[int], None]]:
        """Hold a body for as long as this lasts.

        Gives:
            to be called with the size of each piece that comes in; raises Overloaded if it does not fit
        """
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            held += size
            self.size += size
            if self.size > self._capacity:
                raise Overloaded("too many uploads at once; try again in 1 s", retry_after_s=1.0)

        try:
            yield hold
        finally:
            self.size -= held


@contextlib.asynccontextmanager
async def arriving() -> AsyncIterator[None]:
    """A body arrives meanwhile.

    Raises:
        DeadlineExceeded: if that takes too long
    """
    timer = asyncio.timeout(UPLOAD_S)
    try:
        async with timer:
            yield
    except TimeoutError:
        if not timer.expired():
            raise
        limit_ms = 1000 * UPLOAD_S
        raise DeadlineExceeded(f"the body did not arrive within {limit_ms:g} ms", deadline_ms=limit_ms) from None


@dataclass(frozen=True)
class ImageFile:
    """One image of a request."""

    data: bytes = field(repr=False)
    name: str | None = None
    """Its file name, as the form has it: any text."""


async def read_images(request: Request, max_bytes: int, hold: Callable[[int], None] = lambda _: None) -> list[ImageFile]:
    """Read the images of a request, in order.

    Takes:
        request: one whose body nobody has touched
        max_bytes: limit for all images of the request together
        hold: called with the size of each piece of the body, before it is kept
    Gives:
        at least one image, none of them empty; exactly one, without a name, where the body is not a form
    Raises:
        BodyTooLarge: at once if Content-Length says so, otherwise as soon as the bytes that came do
        Overloaded: if ``hold`` says so
        EmptyBody: if there is no body, or a part without bytes
        BadParameter: if the form is broken, has no ``image``, another field, or too many parts
        ClientDisconnect: if the sender went away
    """
    media_type, options = parse_options_header(request.headers.get("content-type"))
    if not media_type.startswith(b"multipart/"):
        return [ImageFile(await _read_raw(request, max_bytes, hold))]
    if media_type != b"multipart/form-data" or not options.get(b"boundary"):
        raise BadParameter("a form must be multipart/form-data and name its boundary", parameter="Content-Type")
    return await _read_form(request, options[b"boundary"], max_bytes, hold)


async def read_body(request: Request, max_bytes: int, hold: Callable[[int], None], coding: str | None = None) -> bytes:
    """The body of a request, whatever it is.

    Takes:
        request: one whose body nobody has touched
        max_bytes: limit for the body as it is used, which is not as it was sent where it was compressed
        hold: called with the size of each piece of the body, before it is kept
        coding: how it was compressed: ``Content-Encoding``
    Raises:
        BodyTooLarge: at once if Content-Length says so, otherwise as soon as the bytes that came do, inflated piece by piece
        Overloaded: if ``hold`` says so
        BadParameter: if it is not compressed as it says
        HTTPException: 415, if there is no such coding
        ClientDisconnect: if the sender went away
    """
    _check_announced(request, max_bytes)
    inflater = Inflater(coding)
    pieces, size = [], 0
    async for chunk in request.stream():
        for piece in inflater.pieces(chunk):
            size += len(piece)
            if size > max_bytes:
                raise _too_large(max_bytes)
            hold(len(piece))
            pieces.append(piece)
            if not inflater.is_idle:
                await asyncio.sleep(0)  # a chunk may have much in it, and others wait
    inflater.end()
    return b"".join(pieces)


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Await some work for as long as somebody waits for its result.

    Takes:
        request: one whose body has been read to its end
        work: cancelled where the caller goes away
    Raises:
        ClientDisconnect: if that happened
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        watching.cancel()
        del working  # it knows the error, whose traceback knows this frame


class LingeringResponse(Response):
    """A reply to an upload that is still coming in: said at once, then the connection is read a little longer and closed.

    Closing at once would make the kernel answer the bytes under way with a reset, which many clients report instead of the
    reply. Reading everything would let the sender decide how long that takes.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  (ASGI's signature)
        """Send the reply, drop what still comes, end."""
        self.headers["Connection"] = "close"
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_drained(receive), LINGER_S)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class TimelyResponse(Response):
    """A reply whose reader has a time to take it in: what nobody reads would stay in memory as long as he likes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the reply piece by piece, as fast as it is taken; cut it off where that takes too long."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async with asyncio.timeout(REPLY_S):
                for at in range(0, len(self.body) or 1, PIECE_BYTES):
                    end = at + PIECE_BYTES
                    await send({"type": "http.response.body", "body": self.body[at:end], "more_body": end < len(self.body)})
        except TimeoutError:
            # Not closed, which would wait for what is on its way to be read: that may be never.
            if abort := scope["state"].get(ABORT):
                abort()
                await _disconnected(receive)


async def _read_raw(request: Request, max_bytes: int, hold: Callable[[int], None]) -> bytes:
    body = await read_body(request, max_bytes, hold)
    if not body:
        raise EmptyBody(f"the body is empty: send an image's bytes, or a form with the field '{FIELD}'")
    return body


async def _read_form(request: Request, boundary: bytes, max_bytes: int, hold: Callable[[int], None]) -> list[ImageFile]:
    _check_announced(request, max_bytes, MULTIPART_ALLOWANCE)
    size = 0
    try:
        form = _Form(boundary, max_bytes)
        async for chunk in request.stream():
            size += len(chunk)
            if size > max_bytes + MULTIPART_ALLOWANCE:
                raise _too_large(max_bytes)
            hold(len(chunk))
            form.write(chunk)
    except FormParserError as error:
        raise BadParameter(f"the form cannot be read: {error}", parameter=FIELD) from error
    if not size:
        raise EmptyBody(f"the body is empty: send a form with the field '{FIELD}'")
    return form.images()


class _Form:
    """Collects the images of a form from the callbacks of a push parser."""

    def __init__(self, boundary: bytes, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parts: list[list[bytes]] = []
        self._file_names: list[str | None] = []
        self._size = 0
        self._header = self._value = b""
        self._name: bytes | None = None
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._add_to_header,
                "on_header_value": self._add_to_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._check_name,
                "on_part_data": self._add_data,
                "on_end": self._end,
            },
        )

    def write(self, chunk: bytes) -> None:
        if chunk:
            self._parser.write(chunk)

    def images(self) -> list[ImageFile]:
        if not self._ended:
            raise BadParameter("the form ends before its closing boundary", parameter=FIELD)
        if not self._parts:
            raise BadParameter(f"the form has no field: it wants '{FIELD}'", parameter=FIELD)
        images = [ImageFile(b"".join(part), name) for part, name in zip(self._parts, self._file_names, strict=True)]
        if not all(image.data for image in images):
            raise EmptyBody(f"a form field '{FIELD}' is empty: send an image's bytes in it")
        return images

    def _begin_part(self) -> None:
        if len(self._parts) == MAX_PARTS:
            raise BadParameter(f"more than {MAX_PARTS} parts in a form: send the rest in another request", parameter=FIELD)
        self._parts.append([])
        self._file_names.append(None)
        self._name = None

    def _add_to_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            options = parse_options_header(self._value)[1]
            self._name = options.get(b"name")
            if b"filename" in options:
                self._file_names[-1] = options[b"filename"].decode("utf-8", "replace")
        self._header = self._value = b""

    def _check_name(self) -> None:
        if self._name != FIELD.encode():
            found = "a part without a name" if self._name is None else repr(self._name[:64].decode(errors="replace"))
            raise BadParameter(
                f"the form field with the image must be named '{FIELD}', found {found}; parameters belong in the query",
                parameter=FIELD,
            )

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if self._size > self._max_bytes:
            raise _too_large(self._max_bytes)
        self._parts[-1].append(data[start:end])

    def _end(self) -> None:
        self._ended = True


def _check_announced(request: Request, max_bytes: int, allowance: int = 0) -> None:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes + allowance:
        raise _too_large(max_bytes, int(announced))


def _too_large(limit: int, actual: int | None = None) -> BodyTooLarge:
    found = "more came" if actual is None else f"{actual} are announced"
    return BodyTooLarge(
        f"at most {limit} bytes of image a request, {found}; compress it harder or scale it down",
        limit=limit,
        actual=actual,
        unit="bytes",
    )


async def _disconnected(receive: Callable[[], Awaitable[object]]) -> None:
    while True:
        message = await receive()
        if isinstance(message, dict) and message["type"] == "http.disconnect":
            return


async def _drained(receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
