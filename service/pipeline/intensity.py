"""How a scan's intensities are brought to the range in which a network was trained.

The unit of an MRI scan is arbitrary: one scanner writes 0..255, another 0..40,000. A network therefore sees intensities
relative to two robust percentiles of the whole volume. Training and serving both call this file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.pipeline.manifest import Percentiles


@dataclass(frozen=True)
class Window:
    """The intensities that become 0 and 1."""

    low: float
    high: float


def window(volume: NDArray[np.floating], percentiles: Percentiles) -> Window:
    """Measure the window of a whole volume.

    Takes:
        volume: any shape, at least one voxel; values that are not finite are left out
    Gives:
        low below high; 0 and 1 where no voxel is finite; low and low + 1 where all voxels are equal
    """
    values = volume.ravel()
    finite = np.isfinite(values)
    if not finite.all():
        values = values[finite]
    if not values.size:
        return Window(0.0, 1.0)
    low = _percentile(values, percentiles.lower)
    bright = values[values > values.mean(dtype=np.float64)] if percentiles.foreground else values
    high = _percentile(bright, percentiles.upper) if bright.size else low
    return Window(low, high if high > low else low + 1.0)


def normalised(volume: NDArray[np.floating], found: Window, percentiles: Percentiles) -> NDArray[np.float32]:
    """Map a volume, or a part of it, through the window of its whole.

    Takes:
        volume: any shape; values that are not finite become 0
    Gives:
        the same shape, float32, 0..ceiling
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = (np.asarray(volume, np.float32) - np.float32(found.low)) * np.float32(1 / (found.high - found.low))
    np.nan_to_num(scaled, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    return np.clip(scaled, 0, np.float32(percentiles.ceiling), out=scaled)


def _percentile(values: NDArray[np.floating], percent: float) -> float:
    """The value of that rank, the lower one between two."""
    rank = int((values.size - 1) * percent / 100)
    return float(np.partition(values, rank)[rank])
