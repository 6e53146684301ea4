"""The range of each 8-bit map: where the error of its values is least.

A range of 8 bits is a scale and the number that stands for zero (Jacob et al., CVPR 2018, equation 1). A wide range rounds all
values coarsely, a narrow one cuts the largest off. The error is the mean of the absolute error to the power 2.4, which takes
cut values more seriously than the mean square.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.exporting.quantisation.maps import Maps
from models.exporting.quantisation.statistics import Statistics, Values

POWER = 2.4
SHARES = np.linspace(0.4, 1, 13)
"""Of the smallest and of the largest value found: the ends of the ranges that are tried."""

LEVELS = 255
MOST_TRIED = 200_000
"""Values of a map with which ranges are compared."""


@dataclass(frozen=True)
class Range:
    """How a map's values become 8 bits: ``value = scale * (byte - zero)``."""

    scale: float
    zero: int

    @classmethod
    def between(cls, low: float, high: float) -> Range:
        """The range of values from ``low`` (0 or less) to ``high`` (0 or more)."""
        scale = float(np.float32(max((high - low) / LEVELS, 1e-8)))
        return cls(scale, int(np.clip(round(-low / scale), 0, LEVELS)))

    def rounded(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values to bytes and back."""
        bytes_ = np.clip(np.rint(values / np.float32(self.scale)) + self.zero, 0, LEVELS)
        return np.asarray((bytes_ - self.zero) * np.float32(self.scale), np.float32)


def find_ranges(maps: Maps, statistics: Statistics) -> dict[str, Range]:
    """Choose the range of every kept map.

    Maps that hold the same numbers have the same range, so that moving them loses nothing.
    """
    found: dict[str, Range] = {}
    for name in maps.kept:
        source = maps.source(name)
        if source not in found:
            lower, upper = _bounds(maps, source)
            found[source] = _best(statistics.values[source], lower, upper)
        found[name] = found[source]
    return found


def _bounds(maps: Maps, name: str) -> tuple[float, float]:
    """The bounds of the activations that belong to a map."""
    bounds = [maps.bounds(node) for node in maps.before(name)]
    return max(lower for lower, _ in bounds), min(upper for _, upper in bounds)


def _best(values: Values, lower: float, upper: float) -> Range:
    """The range with the least error. One that an activation bounds on both sides is taken whole."""
    low = min(0.0, float(values.low.min()))
    high = max(0.0, float(values.high.max()))
    if np.isfinite(lower) and np.isfinite(upper):
        return Range.between(max(low, min(0.0, lower)), min(high, max(0.0, upper)))
    sample = np.concatenate([values.sample.ravel(), values.low, values.high])
    sample = sample[:: -(-sample.size // MOST_TRIED)]
    best, least = Range.between(low, high), np.inf
    for below in SHARES if low < 0 else (1.0,):
        for above in SHARES if high > 0 else (1.0,):
            tried = Range.between(low * below, high * above)
            error = float((np.abs(tried.rounded(sample) - sample) ** POWER).mean())
            if error < least:
                best, least = tried, error
    return best
