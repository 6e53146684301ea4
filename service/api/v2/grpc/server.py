"""The gRPC server: on the same event loop as HTTP, with the same services, and with gRPC's own health service."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from service.api.in_flight import InFlight
from service.api.services import Services
from service.api.stream import Streams
from service.api.transport.bounds import Bounds
from service.api.v2 import tensors
from service.api.v2.grpc import health
from service.api.v2.grpc.exchange import ARRIVING_AT_ONCE, SMALL_AT_ONCE, Exchanges
from service.api.v2.grpc.messages import SERVICE
from service.api.v2.grpc.places import Places
from service.errors import BadSetting
from service.settings import Settings

LEAST_IDLE_S = 1.0
"""Seconds that a connection without a call is kept at least."""
CALLS_A_CONNECTION = 100
"""Calls that one connection may have open. Callers wait with further ones, or open another connection."""
LOOKAHEAD_BYTES = 65_536
"""Bytes of a message that may come before it is read. gRPC's own default is 4 MiB for each call that waits."""


@contextlib.asynccontextmanager
async def serving(
    settings: Settings, services: Services, in_flight: InFlight, streams: Streams, bounds: Bounds
) -> AsyncIterator[None]:
    """Serve gRPC for as long as the block lasts. At its end calls in work are finished, new ones are refused.

    Raises:
        BadSetting: if the port cannot be had
    """
    max_bytes = settings.max_image_bytes + tensors.MAX_JSON_BYTES
    port = settings.grpc_port or 0  # never 0 here
    arriving, small_arriving = (Places(limit, port, bounds.silent_s) for limit in (ARRIVING_AT_ONCE, SMALL_AT_ONCE))
    exchanges = Exchanges(services, in_flight, streams, bounds, max_bytes, port, arriving, small_arriving)
    probes = health.Health(services.readiness, bounds, port, max(1, settings.max_connections // 2))
    server = grpc.aio.server(options=_options(settings, bounds, max_bytes), maximum_concurrent_rpcs=settings.max_connections)
    for name, handlers in ((SERVICE, exchanges.handlers()), (health.NAME, probes.handlers())):
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    address = f"[{settings.host}]:{port}" if ":" in settings.host else f"{settings.host}:{port}"
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise BadSetting(f"FCN_GRPC_PORT: cannot listen on port {port} of {settings.host}") from error
    await server.start()
    try:
        yield
    finally:
        await server.stop(max(1.0, settings.drain_s - services.readiness.draining_s))


def _options(settings: Settings, bounds: Bounds, max_bytes: int) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_receive_message_length", max_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        # Connections without a call must not keep out others. gRPC's clients open another one when they need it.
        ("grpc.max_connection_idle_ms", round(1000 * max(settings.keep_alive_s, LEAST_IDLE_S))),
        # A connection whose other end does not answer is ended, with its calls.
        ("grpc.keepalive_time_ms", round(1000 * bounds.reply_s)),
        ("grpc.keepalive_timeout_ms", round(1000 * bounds.reply_s)),
        ("grpc.http2.ping_timeout_ms", round(1000 * bounds.reply_s)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_concurrent_streams", CALLS_A_CONNECTION),
        ("grpc.http2.lookahead_bytes", LOOKAHEAD_BYTES),
        ("grpc.http2.bdp_probe", 0),  # it would raise the former
        ("grpc.server_handshake_timeout_ms", round(1000 * bounds.head_s)),
        # Of two services on one port the second fails, and takes no callers of the first. Workers share a port: the command has
        # found it free before.
        ("grpc.so_reuseport", int(settings.workers > 1)),
    ]
