"""Where the pixels of an image point to: offsets, upsampled as scores are, and the peak that is nearest to a place."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.pipeline.tasks.semantic import Axis

Points = NDArray[np.float64]
Indices = NDArray[np.intp]


class Grid(NamedTuple):
    """Where the cells lie in an image, and where their corners point to."""

    pointed: Points
    """2 x (h + 2) x (w + 2): (y, x) in input pixels; one corner more all around, with the edge's offsets."""
    rows: Axis
    columns: Axis

    def at(self, rows: Indices, columns: Indices) -> Points:
        """Compute where pixels point to.

        Takes:
            rows, columns: M each
        Gives:
            2 x M: (y, x) in input pixels
        """
        top, left = self.rows.cell[rows], self.columns.cell[columns]
        down, right = self.rows.fraction[rows], self.columns.fraction[columns]
        a, b = self.pointed[:, top, left], self.pointed[:, top, left + 1]
        c, d = self.pointed[:, top + 1, left], self.pointed[:, top + 1, left + 1]
        west, east = a + down * (c - a), b + down * (d - b)
        return np.asarray(west + right * (east - west), np.float64)


def grid_of(offsets: NDArray[np.float32], size: tuple[int, ...], stride: int) -> Grid:
    """Lay the offsets' cells over an image.

    Takes:
        offsets: 2 x h x w float32 in input pixels
        size: (height, width) of the image
    """
    _, h, w = offsets.shape
    return Grid(_pointed(offsets, stride), _padded_axis(h, size[0]), _padded_axis(w, size[1]))


def nearest(points: Points, peaks: Points) -> tuple[Indices, Points]:
    """Return the nearest peak of each of 2 x M points, of equals the first; and by how much the second is farther, squared."""
    best = np.full(points.shape[1], np.inf)
    second = best.copy()
    winner = np.zeros(points.shape[1], np.intp)
    for index, (y, x) in enumerate(peaks.tolist()):
        distance = (points[0] - y) ** 2 + (points[1] - x) ** 2
        closer = distance < best
        np.minimum(second, np.where(closer, best, distance), out=second)
        best[closer] = distance[closer]
        winner[closer] = index
    return winner, second - best


def _pointed(offsets: NDArray[np.float32], stride: int) -> Points:
    """Compute where each cell points to, with one more cell all around that has the edge's offsets.

    Gives:
        2 x (h + 2) x (w + 2): (y, x) in input pixels
    """
    h, w = offsets.shape[1] + 2, offsets.shape[2] + 2
    padded = np.empty((2, h, w))  # np.pad takes three times as long
    padded[:, 1:-1, 1:-1] = offsets
    padded[:, [0, -1], 1:-1] = offsets[:, [0, -1]]
    padded[:, :, [0, -1]] = padded[:, :, [1, -2]]
    padded[0] += ((np.arange(h) - 0.5) * stride - 0.5)[:, None]
    padded[1] += (np.arange(w) - 0.5) * stride - 0.5
    return padded


def _padded_axis(values: int, pixels: int) -> Axis:
    """Sample ``values`` in a row, and one more at each end, at the centres of pixels."""
    position = (np.arange(pixels, dtype=np.float64) + 0.5) * (values / pixels) + 0.5
    cell = np.minimum(position.astype(np.intp), values)
    return Axis(cell, position - cell, np.searchsorted(cell, np.arange(values + 2)))
