"""EXIF orientation: read from a block of EXIF, and applied to pixels.

May import: numpy, cv2, Pillow.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

_ORIENTATION = 0x0112


def upright(pixels: NDArray[np.uint8], exif: bytes) -> NDArray[np.uint8]:
    """Turn a picture as its EXIF says. An unreadable EXIF block leaves the picture as it is.

    Takes:
        pixels: H x W x C uint8
        exif: the EXIF block, may be empty
    Gives:
        C-contiguous; W x H x C for orientations 5 to 8
    """
    turn = _TURNS.get(_orientation(exif)) if exif else None
    return np.ascontiguousarray(turn(pixels) if turn else pixels, np.uint8)


def _orientation(exif: bytes) -> int:
    tags = Image.Exif()
    try:
        tags.load(exif)
        return int(tags.get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - a broken EXIF block, however it breaks, is no reason to reject a good picture
        return 1


# Strided numpy views give the same; copying them into order takes six times as long.
_TURNS: dict[int, Callable[[NDArray[np.uint8]], cv2.typing.MatLike]] = {
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.flip(cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE), 0),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
