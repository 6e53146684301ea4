"""Readiness: whether new requests are accepted."""

from __future__ import annotations

import time
from collections.abc import Callable

from service.errors import NotReady


class Readiness:
    """Whether new requests are accepted, and if not, the reason.

    Takes:
        check: raises NotReady with the reason, if the pipeline cannot serve
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._drained_s: float | None = None

    def drain(self) -> None:
        """Accept no new requests from now on."""
        if self._drained_s is None:
            self._drained_s = time.monotonic()

    @property
    def draining_s(self) -> float:
        """Seconds since :meth:`drain`; 0 before."""
        return 0.0 if self._drained_s is None else time.monotonic() - self._drained_s

    def check(self) -> None:
        """Return None if new requests are accepted.

        Raises:
            NotReady: with the reason
        """
        if self._drained_s is not None:
            raise NotReady("the service is about to end, and finishes what it has; ask another instance")
        self._check()

    def is_green(self) -> bool:
        """Whether new requests are accepted."""
        try:
            self.check()
        except NotReady:
            return False
        return True
