"""``fcn-serve serve``: settings, sockets, then one process or several."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import socket
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from service import worker
from service.cli import listening
from service.compose import require_models
from service.errors import BadSetting
from service.extras import needs
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
        if settings.grpc_port is not None:
            _check_grpc(settings.host, settings.grpc_port)
        if settings.admin_port is not None:
            address = listening.tcp(settings.admin_host, settings.admin_port, "FCN_ADMIN_PORT")
            listeners.append(open_sockets.enter_context(address))
        early = worker.early_log()
        for sentence in without_effect(os.environ):
            log.warning("%s", sentence)
        if settings.workers == 1:
            worker.serve(settings, listeners, early)
        else:
            from service.workers import supervise  # noqa: PLC0415 - uvicorn

            supervise(settings, listeners, early)


def _public_listener(settings: Settings) -> AbstractContextManager[socket.socket]:
    if settings.uds is not None:
        return listening.unix(settings.uds, int(settings.uds_mode, 8))
    return listening.tcp(settings.host, settings.port, "FCN_PORT")


def _check_grpc(host: str, port: int) -> None:
    """Return None if gRPC can be served: its server takes the port itself, once the models are open.

    Raises:
        BadSetting: if its packages are missing, or the port is taken
    """
    try:
        installed = all(importlib.util.find_spec(name) for name in ("grpc", "grpc_health", "google.protobuf"))
    except (ModuleNotFoundError, ValueError):
        installed = False
    if not installed:
        raise BadSetting(f"FCN_GRPC_PORT: {needs('calls over gRPC need', 'grpc')}")
    with listening.tcp(host, port, "FCN_GRPC_PORT"):
        pass
