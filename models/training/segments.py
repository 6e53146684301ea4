"""Segments of an image: its things one by one, its stuff class by class.

Panoptic quality and average precision compare them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.training.losses import IGNORED
from models.training.objects import UNSURE
from service.pipeline.tasks.panoptic import Instances

VOID = 0
"""The value of a pixel without a segment."""


@dataclass(frozen=True)
class Segment:
    """One segment."""

    id: int
    """Its value in the map, 1 or more."""
    class_id: int
    score: float = 1.0
    crowd: bool = False
    """Things of the class whose number and outlines are not known: finding them is neither right nor wrong."""


@dataclass(frozen=True)
class Segments:
    """The segments of an image."""

    map: NDArray[np.int32]
    """H x W: the segment of each pixel, :data:`VOID` where there is none."""
    rows: tuple[Segment, ...]


def true_segments(labels: NDArray[np.uint8], objects: NDArray[np.uint8], things: tuple[int, ...]) -> Segments:
    """Segments of labelled truth.

    Takes:
        labels: H x W uint8 class ids, 255 where ignored
        objects: H x W uint8 object map; a class's unsure pixels are one crowd
        things: ids of the countable classes
    """
    found = np.zeros(labels.shape, np.int32)
    rows: list[Segment] = []
    for k in np.unique(labels[labels != IGNORED]).tolist():
        mask = labels == k
        if k not in things:
            _add(found, rows, mask, Segment(len(rows) + 1, k))
            continue
        unsure = mask & ((objects == 0) | (objects == UNSURE))
        for number in np.unique(objects[mask & ~unsure]).tolist():
            _add(found, rows, mask & (objects == number), Segment(len(rows) + 1, k))
        if unsure.any():
            _add(found, rows, unsure, Segment(len(rows) + 1, k, crowd=True))
    return Segments(found, tuple(rows))


def found_segments(labels: NDArray[np.uint8], instances: Instances, things: tuple[int, ...]) -> Segments:
    """Segments of a prediction: its objects, and its stuff. Countable pixels without an object belong to none.

    Takes:
        labels: H x W uint8 class ids
        instances: objects of the same size
        things: ids of the countable classes
    """
    found = instances.ids.astype(np.int32)
    rows = [Segment(row.id, row.class_id, row.score) for row in instances.rows]
    for k in np.unique(labels[(found == 0)]).tolist():
        if k not in things:
            _add(found, rows, (labels == k) & (found == 0), Segment(len(rows) + 1, k))
    return Segments(found, tuple(rows))


def _add(found: NDArray[np.int32], rows: list[Segment], mask: NDArray[np.bool_], segment: Segment) -> None:
    found[mask] = segment.id
    rows.append(segment)


@dataclass(frozen=True)
class Overlaps:
    """How two maps of one image overlap, in pixels."""

    shared: NDArray[np.int64]
    """T x P: of each pair of a true and a found segment, in the order of their rows."""
    true_void: NDArray[np.int64]
    """P: of each found segment with what has no true segment."""
    true_area: NDArray[np.int64]
    """T."""
    found_area: NDArray[np.int64]
    """P."""


def overlaps(truth: Segments, found: Segments) -> Overlaps:
    """Count the pixels that each pair of segments shares, in one pass.

    Raises:
        ValueError: if the maps differ in size
    """
    if truth.map.shape != found.map.shape:
        raise ValueError(f"a prediction of {found.map.shape} for labels of {truth.map.shape}")
    columns = int(found.map.max(initial=0)) + 1
    size = (int(truth.map.max(initial=0)) + 1, columns)
    pairs = truth.map.astype(np.int64) * columns + found.map
    table = np.bincount(pairs.ravel(), minlength=size[0] * size[1]).reshape(size)
    true_ids, found_ids = [row.id for row in truth.rows], [row.id for row in found.rows]
    return Overlaps(
        table[np.ix_(true_ids, found_ids)],
        table[VOID, found_ids],
        table.sum(1)[true_ids],
        table.sum(0)[found_ids],
    )
