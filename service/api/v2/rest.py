"""The Open Inference Protocol, version 2, over REST: what Triton's and KServe's clients speak.

The same images take the same way as through ``POST /segment``: the same limits, the same admission, the same keys. The tensors
are described in ``service/api/v2/tensors.py`` and docs/triton-clients.md.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema
from starlette.exceptions import HTTPException

from service.api import schemas
from service.api.admin import Administrator
from service.api.compression import WORTHWHILE_BYTES, accepted_coding, compressed
from service.api.record import record_of
from service.api.services import Services, ServicesNow, authorise
from service.api.upload import TimelyResponse, arriving, read_body, unless_gone
from service.api.v2 import models, tensors
from service.api.v2 import schemas as wire
from service.api.v2.inference import Inference, limit_s
from service.serving.deadline import Deadline

JSON_SIZE = "Inference-Header-Content-Length"

router = APIRouter(prefix="/v2", dependencies=[Depends(authorise)], tags=["Open Inference Protocol"])
open_router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])
admin_router = APIRouter(prefix="/v2", dependencies=[Administrator], tags=["Open Inference Protocol"])

Name = Annotated[str, Path(max_length=64)]
Region = Annotated[str, Path(max_length=200)]


class InferHeaders(BaseModel):
    """The headers that an inference reads."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    inference_header_content_length: Annotated[int, Field(ge=0)] | SkipJsonSchema[None] = None
    """Bytes of the JSON at the body's beginning; left out, all of it is JSON; 0 says that it is one image file."""
    content_encoding: str | SkipJsonSchema[None] = None
    """`gzip` or `deflate`, if the body is compressed."""
    accept_encoding: str | SkipJsonSchema[None] = None
    """Whether the reply may be."""
    x_deadline_ms: Annotated[float, Field(gt=0, le=schemas.MAX_DEADLINE_MS)] | SkipJsonSchema[None] = None
    """As of `POST /segment`; the parameter `timeout` says the same, and the shorter one counts."""


# --- the server and its models ---------------------------------------------------------------------------------------


@router.get("", responses=schemas.refusals(401))
async def server(services: ServicesNow) -> wire.Server:
    """Metadata of the server."""
    return models.server(services.regions)


@open_router.get("/health/live", responses=schemas.refusals(503))
async def live(services: ServicesNow) -> wire.Live:
    """The process answers, and need not be restarted: 503 if the GPU has failed for good."""
    services.repository.check_alive()
    return wire.Live()


@open_router.get("/health/ready", responses=schemas.refusals(503))
async def ready(services: ServicesNow) -> wire.Ready:
    """The models are loaded and warmed, and their queue is alive."""
    services.readiness.check()
    return wire.Ready()


@router.get("/models/stats", responses=schemas.refusals(401))
async def all_statistics(services: ServicesNow) -> wire.Statistics:
    """Statistics of every model."""
    return wire.Statistics(model_stats=models.statistics(services.plane))


@router.get("/models/{name}/stats", responses=schemas.refusals(401, 404, 422))
@router.get("/models/{name}/versions/{version}/stats", responses=schemas.refusals(401, 404, 422))
async def statistics(services: ServicesNow, name: Name, version: str | None = None) -> wire.Statistics:
    """Statistics of a model."""
    return wire.Statistics(model_stats=[models.statistics_of(services.plane, models.find(services.repository, name, version))])


@router.get("/models/{name}/ready", responses=schemas.refusals(401, 404, 422, 503))
@router.get("/models/{name}/versions/{version}/ready", responses=schemas.refusals(401, 404, 422, 503))
async def model_ready(services: ServicesNow, name: Name, version: str | None = None) -> wire.ModelReady:
    """The model answers."""
    services.readiness.check()
    models.find(services.repository, name, version)
    return wire.ModelReady(name=name)


@router.get("/models/{name}/config", responses=schemas.refusals(401, 404, 422))
@router.get("/models/{name}/versions/{version}/config", responses=schemas.refusals(401, 404, 422))
async def config(services: ServicesNow, name: Name, version: str | None = None) -> dict[str, Any]:
    """The model as Triton's configuration would describe it, as far as its clients read it."""
    return models.config(models.find(services.repository, name, version), name)


@router.get("/models/{name}", responses=schemas.refusals(401, 404, 422))
@router.get("/models/{name}/versions/{version}", responses=schemas.refusals(401, 404, 422))
async def model(services: ServicesNow, name: Name, version: str | None = None) -> wire.ModelMetadata:
    """A model's inputs and outputs; its classes are at `GET /models/{name}`."""
    return models.metadata(models.find(services.repository, name, version), name)


# --- inference -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reply:
    """One parsed request, to be answered."""

    inference: Inference
    headers: InferHeaders

    async def made(self, deadline: Deadline) -> Response:
        """Segment the images, and write the outputs that are asked for."""
        return await asyncio.to_thread(self._written, await self.inference.parts(deadline))

    def _written(self, made: list[list[tensors.Part]]) -> Response:
        body, json_size = tensors.write(self.inference.order, made, self.inference.model, self.inference.services.regions)
        headers = {} if json_size is None else {JSON_SIZE: str(json_size)}
        coding = accepted_coding(self.headers.accept_encoding)
        if coding is not None and len(body) >= WORTHWHILE_BYTES:
            headers |= {"Content-Encoding": coding, "Vary": "Accept-Encoding"}
            body = compressed(body, coding)
        media_type = "application/json" if json_size is None else "application/octet-stream"
        return TimelyResponse(body, headers=headers, media_type=media_type)


@router.post(
    "/models/{name}/infer",
    response_class=Response,
    responses=wire.REPLY | schemas.refusals(401, 404, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra={"requestBody": wire.REQUEST},
)
@router.post(
    "/models/{name}/versions/{version}/infer",
    response_class=Response,
    responses=wire.REPLY | schemas.refusals(401, 404, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra={"requestBody": wire.REQUEST},
)
async def infer(
    request: Request,
    headers: Annotated[InferHeaders, Header()],
    services: ServicesNow,
    name: Name,
    version: str | None = None,
) -> Response:
    """Segment images: files in `BYTES`, or pixels in `UINT8`."""
    record = record_of(request.scope)
    services.readiness.check()
    engine = models.find(services.repository, name, version)
    record.answered_by(engine)
    async with Deadline(limit_s(services.deadline_s, headers.x_deadline_ms), record.elapsed_s) as deadline:
        with services.uploads.one_more() as hold:
            async with arriving(request, deadline):
                max_bytes = services.max_image_bytes + tensors.MAX_JSON_BYTES
                body = await read_body(request, max_bytes, hold)
            record.bytes_in = len(body)
            in_memory = partial(services.regions.read, hold=hold)
            order = await asyncio.to_thread(tensors.read, body, headers.inference_header_content_length, in_memory)
            deadline.change(limit_s(services.deadline_s, headers.x_deadline_ms, order.timeout_ms))
            reply = _Reply(Inference(services, record, engine, order, name), headers)
            return await unless_gone(request, reply.made(deadline))


# --- the repository --------------------------------------------------------------------------------------------------


@router.post(
    "/repository/index",
    responses=schemas.refusals(401, 413, 422),
    response_model_exclude_none=True,
    openapi_extra={"requestBody": wire.optional_body(wire.IndexRequest)},
)
async def index(request: Request, services: ServicesNow) -> list[wire.ModelIndex]:
    """Every artifact of the models folder, served or not, and why."""
    asked = wire.read(wire.IndexRequest, await _small_body(request, services))
    states = services.repository.index()
    return [wire.ModelIndex.of(state) for state in states if state.state == "READY" or not asked.ready]


@admin_router.post(
    "/repository/models/{name}/load",
    responses=schemas.refusals(401, 403, 404, 413, 422, 503),
    openapi_extra={"requestBody": wire.optional_body(wire.LoadRequest)},
)
async def load(request: Request, services: ServicesNow, name: Name) -> wire.Loaded:
    """Serve what a model's file holds now, or again what was unloaded. If it is refused, what was served goes on."""
    wire.read(wire.LoadRequest, await _small_body(request, services))
    engine = await asyncio.to_thread(services.repository.load, name)
    return wire.Loaded(name=engine.manifest.name)


@admin_router.post(
    "/repository/models/{name}/unload",
    responses=schemas.refusals(401, 403, 404, 413, 422),
    openapi_extra={"requestBody": wire.optional_body(wire.UnloadRequest)},
)
async def unload(request: Request, services: ServicesNow, name: Name) -> wire.Unloaded:
    """Serve a model no more until it is loaded again. Requests that have begun are finished."""
    wire.read(wire.UnloadRequest, await _small_body(request, services))
    await asyncio.to_thread(services.repository.unload, name)
    return wire.Unloaded(name=name)


async def _small_body(request: Request, services: Services) -> bytes:
    """A body that may be missing."""
    async with arriving(request):
        with services.uploads.one_more() as hold:
            return await read_body(request, tensors.MAX_JSON_BYTES, hold) or b"{}"


# --- shared memory ---------------------------------------------------------------------------------------------------


@router.get("/systemsharedmemory/status", responses=schemas.refusals(401, 422))
@router.get("/systemsharedmemory/region/{name}/status", responses=schemas.refusals(401, 422))
async def memory_status(services: ServicesNow, name: Region | None = None) -> list[wire.RegionStatus]:
    """The registered regions of shared memory."""
    return [wire.RegionStatus.of(region) for region in services.regions.status(name)]


@router.post(
    "/systemsharedmemory/region/{name}/register",
    response_class=Response,
    responses=schemas.refusals(401, 413, 422),
    openapi_extra={"requestBody": wire.optional_body(wire.RegisterRequest) | {"required": True}},
)
async def memory_register(request: Request, services: ServicesNow, name: Region) -> Response:
    """Register a part of a shared memory object of this machine, whose name begins as `FCN_SHARED_MEMORY` says."""
    asked = wire.read(wire.RegisterRequest, await _small_body(request, services))
    services.regions.register(name, asked.key, asked.offset, asked.byte_size)
    return Response()


@router.post("/systemsharedmemory/unregister", response_class=Response, responses=schemas.refusals(401, 422))
@router.post("/systemsharedmemory/region/{name}/unregister", response_class=Response, responses=schemas.refusals(401, 422))
async def memory_unregister(services: ServicesNow, name: Region | None = None) -> Response:
    """Forget a region, or all."""
    services.regions.unregister(name)
    return Response()


# --- what is not offered ---------------------------------------------------------------------------------------------


@router.api_route("/cudasharedmemory/{rest:path}", methods=["GET", "POST"], include_in_schema=False)
async def shared_memory(rest: str) -> None:  # noqa: ARG001  (the path's)
    """Refuse it in words."""
    raise HTTPException(404, "CUDA shared memory is not offered: send tensors in the body, or in system shared memory")
