"""How intensities of scans, and of pictures of one channel, are brought to the range in which a network was trained.

The unit of an MRI scan is arbitrary: one scanner writes 0..255, another 0..40,000. A network therefore sees intensities
relative to two robust percentiles of the whole volume. Training and serving both call this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.pipeline.codecs import depth
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


def policed(values: NDArray[Any], percentiles: Percentiles | None) -> NDArray[Any]:
    """Bring the numbers of a picture of one channel to those of its network.

    Takes:
        values: H x W uint8, uint16 or float32
        percentiles: the manifest's intensity policy; None keeps the numbers
    Gives:
        the same array where nothing is to be done; of floats, those that are not finite are 0
    """
    if percentiles is not None:
        return normalised(values, window(values, percentiles), percentiles)
    return np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0) if values.dtype.kind == "f" else values


def preview(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Draw a picture of one channel for people: whole numbers by their depth, floats from the lowest to the highest.

    Takes:
        values: H x W uint8, uint16 or float32, finite
    Gives:
        H x W x 3 uint8
    """
    if values.dtype == np.uint8:
        shown = values
    elif values.dtype == np.uint16:
        shown = depth.to_8_bits(values, depth.significant_bits(int(values.max(initial=0))))
    else:
        low, high = float(values.min()), float(values.max())
        scale = np.float32(255 / (high - low)) if np.isfinite(high - low) and high > low else np.float32(0)
        shown = np.rint((values - np.float32(low)) * scale).astype(np.uint8)
    return np.repeat(shown[..., None], 3, axis=2)


def _percentile(values: NDArray[np.floating], percent: float) -> float:
    """The value of that rank, the lower one between two."""
    rank = int((values.size - 1) * percent / 100)
    return float(np.partition(values, rank)[rank])
