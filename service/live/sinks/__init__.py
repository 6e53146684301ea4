"""Where masks go. A kind of sink is a file here, whose ``open_sink(address, options)`` makes a :class:`LiveSink`."""

from __future__ import annotations

from typing import Protocol

from service.live.frame import LiveFrame
from service.live.session import LiveResult, LiveSession


class LiveSink(Protocol):
    """One receiver of masks. The loop calls it from its own thread: a sink never waits for a slow receiver."""

    address: str
    """As the command line named it; the sink's name in logs."""

    def start(self, session: LiveSession) -> None:
        """Begin: open files and ports, announce the classes. Called once, before the first mask.

        Raises:
            BadSetting: if the sink cannot be used: a port that is taken, a folder that is absent, a missing package
        """
        ...

    def send(self, frame: LiveFrame, result: LiveResult) -> None:
        """Send the mask of a frame. Stamp and frame id are the frame's own.

        Raises:
            ServiceError, OSError: if it cannot be sent; the next one may be
        """
        ...

    def close(self) -> None:
        """Complete what was written. Called once, after :meth:`start`, whatever it raised."""
        ...
