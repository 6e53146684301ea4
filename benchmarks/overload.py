"""What happens at several times the capacity: ``python benchmarks/overload.py``. A minute and a half.

Starts a server, measures with a few callers in a closed loop what it can do, then sends several times as much, evenly spaced
and whatever comes back, and so on in turns: each overload is compared with what was measured right before and after it. A
request is *good* if its mask came within its deadline, seen from here. Counted is what comes once the queue is full, and while
more is sent: neither the time that it takes to fill it nor what is left in it at the end. What this program itself takes of
the processors is measured too: callers elsewhere would take nothing.

Exit code 1 if a promise of docs/operations.md is broken.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402  (after the path)

from benchmarks.callers import Callers, Tally  # noqa: E402
from benchmarks.harness import cpu_s, resident_mb, sample, server  # noqa: E402

REFUSAL_MS = 20.0
"""By when 99 of 100 refusals are here; what this program itself takes, on the same processors, included."""
GROWTH_MB = 30.0
"""What memory may be more by after the overload."""
PHASE_S = 4.0
"""Of each phase, counted."""


@dataclass
class Phase:
    """What was measured while one kind of load lasted."""

    rate: float
    """Good answers a second."""
    cores: float
    """Processors that the server had."""
    own: float
    """Those that this program had."""


def phase(pid: int, load: Callable[[], float]) -> Phase:
    """Take the measure of a load, which gives good answers a second."""
    used, own, begun = cpu_s(pid), time.process_time(), time.perf_counter()
    rate = load()
    spent = time.perf_counter() - begun
    return Phase(rate, (cpu_s(pid) - used) / spent, (time.process_time() - own) / spent)


def measure(port: int, pid: int, image: bytes, deadline_s: float, factor: float, rounds: int) -> bool:
    """Run the phases, print the table. Gives: whether the promises hold."""
    callers, calm, over = Callers(port, image, deadline_s), Tally(), Tally()
    busy = [phase(pid, lambda: callers.closed_loop(calm, PHASE_S))]
    memory_before = resident_mb(pid)
    flooded = []
    for _ in range(rounds):
        rate = factor * busy[-1].rate
        flooded.append(phase(pid, partial(callers.open_loop, over, PHASE_S, rate)))
        busy.append(phase(pid, lambda: callers.closed_loop(calm, PHASE_S)))
    memory_after = resident_mb(pid)
    refused = np.percentile(over.refused_ms or [0.0], [50, 99])
    shares = [
        each.rate / ((before.rate + after.rate) / 2) for before, each, after in zip(busy, flooded, busy[1:], strict=False)
    ]
    share, capacity = float(np.median(shares)), np.median([each.rate for each in busy])
    calm_own, over_own = (float(np.median([each.own for each in phases])) for phases in (busy, flooded))
    processors = len(os.sched_getaffinity(0))
    left = share * (processors - calm_own) / (processors - over_own)
    print(f"capacity     {capacity:8.1f} frames/s")
    print(f"offered      {factor * capacity:8.1f} frames/s  deadline {1000 * deadline_s:g} ms")
    print(
        f"goodput      {share * capacity:8.1f} frames/s  {share:.3f} of the capacity ({min(shares):.2f} to {max(shares):.2f})"
    )
    print(f"             {left:17.3f} of the capacity of the processors that this program leaves")
    print(f"answers      {', '.join(f'{count} x {status}' for status, count in sorted(over.statuses.items()))}")
    print(f"late         {over.late:8d}")
    print(f"429 after    {refused[0]:8.1f} ms  (median; 99 of 100: {refused[1]:.1f})")
    used = [np.median([each.cores for each in phases]) for phases in (busy, flooded)]
    print(f"processors   {used[0]:8.2f} for the server and {calm_own:.3f} for this program at capacity")
    print(f"             {used[1]:8.2f} for the server and {over_own:.3f} for this program under overload")
    print(f"memory       {memory_before:8.0f} MB before, {memory_after:.0f} after, {resident_mb(pid, 'VmHWM'):.0f} at the most")
    flat = memory_after - memory_before < GROWTH_MB
    answered = sum(over.statuses.values()) == over.sent and over.late <= 0.01 * over.sent
    return answered and flat and share >= 0.95 and refused[1] < REFUSAL_MS


def main() -> int:
    """Parse, serve, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--factor", type=float, default=5.0, help="times the capacity")
    parser.add_argument("--deadline-ms", type=float, default=1000.0)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=(720, 1280), metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args()
    with server() as served:
        image = sample(*options.size)
        port, deadline_s = urlsplit(served.url).port or 0, options.deadline_ms / 1000
        kept = measure(port, served.pid, image, deadline_s, options.factor, options.rounds)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
