"""One process that serves: the models are opened while the web's libraries are imported, then both run until a signal.

A rolling update waits from start to ready. So before the models begin to open, only what opens them is imported. The web's
libraries, which take as long, are imported beside the opening.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from logging.handlers import MemoryHandler
from typing import TYPE_CHECKING

from service.compose import open_repository
from service.pipeline.repository import Repository
from service.settings import Settings

if TYPE_CHECKING:
    from service.api.peers import Peers


def early_log() -> MemoryHandler:
    """Return a handler that keeps the log's lines until the log is set up."""
    early = MemoryHandler(1000, flushLevel=logging.CRITICAL + 1)
    logging.getLogger("service").addHandler(early)
    return early


def serve(
    settings: Settings,
    listeners: Sequence[socket.socket],
    early: MemoryHandler,
    peers: Peers | None = None,
) -> None:
    """Serve until a signal.

    Takes:
        listeners: sockets that listen; the first is the public one
        early: has the log's lines of before it is set up
        peers: the other workers, where this process is one of several
    Raises:
        ServiceError: the reason for which it did not start
    """
    with ThreadPoolExecutor(1, thread_name_prefix="fcn-opening") as opener:
        with _nothing_collected():
            opening = opener.submit(_opened_for_serving, settings)
            from service.server import run  # noqa: PLC0415

            opening.result()  # what cannot be opened is one line, before a server says that it starts
        run(settings, listeners, opening.result, early, peers)


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
    """Keep the garbage collector from searching what is imported and opened meanwhile, now and later: all of it stays. The
    search is a tenth of the time of the imports.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def _opened_for_serving(settings: Settings) -> Repository:
    """Open the models. A start needs one that can be served; a service that runs may lose its last one."""
    repository = open_repository(settings)
    repository.get()
    return repository
