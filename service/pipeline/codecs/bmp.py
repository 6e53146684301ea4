"""BMP: the bitmaps of Windows and OS/2.

May import: numpy, Pillow, the other codecs.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.pipeline.codecs import pillow
from service.pipeline.codecs.limits import Limits


def size(data: bytes) -> tuple[int, int]:
    """Read (width, height) from the header, whose oldest form has 16-bit sides.

    Raises:
        struct.error: if the file ends within the header
    """
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header_bytes == 12 else "<ii", data, 18)
    return width, abs(height)  # negative: stored top row first


def decode(data: bytes, limits: Limits) -> NDArray[np.uint8]:
    """Decode a BMP file. An alpha channel that is 0 everywhere says nothing: Windows itself writes it for opaque pictures.

    Gives:
        H x W x 3 uint8 RGB
    """
    picture: Image.Image = pillow.load(data, "BMP", limits)
    if picture.mode == "RGBA" and pillow.largest(picture)[3] == 0:
        picture = picture.convert("RGB")
    return pillow.decode(picture)
