"""The Open Inference Protocol, version 2, over REST: what Triton's and KServe's clients speak.

The same images take the same way as through ``POST /segment``: the same limits, the same admission, the same keys. The tensors
are described in ``service/api/v2/tensors.py`` and docs/triton-clients.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema
from starlette.exceptions import HTTPException

from service import __version__
from service.api import schemas
from service.api.admin import Administrator
from service.api.compression import WORTHWHILE_BYTES, accepted_coding, compressed
from service.api.record import RequestRecord, record_of
from service.api.services import Services, ServicesNow, authorise
from service.api.upload import TimelyResponse, arriving, read_body, unless_gone
from service.api.v2 import schemas as wire
from service.api.v2 import tensors
from service.errors import BadParameter, UnknownModel
from service.pipeline.codecs import decoding
from service.pipeline.engine import Engine
from service.pipeline.segmentation import Segmentation
from service.serving.deadline import Deadline
from service.serving.timings import Duration, Steps

EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "schedule_policy", "statistics"]
"""Extensions of the protocol that are supported."""

PLATFORM = "onnx_onnxv1"
JSON_SIZE = "Inference-Header-Content-Length"

router = APIRouter(prefix="/v2", dependencies=[Depends(authorise)], tags=["Open Inference Protocol"])
open_router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])
admin_router = APIRouter(prefix="/v2", dependencies=[Administrator], tags=["Open Inference Protocol"])

Name = Annotated[str, Path(max_length=64)]


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
async def server() -> wire.Server:
    """Metadata of the server."""
    return wire.Server(name="fcn-serve", version=__version__, extensions=EXTENSIONS)


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
    return wire.Statistics(model_stats=[_statistics(services, engine) for engine in services.repository.engines()])


@router.get("/models/{name}/stats", responses=schemas.refusals(401, 404, 422))
@router.get("/models/{name}/versions/{version}/stats", responses=schemas.refusals(401, 404, 422))
async def statistics(services: ServicesNow, name: Name, version: str | None = None) -> wire.Statistics:
    """Statistics of a model."""
    return wire.Statistics(model_stats=[_statistics(services, _find(services, name, version))])


@router.get("/models/{name}/ready", responses=schemas.refusals(401, 404, 422, 503))
@router.get("/models/{name}/versions/{version}/ready", responses=schemas.refusals(401, 404, 422, 503))
async def model_ready(services: ServicesNow, name: Name, version: str | None = None) -> wire.ModelReady:
    """The model answers."""
    services.readiness.check()
    return wire.ModelReady(name=_find(services, name, version).manifest.name)


@router.get("/models/{name}/config", responses=schemas.refusals(401, 404, 422))
@router.get("/models/{name}/versions/{version}/config", responses=schemas.refusals(401, 404, 422))
async def config(services: ServicesNow, name: Name, version: str | None = None) -> dict[str, Any]:
    """The model as Triton's configuration would describe it, as far as its clients read it."""
    kinds = {"BYTES": "TYPE_STRING", "UINT8": "TYPE_UINT8", "FP32": "TYPE_FP32"}

    def described(tensor: wire.TensorMetadata) -> dict[str, Any]:
        return {"name": tensor.name, "data_type": kinds[tensor.datatype], "dims": tensor.shape}

    return {
        "name": _find(services, name, version).manifest.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": 0,  # the first dimension is part of the shape, as Triton says it
        "input": [described(tensor) for tensor in tensors.INPUTS],
        "output": [described(tensor) for tensor in tensors.output_metadata()],
    }


@router.get("/models/{name}", responses=schemas.refusals(401, 404, 422))
@router.get("/models/{name}/versions/{version}", responses=schemas.refusals(401, 404, 422))
async def model(services: ServicesNow, name: Name, version: str | None = None) -> wire.ModelMetadata:
    """A model's inputs and outputs; its classes are at `GET /models/{name}`."""
    manifest = _find(services, name, version).manifest
    return wire.ModelMetadata(
        name=manifest.name,
        versions=[manifest.version],
        platform=PLATFORM,
        inputs=tensors.INPUTS,
        outputs=tensors.output_metadata(),
    )


def _find(services: Services, name: str, version: str | None) -> Engine:
    engine = services.repository.get(name)
    served = engine.manifest.version
    if version not in (None, served, wire.VERSION_ALIAS):
        raise UnknownModel(f"no version {str(version)[:64]!r} of the model '{name}'; there is {served}", allowed=[served])
    return engine


# --- inference -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Inference:
    """One parsed request."""

    services: Services
    record: RequestRecord
    engine: Engine
    headers: InferHeaders
    order: tensors.Order

    async def answer(self, deadline: Deadline) -> Response:
        """Segment the images, and write the outputs that are asked for."""
        plane, order = self.services.plane, self.order
        headers = plane.probe_all(order.images)
        _check_sizes(order, headers)
        answers = await plane.segment(
            order.images, self._encode, self.engine, deadline=deadline, priority=order.priority, headers=headers
        )
        for answer in answers:
            self.record.add(answer.size, answer.timing)
        return await asyncio.to_thread(self._reply, [answer.value for answer in answers])

    def _encode(self, result: Segmentation) -> list[tensors.Part]:
        """Return the outputs of one image; called on a thread of the data plane."""
        return tensors.make_parts(result, self.order.outputs)

    def _reply(self, made: list[list[tensors.Part]]) -> Response:
        manifest = self.engine.manifest
        body, json_size = tensors.write(self.order, made, (manifest.name, manifest.version))
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
    engine = _find(services, name, version)
    record.model, record.sha256 = f"{engine.manifest.name}@{engine.manifest.version}", engine.sha256
    async with Deadline(_limit_s(headers.x_deadline_ms, None, services.deadline_s), record.elapsed_s) as deadline:
        with services.uploads.one_more() as hold:
            async with arriving(request):
                max_bytes = services.max_image_bytes + tensors.MAX_JSON_BYTES
                body = await read_body(request, max_bytes, hold)
            record.bytes_in = len(body)
            order = await asyncio.to_thread(tensors.read, body, headers.inference_header_content_length)
            deadline.change(_limit_s(headers.x_deadline_ms, order.timeout_ms, services.deadline_s))
            _check_model(order, engine)
            inference = _Inference(services, record, engine, headers, order)
            return await unless_gone(request, inference.answer(deadline))


def _limit_s(header_ms: float | None, timeout_ms: float | None, default_s: float) -> float:
    """Return the shorter of the limits that a request names; the default if it names none."""
    if timeout_ms is not None and timeout_ms > schemas.MAX_DEADLINE_MS:
        reason = f"timeout: at most {1000 * schemas.MAX_DEADLINE_MS} microseconds"
        raise BadParameter(reason, parameter="timeout")
    return min((given / 1000 for given in (timeout_ms, header_ms) if given is not None), default=default_s)


def _check_model(order: tensors.Order, engine: Engine) -> None:
    """Refuse a body that names another model than the address does."""
    served = (engine.manifest.name, engine.manifest.version)
    for parameter, said, meant in zip(("model_name", "model_version"), order.model, served, strict=True):
        is_alias = parameter == "model_version" and said == wire.VERSION_ALIAS
        if said not in (None, meant) and not is_alias:
            raise BadParameter(f"{parameter}: {str(said)[:64]!r} is not {meant!r}, which was asked", parameter=parameter)


def _check_sizes(order: tensors.Order, headers: Sequence[decoding.Header]) -> None:
    """Refuse images that cannot share a tensor, before anything is decoded. EXIF may yet swap the two sides of an image."""
    sizes = {tuple(sorted((header.height, header.width))) for header in headers}
    names = [wanted.name for wanted in order.outputs if tensors.OUTPUTS[wanted.name].dimensions]
    if len(sizes) > 1 and names:
        found = dict.fromkeys(f"{header.height}x{header.width}" for header in headers)
        raise tensors.different_sizes(names[0], ", ".join(found))


# --- statistics ------------------------------------------------------------------------------------------------------


def _statistics(services: Services, engine: Engine) -> wire.ModelStat:
    manifest = engine.manifest
    counts = services.plane.statistics(manifest)
    steps = counts.steps
    return wire.ModelStat(
        name=manifest.name,
        version=manifest.version,
        last_inference=int(1000 * counts.last_request_s),
        inference_count=counts.images(),
        execution_count=sum(map(counts.executions, steps)),
        inference_stats=wire.InferenceStats(
            success=_stat(counts.success),
            fail=_stat(counts.fail),
            queue=_stat(counts.queue),
            compute_input=_stat(*(step.decode for step in steps.values())),
            compute_infer=_stat(*(step.infer for step in steps.values())),
            compute_output=_stat(*(step.finish for step in steps.values())),
            cache_hit=_stat(),
            cache_miss=_stat(),
        ),
        batch_stats=[_batch(batch, counts.executions(batch), steps[batch]) for batch in sorted(steps)],
    )


def _batch(batch: int, executions: int, steps: Steps) -> wire.BatchStats:
    """Count executions, not images: the network's time is that of the whole batch already."""
    infer_s = steps.infer.total_s / batch
    return wire.BatchStats(
        batch_size=batch,
        compute_input=_stat(Duration(executions, steps.decode.total_s)),
        compute_infer=_stat(Duration(executions, infer_s)),
        compute_output=_stat(Duration(executions, steps.finish.total_s)),
    )


def _stat(*durations: Duration) -> wire.DurationStat:
    count, total_s = sum(one.count for one in durations), sum(one.total_s for one in durations)
    return wire.DurationStat(count=count, ns=round(1e9 * total_s))


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


# --- what is not offered ---------------------------------------------------------------------------------------------


@router.api_route("/systemsharedmemory/{rest:path}", methods=["GET", "POST"], include_in_schema=False)
@router.api_route("/cudasharedmemory/{rest:path}", methods=["GET", "POST"], include_in_schema=False)
async def shared_memory(rest: str) -> None:  # noqa: ARG001  (the path's)
    """Refuse it in words."""
    raise HTTPException(404, "shared memory is not offered: send tensors in the body, as binary data")
