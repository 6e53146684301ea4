"""The contract's run-length encoding: all classes in one row-major sequence, as JSON.

``{"size": [H, W], "order": "row-major", "labels": [..], "lengths": [..], "classes": [{id, name, pixels, share}]}``
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.encodings.format import json_format
from service.encodings.runs import ClassRow, ValueMap, find_runs, masks_present, rows_present

ORDER = "row-major"


def encode(labels: ValueMap, classes: Iterable[ClassRow]) -> dict[str, Any]:
    """Encode a label map.

    Takes:
        labels: H x W, or X x Y x Z of a scan; sides of at least 1
        classes: the class table
    Gives:
        the document, ready for JSON; ``labels[i]`` fills the next ``lengths[i]`` pixels, left to right, top to bottom;
        of a scan the last axis runs fastest
    """
    values, lengths = find_runs(labels.reshape(-1))
    return {
        "size": list(labels.shape),
        "order": ORDER,
        "labels": values.tolist(),
        "lengths": lengths.tolist(),
        "classes": masks_present(values, lengths, rows_present(values, classes)),
    }


def decode(document: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Decode a document back into its label map.

    Takes:
        document: as ``encode`` gives it
    Gives:
        H x W or X x Y x Z uint8
    Raises:
        ValueError: if a field is missing, of the wrong type or out of range, or if the runs do not fill the size exactly
    """
    try:
        sides = [int(side) for side in document["size"]]
        order, values, lengths = document["order"], document["labels"], document["lengths"]
        # An array of no runs would be float64.
        values = np.asarray(values or np.empty(0, np.int64))
        lengths = np.asarray(lengths or np.empty(0, np.int64))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"not a run-length encoding: {error!r}") from error
    if order != ORDER:
        raise ValueError(f"order is {order!r}, not {ORDER!r}")
    if values.dtype != np.int64 or lengths.dtype != np.int64 or values.ndim != 1 or values.shape != lengths.shape:
        raise ValueError("labels and lengths must be two lists of integers, equally long")
    if values.size == 0 or values.min() < 0 or values.max() > 255 or lengths.min() < 1:
        raise ValueError("labels must be 0..255 and lengths at least 1")
    # Each for itself before their sum, which may wrap around.
    if len(sides) not in (2, 3) or min(sides) < 1:
        raise ValueError(f"size is {sides}, not two or three sides of 1 and more")
    total = math.prod(sides)
    if lengths.max() > total or int(lengths.sum()) != total:
        raise ValueError(f"the runs fill {lengths.sum()} pixels, not {' x '.join(map(str, sides))}")
    return np.repeat(values.astype(np.uint8), lengths).reshape(sides)


FORMAT = json_format(
    "rle",
    "Run lengths of the whole map as JSON, small and exact, with the classes found: the one for programs.",
    lambda labels, rows, _: encode(labels, rows),
    decode,
    volumes="yes",
)
