"""``WS /stream``: frames in, masks out, and the newest frame wins.

For each frame the caller sends an optional text message ``{"frame_id": "...", "stamp": "..."}``, then a binary message with the
image file. Each frame gets exactly one answer, a text message with its number, its id and stamp, and one of three outcomes:

- ``mask``        ``media_type``, ``size [H, W]``, ``model``, ``timing`` in ms; a binary message with the mask follows at once
- ``superseded``  a newer frame came while this one waited: it is never computed
- ``error``       the problem document of this frame; the stream goes on

Of each stream one frame is in work and one waits, however fast they come. While masks are not read, no new one is begun. So no
delay builds up: the next frame in work is always the newest.

The query is that of ``POST /segment``. A refused stream gets the problem document that a request would get. Browsers hide that
from their pages, so ``GET /stream`` answers with the same document, or with 426 if the stream would be opened.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import itertools
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, WebSocket
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocketDisconnect

from service.api import problems, schemas
from service.api.form import ImageFile
from service.api.keys import Origins, offered_key
from service.api.record import MAX_FRAME_HEADER, RequestRecord, record_of
from service.api.segment import MaskRequest, parse_request
from service.api.services import Services, ServicesNow
from service.api.transport.bounds import bounds_of
from service.api.upload import Uploads
from service.encodings import FORMATS
from service.errors import BadParameter, NotReady, Overloaded, ServiceError
from service.serving.latest import Latest

SUBPROTOCOL = "fcn-serve"
"""Selected if it is offered: a browser that offers a key (below) must be answered with one of its protocols."""
KEY_SUBPROTOCOL = "fcn-serve.key."
"""A browser's page cannot set headers; it may offer this and its key in base64url as a second protocol."""

MAX_METADATA = 4096
"""Characters of the text before a frame."""

MAX_UNREAD = 1000
"""Answers that may wait to be sent, at most one of them a mask. A caller that reads none of them is disconnected."""

GOING_AWAY, RESTARTING = 1001, 1012

log = logging.getLogger(__name__)


class Streams:
    """All open streams, bounded in number and ended together. On the event loop only.

    Takes:
        limit: how many may be open at the same time
        origins: the pages that may open one
    """

    def __init__(self, limit: int, origins: Origins) -> None:
        self.origins = origins
        self.open = 0
        """Their number."""
        self.draining = asyncio.Event()
        self._limit = limit
        self._none_left = asyncio.Event()
        self._none_left.set()

    def check_limit(self) -> None:
        """Return None if one more may be opened.

        Raises:
            NotReady: if the service shuts down
            Overloaded: if the limit is reached
        """
        if self.draining.is_set():
            raise NotReady("the service is about to end; ask another instance")
        if self.open >= self._limit:
            raise Overloaded(f"{self.open} streams are open, and FCN_MAX_STREAMS allows no more", retry_after_s=1.0)

    @contextlib.contextmanager
    def one_more(self) -> Iterator[None]:
        """Count one more stream for as long as the block lasts.

        Raises:
            as :meth:`check_limit`
        """
        self.check_limit()
        self.open += 1
        self._none_left.clear()
        try:
            yield
        finally:
            self.open -= 1
            if not self.open:
                self._none_left.set()

    async def drain(self, timeout_s: float) -> None:
        """Open no more streams; let each answer the frame in work, and close it.

        Takes:
            timeout_s: how long to wait for them
        """
        self.draining.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._none_left.wait(), timeout_s)


async def _streams(connection: HTTPConnection) -> Streams:
    found: Streams = connection.app.state.streams
    return found


StreamsNow = Annotated[Streams, Depends(_streams)]


async def _authorise(connection: HTTPConnection, services: ServicesNow, streams: StreamsNow) -> None:
    streams.origins.check(connection.headers.get("origin"), connection.headers.get("host", ""))
    services.plane.keys.check(_offered_key(connection))


router = APIRouter(dependencies=[Depends(_authorise)])

ParseFrame = Callable[[RequestRecord], MaskRequest]
"""Makes the request of one frame: models may change while a stream is open."""


async def _check_opening(
    connection: HTTPConnection,
    query: Annotated[schemas.SegmentQuery, Query()],
    headers: Annotated[schemas.SegmentHeaders, Header()],
    services: ServicesNow,
    streams: StreamsNow,
) -> ParseFrame:
    """Return how frames are parsed, if the stream may be opened."""
    wanted = parse_request(record_of(connection.scope), query, headers, services)
    if wanted.unless_several is not None:  # a frame is one image
        raise wanted.unless_several
    streams.check_limit()
    return lambda record: parse_request(record, query, headers, services)


@router.get(
    "/stream",
    status_code=426,
    responses=schemas.refusals(401, 403, 404, 422, 426, 429, 503),
    dependencies=[Depends(_check_opening)],
)
async def stream_over_http() -> None:
    """`WS /stream`: frames in, masks out. Asked for without an upgrade, it says why a stream would be refused."""
    raise HTTPException(426, "open this as a WebSocket", headers={"Upgrade": "websocket", "Connection": "Upgrade"})


@router.websocket("/stream")
@router.websocket("/stream/")  # callers of WebSockets follow no redirect
async def stream(
    socket: WebSocket, parse: Annotated[ParseFrame, Depends(_check_opening)], services: ServicesNow, streams: StreamsNow
) -> None:
    """Serve one stream from its opening to its end."""
    with streams.one_more():
        await socket.accept(SUBPROTOCOL if SUBPROTOCOL in socket.scope["subprotocols"] else None)
        end = await _Stream(socket, record_of(socket.scope), services, parse).run(streams.draining)
        if end.code is not None:
            with contextlib.suppress(WebSocketDisconnect, TimeoutError):
                async with asyncio.timeout(bounds_of(socket.scope).reply_s):
                    await socket.close(end.code, end.reason)


class _Ended(Exception):
    """The reason why a stream ends.

    Takes:
        code: to close it with; None if the caller is gone
    """

    def __init__(self, code: int | None = None, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code, self.reason = code, reason


@dataclass(eq=False)
class _Frame:
    """One image of a stream."""

    data: bytes
    about: dict[str, str | None]
    record: RequestRecord
    seq: int
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def hold(self, uploads: Uploads) -> None:
        """Count its bytes among those that the service holds; raise Overloaded if they do not fit."""
        self.held.enter_context(uploads.one_more())(len(self.data))


@dataclass(frozen=True)
class _Outcome:
    """The answer to a frame."""

    name: str
    facts: dict[str, Any]
    mask: bytes | None = None


class _Stream:
    """One stream: a reader, a worker and a writer. The reader never waits for the others, so no old frames pile up.

    Takes:
        record: of the stream as a whole
        parse: makes the request of a frame
    """

    def __init__(self, socket: WebSocket, record: RequestRecord, services: Services, parse: ParseFrame) -> None:
        self._socket, self._record, self._services, self._parse = socket, record, services, parse
        self._frames: Latest[_Frame] = Latest()
        self._answers: asyncio.Queue[tuple[str, bytes | None]] = asyncio.Queue(MAX_UNREAD)

    async def run(self, draining: asyncio.Event) -> _Ended:
        """Run until the caller leaves, stops sending or stops reading, or until the service drains."""
        end = _Ended()
        try:
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(self._read())
                writing = tasks.create_task(self._write())
                working = tasks.create_task(self._work())
                await draining.wait()
                reading.cancel()
                self._frames.close()
                await working
                await self._answers.join()
                writing.cancel()
        except* _Ended as ends:
            end = next(each for each in ends.exceptions if isinstance(each, _Ended))
        else:
            end = _Ended(RESTARTING, "the service is about to end; ask another instance")
        finally:
            for frame in (self._frames.in_work, self._frames.waiting):
                if frame is not None:
                    frame.held.close()
        return end

    async def _read(self) -> None:
        idle_s = bounds_of(self._socket.scope).stream_idle_s
        about, defect = _NOTHING_SAID, None
        for seq in itertools.count():
            while True:
                try:
                    async with asyncio.timeout(idle_s):
                        message = await self._socket.receive()
                except TimeoutError:
                    raise _Ended(GOING_AWAY, f"no frame for {idle_s:g} s") from None
                if message["type"] == "websocket.disconnect":
                    raise _Ended
                if (data := message.get("bytes")) is not None:
                    break
                about, defect = _parse_metadata(message["text"])
            frame = _Frame(data, about, RequestRecord(f"{self._record.request_id}/{seq}"), seq)
            self._take(frame, defect)
            about, defect = _NOTHING_SAID, None

    def _take(self, frame: _Frame, defect: ServiceError | None) -> None:
        try:
            if defect is not None:
                raise defect
            frame.hold(self._services.uploads)
        except ServiceError as error:
            self._answer(frame, "error", problems.document(frame.record, error))
            return
        if (superseded := self._frames.put(frame)) is not None:
            self._answer(superseded, "superseded", {})

    async def _work(self) -> None:
        while (frame := await self._frames.next()) is not None:
            outcome = await self._segmented(frame)
            # Wait until the previous mask is sent; until then newer frames replace the waiting one.
            await self._answers.join()
            self._answer(frame, outcome.name, outcome.facts, outcome.mask)
            # The next frame is in work before this answer is sent: a caller that sends one frame an answer loses none.
            self._frames.done()

    async def _segmented(self, frame: _Frame) -> _Outcome:
        record = frame.record
        try:
            wanted = self._parse(record)
            async with wanted.deadline:
                (mask,) = await wanted.masks([ImageFile(frame.data)])
        except ServiceError as error:
            return _Outcome("error", problems.document(record, error))
        except Exception:
            log.exception("unhandled exception", extra={"fields": {"request_id": record.request_id}})
            return _Outcome("error", problems.internal_document(record))
        facts = {
            "media_type": FORMATS[wanted.format].media_type,
            "size": record.sizes[0],
            "model": record.model,
            **({} if record.uncertain is None else {"uncertain": round(record.uncertain, 4)}),
            **({"converted": record.converted} if record.converted else {}),
            "timing": {stage: round(1000 * spent_s, 2) for stage, spent_s in record.timing_s.items()},
        }
        return _Outcome("mask", facts, mask.body)

    def _answer(self, frame: _Frame, outcome: str, facts: dict[str, Any], mask: bytes | None = None) -> None:
        frame.held.close()
        self._record.frames[outcome] = self._record.frames.get(outcome, 0) + 1
        self._services.metrics.observe_frame(outcome, frame.record)
        text = json.dumps({"seq": frame.seq, **frame.about, "outcome": outcome, **facts})
        try:
            self._answers.put_nowait((text, mask))
        except asyncio.QueueFull:
            raise _Ended from None

    async def _write(self) -> None:
        reply_s = bounds_of(self._socket.scope).reply_s
        while True:
            text, mask = await self._answers.get()
            try:
                async with asyncio.timeout(reply_s):
                    await self._socket.send_text(text)
                    if mask is not None:
                        await self._socket.send_bytes(mask)
            except (WebSocketDisconnect, TimeoutError):  # gone, or not reading
                raise _Ended from None
            self._answers.task_done()


_NOTHING_SAID: dict[str, str | None] = {"frame_id": None, "stamp": None}


def _parse_metadata(text: str) -> tuple[dict[str, str | None], BadParameter | None]:
    """Return the text before a frame, or the reason why it cannot be read."""
    try:
        about = json.loads(text) if len(text) <= MAX_METADATA else None
    except (ValueError, RecursionError):
        about = None
    if (
        not isinstance(about, dict)
        or not about.keys() <= _NOTHING_SAID.keys()
        or not all(value is None or (isinstance(value, str) and len(value) <= MAX_FRAME_HEADER) for value in about.values())
    ):
        told = f'{{"frame_id": "...", "stamp": "..."}}, strings of at most {MAX_FRAME_HEADER} characters'
        return _NOTHING_SAID, BadParameter(f"the text before a frame must be {told}", parameter="metadata")
    return _NOTHING_SAID | about, None


def _offered_key(connection: HTTPConnection) -> str:
    """The caller's key: from a header, or from the protocols that a browser offers; empty if there is none."""
    if key := offered_key(connection.headers):
        return key
    for protocol in connection.scope.get("subprotocols", ()):
        if protocol.startswith(KEY_SUBPROTOCOL):
            encoded = protocol.removeprefix(KEY_SUBPROTOCOL)
            try:
                return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
            except (binascii.Error, ValueError):
                return ""
    return ""
