"""Every format that Pillow decodes, and every mode of Pillow's as RGB."""

from __future__ import annotations

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from service import process
from service.errors import CorruptImage, UnsupportedImage
from service.pipeline.codecs import depth, orientation
from service.pipeline.codecs.levels import Levels
from service.pipeline.codecs.limits import Limits, check_size
from service.pipeline.codecs.orientation import upright
from service.pipeline.codecs.profiles import to_srgb

BAND_PIXELS = 1 << 18
"""Pixels that are converted at a time."""

_PLAIN_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr")

_COLORS = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX")
"""Modes whose colour profile is one of RGB."""
_PLUGINS: dict[str, type[ImageFile]] = {
    "AVIF": AvifImageFile,
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


def load(data: bytes, kind: str, limits: Limits) -> ImageFile:
    """Read the first picture of a file.

    Raises:
        CorruptImage: if the header cannot be read
        ImageTooLarge: if the picture is larger than its header said
        Exception: of many kinds, if the file is truncated or damaged
    """
    picture = open_file(data, kind)
    check_size(kind, picture.width, picture.height, limits)  # a GIF's first frame may exceed its screen
    picture.load()
    return picture


def decode(picture: Image.Image, levels: Levels | None = None) -> NDArray[np.uint8]:
    """Convert a loaded picture.

    Takes:
        levels: as of :func:`to_rgb`
    Gives:
        H x W x 3 uint8 RGB, upright
    Raises:
        UnsupportedImage: if the colour space has no way to RGB
    """
    pixels = to_rgb(picture, levels)
    if picture.mode in _COLORS:
        pixels = to_srgb(pixels, picture.info.get("icc_profile") or b"")
    return upright(pixels, orientation.of_exif(picture.info.get("exif") or b""))


def largest(picture: Image.Image) -> list[int]:
    """Return the largest number of each band."""
    extrema = np.array(picture.getextrema())  # a pair, or a pair a band
    return [int(number) for number in extrema.reshape(-1, 2)[:, 1]]


def levels(picture: Image.Image) -> Levels:
    """Return the numbers that decide about depth and transparency in :func:`to_rgb`."""
    if picture.mode not in ("LA", "RGBA") and not _is_wide(picture):
        return Levels()
    found = largest(picture)
    return Levels(largest=found[0]) if _is_wide(picture) else Levels(is_visible=found[-1] > 0)


def to_rgb(picture: Image.Image, of_whole: Levels | None = None) -> NDArray[np.uint8]:
    """Convert a picture of any mode to H x W x 3 uint8.

    Transparency lies over white. An alpha channel that is 0 everywhere says nothing: BMP files and screenshots of game engines
    have one.

    Band by band: a conversion of the whole makes up to five copies of it, and Pillow lets no other thread run meanwhile.

    Takes:
        of_whole: the levels of the picture that this is a part of; None: it is the whole
    """
    known = of_whole or levels(picture)
    if picture.mode in ("LA", "RGBA") and not known.is_visible:
        picture = picture.convert(picture.mode[:-1])
    width, height = picture.size
    rgb = np.empty((height, width, 3), np.uint8)
    rows = max(1, BAND_PIXELS // width)
    bits = depth.significant_bits(known.largest) if _is_wide(picture) else 8
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        rgb[top:bottom] = _band_to_rgb(picture.crop((0, top, width, bottom)), bits)
    return rgb


def _band_to_rgb(band: Image.Image, bits: int) -> NDArray[np.uint8]:
    """Convert a few rows.

    Takes:
        bits: of wide samples
    Gives:
        H x W x 3 uint8, or H x W x 1 of a grey picture
    """
    if _is_wide(band):
        return np.expand_dims(depth.to_8_bits(depth.to_uint16(np.asarray(band)), bits), 2)
    if band.has_transparency_data:
        paper = Image.new("RGBA", band.size, "white")
        band = Image.alpha_composite(paper, band.convert("RGBA"))
    elif band.mode not in _PLAIN_MODES:  # Pillow would "convert" L*a*b* by taking its numbers for red, green and blue
        raise UnsupportedImage(f"a picture of mode {band.mode}; send it as RGB")
    return np.asarray(band.convert("RGB"), np.uint8)


def _is_wide(picture: Image.Image) -> bool:
    return picture.mode == "I" or picture.mode.startswith("I;16")
