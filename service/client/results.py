"""The results of calls: masks, frames without one, and the models of a server."""

from __future__ import annotations

import gzip
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.encodings import coco
from service.encodings.runs import fill
from service.errors import ServiceError


@dataclass(frozen=True)
class ClassPresent:
    """A class that occurs in a mask."""

    id: int
    name: str
    pixels: int
    share: float
    """The share of all pixels, 0..1."""
    bbox: tuple[int, int, int, int] | None = None
    """(x, y, width, height) in pixels, where statistics were asked for."""
    confidence: float | None = None
    """The mean over its pixels, 0..1, where statistics were asked for."""


@dataclass(frozen=True, eq=False)
class Instance:
    """A thing in a mask: a learned object, or a connected component of a countable class."""

    id: int
    """The id of its class."""
    name: str
    """The name of its class."""
    number: int
    """Among the things of its class: 1 is the largest."""
    score: float | None
    """How sure the network is of a learned object, 0..1; None for a connected component."""
    pixels: int
    share: float
    """The share of all pixels, 0..1."""
    confidence: float | None = None
    """The mean over its pixels, 0..1, where statistics were asked for."""
    size: tuple[int, int] = field(default=(0, 0), repr=False)
    """(height, width) of the mask."""
    counts: str = field(default="", repr=False)
    """COCO's compressed run lengths."""

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """H x W bool: the pixels that are its own."""
        height, width = self.size
        flat = np.zeros(height * width, np.uint8)
        fill(flat, coco.unpack(self.counts), 1)
        return np.ascontiguousarray(flat.reshape(width, height).T).view(np.bool_)

    @cached_property
    def bbox(self) -> tuple[int, int, int, int]:
        """(x, y, width, height) in pixels."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        left, top = int(columns[0]), int(rows[0])
        return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top


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
    """The result of one image."""

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
    instances: tuple[Instance, ...] = ()
    """The things of countable classes, where they were asked for: class by class, the largest first."""
    converted: tuple[str, ...] = ()
    """What the server changed of an image that the model does not take as it is: ``colour-to-grey``, ``8-bit-to-16-bit``."""


@dataclass(frozen=True, eq=False)
class LabelVolume:
    """The result of one scan."""

    labels: NDArray[np.uint8]
    """X x Y x Z uint8, in the scan's own grid: the class id of every voxel; 255 is unlabelled."""
    nifti: bytes = field(repr=False)
    """The label volume as a NIfTI file with the scan's header: ``.nii.gz`` of a compressed scan or DICOM, else ``.nii``."""
    model: str
    """name@version of the model that made it."""
    timing: dict[str, float]
    """Milliseconds that the server spent, by stage."""
    request_id: str
    """Names the request in the server's log."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the NIfTI file; a name that ends with ``.gz`` is compressed, another one is not."""
        packed = self.nifti.startswith(b"\x1f\x8b")
        data = self.nifti
        if packed != os.fspath(path).endswith(".gz"):
            data = gzip.decompress(data) if packed else gzip.compress(data, 6)
        Path(path).write_bytes(data)


@dataclass(frozen=True)
class FrameWithoutMask:
    """A frame of a stream that has no mask."""

    frame_id: str | None
    frame_stamp: str | None
    error: ServiceError | None
    """The error of the frame; None if a newer one superseded it."""


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
    """The whole manifest."""


@dataclass(frozen=True)
class Catalogue:
    """The models of a server."""

    default: str
    """The name of the one that answers when a request names none."""
    models: tuple[ServedModel, ...]
