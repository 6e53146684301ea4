"""Images that can be sent: an image file's path or bytes, an array, or a Pillow image; and how it becomes a file."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service.encodings import png, tiff

if TYPE_CHECKING:
    from PIL import Image

    Pixels = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]
    ImageLike = str | os.PathLike[str] | bytes | bytearray | memoryview | Pixels | Image.Image
    StampedFrame = tuple[ImageLike, str | None, str | None]

_PNG_MODES = frozenset(("1", "L", "LA", "P", "RGB", "RGBA"))


def image_bytes(image: ImageLike) -> bytes:
    """Make an image file of a caller's image.

    Takes:
        image: see :meth:`Client.segment`
    Gives:
        the file's bytes; arrays become PNG, and those of floats TIFF, which loses nothing
    Raises:
        OSError: if the file cannot be read
        TypeError, ValueError: if it cannot be sent
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, np.ndarray):
        return _array_to_file(image)
    pillow = sys.modules.get("PIL.Image")  # a caller with a Pillow image has imported it
    if pillow is not None and isinstance(image, pillow.Image):
        return _picture_to_file(image)
    if isinstance(image, str | os.PathLike):
        return Path(image).read_bytes()
    raise TypeError(f"an image is a path, bytes, a uint8 array or a Pillow image, not {type(image).__name__}")


def _array_to_file(array: NDArray[Any]) -> bytes:
    if array.dtype not in (np.uint8, np.uint16, np.float32):
        raise TypeError(f"an image array is uint8, or uint16 or float32 of one channel, not {array.dtype}")
    if array.dtype != np.uint8 and array.ndim == 3:
        raise TypeError(f"an image array of colours is uint8, not {array.dtype}")
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ValueError(f"an image array is H x W x 3 or H x W, not {' x '.join(map(str, array.shape))}")
    if array.dtype == np.float32:
        return tiff.encode_floats(array)
    if array.dtype == np.uint16:
        return png.encode_gray16(array)
    return png.encode_gray(array) if array.ndim == 2 else png.encode_rgb(array)


def _picture_to_file(picture: Image.Image) -> bytes:
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        numbers = np.asarray(picture)
        if numbers.size and not 0 <= int(numbers.min()) <= int(numbers.max()) <= 65535:
            raise ValueError(
                f"an image of mode {picture.mode} has numbers of 0 to 65535: others do not fit into a file of 16 bits"
            )
        return _array_to_file(numbers.astype(np.uint16))
    if picture.mode in ("RGB", "F"):
        return _array_to_file(np.asarray(picture))
    buffer = io.BytesIO()
    writable = picture if picture.mode in _PNG_MODES else picture.convert("RGB")
    writable.save(buffer, "PNG", compress_level=1, exif=b"")
    return buffer.getvalue()
