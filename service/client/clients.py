"""``Client``, and ``AsyncClient`` for asyncio. The files beside this one hold what they share."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

import httpx

from service.client.budget import DEFAULT_TIMEOUTS, OUT_OF_TIME, Budget, ConnectionFailed, TimedOut, Timeouts
from service.client.calls import (
    FREESPACE,
    VOLUME_DEADLINE_MS,
    ApiKey,
    Call,
    MaskQuery,
    encoded_call,
    http_options,
    segment_call,
    volume_call,
)
from service.client.images import image_bytes
from service.client.replies import (
    Reply,
    parse_catalogue,
    parse_encoded,
    parse_freespace,
    parse_mask,
    parse_volume,
    raise_for_problem,
    wire_error,
)
from service.client.results import Catalogue, FrameWithoutMask, LabelVolume, Mask
from service.client.stream import stream_call, streamed, streamed_async
from service.encodings import Encoded
from service.encodings.freespace import Freespace
from service.errors import ServiceError

if TYPE_CHECKING:
    from service.client.images import ImageLike, StampedFrame

DEFAULT_URL = "http://127.0.0.1:8000"


class Client:
    """Calls a server, one call at a time a thread; threads may share it, and then share its connections.

    Takes:
        url: where the server is, from its ``http://`` on
        api_key: sent as ``X-API-Key``; never shown
        timeouts: see :class:`Timeouts`
        retries: attempts after the first
        connections: kept open at the most
        transport: instead of httpx's own, for a proxy, a Unix socket or a test
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        retries: int = 8,
        connections: int = 16,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._timeouts, self._retries = timeouts, retries
        self._auth = None if api_key is None else ApiKey(api_key)
        self._http = httpx.Client(transport=transport, **http_options(url, self._auth, connections))

    def segment(
        self,
        image: ImageLike,
        model: str | None = None,
        *,
        classes: Iterable[str | int] | None = None,
        min_confidence: float | None = None,
        ids: str | None = None,
        statistics: bool = False,
        instances: bool = False,
        min_area: int = 0,
        deadline_ms: float | None = None,
        frame_id: str | None = None,
        frame_stamp: str | None = None,
    ) -> Mask:
        """Segment one image.

        Takes:
            image: an image file's path or bytes; or an H x W x 3 uint8 RGB array; or an H x W grey one of uint8, uint16 or
                float32; or a Pillow image, taken as its pixels are (its EXIF orientation is not applied)
            model: the server's default by default
            classes: names or ids to keep; pixels of other classes become 255
            min_confidence: 0..1; pixels of which the network is less sure become 255
            ids: the table of class ids, ``cityscapes-train``, ``cityscapes-label`` or ``autoware``; the model's own by default
            statistics: whether the bounding box and the mean confidence of each class come with the mask
            instances: whether the things of countable classes come one by one, as ``mask.instances``
            min_area: pixels; smaller things are dropped
            deadline_ms: when the mask is of no use any more, counted from now
            frame_id, frame_stamp: come back with the mask
        Gives:
            the mask, of the upright image's size
        Raises:
            ServiceError: see the module
            OSError: if the file cannot be read
            TypeError, ValueError: if ``image`` is of another kind, or a text cannot travel in a header
        """
        query = MaskQuery(model, classes, min_confidence, ids, statistics, instances, min_area)
        call = segment_call(image_bytes(image), query, deadline_ms, frame_id, frame_stamp)
        return parse_mask(self._exchange(call))

    def segment_as(self, image: ImageLike, format: str, *, deadline_ms: float | None = None, **query: object) -> Encoded:  # noqa: A002
        """Segment one image, and return the mask in any format, as the server wrote it.

        Takes:
            image: as for :meth:`segment`
            format: a value of ``format``, such as ``overlay`` or ``coco-dataset``; ``service.encodings.decode`` reads those
                that hold labels
            deadline_ms: when the mask is of no use any more, counted from now
            query: the other options of ``POST /segment``, such as ``legend=True`` or ``classes=["car", "road"]``
        Gives:
            the bytes, and their media type
        Raises:
            as :meth:`segment`
        """
        return parse_encoded(self._exchange(encoded_call(image_bytes(image), format, query, deadline_ms)))

    def freespace(
        self, image: ImageLike, model: str | None = None, *, deadline_ms: float | None = None, **query: object
    ) -> Freespace:
        """Find the free space of one image: the first thing of each column that is not drivable, and a scan with a camera.

        Takes:
            image, model, deadline_ms: as for :meth:`segment`
            query: the other options of ``format=freespace``, such as ``drivable=["road"]``, ``fx=900``, ``camera_height=1.4``
        Gives:
            rows, labels and confidences of the columns; with ``fx`` and ``camera_height`` also distances and a scan
        Raises:
            as :meth:`segment`
        """
        call = encoded_call(image_bytes(image), FREESPACE, {"model": model, **query}, deadline_ms)
        return parse_freespace(self._exchange(call))

    def segment_volume(
        self,
        scan: str | os.PathLike[str] | bytes,
        model: str | None = None,
        *,
        classes: Iterable[str | int] | None = None,
        min_confidence: float | None = None,
        deadline_ms: float = VOLUME_DEADLINE_MS,
    ) -> LabelVolume:
        """Segment one scan.

        Takes:
            scan: path or bytes of a NIfTI file (``.nii``, ``.nii.gz``), a DICOM slice, or a zip of a DICOM series
            model: the server's first model for scans by default
            classes, min_confidence: as for :meth:`segment`
            deadline_ms: when the labels are of no use any more, counted from now
        Gives:
            the label volume in the scan's own grid
        Raises:
            as :meth:`segment`
        """
        return parse_volume(self._exchange(volume_call(image_bytes(scan), model, classes, min_confidence, deadline_ms)))

    def stream(
        self,
        frames: Iterable[ImageLike | StampedFrame],
        model: str | None = None,
        *,
        classes: Iterable[str | int] | None = None,
        min_confidence: float | None = None,
        ids: str | None = None,
        statistics: bool = False,
        instances: bool = False,
        min_area: int = 0,
        deadline_ms: float | None = None,
        every: bool = False,
        without_mask: Callable[[FrameWithoutMask], object] | None = None,
    ) -> Iterator[Mask]:
        """Segment the frames of a camera through one connection (``WS /stream``): the newest frame wins.

        Frames are taken on a thread, as fast as they come. While one is in work and a newer one comes, the one that
        waits is superseded: it is never computed. So no mask is older than it must be, however slow the server is.

        A stream is not resumed: where the connection breaks, ``ConnectionFailed`` is raised, and the frames under way are lost,
        with the one that is being taken. Call again with the same iterator to go on with the next frame: it is taken when the
        last stream is no longer waiting for its own. Opening it is tried again, as a request is.

        Takes:
            frames: images as ``segment`` takes them, or ``(image, frame_id, frame_stamp)`` of each, which come back
            model, classes, min_confidence, ids, statistics, instances, min_area: as for ``segment``
            deadline_ms: of each frame, from its arrival at the server
            every: wait for the server, so that no frame is superseded: for files, not for cameras
            without_mask: called, where the masks are taken, with each frame that was superseded or failed. Left out, a
                superseded frame is passed over, and one that failed raises its error, which ends the stream
        Gives:
            the masks, as they come: in the order of their frames
        Raises:
            ServiceError: see the module, and ``without_mask``
            ModuleNotFoundError: where the package ``websockets`` is missing
            whatever ``frames`` raises, when the frames before it are answered
        """
        params = MaskQuery(model, classes, min_confidence, ids, statistics, instances, min_area).params()
        call = stream_call(self._http.base_url, self._auth, self._timeouts, self._retries, params, deadline_ms)
        return streamed(call, frames, every, without_mask)

    def models(self) -> Catalogue:
        """List the models of the server."""
        return parse_catalogue(self._exchange(Call("GET", "/models")))

    def ready(self) -> bool:
        """Whether the server would serve a request now; False, too, if there is none."""
        try:
            return self._attempt(Budget(self._timeouts, 0), Call("GET", "/readyz")).status == httpx.codes.OK
        except (ConnectionFailed, TimedOut):
            return False

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _exchange(self, call: Call) -> Reply:
        budget = Budget(call.timeouts(self._timeouts), self._retries, call.deadline_ms)
        while True:
            try:
                reply = self._attempt(budget, call)
                raise_for_problem(reply)
            except ServiceError as error:
                time.sleep(budget.pause_after(error))
            else:
                return reply

    def _attempt(self, budget: Budget, call: Call) -> Reply:
        request = call.to_request(self._http, budget)
        try:
            response = self._http.send(request, stream=True)
            try:
                # httpx bounds the wait for each piece; a server that drips is stopped here.
                content = b"".join(budget.while_it_lasts(response.iter_bytes()))
            finally:
                response.close()
        except httpx.RequestError as error:
            raise wire_error(error) from error
        return Reply(response.status_code, response.headers, content)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._http.base_url!r})"  # httpx hides a password in it


class AsyncClient:
    """:class:`Client` for asyncio: the same calls, awaited; many may run at once."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        retries: int = 8,
        connections: int = 16,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._timeouts, self._retries = timeouts, retries
        self._auth = None if api_key is None else ApiKey(api_key)
        self._http = httpx.AsyncClient(transport=transport, **http_options(url, self._auth, connections))

    async def segment(
        self,
        image: ImageLike,
        model: str | None = None,
        *,
        classes: Iterable[str | int] | None = None,
        min_confidence: float | None = None,
        ids: str | None = None,
        statistics: bool = False,
        instances: bool = False,
        min_area: int = 0,
        deadline_ms: float | None = None,
        frame_id: str | None = None,
        frame_stamp: str | None = None,
    ) -> Mask:
        """Segment one image: see :meth:`Client.segment`."""
        body = await asyncio.to_thread(image_bytes, image)
        query = MaskQuery(model, classes, min_confidence, ids, statistics, instances, min_area)
        call = segment_call(body, query, deadline_ms, frame_id, frame_stamp)
        return await asyncio.to_thread(parse_mask, await self._exchange(call))

    async def segment_as(
        self,
        image: ImageLike,
        format: str,  # noqa: A002
        *,
        deadline_ms: float | None = None,
        **query: object,
    ) -> Encoded:
        """Segment one image, and return the mask in any format: see :meth:`Client.segment_as`."""
        body = await asyncio.to_thread(image_bytes, image)
        return parse_encoded(await self._exchange(encoded_call(body, format, query, deadline_ms)))

    async def freespace(
        self, image: ImageLike, model: str | None = None, *, deadline_ms: float | None = None, **query: object
    ) -> Freespace:
        """Find the free space of one image: see :meth:`Client.freespace`."""
        body = await asyncio.to_thread(image_bytes, image)
        return parse_freespace(await self._exchange(encoded_call(body, FREESPACE, {"model": model, **query}, deadline_ms)))

    async def segment_volume(
        self,
        scan: str | os.PathLike[str] | bytes,
        model: str | None = None,
        *,
        classes: Iterable[str | int] | None = None,
        min_confidence: float | None = None,
        deadline_ms: float = VOLUME_DEADLINE_MS,
    ) -> LabelVolume:
        """Segment one scan: see :meth:`Client.segment_volume`."""
        body = await asyncio.to_thread(image_bytes, scan)
        reply = await self._exchange(volume_call(body, model, classes, min_confidence, deadline_ms))
        return await asyncio.to_thread(parse_volume, reply)

    def stream(
        self,
        frames: Iterable[ImageLike | StampedFrame] | AsyncIterable[ImageLike | StampedFrame],
        model: str | None = None,
        *,
        classes: Iterable[str | int] | None = None,
        min_confidence: float | None = None,
        ids: str | None = None,
        statistics: bool = False,
        instances: bool = False,
        min_area: int = 0,
        deadline_ms: float | None = None,
        every: bool = False,
        without_mask: Callable[[FrameWithoutMask], object] | None = None,
    ) -> AsyncIterator[Mask]:
        """Segment a camera's frames: see :meth:`Client.stream`. ``frames`` may be asynchronous; if not, it runs on a thread.

        An asynchronous generator ends with the stream that waits for its next frame, as asyncio cancels it there. Open a new
        one to go on: one that has ended is a ``ValueError``.
        """
        params = MaskQuery(model, classes, min_confidence, ids, statistics, instances, min_area).params()
        call = stream_call(self._http.base_url, self._auth, self._timeouts, self._retries, params, deadline_ms)
        return streamed_async(call, frames, every, without_mask)

    async def models(self) -> Catalogue:
        """List the models of the server."""
        return parse_catalogue(await self._exchange(Call("GET", "/models")))

    async def ready(self) -> bool:
        """Whether the server would serve a request now; False, too, if there is none."""
        try:
            return (await self._attempt(Budget(self._timeouts, 0), Call("GET", "/readyz"))).status == httpx.codes.OK
        except (ConnectionFailed, TimedOut):
            return False

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _exchange(self, call: Call) -> Reply:
        budget = Budget(call.timeouts(self._timeouts), self._retries, call.deadline_ms)
        while True:
            try:
                reply = await self._attempt(budget, call)
                raise_for_problem(reply)
            except ServiceError as error:
                await asyncio.sleep(budget.pause_after(error))
            else:
                return reply

    async def _attempt(self, budget: Budget, call: Call) -> Reply:
        request = call.to_request(self._http, budget)
        try:
            async with asyncio.timeout(budget.left_s()):
                response = await self._http.send(request)
        except TimeoutError as error:
            raise TimedOut(OUT_OF_TIME) from error
        except httpx.RequestError as error:
            raise wire_error(error) from error
        return Reply(response.status_code, response.headers, response.content)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self._http.base_url!r})"
