"""``create_app(settings)``: the HTTP application, from start to shutdown.

Every model is opened and run once before the first connection is accepted. On SIGTERM readiness turns red, requests in work
finish, and the models are closed.

With ``FCN_ADMIN_PORT`` the operators' calls are an application on a port of its own: the same process, the same services.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from types import FrameType
from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from service import __version__
from service.api import admin, models, pages, problems, schemas, segment, stream
from service.api.compression import CompressedJson
from service.api.in_flight import InFlight
from service.api.keys import Origins
from service.api.metrics import Metrics
from service.api.peers import Peers
from service.api.readiness import Readiness
from service.api.services import Services
from service.api.stream import Streams
from service.api.telemetry import PROBES, Telemetry, path_of
from service.api.transport.bounds import CONNECTIONS, Bounds
from service.api.transport.connections import Connections
from service.api.transport.early_refusal import PATH, EarlyRefusal
from service.api.unmatched import Unmatched
from service.api.upload import UPLOADS_AT_ONCE, Uploads
from service.api.v2 import rest as inference_v2
from service.api.v2 import schemas as schemas_v2
from service.api.v2.memory import Regions
from service.compose import make_captures, make_plane, open_repository
from service.pipeline.engine import Engine
from service.pipeline.repository import Repository
from service.serving.keys import Keys
from service.settings import Settings

log = logging.getLogger(__name__)


def create_app(
    settings: Settings,
    opening: Callable[[], Repository] | None = None,
    bounds: Bounds | None = None,
    peers: Peers | None = None,
) -> FastAPI:
    """Return the complete application; its lifespan opens the models.

    Takes:
        settings: read by the caller
        opening: gives the open models, if the caller has begun to open them already
        bounds: of every connection; by default the usual ones, with the settings' idle time
        peers: the other workers, where this process is one of several
    """
    metrics, in_flight = Metrics(), InFlight()
    bounds = bounds or Bounds(keep_alive_s=settings.keep_alive_s)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        streams = Streams(settings.max_streams, Origins(settings.allowed_origins))
        connections = Connections(settings.max_connections, metrics.count_refusal, bounds)
        metrics.watch_traffic(
            in_flight=in_flight.count, connections=lambda: len(connections.open), streams=lambda: streams.open
        )
        async with _serving(settings, metrics, opening or partial(open_repository, settings), peers) as services:
            app.state.services = operators.state.services = services
            app.state.streams, app.state.in_flight = streams, in_flight
            connections.early_refusal = EarlyRefusal(services.plane, metrics, settings.deadline_ms / 1000)
            async with _grpc(settings, services, in_flight, streams, bounds):
                yield {CONNECTIONS: connections}

    compression = Middleware(CompressedJson)
    telemetry = Middleware(Telemetry, metrics=metrics, in_flight=in_flight, on_crash=problems.internal_error)
    app = _Application(
        "Semantic segmentation with fully convolutional networks: an image in, a label map of its size out.",
        [telemetry, compression],
        lifespan,
    )
    app.router.routes.append(segment.segment_route)
    operators = app
    if settings.admin_port is not None:
        operators = _Application("Calls for operators.", [telemetry, compression])
        operators.include_router(models.probes)
        app.add_middleware(_ByPort, port=settings.admin_port, other=operators)
    operators.include_router(admin.router)
    operators.include_router(inference_v2.admin_router)
    app.include_router(models.router)
    app.include_router(models.probes)
    app.include_router(inference_v2.router)
    app.include_router(inference_v2.open_router)
    app.include_router(stream.router)
    app.include_router(pages.router)
    return app


class _Application(FastAPI):
    """Adds to the OpenAPI document the schemas that FastAPI does not parse itself."""

    def __init__(
        self,
        description: str,
        middleware: Sequence[Middleware],
        lifespan: Callable[[FastAPI], contextlib.AbstractAsyncContextManager[dict[str, Any]]] | None = None,
    ) -> None:
        super().__init__(
            title="fcn-serve",
            version=__version__,
            description=description,
            lifespan=lifespan,
            docs_url=None,  # FastAPI's viewers load scripts from a third-party host; ours is part of the page
            redoc_url=None,
            redirect_slashes=False,
            middleware=middleware,
            # Spans alone, and where OTEL_EXPORTER_OTLP_ENDPOINT is set: metrics and log lines are our own.
            telemetry={
                "auto_configure": True,
                "metrics": False,
                "logs": False,
                "operation_spans": False,
                "exclude": lambda scope: path_of(scope) in PROBES,
            },
        )
        problems.install(self)
        self.router.default = Unmatched(self.router.routes)

    def build_middleware_stack(self) -> ASGIApp:
        """Return the application below FastAPI's spans. Requests for masks take our own layers alone."""
        every = super().build_middleware_stack()
        if segment.segment_route not in self.router.routes:
            return every
        masks: ASGIApp = ExceptionMiddleware(segment.segment_route.handle, handlers=self.exception_handlers)
        for layer in reversed(self.user_middleware):
            masks = layer.cls(masks, *layer.args, **layer.kwargs)
        return _MasksFirst(masks, every)

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        document = super().openapi()
        document["components"]["schemas"].update(schemas_v2.components() | schemas.components())
        for path in document["paths"].values():
            for call in path.values():
                call["responses"].update(schemas.UNREADABLE)
        return document


class _MasksFirst:
    """Routes most requests, those for masks, around the layers that FastAPI adds for other routes: its router, its limits, its
    stacks of exits. Between two images the network empties the processor's caches, so each layer costs several times its usual
    time.

    Takes:
        masks: serves ``POST /segment``
        others: serves every request, and those for masks that FastAPI traces
    """

    def __init__(self, masks: ASGIApp, others: ASGIApp) -> None:
        self._masks, self._others = masks, others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        is_for_masks = scope["type"] == "http" and scope["method"] == "POST" and path_of(scope) == PATH
        if is_for_masks and "fastapi.telemetry" not in scope:
            scope["route"] = segment.segment_route
            await self._masks(scope, receive, send)
        else:
            await self._others(scope, receive, send)


class _ByPort:
    """Routes requests of one port to another application.

    Takes:
        app: for all other ports
        port: of this machine, as the connection has it: a header cannot forge it
        other: the application of that port
    """

    def __init__(self, app: ASGIApp, port: int, other: ASGIApp) -> None:
        self._app, self._port, self._other = app, port, other

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request by the application of its port."""
        server = scope.get("server")
        app = self._other if server is not None and server[1] == self._port else self._app
        await app(scope, receive, send)


@contextlib.asynccontextmanager
async def _serving(
    settings: Settings, metrics: Metrics, opening: Callable[[], Repository], peers: Peers | None
) -> AsyncIterator[Services]:
    captures = await asyncio.to_thread(make_captures, settings)
    repository = await asyncio.to_thread(opening)
    plane = make_plane(settings, repository, captures)
    readiness = Readiness(plane.check_ready)
    metrics.watch(
        ready=readiness.is_green,
        queue_depth=lambda: plane.scheduler.admitted,
        queue_megapixels=lambda: plane.scheduler.load,
        models=lambda: map(_model_labels, repository.engines()),
        refused=lambda: repository.broken,
        artifacts=lambda: repository.outcomes,
    )
    if captures is not None:
        metrics.watch_captures(lambda: captures.outcomes, lambda: captures.bytes)
    services = Services(
        plane=plane,
        readiness=readiness,
        metrics=metrics,
        peers=peers,
        uploads=Uploads(max(UPLOADS_AT_ONCE * settings.max_image_bytes, settings.max_scan_bytes)),
        regions=Regions(settings.shared_memory, settings.max_image_bytes),
        max_image_bytes=settings.max_image_bytes,
        max_scan_bytes=settings.max_scan_bytes,
        deadline_s=settings.deadline_ms / 1000,
        scan_deadline_s=settings.scan_deadline_ms / 1000,
        admin_keys=Keys(key.get_secret_value() for key in settings.admin_keys) if settings.admin_keys else None,
    )
    try:
        async with _watching(repository, settings.reload_s), _publishing(metrics, peers):
            with _red_on_signals(readiness):
                yield services
    finally:
        readiness.drain()
        await plane.drain(max(1.0, settings.drain_s - readiness.draining_s))
        if captures is not None:
            await asyncio.to_thread(captures.close)


def _grpc(
    settings: Settings, services: Services, in_flight: InFlight, streams: Streams, bounds: Bounds
) -> contextlib.AbstractAsyncContextManager[None]:
    """Return what serves gRPC for as long as it lasts, if there is a port for it."""
    if settings.grpc_port is None:
        return contextlib.nullcontext()
    from service.api.v2.grpc.server import serving  # noqa: PLC0415 - an extra

    return serving(settings, services, in_flight, streams, bounds)


@contextlib.asynccontextmanager
async def _publishing(metrics: Metrics, peers: Peers | None) -> AsyncIterator[None]:
    """Write the metrics of this worker for the others, for as long as the block lasts, and once more in the end."""
    if peers is None:
        yield
        return
    publishing = asyncio.create_task(peers.keep_publishing(metrics.text))
    try:
        yield
    finally:
        publishing.cancel()
        peers.publish(metrics.text())


@contextlib.asynccontextmanager
async def _watching(repository: Repository, every_s: float) -> AsyncIterator[None]:
    """Scan the models folder at intervals, and serve what changed, for as long as the block lasts."""

    async def watch() -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await asyncio.to_thread(repository.refresh)
            except Exception:  # the next scan may succeed
                log.exception("the models folder could not be scanned")

    watcher = asyncio.create_task(watch()) if every_s else None
    try:
        yield
    finally:
        if watcher is not None:
            watcher.cancel()


def _model_labels(engine: Engine) -> dict[str, str]:
    manifest = engine.manifest
    return {"name": manifest.name, "version": manifest.version, "sha256": engine.sha256, "provider": engine.provider}


@contextlib.contextmanager
def _red_on_signals(readiness: Readiness) -> Iterator[None]:
    """Turn readiness red the moment that SIGTERM or Ctrl-C comes, before the server begins to shut down."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    server_handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def drain(number: int, frame: FrameType | None) -> None:
        readiness.drain()
        if callable(server_handler := server_handlers[signal.Signals(number)]):
            server_handler(number, frame)

    for number in server_handlers:
        signal.signal(number, drain)
    try:
        yield
    finally:
        for number, server_handler in server_handlers.items():
            signal.signal(number, server_handler)
