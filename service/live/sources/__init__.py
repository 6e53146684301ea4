"""Where frames come from. A kind is a file here, whose ``open_source(address, options)`` makes a :class:`LiveSource`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from service.live.frame import LiveFrame


class LiveSource(Protocol):
    """One camera. Its frames come on a thread of its own; the loop takes the newest."""

    address: str
    """As the command line named it; the source's name in logs and sinks."""

    def open(self, came: Callable[[], None]) -> None:
        """Begin to receive. A camera that is absent but may come is waited for, and the log says so.

        Takes:
            came: to be called, from any thread, when a frame waits or the source has ended
        Raises:
            BadSetting: if the source can never give a frame: a wrong address, a missing package, a topic of another type
        """
        ...

    def take(self) -> LiveFrame | None:
        """Return the newest frame, once; None if none came since the last call. Work that only a frame that is used needs is
        done here: the conversion of pixels, not the reading.

        Raises:
            BadSetting: if it turned out that the source can never give a frame
            ServiceError: if this frame cannot be read; the next one may be
        """
        ...

    @property
    def ended(self) -> bool:
        """Whether no more frames come, as at the end of a file. A camera never ends: what can come back is waited for."""
        ...

    @property
    def received(self) -> int:
        """Frames that came."""
        ...

    @property
    def dropped(self) -> int:
        """Frames without a mask: those that a newer one superseded, and those that are known to be lost on their way."""
        ...

    def close(self) -> None:
        """End the threads and connections. Called once, after :meth:`open`, whatever it raised."""
        ...
