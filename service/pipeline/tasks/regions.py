"""Regions of one class, and the objects in them.

A region is a set of pixels of one class that touch by a side or a corner. It holds the peaks whose cell has its centre in it.

- A region that holds peaks belongs to these alone: each pixel goes to the nearest of them.
- A region that holds none goes to peaks outside, as the part of a car behind a pole. But where its cells point to none of them,
  it is an object of its own, if it is large enough.

Pixels are moved in C (``objects.c``) or, where that is not compiled, in numpy; the objects are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from service.pipeline.tasks.compiled import Library
from service.pipeline.tasks.grid import Grid, Indices, Points, nearest

FAR_CELLS = 4
"""Mean distance, in cells, between where a region's cells point to and the nearest peak, beyond which they point to none."""
LEAST_CELLS = 10
"""Cells that an object without a peak has at the least."""
BLOCK = 1 << 19
"""Pixels that are worked on at a time, so that memory stays flat."""

Regions = NDArray[np.int32]
Ids = NDArray[np.uint16]
Labels = NDArray[np.uint8]
Counts = NDArray[np.int64]


def regions_of(labels: Labels, classes: tuple[int, ...]) -> tuple[Regions, int]:
    """Number the regions of some classes.

    Takes:
        labels: H x W class ids
    Gives:
        H x W: 1, 2, ... a region, 0 where no such class is; and how many regions there are
    """
    found = np.zeros(labels.shape, np.int32)
    count = 0
    for k in classes:
        mask = np.asarray(labels == k).view(np.uint8)
        left, top, wide, tall = cv2.boundingRect(mask)
        if wide:
            box = slice(top, top + tall), slice(left, left + wide)
            more, part = cv2.connectedComponents(mask[box], connectivity=8)
            found[box] += np.asarray(part, np.int32) + np.multiply(mask[box], count, dtype=np.int32)
            count += more - 1
    return found, count


def centre_pixels(cells: int, pixels: int) -> Indices:
    """Return the pixel at the centre of each of the cells in a row."""
    return ((np.arange(cells) + 0.5) * pixels / cells).astype(np.intp)


class Peaks(NamedTuple):
    """P peaks of the centres' heatmap."""

    cells: Indices
    """P x 2: (row, column)."""
    places: Points
    """P x 2: (y, x) in input pixels."""


class Owners(NamedTuple):
    """The objects that each region belongs to."""

    regions: Regions
    """H x W, as of :func:`regions_of`."""
    own: Ids
    """For each region, from 0: the object without a peak that all its pixels are; 0 for none."""
    home: Counts
    """For each peak: the region that holds it; 0 for none."""


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
        library: moves the pixels; None is numpy
    Gives:
        the votes, with a row more for each object without a peak; in ``ids`` these follow the peaks
    """
    regions, count = regions_of(labels, classes)
    of_cells = regions[
        np.ix_(*(centre_pixels(cells - 2, pixels) for cells, pixels in zip(grid.pointed.shape[1:], labels.shape, strict=True)))
    ]
    home = of_cells[peaks.cells[:, 0], peaks.cells[:, 1]].astype(np.int64)
    holds = np.zeros(count + 1, bool)
    holds[home] = True
    holds[0] = False
    alone = _pointing_nowhere(of_cells, holds, grid, peaks.places, FAR_CELLS * stride)[:most]
    own = np.zeros(count + 1, np.uint16)
    own[alone] = len(votes) + 1 + np.arange(len(alone))
    votes = np.concatenate([votes, np.zeros((len(alone), 256), np.int64)])
    move = _move_by_numpy if library is None else partial(_move_by_compiled, library)
    move(ids, votes, labels, Owners(regions, own, home), grid, peaks.places)
    return votes


def _move_by_compiled(
    library: Library, ids: Ids, votes: Counts, labels: Labels, owners: Owners, grid: Grid, places: Points
) -> None:
    inside = np.argsort(owners.home, kind="stable")
    starts = np.searchsorted(owners.home[inside], np.arange(len(owners.own) + 1))
    of_regions = owners.regions, *labels.shape, np.ascontiguousarray(labels), owners.own, owners.home, inside, starts
    sampling = grid.rows.cell, grid.rows.fraction, grid.columns.cell, grid.columns.fraction
    library.move_pixels(*of_regions, grid.pointed, *grid.pointed.shape[1:], *sampling, np.ascontiguousarray(places), ids, votes)


def _move_by_numpy(ids: Ids, votes: Counts, labels: Labels, owners: Owners, grid: Grid, places: Points) -> None:
    regions, own, home = owners
    holds = np.isin(np.arange(len(own)), home)
    step = max(1, BLOCK // labels.shape[1])
    for top in range(0, len(labels), step):
        band = slice(top, top + step)
        pixels = np.flatnonzero(regions[band] != 0)
        of_pixels = regions[band].reshape(-1)[pixels]
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


def _by_region(pixels: Indices, of_pixels: Regions) -> Iterator[tuple[int, Indices]]:
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


def _pointing_nowhere(of_cells: Regions, holds: NDArray[np.bool_], grid: Grid, places: Points, far: float) -> Indices:
    """Return the regions that hold no peak, point to none, and are large enough: largest first, equal ones in reading order."""
    rows, columns = np.nonzero((of_cells > 0) & ~holds[of_cells])
    owner, pointed = of_cells[rows, columns], grid.pointed[:, rows + 1, columns + 1]
    away = np.full(len(rows), np.inf)
    if len(places):
        winner, _ = nearest(pointed, places)
        away = np.hypot(*(pointed - places[winner].T))
    cells = np.bincount(owner, minlength=len(holds))
    first = np.zeros(len(holds), np.intp)
    first[owner[::-1]] = np.arange(len(owner))[::-1]
    alone = np.flatnonzero((cells >= LEAST_CELLS) & (np.bincount(owner, away, len(holds)) > far * cells))
    return alone[np.lexsort((first[alone], -cells[alone]))]
