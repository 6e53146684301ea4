"""``GET /models`` and the probes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path

from service.api import schemas
from service.api.services import ServicesNow, authorise

router = APIRouter(dependencies=[Depends(authorise)])
probes = APIRouter()


@router.get("/models", responses=schemas.refusals(401, 503))
async def models(services: ServicesNow) -> schemas.Models:
    """Every model that is served, with its manifest; and every artifact that is not, with the reason."""
    repository = services.repository
    return schemas.Models(
        default=repository.default,
        default_reason=repository.default_reason,
        models=[schemas.ServedModel.of(engine) for engine in repository.engines()],
        unavailable=[schemas.Unavailable.of(state) for state in repository.index() if state.reason is not None],
    )


@router.get("/models/{name}", responses=schemas.refusals(401, 404, 422, 503))
async def model(name: Annotated[str, Path(max_length=64)], services: ServicesNow) -> schemas.ServedModel:
    """One model."""
    return schemas.ServedModel.of(services.repository.get(name))


@probes.get("/livez", responses=schemas.refusals(503))
async def livez(services: ServicesNow) -> schemas.Alive:
    """The process answers and needs no restart: 503 if the GPU has failed for good."""
    services.repository.check_alive()
    return schemas.Alive()


@probes.get("/readyz", responses=schemas.refusals(503))
async def readyz(services: ServicesNow) -> schemas.Ready:
    """The models are loaded and warmed, and their scheduler is alive."""
    services.readiness.check()
    engine = services.repository.get(None)
    return schemas.Ready(model=engine.manifest.name, provider=engine.provider)
