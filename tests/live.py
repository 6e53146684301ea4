"""Real servers on real sockets, for tests that would prove nothing against an in-process transport."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from service.api.app import create_app
from service.api.transport.bounds import Bounds
from service.api.transport.connection import Connection, StreamConnection
from service.settings import Settings
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    """Return a port of 127.0.0.1 at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def live_server(settings: Settings, bounds: Bounds | None = None) -> Iterator[str]:
    """A server in a thread of this process, ready for requests.

    Takes:
        bounds: of its connections, where a test needs others than the usual ones
    Gives:
        its base URL, without a slash at the end
    """
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        create_app(settings, bounds=bounds),
        http=Connection,
        ws=StreamConnection,
        log_config=None,
        access_log=False,
        root_path=settings.root_path,
        timeout_graceful_shutdown=10,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), name="live-server")
    thread.start()
    try:
        base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        _await_ready(base_url, thread.is_alive)
        yield base_url
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@dataclass(frozen=True)
class LiveProcess:
    """A server in a process of its own."""

    base_url: str
    process: subprocess.Popen[bytes]
    log: Path
    """What it writes to its standard error."""


@contextmanager
def live_process(folder: Path, settings: dict[str, Any]) -> Iterator[LiveProcess]:
    """``fcn-serve serve``, ready for requests; for what only a process can show, as signals and logs.

    Takes:
        folder: where its log goes (into a file: a full pipe would stop the server)
        settings: by their names, without the prefix
    """
    port = free_port()
    environment = {**os.environ, **{f"FCN_{name.upper()}": str(value) for name, value in settings.items()}}
    command = [sys.executable, "-m", "service", "serve", "--host", "127.0.0.1", "--port", str(port)]
    log = folder / "server.log"
    with log.open("wb") as sink, subprocess.Popen(command, cwd=ROOT, env=environment, stderr=sink) as process:
        try:
            base_url = f"http://127.0.0.1:{port}"
            _await_ready(base_url, lambda: process.poll() is None)
            yield LiveProcess(base_url, process, log)
        finally:
            if process.poll() is None:
                process.kill()


def _await_ready(base_url: str, alive: Callable[[], bool]) -> None:
    def ready() -> bool:
        try:
            return httpx.get(f"{base_url}/readyz", timeout=30.0).status_code == 200
        except httpx.TransportError:
            return False

    wait_until(ready, "the server to be ready", deadline_s=120.0, alive=alive)


def metric(base_url: str, name: str) -> float:
    """A metric by its name and labels as written; 0 if it has not been counted yet."""
    return float(httpx.get(f"{base_url}/metrics").text.partition(f"\n{name} ")[2].split("\n")[0] or 0)
