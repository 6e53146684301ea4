"""What can be called over HTTP: parse, await the segmenter, reply.

May import: fastapi, ``service.encodings``, ``service.pipeline``, ``service.errors``, the rest of ``service.api`` but ``app``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import HTTPConnection

from service.api import schemas
from service.api.keys import Keys, offered_key
from service.api.metrics import Metrics
from service.api.negotiation import chosen_format
from service.api.parameters import parsed_headers, parsed_query
from service.api.readiness import Readiness
from service.api.record import RequestRecord, record_of
from service.api.transport import early_refusal as shedding
from service.api.upload import TimelyResponse, Uploads, arriving, read_images, unless_gone
from service.encodings import FORMATS, MaskView, Options, encode
from service.encodings import understood as understood_options
from service.errors import DeadlineExceeded, UnsupportedFormat
from service.pipeline.engine import Engine
from service.pipeline.repository import Repository
from service.serving.segmenter import Segmentation, Segmenter


@dataclass(frozen=True)
class Services:
    """What the routes work with; ``app.py`` puts it together and keeps it in ``app.state.services``."""

    repository: Repository
    segmenter: Segmenter
    readiness: Readiness
    metrics: Metrics
    uploads: Uploads
    max_image_bytes: int
    deadline_ms: float
    """Of a request that names none."""
    keys: Keys
    admin_keys: Keys | None
    """None where administration is off."""


async def _services(connection: HTTPConnection) -> Services:
    found: Services = connection.app.state.services
    return found


ServicesNow = Annotated[Services, Depends(_services)]


async def _offered_key(
    connection: HTTPConnection,
    _key: Annotated[str | None, Security(APIKeyHeader(name="X-API-Key", auto_error=False))],
    _bearer: Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False))],
) -> str:
    return offered_key(connection.headers)


OfferedKey = Annotated[str, Depends(_offered_key)]


async def authorise(services: ServicesNow, key: OfferedKey) -> None:
    """Let a caller in, or refuse him."""
    services.keys.check(key)


class _ImageRoute(APIRoute):
    """The route whose every request counts: the same steps as FastAPI's, by hand, in the order that refuses soonest. 0.6 of the
    event loop's time for a request. The endpoint's signature remains what the OpenAPI document says.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler."""

        async def handle(request: Request) -> Response:
            services: Services = request.app.state.services
            services.keys.check(offered_key(request.headers))
            query = parsed_query(schemas.SegmentQuery, request.query_params)
            headers = parsed_headers(schemas.SegmentHeaders, request.headers)
            return await segment(request, query, headers, services)

        return handle


router = APIRouter(dependencies=[Depends(authorise)])
open_router = APIRouter()


@dataclass(frozen=True)
class Order:
    """One request for masks, understood."""

    services: Services
    record: RequestRecord
    engine: Engine
    """Held to the end: what is said of the model is said of the one that answers, even if it is replaced meanwhile."""
    format: str
    options: Options
    deadline_ms: float

    def left_s(self) -> float:
        """Seconds until the deadline."""
        return (self.deadline_ms - self.record.elapsed_ms()) / 1000

    async def masks(self, images: list[bytes]) -> list[bytes]:
        """Segment images, and encode their masks."""
        if len(images) > 1 and FORMATS[self.format].document is None:
            listable = [name for name, form in FORMATS.items() if form.document]
            raise UnsupportedFormat(f"several images in one request come back as {' or '.join(listable)}", allowed=listable)
        self.record.bytes_in = sum(map(len, images))
        try:
            made = await self.services.segmenter.serve(images, self._encode, self.engine, deadline_s=self.left_s())
        except DeadlineExceeded:
            raise DeadlineExceeded.after(self.deadline_ms) from None
        for _, size, timing in made:
            self.record.sizes.append(size)
            self.record.add_timing(timing)
        return [body for body, _, _ in made]

    def _encode(self, result: Segmentation) -> tuple[bytes, tuple[int, int], dict[str, float]]:
        """On a thread: a mask's bytes, its size, and the milliseconds of every stage."""
        begun = time.perf_counter()
        height, width = result.labels.shape
        view = MaskView(result.labels, result.image, result.manifest, result.sha256, result.confidence, self.options)
        body = encode(self.format, view).body
        return body, (height, width), result.timing | {"encode": (time.perf_counter() - begun) * 1000}


def understood(
    record: RequestRecord, query: schemas.SegmentQuery, headers: schemas.SegmentHeaders, services: Services
) -> Order:
    """What a query and its headers ask for, of the models that there are now.

    Raises:
        NotReady, UnknownModel, UnknownClass, BadParameter, UnsupportedFormat: naming what would have been understood
    """
    services.readiness.check()
    engine = services.repository.get(query.model)
    manifest = engine.manifest
    record.model, record.sha256 = f"{manifest.name}@{manifest.version}", engine.sha256
    name = chosen_format(query.format, headers.accept)
    return Order(
        services=services,
        record=record,
        engine=engine,
        format=name,
        options=understood_options(name, manifest.classes, **query.model_dump(exclude={"model", "format"})),
        deadline_ms=headers.x_deadline_ms or services.deadline_ms,
    )


async def segment(
    request: Request,
    query: Annotated[schemas.SegmentQuery, Query()],
    headers: Annotated[schemas.SegmentHeaders, Header()],
    services: ServicesNow,
) -> Response:
    """Segment an image: the mask has exactly the size of the upright image."""
    order = understood(record_of(request.scope), query, headers, services)
    try:
        async with asyncio.timeout(order.left_s()):
            with services.uploads.one_more() as hold:
                async with arriving():
                    images = await read_images(request, services.max_image_bytes, hold)
                bodies = await unless_gone(request, order.masks(images))
    except TimeoutError:
        raise DeadlineExceeded.after(order.deadline_ms) from None
    body = bodies[0] if len(bodies) == 1 else b"[" + b",".join(bodies) + b"]"
    return TimelyResponse(body, media_type=FORMATS[order.format].media_type)


image_route = _ImageRoute(
    shedding.PATH,
    segment,
    methods=["POST"],
    dependencies=[Depends(authorise)],
    response_class=Response,
    responses=schemas.mask_reply() | schemas.refusals(401, 404, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra={"requestBody": schemas.BODY},
)
"""Of no router: each one on the way to it would try its routes twice."""


@router.get("/models", responses=schemas.refusals(401, 503))
async def models(services: ServicesNow) -> schemas.Models:
    """Every model that is served: what it knows, how it was made, how well it scores. And what is not served, and why."""
    repository = services.repository
    return schemas.Models(
        default=repository.default,
        models=[schemas.ServedModel.of(engine) for engine in repository.engines()],
        unavailable=[schemas.Unavailable.of(state) for state in repository.index() if state.reason is not None],
    )


@router.get("/models/{name}", responses=schemas.refusals(401, 404, 422, 503))
async def model(name: Annotated[str, Path(max_length=64)], services: ServicesNow) -> schemas.ServedModel:
    """One model."""
    return schemas.ServedModel.of(services.repository.get(name))


@open_router.get("/livez", responses=schemas.refusals(503))
async def livez(services: ServicesNow) -> schemas.Alive:
    """The process answers, and need not be restarted: 503 if the GPU has failed for good."""
    services.repository.check_alive()
    return schemas.Alive()


@open_router.get("/readyz", responses=schemas.refusals(503))
async def readyz(services: ServicesNow) -> schemas.Ready:
    """The models are loaded and warmed, and their queue is alive."""
    services.readiness.check()
    engine = services.repository.get(None)
    return schemas.Ready(model=engine.manifest.name, provider=engine.provider)
