"""The calls of the protocol, as far as a message in and a message out go: each has its counterpart in ``rest.py``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

from service.api.record import RequestRecord
from service.api.services import Services
from service.api.v2 import models, tensors
from service.api.v2 import schemas as wire
from service.api.v2.grpc import messages
from service.api.v2.grpc import tensors as grpc_tensors
from service.api.v2.inference import Inference, limit_s
from service.errors import NotReady, UnknownModel
from service.serving.deadline import Deadline

Reply = Any
"""A message of gRPC."""


@dataclass(frozen=True)
class Caller:
    """One call, and what is known of it before its message."""

    services: Services
    record: RequestRecord
    deadline: Deadline
    limits_ms: tuple[float | None, ...]
    """Milliseconds that its metadata name; None where they do not."""
    peer: str
    """Its connection, as gRPC names it."""


class Access(Enum):
    """Who may make a call."""

    ALL = 0
    """Every caller: probes have no keys."""
    CALLERS = 1
    """Those with a key of the service, where keys are set."""
    ADMINISTRATORS = 2
    """Those with an administrator's key."""


@dataclass(frozen=True)
class Call:
    """One call of the protocol.

    Takes:
        answer: makes the reply, from the message that came
        request: the name of that message
        access: who may make it
    """

    answer: Callable[[Caller, Any], Awaitable[Reply]]
    request: str
    access: Access = Access.CALLERS


async def infer(caller: Caller, body: bytes) -> Reply:
    """Segment the images of a serialised ModelInferRequest."""
    services, record = caller.services, caller.record
    with services.uploads.one_more() as hold:
        hold(len(body))
        record.bytes_in = len(body)
        in_memory = partial(services.regions.read, hold=hold)
        order = await asyncio.to_thread(grpc_tensors.read, body, in_memory)
        del body  # its images are in the order
        name, version = order.model
        engine = models.find(services.repository, name or "", version)
        record.answered_by(engine)
        caller.deadline.change(limit_s(services.deadline_s, *caller.limits_ms, order.timeout_ms))
        inference = Inference(services, record, engine, order, name)
        made = await inference.parts(caller.deadline)
        return await asyncio.to_thread(grpc_tensors.write, order, made, inference.model, services.regions)


async def _server_live(caller: Caller, _request: Any) -> Reply:
    try:
        caller.services.repository.check_alive()
    except NotReady:
        return messages.message("inference.ServerLiveResponse")(live=False)
    return messages.message("inference.ServerLiveResponse")(live=True)


async def _server_ready(caller: Caller, _request: Any) -> Reply:
    return messages.message("inference.ServerReadyResponse")(ready=caller.services.readiness.is_green())


async def _model_ready(caller: Caller, request: Any) -> Reply:
    ready = caller.services.readiness.is_green()
    try:
        _find(caller, request)
    except (UnknownModel, NotReady):
        ready = False
    return messages.message("inference.ModelReadyResponse")(ready=ready)


async def _server_metadata(caller: Caller, _request: Any) -> Reply:
    return messages.message("inference.ServerMetadataResponse")(**models.server(caller.services.regions).model_dump())


async def _model_metadata(caller: Caller, request: Any) -> Reply:
    described = models.metadata(_find(caller, request), request.name)
    return messages.message("inference.ModelMetadataResponse")(**described.model_dump())


async def _model_config(caller: Caller, request: Any) -> Reply:
    return messages.message("inference.ModelConfigResponse")(config=models.config(_find(caller, request), request.name))


async def _statistics(caller: Caller, request: Any) -> Reply:
    plane = caller.services.plane
    found = [models.statistics_of(plane, _find(caller, request))] if request.name else models.statistics(plane)
    return messages.message("inference.ModelStatisticsResponse")(model_stats=[one.model_dump() for one in found])


async def _index(caller: Caller, request: Any) -> Reply:
    states = caller.services.repository.index()
    found = [wire.ModelIndex.of(state) for state in states if state.state == "READY" or not request.ready]
    return messages.message("inference.RepositoryIndexResponse")(models=[one.model_dump() for one in found])


async def _load(caller: Caller, request: Any) -> Reply:
    wire.check(wire.LoadRequest, {"parameters": grpc_tensors.values(request.parameters)})
    await asyncio.to_thread(caller.services.repository.load, request.model_name)
    return messages.message("inference.RepositoryModelLoadResponse")()


async def _unload(caller: Caller, request: Any) -> Reply:
    wire.check(wire.UnloadRequest, {"parameters": grpc_tensors.values(request.parameters)})
    await asyncio.to_thread(caller.services.repository.unload, request.model_name)
    return messages.message("inference.RepositoryModelUnloadResponse")()


async def _memory_status(caller: Caller, request: Any) -> Reply:
    reply = messages.message("inference.SystemSharedMemoryStatusResponse")()
    for region in caller.services.regions.status(request.name or None):
        found = reply.regions[region.name]
        found.name, found.key, found.offset, found.byte_size = region.name, region.key, region.offset, region.byte_size
    return reply


async def _memory_register(caller: Caller, request: Any) -> Reply:
    caller.services.regions.register(request.name, request.key, request.offset, request.byte_size)
    return messages.message("inference.SystemSharedMemoryRegisterResponse")()


async def _memory_unregister(caller: Caller, request: Any) -> Reply:
    caller.services.regions.unregister(request.name or None)
    return messages.message("inference.SystemSharedMemoryUnregisterResponse")()


def _find(caller: Caller, request: Any) -> Any:
    return models.find(caller.services.repository, request.name, request.version or None)


CALLS = {
    "ServerLive": Call(_server_live, "ServerLiveRequest", Access.ALL),
    "ServerReady": Call(_server_ready, "ServerReadyRequest", Access.ALL),
    "ModelReady": Call(_model_ready, "ModelReadyRequest"),
    "ServerMetadata": Call(_server_metadata, "ServerMetadataRequest"),
    "ModelMetadata": Call(_model_metadata, "ModelMetadataRequest"),
    "ModelConfig": Call(_model_config, "ModelConfigRequest"),
    "ModelStatistics": Call(_statistics, "ModelStatisticsRequest"),
    "RepositoryIndex": Call(_index, "RepositoryIndexRequest"),
    "SystemSharedMemoryStatus": Call(_memory_status, "SystemSharedMemoryStatusRequest"),
    "SystemSharedMemoryRegister": Call(_memory_register, "SystemSharedMemoryRegisterRequest"),
    "SystemSharedMemoryUnregister": Call(_memory_unregister, "SystemSharedMemoryUnregisterRequest"),
    "RepositoryModelLoad": Call(_load, "RepositoryModelLoadRequest", Access.ADMINISTRATORS),
    "RepositoryModelUnload": Call(_unload, "RepositoryModelUnloadRequest", Access.ADMINISTRATORS),
}
"""By name; ``ModelInfer`` and ``ModelStreamInfer`` are in ``exchange.py``."""

NOT_OFFERED = {
    **dict.fromkeys(
        ("CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister"),
        "CUDA shared memory is not offered: send tensors in the message, or in system shared memory",
    ),
    "TraceSetting": "trace settings are not offered: OTEL_EXPORTER_OTLP_ENDPOINT sends traces",
    "LogSettings": "log settings are not offered: FCN_LOG_FORMAT and FCN_LOG_LEVEL set the log",
}
"""Calls that clients know and this service has not, and what to do instead."""

MAX_SMALL_BYTES = tensors.MAX_JSON_BYTES
"""The limit on the message of every call but an inference."""
