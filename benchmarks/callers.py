"""Callers on this machine: as many as keep a server busy, so many a second, whatever comes back, or both at once.

``callers.c`` does the calling, because what a caller takes is missing from the processors that the server is measured on: half
of what the same took in Python, 0.13 ms an image instead of 0.26. It is compiled when it is needed, with ``cc`` or what ``CC``
names.

May import: the standard library.
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
"""As many keep two processors busy, and the queue full."""
PATIENCE_S = 30.0
"""The deadline of those who wait their turn."""
GRACE_S = 0.05
"""What the way back and the callers themselves may add to a deadline."""
LEAD_S = 1.5
"""Before the first window."""


@dataclass
class Tally:
    """What came back."""

    late: int = 0
    """Masks and refusals that came after the deadline."""
    statuses: Counter[int] = field(default_factory=Counter)
    good_s: list[float] = field(default_factory=list)
    """When each mask came that was in time."""
    good_ms: list[float] = field(default_factory=list)
    """How long each of those took."""
    refused_ms: list[float] = field(default_factory=list)
    """How long each 429 took."""
    expired_s: list[tuple[float, float]] = field(default_factory=list)
    """When each was asked and told whose time was over before he had his mask."""

    def count(self, status: int, asked_s: float, answered_s: float, deadline_s: float) -> None:
        """One more answer."""
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
        """Good ones a second, from one moment to another."""
        return sum(begin_s <= moment < end_s for moment in self.good_s) / (end_s - begin_s)


class Callers:
    """Those who send one image to ``POST /segment``. Every one of them has his answer when a method returns.

    Takes:
        port: of 127.0.0.1
        image: the file
    """

    def __init__(self, port: int, image: bytes) -> None:
        self._port, self._image = port, image
        self.cpu_s = 0.0
        """Processor time that they took, so far."""

    def closed_loop(self, tally: Tally, seconds: float) -> None:
        """As many who wait as fill the queue."""
        self._call([f"{seconds}:0"], tally, Tally(), PATIENCE_S, waiting_count=WAITING)

    def open_loop(self, tally: Tally, seconds: float, rate: float, deadline_s: float) -> None:
        """So many a second, evenly spaced."""
        self._call([f"{seconds}:{rate}"], Tally(), tally, deadline_s, waiting_count=0)

    def waves(
        self, waiting: Tally, others: Tally, seconds: float, *, count: int, factor: float, deadline_s: float
    ) -> list[tuple[float, float]]:
        """As many who wait as fill the queue; on top, in every other of equally long windows, others.

        Takes:
            waiting, others: what becomes of either
            seconds: of a window
            count: of windows with others
            factor: how many others there are to each who had his mask in the calm window before
            deadline_s: of the others
        Gives:
            (begin, end) of every window; the first, the third and so on until the last are those without others
        """
        windows = [f"{seconds}:x{factor}" if at % 2 else f"{seconds}:0" for at in range(2 * count + 1)]
        begun = self._call([f"{LEAD_S}:0", *windows], waiting, others, deadline_s, waiting_count=WAITING) + LEAD_S
        return [(begun + at * seconds, begun + (at + 1) * seconds) for at in range(2 * count + 1)]

    def _call(self, phases: list[str], waiting: Tally, others: Tally, deadline_s: float, *, waiting_count: int) -> float:
        """Run the program. Gives: when the first phase began; of the same clock as what is counted."""
        tallies = {"w": (waiting, PATIENCE_S), "o": (others, deadline_s)}
        program, used = _compiled(), _children_s()
        with self._request(PATIENCE_S) as patient, self._request(deadline_s) as impatient:
            words = [program, str(self._port), str(waiting_count), patient, impatient, *phases]
            ran = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
        self.cpu_s += _children_s() - used
        if ran.returncode:
            raise SystemExit(ran.returncode)  # it has said why
        begun, *answers = ran.stdout.splitlines()
        for answer in answers:
            name, asked, answered, status = answer.split()
            tally, limit_s = tallies[name]
            tally.count(int(status), float(asked), float(answered), limit_s)
        return float(begun)

    @contextmanager
    def _request(self, deadline_s: float) -> Iterator[str]:
        """A file with a whole request."""
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
    """The program; until this process ends."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    program = str(Path(folder, "callers"))
    try:
        command = [*shlex.split(os.environ.get("CC", "cc")), *FLAGS, "-o", program, str(SOURCE), "-lm"]
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"the callers want a C compiler: apt-get install gcc libc6-dev ({error})") from error
    return program


def _children_s() -> float:
    """Processor time of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
