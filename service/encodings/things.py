"""Things as masks of their own: which classes can be counted, and the objects that a network told apart.

A model with learned objects gives :class:`Instances`. For any other model, ``components`` cuts the masks of countable classes
into connected components.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.encodings.runs import UNLABELLED, ClassRow, Thing, ValueMap, find_runs
from service.errors import BadParameter

_CITYSCAPES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle", "caravan", "trailer")
_CAMVID_AND_AUTOWARE = ("pedestrian", "bicyclist", "vehicle", "bike")
_VOC = (
    *("aeroplane", "bird", "boat", "bottle", "cat", "chair", "cow", "diningtable", "dog", "horse"),
    *("motorbike", "pottedplant", "sheep", "sofa", "tvmonitor"),
)
_ADE20K = ("van", "minibike", "airplane", "ship", "animal")
COUNTABLE = frozenset((*_CITYSCAPES, *_CAMVID_AND_AUTOWARE, *_VOC, *_ADE20K))
"""Names of classes whose things can be counted: what Cityscapes and VOC annotate one by one, and their like."""

FIRST_VALUE = 256
"""The value of the first thing in a value map; smaller values are class ids."""


class InstanceRow(Protocol):
    """One object."""

    @property
    def class_id(self) -> int:
        """The model's id of its class."""

    @property
    def score(self) -> float:
        """How sure the network is of it, 0..1."""


class Instances(Protocol):
    """The objects that a network told apart in one image."""

    @property
    def ids(self) -> NDArray[np.uint16]:
        """H x W: the object of each pixel, 1 to N; 0 where there is none."""

    @property
    def rows(self) -> Sequence[InstanceRow]:
        """N: row k is the object k + 1."""


def countable(classes: Sequence[ClassRow]) -> frozenset[int]:
    """Find the countable classes of a table: those that it marks; where it marks none, those with a name in ``COUNTABLE``.

    Takes:
        classes: the class table; a row may have an attribute ``countable``
    Gives:
        their ids
    """
    marked = frozenset(row.id for row in classes if getattr(row, "countable", False))
    return marked or frozenset(row.id for row in classes if row.name.casefold() in COUNTABLE)


def check_countable(classes: Sequence[ClassRow]) -> None:
    """Reject a table without a countable class.

    Raises:
        BadParameter: naming the classes
    """
    if not countable(classes):
        names = ", ".join(row.name for row in classes)[:200]
        raise BadParameter(
            f"instances: the classes ({names}) include none that can be counted, such as car or person", parameter="instances"
        )


def claim(labels: NDArray[np.uint8], instances: Instances) -> NDArray[np.uint8]:
    """Give every pixel of an object the object's class.

    Takes:
        labels: H x W uint8, the model's ids; 255 stays 255
        instances: of the same image
    Gives:
        H x W uint8, a new array
    """
    table = np.array([UNLABELLED, *(row.class_id for row in instances.rows)], np.uint8)
    at = np.flatnonzero(_claimed(labels, instances))  # few of most images, so what follows reads these alone
    claimed = labels.copy()
    claimed.reshape(-1)[at] = table[instances.ids.reshape(-1)[at]]
    return claimed


def _claimed(labels: NDArray[np.uint8], instances: Instances) -> NDArray[np.bool_]:
    """Which pixels belong to objects, H x W."""
    claimed: NDArray[np.bool_] = (instances.ids > 0) & (labels != UNLABELLED)
    return claimed


def split(
    labels: NDArray[np.uint8], classes: Sequence[ClassRow], instances: Instances, min_area: int = 0
) -> tuple[ValueMap, list[ClassRow]]:
    """Make a mask of each object; what belongs to no object stays with its class.

    Takes:
        labels: H x W uint8, in which each object's pixels have one class (:func:`claim`), or 255 where a filter dropped them
        classes: the class table of ``labels``
        instances: of the same image
        min_area: pixels; smaller objects are dropped
    Gives:
        H x W, uint16 where it is enough, else int32: 0..255 as in ``labels``, 256 and more in objects; 255 where one was
            dropped
        the rows of the classes and of the objects, in the table's order; each class before its objects, the largest first
    """
    count = len(instances.rows) + 1
    parts = narrow(np.ascontiguousarray(labels), UNLABELLED + count)
    above = parts.dtype.type(UNLABELLED)
    np.copyto(parts, instances.ids + above, where=_claimed(labels, instances))
    runs, lengths = find_runs(parts.reshape(-1))  # few beside the pixels
    areas = np.bincount(runs, lengths, minlength=UNLABELLED + count)[UNLABELLED:]
    owner = np.full(UNLABELLED + count, UNLABELLED, np.uint8)
    owner[runs] = labels.reshape(-1)[np.cumsum(lengths) - 1]
    owner = owner[UNLABELLED:]
    rows: list[ClassRow] = []
    for row in classes:
        rows.append(row)
        mine = np.flatnonzero((owner == row.id) & (areas > 0) & (areas >= min_area))
        for place, number in enumerate(mine[np.argsort(-areas[mine], kind="stable")].tolist()):
            score = round(float(instances.rows[number - 1].score), 4)
            rows.append(Thing(UNLABELLED + number, row.id, row.name, place + 1, score))
    kept = np.zeros(UNLABELLED + count, bool)
    kept[[*range(FIRST_VALUE), *(row.value for row in rows if isinstance(row, Thing))]] = True
    if not kept[runs].all():
        parts[~kept[parts]] = UNLABELLED
    return parts, rows


def narrow(parts: NDArray[np.uint8] | NDArray[np.int32], values: int) -> NDArray[np.uint16] | NDArray[np.int32]:
    """Return a value map of ``values`` values in uint16 where that holds them, else in int32."""
    return parts.astype(np.uint16) if values <= 1 << 16 else parts.astype(np.int32)
