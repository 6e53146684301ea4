"""The loop: the newest frame of each source in turn, its mask to every sink."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence

from service.errors import BadSetting, ServiceError
from service.live.complaints import Complaints
from service.live.counters import Counters
from service.live.options import LiveOptions
from service.live.segmenter import Segmenter
from service.live.session import LiveSession
from service.live.sinks import LiveSink
from service.live.sources import LiveSource

log = logging.getLogger(__name__)

_PASS_S = 0.5
"""Seconds between two passes at the most: counters stay current where no frame comes."""


class Bell:
    """Wakes the loop: a frame came, or the run is to end. Thread-safe, and safe to call in a signal handler."""

    def __init__(self) -> None:
        self._rung = threading.Event()
        self.stopped = False

    def ring(self) -> None:
        """Say that a frame waits or a source ended."""
        self._rung.set()

    def stop(self) -> None:
        """End the loop after the frame in work."""
        self.stopped = True
        self._rung.set()

    def wait(self, seconds: float) -> None:
        """Wait until it rings, at most so long."""
        self._rung.wait(seconds)
        self._rung.clear()


class Pace:
    """How often a source's frames are taken.

    Takes:
        rate_hz: the most frames a second of each source; None is without a limit
    """

    def __init__(self, rate_hz: float | None) -> None:
        self._interval_s = 0.0 if rate_hz is None else 1 / rate_hz
        self._due: dict[str, float] = {}

    def allows(self, address: str) -> bool:
        """Whether a frame of a source may be taken now."""
        return time.monotonic() >= self._due.get(address, 0.0)

    def taken(self, address: str) -> None:
        """Count a frame. The next is due an interval after this one was due, so that the rate is kept and never caught up."""
        now = time.monotonic()
        self._due[address] = max(self._due.get(address, now) + self._interval_s, now)

    def pause_s(self) -> float:
        """Seconds until the next source is due, at most :data:`_PASS_S`."""
        now = time.monotonic()
        return min((due - now for due in self._due.values() if due > now), default=_PASS_S)


def run(
    sources: Sequence[LiveSource], sinks: Sequence[LiveSink], network: Segmenter, options: LiveOptions, bell: Bell
) -> Mapping[str, Counters]:
    """Segment the newest frames until the bell stops or every source has ended. Sources and sinks are closed at the end.

    Gives:
        the counters by the source's address
    Raises:
        BadSetting: if a sink cannot start, or a source can never give a frame
    """
    counters = {source.address: Counters() for source in sources}
    session = LiveSession(
        network.model, network.sha256, network.classes, tuple(counters), counters, options, network.has_things
    )
    pace, complaints = Pace(options.rate_hz), Complaints(log)
    with contextlib.ExitStack() as opened:
        for sink in sinks:
            opened.callback(sink.close)
            sink.start(session)
        for source in sources:
            opened.callback(source.close)
            source.open(bell.ring)
        while not bell.stopped and not all(source.ended for source in sources):
            bell.wait(min(_PASS_S, pace.pause_s()))
            for source in sources:
                if not bell.stopped and pace.allows(source.address):
                    _next_of(source, sinks, network, pace, counters[source.address], complaints)
    for source in sources:
        counters[source.address].arrivals(source.received, source.dropped)
    return counters


def _next_of(
    source: LiveSource, sinks: Sequence[LiveSink], network: Segmenter, pace: Pace, counters: Counters, complaints: Complaints
) -> None:
    """Take the newest frame of a source, if there is one, and send its mask. A failure belongs to the frame."""
    try:
        frame = source.take()
        counters.arrivals(source.received, source.dropped)
        if frame is None:
            return
        pace.taken(source.address)
        result = network.segment(frame)
    except BadSetting:
        raise
    except ServiceError as error:
        counters.failure()
        complaints.say(f"{source.address}: no mask: {error.message}")
        return
    for sink in sinks:
        try:
            sink.send(frame, result)
        except BadSetting:
            raise
        except (ServiceError, OSError) as error:
            told = error.message if isinstance(error, ServiceError) else error.strerror or str(error)
            complaints.say(f"{sink.address}: a mask is lost: {told}")
    counters.mask(frame.came_s)
