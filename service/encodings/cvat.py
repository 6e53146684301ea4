"""CVAT's masks, one a class present (or a thing), as its API takes them and ``cvat_sdk.masks`` reads them.

``{"size": [H, W], "classes": [...], "shapes": [{"type": "mask", "label": "road", "points": [...], "frame": 0}]}``

``points`` are the runs of the mask inside its bounding box, left to right and top to bottom, outside and inside in turn,
beginning outside; then the bounding box: left, top, right, bottom, all inclusive. The XML export has the same runs in ``rle``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.encodings.document import reading, size_of
from service.encodings.format import json_format
from service.encodings.runs import (
    UNLABELLED,
    ClassRow,
    ValueMap,
    binary_runs,
    fill,
    find_runs,
    masks_present,
    places,
    rows_present,
    value_of,
)


def encode(labels: ValueMap, classes: Iterable[ClassRow]) -> dict[str, Any]:
    """Encode each class that has a pixel as a mask of its own.

    Takes:
        labels: H x W, H and W at least 1
        classes: the class table, or the masks that ``things.split`` made of it
    Gives:
        the document, ready for JSON; shapes in the order of ``classes``
    """
    width = labels.shape[1]
    values, lengths = find_runs(labels.reshape(-1))
    starts = np.cumsum(lengths) - lengths
    rows = rows_present(values, classes)
    found = places(values)
    shapes = []
    for row in rows:
        inside = found[value_of(row)]
        points = _points(starts[inside], lengths[inside], width)
        shapes.append({"type": "mask", "label": row.name, "points": points, "frame": 0})
    return {"size": list(labels.shape), "classes": masks_present(values, lengths, rows), "shapes": shapes}


def decode(document: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Decode a document back into its label map.

    Takes:
        document: as ``encode`` gives it
    Gives:
        H x W uint8; 255 where no class is
    Raises:
        ValueError: if a field is missing or makes no sense, or if a mask's runs do not fill its bounding box exactly
    """
    with reading("CVAT masks"):
        labels = np.full(size_of(document), UNLABELLED, np.uint8)
        for entry, shape in zip(document["classes"], document["shapes"], strict=True):
            left, top, right, bottom = (int(side) for side in shape["points"][-4:])
            inside = labels[top : bottom + 1, left : right + 1]
            if min(left, top) < 0 or inside.shape != (bottom + 1 - top, right + 1 - left) or not inside.size:
                raise ValueError(
                    f"the bounding box of class {entry['id']} is {[left, top, right, bottom]}, outside of the image"
                )
            flat = inside.reshape(-1).copy()
            fill(flat, np.asarray(shape["points"][:-4], np.int64), entry["id"])
            inside[...] = flat.reshape(inside.shape)
    return labels


def _points(starts: NDArray[np.int64], lengths: NDArray[np.int64], width: int) -> list[int]:
    """One mask's runs in the whole map, as runs in its bounding box, and that."""
    ends = starts + lengths
    top, bottom = int(starts[0] // width), int((ends[-1] - 1) // width)
    wraps = starts // width != (ends - 1) // width
    left = 0 if wraps.any() else int((starts % width).min())
    right = width - 1 if wraps.any() else int(((ends - 1) % width).max())
    across = right - left + 1
    # Where it is as wide as the map, a run may go on in the next row; else it lies within one.
    within = (starts // width - top) * across + starts % width - left
    # Runs that ended at its right side and go on at its left are one.
    touching = within[1:] == within[:-1] + lengths[:-1]
    first = np.append(True, ~touching)
    joined = np.add.reduceat(lengths, np.flatnonzero(first))
    return [*binary_runs(within[first], joined, (bottom - top + 1) * across).tolist(), left, top, right, bottom]


FORMAT = json_format(
    "cvat",
    "CVAT's mask shapes, as its API and `cvat_sdk` take them.",
    lambda labels, rows, _: encode(labels, rows),
    decode,
    "instances",
    "min_area",
)
