"""From image columns to distances on a flat ground, and to the values of a ``sensor_msgs/LaserScan``. Values in, values out.

The camera is a pinhole above a plane; the image is rectified and upright. Frames and signs are those of REP 103:

- image: u to the right, v down; the centre of the first pixel is (0, 0), as ``sensor_msgs/CameraInfo`` counts;
- ground: the origin is on the ground below the camera, x points ahead along the ground, y to the left, z up;
- pitch: radians about y, positive when the camera tilts down. There is no roll;
- bearing: radians about z, counterclockwise; 0 is ahead.

Ranges follow REP 117: inf where nothing is hit, NaN where it is unknown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.errors import BadParameter

Real = NDArray[np.floating[Any]]

_UNKNOWN, _FREE, _UNSEEN = 1e30, 2e30, 3e30
"""Stand for NaN and inf while the nearest wins: an obstacle wins over the unknown, the unknown over free ground."""
_OVERLAP = 1e-6
"""The share of a beam that a column must cover at least; rounding alone covers less."""
_PART = 2**20
"""About so many pairs of a column and a beam are in memory at once: below a steep camera a column crosses most beams."""


@dataclass(frozen=True)
class Camera:
    """A camera above the ground, in the pixels of the upright image."""

    fx: float
    """Focal length in pixels, horizontal."""
    fy: float
    """Focal length in pixels, vertical."""
    cx: float
    """Column of the optical axis; 0 is the centre of the first column."""
    cy: float
    """Row of the optical axis; 0 is the centre of the first row."""
    height: float
    """Metres above the ground."""
    pitch: float = 0.0
    """Radians; positive when the camera tilts down."""

    @property
    def horizon(self) -> float:
        """The row of the horizon."""
        return self.cy - self.fy * math.tan(self.pitch)

    def ahead(self, rows: Real | float) -> Real:
        """Return how far the rays of rows lead ahead, for each unit along the optical axis."""
        ahead: Real = np.asarray(math.cos(self.pitch) - (rows - self.cy) / self.fy * math.sin(self.pitch))
        return ahead

    def below(self, rows: Real | float) -> Real:
        """Return how far the rays of rows lead down, for each unit along the optical axis; the horizon's is 0."""
        below: Real = np.asarray(math.sin(self.pitch) + (rows - self.cy) / self.fy * math.cos(self.pitch))
        return below

    def bearings(self, columns: Real | float, rows: Real | float) -> Real:
        """Return the bearing of pixels, in radians."""
        return np.arctan2((self.cx - columns) / self.fx, self.ahead(rows))

    def distances(self, columns: Real | float, rows: Real | float) -> Real:
        """Return the distance on the ground to where the rays of pixels meet it, in metres.

        Takes:
            columns, rows: of points in the image, fractions too; of one shape, or broadcast
        Gives:
            metres from below the camera; inf at the horizon and above
        """
        below = self.below(rows)
        with np.errstate(divide="ignore", over="ignore"):
            scale = np.where(below > 0, self.height / np.where(below > 0, below, 1), np.inf)
        distances: Real = scale * np.hypot(self.ahead(rows), (self.cx - columns) / self.fx)
        return distances

    def check_sees_ground(self, bottom: float) -> None:
        """Check that the picture shows ground ahead of the camera.

        Takes:
            bottom: the row of the lowest edge that counts
        Raises:
            BadParameter: if the horizon is below the picture, or the picture's bottom lies behind the camera
        """
        if self.below(bottom) <= 0:
            reason = f"the horizon would be at row {self.horizon:.0f}, below the picture: check cy, camera_pitch and ego_rows"
            raise BadParameter(reason, parameter="camera_pitch")
        if self.ahead(bottom) <= 0:
            reason = "the bottom of the picture would lie behind the camera: check fy and camera_pitch"
            raise BadParameter(reason, parameter="camera_pitch")


@dataclass(frozen=True, eq=False)
class Scan:
    """The values of a ``sensor_msgs/LaserScan``; its frame has its origin below the camera, x ahead, y to the left, z up."""

    angle_min: float
    """The bearing of the first beam, the rightmost one, in radians."""
    angle_max: float
    """The bearing of the last beam."""
    angle_increment: float
    """Radians from a beam to the next; a beam stands for this much around its bearing."""
    range_min: float
    """Metres; 0, so that no reader drops what is near."""
    range_max: float
    """Metres; nothing is told of what is farther."""
    ranges: NDArray[np.float32]
    """Metres of each beam: to the first thing that is not drivable; inf where there is none, NaN where it is unknown."""


class Contacts(NamedTuple):
    """Where the drivable ground of each of W columns ends."""

    distances: NDArray[np.float32]
    """Metres from below the camera; inf where it does not end, NaN where it ends at unlabelled pixels."""
    bearings: NDArray[np.float32]
    """Radians; of the end, or of the column's highest ground in view where there is no end."""


@dataclass(frozen=True, eq=False)
class Sampling:
    """How the columns of an image become beams: all that depends on the camera alone."""

    camera: Camera
    width: int
    """Columns of the image."""
    beams: int
    """The number of beams, 1 or more."""
    range_max: float
    """Metres; what is farther counts as free."""
    top: float
    """The row of the highest edge of ground in view: the horizon, or the image's upper edge."""
    low: float
    """The rightmost bearing in view."""
    increment: float
    """Radians of a beam."""
    far: Real
    """W + 1 bearings of the columns' sides at ``top``."""


@lru_cache(maxsize=32)
def sampling_of(
    camera: Camera, size: tuple[int, int], *, beams: int = 0, range_max: float = 100.0, ego_rows: int = 0
) -> Sampling:
    """Choose the sampling of an image.

    Takes:
        size: (height, width) of the image
        beams: 0 is one a column
        range_max: metres; less, where the image's upper edge shows nearer ground
        ego_rows: rows at the image's bottom that show the vehicle itself
    Raises:
        BadParameter: if the camera would see no ground
    """
    height, width = size
    bottom, top = height - ego_rows - 0.5, max(camera.horizon, -0.5)
    camera.check_sees_ground(bottom)
    farthest = camera.distances(np.arange(width, dtype=np.float64), top).min()
    corners = camera.bearings(np.array([[-0.5], [width - 0.5]]), np.array([top, bottom]))
    low, high = float(corners.min()), float(corners.max())
    far = camera.bearings(np.arange(width + 1) - 0.5, top)
    beams = beams or width
    return Sampling(camera, width, beams, min(range_max, float(farthest)), top, low, (high - low) / beams, far)


def measure(rows: NDArray[np.int32], unknown: NDArray[np.bool_], sampling: Sampling) -> tuple[Contacts, Scan]:
    """Project the lowest pixel of each column that is not drivable to the ground, where its lower edge stands.

    The scan resamples columns, which are equally wide in pixels, to beams that are equally wide in angle. A column covers all
    bearings of its pixels from that lowest one up to the horizon. A beam tells the nearest among the columns that it crosses,
    so it never leads over a pixel that is not drivable.

    Takes:
        rows: W, from ``freespace.lowest_obstacles``; -1 where the column is drivable
        unknown: W, whether that pixel is unlabelled
    Gives:
        one distance and one bearing a column
        the beams from right to left over the whole field of view
    """
    camera, columns = sampling.camera, np.arange(sampling.width, dtype=np.float64)
    edges = np.maximum(rows + 0.5, sampling.top)
    distances = camera.distances(columns, edges)
    distances[(rows < 0) | (edges <= camera.horizon)] = np.inf
    told = np.where(distances > sampling.range_max, _FREE, np.where(unknown, _UNKNOWN, distances))
    distances[unknown & (distances < np.inf)] = np.nan
    ends = Contacts(distances.astype(np.float32), camera.bearings(columns, edges).astype(np.float32))
    return ends, _scan(told, edges, sampling)


def _scan(told: Real, edges: Real, sampling: Sampling) -> Scan:
    """Let the nearest of the columns win in each beam."""
    camera, sides, far = sampling.camera, np.arange(sampling.width + 1) - 0.5, sampling.far
    # To the left is positive: a column's right side has the lower bearing.
    first = np.minimum(camera.bearings(sides[1:], edges), far[1:])
    last = np.maximum(camera.bearings(sides[:-1], edges), far[:-1])
    begin = ((first - sampling.low) / sampling.increment + _OVERLAP).astype(np.intp).clip(0, sampling.beams - 1)
    end = np.ceil((last - sampling.low) / sampling.increment - _OVERLAP).astype(np.intp).clip(begin + 1, sampling.beams)
    counts = end - begin
    nearest = np.full(sampling.beams, _UNSEEN)
    for part in np.array_split(np.arange(len(counts)), int(counts.sum()) // _PART + 1):
        n = counts[part]
        beams = np.repeat(begin[part] - (np.cumsum(n) - n), n) + np.arange(int(n.sum()))
        np.minimum.at(nearest, beams, np.repeat(told[part], n))
    nearest[nearest == _FREE] = np.inf
    nearest[(nearest == _UNKNOWN) | (nearest == _UNSEEN)] = np.nan
    return Scan(
        angle_min=sampling.low + sampling.increment / 2,
        angle_max=sampling.low + sampling.increment * (sampling.beams - 0.5),
        angle_increment=sampling.increment,
        range_min=0.0,
        range_max=sampling.range_max,
        ranges=nearest.astype(np.float32),
    )
