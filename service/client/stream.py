"""Frames over a WebSocket: how both clients open ``WS /stream``, send on it and listen."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import json
import queue
import threading
import time
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import httpx

from service.client.budget import OUT_OF_TIME, Budget, ConnectionFailed, TimedOut, Timeouts
from service.client.calls import USER_AGENT, ApiKey
from service.client.images import image_bytes
from service.client.replies import Reply, error_of, mask_of, raise_for_problem
from service.client.results import FrameWithoutMask, Mask
from service.errors import BodyTooLarge, NotReady, ServiceError

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection as AsyncConnection
    from websockets.sync.client import ClientConnection

    from service.client.images import ImageLike, StampedFrame

_UNANSWERED = 2
"""Frames under way where none may be superseded: one in work, and one that waits."""

_POLL_S = 0.1
"""Seconds between two checks of a quiet stream for the end of its frames."""


@dataclass(frozen=True)
class StreamCall:
    """A stream before it is opened."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    timeouts: Timeouts
    retries: int

    def options(self, budget: Budget) -> dict[str, Any]:
        """For the next attempt."""
        return {
            "additional_headers": self.headers,
            "user_agent_header": USER_AGENT,
            "compression": None,  # images are compressed, and so are masks, nearly
            "max_size": None,
            "open_timeout": min(self.timeouts.connect_s, budget.left_s()),
            "close_timeout": self.timeouts.connect_s,
        }


def stream_call(
    base_url: httpx.URL,
    auth: ApiKey | None,
    timeouts: Timeouts,
    retries: int,
    params: Sequence[tuple[str, str]],
    deadline_ms: float | None,
) -> StreamCall:
    """Describe ``WS /stream``."""
    headers = auth.headers() if auth is not None else {}
    if deadline_ms is not None:
        headers["X-Deadline-Ms"] = f"{deadline_ms:g}"
    scheme = "wss" if base_url.scheme == "https" else "ws"
    url = base_url.copy_with(scheme=scheme, path=base_url.path + "stream", params=list(params))
    return StreamCall(str(url), headers, timeouts, retries)


class _Dialogue:
    """Read the messages of a stream and keep its state."""

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
            request_id, converted = f"{self._request_id}/{header['seq']}", tuple(header.get("converted", ()))
            return mask_of(body, header["timing"], request_id, frame_id, frame_stamp, converted)
        error = None
        if header["outcome"] == "error":
            error = error_of({name: fact for name, fact in header.items() if name not in ("seq", "outcome")})
        if self._without_mask is not None:
            self._without_mask(FrameWithoutMask(frame_id, frame_stamp, error))
        elif error is not None:
            raise error
        return None


class _Frames:
    """A caller's frames, of which one stream takes at a time.

    A blocking ``next()`` on the caller's iterator cannot be cancelled. If a stream has ended meanwhile and its caller goes on
    with the same iterator in another one, that one waits until the last one has its frame.
    """

    _in_use: ClassVar[weakref.WeakValueDictionary[int, _Frames]] = weakref.WeakValueDictionary()
    _registering = threading.Lock()

    def __init__(self, iterator: Iterator[ImageLike | StampedFrame]) -> None:
        self._iterator, self._turn = iterator, threading.Lock()

    @classmethod
    def of(cls, frames: Iterable[ImageLike | StampedFrame]) -> _Frames:
        """The frames of an iterator, which another stream may use too."""
        iterator = iter(frames)
        with cls._registering:
            found = cls._in_use.get(id(iterator))
            if found is None:
                found = cls._in_use[id(iterator)] = cls(iterator)
            return found

    def take(self, leave: threading.Event) -> list[ImageLike | StampedFrame]:
        """The next frame; an empty list where they have ended, or after ``leave`` is set."""
        with self._turn:
            return [] if leave.is_set() else [*islice(self._iterator, 1)]


def streamed(
    call: StreamCall,
    frames: Iterable[ImageLike | StampedFrame],
    every: bool,
    without_mask: Callable[[FrameWithoutMask], object] | None,
) -> Iterator[Mask]:
    """Speak on a stream, from its opening to its end: see ``Client.stream``."""
    source, until = _Frames.of(frames), contextlib.ExitStack()
    socket = _opened(call, until)
    dialogue = _Dialogue(_request_id(socket), without_mask)
    leave, room = threading.Event(), threading.Semaphore(_UNANSWERED)
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def send() -> None:
        try:
            while taken := source.take(leave):
                image, about = dialogue.about(taken[0])
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
                text = socket.recv(timeout=_POLL_S)
            except TimeoutError:
                if dialogue.answered >= dialogue.sent:
                    waiting_since = time.monotonic()
                elif time.monotonic() - waiting_since > call.timeouts.read_s:
                    raise TimedOut(OUT_OF_TIME) from None
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
        raise TimedOut(OUT_OF_TIME) from error
    finally:
        leave.set()
        room.release()
        until.close()


async def streamed_async(
    call: StreamCall,
    frames: Iterable[ImageLike | StampedFrame] | AsyncIterable[ImageLike | StampedFrame],
    every: bool,
    without_mask: Callable[[FrameWithoutMask], object] | None,
) -> AsyncIterator[Mask]:
    """:func:`streamed` for asyncio: see ``AsyncClient.stream``."""
    if inspect.isasyncgen(frames) and frames.ag_frame is None:
        raise ValueError("this asynchronous generator has ended, perhaps with the stream that took its frames: open a new one")
    until = contextlib.AsyncExitStack()
    socket = await _opened_async(call, until)
    dialogue = _Dialogue(_request_id(socket), without_mask)
    leave, room = threading.Event(), asyncio.Semaphore(_UNANSWERED)

    async def send() -> None:
        async for frame in _asynchronous(frames, leave):
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
                async with asyncio.timeout(_POLL_S):
                    text = await socket.recv()
            except TimeoutError:
                if dialogue.answered >= dialogue.sent:
                    waiting_since = time.monotonic()
                elif time.monotonic() - waiting_since > call.timeouts.read_s:
                    raise TimedOut(OUT_OF_TIME) from None
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
        raise TimedOut(OUT_OF_TIME) from error
    finally:
        leave.set()
        sender.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await sender
        await until.aclose()


async def _asynchronous(
    frames: Iterable[ImageLike | StampedFrame] | AsyncIterable[ImageLike | StampedFrame], leave: threading.Event
) -> AsyncIterator[ImageLike | StampedFrame]:
    if isinstance(frames, AsyncIterable):
        async for frame in frames:
            yield frame
        return
    source = _Frames.of(frames)
    while taken := await asyncio.to_thread(source.take, leave):
        yield taken[0]


def _opened(call: StreamCall, until: contextlib.ExitStack) -> ClientConnection:
    connect = _websockets("websockets.sync.client").connect
    budget = Budget(call.timeouts, call.retries)
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
    budget = Budget(call.timeouts, call.retries)
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
    """Raise the service's errors for a failed opening of a stream."""
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
    """Return the reason that the other end gave when it closed the connection."""
    code, reason = (error.rcvd.code, error.rcvd.reason) if error.rcvd is not None else (1006, "the connection broke")
    kinds: dict[int, type[ServiceError]] = {1009: BodyTooLarge, 1012: NotReady}
    return kinds.get(code, ConnectionFailed)(f"the stream was closed: {reason or 'no reason given'} ({code})", close_code=code)


def _websockets(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("a stream needs the package websockets: pip install websockets", name=error.name) from error
