"""What the benchmarks share: a server in a process of its own, load, and what the machine and the versions were.

May import: the standard library, numpy, simplejpeg, onnxruntime, ``models.scenes``.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import simplejpeg

from models.scenes import street_scene

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = (sys.executable, "-m", "service", "serve", "--port", "{port}")
"""The command that starts it."""
READY_S = 120.0
WAKE_S = 0.02
"""How often whoever watches the machine wakes up."""


@dataclass(frozen=True)
class Server:
    """A server that answers."""

    url: str
    """Of the endpoint that takes an image as the body of a POST."""
    pid: int
    ready_s: float
    """From its start to its first good answer to the probe."""


@contextmanager
def server(
    command: Sequence[str] = PRODUCT,
    *,
    path: str = "/segment",
    probe: str = "/readyz",
    environment: Mapping[str, str] | None = None,
    folder: Path = ROOT,
) -> Iterator[Server]:
    """A server on a free port of 127.0.0.1, ready; ended afterwards.

    Takes:
        command: with ``{port}`` where the port belongs
        path: of its endpoint
        probe: what answers 200 when it is ready
        environment: further variables
        folder: where it runs
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    words = [word.format(port=port) for word in command]
    variables = {**os.environ, "FCN_LOG_LEVEL": "warning", **(environment or {})}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)  # an installation has its bytecode
    begun = time.perf_counter()
    with subprocess.Popen(words, cwd=folder, env=variables, start_new_session=True) as process:
        try:
            _await_ready(port, probe, process)
            yield Server(f"http://127.0.0.1:{port}{path}", process.pid, time.perf_counter() - begun)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _await_ready(port: int, probe: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.perf_counter() + READY_S
    while process.poll() is None and time.perf_counter() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.sendall(f"GET {probe} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                if b" 200 " in connection.recv(64):
                    return
        except OSError:
            pass
        time.sleep(0.01)
    raise SystemExit(f"{process.args!r} did not become ready")


def resident_mb(pid: int, field_name: str = "VmRSS") -> float:
    """Megabytes of memory: now, or at the most so far (``VmHWM``)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(field_name)).split()[1]) / 1024


def cpu_s(pid: int) -> float:
    """Processor time used so far."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Watch:
    """Somebody who wakes up often, and notes when he really did and how much of the processors others had until then."""

    moments: list[tuple[float, float]] = field(default_factory=list)
    """Of ``time.monotonic()``, and the seconds of all processors that the host gave to other machines so far."""

    def longest_pause_s(self, begin_s: float, end_s: float) -> float:
        """The longest time in between in which nobody woke up, though he should have."""
        pauses = pairwise(moment for moment, _ in self.moments)
        inside = [min(after, end_s) - max(before, begin_s) for before, after in pauses if before < end_s and after > begin_s]
        return max(inside, default=0.0)

    def taken_s(self, begin_s: float, end_s: float) -> float:
        """Seconds of all processors that others had in between (``steal`` of ``/proc/stat``)."""
        inside = [taken for moment, taken in self.moments if begin_s - WAKE_S <= moment <= end_s + WAKE_S]
        return max(inside, default=0.0) - min(inside, default=0.0)


@contextmanager
def watch() -> Iterator[Watch]:
    """Watch the machine meanwhile, which others share."""
    watched, ended = Watch(), threading.Event()

    def look() -> None:
        while not ended.wait(WAKE_S):
            taken = int(Path("/proc/stat").read_text().split(maxsplit=9)[8])
            watched.moments.append((time.monotonic(), taken / os.sysconf("SC_CLK_TCK")))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield watched
    finally:
        ended.set()
        watcher.join()


def sample(height: int, width: int, seed: int = 0) -> bytes:
    """A street scene as a camera would send it: a JPEG file of that size."""
    return bytes(simplejpeg.encode_jpeg(street_scene(height, width, seed=seed)[0], quality=90, colorsubsampling="420"))


@dataclass(frozen=True)
class Load:
    """What wrk measured."""

    rate: float
    """Good answers a second."""
    median_ms: float


def load(url: str, image: Path, *, connections: int, seconds: float, content_type: str = "image/jpeg") -> Load:
    """Send an image over and over, each connection the next one when it has its answer.

    Takes:
        url: where to
        image: the body
        content_type: of it
    """
    wrk = shutil.which("wrk") or sys.exit("wrk is not installed: apt-get install wrk")
    script = Path(__file__).with_name("post.lua")
    threads = ("-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "60s")
    command = [wrk, *threads, "-s", str(script), url, "--", str(image), content_type]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(output[output.rindex("{") :])
    if found["bad"] or not found["good"]:
        raise SystemExit(f"{urlsplit(url).path}: {found['bad']} bad answers beside {found['good']} good ones")
    return Load(found["good"] / found["seconds"], found["median_ms"])


def machine() -> str:
    """One line: processor, cores, versions."""
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    cores = len(os.sched_getaffinity(0))
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("onnxruntime", "numpy", "uvicorn"))
    return f"{cores} cores of {names[0] if names else platform.machine()}; Python {platform.python_version()}, {versions}"
