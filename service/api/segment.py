"""``POST /segment``: parse, await the data plane, reply."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

from fastapi import Depends, Header, Query, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from service.api import schemas
from service.api.form import ImageFile
from service.api.keys import offered_key
from service.api.negotiation import accepts_zip, chosen_format
from service.api.parameters import parsed_headers, parsed_query
from service.api.record import RequestRecord, record_of
from service.api.services import Services, ServicesNow, authorise
from service.api.transport.early_refusal import PATH, Opening, opening_of
from service.api.upload import TimelyResponse, arriving, read_images, unless_gone
from service.encodings import VOLUME_FORMAT, MaskView, Named, Options, check_gathers, encode, gather, uncertain
from service.encodings import understood as understood_options
from service.errors import BadParameter, ServiceError, UnknownClass, UnsupportedFormat, UnsupportedImage
from service.pipeline.codecs import decoding, scans
from service.pipeline.engine import Engine
from service.pipeline.segmentation import Segmentation
from service.pipeline.tiling import Halo, Resolution
from service.serving.dataplane import DataPlane
from service.serving.deadline import Deadline


@dataclass(frozen=True)
class _Mask:
    """An encoded mask."""

    body: bytes
    uncertain: float | None
    """The share of pixels below half confidence; None where the confidence was not computed."""


@dataclass(frozen=True)
class MaskRequest:
    """One request for masks, parsed: of ``POST /segment``, or of a frame of ``WS /stream``."""

    plane: DataPlane
    record: RequestRecord
    engine: Engine
    """Held to the end: the reply names the model that answered, even if that is replaced meanwhile."""
    format: str
    options: Options
    resolution: Resolution
    halo: Halo
    deadline: Deadline
    header: decoding.Header | None = None
    """The header of its one image, where the first bytes told it."""
    scan: bool = False
    """Whether the body is a scan."""
    max_bytes: int = 0
    """The limit on the body."""
    unless_scan: ServiceError | None = None
    """The error of this request if its body is a picture: a class, say, that only a model for scans has."""
    unless_several: UnsupportedFormat | None = None
    """The error of this request if it has one image: ``Accept`` allows only a zip."""

    async def masks(self, images: list[ImageFile]) -> list[Named]:
        """Segment images and encode their masks, within ``async with self.deadline``.

        Takes:
            images: one file each
        Gives:
            the encoded masks, in order, each with its image's file name
        Raises:
            UnsupportedFormat: for several images, if the format has no form for several masks
            UnsupportedFormat: for one image, if ``Accept`` allows only a zip
            as ``DataPlane.segment``
        """
        if self.unless_several is not None and len(images) == 1:
            raise self.unless_several
        check_gathers(self.format, len(images))
        self.record.bytes_in = sum(len(image.data) for image in images)
        name = images[0].name if len(images) == 1 else None  # of several, the names come in with ``gather``
        answers = await self.plane.segment(
            [image.data for image in images],
            partial(self._encode, name),
            self.engine,
            deadline=self.deadline,
            instances=self.options.instances,
            resolution=self.resolution,
            halo=self.halo,
            headers=None if self.header is None else [self.header],
            scans=self.scan,
            names=[image.name for image in images],
        )
        for answer in answers:
            self.record.add(answer.size, answer.timing, answer.converted)
        shares = [answer.value.uncertain for answer in answers if answer.value.uncertain is not None]
        self.record.uncertain = max(shares, default=None)
        return [Named(image.name, answer.value.body) for image, answer in zip(images, answers, strict=True)]

    def _encode(self, name: str | None, result: Segmentation) -> _Mask:
        """Encode a mask; called on a thread of the data plane."""
        body = encode(self.format, MaskView.of(result, self.options, name)).body
        return _Mask(body, uncertain(result.confidence()) if result.has_confidence else None)


def parse_request(
    record: RequestRecord,
    query: schemas.SegmentQuery,
    headers: schemas.SegmentHeaders,
    services: Services,
    opening: Opening | None = None,
    *,
    scan: bool = False,
) -> MaskRequest:
    """Resolve a query and its headers against the models that are served now.

    Takes:
        opening: what was decided of the request before it began
        scan: whether the body is known to be a scan; a model for scans, or ``format=nifti``, says so before the body comes
    Raises:
        NotReady, UnknownModel, UnknownClass, BadParameter, UnsupportedFormat: with the values that would be accepted
        UnsupportedImage: for a scan where no model takes scans
    """
    services.readiness.check()
    of_scan = query.model is None and (scan or query.format == VOLUME_FORMAT)
    engine = services.plane.predictor.scan_engine() if of_scan else services.repository.get(query.model)
    if engine is None:
        raise UnsupportedImage("no model here takes scans (NIfTI, DICOM)")
    scan = scan or engine.manifest.input.takes_scans
    manifest = engine.manifest
    record.model, record.sha256 = f"{manifest.name}@{manifest.version}", engine.sha256
    unless_several = None
    try:
        name = chosen_format(query.format, headers.accept, volume=scan)
    except UnsupportedFormat as error:
        if query.format is not None or not accepts_zip(headers.accept):
            raise
        name, unless_several = chosen_format(None, None, volume=scan), error.with_traceback(None)
    return MaskRequest(
        plane=services.plane,
        record=record,
        engine=engine,
        format=name,
        options=understood_options(name, manifest.classes, **query.options()),
        resolution=query.resolution,
        halo=query.halo,
        deadline=_deadline(record, headers, services, scan=scan) if opening is None else opening.deadline,
        header=None if opening is None else opening.header,
        scan=scan,
        max_bytes=max(services.max_image_bytes, services.max_scan_bytes) if scan else services.max_image_bytes,
        unless_several=unless_several,
    )


def _deadline(record: RequestRecord, headers: schemas.SegmentHeaders, services: Services, *, scan: bool) -> Deadline:
    usual_s = services.scan_deadline_s if scan else services.deadline_s
    limit_s = usual_s if headers.x_deadline_ms is None else headers.x_deadline_ms / 1000
    return Deadline(limit_s, record.elapsed_s)


def parse_for_any_body(
    record: RequestRecord,
    query: schemas.SegmentQuery,
    headers: schemas.SegmentHeaders,
    services: Services,
    opening: Opening | None = None,
) -> MaskRequest:
    """Parse a request whose body has not come; without a model's name it may be a picture or a scan.

    Raises:
        as :func:`parse_request`, if the request suits neither
    """
    try:
        return parse_request(record, query, headers, services, opening)
    except (UnknownClass, UnsupportedFormat, BadParameter) as error:
        if query.model is not None or services.plane.predictor.scan_engine() is None:
            raise
        try:
            return replace(parse_request(record, query, headers, services, opening, scan=True), unless_scan=error)
        except ServiceError:
            raise error from None


async def segment(
    request: Request,
    query: Annotated[schemas.SegmentQuery, Query()],
    headers: Annotated[schemas.SegmentHeaders, Header()],
    services: ServicesNow,
) -> Response:
    """Segment an image: the mask has exactly the size of the upright image. A scan's labels are in its own grid."""
    record = record_of(request.scope)
    wanted = parse_for_any_body(record, query, headers, services, opening_of(request.scope))
    async with wanted.deadline:
        with services.uploads.one_more() as hold:
            async with arriving(request, wanted.deadline):
                images = await read_images(request, wanted.max_bytes, hold)
            is_scan = await _any_scan([image.data for image in images])
            if wanted.unless_scan is not None and not is_scan:
                raise wanted.unless_scan
            if is_scan and not wanted.scan:
                of_scan = parse_request(record, query, headers, services, scan=True)
                wanted.deadline.change(of_scan.deadline.limit_s)
                wanted = replace(of_scan, deadline=wanted.deadline)
            masks = await unless_gone(request, wanted.masks(images))
    made = gather(wanted.format, masks) if len(masks) == 1 else await asyncio.to_thread(gather, wanted.format, masks)
    return TimelyResponse(made.body, media_type=made.media_type)


async def _any_scan(bodies: Sequence[bytes]) -> bool:
    if any(map(scans.takes_time, bodies)):
        return await asyncio.to_thread(lambda: any(map(scans.kind, bodies)))
    return any(map(scans.kind, bodies))


class _SegmentRoute(APIRoute):
    """The busiest route. It takes FastAPI's steps by hand, the cheapest rejection first, which saves more than 0.4 of the
    event loop's time for a request. The OpenAPI document still shows the endpoint's signature.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reply to a request for this path.

        Raises:
            HTTPException: 405, for any method but POST
            as :func:`segment`, which the application answers
        """
        if scope["method"] != "POST":
            raise HTTPException(405, "POST an image here", headers={"Allow": "POST"})
        request = Request(scope, receive, send)
        services: Services = request.app.state.services
        if opening_of(scope) is None:  # otherwise the key was checked with the head
            services.plane.keys.check(offered_key(request.headers))
        query = parsed_query(schemas.SegmentQuery, scope["query_string"])
        headers = parsed_headers(schemas.SegmentHeaders, scope["headers"])
        response = await segment(request, query, headers, services)
        await response(scope, receive, send)


segment_route = _SegmentRoute(
    PATH,
    segment,
    methods=["POST"],
    dependencies=[Depends(authorise)],
    response_class=Response,
    responses=schemas.mask_reply() | schemas.refusals(401, 404, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra={"requestBody": schemas.BODY},
)
"""In no router: each router on the way would match its routes twice."""
