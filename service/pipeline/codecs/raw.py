"""Pixels without a file around them, as cameras, ROS and Foxglove send them: one table of encodings.

The names are those of ROS (``sensor_msgs/image_encodings.hpp``) and of Foxglove's ``RawImage``. Bags and live sources use the
same table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from service.errors import CorruptImage, UnsupportedImage
from service.pipeline.codecs import depth

RGB = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class RawImage:
    """One picture as it was sent."""

    data: NDArray[np.uint8]
    """Its bytes, one dimension."""
    encoding: str
    """One of :data:`ENCODINGS`; case and surrounding spaces do not matter."""
    height: int
    width: int
    step: int
    """Bytes from one row to the next; 0 or a value that does not fit means rows without padding, if the size is then exact."""
    big_endian: bool = False
    """Byte order of 16-bit values."""


@dataclass(frozen=True)
class _Packed:
    """All channels of a pixel lie side by side."""

    channels: int
    conversion: int | None = None
    """OpenCV's code that makes RGB of it; None if it is RGB."""
    element: type[np.uint8 | np.uint16] = np.uint8
    pair: bool = False
    """Whether two pixels of a row share their colour."""


@dataclass(frozen=True)
class _Planar:
    """A plane of luma, then planes of chroma."""

    conversion: int
    """OpenCV's code for the picture with halved chroma."""
    interleaved: bool
    """Whether both chroma values lie side by side in one plane."""
    full: bool = False
    """Whether chroma has the full size."""


# OpenCV names a mosaic by the second and third pixel of its second row, ROS by the first two pixels of its first row.
_MOSAICS = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}

ENCODINGS: dict[str, _Packed | _Planar] = {
    "rgb8": _Packed(3),
    "bgr8": _Packed(3, cv2.COLOR_BGR2RGB),
    "rgba8": _Packed(4, cv2.COLOR_RGBA2RGB),
    "bgra8": _Packed(4, cv2.COLOR_BGRA2RGB),
    "mono8": _Packed(1, cv2.COLOR_GRAY2RGB),
    "8UC1": _Packed(1, cv2.COLOR_GRAY2RGB),
    "8UC3": _Packed(3, cv2.COLOR_BGR2RGB),
    "8UC4": _Packed(4, cv2.COLOR_BGRA2RGB),
    "rgb16": _Packed(3, None, np.uint16),
    "bgr16": _Packed(3, cv2.COLOR_BGR2RGB, np.uint16),
    "rgba16": _Packed(4, cv2.COLOR_RGBA2RGB, np.uint16),
    "bgra16": _Packed(4, cv2.COLOR_BGRA2RGB, np.uint16),
    "mono16": _Packed(1, cv2.COLOR_GRAY2RGB, np.uint16),
    "16UC1": _Packed(1, cv2.COLOR_GRAY2RGB, np.uint16),
    "16UC3": _Packed(3, cv2.COLOR_BGR2RGB, np.uint16),
    "16UC4": _Packed(4, cv2.COLOR_BGRA2RGB, np.uint16),
    **{f"bayer_{order}8": _Packed(1, code) for order, code in _MOSAICS.items()},
    **{f"bayer_{order}16": _Packed(1, code, np.uint16) for order, code in _MOSAICS.items()},
    "yuv422": _Packed(2, cv2.COLOR_YUV2RGB_UYVY, pair=True),
    "uyvy": _Packed(2, cv2.COLOR_YUV2RGB_UYVY, pair=True),
    "yuv422_yuy2": _Packed(2, cv2.COLOR_YUV2RGB_YUY2, pair=True),
    "yuyv": _Packed(2, cv2.COLOR_YUV2RGB_YUY2, pair=True),
    "yuy2": _Packed(2, cv2.COLOR_YUV2RGB_YUY2, pair=True),
    "nv12": _Planar(cv2.COLOR_YUV2RGB_NV12, interleaved=True),
    "nv21": _Planar(cv2.COLOR_YUV2RGB_NV21, interleaved=True),
    "nv24": _Planar(cv2.COLOR_YUV2RGB_NV12, interleaved=True, full=True),
    "i420": _Planar(cv2.COLOR_YUV2RGB_I420, interleaved=False),
    "yuv420": _Planar(cv2.COLOR_YUV2RGB_I420, interleaved=False),
    "yv12": _Planar(cv2.COLOR_YUV2RGB_YV12, interleaved=False),
}
"""Every encoding that is read, by its name."""

_BY_NAME = {name.lower(): layout for name, layout in ENCODINGS.items()}


def to_rgb(raw: RawImage, bits: int = 16) -> RGB:
    """Convert a raw picture to RGB.

    Takes:
        raw: the picture, in one of :data:`ENCODINGS`
        bits: significant bits of 16-bit values, one of ``depth.DEPTHS``; larger values become 255. See :func:`largest`
    Gives:
        H x W x 3 uint8 RGB, C-contiguous; 16-bit values are scaled by their depth
    Raises:
        UnsupportedImage: if the encoding is not one of the table
        CorruptImage: if the picture has no pixels or too few bytes
    """
    layout = layout_of(raw.encoding)
    if raw.height < 1 or raw.width < 1:
        raise CorruptImage(f"the image has no pixels: it is {raw.width} x {raw.height}")
    return _from_planes(raw, layout) if isinstance(layout, _Planar) else _from_pixels(raw, layout, bits)


def layout_of(encoding: str) -> _Packed | _Planar:
    """Find an encoding in the table.

    Raises:
        UnsupportedImage: naming those that are read
    """
    layout = _BY_NAME.get(encoding.strip().lower())
    if layout is None:
        raise UnsupportedImage(f"images in {encoding!r} are not read; {', '.join(ENCODINGS)} are")
    return layout


def is_wide(encoding: str) -> bool:
    """Say whether an encoding has 16-bit values, whose significant bits matter."""
    layout = _BY_NAME.get(encoding.strip().lower())
    return isinstance(layout, _Packed) and layout.element is np.uint16


def largest(raw: RawImage) -> int:
    """Find the largest 16-bit value of a picture; ``depth.significant_bits`` tells the depth of a sensor by it.

    Gives:
        0 for an encoding of 8-bit values
    Raises:
        as :func:`to_rgb`
    """
    layout = layout_of(raw.encoding)
    if not isinstance(layout, _Packed) or layout.element is not np.uint16:
        return 0
    return int(_pixels(raw, layout).max(initial=0))


def demosaic(mosaic: NDArray[np.uint8], encoding: str) -> RGB:
    """Make colours of a mosaic.

    Takes:
        mosaic: H x W uint8
        encoding: its order, as ``bayer_rggb8``
    Gives:
        H x W x 3 uint8 RGB
    Raises:
        UnsupportedImage: if the encoding is not one of a mosaic
    """
    layout = layout_of(encoding)
    if not isinstance(layout, _Packed) or layout.conversion not in _MOSAICS.values():
        raise UnsupportedImage(f"{encoding!r} is not a mosaic")
    return _converted(mosaic[..., None], layout.conversion)


def _rows(raw: RawImage, data: NDArray[np.uint8], height: int, row: int, step: int) -> NDArray[np.uint8]:
    """Take the padding off the ends of rows; the last one may lack its own.

    Gives:
        height x row uint8
    """
    if data.size == height * row:
        step = row  # whatever the message says: nothing else fits
    if step < row or data.size < step * (height - 1) + row:
        raise CorruptImage(f"{raw.data.size} bytes are too few for {raw.height} x {raw.width} pixels of {raw.encoding}")
    whole = data[: step * height]
    if whole.size < step * height:
        whole = np.concatenate([whole, np.zeros(step * height - whole.size, np.uint8)])
    return np.ascontiguousarray(whole.reshape(height, step)[:, :row])


def _pixels(raw: RawImage, layout: _Packed) -> NDArray[Any]:
    """The values of a packed picture: H x W x channels, in this machine's byte order; a shared last column is kept."""
    width = raw.width + raw.width % 2 if layout.pair else raw.width
    element = np.dtype(layout.element)
    try:
        rows = _rows(raw, raw.data, raw.height, width * layout.channels * element.itemsize, raw.step)
    except CorruptImage as error:
        if width != raw.width:
            raise CorruptImage(
                f"{raw.encoding} of {raw.width} pixels a row: two pixels share their colour, so rows hold an even number"
            ) from error
        raise
    if element.itemsize == 2:
        rows = rows.view(element.newbyteorder(">" if raw.big_endian else "<")).astype(np.uint16, copy=False)
    return rows.reshape(raw.height, width, layout.channels)


def _from_pixels(raw: RawImage, layout: _Packed, bits: int) -> RGB:
    pixels = _pixels(raw, layout)
    if layout.element is np.uint16:
        pixels = depth.to_8_bits(pixels, bits)
    return np.ascontiguousarray(_converted(pixels, layout.conversion)[:, : raw.width])


def _converted(pixels: NDArray[np.uint8], conversion: int | None) -> RGB:
    return np.ascontiguousarray(pixels) if conversion is None else np.asarray(cv2.cvtColor(pixels, conversion), np.uint8)


def _from_planes(raw: RawImage, layout: _Planar) -> RGB:
    """Planes as OpenCV wants them: even sides, one below the other."""
    height, width = raw.height, raw.width
    rows, columns = (height, width) if layout.full else ((height + 1) // 2, (width + 1) // 2)
    row, count = (2 * columns, rows) if layout.interleaved else (columns, 2 * rows)
    exact = raw.data.size == height * width + count * row
    step = width if exact or raw.step < width else raw.step
    luma = _rows(raw, raw.data[: step * height], height, width, step)
    below = row if exact else (step * (2 if layout.full else 1) if layout.interleaved else step // 2)
    chroma = _rows(raw, raw.data[step * height :], count, row, max(below, row))
    if layout.full:  # as a picture of twice the size, whose chroma has half of it
        whole = np.repeat(np.repeat(luma, 2, 0), 2, 1)
        stacked = np.concatenate([whole, chroma])
        return np.ascontiguousarray(_converted(stacked[..., None], layout.conversion)[::2, ::2])
    luma = np.pad(luma, ((0, height % 2), (0, width % 2)), "edge")
    stacked = np.concatenate([luma.reshape(-1), chroma.reshape(-1)]).reshape(3 * rows, 2 * columns)
    return np.ascontiguousarray(_converted(stacked[..., None], layout.conversion)[:height, :width])
