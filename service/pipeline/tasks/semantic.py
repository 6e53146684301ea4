"""Scores -> labels at the image's own size: upsample the scores, then take the winner. Never the other way round.

The upsampling is bilinear with half-pixel centres and clamped edges (torch ``align_corners=False``, cv2 ``INTER_LINEAR``),
so a mask lies exactly on its image.

A *cell* is the square between four adjacent scores. Inside it each class is a convex mix of its four corners, hence
(1) where one class leads at all four corners it wins everywhere, and the cell is filled without computing its pixels;
(2) a class that another one beats at all four corners wins nowhere. Only what is left is computed pixel by pixel.
Exact: in float64, and on street scenes about a tenth of the cells.

This is written twice, in C (``labels.c``) and, for where that is not compiled, in numpy; the labels are the same, bit for bit.
CPU time against a running maximum over cv2.resize of every class plane, the fastest of the plainer ways (medians of 15, one
thread of a Xeon; 11 classes, street masks as blurred noisy scores):

=============== ============ ======= =====
scores          image        C       numpy
=============== ============ ======= =====
90 x 120        480 x 360    0.29    0.78
90 x 120        1280 x 720   0.05    0.18
78 x 138        1920 x 1080  0.03    0.10
=============== ============ ======= =====

Where nearly every class contests every cell (white noise) C costs 2.3 times the planes at 480 x 360 and half of them at the two
larger sizes; no trained network comes near that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from service.pipeline.manifest import Manifest
from service.pipeline.tasks import compiled

Labels = NDArray[np.uint8]
Scores = NDArray[np.float32]
Exact = NDArray[np.float64]
Indices = NDArray[np.intp]

BLOCK_PIXELS = 1 << 16
"""Pixels worked on at a time: a few float32 planes of this many stay in a core's own cache, and memory stays flat."""

ROWS = 256
"""Rows of pixels that :func:`in_rows` gives at a time."""

BAND_PIXELS = 1 << 14
"""The same where all classes are compared together."""

_compiled = compiled.loaded()


class Axis(NamedTuple):
    """How one side is sampled: n scores -> as many positions as the image has pixels on that side."""

    cell: Indices
    """The index of the score before each pixel, 0 .. n - 2."""
    fraction: Exact
    """Each pixel's place on the way to the next score, 0..1."""
    first: Indices
    """n: the first pixel of each cell, and the number of pixels at the end; equal entries where a cell has no pixel."""


class _Cells(NamedTuple):
    """M contested cells; those with more rivals come first."""

    y: Indices
    x: Indices
    contenders: Indices
    """M: how many classes can win there, two or more."""
    rivals: Labels
    """R x M: these classes, ascending; a column is meaningful down to its number of contenders."""
    leads: Exact
    """R x 4 x M: how far each is ahead of the first of them at the four corners, in reading order."""

    def part(self, block: slice) -> _Cells:
        """Some of the cells."""
        return _Cells(self.y[block], self.x[block], self.contenders[block], self.rivals[:, block], self.leads[:, :, block])


def label_map(scores: Scores, size: tuple[int, int]) -> Labels:
    """The class of every pixel.

    Takes:
        scores: K x h x w float32, finite; K at most 255
        size: (height, width) of the image; larger or smaller than h x w
    Gives:
        H x W uint8: the class with the highest upsampled score; of equals the lowest
    """
    scores = _at_least_two_by_two(scores)
    return label_rows(scores, axis(scores.shape[1], size[0]), size[1])


def label_rows(scores: Scores, rows: Axis, width: int) -> Labels:
    """Return the class of every pixel of some rows, as :func:`label_map` of the whole has them.

    Takes:
        scores: K x n x w float32, finite: the rows of scores that the pixels lie between; n at least 2
        rows: how the pixels' rows are sampled from these
        width: of the image
    Gives:
        rows x width uint8
    """
    scores = scores.repeat(2, axis=2) if scores.shape[2] == 1 else scores
    columns = axis(scores.shape[2], width)
    return _by_numpy(scores, rows, columns) if _compiled is None else _by_compiled(_compiled.label_map, scores, rows, columns)


def in_rows(bands: Iterable[Scores], cells: int, height: int) -> Iterator[tuple[Scores, Axis]]:
    """Cut scores that come by rows so that each part holds all that its rows of pixels are sampled from.

    Takes:
        bands: K x n x w float32 each, from top to bottom
        cells: rows of all of them
        height: of the image in pixels
    Gives:
        for :func:`label_rows` and :func:`confidence_rows`: scores, and the pixels' rows; together ``height`` of them
    """
    whole = axis(max(2, cells), height)
    held: Scores | None = None
    top, done = 0, 0
    for band in bands:
        held = band if held is None else np.concatenate([held, band], axis=1)
        held = held.repeat(2, axis=1) if cells == 1 else held
        bottom = top + held.shape[1]
        last = height if bottom >= cells else int(np.searchsorted(whole.cell, bottom - 1))
        for first in range(done, last, ROWS):
            rows = slice(first, min(first + ROWS, last))
            start, end = int(whole.cell[rows.start]), int(whole.cell[rows.stop - 1]) + 2
            cell = whole.cell[rows] - start
            axes = Axis(cell, whole.fraction[rows], np.searchsorted(cell, np.arange(end - start)))
            yield np.ascontiguousarray(held[:, start - top : end - top]), axes
        done = max(done, last)
        kept = min(int(whole.cell[done]), bottom) if done < height else bottom
        held, top = held[:, kept - top :].copy(), kept


def is_compiled() -> bool:
    """Whether ``labels.c`` computes the labels."""
    return _compiled is not None


class Semantic:
    """Scores to the class of every pixel; for ``task: semantic-segmentation``."""

    def outputs(self, *, instances: bool) -> tuple[str, ...]:  # noqa: ARG002  (instances are connected components here)
        """Return the scores' name: nothing else is needed."""
        return ("scores",)

    def labels(self, outputs: Mapping[str, Scores], size: tuple[int, int]) -> Labels:
        """Return the class of every pixel, as :func:`label_map`."""
        return label_map(outputs["scores"], size)

    def confidence(self, outputs: Mapping[str, Scores], labels: Labels, temperature: float) -> Labels:
        """Return the winner's probability, as :func:`confidence_map`."""
        return confidence_map(outputs["scores"], labels, temperature)

    def instances(self, outputs: Mapping[str, Scores], labels: Labels, manifest: Manifest) -> None:
        """Return None: a semantic network does not tell objects apart."""


def confidence_map(scores: Scores, labels: Labels, temperature: float = 1.0) -> Labels:
    """Return the probability of the winner.

    Takes:
        scores: K x h x w float32, finite
        labels: H x W uint8 from :func:`label_map` of the same scores
        temperature: the scores are divided by it before the softmax (Guo et al. 2017, section 4.2)
    Gives:
        H x W uint8: the winner's softmax probability among the upsampled scores, times 255, rounded
    """
    height, width = labels.shape
    scores = _at_least_two_by_two(scores)
    return confidence_rows(scores, axis(scores.shape[1], height), width, temperature)


def confidence_rows(scores: Scores, rows: Axis, width: int, temperature: float = 1.0) -> Labels:
    """Return the probability of the winner in some rows.

    Takes:
        scores, rows, width: as for :func:`label_rows`
        temperature: as for :func:`confidence_map`
    Gives:
        rows x width uint8, as :func:`confidence_map` has them, but for the rounding of float32: at most 1 apart
    """
    height = len(rows.cell)
    scores = scores if temperature == 1 else scores / np.float32(temperature)
    scores = scores.repeat(2, axis=2) if scores.shape[2] == 1 else scores
    wide = np.stack([cv2.resize(plane, (width, len(plane)), interpolation=cv2.INTER_LINEAR) for plane in scores])  # K x h x W
    confidence = np.empty((height, width), np.uint8)
    step = max(1, BAND_PIXELS // width)
    for start in range(0, height, step):
        band = slice(start, start + step)
        above, share = rows.cell[band], rows.fraction[band]
        top, row = int(above[0]), np.arange(len(above))
        weights = np.zeros((len(above), int(above[-1]) + 2 - top), np.float32)
        weights[row, above - top] = 1 - share
        weights[row, above - top + 1] = share
        planes = weights @ wide[:, top : top + weights.shape[1]]  # K x rows x W
        planes -= planes.max(0)
        np.exp(planes, out=planes)
        confidence[band] = np.rint(255 / planes.sum(0))
    return confidence


def confidence_at(scores: Scores, size: tuple[int, int], rows: Indices, columns: Indices, temperature: float = 1.0) -> Labels:
    """Return the probability of the winner at some pixels, for where the whole map is not wanted.

    Takes:
        scores, temperature: as for :func:`confidence_map`
        size: (height, width) of the image
        rows, columns: N each, of pixels
    Gives:
        N uint8, as :func:`confidence_map` has them, but for the rounding of float32: at most 1 apart
    """
    scores = _at_least_two_by_two(scores)
    down, right = axis(scores.shape[1], size[0]), axis(scores.shape[2], size[1])
    y, x = down.cell[rows], right.cell[columns]
    lower, later = down.fraction[rows], right.fraction[columns]
    above = scores[:, y, x] * (1 - later) + scores[:, y, x + 1] * later  # K x N
    below = scores[:, y + 1, x] * (1 - later) + scores[:, y + 1, x + 1] * later
    mixed = (above * (1 - lower) + below * lower) / temperature
    certainty: Labels = np.rint(255 / np.exp(mixed - mixed.max(0)).sum(0)).astype(np.uint8)
    return certainty


def mean_confidence(scores: Scores, temperature: float = 1.0) -> float:
    """Return the mean probability of the winner over the score cells, which is near the mean over all pixels.

    Takes:
        scores, temperature: as for :func:`confidence_map`
    Gives:
        0..1
    """
    scaled = scores * np.float32(1 / temperature)
    scaled -= scaled.max(0)
    return float((1 / np.exp(scaled, out=scaled).sum(0)).mean(dtype=np.float64))


def _by_compiled(function: Callable[..., int], scores: Scores, rows: Axis, columns: Axis) -> Labels:
    classes, h, w = scores.shape
    labels = np.empty((len(rows.cell), len(columns.cell)), np.uint8)
    leader = np.empty((h, w), np.uint8)
    sampling = (rows.first, rows.fraction, columns.first, columns.fraction)
    function(np.ascontiguousarray(scores), classes, h, w, *sampling, leader, labels, labels.shape[1])
    return labels


def _by_numpy(scores: Scores, rows: Axis, columns: Axis) -> Labels:
    heights, widths = np.diff(rows.first), np.diff(columns.first)

    leader = _leaders(scores)
    corner = leader[:-1, :-1]
    labels = corner.repeat(widths, axis=1).repeat(heights, axis=0)
    contested = (corner != leader[:-1, 1:]) | (corner != leader[1:, :-1]) | (corner != leader[1:, 1:])
    contested &= (heights > 0)[:, None] & (widths > 0)
    if contested.any():
        cells = _find_rivals(scores, *np.nonzero(contested))
        step = max(1, BLOCK_PIXELS // int(heights.max() * widths.max()))
        for start in range(0, len(cells.y), step):
            _settle(labels, rows, columns, cells.part(slice(start, start + step)))
    return labels


@lru_cache(8)
def axis(scores: int, pixels: int) -> Axis:
    """Sample a row of scores at the centres of pixels. A camera's frames have one size: the last ones are remembered."""
    position = np.clip((np.arange(pixels) + 0.5) * (scores / pixels) - 0.5, 0, scores - 1)
    cell = np.minimum(position.astype(np.intp), scores - 2)
    found = Axis(cell, position - cell, np.searchsorted(cell, np.arange(scores)))
    for array in found:
        array.flags.writeable = False
    return found


def _at_least_two_by_two(scores: Scores) -> Scores:
    """A single row or column is repeated, so that there is a cell to sample in."""
    _, h, w = scores.shape
    return scores.repeat(2 if h == 1 else 1, axis=1).repeat(2 if w == 1 else 1, axis=2) if 1 in (h, w) else scores


def _leaders(scores: Scores) -> Labels:
    """Argmax over classes, h x w uint8: plane by plane, several times as fast as ``scores.argmax(0)``."""
    best = scores[0].copy()
    leader = np.zeros(best.shape, np.uint8)
    for k, plane in enumerate(scores[1:], start=1):
        np.maximum(leader, (plane > best).view(np.uint8) * np.uint8(k), out=leader)
        np.maximum(best, plane, out=best)
    return leader


def _find_rivals(scores: Scores, y: Indices, x: Indices) -> _Cells:
    """Return the classes that can win in each of M cells."""
    _, h, w = scores.shape
    at = y * w + x
    around = np.array([0, 1, w, w + 1])[:, None]  # the four corners, in reading order
    corners = scores.reshape(len(scores), -1).take(at + around, axis=1)  # K x 4 x M
    # A class that loses at all four corners to the class that is strongest on the whole loses everywhere.
    strongest = corners.sum(1, dtype=np.float64).argmax(0)
    possible = (corners >= np.take_along_axis(corners, strongest[None, None], 0)).any(1)  # K x M
    count = possible.sum(0)
    order = np.argsort(-count, kind="stable")
    y, x, at, count = y[order], x[order], at[order], count[order]
    cell, rival = np.nonzero(possible[:, order].T)  # by cell, then by id
    rank = np.arange(len(cell)) - np.repeat(np.cumsum(count) - count, count)
    rivals = np.zeros((int(count[0]), len(at)), np.uint8)
    rivals[rank, cell] = rival
    leads = scores.reshape(-1).take(rivals[:, None] * np.intp(h * w) + (at + around)).astype(np.float64)
    return _Cells(y, x, count, rivals, leads - leads[0])


def _settle(labels: Labels, rows: Axis, columns: Axis, cells: _Cells) -> None:
    """Fill M contested cells of ``labels``, pixel by pixel.

    The arrays are rows x columns x M: with the cells last, numpy's inner loops are long.
    """
    y, x = cell_pixels(rows, cells.y), cell_pixels(columns, cells.x)
    down, right = rows.fraction[y][:, None], columns.fraction[x]
    best = np.zeros((len(y), len(x), len(cells.y)))  # lead over the first rival
    winner = np.broadcast_to(cells.rivals[0], best.shape).copy()
    for rank in range(1, int(cells.contenders[0])):
        m = int(np.searchsorted(-cells.contenders, -rank))  # the first m cells have a rival of this rank
        a, b, c, d = cells.leads[rank, :, :m]
        west = a + down[:, :, :m] * (c - a)
        east = b + down[:, :, :m] * (d - b)
        lead = right[:, :m] * (east - west)
        lead += west
        ahead = lead > best[:, :, :m]
        # Ids ascend from rank to rank, so the maximum is the later one; a masked copy takes three times as long.
        np.maximum(winner[:, :, :m], ahead.view(np.uint8) * cells.rivals[rank, :m], out=winner[:, :, :m])
        np.maximum(best[:, :, :m], lead, out=best[:, :, :m])
    labels.reshape(-1)[((y * labels.shape[1])[:, None] + x).reshape(-1)] = winner.reshape(-1)


def cell_pixels(axis: Axis, cells: Indices) -> Indices:
    """The pixels of M cells along one side, as pixels x M. Cells differ by a pixel; the small ones repeat their last."""
    first, last = axis.first[cells], axis.first[cells + 1] - 1
    pixels: Indices = np.minimum(first + np.arange(int((last - first).max()) + 1)[:, None], last)
    return pixels
