"""The connected components of countable classes as masks of their own.

A component is a region of one class whose pixels touch by a side or a corner. A network without learned objects knows no more:
two cars, one before the other, are one component, and a car behind a pole is two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.encodings import things
from service.encodings.runs import UNLABELLED, ClassRow, Thing, ValueMap
from service.extras import needs

try:
    import cv2
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(needs("components of masks need", "serve"), name=error.name) from error


def split(labels: NDArray[np.uint8], classes: Sequence[ClassRow], min_area: int = 0) -> tuple[ValueMap, list[ClassRow]]:
    """Cut the countable classes of a map into their components; the others stay whole.

    Takes:
        labels: H x W uint8
        classes: the class table
        min_area: pixels; smaller components are dropped
    Gives:
        H x W, uint16 where it is enough, else int32: 0..255 as in ``labels``, 256 and more in components; 255 where one was
            dropped
        the rows of the other classes, and one of each component, in the table's order, the largest component first
    """
    ids = things.countable(classes)
    parts = labels.astype(np.int32)
    rows: list[ClassRow] = []
    value = things.FIRST_VALUE
    for row in classes:
        if row.id not in ids:
            rows.append(row)
            continue
        mask = (labels == row.id).view(np.uint8)
        left, top, width, height = cv2.boundingRect(mask)
        if not width:
            continue
        box = slice(top, top + height), slice(left, left + width)
        count, found, stats, _ = cv2.connectedComponentsWithStats(mask[box], connectivity=8)
        areas = stats[1:, cv2.CC_STAT_AREA]
        order = np.argsort(-areas, kind="stable")
        kept = order[areas[order] >= min_area]
        new = np.full(count, UNLABELLED, np.int32)
        new[1 + kept] = value + np.arange(len(kept))
        inside = found > 0
        parts[box][inside] = new[found[inside]]
        rows += [Thing(value + place, row.id, row.name, place + 1) for place in range(len(kept))]
        value += len(kept)
    return things.narrow(parts, value), rows
