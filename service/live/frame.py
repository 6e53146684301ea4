"""One picture of a live source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """One picture, as its source gave it."""

    image: NDArray[np.uint8] | bytes
    """H x W x 3 uint8 RGB, C-contiguous; or the bytes of an image file, such as a JPEG of a camera."""
    stamp_ns: int
    """When the picture was taken: nanoseconds on the source's own clock, untouched."""
    frame_id: str
    """The coordinate frame of the camera; empty where the source has none."""
    source: str
    """The address of its source, as :attr:`LiveSource.address` has it."""
    came_s: float
    """``time.monotonic()`` when it came: the age of a mask counts from here."""
