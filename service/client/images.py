"""Images that can be sent: an image file's path or bytes, an array, or a Pillow image; and how it becomes a file."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service.encodings import png

if TYPE_CHECKING:
    from PIL import Image

    ImageLike = str | os.PathLike[str] | bytes | bytearray | memoryview | NDArray[np.uint8] | Image.Image
    StampedFrame = tuple[ImageLike, str | None, str | None]

_PNG_MODES = frozenset(("1", "L", "LA", "P", "RGB", "RGBA", "I;16"))


def image_bytes(image: ImageLike) -> bytes:
    """Make an image file of a caller's image.

    Takes:
        image: see :meth:`Client.segment`
    Gives:
        the file's bytes; arrays become PNG, which loses nothing
    Raises:
        OSError: if the file cannot be read
        TypeError, ValueError: if it cannot be sent
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, np.ndarray):
        return _array_to_png(image)
    pillow = sys.modules.get("PIL.Image")  # a caller with a Pillow image has imported it
    if pillow is not None and isinstance(image, pillow.Image):
        return _picture_to_png(image)
    if isinstance(image, str | os.PathLike):
        return Path(image).read_bytes()
    raise TypeError(f"an image is a path, bytes, a uint8 array or a Pillow image, not {type(image).__name__}")


def _array_to_png(array: NDArray[Any]) -> bytes:
    if array.dtype != np.uint8:
        raise TypeError(f"an image array is uint8, not {array.dtype}")
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ValueError(f"an image array is H x W x 3 or H x W, not {' x '.join(map(str, array.shape))}")
    return png.encode_gray(array) if array.ndim == 2 else png.encode_rgb(array)


def _picture_to_png(picture: Image.Image) -> bytes:
    if picture.mode == "RGB":
        return _array_to_png(np.asarray(picture))
    buffer = io.BytesIO()
    writable = picture if picture.mode in _PNG_MODES else picture.convert("RGB")
    writable.save(buffer, "PNG", compress_level=1, exif=b"")
    return buffer.getvalue()
