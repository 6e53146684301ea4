"""The other end of the wire: ``Client``, and its twin ``AsyncClient`` for asyncio.

::

    with Client("http://127.0.0.1:8000") as client:
        mask = client.segment("street.jpg")
    mask.labels      # H x W uint8, the class id of every pixel
    mask.classes     # what was found: id, name, pixels, share
    mask.timing      # milliseconds by stage, as the server measured them

    for mask in client.stream(camera):  # frames as they come: the newest wins

What goes wrong on the server is raised here as the same class, found by its ``code`` (``service.errors``), with the problem's
facts, ``status`` and ``request_id`` as attributes; a code that this version does not know is a plain ``ServiceError``. Two
more classes are the wire's own: ``ConnectionFailed`` and ``TimedOut``.

Segmentation is pure: the same image gives the same mask and leaves nothing behind. A POST is therefore safe to repeat, and is
repeated when the server sheds it or is not ready (429 and 503 with ``Retry-After``) and when the connection cannot be made or
breaks, for as long as the call's time allows.

May import: httpx, numpy, ``service.errors``, ``service.encodings``; Pillow only where the caller has already done so,
websockets only where he streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import importlib
import io
import json
import os
import queue
import random
import sys
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray

from service import __version__
from service.encodings import png, rle
from service.errors import BY_CODE, BodyTooLarge, NotReady, ServiceError

if TYPE_CHECKING:
    from PIL import Image
    from websockets.asyncio.client import ClientConnection as AsyncConnection
    from websockets.sync.client import ClientConnection

    ImageLike = str | os.PathLike[str] | bytes | bytearray | memoryview | NDArray[np.uint8] | Image.Image
    StampedFrame = tuple[ImageLike, str | None, str | None]

DEFAULT_URL = "http://127.0.0.1:8000"

_KEEP_ALIVE_S = 4.0
"""Idle connections are dropped a second before the server (uvicorn: 5 s) would, so that no request meets a closing one."""

_GRACE_S = 0.25
"""Beyond a request's own deadline: the time in which the server's answer to that deadline can still arrive."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 1.0
"""Pauses between attempts to reach a server that cannot be reached: each twice the one before."""

_USER_AGENT = f"fcn-serve-client/{__version__}"
_SHED = frozenset((429, 503))
_PROSE = frozenset(("type", "title", "detail", "error"))
_PNG_MODES = frozenset(("1", "L", "LA", "P", "RGB", "RGBA", "I;16"))


class ConnectionFailed(ServiceError):
    """The server could not be reached, or hung up before its answer was complete."""

    code = "connection_failed"


class TimedOut(ServiceError):
    """The server did not answer in the time that the caller gave it."""

    code = "timed_out"


@dataclass(frozen=True)
class Timeouts:
    """How long to wait, in seconds; ``total_s`` is the one that a caller feels, the others find a dead server sooner."""

    connect_s: float = 2.0
    """For a connection."""
    write_s: float = 10.0
    """For the network to take the next piece of the image."""
    read_s: float = 30.0
    """For the next piece of the answer."""
    total_s: float = 60.0
    """For the whole call, with all its attempts and the pauses between them."""


@dataclass(frozen=True)
class ClassPresent:
    """A class that occurs in a mask."""

    id: int
    name: str
    pixels: int
    share: float
    """Of all pixels, 0..1."""
    bbox: tuple[int, int, int, int] | None = None
    """(x, y, width, height) in pixels, where statistics were asked for."""
    confidence: float | None = None
    """The mean over its pixels, 0..1, where statistics were asked for."""


@dataclass(frozen=True)
class ModelIdentity:
    """Which model made a mask."""

    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, eq=False)
class Mask:
    """What became of one image."""

    labels: NDArray[np.uint8]
    """H x W uint8, of the upright image's own size: the class id of every pixel; 255 is unlabelled."""
    classes: tuple[ClassPresent, ...]
    """Those that occur, in the order of their ids."""
    model: ModelIdentity
    timing: dict[str, float]
    """Milliseconds that the server spent, by stage."""
    request_id: str
    """Names the request in the server's log."""
    frame_id: str | None
    frame_stamp: str | None
    """As they were given to ``segment``, to match the mask with its frame."""


@dataclass(frozen=True)
class FrameWithoutMask:
    """A frame of a stream that has no mask."""

    frame_id: str | None
    frame_stamp: str | None
    error: ServiceError | None
    """What went wrong with it; None if it was superseded by a newer one."""


@dataclass(frozen=True)
class ClassEntry:
    """One row of a model's class table."""

    id: int
    name: str
    color: tuple[int, int, int]
    """RGB, 0..255."""


@dataclass(frozen=True)
class ServedModel:
    """A model that the server offers."""

    name: str
    version: str
    classes: tuple[ClassEntry, ...]
    manifest: Mapping[str, Any] = field(repr=False)
    """Everything that the model says of itself."""


@dataclass(frozen=True)
class Catalogue:
    """The models of a server."""

    default: str
    """The name of the one that answers when a request names none."""
    models: tuple[ServedModel, ...]


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
        timeouts: Timeouts = Timeouts(),
        retries: int = 8,
        connections: int = 16,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._timeouts, self._retries = timeouts, retries
        self._auth = None if api_key is None else _ApiKey(api_key)
        self._http = httpx.Client(transport=transport, **_http_options(url, self._auth, connections))

    def segment(
        self,
        image: ImageLike,
        model: str | None = None,
        *,
        classes: Iterable[str | int] | None = None,
        min_confidence: float | None = None,
        ids: str | None = None,
        statistics: bool = False,
        deadline_ms: float | None = None,
        frame_id: str | None = None,
        frame_stamp: str | None = None,
    ) -> Mask:
        """Segment one image.

        Takes:
            image: an image file's path or bytes; or an H x W x 3 uint8 RGB or H x W uint8 grey array; or a Pillow image, taken
                as its pixels are (its EXIF orientation is not applied)
            model: the server's default by default
            classes: names or ids to keep; pixels of other classes become 255
            min_confidence: 0..1; pixels of which the network is less sure become 255
            ids: whose the labels are, ``cityscapes-train``, ``cityscapes-label`` or ``autoware``; the model's own by default
            statistics: whether the bounding box and the mean confidence of each class come with the mask
            deadline_ms: when the mask is of no use any more, counted from now
            frame_id, frame_stamp: come back with the mask
        Gives:
            the mask, of the upright image's size
        Raises:
            ServiceError: see the module
            OSError: if the file cannot be read
            TypeError, ValueError: if ``image`` is nothing of the above, or a text cannot travel in a header
        """
        call = segment_call(
            image_bytes(image), model, classes, min_confidence, deadline_ms, frame_id, frame_stamp, ids, statistics
        )
        return parse_mask(self._exchange(call))

    def stream(
        self,
        frames: Iterable[ImageLike | StampedFrame],
        model: str | None = None,
        *,
        classes: Iterable[str | int] | None = None,
        min_confidence: float | None = None,
        deadline_ms: float | None = None,
        every: bool = False,
        without_mask: Callable[[FrameWithoutMask], object] | None = None,
    ) -> Iterator[Mask]:
        """Segment the frames of a camera through one connection (``WS /stream``): the newest frame wins.

        Frames are taken on a thread, as fast as they come. While one is in work and a newer one comes, the one that
        waits is superseded: it is never computed. So no mask is older than it must be, however slow the server is.

        A stream is not resumed: where the connection breaks, ``ConnectionFailed`` is raised, and the frames under way are lost.
        Call again with the same iterator to go on with the next frame. Opening it is tried again, as a request is.

        Takes:
            frames: images as ``segment`` takes them, or ``(image, frame_id, frame_stamp)`` of each, which come back
            model, classes, min_confidence: as for ``segment``
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
        return _streamed(self._stream_call(model, classes, min_confidence, deadline_ms), frames, every, without_mask)

    def _stream_call(
        self,
        model: str | None,
        classes: Iterable[str | int] | None,
        min_confidence: float | None,
        deadline_ms: float | None,
    ) -> StreamCall:
        return stream_call(
            self._http.base_url, self._auth, self._timeouts, self._retries, model, classes, min_confidence, deadline_ms
        )

    def models(self) -> Catalogue:
        """What the server offers."""
        return parse_catalogue(self._exchange(Call("GET", "/models")))

    def ready(self) -> bool:
        """Whether the server would serve a request now; False, too, if there is none."""
        try:
            return self._attempt(_Budget(self._timeouts, 0), Call("GET", "/readyz")).status == httpx.codes.OK
        except (ConnectionFailed, TimedOut):
            return False

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _exchange(self, call: Call) -> Reply:
        budget = _Budget(self._timeouts, self._retries, call.deadline_ms)
        while True:
            try:
                reply = self._attempt(budget, call)
                raise_for_problem(reply)
            except ServiceError as error:
                time.sleep(budget.pause_after(error))
            else:
                return reply

    def _attempt(self, budget: _Budget, call: Call) -> Reply:
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
        timeouts: Timeouts = Timeouts(),
        retries: int = 8,
        connections: int = 16,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._timeouts, self._retries = timeouts, retries
        self._auth = None if api_key is None else _ApiKey(api_key)
        self._http = httpx.AsyncClient(transport=transport, **_http_options(url, self._auth, connections))

    async def segment(
        self,
        image: ImageLike,
        model: str | None = None,
        *,
        classes: Iterable[str | int] | None = None,
        min_confidence: float | None = None,
        ids: str | None = None,
        statistics: bool = False,
        deadline_ms: float | None = None,
        frame_id: str | None = None,
        frame_stamp: str | None = None,
    ) -> Mask:
        """Segment one image: see :meth:`Client.segment`."""
        body = await asyncio.to_thread(image_bytes, image)
        call = segment_call(body, model, classes, min_confidence, deadline_ms, frame_id, frame_stamp, ids, statistics)
        return await asyncio.to_thread(parse_mask, await self._exchange(call))

    def stream(
        self,
        frames: Iterable[ImageLike | StampedFrame] | AsyncIterable[ImageLike | StampedFrame],
        model: str | None = None,
        *,
        classes: Iterable[str | int] | None = None,
        min_confidence: float | None = None,
        deadline_ms: float | None = None,
        every: bool = False,
        without_mask: Callable[[FrameWithoutMask], object] | None = None,
    ) -> AsyncIterator[Mask]:
        """Segment a camera's frames: see :meth:`Client.stream`. ``frames`` may be asynchronous; if not, it runs on a thread."""
        call = stream_call(
            self._http.base_url, self._auth, self._timeouts, self._retries, model, classes, min_confidence, deadline_ms
        )
        return _streamed_async(call, frames, every, without_mask)

    async def models(self) -> Catalogue:
        """What the server offers."""
        return parse_catalogue(await self._exchange(Call("GET", "/models")))

    async def ready(self) -> bool:
        """Whether the server would serve a request now; False, too, if there is none."""
        try:
            return (await self._attempt(_Budget(self._timeouts, 0), Call("GET", "/readyz"))).status == httpx.codes.OK
        except (ConnectionFailed, TimedOut):
            return False

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _exchange(self, call: Call) -> Reply:
        budget = _Budget(self._timeouts, self._retries, call.deadline_ms)
        while True:
            try:
                reply = await self._attempt(budget, call)
                raise_for_problem(reply)
            except ServiceError as error:
                await asyncio.sleep(budget.pause_after(error))
            else:
                return reply

    async def _attempt(self, budget: _Budget, call: Call) -> Reply:
        request = call.to_request(self._http, budget)
        try:
            async with asyncio.timeout(budget.left_s()):
                response = await self._http.send(request)
        except TimeoutError as error:
            raise TimedOut(_OUT_OF_TIME) from error
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


# Below: everything that the twins share. None of it touches the network.


@dataclass(frozen=True)
class Call:
    """A request before it is sent, perhaps several times."""

    method: str
    path: str
    params: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = field(default=b"", repr=False)
    deadline_ms: float | None = None

    def to_request(self, http: httpx.Client | httpx.AsyncClient, budget: _Budget) -> httpx.Request:
        """The next attempt, with what is left of the call's time."""
        headers = dict(self.headers)
        if self.deadline_ms is not None:
            headers["X-Deadline-Ms"] = f"{budget.deadline_left_ms():.0f}"
        # No body at all is something else than an empty one: a GET has no Content-Length.
        content = self.content if self.method == "POST" else None
        return http.build_request(
            self.method, self.path, params=self.params, headers=headers, content=content, timeout=budget.timeout()
        )


@dataclass(frozen=True)
class Reply:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)


def image_bytes(image: ImageLike) -> bytes:
    """Make an image file of whatever the caller has.

    Takes:
        image: see :meth:`Client.segment`
    Gives:
        the file's bytes; arrays become PNG, which loses nothing
    Raises:
        OSError: if the file cannot be read
        TypeError, ValueError: if it is nothing that can be sent
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, np.ndarray):
        return _array_to_png(image)
    pillow = sys.modules.get("PIL.Image")  # whoever holds a Pillow image has imported it
    if pillow is not None and isinstance(image, pillow.Image):
        return _picture_to_png(image)
    if isinstance(image, str | os.PathLike):
        return Path(image).read_bytes()
    raise TypeError(f"an image is a path, bytes, a uint8 array or a Pillow image, not {type(image).__name__}")


def segment_call(
    body: bytes,
    model: str | None = None,
    classes: Iterable[str | int] | None = None,
    min_confidence: float | None = None,
    deadline_ms: float | None = None,
    frame_id: str | None = None,
    frame_stamp: str | None = None,
    ids: str | None = None,
    statistics: bool = False,
) -> Call:
    """Describe ``POST /segment`` for one image file; the mask is asked for as the contract's run-length encoding."""
    params = _mask_params(model, classes, min_confidence)
    if ids is not None:
        params.append(("ids", ids))
    if statistics:
        params.append(("statistics", "true"))
    headers = {"Content-Type": "application/octet-stream"}
    if frame_id is not None:
        headers["X-Frame-Id"] = _sendable("frame_id", frame_id)
    if frame_stamp is not None:
        headers["X-Frame-Stamp"] = _sendable("frame_stamp", frame_stamp)
    return Call("POST", "/segment", tuple(params), headers, body, deadline_ms)


def _mask_params(model: str | None, classes: Iterable[str | int] | None, min_confidence: float | None) -> list[tuple[str, str]]:
    kept = [classes] if isinstance(classes, str) else classes or ()
    params = [("format", "rle"), *(("classes", str(wanted)) for wanted in kept)]
    if model is not None:
        params.append(("model", model))
    if min_confidence is not None:
        params.append(("min_confidence", str(min_confidence)))
    return params


def parse_mask(reply: Reply) -> Mask:
    """Read a mask from a good reply.

    Raises:
        ServiceError: if the reply holds none
    """
    try:
        return _mask_of(
            reply.content,
            parse_server_timing(reply.headers.get("Server-Timing", "")),
            reply.headers.get("X-Request-ID", ""),
            reply.headers.get("X-Frame-Id"),
            reply.headers.get("X-Frame-Stamp"),
        )
    except (ValueError, LookupError, TypeError) as error:
        raise _misunderstood(reply) from error


def _mask_of(body: bytes, timing: dict[str, float], request_id: str, frame_id: str | None, frame_stamp: str | None) -> Mask:
    document = json.loads(body)
    model = document["model"]
    return Mask(
        labels=rle.decode(document),
        classes=tuple(
            ClassPresent(
                id=entry["id"],
                name=entry["name"],
                pixels=entry["pixels"],
                share=entry["share"],
                bbox=tuple(entry["bbox"]) if "bbox" in entry else None,
                confidence=entry.get("confidence"),
            )
            for entry in document["classes"]
        ),
        model=ModelIdentity(model["name"], model["version"], model["sha256"]),
        timing=timing,
        request_id=request_id,
        frame_id=frame_id,
        frame_stamp=frame_stamp,
    )


def parse_catalogue(reply: Reply) -> Catalogue:
    """Read the list of models from a good reply.

    Raises:
        ServiceError: if the reply holds none
    """
    try:
        document = json.loads(reply.content)
        return Catalogue(
            default=document["default"],
            models=tuple(
                ServedModel(
                    name=manifest["name"],
                    version=manifest["version"],
                    classes=tuple(
                        ClassEntry(row["id"], row["name"], (row["color"][0], row["color"][1], row["color"][2]))
                        for row in manifest["classes"]
                    ),
                    manifest=manifest,
                )
                for manifest in document["models"]
            ),
        )
    except (ValueError, LookupError, TypeError) as error:
        raise _misunderstood(reply) from error


def parse_server_timing(header: str) -> dict[str, float]:
    """Read ``decode;dur=1.2, infer;dur=30.5`` into milliseconds by name; an entry without a duration is left out."""
    timing = {}
    for entry in header.split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        for parameter in parameters:
            if parameter.startswith("dur="):
                timing[name] = float(parameter.removeprefix("dur="))
    return timing


def raise_for_problem(reply: Reply) -> None:
    """Raise what a reply other than 200 says went wrong.

    Raises:
        ServiceError: of the class that the problem's code names
    """
    if reply.status == httpx.codes.OK:
        return
    try:
        error = _error_of(json.loads(reply.content))
    except (ValueError, LookupError, TypeError):
        error = _misunderstood(reply)  # a proxy's page, or another server's
    error.facts["status"] = reply.status
    wait_s = parse_retry_after(reply.headers.get("Retry-After", ""))
    if wait_s is not None:
        error.facts.setdefault("retry_after_s", wait_s)  # the body's figure is not rounded to whole seconds
    raise error


def _error_of(problem: Mapping[str, Any]) -> ServiceError:
    error = BY_CODE.get(problem["code"], ServiceError)(problem["detail"])
    error.facts.update({name: fact for name, fact in problem.items() if name not in _PROSE})
    return error


def parse_retry_after(header: str) -> float | None:
    """Read ``Retry-After``, either form of it.

    Gives:
        seconds from now, at least 0; None if it says nothing that can be understood
    """
    if header.strip().isdecimal():
        return float(header)
    try:
        moment = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())


def wire_error(error: httpx.RequestError) -> ServiceError:
    """The transport's error as one of ours."""
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return TimedOut(_OUT_OF_TIME)
    where = f"{error.request.url.scheme}://{error.request.url.netloc.decode('ascii')}"
    return ConnectionFailed(f"no answer from {where}: {str(error) or type(error).__name__}")


class _Budget:
    """What is left of one call: time, and attempts."""

    def __init__(self, timeouts: Timeouts, retries: int, deadline_ms: float | None = None) -> None:
        started = time.monotonic()
        self._timeouts, self._retries_left, self._pause_s = timeouts, retries, _FIRST_PAUSE_S
        self._deadline = started + (timeouts.total_s if deadline_ms is None else deadline_ms / 1000)
        self._end = min(started + timeouts.total_s, self._deadline + _GRACE_S)

    def left_s(self) -> float:
        """Seconds until the caller must have an answer."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimedOut(_OUT_OF_TIME)
        return left

    def deadline_left_ms(self) -> float:
        """Milliseconds in which the mask is still of use; at least 1."""
        return max(1.0, (self._deadline - time.monotonic()) * 1000)

    def timeout(self) -> httpx.Timeout:
        """For one attempt."""
        left, limits = self.left_s(), self._timeouts
        return httpx.Timeout(
            connect=min(limits.connect_s, left), write=min(limits.write_s, left), read=min(limits.read_s, left), pool=left
        )

    def while_it_lasts(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Pass on what comes until the time is up."""
        for chunk in chunks:
            self.left_s()
            yield chunk

    def pause_after(self, error: ServiceError) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            ServiceError: the very error, if another attempt cannot help or could not end in time
        """
        wait_s: object = None
        if isinstance(error, ConnectionFailed):
            wait_s = self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        elif error.facts.get("status") in _SHED:
            wait_s = error.facts.get("retry_after_s")
        if not isinstance(wait_s, int | float) or wait_s < 0 or self._retries_left == 0:
            raise error
        pause_s = wait_s * random.uniform(1, 1.2)  # noqa: S311 - callers who were shed together should not return together
        if not time.monotonic() + pause_s < min(self._deadline, self._end):  # so written, NaN is no wait either
            raise error
        self._retries_left -= 1
        return pause_s


class _ApiKey(httpx.Auth):
    """Adds the key to each request, so that it stands in no list of headers that could be printed."""

    def __init__(self, key: str) -> None:
        self._key = _sendable("api_key", key)

    def headers(self) -> dict[str, str]:
        return {"X-API-Key": self._key}

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        request.headers.update(self.headers())
        yield request

    def __repr__(self) -> str:
        return "ApiKey(**********)"


_OUT_OF_TIME = "no answer in the time given: see Timeouts and deadline_ms"


def _http_options(url: str, auth: _ApiKey | None, connections: int) -> dict[str, Any]:
    if not url.startswith(("http://", "https://")):
        better = f"http://{url.rpartition('://')[2]}"
        raise ValueError(f"an address begins with http:// or https://; try {better!r}, not {url!r}")
    return {
        "base_url": url,
        "auth": auth,
        "headers": {"User-Agent": _USER_AGENT},
        "limits": httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=_KEEP_ALIVE_S
        ),
    }


def _sendable(name: str, value: str) -> str:
    if not (value.isascii() and value.isprintable()):  # the value is not repeated: it may be a key
        raise ValueError(f"{name} must be printable ASCII: it travels in a header")
    return value


def _array_to_png(array: NDArray[Any]) -> bytes:
    if array.dtype != np.uint8:
        raise TypeError(f"an image array is uint8, not {array.dtype}")
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ValueError(f"an image array is H x W x 3 or H x W, not {' x '.join(map(str, array.shape))}")
    return png.encode_gray(array) if array.ndim == 2 else png.encode_rgb(array)


def _picture_to_png(picture: Image.Image) -> bytes:
    if picture.mode == "RGB":
        return _array_to_png(np.asarray(picture))
    buffer = io.BytesIO()
    writable = picture if picture.mode in _PNG_MODES else picture.convert("RGB")
    writable.save(buffer, "PNG", compress_level=1, exif=b"")
    return buffer.getvalue()


def _misunderstood(reply: Reply) -> ServiceError:
    kind = reply.headers.get("Content-Type", "no type")
    return ServiceError(f"HTTP {reply.status} ({kind}) that is not fcn-serve's: is the address right?", status=reply.status)


# Streams: how the twins speak on a WebSocket.

_UNANSWERED = 2
"""Frames under way where none may be superseded: one in work, and one that waits."""

_GLANCE_S = 0.1
"""How often a quiet stream looks whether its frames have come to an end."""


@dataclass(frozen=True)
class StreamCall:
    """A stream before it is opened."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    timeouts: Timeouts
    retries: int

    def options(self, budget: _Budget) -> dict[str, Any]:
        """For the next attempt."""
        return {
            "additional_headers": self.headers,
            "user_agent_header": _USER_AGENT,
            "compression": None,  # images are compressed, and so are masks, nearly
            "max_size": None,
            "open_timeout": min(self.timeouts.connect_s, budget.left_s()),
            "close_timeout": self.timeouts.connect_s,
        }


def stream_call(
    base_url: httpx.URL,
    auth: _ApiKey | None,
    timeouts: Timeouts,
    retries: int,
    model: str | None,
    classes: Iterable[str | int] | None,
    min_confidence: float | None,
    deadline_ms: float | None,
) -> StreamCall:
    """Describe ``WS /stream``."""
    headers = auth.headers() if auth is not None else {}
    if deadline_ms is not None:
        headers["X-Deadline-Ms"] = f"{deadline_ms:g}"
    scheme = "wss" if base_url.scheme == "https" else "ws"
    url = base_url.copy_with(scheme=scheme, path=base_url.path + "stream", params=_mask_params(model, classes, min_confidence))
    return StreamCall(str(url), headers, timeouts, retries)


class _Dialogue:
    """What was said on a stream so far, and what that means."""

    def __init__(self, request_id: str, without_mask: Callable[[FrameWithoutMask], object] | None) -> None:
        self._request_id, self._without_mask = request_id, without_mask
        self.sent = self.answered = 0

    def about(self, frame: ImageLike | StampedFrame) -> tuple[bytes, str | None]:
        """A frame's file, and what to say of it."""
        if not isinstance(frame, tuple):
            return image_bytes(frame), None
        image, frame_id, frame_stamp = frame
        return image_bytes(image), json.dumps({"frame_id": frame_id, "stamp": frame_stamp})

    def meaning(self, header: Mapping[str, Any], body: bytes) -> Mask | None:
        """The mask, or None where that frame has none and its caller was told."""
        self.answered += 1
        frame_id, frame_stamp = header["frame_id"], header["stamp"]
        if header["outcome"] == "mask":
            return _mask_of(body, header["timing"], f"{self._request_id}/{header['seq']}", frame_id, frame_stamp)
        error = None
        if header["outcome"] == "error":
            error = _error_of({name: fact for name, fact in header.items() if name not in ("seq", "outcome")})
        if self._without_mask is not None:
            self._without_mask(FrameWithoutMask(frame_id, frame_stamp, error))
        elif error is not None:
            raise error
        return None


def _streamed(
    call: StreamCall,
    frames: Iterable[ImageLike | StampedFrame],
    every: bool,
    without_mask: Callable[[FrameWithoutMask], object] | None,
) -> Iterator[Mask]:
    until = contextlib.ExitStack()
    socket = _opened(call, until)
    dialogue = _Dialogue(_request_id(socket), without_mask)
    leave, room = threading.Event(), threading.Semaphore(_UNANSWERED)
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def send() -> None:
        try:
            for frame in frames:
                image, about = dialogue.about(frame)
                if every:
                    room.acquire()
                if leave.is_set():
                    break
                if about is not None:
                    socket.send(about)
                socket.send(image)
                dialogue.sent += 1
        except BaseException as error:  # noqa: BLE001 - the caller's, and raised there
            ended.put(error)
        else:
            ended.put(None)

    sender = threading.Thread(target=send, name="fcn-stream", daemon=True)
    sender.start()
    waiting_since = time.monotonic()
    try:
        while True:
            finished = not ended.empty()
            if finished and dialogue.answered >= dialogue.sent:
                break
            try:
                text = socket.recv(timeout=_GLANCE_S)
            except TimeoutError:
                if dialogue.answered >= dialogue.sent:
                    waiting_since = time.monotonic()
                elif time.monotonic() - waiting_since > call.timeouts.read_s:
                    raise TimedOut(_OUT_OF_TIME) from None
                continue
            waiting_since = time.monotonic()
            header = _header(text)
            body = socket.recv(timeout=call.timeouts.read_s) if header["outcome"] == "mask" else b""
            room.release()
            mask = dialogue.meaning(header, body if isinstance(body, bytes) else b"")
            if mask is not None:
                yield mask
                waiting_since = time.monotonic()
        error = ended.get()
        if error is not None:
            raise error
    except _closed() as error:
        raise _broken(error) from error
    except TimeoutError as error:
        raise TimedOut(_OUT_OF_TIME) from error
    finally:
        leave.set()
        room.release()
        until.close()


async def _streamed_async(
    call: StreamCall,
    frames: Iterable[ImageLike | StampedFrame] | AsyncIterable[ImageLike | StampedFrame],
    every: bool,
    without_mask: Callable[[FrameWithoutMask], object] | None,
) -> AsyncIterator[Mask]:
    until = contextlib.AsyncExitStack()
    socket = await _opened_async(call, until)
    dialogue = _Dialogue(_request_id(socket), without_mask)
    room = asyncio.Semaphore(_UNANSWERED)

    async def send() -> None:
        async for frame in _asynchronous(frames):
            image, about = await asyncio.to_thread(dialogue.about, frame)
            if every:
                await room.acquire()
            if about is not None:
                await socket.send(about)
            await socket.send(image)
            dialogue.sent += 1

    sender = asyncio.ensure_future(send())
    waiting_since = time.monotonic()
    try:
        while not (sender.done() and dialogue.answered >= dialogue.sent):
            try:
                async with asyncio.timeout(_GLANCE_S):
                    text = await socket.recv()
            except TimeoutError:
                if dialogue.answered >= dialogue.sent:
                    waiting_since = time.monotonic()
                elif time.monotonic() - waiting_since > call.timeouts.read_s:
                    raise TimedOut(_OUT_OF_TIME) from None
                continue
            waiting_since = time.monotonic()
            header = _header(text)
            body: str | bytes = b""
            if header["outcome"] == "mask":
                async with asyncio.timeout(call.timeouts.read_s):
                    body = await socket.recv()
            room.release()
            mask = dialogue.meaning(header, body if isinstance(body, bytes) else b"")
            if mask is not None:
                yield mask
                waiting_since = time.monotonic()
        await sender
    except _closed() as error:
        raise _broken(error) from error
    except TimeoutError as error:
        raise TimedOut(_OUT_OF_TIME) from error
    finally:
        sender.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await sender
        await until.aclose()


async def _asynchronous(
    frames: Iterable[ImageLike | StampedFrame] | AsyncIterable[ImageLike | StampedFrame],
) -> AsyncIterator[ImageLike | StampedFrame]:
    if isinstance(frames, AsyncIterable):
        async for frame in frames:
            yield frame
        return
    iterator = iter(frames)
    while taken := await asyncio.to_thread(lambda: [*islice(iterator, 1)]):
        yield taken[0]


def _opened(call: StreamCall, until: contextlib.ExitStack) -> ClientConnection:
    connect = _websockets("websockets.sync.client").connect
    budget = _Budget(call.timeouts, call.retries)
    while True:
        try:
            with _as_ours(call.url):
                opened: ClientConnection = until.enter_context(connect(call.url, **call.options(budget)))
        except ServiceError as error:
            time.sleep(budget.pause_after(error))
        else:
            return opened


async def _opened_async(call: StreamCall, until: contextlib.AsyncExitStack) -> AsyncConnection:
    connect = _websockets("websockets.asyncio.client").connect
    budget = _Budget(call.timeouts, call.retries)
    while True:
        try:
            with _as_ours(call.url):
                opened: AsyncConnection = await until.enter_async_context(connect(call.url, **call.options(budget)))
        except ServiceError as error:
            await asyncio.sleep(budget.pause_after(error))
        else:
            return opened


@contextlib.contextmanager
def _as_ours(url: str) -> Iterator[None]:
    """What goes wrong with the opening of a stream, as errors of ours."""
    exceptions = _websockets("websockets.exceptions")
    try:
        yield
    except exceptions.InvalidStatus as error:
        response = error.response
        raise_for_problem(Reply(response.status_code, response.headers, response.body or b""))
    except (OSError, TimeoutError, exceptions.InvalidHandshake, exceptions.ConnectionClosed) as error:
        parts = httpx.URL(url)
        raise ConnectionFailed(f"no stream from {parts.scheme}://{parts.netloc.decode('ascii')}: {error}") from error


def _request_id(socket: ClientConnection | AsyncConnection) -> str:
    return socket.response.headers.get("X-Request-ID", "") if socket.response is not None else ""


def _header(text: str | bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
        if header["outcome"] in ("mask", "superseded", "error"):
            return dict(header)
    except (ValueError, LookupError, TypeError):
        pass
    raise ServiceError("an answer that is not fcn-serve's: is the address right?")


def _closed() -> type[Exception]:
    kind: type[Exception] = _websockets("websockets.exceptions").ConnectionClosed
    return kind


def _broken(error: Any) -> ServiceError:
    """What the other end said when it closed the connection."""
    code, reason = (error.rcvd.code, error.rcvd.reason) if error.rcvd is not None else (1006, "the connection broke")
    kinds: dict[int, type[ServiceError]] = {1009: BodyTooLarge, 1012: NotReady}
    return kinds.get(code, ConnectionFailed)(f"the stream was closed: {reason or 'no reason given'} ({code})", close_code=code)


def _websockets(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("a stream needs the package websockets: pip install websockets", name=error.name) from error
