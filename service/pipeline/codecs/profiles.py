"""Colour profiles: pictures in Display P3, Adobe RGB and the like, as sRGB.

Networks are trained on sRGB. Phones store Display P3, cameras Adobe RGB: the same numbers are other colours there, and labels
change. Only profiles of a matrix and three curves are converted, as all cameras and phones write them.

Source: ICC.1:2022, sections 7.2 and 7.3 for the header and the table of tags.
"""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

MAX_BYTES = 1 << 16
"""A profile of a matrix and curves has some 500 bytes, with tables for curves 6 KiB."""
MAX_TAGS = 64
SAME = 3
"""Steps of 256 by which a conversion may move a colour and be left out: a variant of sRGB."""
BAND_PIXELS = 1 << 20
"""Pixels that are converted at a time."""

_MATRIX = {b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC"}


def to_srgb(pixels: NDArray[np.uint8], profile: bytes) -> NDArray[np.uint8]:
    """Convert colours.

    Takes:
        pixels: H x W x 3 uint8, in the profile's colours
        profile: an ICC profile; empty for none
    Gives:
        the same array where the profile is absent, broken, of another kind, or sRGB
    """
    transform = _transform(profile) if 128 < len(profile) <= MAX_BYTES else None
    if transform is None:
        return pixels
    converted = np.empty_like(pixels, order="C")
    rows = max(1, BAND_PIXELS // pixels.shape[1])
    for top in range(0, len(pixels), rows):
        band = Image.fromarray(np.ascontiguousarray(pixels[top : top + rows]))
        ImageCms.applyTransform(band, transform, inPlace=True)
        converted[top : top + rows] = np.asarray(band)
    return converted


def of_chunks(chunks: Mapping[int, bytes], count: int) -> bytes:
    """Join the chunks of a profile in a JPEG file.

    Takes:
        chunks: by their numbers, from 1
        count: as the chunks say
    Gives:
        empty where one is missing
    """
    return b"".join(chunks[number] for number in range(1, count + 1)) if set(chunks) == set(range(1, count + 1)) else b""


@functools.lru_cache(maxsize=64)
def _transform(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """Return the way to sRGB; None where there is none, or no need of one."""
    if not _has_matrix(profile):
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "RGB", "RGB", intent)
        shades = np.arange(0, 256, 51, dtype=np.uint8)
        colors = np.stack(np.meshgrid(shades, shades, shades), axis=-1).reshape(-1, 1, 3)
        converted = ImageCms.applyTransform(Image.fromarray(colors), transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    moved = 0 if converted is None else np.abs(np.asarray(converted).astype(int) - colors).max()
    return transform if moved > SAME else None


def _has_matrix(profile: bytes) -> bool:
    """Return whether a profile is of RGB, by a matrix and curves."""
    try:
        (count,) = struct.unpack_from(">I", profile, 128)
        tags = {profile[at : at + 4] for at in range(132, 132 + 12 * min(count, MAX_TAGS), 12)}
    except struct.error:
        return False
    return profile[16:20] == b"RGB " and profile[36:40] == b"acsp" and tags >= _MATRIX and b"A2B0" not in tags
