"""Pictures as one channel of numbers, for networks that take grey: as they are stored, with all their bits.

``decoding.decode`` makes pictures for people and for networks of colours: 8 bits, scaled by their depth. Here a number of more
than 8 bits stays the number that the instrument wrote. Colours become luma (ITU-R BT.601), and that is reported: a network of
grey was not trained on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from service.errors import UnsupportedImage
from service.pipeline.codecs import depth
from service.pipeline.codecs.levels import Levels

BAND_PIXELS = 1 << 18
"""Pixels that are converted at a time."""

Conversion = Literal["colour-to-grey", "8-bit-to-16-bit"]
"""What a reply names: the picture was another one than the network takes."""

TO_GREY: Conversion = "colour-to-grey"
TO_16_BITS: Conversion = "8-bit-to-16-bit"

_LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601, section 2.5.1)."""


@dataclass(frozen=True, eq=False)
class Grey:
    """A picture of one channel."""

    values: NDArray[Any]
    """H x W, upright, of the dtype that was asked for; NaN in float32 where the file has no value."""
    converted: tuple[Conversion, ...] = ()
    """What was changed of the picture on the way."""


def luma(samples: NDArray[Any]) -> tuple[NDArray[Any], bool]:
    """Make one channel of a picture.

    Takes:
        samples: H x W x 1 or H x W x 3 (red, green, blue), whole numbers or floats
    Gives:
        H x W of the same dtype, and whether any pixel had a colour; a pixel of three equal numbers keeps this number exactly
    """
    if samples.shape[2] == 1:
        return samples[..., 0], False
    found, colours = np.empty(samples.shape[:2], samples.dtype), False
    rows = max(1, BAND_PIXELS // max(1, samples.shape[1]))
    for top in range(0, len(samples), rows):
        band = samples[top : top + rows]
        same = (band[..., 0] == band[..., 1]) & (band[..., 1] == band[..., 2])
        found[top : top + rows] = band[..., 0]
        if not same.all():
            mixed = sum(weight * band[..., k].astype(np.float64) for k, weight in enumerate(_LUMA))
            whole = mixed if samples.dtype.kind == "f" else np.rint(mixed)
            np.copyto(found[top : top + rows], np.asarray(whole).astype(samples.dtype), where=~same)
            colours = True
    return found, colours


def of_rgb(pixels: NDArray[np.uint8], dtype: str) -> Grey:
    """Make one channel of a picture of 8 bits.

    Takes:
        pixels: H x W x 3 uint8 RGB
        dtype: ``uint8``; ``uint16``, in which white is 65535; or ``float32``, in which white is 255
    """
    red = pixels[..., 0]
    is_grey = np.array_equal(red, pixels[..., 1]) and np.array_equal(red, pixels[..., 2])
    values = np.ascontiguousarray(red) if is_grey else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)
    converted: tuple[Conversion, ...] = () if is_grey else (TO_GREY,)
    if dtype == "uint16":
        return Grey(values * np.uint16(257), (*converted, TO_16_BITS))
    return Grey(values.astype(dtype, copy=False), converted)


def levels_of(values: NDArray[np.uint16], alpha: NDArray[np.uint16] | None) -> Levels:
    """Return the numbers that decide about transparency in :func:`over_white`."""
    return Levels(largest=int(values.max(initial=0)), largest_alpha=0 if alpha is None else int(alpha.max(initial=0)))


def over_white(values: NDArray[np.uint16], alpha: NDArray[np.uint16], levels: Levels | None = None) -> NDArray[np.uint16]:
    """Lay a transparent picture over white: the largest number of its depth. Alpha that is 0 everywhere says nothing.

    Takes:
        values: H x W, as stored
        alpha: H x W, the largest number of its own depth is opaque
        levels: of the picture that this is a part of; None: it is the whole
    Gives:
        the same array where nothing is transparent
    """
    known = levels or levels_of(values, alpha)
    white = (1 << depth.significant_bits(known.largest)) - 1
    opaque = (1 << depth.significant_bits(max(known.largest, known.largest_alpha))) - 1
    if not known.largest_alpha or int(alpha.min()) >= opaque:
        return values
    share = np.minimum(alpha / opaque, 1.0)
    return np.asarray(np.rint(values * share + white * (1 - share)), np.uint16)


def cast(values: NDArray[Any], dtype: str, kind: str, nodata: float | None = None) -> NDArray[Any]:
    """Bring numbers of more than 8 bits to the dtype of a network, each as it is.

    Takes:
        values: H x W, whole numbers or floats
        dtype: ``uint16`` or ``float32``
        kind: the format, for errors
        nodata: the number of a pixel without a value
    Gives:
        H x W of that dtype; float32 has NaN for ``nodata``
    Raises:
        UnsupportedImage: if the network takes whole numbers of 16 bits, and these are not
    """
    if dtype == "float32":
        with np.errstate(over="ignore"):
            floats = values.astype(np.float32)
        return floats if nodata is None else np.where(values == nodata, np.float32(np.nan), floats)
    if values.dtype == np.uint16:
        return values
    valid = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    least, most = (float(valid.min()), float(valid.max())) if valid.size else (0.0, 0.0)
    if least < 0 or most > 65535 or (values.dtype.kind == "f" and bool((valid != np.rint(valid)).any())):
        what = "floats" if values.dtype.kind == "f" else "whole numbers"
        raise UnsupportedImage(
            f"a {kind} image of {what} from {least:g} to {most:g}; this network takes whole numbers of 0 to "
            "65535: send it as a 16-bit grey image"
        )
    return np.asarray(np.nan_to_num(values, nan=0, posinf=0, neginf=0), np.uint16)
