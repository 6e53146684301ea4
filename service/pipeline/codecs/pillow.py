"""Every format that Pillow decodes, and every mode of Pillow's as RGB.

May import: numpy, Pillow, ``service.errors``, the other codecs.
"""

from __future__ import annotations

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, SAMPLEFORMAT, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from service import process
from service.errors import CorruptImage, UnsupportedImage
from service.pipeline.codecs.limits import Limits, check_size
from service.pipeline.codecs.orientation import upright

BAND_PIXELS = 1 << 18
"""Pixels that are converted at a time."""

_PLAIN_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr")

_PLUGINS: dict[str, type[ImageFile]] = {
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "TIFF": TiffImageFile,
    "WEBP": WebPImageFile,
}


def open_file(data: bytes, kind: str) -> ImageFile:
    """Open a file with one plugin of Pillow's, past its table of plugins and its limit of pixels.

    Takes:
        kind: one of ``headers.FORMATS``
    Raises:
        CorruptImage: if the plugin cannot read the header
    """
    if process.is_configured():
        Image.MAX_IMAGE_PIXELS = None  # the plugins check it too, for frames and tiles
    try:
        return _PLUGINS[kind](io.BytesIO(data))
    except (SyntaxError, IndexError, TypeError, struct.error) as error:  # as Image.open takes them
        raise CorruptImage(f"the {kind} image is damaged: its header cannot be read") from error


def decode(data: bytes, kind: str, limits: Limits) -> NDArray[np.uint8]:
    """Decode a file with one plugin of Pillow's.

    Gives:
        H x W x 3 uint8 RGB, upright
    Raises:
        ImageTooLarge: if the picture is larger than its header said
        UnsupportedImage: if the colour space has no way to RGB
        Exception: of many kinds, if the file is truncated or damaged
    """
    with open_file(data, kind) as picture:
        check_size(kind, picture.width, picture.height, limits)  # a GIF's first frame may exceed its screen
        picture.load()
        pixels = to_rgb(picture)
        # Pillow itself turns a TIFF; the others keep their EXIF in `info`, a PNG perhaps only after its pixels.
        exif = b"" if kind == "TIFF" else picture.info.get("exif", b"")
    return upright(pixels, exif)


def to_rgb(picture: Image.Image) -> NDArray[np.uint8]:
    """Convert a picture of any mode to H x W x 3 uint8.

    Band by band: a conversion of the whole makes up to five copies of it, and Pillow lets no other thread run meanwhile.
    """
    width, height = picture.size
    rgb = np.empty((height, width, 3), np.uint8)
    rows = max(1, BAND_PIXELS // width)
    tags = picture.tag_v2 if isinstance(picture, TiffImageFile) else {}
    unsigned = tags.get(SAMPLEFORMAT, (1,)) == (1,)
    twelve_bits = tags.get(BITSPERSAMPLE) == (12,)
    # Pillow itself inverts a white-is-zero picture only of 8 bits or fewer.
    turned = tags.get(PHOTOMETRIC_INTERPRETATION) == 0 and picture.mode not in _PLAIN_MODES
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        band = _band_to_rgb(picture.crop((0, top, width, bottom)), unsigned=unsigned, twelve_bits=twelve_bits)
        rgb[top:bottom] = ~band if turned else band
    return rgb


def _band_to_rgb(band: Image.Image, *, unsigned: bool, twelve_bits: bool) -> NDArray[np.uint8]:
    """Convert a few rows.

    Takes:
        unsigned: whether 32-bit numbers are unsigned; Pillow reads all of them as signed
        twelve_bits: whether 16-bit numbers hold 12 bits, which Pillow does not scale
    Gives:
        H x W x 3 uint8, or H x W x 1 of a grey picture
    """
    if band.mode == "I" or band.mode.startswith("I;16"):
        numbers = np.asarray(band)
        if twelve_bits:
            numbers = numbers << 4 | numbers >> 8
        wide = np.clip(numbers.view(np.uint32) if unsigned and band.mode == "I" else numbers, 0, 65535).astype(np.uint32)
        return np.expand_dims(((wide + 128) // 257).astype(np.uint8), 2)
    if band.mode == "F":
        share = np.nan_to_num(np.asarray(band), nan=0.0, posinf=1.0, neginf=0.0)
        return np.expand_dims(np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8), 2)
    if band.has_transparency_data:
        paper = Image.new("RGBA", band.size, "white")
        band = Image.alpha_composite(paper, band.convert("RGBA"))
    elif band.mode not in _PLAIN_MODES:  # Pillow would "convert" L*a*b* by taking its numbers for red, green and blue
        raise UnsupportedImage(f"a picture of mode {band.mode}; send it as RGB")
    return np.asarray(band.convert("RGB"), np.uint8)
