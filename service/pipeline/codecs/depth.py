"""Samples of more than 8 bits as 8 bits.

Cameras and instruments store 10, 12 or 14 bits in 16. Taken for 16 bits such a picture is nearly black, and its mask is worth
nothing. Files rarely say how many bits count, so the largest sample decides, by steps of a whole depth. The maximum itself is
never the scale: the brightness of a frame would depend on its highlights.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

DEPTHS = (8, 10, 12, 14, 16)
"""Bits of samples that are stored as uint16."""
AT_A_TIME = 1 << 18
"""Samples that are converted at a time."""


def significant_bits(largest: int) -> int:
    """Return how many bits the samples of a picture have, judged by the largest one.

    Takes:
        largest: the largest sample, 0..65535. For a stream, the largest so far: then the depth never goes down, and brightness
            does not flicker
    Gives:
        the smallest of :data:`DEPTHS` that holds it; 16 for a picture of zeros
    """
    return next(bits for bits in DEPTHS if largest < 1 << bits) if largest > 0 else 16


def to_8_bits(samples: NDArray[np.uint16], bits: int = 16) -> NDArray[np.uint8]:
    """Scale samples so that the largest number of their depth becomes 255. Rounds; never wraps.

    Takes:
        samples: uint16 of any shape
        bits: one of :data:`DEPTHS`; larger samples become 255
    Gives:
        uint8 of the same shape
    """
    return scaled(samples, (1 << bits) - 1)


def scaled(samples: NDArray[np.uint8 | np.uint16], white: int) -> NDArray[np.uint8]:
    """Scale samples so that ``white`` becomes 255; larger ones are 255, too.

    Takes:
        samples: uint8 or uint16 of any shape
        white: 1..65535
    Gives:
        uint8 of the same shape
    """
    table, result = _table(white), np.empty(samples.shape, np.uint8)
    rows = max(1, AT_A_TIME * len(samples) // max(1, samples.size))
    for start in range(0, len(samples), rows):  # an index takes 8 bytes a sample
        result[start : start + rows] = table[samples[start : start + rows]]
    return result


def to_uint16(samples: NDArray[Any]) -> NDArray[np.uint16]:
    """Clip whole numbers of any type to 0..65535."""
    return np.asarray(np.clip(samples, 0, 65535), np.uint16)


@functools.lru_cache(maxsize=16)
def _table(white: int) -> NDArray[np.uint8]:
    numbers = np.minimum(np.arange(65536), white)
    return ((numbers * 255 + white // 2) // white).astype(np.uint8)
