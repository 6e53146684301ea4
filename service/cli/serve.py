"""``fcn-serve serve``.

Start to ready is what a rolling update waits for. So nothing is imported before the models begin to open but what opens them;
the web's libraries, which take as long, come beside it.

May import: typer, ``service.compose``, ``errors`` and ``settings``, the pipeline's ``memory`` and ``repository``;
``service.server`` once the models are being opened.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from logging.handlers import MemoryHandler
from typing import Annotated

import typer

from service.compose import open_repository, require_models
from service.errors import BadSetting
from service.pipeline.repository import Repository
from service.settings import Settings, without_effect

log = logging.getLogger(__name__)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [FCN_HOST; 127.0.0.1]", show_default=False)] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.  [FCN_PORT; 8000]", show_default=False)] = None,
) -> None:
    """Serve the models over HTTP until Ctrl-C or SIGTERM.

    Every other setting is an environment variable FCN_...: docs/settings.md lists them, with their defaults.
    """
    settings = Settings.load(host=host, port=port)
    require_models(settings)
    with contextlib.ExitStack() as open_sockets:
        listener = open_sockets.enter_context(_listening(settings.host, settings.port, "FCN_PORT"))
        listeners = [listener]
        if settings.admin_port is not None:
            address = _listening(settings.admin_host, settings.admin_port, "FCN_ADMIN_PORT")
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


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
    """What is imported and opened meanwhile stays: looking through it for garbage is a tenth of the imports, and afterwards
    every look would begin with it.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def _opened_for_serving(settings: Settings) -> Repository:
    """A start needs one model that can be served; who runs already may lose the last one, and waits for the next."""
    repository = open_repository(settings)
    repository.get()
    return repository


@contextlib.contextmanager
def _listening(host: str, port: int, setting: str) -> Iterator[socket.socket]:
    """A socket that listens at the address. Who calls while the models are being opened waits for them, and is not refused.

    Bound and listening before anything else starts: of two services that start at once on one port, the second would
    otherwise find out only in uvloop, which keeps it to itself and serves nobody.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise BadSetting(f"{setting.replace('PORT', 'HOST')}: {host!r} is no address of this machine") from error
    with socket.socket(family, kind) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen()
        except OSError as error:
            raise BadSetting(f"{setting}: cannot listen on port {port} of {host}: {error.strerror}") from error
        yield listener
