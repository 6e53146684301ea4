"""Centres and offsets -> objects: which pixel belongs to which car, at the image's own size.

Cheng et al., "Panoptic-DeepLab", CVPR 2020, section 3.2. The peaks of the centres' heatmap are the objects. Each pixel of a
countable class goes to the object whose peak is nearest to where the pixel's offset points. An object's class is that of most
of its pixels. Its score is its peak's height times the mean probability of that class in its cells.

Where the label map says more than the offsets, it wins: see ``regions``.

Offsets are upsampled as scores are (``semantic``): bilinear, half-pixel centres, the outermost values beyond the edge.
A *cell* is the square between four neighbouring values. Inside it, the place that an offset points to is a convex mix of the
places of its corners, and the difference of the squared distances to two peaks is linear in the place. So a peak that another
one beats at all four corners wins nowhere inside; a cell whose corners all belong to one peak belongs to it whole, and only
the others are computed pixel by pixel. To beat means: by more than rounding can change. So the nearest peaks are those of
computing each pixel in float64, bit for bit.

This is written twice, in C (``objects.c``) and, for where that is not compiled, in numpy; the objects are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from service.pipeline.manifest import Manifest
from service.pipeline.tasks import compiled
from service.pipeline.tasks.compiled import Library
from service.pipeline.tasks.grid import Grid, Indices, Points, grid_of
from service.pipeline.tasks.grid import nearest as nearest_of
from service.pipeline.tasks.regions import Peaks, centre_pixels, settle
from service.pipeline.tasks.semantic import Axis, Labels, Scores, cell_pixels, confidence_map, label_map

InstanceIds = NDArray[np.uint16]
Counts = NDArray[np.int64]

LEAST_PEAK = 0.1
"""Height from which on a maximum of the heatmap is an object (Panoptic-DeepLab's threshold)."""
WINDOW = 5
"""Cells on a side within which only the highest maximum is an object."""
MOST_OBJECTS = 512
"""Objects an image at the most; the highest peaks are kept, so that noise in a heatmap cannot cost seconds."""
BLOCK = 1 << 19
"""Numbers that are worked on at a time, so that memory stays flat."""
MARGIN = 1e-11
"""Share of the squared coordinates by which a peak must be farther than another one at every corner of a cell, to be out of
question inside it. Rounding moves a squared distance by less than a thousandth of this."""
_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))

_compiled = compiled.loaded()


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


class Assigned(NamedTuple):
    """The pixels of each peak."""

    ids: InstanceIds
    """H x W: 1 + the index of the peak, 0 where there is none."""
    votes: Counts
    """P x 256: pixels of each class."""
    used: Labels | None
    """(h + 1) x (w + 1): which cells have a pixel of a peak; None if that was not told."""


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
        the objects
    """
    peaks = find_peaks(centers[0])
    places = peaks.astype(np.float64) * stride + np.float64((stride - 1) / 2)
    grid = grid_of(offsets, labels.shape, stride)
    assigned = nearest_peaks(labels, grid, places, countable)
    votes = settle(
        assigned.ids,
        assigned.votes,
        labels,
        countable,
        grid,
        Peaks(peaks, places),
        stride=stride,
        most=MOST_OBJECTS,
        library=_compiled,
    )
    heights = np.full(len(votes), LEAST_PEAK)
    heights[: len(peaks)] = centers[0][peaks[:, 0], peaks[:, 1]]
    return _described(assigned._replace(votes=votes), grid, scores, heights)


def find_peaks(heatmap: NDArray[np.float32]) -> Indices:
    """Find the maxima of a heatmap.

    Takes:
        heatmap: h x w float32, 0..1
    Gives:
        P x 2: (row, column) of each cell that is at least :data:`LEAST_PEAK` high and highest in the :data:`WINDOW` around it,
        highest first; of equals within a window the first in reading order, :data:`MOST_OBJECTS` at the most
    """
    return _peaks_by_numpy(heatmap) if _compiled is None else _peaks_by_compiled(_compiled, heatmap)


def _peaks_by_compiled(library: Library, heatmap: NDArray[np.float32]) -> Indices:
    h, w = heatmap.shape
    found = np.empty((MOST_OBJECTS, 2), np.int64)
    scratch = np.empty(h * w, np.uint64), np.empty(h * w, np.uint8)
    count = library.find_peaks(np.ascontiguousarray(heatmap), h, w, LEAST_PEAK, WINDOW // 2, MOST_OBJECTS, *scratch, found)
    return found[:count].astype(np.intp)


def _peaks_by_numpy(heatmap: NDArray[np.float32]) -> Indices:
    highest = cv2.dilate(heatmap, np.ones((WINDOW, WINDOW), np.uint8))
    rows, columns = np.nonzero((heatmap == highest) & (heatmap >= np.float32(LEAST_PEAK)))
    order = np.argsort(-heatmap[rows, columns], kind="stable")[: 4 * MOST_OBJECTS]
    found: list[tuple[int, int]] = []
    taken = np.zeros(heatmap.shape, bool)
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if len(found) < MOST_OBJECTS and not taken[row, column]:
            found.append((row, column))
            reach = WINDOW // 2
            taken[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1] = True
    return np.array(found, np.intp).reshape(-1, 2)


def nearest_peaks(labels: Labels, grid: Grid, peaks: Points, countable: tuple[int, ...]) -> Assigned:
    """Send each pixel of the countable classes to the peak that its offset points nearest to, of equals the first.

    Takes:
        labels: H x W uint8 class ids
        peaks: P x 2 (y, x) in input pixels, 65535 at the most
    """
    if not len(peaks):
        return Assigned(np.zeros(labels.shape, np.uint16), np.zeros((0, 256), np.int64), None)
    compiled_or_not = _nearest_by_numpy if _compiled is None else partial(_nearest_by_compiled, _compiled)
    return compiled_or_not(np.ascontiguousarray(labels), grid, np.ascontiguousarray(peaks), countable)


def _nearest_by_compiled(library: Library, labels: Labels, grid: Grid, peaks: Points, countable: tuple[int, ...]) -> Assigned:
    _, h, w = grid.pointed.shape
    width, count = labels.shape[1], len(peaks)
    rows, columns = grid.rows, grid.columns
    nearest, lead, scale = np.zeros((h, w), np.uint16), np.empty((h, w)), np.empty((h, w))
    scratch = nearest, lead, scale, np.empty(width, np.uint8), np.empty(count, np.int64)
    ids, used = np.zeros(labels.shape, np.uint16), np.empty((h - 1, w - 1), np.uint8)
    votes = np.zeros((count, 256), np.int64)
    of_classes = labels, width, np.array(countable, np.uint8), len(countable)
    sampling = rows.first, rows.fraction, columns.first, columns.fraction
    library.nearest_peaks(*of_classes, grid.pointed, h, w, *sampling, peaks, count, *scratch, ids, used, votes)
    return Assigned(ids, votes, used)


def _nearest_by_numpy(labels: Labels, grid: Grid, peaks: Points, countable: tuple[int, ...]) -> Assigned:
    pointed, rows, columns = grid
    wanted = np.zeros(256, bool)
    wanted[list(countable)] = True
    mask = wanted[labels]
    ids = np.zeros(labels.shape, np.uint16)
    if mask.any():
        heights, widths = np.diff(rows.first), np.diff(columns.first)
        used = _any_in_cells(mask, rows, columns)
        corners = np.zeros(pointed.shape[1:], bool)
        for down, right in _CORNERS:
            corners[down : down + used.shape[0], right : right + used.shape[1]] |= used
        nearest, lead = np.zeros(corners.shape, np.uint16), np.zeros(corners.shape)
        winner, lead[corners] = nearest_of(pointed[:, corners], peaks)
        nearest[corners] = winner + 1
        scale = np.maximum(np.abs(pointed).max(0), np.abs(peaks).max())
        first, *others = _at_corners(nearest)
        ids = first.repeat(widths, axis=1).repeat(heights, axis=0) * mask
        near = np.minimum.reduce(_at_corners(lead)) <= MARGIN * np.maximum.reduce(_at_corners(scale)) ** 2
        cells = Cells(*np.nonzero(used & (np.logical_or.reduce([first != other for other in others]) | near)))
        step = max(1, BLOCK // max(4 * len(peaks), 2 * int(heights.max() * widths.max())))
        for start in range(0, len(cells.row), step):
            _settle(ids, mask, grid, cells.part(slice(start, start + step)), peaks, scale)
    at = np.flatnonzero(ids)
    votes = np.bincount((ids.reshape(-1)[at].astype(np.intp) - 1) * 256 + labels.reshape(-1)[at], minlength=len(peaks) * 256)
    return Assigned(ids, votes.reshape(-1, 256), None)


def _at_corners(values: NDArray[Any]) -> list[NDArray[Any]]:
    """Return the values at the four corners of each cell, in reading order: (h + 2) x (w + 2) to four (h + 1) x (w + 1)."""
    h, w = values.shape
    return [values[down : h - 1 + down, right : w - 1 + right] for down, right in _CORNERS]


def _any_in_cells(mask: NDArray[np.bool_], rows: Axis, columns: Axis) -> NDArray[np.bool_]:
    """Tell which cells have a pixel of the mask."""
    cells = np.zeros((len(rows.first) - 1, len(columns.first) - 1), bool)
    present_rows, present_columns = np.unique(rows.cell), np.unique(columns.cell)
    wide = np.logical_or.reduceat(mask, rows.first[present_rows], axis=0)
    cells[np.ix_(present_rows, present_columns)] = np.logical_or.reduceat(wide, columns.first[present_columns], axis=1)
    return cells


def _settle(
    ids: InstanceIds, mask: NDArray[np.bool_], grid: Grid, cells: Cells, peaks: Points, scale: NDArray[np.float64]
) -> None:
    """Fill contested cells of ``ids``, pixel by pixel, with the rivals of each alone.

    Takes:
        scale: (h + 2) x (w + 2): the largest coordinate at each corner, without its sign
    """
    pointed, rows, columns = grid
    top, left = cells.row, cells.column
    corners = np.stack([pointed[:, top + down, left + right] for down, right in _CORNERS], 1)
    largest = np.max([scale[top + down, left + right] for down, right in _CORNERS], axis=0)
    y, x = peaks.T[:, :, None, None]
    distance = (corners[0] - y) ** 2 + (corners[1] - x) ** 2  # P x 4 x M
    first = distance.sum(1).argmin(0)
    allowed = np.take_along_axis(distance, first[None, None], 0) + MARGIN * largest**2
    possible = (distance <= allowed).any(1)  # P x M
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


def _described(assigned: Assigned, grid: Grid, scores: Scores, heights: NDArray[np.float64]) -> Instances:
    """Rows of the objects that have pixels, numbered by descending score, of equals by descending height of the peak."""
    areas, winners = assigned.votes.sum(1), assigned.votes.argmax(1)
    sums, count = _probabilities(assigned.ids, scores, winners)
    mean = sums / np.maximum(count, 1)
    # An object that covers no cell's centre is smaller than a cell; nothing says more of it than its peak.
    sure = np.round(np.clip(heights, 0, 1) * np.where(count > 0, mean, 1.0), 4)
    kept = np.flatnonzero(areas)
    kept = kept[np.argsort(-sure[kept], kind="stable")]
    renamed = np.zeros(len(heights) + 1, np.uint16)
    renamed[kept + 1] = np.arange(1, len(kept) + 1)
    rows = tuple(Instance(number, int(winners[k]), float(sure[k]), int(areas[k])) for number, k in enumerate(kept, start=1))
    return Instances(_renamed(assigned, grid, renamed), rows)


def _probabilities(ids: InstanceIds, scores: Scores, winners: Indices) -> tuple[NDArray[np.float64], Counts]:
    """Return the sum of the probabilities of each peak's class over the scores at its pixels, and how many these are."""
    _, h, w = scores.shape
    height, width = ids.shape
    at_rows, at_columns = centre_pixels(h, height), centre_pixels(w, width)
    if _compiled is not None:
        sums, count = np.zeros(len(winners)), np.zeros(len(winners), np.int64)
        given = np.ascontiguousarray(scores), *scores.shape, ids, width
        _compiled.add_probabilities(*given, at_rows, at_columns, winners.astype(np.int64), sums, count)
        return sums, count
    middle = ids[np.ix_(at_rows, at_columns)].reshape(-1)
    at = np.flatnonzero(middle)
    owner = middle[at].astype(np.intp) - 1
    cells = scores.reshape(len(scores), -1)[:, at].astype(np.float64)
    probable = np.exp(cells - cells.max(0))
    probable = probable[winners[owner], np.arange(len(owner))] / probable.sum(0)
    sums = np.asarray(np.bincount(owner, probable, minlength=len(winners)), np.float64)
    return sums, np.bincount(owner, minlength=len(winners))


def _renamed(assigned: Assigned, grid: Grid, renamed: NDArray[np.uint16]) -> InstanceIds:
    """Return the map with ``renamed[id]`` in the place of each id; the map that was given may be overwritten."""
    ids, _, used = assigned
    if _compiled is None or used is None:
        return renamed[ids]
    _, h, w = grid.pointed.shape
    _compiled.rename(ids, ids.shape[1], used, h, w, grid.rows.first, grid.columns.first, renamed)
    return ids
