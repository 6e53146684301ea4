"""Outlines without holes, for formats whose polygons are one ring each.

A hole becomes part of the ring that surrounds it: the ring goes to the hole, around it, and back the same way. By the even-odd
rule the way there and back cancels, so that the ring covers exactly the pixels of the region.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.encodings import polygons
from service.encodings.runs import ClassRow, Thing, ValueMap, find_runs, rows_present, value_of

Ring = NDArray[np.int64]
"""P x 2: x, y; not closed."""


@dataclass(frozen=True, eq=False)
class Outline:
    """One ring of a mask."""

    row: ClassRow
    ring: Ring
    """P x 2, P at least 3: x, y in pixels, not closed."""


def outlines(labels: ValueMap, classes: Iterable[ClassRow], tolerance: float = 0.0) -> list[Outline]:
    """Find one ring for each region of a class, and one for each thing, whose regions are joined.

    Takes:
        labels: H x W, H and W at least 1
        classes: the class table, or the masks that ``things.split`` made of it
        tolerance: pixels by which rings may stray, at least 0
    Gives:
        in the order of ``classes``; regions are of pixels that share edges
    """
    traced = polygons.trace(labels, tolerance)
    made: list[Outline] = []
    for row in rows_present(find_runs(labels.reshape(-1))[0], classes):
        regions = [joined(region) for region in traced[value_of(row)]]
        rings = [joined(regions)] if isinstance(row, Thing) and regions else regions
        made += [Outline(row, ring) for ring in rings]
    return made


def joined(rings: Sequence[Ring]) -> Ring:
    """Join rings to one that covers the same pixels by the even-odd rule.

    Takes:
        rings: at least one
    Gives:
        P x 2, not closed; each ring is reached from the nearest corner of those before
    """
    made = rings[0]
    for ring in rings[1:]:
        start = int(ring[:, 0].argmin())
        around = np.concatenate((ring[start:], ring[: start + 1]))  # closed
        nearest = int(np.abs(made - around[0]).sum(1).argmin())
        made = np.concatenate((made[: nearest + 1], around, made[nearest:]))
    return made
