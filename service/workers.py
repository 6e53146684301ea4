"""Several processes behind one port (``FCN_WORKERS``), kept alive by uvicorn's supervisor.

The parent holds the listening sockets and serves nothing itself. Each worker is a process of its own, with its own models,
queue and bounds; all accept from the same sockets, each once it is ready. Beyond uvicorn's own workers, they run our server,
which opens the models first and drains in order, and their metrics are one set.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from logging.handlers import MemoryHandler
from multiprocessing.connection import wait
from pathlib import Path

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import multiprocess

from service import process, worker
from service.api.peers import Peers
from service.errors import ServiceError
from service.log import log_config
from service.pipeline.cpus import available_cpus
from service.settings import Settings

HEALTHCHECK_S = 60
"""Seconds in which a worker has to answer its supervisor: importing and opening may hold up a busy one."""
log = logging.getLogger(__name__)


def supervise(settings: Settings, listeners: Sequence[socket.socket], early: MemoryHandler) -> None:
    """Serve with several processes until Ctrl-C or SIGTERM. SIGHUP replaces them one after another.

    Takes:
        listeners: sockets that listen, of all workers
        early: has the log's lines of before it is set up
    Raises:
        SystemExit: if a worker could not start; it has said why
    """
    with tempfile.TemporaryDirectory(prefix="fcn-metrics-") as folder:
        supervisor = _supervise(_Config(settings, Path(folder)), listeners, early)
    if any(one.exitcode == STARTUP_FAILURE for one in supervisor.processes):
        sys.exit(1)


def _supervise(config: _Config, listeners: Sequence[socket.socket], early: MemoryHandler) -> multiprocess.Multiprocess:
    early.setTarget(logging.getLogger().handlers[0])
    logging.getLogger("service").removeHandler(early)
    early.close()
    multiprocess.Process = _Worker  # type: ignore[misc]  # the name by which the supervisor makes each worker
    supervisor = multiprocess.Multiprocess(config, list(listeners))
    log.info("%d workers of %d threads each", config.settings.workers, config.settings.threads)
    supervisor.run()
    return supervisor


class _Config(uvicorn.Config):
    """What the supervisor and a worker need. It is sent to each worker, so it holds settings and no application.

    Takes:
        settings: of the whole service
        folder: where workers write their metrics
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        super().__init__(
            _no_application,
            workers=settings.workers,
            log_config=log_config(settings.log_format, settings.log_level),
            timeout_worker_healthcheck=HEALTHCHECK_S,
        )
        threads = settings.threads or max(1, available_cpus() // settings.workers)
        self.settings = settings.model_copy(update={"threads": threads})
        self.folder = folder


async def _no_application(_scope: object, _receive: object, _send: object) -> None:
    """Stand where uvicorn wants an application: a worker makes its own."""


class _Worker(multiprocess.Process):
    """A worker as its supervisor sees it, and the function that runs in it."""

    config: _Config

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve; in the worker."""
        process.configure_process()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _end_with(os.getppid())
        self._server = started = _Started()  # type: ignore[assignment]
        threading.Thread(target=self.always_pong, daemon=True).start()
        try:
            worker.serve(self.config.settings, sockets or [], worker.early_log(), Peers(self.config.folder, started.set))
        except ServiceError as error:
            sys.stderr.write(f"fcn-serve: {error.message}\n")
            sys.exit(STARTUP_FAILURE)

    def ping(self, timeout: float = 5) -> bool:
        """Return whether the worker answers within ``timeout`` seconds; at once where it has ended meanwhile.

        uvicorn's own waits for all of the timeout: the parent holds both ends of the pipe, so the end of a worker closes none.
        """
        try:
            self.parent_conn.send(b"ping")
            wait([self.parent_conn, self.process.sentinel], timeout)
            if not self.parent_conn.poll(0):
                return False
            self.parent_conn.recv()
        except (OSError, EOFError, pickle.UnpicklingError):
            return False
        return True

    def join(self) -> None:
        """Wait until the worker has ended, and drop its gauges; counters stay."""
        super().join()
        if self.pid is not None:
            Peers(self.config.folder).forget(self.pid)


class _Started:
    """Whether a worker serves: its supervisor asks, before it ends the one that this one replaces."""

    def __init__(self) -> None:
        self.started = False

    def set(self) -> None:
        """Note that requests are accepted."""
        self.started = True


def _end_with(parent: int) -> None:
    """End this process when its parent has ended: a supervisor that was killed leaves no workers on its port."""

    def watch() -> None:
        while os.getppid() == parent:
            threading.Event().wait(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="fcn-parent", daemon=True).start()
