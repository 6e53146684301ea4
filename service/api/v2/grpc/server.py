"""The gRPC server: on the same event loop as HTTP, with the same services, and with gRPC's own health service."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from service.api.in_flight import InFlight
from service.api.readiness import Readiness
from service.api.services import Services
from service.api.stream import Streams
from service.api.transport.bounds import Bounds
from service.api.v2 import tensors
from service.api.v2.grpc.exchange import Exchanges
from service.api.v2.grpc.messages import SERVICE
from service.errors import BadSetting
from service.settings import Settings

HEALTH_S = 0.5
"""Seconds between two checks of readiness for watchers. A call of Check always reads it."""
LEAST_IDLE_S = 1.0
"""Seconds that a connection without a call is kept at least."""
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@contextlib.asynccontextmanager
async def serving(
    settings: Settings, services: Services, in_flight: InFlight, streams: Streams, bounds: Bounds
) -> AsyncIterator[None]:
    """Serve gRPC for as long as the block lasts. At its end calls in work are finished, new ones are refused.

    Raises:
        BadSetting: if the port cannot be had
    """
    max_bytes = settings.max_image_bytes + tensors.MAX_JSON_BYTES
    exchanges = Exchanges(services, in_flight, streams, bounds, max_bytes)
    server = grpc.aio.server(options=_options(settings, bounds, max_bytes), maximum_concurrent_rpcs=settings.max_connections)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, exchanges.handlers()),))
    probe = _Health(services.readiness)
    health_pb2_grpc.add_HealthServicer_to_server(probe, server)
    address = f"[{settings.host}]:{settings.grpc_port}" if ":" in settings.host else f"{settings.host}:{settings.grpc_port}"
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise BadSetting(f"FCN_GRPC_PORT: cannot listen on port {settings.grpc_port} of {settings.host}") from error
    await probe.refresh()
    await server.start()
    watching = asyncio.create_task(probe.watch())
    try:
        yield
    finally:
        watching.cancel()
        await probe.enter_graceful_shutdown()
        await server.stop(max(1.0, settings.drain_s - services.readiness.draining_s))


def _options(settings: Settings, bounds: Bounds, max_bytes: int) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_receive_message_length", max_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        # Connections without a call must not keep out others. gRPC's clients open another one when they need it.
        ("grpc.max_connection_idle_ms", round(1000 * max(settings.keep_alive_s, LEAST_IDLE_S))),
        ("grpc.server_handshake_timeout_ms", round(1000 * bounds.head_s)),
        # Of two services on one port the second fails, and takes no callers of the first. Workers share a port: the command has
        # found it free before.
        ("grpc.so_reuseport", int(settings.workers > 1)),
    ]


class _Health(health.aio.HealthServicer):  # type: ignore[misc]  # untyped
    """The health service of gRPC; it tells readiness.

    Takes:
        readiness: whether new requests are accepted
    """

    def __init__(self, readiness: Readiness) -> None:
        super().__init__()
        self._readiness = readiness

    async def refresh(self) -> None:
        """Take over what readiness says now."""
        status = SERVING if self._readiness.is_green() else NOT_SERVING
        for service in ("", SERVICE):
            await self.set(service, status)

    async def watch(self) -> None:
        """Take it over again and again."""
        while True:
            await asyncio.sleep(HEALTH_S)
            await self.refresh()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        """Answer with what readiness says now."""
        await self.refresh()
        return await super().Check(request, context)
