"""Bodies on the wire: read as a stream, counted as they come, refused the moment that they are too large. And replies to
callers who are slower than they should be.

The body of an image request is the image itself, whatever its Content-Type says: the bytes decide. Or it is a form,
``multipart/form-data``, with one or several parts named ``image``. Either may be compressed. Nothing is spooled to disk, and no
more than the limit is ever held.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from io import BytesIO
from typing import TypeVar

from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.compression import Inflater
from service.api.form import FIELD, MULTIPART_ALLOWANCE, Form, ImageFile, too_large
from service.api.record import TRANSPORT
from service.api.transport.bounds import bounds_of
from service.errors import BadParameter, EmptyBody, Overloaded
from service.serving.deadline import Deadline, within

UPLOADS_AT_ONCE = 8
"""How many of the largest bodies may be in memory together; of smaller ones accordingly more."""

PIECE_BYTES = 256 * 1024
"""Bytes of a reply that are sent at a time."""

T = TypeVar("T")
Hold = Callable[[int], None]
"""Called with the size of each piece of a body, before it is kept. Raises Overloaded if it does not fit."""


class Uploads:
    """Bounds the bodies of all requests together.

    Takes:
        capacity: bytes
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._counting = threading.Lock()  # what is in shared memory is read on other threads
        self.size = 0
        """Bytes held now."""

    @contextlib.contextmanager
    def one_more(self) -> Iterator[Hold]:
        """Hold a body for as long as this lasts.

        Gives:
            to be called with the size of each piece that comes in; raises Overloaded if it does not fit
        """
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            with self._counting:
                held += size
                self.size += size
            if self.size > self._capacity:
                raise Overloaded("too many uploads at once; try again in 1 s", retry_after_s=1.0)

        try:
            yield hold
        finally:
            with self._counting:
                self.size -= held


def arriving(connection: HTTPConnection, deadline: Deadline | None = None) -> AbstractAsyncContextManager[object]:
    """Bound the time that a body takes to arrive, whatever deadline the request names: it holds memory.

    Takes:
        deadline: of the request, which the caller enforces. Where it ends the block sooner, there is no second timer
    Raises:
        DeadlineExceeded: in the block, if it takes too long
    """
    limit_s = bounds_of(connection.scope).upload_s
    if deadline is not None and deadline.left_s <= limit_s:
        return contextlib.nullcontext()
    return within(limit_s, "the body did not arrive")


async def read_images(request: Request, max_bytes: int, hold: Hold = lambda _: None) -> list[ImageFile]:
    """Read the images of a request, in order.

    Takes:
        request: one whose body has not been read
        max_bytes: limit for all images of the request together
        hold: called with the size of each piece of the body, before it is kept
    Gives:
        at least one image, none of them empty; exactly one, without a name, where the body is not a form
    Raises:
        BodyTooLarge: at once if Content-Length says so, otherwise as soon as the bytes that came do, inflated piece by piece
        Overloaded: if ``hold`` says so
        EmptyBody: if there is no body, or a part without bytes
        BadParameter: if the form is broken, has no ``image``, another field, or too many parts; or if the body is not
            compressed as its Content-Encoding says
        HTTPException: 415, if its Content-Encoding is not read
        ClientDisconnect: if the sender is gone
    """
    media_type, options = parse_options_header(request.headers.get("content-type"))
    if not media_type.startswith(b"multipart/"):
        body = await read_body(request, max_bytes, hold)
        if not body:
            raise EmptyBody(f"the body is empty: send an image's bytes, or a form with the field '{FIELD}'")
        return [ImageFile(body)]
    if media_type != b"multipart/form-data" or not options.get(b"boundary"):
        raise BadParameter("a form must be multipart/form-data and name its boundary", parameter="Content-Type")
    form, size = Form(options[b"boundary"], max_bytes), 0
    async for piece in _pieces(request, max_bytes, MULTIPART_ALLOWANCE, hold):
        size += len(piece)
        form.write(piece)
    if not size:
        raise EmptyBody(f"the body is empty: send a form with the field '{FIELD}'")
    return form.images()


async def read_body(request: Request, max_bytes: int, hold: Hold) -> bytes:
    """Read the body of a request, whatever it is.

    Takes:
        request: one whose body has not been read
        max_bytes: limit for the body as it is used: inflated, where it was compressed
        hold: called with the size of each piece of the body, before it is kept
    Raises:
        BodyTooLarge: at once if Content-Length says so, otherwise as soon as the bytes that came do, inflated piece by piece
        Overloaded: if ``hold`` says so
        BadParameter: if it is not compressed as it says
        HTTPException: 415, if the coding is not read
        ClientDisconnect: if the sender is gone
    """
    body = BytesIO()  # grows where it is; a list of pieces that is joined at the end would take the memory twice
    async for piece in _pieces(request, max_bytes, 0, hold):
        body.write(piece)
    return body.getvalue()


async def _pieces(request: Request, max_bytes: int, allowance: int, hold: Hold) -> AsyncIterator[bytes]:
    """Yield a body as it comes, inflated and counted. Several headers ``Content-Encoding`` are one list."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes + allowance:
        raise too_large(max_bytes, int(announced))
    inflater, came, size = Inflater(", ".join(request.headers.getlist("content-encoding"))), 0, 0
    async for chunk in request.stream():
        came += len(chunk)
        if came > max_bytes + allowance:  # of a compressed body: what inflates to nothing has a bound as well
            raise too_large(max_bytes)
        for piece in inflater.pieces(chunk):
            size += len(piece)
            if size > max_bytes + allowance:
                raise too_large(max_bytes)
            hold(len(piece))
            yield piece
            if not inflater.is_idle:
                await asyncio.sleep(0)  # a chunk may inflate to much, and other requests wait
    inflater.end()


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Await some work for as long as its caller is there.

    Takes:
        request: one whose body has been read to its end
        work: cancelled when the caller hangs up
    Raises:
        ClientDisconnect: if that happened
    """
    working = asyncio.current_task()
    assert working is not None  # noqa: S101  # this is a coroutine
    cancelled_before = working.cancelling()
    watching = asyncio.ensure_future(_cancel_if_gone(request, working))
    try:
        return await work
    except asyncio.CancelledError:
        is_here = not watching.done() or watching.cancelled()
        if is_here or working.uncancel() > cancelled_before:
            raise
    finally:
        watching.cancel()
        del working  # break the reference cycle task -> exception -> traceback -> frame
    raise ClientDisconnect


class LingeringResponse(Response):
    """A reply to an upload that is still coming in: sent at once, then the connection is read a little longer and closed.

    Closing at once would make the kernel answer the bytes under way with a reset, which many clients report instead of the
    reply. Reading everything would let the sender decide how long that takes.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the reply, drop what still comes, end."""
        self.headers["Connection"] = "close"
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_drained(receive), bounds_of(scope).linger_s)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class TimelyResponse(Response):
    """A reply that must be read in time: otherwise a caller who does not read keeps it in memory."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the reply piece by piece, as fast as it is read; cut it off where that takes too long."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async with asyncio.timeout(bounds_of(scope).reply_s):
                for at in range(0, len(self.body) or 1, PIECE_BYTES):
                    end = at + PIECE_BYTES
                    await send({"type": "http.response.body", "body": self.body[at:end], "more_body": end < len(self.body)})
        except TimeoutError:
            # Not closed: that would wait until what is on its way has been read, which may be never.
            if transport := scope["state"].get(TRANSPORT):
                transport.abort()
                await _disconnected(receive)


async def _cancel_if_gone(request: Request, working: asyncio.Task[object]) -> None:
    await _disconnected(request.receive)
    working.cancel()


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
