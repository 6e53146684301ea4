"""``fcn-serve serve``.

A rolling update waits from start to ready. So before the models begin to open, only what opens them is imported. The web's
libraries, which take as long, are imported beside the opening.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Annotated

import typer

from service.cli import listening
from service.compose import open_repository, require_models
from service.pipeline.repository import Repository
from service.settings import Settings, without_effect

log = logging.getLogger(__name__)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [FCN_HOST; 127.0.0.1]", show_default=False)] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.  [FCN_PORT; 8000]", show_default=False)] = None,
    uds: Annotated[
        Path | None, typer.Option(help="Unix socket, instead of address and port.  [FCN_UDS]", show_default=False)
    ] = None,
) -> None:
    """Serve the models over HTTP until Ctrl-C or SIGTERM.

    Every other setting is an environment variable FCN_...: docs/settings.md lists them, with their defaults.
    """
    settings = Settings.load(host=host, port=port, uds=uds)
    require_models(settings)
    with contextlib.ExitStack() as open_sockets:
        listeners = [open_sockets.enter_context(_public_listener(settings))]
        if settings.admin_port is not None:
            address = listening.tcp(settings.admin_host, settings.admin_port, "FCN_ADMIN_PORT")
            listeners.append(open_sockets.enter_context(address))
        # Lines of before the log is set up wait for it.
        early = MemoryHandler(1000, flushLevel=logging.CRITICAL + 1)
        logging.getLogger("service").addHandler(early)
        for sentence in without_effect(os.environ):
            log.warning("%s", sentence)
        # The web's libraries take as long to import as the models to open: the one beside the other.
        with ThreadPoolExecutor(1, thread_name_prefix="fcn-opening") as opener:
            with _nothing_collected():
                opening = opener.submit(_opened_for_serving, settings)
                from service.server import run  # noqa: PLC0415

                opening.result()  # what cannot be opened is one line, before a server says that it starts
            run(settings, listeners, opening.result, early)


def _public_listener(settings: Settings) -> AbstractContextManager[socket.socket]:
    if settings.uds is not None:
        return listening.unix(settings.uds, int(settings.uds_mode, 8))
    return listening.tcp(settings.host, settings.port, "FCN_PORT")


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
