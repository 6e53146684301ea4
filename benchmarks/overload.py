"""Measure a server at several times its capacity: ``python benchmarks/overload.py``. Two minutes and a half.

A closed loop of callers keeps the queue full and measures the capacity. In every other second an open loop sends several times
that many requests besides, evenly spaced. A request is *good* if its mask arrives within its deadline, as the caller sees it.

Each flooded second is compared with the two beside it, because the machine's speed drifts within a minute by more than the cost
of rejections. Callers and server share the processors, so the callers' time is missing from the goodput.

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
"""The least goodput, as a share of the capacity."""
REFUSAL_MS = 20.0
"""The time within which 99 of 100 rejections arrive, callers on the same processors included."""
GROWTH_MB = 30.0
"""The most that memory may grow by the overload."""
WARM_S = 5.5
TURNS = 0.8
"""The least share of the capacity that the closed loop still asks for while the open loop fills the queue."""


def shares(rates: list[float]) -> list[float]:
    """Return each flooded window's rate over the mean of the windows beside it.

    Takes:
        rates: good answers a second of all windows; the odd ones, from the first to the last, are calm
    """
    beside = [(before + after) / 2 for before, after in pairwise(rates[::2])]
    return [flooded / calm for flooded, calm in zip(rates[1::2], beside, strict=True)]


def measure(port: int, pid: int, image: bytes, deadline_s: float, factor: float, count: int, window_s: float) -> bool:
    """Measure and print the table. Gives: whether the promises hold."""
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
