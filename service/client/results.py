"""What the caller gets: masks, frames without one, and the models of a server.

May import: numpy, ``service.errors``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import ServiceError


@dataclass(frozen=True)
class ClassPresent:
    """A class that occurs in a mask."""

    id: int
    name: str
    pixels: int
    share: float
    """Of all pixels, 0..1."""
    bbox: tuple[int, int, int, int] | None = None
    """(x, y, width, height) in pixels, where statistics were asked for."""
    confidence: float | None = None
    """The mean over its pixels, 0..1, where statistics were asked for."""


@dataclass(frozen=True)
class ModelIdentity:
    """Which model made a mask."""

    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, eq=False)
class Mask:
    """What became of one image."""

    labels: NDArray[np.uint8]
    """H x W uint8, of the upright image's own size: the class id of every pixel; 255 is unlabelled."""
    classes: tuple[ClassPresent, ...]
    """Those that occur, in the order of their ids."""
    model: ModelIdentity
    timing: dict[str, float]
    """Milliseconds that the server spent, by stage."""
    request_id: str
    """Names the request in the server's log."""
    frame_id: str | None
    frame_stamp: str | None
    """As they were given to ``segment``, to match the mask with its frame."""


@dataclass(frozen=True)
class FrameWithoutMask:
    """A frame of a stream that has no mask."""

    frame_id: str | None
    frame_stamp: str | None
    error: ServiceError | None
    """What went wrong with it; None if it was superseded by a newer one."""


@dataclass(frozen=True)
class ClassEntry:
    """One row of a model's class table."""

    id: int
    name: str
    color: tuple[int, int, int]
    """RGB, 0..255."""


@dataclass(frozen=True)
class ServedModel:
    """A model that the server offers."""

    name: str
    version: str
    classes: tuple[ClassEntry, ...]
    manifest: Mapping[str, Any] = field(repr=False)
    """Everything that the model says of itself."""


@dataclass(frozen=True)
class Catalogue:
    """The models of a server."""

    default: str
    """The name of the one that answers when a request names none."""
    models: tuple[ServedModel, ...]
