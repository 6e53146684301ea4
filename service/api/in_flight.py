"""The requests that are being answered: counted for the metrics, waited for at the end."""

from __future__ import annotations

import asyncio
import time

from service.api.record import RequestRecord

CHECK_S = 0.02
"""Seconds between two checks of whether the requests are answered."""


class InFlight:
    """The requests that are being answered. On the event loop only."""

    def __init__(self) -> None:
        self._records: set[RequestRecord] = set()

    def add(self, record: RequestRecord) -> None:
        """Count a request that begins."""
        self._records.add(record)

    def discard(self, record: RequestRecord) -> None:
        """Forget a request that is over."""
        self._records.discard(record)

    def count(self) -> int:
        """Return how many there are."""
        return len(self._records)

    async def wait_for_those_here(self, deadline_s: float) -> None:
        """Wait until every request that is here now is over. Those that come later are not waited for.

        Takes:
            deadline_s: when to stop waiting, as ``time.monotonic()`` tells it
        """
        waited_for = set(self._records)
        while waited_for & self._records and time.monotonic() < deadline_s:  # noqa: ASYNC110 - a request sets no event
            await asyncio.sleep(CHECK_S)
