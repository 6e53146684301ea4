"""The services that the routes work with, and the check of a caller's key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import HTTPConnection

from service.api.keys import offered_key
from service.api.metrics import Metrics
from service.api.peers import Peers
from service.api.readiness import Readiness
from service.api.upload import Uploads
from service.api.v2.memory import Regions
from service.pipeline.repository import Repository
from service.serving.dataplane import DataPlane
from service.serving.keys import Keys


@dataclass(frozen=True)
class Services:
    """Put together by ``app.py``, kept in ``app.state.services``."""

    plane: DataPlane
    readiness: Readiness
    metrics: Metrics
    peers: Peers | None
    """The other workers, where this process is one of several."""
    uploads: Uploads
    max_image_bytes: int
    max_scan_bytes: int
    deadline_s: float
    """The deadline of a request that names none."""
    scan_deadline_s: float
    """The deadline of a request with a scan that names none."""
    regions: Regions
    """The registered regions of shared memory."""
    admin_keys: Keys | None
    """None where administration is off."""

    @property
    def repository(self) -> Repository:
        """The models."""
        return self.plane.repository


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
    """Check the caller's key.

    Raises:
        Unauthorized: if keys are set and the caller offers another one
    """
    services.plane.keys.check(key)
