"""A scan in memory, and the geometry between its own grid and the network's.

The network sees a grid of known orientation and spacing: axes to the right, anterior and superior, for example, at 1 mm. A scan
has any orientation, any spacing, and often oblique axes. The way to the network is a permutation and mirroring of axes, then
linear sampling along each axis; the way back is the same in reverse, for scores and never for labels. Oblique axes stay
oblique: the nearest orientation is used, and nothing is rotated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from service.errors import CorruptImage, ImageTooLarge

Values = NDArray[np.float32]
Labels = NDArray[np.uint8]
Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]
Probabilities = NDArray[np.uint16]
"""Of each class at each voxel, 0..:data:`CERTAIN`."""

CERTAIN = 65535
"""What stands for a probability of 1. Rounding moves a probability by 0.00003 at most. In four bytes and not two, they would
be half of a scan's memory, all of which the system zeroes first."""

SLAB_VOXELS = 4_000_000
"""Voxels of a slab in which labels are computed: what bounds the memory of upsampled scores."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a scan lie, and the header that the answer copies."""

    shape: Shape
    """Voxels along each axis, in the order of the file."""
    affine: NDArray[np.float64]
    """4 x 4, from voxel indices to mm to the right, anterior and superior; its first three columns are independent."""
    header: bytes
    """The header of the NIfTI file as it came; of DICOM, one made of the geometry alone."""
    compressed: bool
    """Whether the file was compressed; the answer is then compressed, too."""

    @property
    def spacing_mm(self) -> Spacing:
        """Size of a voxel along each axis, in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in millilitres; axes need not be at right angles."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000


@dataclass(frozen=True, eq=False)
class Scan:
    """A decoded scan."""

    values: Values
    """X x Y x Z float32 in the order of the file, slope and intercept applied; values that are not finite numbers are kept."""
    grid: Grid


@dataclass(frozen=True, eq=False)
class Best:
    """The best class of each voxel."""

    labels: Labels
    """X x Y x Z uint8."""
    certainty: Labels
    """X x Y x Z uint8: the probability of that class, 255 is certainty."""


@dataclass(frozen=True, eq=False)
class Frame:
    """How a scan is brought to the network's grid, and scores back to the scan's."""

    turn: NDArray[np.float64]
    """3 x 2: for each axis of the scan, the axis of the network's grid, and 1 or -1 for its direction (nibabel's form)."""
    turned: Shape
    """The scan's shape after it is turned."""
    working: Shape
    """The shape that the network sees."""

    def in_orientation(self, values: Values) -> Values:
        """Turn a scan to the network's orientation, at its own spacing.

        Takes:
            values: X x Y x Z float32 in the scan's order
        Gives:
            the turned shape, a view
        """
        return _turned(values, self.turn)

    def in_order(self, values: Labels) -> Labels:
        """Turn a volume of the network's orientation back to the scan's order."""
        turned = _turned_back(values, self.turn)
        return turned if turned.flags.c_contiguous else contiguous(turned)

    def best(self, probabilities: Probabilities, temperature: float = 1.0) -> Best:
        """Sample probabilities on the scan's grid, take the best class, and turn back.

        Takes:
            probabilities: K x working shape; K at most 255
            temperature: of the certainty, as of :func:`best_class`
        Gives:
            in the scan's order: the class with the highest sampled probability, of equals the lowest
        """
        found = best_class(probabilities, self.turned, temperature)
        return Best(self.in_order(found.labels), self.in_order(found.certainty))


def frame(
    grid: Grid, *, orientation: str | None, spacing_mm: Spacing | None, max_voxels: int, sides: Shape | None = None
) -> Frame:
    """Measure how a scan is brought to the network's grid.

    Takes:
        orientation: direction in which each axis grows, e.g. ``RAS``; None keeps the scan's own
        spacing_mm: of the network's grid, along each of its axes; None keeps the scan's own
        max_voxels: of the working grid
        sides: of a network that takes one size only: the working grid, whatever the spacing
    Raises:
        CorruptImage: if the affine has no orientation
        ImageTooLarge: if the scan has too many voxels at the network's spacing
    """
    turn = np.array([[0, 1], [1, 1], [2, 1]], float) if orientation is None else _turn(grid.affine, orientation)
    turned = tuple(grid.shape[axis] for axis in np.argsort(turn[:, 0]))
    working = turned if sides is None else sides
    if sides is None and spacing_mm is not None:
        own = tuple(grid.spacing_mm[axis] for axis in np.argsort(turn[:, 0]))
        steps = zip(turned, own, spacing_mm, strict=True)
        working = tuple(max(1, round(side * step / wanted)) for side, step, wanted in steps)
    count = working[0] * working[1] * working[2]
    if count > max_voxels:
        spacing = " x ".join(f"{step:g}" for step in spacing_mm or grid.spacing_mm)
        text = f"the scan has {count} voxels at the network's {spacing} mm; at most {max_voxels} are taken"
        text += ": crop it, or raise FCN_MAX_VOXELS on the server"
        raise ImageTooLarge(text, limit=max_voxels, actual=count, unit="voxels")
    return Frame(turn, (turned[0], turned[1], turned[2]), (working[0], working[1], working[2]))


def _turn(affine: NDArray[np.float64], orientation: str) -> NDArray[np.float64]:
    from nibabel import orientations  # noqa: PLC0415 - of the extra 'medical'

    own = orientations.io_orientation(affine)
    if np.isnan(own).any():
        raise CorruptImage("the scan's affine has no orientation: its axes are not independent")
    wanted = orientations.axcodes2ornt(orientation)
    return np.asarray(orientations.ornt_transform(own, wanted), np.float64)


def _turned(array: NDArray[Any], turn: NDArray[np.float64]) -> NDArray[Any]:
    """A view with the axes permuted and mirrored: axis ``k`` becomes axis ``turn[k, 0]``."""
    mirrored = array[tuple(slice(None, None, int(direction)) for direction in turn[:, 1])]
    return mirrored.transpose(np.argsort(turn[:, 0]))


def _turned_back(array: NDArray[Any], turn: NDArray[np.float64]) -> NDArray[Any]:
    """The inverse of :func:`_turned`."""
    axes = array.transpose(turn[:, 0].astype(int))
    return axes[tuple(slice(None, None, int(direction)) for direction in turn[:, 1])]


def contiguous(view: NDArray[Any]) -> NDArray[Any]:
    """Copy a volume into C order.

    Where the axis that is fastest in memory becomes another one, voxels go plane by plane: each plane is read in the order of
    memory and turned in the cache. A copy at once misses the cache at every voxel: five to ten times the time.

    Takes:
        view: X x Y x Z uint8 or float32, of any strides
    """
    made = np.empty(view.shape, view.dtype)
    fastest = int(np.argmin(np.abs(view.strides)))
    if fastest == 2:
        made[...] = view
        return made
    others = 1 - fastest
    for plane, source in zip(np.moveaxis(made, others, 0), np.moveaxis(view, others, 0), strict=True):
        plane[...] = cv2.transpose(np.ascontiguousarray(source.T))
    return made


def resized(values: Values, shape: Shape) -> Values:
    """Sample a volume linearly on a grid of another shape and the same extent.

    Both grids end at the same faces, so voxel centres are at (i + 0.5) / side of each axis. Where an axis shrinks, the tent of
    the linear interpolation widens with it, and no voxel is skipped.

    Takes:
        values: X x Y x Z float32, finite
    Gives:
        the other shape, float32; the same array where the shape is right already
    """
    for axis in sorted(range(3), key=lambda axis: shape[axis] / values.shape[axis]):  # first those that shrink
        if values.shape[axis] != shape[axis]:
            weights = tent(values.shape[axis], shape[axis])
            values = np.moveaxis(np.tensordot(weights, values, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(values)


def tent(source: int, target: int) -> NDArray[np.float32]:
    """The weights of linear sampling along one axis.

    Gives:
        target x source float32; each row adds up to 1
    """
    ratio = source / target
    reach = max(1.0, ratio)
    centres = (np.arange(target) + 0.5) * ratio - 0.5
    if ratio < 1:
        centres = np.clip(centres, 0, source - 1)  # beyond the outermost centres their values hold
    weights = np.maximum(0, 1 - np.abs(np.arange(source)[None] - centres[:, None]) / reach)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def best_class(probabilities: Probabilities, shape: Shape, temperature: float = 1.0) -> Best:
    """The class with the highest probability on a grid of another shape, slab by slab.

    The temperature calibrates the certainty and never changes a class. It is applied to the mean of the planes: an average of
    probabilities is less certain than each of them, so it is averaged first and calibrated then (Rahaman and Thiery 2021,
    section 4). Of one plane, p^(1/T) over its sum is the softmax of the scores divided by T (Guo et al. 2017).

    Takes:
        probabilities: K x X' x Y' x Z' uint16
        temperature: above 0; 1 where the model is not calibrated
    Gives:
        X x Y x Z; of equals the lowest class
    """
    labels, certainty = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    weights = None if probabilities.shape[1:] == shape else tent(probabilities.shape[1], shape[0])
    step = max(1, SLAB_VOXELS // (len(probabilities) * shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        rows = slice(start, start + step)
        if weights is None:
            found = _leaders(probabilities[:, rows], temperature)
        else:
            used = np.flatnonzero(weights[rows].any(0))
            near = slice(int(used[0]), int(used[-1]) + 1)
            slabs = [np.tensordot(weights[rows, near], plane[near].astype(np.float32), axes=(1, 0)) for plane in probabilities]
            found = _leaders([resized(slab, (len(slab), shape[1], shape[2])) for slab in slabs], temperature)
        labels[rows], certainty[rows] = found.labels, found.certainty
    return Best(labels, certainty)


def _leaders(probabilities: Probabilities | Sequence[Values], temperature: float) -> Best:
    """Argmax over classes, plane by plane: several times as fast as ``argmax(0)``."""
    best = probabilities[0].copy()
    leader = np.zeros(best.shape, np.uint8)
    for k, plane in enumerate(probabilities[1:], start=1):
        np.maximum(leader, (plane > best).view(np.uint8) * np.uint8(k), out=leader)
        np.maximum(best, plane, out=best)
    certainty = best * np.float32(1 / CERTAIN)
    if temperature != 1:
        power = np.float32(1 / temperature)
        total = np.zeros_like(certainty)
        for plane in probabilities:
            total += (plane * np.float32(1 / CERTAIN)) ** power
        certainty **= power
        certainty /= total
    certainty *= 255
    return Best(leader, np.rint(certainty, out=certainty).astype(np.uint8))
