"""A camera that FFmpeg reads: opened, followed, and after a loss waited for and opened again.

A thread reads the packets and hands each to the decoder of its connection (``pictures``). It waits for neither the decoder nor
the loop, so a stall anywhere costs frames, and adds neither delay nor memory.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import av

from service.errors import BadSetting
from service.live.frame import LiveFrame
from service.live.pictures import Decoder, Inbox, film_of
from service.live.stream_clock import Clock, StreamClock

OPEN_S, READ_S = 10.0, 5.0
"""A camera that does not answer its opening for so long is absent; one that sends no packet for so long is lost."""
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Between two attempts to open; the last one is repeated."""
_STEADY_S = 20.0
"""An attempt that took so long had a good connection: the pauses begin with the first."""
_CLOSE_S = 1.0
"""The end of a run waits so long for a reader that hangs in the operating system."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loss:
    """Why there is no connection."""

    reason: str
    """A clause without a full stop, with what to do where something can be done."""
    lasting: bool = False
    """Whether waiting cannot help: before the first frame this ends the run."""


@dataclass(frozen=True)
class Feed:
    """How one camera is opened."""

    location: str
    """A URL or a path for FFmpeg; may hold a password."""
    explain: Callable[[OSError | ValueError | av.FFmpegError], Loss]
    """Gives the reason for an error of opening."""
    format: str | None = None
    """FFmpeg's name of the format, where it cannot tell it."""
    options: Mapping[str, str] = field(default_factory=dict)
    """FFmpeg's options."""
    untimed: frozenset[str] = frozenset()
    """Formats, by FFmpeg's names, whose packets carry no time of their own: FFmpeg numbers them."""
    clock: Callable[[], Clock] = StreamClock
    """Makes the clock of a connection."""


class Capture:
    """One camera.

    Takes:
        address: its name in logs and sinks, without a password
        feed: how it is opened
    """

    def __init__(self, address: str, feed: Feed) -> None:
        self.address = address
        self._feed, self._inbox = feed, Inbox()
        self._stop = threading.Event()
        self._reader = threading.Thread(target=self._read, name=f"read {address}", daemon=True)
        self._failure: str | None = None
        self._found = False
        """Whether there was ever a connection."""
        self._told: str | None = None
        """The loss that was logged last; None while there is a connection."""
        self._lost_s = time.monotonic()

    @property
    def ended(self) -> bool:
        """Never: a camera that is lost is waited for."""
        return False

    @property
    def received(self) -> int:
        """Frames that came."""
        return self._inbox.received

    @property
    def dropped(self) -> int:
        """Frames that a newer one superseded, before the decoder or behind it, or that were damaged."""
        return self._inbox.dropped

    def open(self, came: Callable[[], None]) -> None:
        """Begin to connect; this returns at once."""
        self._inbox.came = came
        self._reader.start()

    def take(self) -> LiveFrame | None:
        """Return the newest frame, once; None if none came since the last call.

        Raises:
            BadSetting: if the camera never gave a frame, and waiting cannot help
            CorruptImage: if the frame cannot be converted
        """
        picture = self._inbox.newest.take()
        if picture is not None:
            return picture.frame(self.address)
        if self._failure is not None:
            raise BadSetting(self._failure)
        return None

    def close(self) -> None:
        """End the connection."""
        self._stop.set()
        if self._reader.is_alive():
            self._reader.join(_CLOSE_S)

    def _read(self) -> None:
        attempt = 0
        while not self._stop.is_set():
            begun_s = time.monotonic()
            loss = self._attempt()
            if self._stop.is_set():
                return
            if loss.lasting and not self._found:
                self._failure = f"--from {self.address}: {loss.reason}"
                self._inbox.came()
                return
            self._tell_loss(loss)
            attempt = 0 if time.monotonic() - begun_s > _STEADY_S else attempt
            self._stop.wait(PAUSES_S[min(attempt, len(PAUSES_S) - 1)])
            attempt += 1

    def _attempt(self) -> Loss:
        try:
            return self._connect()
        except Exception as error:  # noqa: BLE001 - a camera may send anything, and a dead reader would be silent for ever
            return Loss(f"{type(error).__name__}: {error}")

    def _connect(self) -> Loss:
        """Open a connection and follow it until it is lost; return why."""
        feed, opened = self._feed, False
        try:
            with av.open(
                feed.location,
                format=feed.format,
                options=dict(feed.options),
                timeout=(OPEN_S, READ_S),
                metadata_errors="replace",
            ) as container:
                stream = film_of(container)
                opened = True
                timed = container.format.name not in feed.untimed
                decoder = Decoder(stream, feed.clock(), self._inbox, timed=timed)
                try:
                    for packet in container.demux(stream):
                        if self._stop.is_set():
                            break
                        if packet.size:
                            self._tell_connection(stream)
                            decoder.put(packet)
                finally:
                    decoder.close(drop=True)
        except BadSetting as error:
            return Loss(error.message, lasting=True)
        except av.error.ExitError:
            return Loss(f"no frame for {READ_S:g} s" if opened else f"no answer within {OPEN_S:g} s")
        except (av.FFmpegError, OSError, ValueError) as error:
            return _broken(error) if opened else feed.explain(error)
        return Loss("the stream ended")

    def _tell_connection(self, stream: av.VideoStream) -> None:
        if self._found and self._told is None:
            return
        after = f" again after {time.monotonic() - self._lost_s:.1f} s" if self._found else ""
        context = stream.codec_context
        log.info("%s: connected%s: %s, %d x %d", self.address, after, context.name, context.width, context.height)
        self._found, self._told = True, None

    def _tell_loss(self, loss: Loss) -> None:
        if self._told is None:
            self._lost_s = time.monotonic()
            log.warning("%s: %s: %s; trying again", self.address, "lost" if self._found else "waiting", loss.reason)
        elif loss.lasting and loss.reason != self._told:
            log.warning("%s: still lost: %s", self.address, loss.reason)
        self._told = loss.reason


def _broken(error: Exception) -> Loss:
    """Return the reason for an error in the middle of a stream. FFmpeg calls most of them "Input/output error"."""
    if getattr(error, "errno", None) == errno.EIO:
        return Loss("the connection broke")
    return Loss(sentence(error))


def sentence(error: Exception) -> str:
    """Return what an error says, without the number and the file's name."""
    return (getattr(error, "strerror", None) or str(error)).lower()
