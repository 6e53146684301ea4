"""Callers on this machine: a closed loop that keeps a server busy, an open loop at a fixed rate, or both.

``callers.c`` makes the calls, because the callers' processor time is missing from the measured server: 0.13 ms an image, half
of the same in Python. It is compiled when it is needed, with ``cc`` or the program that ``CC`` names.
"""

from __future__ import annotations

import atexit
import os
import resource
import shlex
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Wconversion")

WAITING = 16
"""Callers in the closed loop: enough to keep two processors busy and the queue full."""
PATIENCE_S = 30.0
"""The deadline of the closed loop's requests."""
GRACE_S = 0.05
"""Allowance on a deadline for the way back and the callers themselves."""
LEAD_S = 1.5
"""Seconds before the first window."""


@dataclass
class Tally:
    """Counts and times of the answers."""

    late: int = 0
    """Masks and rejections that arrived after the deadline."""
    statuses: Counter[int] = field(default_factory=Counter)
    good_s: list[float] = field(default_factory=list)
    """Arrival of each mask that was in time."""
    good_ms: list[float] = field(default_factory=list)
    """Time of each of those."""
    refused_ms: list[float] = field(default_factory=list)
    """Time of each 429."""
    expired_s: list[tuple[float, float]] = field(default_factory=list)
    """Times of request and answer of each 504."""

    def count(self, status: int, asked_s: float, answered_s: float, deadline_s: float) -> None:
        """Count an answer."""
        self.statuses[status] += 1
        in_time = answered_s - asked_s <= deadline_s + GRACE_S
        self.late += not in_time
        if status == 200 and in_time:
            self.good_s.append(answered_s)
            self.good_ms.append(1000 * (answered_s - asked_s))
        if status == 429:
            self.refused_ms.append(1000 * (answered_s - asked_s))
        if status == 504:
            self.expired_s.append((asked_s, answered_s))

    def rate(self, begin_s: float, end_s: float) -> float:
        """Return the good masks a second in an interval."""
        return sum(begin_s <= moment < end_s for moment in self.good_s) / (end_s - begin_s)


class Callers:
    """Callers that send one image to ``POST /segment``. When a method returns, each request has its answer.

    Takes:
        port: a port of 127.0.0.1
        image: the bytes of the file
    """

    def __init__(self, port: int, image: bytes) -> None:
        self._port, self._image = port, image
        self.cpu_s = 0.0
        """Processor time of the callers so far."""

    def closed_loop(self, tally: Tally, seconds: float) -> None:
        """Run ``WAITING`` callers that each wait for their answer."""
        self._call([f"{seconds}:0"], tally, Tally(), PATIENCE_S, waiting_count=WAITING)

    def open_loop(self, tally: Tally, seconds: float, rate: float, deadline_s: float) -> None:
        """Send ``rate`` requests a second, evenly spaced, whatever the answers."""
        self._call([f"{seconds}:{rate}"], Tally(), tally, deadline_s, waiting_count=0)

    def waves(
        self, waiting: Tally, others: Tally, seconds: float, *, count: int, factor: float, deadline_s: float
    ) -> list[tuple[float, float]]:
        """Run the closed loop, and in every other window the open loop besides.

        Takes:
            waiting, others: the tallies of the closed and the open loop
            seconds: length of a window
            count: number of windows with the open loop
            factor: requests of the open loop to each mask of the calm window before
            deadline_s: deadline of the open loop's requests
        Gives:
            (begin, end) of every window; the odd ones, from the first to the last, are calm
        """
        windows = [f"{seconds}:x{factor}" if at % 2 else f"{seconds}:0" for at in range(2 * count + 1)]
        begun = self._call([f"{LEAD_S}:0", *windows], waiting, others, deadline_s, waiting_count=WAITING) + LEAD_S
        return [(begun + at * seconds, begun + (at + 1) * seconds) for at in range(2 * count + 1)]

    def _call(self, phases: list[str], waiting: Tally, others: Tally, deadline_s: float, *, waiting_count: int) -> float:
        """Run the program. Gives: the beginning of the first phase, on the clock of the counted times."""
        tallies = {"w": (waiting, PATIENCE_S), "o": (others, deadline_s)}
        program, used = _compiled(), _children_s()
        with self._request(PATIENCE_S) as patient, self._request(deadline_s) as impatient:
            words = [program, str(self._port), str(waiting_count), patient, impatient, *phases]
            ran = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
        self.cpu_s += _children_s() - used
        if ran.returncode:
            raise SystemExit(ran.returncode)  # the program has printed the reason
        begun, *answers = ran.stdout.splitlines()
        for answer in answers:
            name, asked, answered, status = answer.split()
            tally, limit_s = tallies[name]
            tally.count(int(status), float(asked), float(answered), limit_s)
        return float(begun)

    @contextmanager
    def _request(self, deadline_s: float) -> Iterator[str]:
        """Write a whole request into a file and give its name."""
        head = (
            "POST /segment HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
            f"X-Deadline-Ms: {1000 * deadline_s:g}\r\nContent-Length: {len(self._image)}\r\n\r\n"
        )
        with tempfile.NamedTemporaryFile() as file:
            file.write(head.encode() + self._image)
            file.flush()
            yield file.name


@cache
def _compiled() -> str:
    """Compile the program and return its path; it is removed when this process ends."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    program = str(Path(folder, "callers"))
    try:
        command = [*shlex.split(os.environ.get("CC", "cc")), *FLAGS, "-o", program, str(SOURCE), "-lm"]
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"the callers need a C compiler: apt-get install gcc libc6-dev ({error})") from error
    return program


def _children_s() -> float:
    """Return the processor time of the ended child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
