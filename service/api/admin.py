"""Calls for operators: metrics, and which models are served. On the public port, or on one of its own (``FCN_ADMIN_PORT``)."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Path, Response

from service.api import schemas
from service.api.metrics import METRICS_MEDIA_TYPE
from service.api.services import OfferedKey, ServicesNow


async def _administrate(services: ServicesNow, key: OfferedKey) -> None:
    if services.admin_keys is None:
        raise HTTPException(403, "administration over HTTP is off: the service was started without FCN_ADMIN_KEYS")
    services.admin_keys.check(key)


router = APIRouter()

Administrator = Depends(_administrate)
Name = Annotated[str, Path(max_length=64)]


@router.post("/models/{name}/load", dependencies=[Administrator], responses=schemas.refusals(401, 403, 404, 422, 503))
async def load(name: Name, services: ServicesNow) -> schemas.ServedModel:
    """Serve what a model's file holds now, or again what was unloaded. If it is refused, what was served goes on."""
    return schemas.ServedModel.of(await asyncio.to_thread(services.repository.load, name))


@router.post(
    "/models/{name}/unload", dependencies=[Administrator], status_code=204, responses=schemas.refusals(401, 403, 404, 422)
)
async def unload(name: Name, services: ServicesNow) -> None:
    """Serve a model no more until it is loaded again. Requests that have begun are finished."""
    await asyncio.to_thread(services.repository.unload, name)


@router.get("/metrics", response_class=Response)
async def metrics(services: ServicesNow) -> Response:
    """Metrics for Prometheus."""
    text = services.metrics.text()
    if services.peers is not None:
        text = services.peers.text(text)
    return Response(text, media_type=METRICS_MEDIA_TYPE)
