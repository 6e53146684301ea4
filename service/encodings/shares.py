"""Bounding box and mean confidence of each mask, and the share of uncertain pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.encodings.runs import ClassRow, ValueMap, rows_present, value_of

_BAND_ROWS = 64


def uncertain(confidence: NDArray[np.uint8], below: float = 0.5) -> float:
    """The share of pixels of which the network is not sure: the value of ``X-Uncertain``.

    Takes:
        confidence: H x W uint8, the winner's probability times 255
        below: 0..1
    Gives:
        0..1
    """
    return float(np.count_nonzero(confidence < below * 255) / confidence.size)


def boxes(labels: ValueMap, classes: Iterable[ClassRow]) -> list[list[int]]:
    """Find the bounding box of each mask that has a pixel.

    Takes:
        labels, classes: as for :func:`describe`
    Gives:
        ``[x, y, width, height]`` in pixels, as COCO has it, in the order of ``classes``
    """
    found = _Runs(labels)
    corners = found.boxes()
    return [corners[value].tolist() for value in found.present(classes)]


def describe(labels: ValueMap, classes: Iterable[ClassRow], confidence: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """Describe each mask that has a pixel.

    Takes:
        labels: H x W, H and W at least 1
        classes: the class table, or the masks that ``things.split`` made of it
        confidence: H x W uint8, the winner's probability times 255
    Gives:
        ``{bbox, confidence}`` of each mask present, in the order of ``classes``: ``bbox`` is ``[x, y, width, height]`` in
        pixels, as COCO has it, and ``confidence`` the mean over the mask's pixels, 0..1
    """
    found = _Runs(labels)
    corners, means = found.boxes(), found.means(confidence)
    return [{"bbox": corners[value].tolist(), "confidence": round(float(means[value]), 4)} for value in found.present(classes)]


class _Runs:
    """The runs of a value map, none longer than its row."""

    def __init__(self, labels: ValueMap) -> None:
        self._height, self._width = labels.shape
        last = np.ones(labels.shape, bool)
        np.not_equal(labels[:, 1:], labels[:, :-1], out=last[:, :-1])
        self._ends = np.flatnonzero(last)
        self._starts = np.append(0, self._ends[:-1] + 1)
        self._values = labels.reshape(-1)[self._ends]
        self._size = int(self._values.max()) + 1

    def present(self, classes: Iterable[ClassRow]) -> list[int]:
        """The values of those rows that have a pixel."""
        return [value_of(row) for row in rows_present(self._values, classes)]

    def boxes(self) -> NDArray[np.int64]:
        """By value: x, y, width, height."""
        values, starts, ends, size, width = self._values, self._starts, self._ends, self._size, self._width
        left, top = np.full(size, width), np.full(size, self._height)
        right, bottom = np.zeros(size, np.int64), np.zeros(size, np.int64)
        rows = starts // width
        np.minimum.at(left, values, starts - rows * width)
        np.maximum.at(right, values, ends - rows * width + 1)
        np.minimum.at(top, values, rows)
        np.maximum.at(bottom, values, rows + 1)
        return np.stack((left, top, right - left, bottom - top), 1)

    def means(self, confidence: NDArray[np.uint8]) -> NDArray[np.float64]:
        """By value: the mean confidence, 0..1."""
        starts, width = self._starts, self._width
        # Sums of whole numbers: exact. In bands of rows, because reduceat makes int64 of all that it is given.
        sums = np.concatenate(
            [
                np.add.reduceat(confidence[top : top + _BAND_ROWS].reshape(-1), starts[first:end] - top * width, dtype=np.int64)
                for top, first, end in self._bands()
            ]
        )
        pixels = np.bincount(self._values, weights=self._ends - starts + 1, minlength=self._size)
        means: NDArray[np.float64] = np.bincount(self._values, weights=sums, minlength=self._size) / np.maximum(pixels, 1) / 255
        return means

    def _bands(self) -> Iterator[tuple[int, int, int]]:
        """The first row of each band, and the first and the last of the runs that lie in it."""
        tops = range(0, self._height, _BAND_ROWS)
        cuts = [*np.searchsorted(self._starts, np.array(tops) * self._width).tolist(), len(self._starts)]
        return zip(tops, cuts[:-1], cuts[1:], strict=True)
