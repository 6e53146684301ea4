"""What more can be said of each mask: where it lies, and how sure the network was of it.

May import: numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.encodings.runs import ClassRow, ValueMap, rows_present, value_of

_BAND_ROWS = 64


def describe(labels: ValueMap, classes: Iterable[ClassRow], confidence: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """Describe each mask that has a pixel.

    Takes:
        labels: H x W, H and W at least 1
        classes: the class table, or the masks that ``components.split`` made of it
        confidence: H x W uint8, the winner's probability times 255
    Gives:
        ``{bbox, confidence}`` of each mask present, in the order of ``classes``: ``bbox`` is ``[x, y, width, height]`` in
        pixels, as COCO has it, and ``confidence`` the mean over the mask's pixels, 0..1
    """
    height, width = labels.shape
    flat = labels.reshape(-1)
    last = np.ones(labels.shape, bool)  # of a run that ends with its row at the latest
    np.not_equal(labels[:, 1:], labels[:, :-1], out=last[:, :-1])
    ends = np.flatnonzero(last)
    starts = np.append(0, ends[:-1] + 1)
    values = flat[ends]
    # Sums of whole numbers: exact. In bands of rows, because reduceat makes int64 of all that it is given.
    sums = np.concatenate(
        [
            np.add.reduceat(confidence[top : top + _BAND_ROWS].reshape(-1), starts[first:end] - top * width, dtype=np.int64)
            for top, first, end in _bands(starts, height, width)
        ]
    )
    size = int(values.max()) + 1
    pixels = np.bincount(values, weights=ends - starts + 1, minlength=size)
    means = np.bincount(values, weights=sums, minlength=size) / np.maximum(pixels, 1) / 255
    left, top = np.full(size, width), np.full(size, height)
    right, bottom = np.zeros(size, np.int64), np.zeros(size, np.int64)
    rows = starts // width
    np.minimum.at(left, values, starts - rows * width)
    np.maximum.at(right, values, ends - rows * width + 1)
    np.minimum.at(top, values, rows)
    np.maximum.at(bottom, values, rows + 1)
    boxes = np.stack((left, top, right - left, bottom - top), 1)
    present = [value_of(row) for row in rows_present(values, classes)]
    return [{"bbox": boxes[value].tolist(), "confidence": round(float(means[value]), 4)} for value in present]


def _bands(starts: NDArray[np.intp], height: int, width: int) -> Iterator[tuple[int, int, int]]:
    """The first row of each band, and which of the runs, that end with their rows, lie in it."""
    tops = range(0, height, _BAND_ROWS)
    cuts = [*np.searchsorted(starts, np.array(tops) * width).tolist(), len(starts)]
    return zip(tops, cuts[:-1], cuts[1:], strict=True)
