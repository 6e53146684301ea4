"""Bytes -> upright RGB, in two steps: :func:`probe` reads the header and enforces the limits, :func:`decode` reads the pixels.

Reads JPEG, PNG, WebP, AVIF, BMP, TIFF, GIF, PNM and, with an extra, HEIC: the first frame of an animation, in every mode as a
viewer shows it:

- grey and colours of 9 to 16 bits: scaled to 8 by their depth (``depth``), never clipped; 32 and 64-bit integers count as
  16-bit, floats as 0..1; a TIFF in which 0 is white is inverted; GDAL's nodata does not count for the depth
- palette and transparency: laid over white
- CMYK: to RGB, with Adobe's inversion undone
- networks that take grey: :func:`decode_grey` keeps the numbers of 9 to 64 bits as they are
- EXIF orientation: applied; a mask fits the image as people see it

The bytes are the only input: no path and no URL is ever opened. Thread-safe.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import UnsupportedImage
from service.pipeline.codecs import bmp, grey, headers, heif, jpeg, pillow, png, pnm, scans, tiff
from service.pipeline.codecs.damage import damage
from service.pipeline.codecs.georeference import Georeference
from service.pipeline.codecs.georeference import of as georeference_of
from service.pipeline.codecs.grey import Grey
from service.pipeline.codecs.headers import FORMATS, Header
from service.pipeline.codecs.levels import Levels
from service.pipeline.codecs.limits import Limits, check_bytes, check_size

__all__ = ["FORMATS", "RGB", "Georeference", "Grey", "Header", "Limits", "decode", "decode_grey", "georeference", "probe"]

Dtype = Literal["uint8", "uint16", "float32"]
RGB = NDArray[np.uint8]
"""H x W x 3 uint8, RGB."""


def probe(data: bytes | RGB, limits: Limits) -> Header:
    """Read the header of a picture or a scan and enforce the limits.

    It takes microseconds and may be called on an event loop, unless :func:`scans.takes_time` says otherwise.

    Takes:
        data: the image file, or H x W x 3 uint8 RGB
    Raises:
        EmptyBody: if there are no bytes
        BodyTooLarge: if there are too many
        UnsupportedImage: if these are not the first bytes of a format that is read
        CorruptImage: if they are, but the size cannot be read or a side is 0
        ImageTooLarge: if the image has too many pixels, or one side is too long
    """
    if isinstance(data, np.ndarray):
        height, width, _ = data.shape
        header = Header("RGB", width, height)
    elif (kind := scans.kind(data)) is not None:
        scan = scans.probe(data, limits, kind)
        x, y, z = scan.shape
        return Header(kind, x, y * z, scan)
    else:
        check_bytes(len(data), limits)
        header = headers.read(data)
    check_size(header.format, header.width, header.height, limits)
    return header


def decode(data: bytes | RGB, limits: Limits, header: Header | None = None) -> RGB:
    """Decode an image.

    Takes:
        data: the image file, or H x W x 3 uint8 RGB, which is returned as it is
        header: what :func:`probe` returned for these bytes and limits, where it was called before
    Gives:
        H x W x 3 uint8, RGB, C-contiguous, upright
    Raises:
        EmptyBody, BodyTooLarge, ImageTooLarge, UnsupportedImage: as :func:`probe`
        CorruptImage: also if the image is truncated or damaged
        UnsupportedImage: also if it is a scan, which :mod:`scans` reads
    """
    kind = (header or probe(data, limits)).format
    if kind in scans.FORMATS:
        raise UnsupportedImage(f"a scan ({kind}) where a picture is expected")
    if isinstance(data, np.ndarray):
        return data
    with damage(kind):
        return decode_as(data, kind, limits)


def decode_grey(data: bytes | RGB, limits: Limits, dtype: Dtype, header: Header | None = None) -> Grey:
    """Decode an image to one channel. PNG, TIFF and PNM of more than 8 bits keep every number as it is stored.

    Takes:
        data, header: as for :func:`decode`
        dtype: of the result. ``uint8``: the picture that :func:`decode` gives, as one channel. Of a picture of 8 bits white is
            65535 in ``uint16`` and 255 in ``float32``
    Raises:
        as :func:`decode`
        UnsupportedImage: also if ``dtype`` cannot hold the numbers: floats or negative ones in ``uint16``
    """
    header = header or probe(data, limits)
    if isinstance(data, np.ndarray) or dtype == "uint8" or header.format in scans.FORMATS:
        return grey.of_rgb(decode(data, limits, header), dtype)
    with damage(header.format):
        return decode_grey_as(data, header.format, limits, dtype)


def decode_as(data: bytes, kind: str, limits: Limits, levels: Levels | None = None) -> RGB:
    """Decode a file whose format is known, as :func:`decode`.

    Takes:
        levels: of the picture that the file is a part of (PNG, TIFF); None: it is the whole
    Raises:
        Exception: of many kinds, if the file is truncated or damaged
    """
    match kind:
        case "JPEG":
            return jpeg.decode(data)
        case "TIFF":
            return tiff.decode(data, limits, levels)
        case "PNG":
            return png.decode(data, limits, levels)
        case "BMP":
            return bmp.decode(data, limits)
        case "PNM":
            return pnm.decode(data)
        case "HEIC":
            return heif.decode(data, limits)
        case _:
            return pillow.decode(pillow.load(data, kind, limits))


def decode_grey_as(data: bytes, kind: str, limits: Limits, dtype: Dtype, levels: Levels | None = None) -> Grey:
    """Decode a file whose format is known to one channel, as :func:`decode_grey`.

    Takes:
        levels: as for :func:`decode_as`
    Raises:
        as :func:`decode_as`
    """
    found = None if dtype == "uint8" else _wide(data, kind, limits, dtype, levels)
    if found is None:
        return grey.of_rgb(decode_as(data, kind, limits, levels), dtype)
    values, was_colour = found
    return Grey(values, (grey.TO_GREY,) if was_colour else ())


def survey(data: bytes, kind: str, limits: Limits, dtype: Dtype | None) -> Levels:
    """Read the numbers of a part of a picture that decide about its other parts.

    Takes:
        kind: PNG or TIFF
        dtype: for :func:`decode_grey_as`; None: for :func:`decode_as`
    Raises:
        as :func:`decode_as`
    """
    survey_grey, survey_rgb = (png.survey_grey, png.survey) if kind == "PNG" else (tiff.survey_grey, tiff.survey)
    found = None if dtype in (None, "uint8") else survey_grey(data, limits)
    return survey_rgb(data, limits) if found is None else found


def georeference(data: bytes | RGB, header: Header | None = None) -> Georeference | None:
    """Read where a picture lies on the earth: that of a GeoTIFF, for the upright picture. None for others. Microseconds.

    Takes:
        data: the image file, or H x W x 3 uint8 RGB
        header: what :func:`probe` returned for it, where it was called before
    """
    if isinstance(data, np.ndarray) or (header is not None and header.format != "TIFF"):
        return None
    return georeference_of(data) if data[:2] in (b"II", b"MM") else None


def _wide(data: bytes, kind: str, limits: Limits, dtype: Dtype, levels: Levels | None) -> tuple[NDArray[Any], bool] | None:
    """Return the one channel of a picture of more than 8 bits, and whether it had colours; None for one of 8 bits."""
    match kind:
        case "TIFF":
            return tiff.decode_grey(data, limits, dtype, levels)
        case "PNG" if png.is_wide(data):
            values, was_colour = png.decode_grey(data, limits, levels)
        case "PNM" if pnm.outline(data).maximum > 255:
            values, was_colour = grey.luma(pnm.samples(data).astype(np.uint16, copy=False))
        case _:
            return None
    return grey.cast(values, dtype, kind), was_colour
