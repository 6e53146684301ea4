"""What happens at several times the capacity: ``python benchmarks/overload.py``. Two minutes and a half.

Starts a server. Callers who wait their turn keep its queue full: they get what it can do, the capacity. In every other second
others come on top, evenly spaced and whatever comes back, so that together they are several times as many. A request is *good*
if its mask came within its deadline, seen from here, whoever asked for it.

Each flooded second is compared with the two beside it: the machine's speed drifts by more, over a minute, than refusals cost.
(Callers and server share the processors here; what the callers take of them is missing from the goodput.)

Exit code 1 if a promise of docs/operations.md is broken.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402  (after the path)

from benchmarks.callers import Callers, Tally  # noqa: E402
from benchmarks.harness import cpu_s, resident_mb, sample, server, watch  # noqa: E402

GOODPUT = 0.95
"""Of the capacity, at least."""
REFUSAL_MS = 20.0
"""By when 99 of 100 refusals are here; what the callers take, on the same processors, included."""
GROWTH_MB = 30.0
"""What memory may be more by after the overload."""
WARM_S = 5.5
TURNS = 0.8
"""Of the capacity, what those who wait their turn still ask for where others take their places in the queue; at the least."""


def shares(rates: list[float]) -> list[float]:
    """Of each flooded window's good answers to those of its neighbours' mean.

    Takes:
        rates: of all windows; the first, the third and so on until the last are calm
    """
    beside = [(before + after) / 2 for before, after in pairwise(rates[::2])]
    return [flooded / calm for flooded, calm in zip(rates[1::2], beside, strict=True)]


def measure(port: int, pid: int, image: bytes, deadline_s: float, factor: float, count: int, window_s: float) -> bool:
    """Run it, print the table. Gives: whether the promises hold."""
    callers, waiting, others = Callers(port, image), Tally(), Tally()
    callers.closed_loop(Tally(), WARM_S)
    memory_before, used, own, begun = resident_mb(pid), cpu_s(pid), callers.cpu_s, time.monotonic()
    with watch() as machine:
        windows = callers.waves(waiting, others, window_s, count=count, factor=factor - TURNS, deadline_s=deadline_s)
    memory_after, spent = resident_mb(pid), time.monotonic() - begun
    rates = [waiting.rate(*window) + others.rate(*window) for window in windows]
    each = shares(rates)
    share, error = float(np.mean(each)), float(np.std(each, ddof=1) / len(each) ** 0.5)
    refused = np.percentile(others.refused_ms or [0.0], [50, 99])
    statuses = waiting.statuses + others.statuses
    print(f"python       {platform.python_version()}, {platform.python_compiler()}, {platform.python_implementation()}")
    capacity = np.mean(rates[::2])
    print(f"capacity     {capacity:8.1f} frames/s")
    offered = np.mean(rates[1::2]) + (others.statuses.total() - len(others.good_s)) / count / window_s
    print(f"offered      {offered:8.1f} frames/s  {offered / capacity:.2f} times as many, deadline {1000 * deadline_s:g} ms")
    print(f"goodput      {np.mean(rates[1::2]):8.1f} frames/s  {share:.3f} +- {error:.3f} of the capacity, {count} seconds")
    print(f"answers      {', '.join(f'{number} x {status}' for status, number in sorted(statuses.items()))}")
    print(f"late         {waiting.late + others.late:8d}")
    print(f"429 after    {refused[0]:8.1f} ms  (median; 99 of 100: {refused[1]:.1f})")
    times = [("machine", begun, begun + spent), *(("a 504", *time_s) for time_s in waiting.expired_s + others.expired_s)]
    for what, begin_s, end_s in times:
        taken, pause_s = machine.taken_s(begin_s, end_s) / (end_s - begin_s), machine.longest_pause_s(begin_s, end_s)
        print(f"{what:12} {taken:8.2f} processors of others meanwhile, longest pause {1000 * pause_s:.0f} ms")
    own = (callers.cpu_s - own) / spent
    print(f"processors   {(cpu_s(pid) - used) / spent:8.2f} for the server, {own:.3f} for the callers")
    print(f"memory       {memory_before:8.0f} MB before, {memory_after:.0f} after, {resident_mb(pid, 'VmHWM'):.0f} at the most")
    flat = memory_after - memory_before < GROWTH_MB
    answered = others.late <= 0.01 * others.statuses.total() and not waiting.statuses[429]
    return answered and flat and share >= GOODPUT and refused[1] < REFUSAL_MS


def main() -> int:
    """Parse, serve, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--factor", type=float, default=5.0, help="times the capacity")
    parser.add_argument("--deadline-ms", type=float, default=1000.0)
    parser.add_argument("--count", type=int, default=70, help="of flooded windows")
    parser.add_argument("--window-s", type=float, default=1.0)
    parser.add_argument("--size", type=int, nargs=2, default=(720, 1280), metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args()
    with server() as served:
        port, deadline_s = urlsplit(served.url).port or 0, options.deadline_ms / 1000
        image = sample(*options.size)
        kept = measure(port, served.pid, image, deadline_s, options.factor, options.count, options.window_s)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
