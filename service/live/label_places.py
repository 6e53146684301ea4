"""Where the name of a class is written into a picture: well within its largest region."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

LEAST_SHARE = 0.005
"""Of the picture: smaller regions get no name, for it would cover them."""
_ROWS = 90
"""The label map is read in about so many rows."""


@dataclass(frozen=True)
class Place:
    """A point of a class."""

    class_id: int
    x: float
    y: float
    """In pixels of the label map, from the upper left corner; a pixel's centre lies at half."""


def places(labels: NDArray[np.uint8], ids: list[int]) -> list[Place]:
    """Return the point of each class that lies farthest from the border of its largest region.

    Takes:
        labels: H x W uint8
        ids: of the classes that may have a name
    Gives:
        one place a class that covers enough, in the order of ``ids``; each lies on a pixel of its class
    """
    step = max(1, min(labels.shape[0] // _ROWS, labels.shape[1]))
    small = np.ascontiguousarray(labels[step // 2 :: step, step // 2 :: step])
    counts = np.bincount(small.reshape(-1), minlength=256)
    found = []
    for class_id in ids:
        if counts[class_id] < LEAST_SHARE * small.size:
            continue
        _, regions, facts, _ = cv2.connectedComponentsWithStats((small == class_id).view(np.uint8), connectivity=4)
        largest = 1 + int(facts[1:, cv2.CC_STAT_AREA].argmax())
        if facts[largest, cv2.CC_STAT_AREA] < LEAST_SHARE * small.size:
            continue
        inside = np.pad((regions == largest).view(np.uint8), 1)  # a picture's edge is a border too
        distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
        row, column = np.unravel_index(int(distance.argmax()), distance.shape)
        found.append(Place(class_id, float(column * step + step // 2 + 0.5), float(row * step + step // 2 + 0.5)))
    return found
