"""What happens at several times the capacity: ``python benchmarks/overload.py``. Less than a minute.

Starts a server, measures with a few callers in a closed loop what it can do, then sends several times as much, evenly spaced
and whatever comes back, and measures once more. A request is *good* if its mask came within its deadline, seen from here.

Exit code 1 if a promise of docs/operations.md is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402  (after the path)

from benchmarks.harness import cpu_s, resident_mb, sample, server  # noqa: E402

CALLERS = 4
CONNECTIONS = 256
KEEP_ALIVE_S = 4.0
"""The server closes a connection that is idle for 5 s."""
REFUSAL_MS = 20.0
"""By when 99 of 100 refusals are here; what this program itself takes, on the same processors, included."""
GROWTH_MB = 30.0
"""What memory may be more by after the overload."""
GRACE_S = 0.05
"""What the way back and this program's own event loop may add to a deadline."""


@dataclass
class Tally:
    """What came back in one phase."""

    seconds: float = 0.0
    sent: int = 0
    good: int = 0
    late: int = 0
    """Masks and refusals that came after the deadline."""
    statuses: Counter[int] = field(default_factory=Counter)
    good_ms: list[float] = field(default_factory=list)
    """How long each mask took."""
    refused_ms: list[float] = field(default_factory=list)
    """How long each 429 took."""

    def count(self, status: int, spent_s: float, deadline_s: float) -> None:
        """One more answer."""
        self.statuses[status] += 1
        in_time = spent_s <= deadline_s + GRACE_S
        self.good += status == 200 and in_time
        self.late += not in_time
        if status == 200:
            self.good_ms.append(1000 * spent_s)
        if status == 429:
            self.refused_ms.append(1000 * spent_s)

    @property
    def rate(self) -> float:
        """Good ones a second."""
        return self.good / self.seconds


class Target:
    """A server, and connections to it that are used again: no client library, whose cost would be measured with it."""

    def __init__(self, port: int, image: bytes, deadline_s: float) -> None:
        self._port, self._deadline_s = port, deadline_s
        head = (
            "POST /segment HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
            f"X-Deadline-Ms: {1000 * deadline_s:g}\r\nContent-Length: {len(image)}\r\n\r\n"
        )
        self._request = head.encode() + image
        self._idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._free = asyncio.Semaphore(CONNECTIONS)

    async def ask(self, tally: Tally) -> None:
        """Send the image once, count the answer."""
        async with self._free:
            tally.sent += 1
            reader, writer = await self._connection()
            begun = time.perf_counter()
            writer.write(self._request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
            tally.count(int(head.split(b" ", 2)[1]), time.perf_counter() - begun, self._deadline_s)
            self._idle.append((time.perf_counter(), reader, writer))

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The one used last, or a new one if the server may have closed that already."""
        while self._idle:
            used, reader, writer = self._idle.pop()
            if time.perf_counter() - used < KEEP_ALIVE_S:
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self._port)

    async def closed_loop(self, seconds: float) -> Tally:
        """A few callers, each sending the next image when it has the last one's answer."""
        tally, begun = Tally(), time.perf_counter()

        async def caller() -> None:
            while time.perf_counter() - begun < seconds:
                await self.ask(tally)

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        tally.seconds = time.perf_counter() - begun
        return tally

    async def open_loop(self, seconds: float, rate: float) -> Tally:
        """So many a second, whatever comes back."""
        tally, begun = Tally(), time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(round(seconds * rate)):
                await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
                group.create_task(self.ask(tally))
            tally.seconds = time.perf_counter() - begun
        return tally


async def measure(port: int, pid: int, image: bytes, deadline_s: float, factor: float, seconds: float) -> bool:
    """Run the phases, print the table. Gives: whether the promises hold."""
    target = Target(port, image, deadline_s)
    await target.closed_loop(3.0)
    used = [cpu_s(pid)]
    before = await target.closed_loop(seconds / 2)
    used.append(cpu_s(pid))
    memory_before = resident_mb(pid)
    over = await target.open_loop(seconds, factor * before.rate)
    memory_after = resident_mb(pid)
    used.append(cpu_s(pid))
    after = await target.closed_loop(seconds / 2)
    capacity = (before.rate + after.rate) / 2
    refused = np.percentile(over.refused_ms or [0.0], [50, 99])
    print(f"capacity     {capacity:8.1f} frames/s  ({before.rate:.1f} before, {after.rate:.1f} after)")
    print(f"offered      {over.sent / over.seconds:8.1f} frames/s  deadline {1000 * deadline_s:g} ms")
    print(f"goodput      {over.rate:8.1f} frames/s  {over.rate / capacity:.2f} of the capacity")
    print(f"answers      {', '.join(f'{count} x {status}' for status, count in sorted(over.statuses.items()))}")
    print(f"late         {over.late:8d}")
    print(f"429 after    {refused[0]:8.1f} ms  (median; 99 of 100: {refused[1]:.1f})")
    cores = (used[1] - used[0]) / before.seconds, (used[2] - used[1]) / over.seconds
    print(f"processors   {cores[0]:8.2f} used at capacity, {cores[1]:.2f} under overload: less means that others had them")
    print(f"memory       {memory_before:8.0f} MB before, {memory_after:.0f} after, {resident_mb(pid, 'VmHWM'):.0f} at the most")
    flat = memory_after - memory_before < GROWTH_MB
    answered = sum(over.statuses.values()) == over.sent and over.late <= 0.01 * over.sent
    return answered and flat and over.rate >= 0.95 * capacity and refused[1] < REFUSAL_MS


def main() -> int:
    """Parse, serve, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--factor", type=float, default=5.0, help="times the capacity")
    parser.add_argument("--deadline-ms", type=float, default=1000.0)
    parser.add_argument("--seconds", type=float, default=15.0, help="of overload")
    parser.add_argument("--size", type=int, nargs=2, default=(720, 1280), metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args()
    with server() as served:
        image = sample(*options.size)
        kept = asyncio.run(
            measure(
                urlsplit(served.url).port or 0, served.pid, image, options.deadline_ms / 1000, options.factor, options.seconds
            )
        )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
