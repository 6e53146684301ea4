"""``fcn-serve cluster serve``: the application on Ray Serve."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from service.cluster.session import connected
from service.compose import require_models
from service.settings import Settings

cluster = typer.Typer(
    help="Serve from several machines, by Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@cluster.callback()
def _commands() -> None:
    """Typer takes an application with one command for that command, unless there is something before it."""


@cluster.command()
def serve(
    replicas: Annotated[
        int | None,
        typer.Option(min=1, help="Replicas; by default Ray chooses by the load, one at the least.", show_default=False),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT of the head of a cluster, or auto on one of its nodes; left out, a cluster of this machine.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [FCN_HOST; 127.0.0.1]", show_default=False)] = None,
    port: Annotated[int | None, typer.Option(help="Port.  [FCN_PORT; 8000]", min=1, show_default=False)] = None,
) -> None:
    """Serve the models over HTTP on Ray Serve.

    Without --address, until Ctrl-C or SIGTERM. With it the command returns when the application is ready, and the cluster goes
    on serving; the same command replaces the application, replica by replica, and Ray's `serve shutdown` ends it.
    """
    settings = Settings.load(host=host, port=port)
    require_models(settings)
    with connected(address, logs=address is None) as ray:
        from service.cluster.serving import deploy, shut_down  # noqa: PLC0415 - the web's libraries take seconds

        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            deploy(ray, settings, replicas)
            typer.echo(f"fcn-serve serves on http://{settings.host}:{settings.port}")
            if address is None:
                signal.pause()
        except KeyboardInterrupt:
            pass
        finally:
            if address is None:
                shut_down()
