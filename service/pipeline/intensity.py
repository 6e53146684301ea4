"""How intensities of scans, and of pictures of one channel, are brought to the range in which a network was trained.

The unit of an MRI scan is arbitrary: one scanner writes 0..255, another 0..40,000. A network therefore sees intensities
relative to two robust percentiles of the whole volume. Training and serving both call this file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.pipeline.codecs import depth
from service.pipeline.manifest import Percentiles

SAMPLE = 2**16
"""Values from which a percentile is guessed."""


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
        low below high; 0 and 1 where no voxel is finite; low and low + 1, or the next number where that is more, where all
        voxels are equal
    """
    values = volume.ravel(order="K")
    if not all(np.isfinite(part).all() for part in _parts(values)):
        values = values[np.isfinite(values)]
    if not values.size:
        return Window(0.0, 1.0)
    with ThreadPoolExecutor(1) as pool:
        lower = pool.submit(_value_at, values, _rank(values.size, percentiles.lower))
        bright = _count_above_mean(values) if percentiles.foreground else values.size
        high = _value_at(values, values.size - bright + _rank(bright, percentiles.upper)) if bright else None
        low = lower.result()
    return _between(low, low if high is None else high)


def window_of(bands: Callable[[], Iterable[NDArray[np.float32]]], percentiles: Percentiles) -> Window:
    """Measure the window of a picture that comes by rows, as :func:`window` does of a whole one.

    Takes:
        bands: gives the picture's rows; called five times
    """
    total, count = 0.0, 0
    for band in bands():
        values = band[np.isfinite(band)]
        total, count = total + float(values.sum(dtype=np.float64)), count + values.size
    if not count:
        return Window(0.0, 1.0)
    low = _percentile_of(bands, percentiles.lower, -np.inf) or 0.0
    high = _percentile_of(bands, percentiles.upper, total / count if percentiles.foreground else -np.inf)
    return _between(low, low if high is None else high)


def normalised(
    volume: NDArray[np.floating], found: Window, percentiles: Percentiles, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Map a volume, or a part of it, through the window of its whole.

    Takes:
        volume: any shape; values that are not finite become 0
        out: where the result is written; the volume itself may be given
    Gives:
        the same shape, float32, 0..ceiling
    """
    made = np.empty_like(volume, np.float32) if out is None else out
    low, scale, ceiling = np.float32(found.low), np.float32(1 / (found.high - found.low)), np.float32(percentiles.ceiling)
    for place in _slabs(volume):
        scaled = made[place]
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(volume[place].astype(np.float32, copy=False), low, out=scaled)
            scaled *= scale
        if not np.isfinite(scaled).all():
            np.nan_to_num(scaled, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        np.clip(scaled, 0, ceiling, out=scaled)
    return made


def policed(values: NDArray[Any], percentiles: Percentiles | None, found: Window | None = None) -> NDArray[Any]:
    """Bring the numbers of a picture of one channel to those of its network.

    Takes:
        values: H x W uint8, uint16 or float32
        percentiles: the manifest's intensity policy; None keeps the numbers
        found: the window of the picture that these are some rows of; None: they are the whole
    Gives:
        the same array where nothing is to be done; of floats, those that are not finite are 0
    """
    if percentiles is not None:
        return normalised(values, found or window(values, percentiles), percentiles)
    return np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0) if values.dtype.kind == "f" else values


def range_of(values: NDArray[Any]) -> Window:
    """Return the lowest and the highest number.

    Takes:
        values: finite, at least one
    """
    return Window(float(values.min()), float(values.max()))


def preview(values: NDArray[Any], found: Window | None = None) -> NDArray[np.uint8]:
    """Draw a picture of one channel for people: whole numbers by their depth, floats from the lowest to the highest.

    Takes:
        values: H x W uint8, uint16 or float32, finite
        found: the :func:`range_of` the picture that these are some rows of; None: they are the whole
    Gives:
        H x W x 3 uint8
    """
    whole = found if found or values.dtype == np.uint8 else range_of(values)
    if whole is None:
        shown = values
    elif values.dtype == np.uint16:
        shown = depth.to_8_bits(values, depth.significant_bits(int(whole.high)))
    else:
        low, high = whole.low, whole.high
        scale = np.float32(255 / (high - low)) if np.isfinite(high - low) and high > low else np.float32(0)
        shown = np.rint((values - np.float32(low)) * scale).astype(np.uint8)
    return np.repeat(shown[..., None], 3, axis=2)


def _between(low: float, high: float) -> Window:
    """The window from low to high, which is moved above low where it is not: beyond 2^53, low + 1 is low."""
    return Window(low, high if high > low else max(low + 1.0, math.nextafter(low, math.inf)))


def _parts(values: NDArray[np.floating]) -> Iterator[NDArray[np.floating]]:
    """Values of one axis in parts that stay in the cache: what is computed of them takes no memory that the system zeroes."""
    return (values[start : start + SAMPLE] for start in range(0, values.size, SAMPLE))


def _slabs(volume: NDArray[np.floating]) -> Iterator[tuple[slice, ...]]:
    """The places of such parts in an array of one axis or more: slabs across the axis that is slowest in memory."""
    axis = int(np.argmax(np.abs(volume.strides)))
    step = max(1, SAMPLE * volume.shape[axis] // max(1, volume.size))
    for start in range(0, volume.shape[axis], step):
        yield (*[slice(None)] * axis, slice(start, start + step))


def _count_above_mean(values: NDArray[np.floating]) -> int:
    mean = sum(float(part.sum(dtype=np.float64)) for part in _parts(values)) / values.size
    return sum(int(np.count_nonzero(part > mean)) for part in _parts(values))


def _rank(count: int, percent: float) -> int:
    """The rank of a percentile among so many values, from 0; the lower one between two."""
    return int((count - 1) * percent / 100)


def _value_at(values: NDArray[np.floating], rank: int) -> float:
    """The value of that rank, from 0.

    A sample tells about where it lies, and only the values near it are put in order: a fifth of the time of ordering all.
    Where the sample misleads, and where there are no more values than it would have, all are.

    Takes:
        values: one axis, finite
    """
    if values.size <= SAMPLE:
        return float(np.sort(values)[rank])
    sample = np.sort(values[np.random.default_rng(0).integers(values.size, size=SAMPLE)])
    guess, margin = rank * SAMPLE // values.size, SAMPLE // 100
    least = sample[guess - margin] if guess >= margin else values.min()
    most = sample[guess + margin] if guess + margin < SAMPLE else values.max()
    below, near = 0, []
    for part in _parts(values):
        below += int(np.count_nonzero(part < least))
        near.append(part[(part >= least) & (part <= most)])
    found = np.concatenate(near)
    if not below <= rank < below + found.size:
        return float(np.sort(values)[rank])
    # Not np.partition: it takes 2 s for some volumes of few levels.
    return float(least if least == most else np.sort(found)[rank - below])


def _percentile_of(bands: Callable[[], Iterable[NDArray[np.float32]]], percent: float, above: float) -> float | None:
    """The value of that rank among the finite ones above a number; None where there are none.

    Floats as whole numbers have the same order, so two counts find the value: of their upper 16 bits, then of the lower ones.
    """

    def keys() -> Iterable[NDArray[np.uint32]]:
        for band in bands():
            stored = band[np.isfinite(band) & (band > np.float64(above))].view(np.uint32)
            yield np.where(stored >> 31, ~stored, stored | np.uint32(1 << 31))

    counts = sum((np.bincount(key >> 16, minlength=1 << 16) for key in keys()), np.zeros(1 << 16, np.int64))
    if not counts.any():
        return None
    rank = _rank(int(counts.sum()), percent)
    upper = int(np.searchsorted(counts.cumsum(), rank, "right"))
    rank -= int(counts[:upper].sum())
    counts = sum(
        (np.bincount(key[key >> 16 == upper] & 0xFFFF, minlength=1 << 16) for key in keys()), np.zeros(1 << 16, np.int64)
    )
    key = np.uint32(upper << 16 | int(np.searchsorted(counts.cumsum(), rank, "right")))
    stored = key & np.uint32((1 << 31) - 1) if key >> 31 else ~key
    return float(stored.view(np.float32))
