"""Label maps for the tests of encodings: random ones, drawn streets, and real ones where they are at hand."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image

from models.scenes import street_scene
from models.training.classes import CAMVID
from service.encodings import Geo, MaskView, Options, encode, understood
from service.encodings.options import NO_OPTIONS
from tests.conftest import make_manifest

ROOT = Path(__file__).resolve().parent.parent
CAMVID_LABELS = ROOT.parent / "shared" / "camvid" / "val" / "labels"

STREET_CLASSES = CAMVID.entries
"""The class table of :func:`streets`."""

maps = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=30), elements=st.sampled_from([0, 1, 2, 255]))
"""Any small map of the three classes of ``conftest.make_manifest``, unlabelled pixels too."""


@functools.cache
def streets() -> tuple[NDArray[np.uint8], ...]:
    """Maps of streets: drawn ones of two sizes, and CamVid's where ``../shared`` is there."""
    drawn = [street_scene(*size, seed)[1] for seed, size in enumerate([(180, 240), (97, 333)])]
    files = sorted(CAMVID_LABELS.glob("*.png"))[:2]
    return (*drawn, *(CAMVID.class_ids(np.asarray(Image.open(file))) for file in files))


@dataclass(frozen=True)
class Drawn:
    """One object of :class:`Learned`."""

    class_id: int
    score: float


@dataclass(frozen=True, eq=False)
class Learned:
    """Objects that a network told apart, as ``encodings.Instances`` has them."""

    ids: NDArray[np.uint16]
    rows: tuple[Drawn, ...]

    @classmethod
    def of(cls, ids: NDArray[np.uint16], class_ids: Sequence[int], scores: Sequence[float]) -> Self:
        """Objects with these classes and scores."""
        return cls(ids, tuple(Drawn(owner, score) for owner, score in zip(class_ids, scores, strict=True)))

    @property
    def scores(self) -> list[float]:
        """Of each object."""
        return [row.score for row in self.rows]


@functools.cache
def objects(seed: int = 0) -> Learned:
    """Rectangles over the first street as objects; some overlap, and one is of a class that is not countable."""
    labels = streets()[0]
    random = np.random.default_rng(seed)
    numbers = np.zeros(labels.shape, np.uint16)
    ids = []
    for number, name in enumerate(["car", "car", "pedestrian", "car", "bicyclist", "road"], 1):
        top, left = random.integers(0, labels.shape[0] - 40), random.integers(0, labels.shape[1] - 50)
        numbers[top : top + random.integers(10, 40), left : left + random.integers(10, 50)] = number
        ids.append(next(entry.id for entry in STREET_CLASSES if entry.name == name))
    return Learned.of(numbers, ids, random.random(6).round(3).tolist())


def street_view(options: Options = NO_OPTIONS, *, learned: bool = False, **more: Any) -> MaskView:
    """The first street with a confidence that varies, perhaps with learned objects."""
    labels = streets()[0]
    confidence = np.where(np.arange(labels.size) % 3, 240, 20).astype(np.uint8).reshape(labels.shape)
    return MaskView(
        labels=labels,
        image=np.zeros((*labels.shape, 3), np.uint8),
        model=make_manifest(classes=[entry.model_dump() for entry in STREET_CLASSES]),
        sha256="ab" * 32,
        confidence=lambda: confidence,
        options=options,
        instances=objects if learned else None,
        **more,
    )


def street(name: str, *, learned: bool = False, file_name: str | None = None, geo: Geo | None = None, **query: Any) -> bytes:
    """The street in a format, with what a query asks for."""
    options = understood(name, STREET_CLASSES, **query)
    return encode(name, street_view(options, learned=learned, file_name=file_name, geo=geo)).body
