"""Centres and offsets -> objects: which pixel belongs to which car, at the image's own size.

Cheng et al., "Panoptic-DeepLab", CVPR 2020, section 3.2. The peaks of the centres' heatmap are the objects. Each pixel of a
countable class goes to the object whose peak is nearest to where the pixel's offset points. An object's class is that of most
of its pixels. Its score is its peak's height times the mean probability of that class in its cells.

Offsets are upsampled as scores are (``semantic``): bilinear, half-pixel centres, the outermost values beyond the edge.
A *cell* is the square between four neighbouring values. Inside it, the place that an offset points to is a convex mix of the
places of its corners, and the places nearest to one peak form a convex set. So a cell whose corners all belong to one peak
belongs to it whole; only the others are computed pixel by pixel. Exact in float64, up to ties that rounding decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from service.pipeline.manifest import Manifest
from service.pipeline.tasks.semantic import Axis, Labels, Scores, cell_pixels, confidence_map, label_map

InstanceIds = NDArray[np.uint16]
Points = NDArray[np.float64]
Indices = NDArray[np.intp]

LEAST_PEAK = 0.1
"""Height from which on a maximum of the heatmap is an object (Panoptic-DeepLab's threshold)."""
WINDOW = 5
"""Cells on a side within which only the highest maximum is an object."""
MOST_OBJECTS = 512
"""Objects an image at the most; the highest peaks are kept, so that noise in a heatmap cannot cost seconds."""
BLOCK = 1 << 19
"""Numbers that are worked on at a time, so that memory stays flat."""


@dataclass(frozen=True)
class Instance:
    """One object."""

    id: int
    """Its value in the map: 1, 2, ... by descending score."""
    class_id: int
    score: float
    """0..1: how sure it is."""
    area: int
    """Its pixels, 1 or more."""


@dataclass(frozen=True)
class Instances:
    """The objects of an image."""

    ids: InstanceIds
    """H x W uint16: the object of each pixel, 0 where there is none. A pixel of an object may have another countable class in
    the label map, where the network mistook a part of it; the row says what the object is on the whole."""
    rows: tuple[Instance, ...]
    """Row k has the id k + 1."""


class Panoptic:
    """Scores to the class of every pixel; centres and offsets to objects. For ``task: panoptic``."""

    def outputs(self, *, instances: bool) -> tuple[str, ...]:
        """Return the scores' name; with instances those of the centres and offsets too."""
        return ("scores", "centers", "offsets") if instances else ("scores",)

    def labels(self, outputs: Mapping[str, Scores], size: tuple[int, int]) -> Labels:
        """Return the class of every pixel, as ``semantic.label_map``."""
        return label_map(outputs["scores"], size)

    def confidence(self, outputs: Mapping[str, Scores], labels: Labels, temperature: float) -> Labels:
        """Return the winner's probability, as ``semantic.confidence_map``."""
        return confidence_map(outputs["scores"], labels, temperature)

    def instances(self, outputs: Mapping[str, Scores], labels: Labels, manifest: Manifest) -> Instances | None:
        """Return the objects, as :func:`group`; None if the run left their outputs out."""
        if "centers" not in outputs:
            return None
        countable = tuple(entry.id for entry in manifest.classes if entry.countable)
        stride = next(output.stride for output in manifest.outputs if output.kind == "offsets")
        scores, centers, offsets = outputs["scores"], outputs["centers"], outputs["offsets"]
        return group(labels, scores, centers, offsets, stride=stride, countable=countable)


class Cells(NamedTuple):
    """M cells by their upper left corner."""

    row: Indices
    column: Indices

    def part(self, block: slice) -> Cells:
        """Return some of the cells."""
        return Cells(self.row[block], self.column[block])


def group(
    labels: Labels, scores: Scores, centers: Scores, offsets: Scores, *, stride: int, countable: tuple[int, ...]
) -> Instances:
    """Group the pixels of countable classes into objects.

    Takes:
        labels: H x W uint8 class ids, from ``semantic.label_map`` of the same scores
        scores: K x h x w float32, finite
        centers: 1 x h x w float32, 0..1
        offsets: 2 x h x w float32: (dy, dx) in input pixels from a cell's centre to the centre of its object
        stride: input pixels a cell
        countable: ids of the classes whose objects are told apart
    Gives:
        the objects; none where no pixel is of a countable class or the heatmap has no peak
    """
    wanted = np.zeros(256, bool)
    wanted[list(countable)] = True
    mask = wanted[labels]
    peaks = find_peaks(centers[0])
    if not len(peaks) or not mask.any():
        return Instances(np.zeros(labels.shape, np.uint16), ())
    places = peaks.astype(np.float64) * stride + np.float64((stride - 1) / 2)
    ids = nearest_peaks(mask, offsets, places, stride)
    heights = centers[0][peaks[:, 0], peaks[:, 1]].astype(np.float64)
    return _described(ids, labels, scores, heights)


def find_peaks(heatmap: NDArray[np.float32]) -> Indices:
    """Find the maxima of a heatmap.

    Takes:
        heatmap: h x w float32, 0..1
    Gives:
        P x 2: (row, column) of each cell that is at least :data:`LEAST_PEAK` high and highest in the :data:`WINDOW` around it,
        highest first; of equals within a window the first in reading order, :data:`MOST_OBJECTS` at the most
    """
    highest = cv2.dilate(heatmap, np.ones((WINDOW, WINDOW), np.uint8))
    rows, columns = np.nonzero((heatmap == highest) & (heatmap >= LEAST_PEAK))
    order = np.argsort(-heatmap[rows, columns], kind="stable")[: 4 * MOST_OBJECTS]
    found: list[tuple[int, int]] = []
    taken = np.zeros(heatmap.shape, bool)
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if len(found) < MOST_OBJECTS and not taken[row, column]:
            found.append((row, column))
            reach = WINDOW // 2
            taken[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1] = True
    return np.array(found, np.intp).reshape(-1, 2)


def nearest_peaks(mask: NDArray[np.bool_], offsets: Scores, peaks: Points, stride: int) -> InstanceIds:
    """Send each pixel to the peak that its offset points nearest to.

    Takes:
        mask: H x W, the pixels that belong to objects
        offsets: 2 x h x w float32 in input pixels
        peaks: P x 2 (y, x) in input pixels
    Gives:
        H x W uint16: 1 + the index of the peak, of equals the first; 0 outside the mask
    """
    pointed = _pointed(offsets, stride)  # 2 x (h + 2) x (w + 2)
    height, width = mask.shape
    rows, columns = _padded_axis(offsets.shape[1], height), _padded_axis(offsets.shape[2], width)
    heights, widths = np.diff(rows.first), np.diff(columns.first)
    used = _any_in_cells(mask, rows, columns)
    corners = np.zeros(pointed.shape[1:], bool)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        corners[down : down + used.shape[0], right : right + used.shape[1]] |= used
    nearest = np.zeros(corners.shape, np.uint16)
    nearest[corners] = _nearest(pointed[:, corners], peaks) + 1
    corner = nearest[:-1, :-1]
    ids = corner.repeat(widths, axis=1).repeat(heights, axis=0) * mask
    contested = used & ((corner != nearest[:-1, 1:]) | (corner != nearest[1:, :-1]) | (corner != nearest[1:, 1:]))
    cells = Cells(*np.nonzero(contested))
    step = max(1, BLOCK // max(4 * len(peaks), 2 * int(heights.max() * widths.max())))
    for start in range(0, len(cells.row), step):
        _settle(ids, mask, rows, columns, cells.part(slice(start, start + step)), pointed, peaks)
    return ids


def _pointed(offsets: Scores, stride: int) -> Points:
    """Compute where each cell points to, with one more cell all around that has the edge's offsets.

    Gives:
        2 x (h + 2) x (w + 2): (y, x) in input pixels
    """
    padded = np.pad(offsets.astype(np.float64), ((0, 0), (1, 1), (1, 1)), mode="edge")
    _, h, w = padded.shape
    padded[0] += ((np.arange(h) - 0.5) * stride - 0.5)[:, None]
    padded[1] += (np.arange(w) - 0.5) * stride - 0.5
    return padded


def _padded_axis(values: int, pixels: int) -> Axis:
    """Sample ``values`` in a row, and one more at each end, at the centres of pixels."""
    position = (np.arange(pixels, dtype=np.float64) + 0.5) * (values / pixels) + 0.5
    cell = np.minimum(position.astype(np.intp), values)
    return Axis(cell, position - cell, np.searchsorted(cell, np.arange(values + 2)))


def _any_in_cells(mask: NDArray[np.bool_], rows: Axis, columns: Axis) -> NDArray[np.bool_]:
    """Tell which cells have a pixel of the mask."""
    cells = np.zeros((len(rows.first) - 1, len(columns.first) - 1), bool)
    present_rows, present_columns = np.unique(rows.cell), np.unique(columns.cell)
    wide = np.logical_or.reduceat(mask, rows.first[present_rows], axis=0)
    cells[np.ix_(present_rows, present_columns)] = np.logical_or.reduceat(wide, columns.first[present_columns], axis=1)
    return cells


def _nearest(points: Points, peaks: Points) -> Indices:
    """Return the nearest peak of each of 2 x M points, M; of equals the first."""
    best = np.full(points.shape[1], np.inf)
    winner = np.zeros(points.shape[1], np.intp)
    for index, (y, x) in enumerate(peaks.tolist()):
        distance = (points[0] - y) ** 2 + (points[1] - x) ** 2
        closer = distance < best
        best[closer] = distance[closer]
        winner[closer] = index
    return winner


def _settle(
    ids: InstanceIds, mask: NDArray[np.bool_], rows: Axis, columns: Axis, cells: Cells, pointed: Points, peaks: Points
) -> None:
    """Fill contested cells of ``ids``, pixel by pixel, with the rivals of each alone.

    The difference of squared distances to two peaks is linear in the point, so a peak that another one beats at all four
    corners wins nowhere inside.
    """
    top, left = cells.row, cells.column
    corners = np.stack([pointed[:, top + down, left + right] for down, right in ((0, 0), (0, 1), (1, 0), (1, 1))], 1)
    y, x = peaks.T[:, :, None, None]
    distance = (corners[0] - y) ** 2 + (corners[1] - x) ** 2  # P x 4 x M
    first = distance.sum(1).argmin(0)
    possible = (distance <= np.take_along_axis(distance, first[None, None], 0)).any(1)  # P x M
    count = possible.sum(0)
    order = np.argsort(-count, kind="stable")
    top, left, count, corners = top[order], left[order], count[order], corners[:, :, order]
    cell, rival = np.nonzero(possible[:, order].T)  # by cell, then by peak
    rivals = np.zeros((int(count[0]), len(count)), np.intp)
    rivals[np.arange(len(cell)) - np.repeat(np.cumsum(count) - count, count), cell] = rival

    pixel_y, pixel_x = cell_pixels(rows, top), cell_pixels(columns, left)  # rows x M, columns x M
    down, right = rows.fraction[pixel_y][:, None], columns.fraction[pixel_x]
    a, b, c, d = corners.transpose(1, 0, 2)[:, :, None, None]  # each 2 x 1 x 1 x M
    west, east = a + down * (c - a), b + down * (d - b)
    points = west + right * (east - west)  # 2 x rows x columns x M
    best = np.full(points.shape[1:], np.inf)
    winner = np.zeros(best.shape, np.uint16)
    for rank in range(len(rivals)):
        m = int(np.searchsorted(-count, -rank))  # the first m cells have a rival of this rank
        to = peaks[rivals[rank, :m]].T[:, None, None]
        away = ((points[..., :m] - to) ** 2).sum(0)
        closer = away < best[..., :m]
        np.copyto(best[..., :m], away, where=closer)
        np.copyto(winner[..., :m], rivals[rank, :m].astype(np.uint16), where=closer)
    at = ((pixel_y * mask.shape[1])[:, None] + pixel_x).reshape(-1)
    ids.reshape(-1)[at] = (winner.reshape(-1) + np.uint16(1)) * mask.reshape(-1)[at]


def _described(ids: InstanceIds, labels: Labels, scores: Scores, heights: NDArray[np.float64]) -> Instances:
    """Rows of the objects that have pixels, numbered by descending score."""
    at = np.flatnonzero(ids)
    found, classes = ids.reshape(-1)[at], labels.reshape(-1)[at]
    votes = np.bincount(found.astype(np.intp) * 256 + classes, minlength=(len(heights) + 1) * 256).reshape(-1, 256)[1:]
    areas = votes.sum(1)
    winners = votes.argmax(1)
    _, h, w = scores.shape
    height, width = ids.shape
    middle = ids[
        np.ix_(((np.arange(h) + 0.5) * height / h).astype(np.intp), ((np.arange(w) + 0.5) * width / w).astype(np.intp))
    ]
    rows, columns = np.nonzero(middle)
    owner = middle[rows, columns].astype(np.intp) - 1
    cells = scores[:, rows, columns]
    probable = np.exp(cells - cells.max(0))
    probable = probable[winners[owner], np.arange(len(owner))] / probable.sum(0)
    count = np.bincount(owner, minlength=len(heights))
    mean = np.bincount(owner, probable, minlength=len(heights)) / np.maximum(count, 1)
    # An object that covers no cell's centre is smaller than a cell; nothing says more of it than its peak.
    sure = np.clip(heights, 0, 1) * np.where(count > 0, mean, 1.0)
    kept = np.flatnonzero(areas)
    kept = kept[np.argsort(-sure[kept], kind="stable")]
    renamed = np.zeros(len(heights) + 1, np.uint16)
    renamed[kept + 1] = np.arange(1, len(kept) + 1)
    rows_of = tuple(
        Instance(number, int(winners[k]), round(float(sure[k]), 4), int(areas[k])) for number, k in enumerate(kept, start=1)
    )
    return Instances(renamed[ids], rows_of)
