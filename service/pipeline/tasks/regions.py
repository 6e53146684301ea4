"""Regions of one class, and the objects in them.

A region is a set of pixels of one class that touch by a side or a corner. It holds the peaks whose cell has its centre in it.

- A region that holds peaks belongs to these alone: each pixel goes to the nearest of them.
- A region that holds none goes to peaks outside, as the part of a car behind a pole. But where its cells point to none of them,
  it is an object of its own, if it is large enough.

This is written twice, in C (``objects.c``) and, for where that is not compiled, in OpenCV and numpy; the objects are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from service.pipeline.tasks.compiled import Library
from service.pipeline.tasks.grid import Grid, Indices, Points, nearest

FAR_CELLS = 4
"""Mean distance, in cells, between where a region's cells point to and the nearest peak, beyond which they point to none."""
LEAST_CELLS = 10
"""Cells that an object without a peak has at the least."""
FEW_RUNS = 1 << 16
"""Runs that a first try holds at the most; an image with more takes a second one."""
BLOCK = 1 << 19
"""Pixels that are worked on at a time, so that memory stays flat."""

Ids = NDArray[np.uint16]
Labels = NDArray[np.uint8]
Counts = NDArray[np.int64]


class Regions(Protocol):
    """The regions of an image's countable classes, numbered from 1 in an order of their own."""

    count: int

    def at(self, rows: Indices, columns: Indices) -> Counts:
        """Return the region of each pixel of these rows and columns, both ascending; 0 where there is none."""

    def away(self, of_cells: Counts, holds: NDArray[np.bool_], grid: Grid, places: Points) -> tuple[Counts, Points]:
        """Measure how far the cells of regions without a peak point from the nearest one.

        Takes:
            of_cells: h x w: the region of each cell
            holds: for each region, from 0, whether it has peaks
            places: P x 2 (y, x) of the peaks
        Gives:
            for each region, from 0, its cells, 0 where it has peaks; and the sum of their distances in input pixels
        """

    def move(self, ids: Ids, votes: Counts, owners: Owners, grid: Grid, places: Points) -> None:
        """Give the pixels of each region to its owners, and their votes with them; ``ids`` and ``votes`` change in place."""


class Owners(NamedTuple):
    """The objects that each region belongs to."""

    own: Ids
    """For each region, from 0: the object without a peak that all its pixels are; 0 for none."""
    home: Counts
    """For each peak: the region that holds it; 0 for none."""


def regions_of(labels: Labels, classes: tuple[int, ...], library: Library | None) -> Regions:
    """Find the regions of some classes.

    Takes:
        labels: H x W class ids
        library: finds them; None is OpenCV and numpy
    """
    return RegionMap(labels, classes) if library is None else RegionRuns(np.ascontiguousarray(labels), classes, library)


def centre_pixels(cells: int, pixels: int) -> Indices:
    """Return the pixel at the centre of each of the cells in a row."""
    return ((np.arange(cells) + 0.5) * pixels / cells).astype(np.intp)


class Peaks(NamedTuple):
    """P peaks of the centres' heatmap."""

    cells: Indices
    """P x 2: (row, column)."""
    places: Points
    """P x 2: (y, x) in input pixels."""


def settle(
    ids: Ids,
    votes: Counts,
    labels: Labels,
    classes: tuple[int, ...],
    grid: Grid,
    peaks: Peaks,
    *,
    stride: int,
    most: int,
    library: Library | None,
) -> Counts:
    """Give each region to the peaks that it holds, or make it an object of its own.

    Takes:
        ids: H x W: 1 + the peak of each pixel of the classes, 0 elsewhere; changed in place
        votes: P x 256: pixels of each class by peak; changed in place
        stride: input pixels a cell
        most: objects without a peak at the most; the largest are kept
        library: finds the regions and moves the pixels; None is OpenCV and numpy
    Gives:
        the votes, with a row more for each object without a peak; in ``ids`` these follow the peaks
    """
    regions = regions_of(labels, classes, library)
    rows, columns = (centre_pixels(n - 2, pixels) for n, pixels in zip(grid.pointed.shape[1:], labels.shape, strict=True))
    of_cells = regions.at(rows, columns)
    home = of_cells[peaks.cells[:, 0], peaks.cells[:, 1]]
    holds = np.zeros(regions.count + 1, bool)
    holds[home] = True
    cells, away = regions.away(of_cells, holds, grid, peaks.places)
    alone = np.flatnonzero((cells >= LEAST_CELLS) & (away > FAR_CELLS * stride * cells))
    alone = _largest_first(alone, cells, of_cells)[:most]
    own = np.zeros(regions.count + 1, np.uint16)
    own[alone] = len(votes) + 1 + np.arange(len(alone))
    votes = np.concatenate([votes, np.zeros((len(alone), 256), np.int64)])
    regions.move(ids, votes, Owners(own, home), grid, peaks.places)
    return votes


def _largest_first(alone: Indices, cells: Counts, of_cells: Counts) -> Indices:
    """Sort regions by their cells, equal ones in reading order of their first cells."""
    if len(alone) > 1:
        first, cell = np.zeros(len(cells), np.intp), of_cells.reshape(-1)
        first[cell[::-1]] = np.arange(len(cell))[::-1]
        alone = alone[np.lexsort((first[alone], -cells[alone]))]
    return alone


class RegionRuns:
    """Regions as runs of pixels in rows, in C."""

    def __init__(self, labels: Labels, classes: tuple[int, ...], library: Library) -> None:
        self._labels, self._library = labels, library
        height, width = labels.shape
        countable, marks, first = np.array(classes, np.uint8), np.empty(width, np.uint8), np.empty(height + 1, np.int64)
        most = FEW_RUNS
        while True:
            runs = np.empty((most, 2), np.int64)
            found = library.find_runs(labels, height, width, countable, len(countable), most, marks, first, runs)
            if found <= most:
                break
            most = found
        self._runs = first, runs[:found], np.empty(found, np.int64)
        self.count = library.join_runs(labels, height, width, *self._runs)

    def at(self, rows: Indices, columns: Indices) -> Counts:
        """As in :class:`Regions`."""
        found = np.zeros((len(rows), len(columns)), np.int64)
        self._library.find_regions(*self._runs, rows, len(rows), columns, len(columns), found)
        return found

    def away(self, of_cells: Counts, holds: NDArray[np.bool_], grid: Grid, places: Points) -> tuple[Counts, Points]:
        """As in :class:`Regions`."""
        cells, away = np.zeros(len(holds), np.int64), np.zeros(len(holds))
        self._library.add_distances(
            of_cells,
            *of_cells.shape,
            holds.view(np.uint8),
            grid.pointed,
            np.ascontiguousarray(places),
            len(places),
            cells,
            away,
        )
        return cells, away

    def move(self, ids: Ids, votes: Counts, owners: Owners, grid: Grid, places: Points) -> None:
        """As in :class:`Regions`."""
        inside = np.argsort(owners.home, kind="stable")
        starts = np.searchsorted(owners.home[inside], np.arange(len(owners.own) + 1))
        of_regions = *self._runs, *owners, inside, places[inside], len(places), starts
        sampling = grid.rows.cell, grid.rows.fraction, grid.columns.cell, grid.columns.fraction
        _, h, w = grid.pointed.shape
        scratch = np.empty(w, np.int64), np.empty(w, np.int64)
        labels = self._labels
        self._library.move_pixels(labels, *labels.shape, *of_regions, grid.pointed, h, w, *sampling, *scratch, ids, votes)


class RegionMap:
    """Regions as a map of their numbers, by OpenCV and numpy."""

    def __init__(self, labels: Labels, classes: tuple[int, ...]) -> None:
        self._labels = labels
        self._map = np.zeros(labels.shape, np.int32)
        self.count = 0
        for k in classes:
            mask = np.asarray(labels == k).view(np.uint8)
            left, top, wide, tall = cv2.boundingRect(mask)
            if wide:
                box = slice(top, top + tall), slice(left, left + wide)
                more, part = cv2.connectedComponents(mask[box], connectivity=8)
                self._map[box] += np.asarray(part, np.int32) + np.multiply(mask[box], self.count, dtype=np.int32)
                self.count += more - 1

    def at(self, rows: Indices, columns: Indices) -> Counts:
        """As in :class:`Regions`."""
        return self._map[np.ix_(rows, columns)].astype(np.int64)

    def away(self, of_cells: Counts, holds: NDArray[np.bool_], grid: Grid, places: Points) -> tuple[Counts, Points]:
        """As in :class:`Regions`."""
        rows, columns = np.nonzero((of_cells > 0) & ~holds[of_cells])
        owner, pointed = of_cells[rows, columns], grid.pointed[:, rows + 1, columns + 1]
        away = np.full(len(rows), np.inf)
        if len(places):
            winner, _ = nearest(pointed, places)
            away = np.sqrt(((pointed - places[winner].T) ** 2).sum(0))
        cells = np.bincount(owner, minlength=len(holds)).astype(np.int64)
        return cells, np.bincount(owner, away, len(holds)).astype(np.float64)

    def move(self, ids: Ids, votes: Counts, owners: Owners, grid: Grid, places: Points) -> None:
        """As in :class:`Regions`."""
        labels, (own, home) = self._labels, owners
        holds = np.isin(np.arange(len(own)), home)
        step = max(1, BLOCK // labels.shape[1])
        for top in range(0, len(labels), step):
            band = slice(top, top + step)
            pixels = np.flatnonzero(self._map[band] != 0)
            of_pixels = self._map[band].reshape(-1)[pixels]
            went_to = np.concatenate([[0], home])[ids[band].reshape(-1)[pixels]]
            strangers = (went_to != of_pixels) & holds[of_pixels]
            for region, theirs in _by_region(pixels[strangers], of_pixels[strangers]):
                inside = np.flatnonzero(home == region)
                rows, columns = np.divmod(theirs, labels.shape[1])
                winner, _ = nearest(grid.at(rows + top, columns), places[inside])
                _move(ids[band], votes, labels[band], theirs, (inside[winner] + 1).astype(np.uint16))
            to = own[of_pixels]
            new = np.flatnonzero(to)
            _move(ids[band], votes, labels[band], pixels[new], to[new])


def _by_region(pixels: Indices, of_pixels: NDArray[np.int32]) -> Iterator[tuple[int, Indices]]:
    """Give the pixels of each region."""
    order = np.argsort(of_pixels, kind="stable")
    numbers, starts = np.unique(of_pixels[order], return_index=True)
    parts = np.split(pixels[order], starts[1:]) if len(numbers) else []
    yield from zip(numbers.tolist(), parts, strict=True)


def _move(ids: Ids, votes: Counts, labels: Labels, pixels: Indices, to: Ids) -> None:
    """Give pixels to other objects, and their votes with them."""
    before, classes = ids.reshape(-1)[pixels].astype(np.intp), labels.reshape(-1)[pixels]
    had = before > 0
    flat = votes.reshape(-1)
    flat -= np.bincount((before[had] - 1) * 256 + classes[had], minlength=flat.size)
    flat += np.bincount((to.astype(np.intp) - 1) * 256 + classes, minlength=flat.size)
    ids.reshape(-1)[pixels] = to
