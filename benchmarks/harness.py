"""Parts that the benchmarks share: a server in its own process, load, and a line about the machine and the versions."""

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
"""The command that starts fcn-serve."""
READY_S = 120.0
SETTLE_S = 1.0
"""After a load: wrk leaves requests behind, which are computed until the server notices that their caller is gone. Some servers
never do. Without a pause the next measurement pays for them, 8 % of three seconds."""
WAKE_S = 0.02
"""Seconds between two samples of the watching thread."""


@dataclass(frozen=True)
class Server:
    """A server that is ready."""

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
    """Start a server on a free port of 127.0.0.1, wait until it is ready, and end it afterwards.

    Takes:
        command: the words, with ``{port}`` in the place of the port
        path: of its endpoint
        probe: the path that answers 200 when the server is ready
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
    """Return megabytes of memory: now, or the peak so far (``VmHWM``)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(field_name)).split()[1]) / 1024


def cpu_s(pid: int) -> float:
    """Return the seconds of processor time used so far."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Watch:
    """Samples of a thread that wakes up often: the time, and the processor time that other machines had until then."""

    moments: list[tuple[float, float]] = field(default_factory=list)
    """``time.monotonic()``, and the seconds of all processors that the host gave to other machines so far."""

    def longest_pause_s(self, begin_s: float, end_s: float) -> float:
        """Return the longest time in the interval in which the thread did not wake up."""
        pauses = pairwise(moment for moment, _ in self.moments)
        inside = [min(after, end_s) - max(before, begin_s) for before, after in pauses if before < end_s and after > begin_s]
        return max(inside, default=0.0)

    def taken_s(self, begin_s: float, end_s: float) -> float:
        """Return the seconds of all processors that others had in the interval (``steal`` of ``/proc/stat``)."""
        inside = [taken for moment, taken in self.moments if begin_s - WAKE_S <= moment <= end_s + WAKE_S]
        return max(inside, default=0.0) - min(inside, default=0.0)


@contextmanager
def watch() -> Iterator[Watch]:
    """Sample the machine, which others share, until the block ends."""
    watched, ended = Watch(), threading.Event()

    def sample_often() -> None:
        while not ended.wait(WAKE_S):
            taken = int(Path("/proc/stat").read_text().split(maxsplit=9)[8])
            watched.moments.append((time.monotonic(), taken / os.sysconf("SC_CLK_TCK")))

    watcher = threading.Thread(target=sample_often)
    watcher.start()
    try:
        yield watched
    finally:
        ended.set()
        watcher.join()


def sample(height: int, width: int, seed: int = 0) -> bytes:
    """Return a street scene as a camera would send it: a JPEG file of that size."""
    return bytes(simplejpeg.encode_jpeg(street_scene(height, width, seed=seed)[0], quality=90, colorsubsampling="420"))


@dataclass(frozen=True)
class Load:
    """A measurement of wrk."""

    rate: float
    """Good answers a second."""
    median_ms: float


def load(url: str, image: Path, *, connections: int, seconds: float, content_type: str = "image/jpeg") -> Load:
    """Send an image repeatedly; each connection sends the next when it has its answer.

    Takes:
        url: the endpoint
        image: the body
        content_type: the media type of the body
    """
    wrk = shutil.which("wrk") or sys.exit("wrk is not installed: apt-get install wrk")
    script = Path(__file__).with_name("post.lua")
    threads = ("-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "60s")
    command = [wrk, *threads, "-s", str(script), url, "--", str(image), content_type]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(output[output.rindex("{") :])
    if found["bad"] or not found["good"]:
        raise SystemExit(f"{urlsplit(url).path}: {found['bad']} bad answers beside {found['good']} good ones")
    time.sleep(SETTLE_S)
    return Load(found["good"] / found["seconds"], found["median_ms"])


def machine() -> str:
    """Return one line: processor, cores, versions."""
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    cores = len(os.sched_getaffinity(0))
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("onnxruntime", "numpy", "uvicorn"))
    return f"{cores} cores of {names[0] if names else platform.machine()}; Python {platform.python_version()}, {versions}"
