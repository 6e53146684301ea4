"""Format and size of an image file, read from its first bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from service.errors import CorruptImage, UnsupportedImage
from service.pipeline.codecs import bmp, foreign, heif, jpeg, png, pnm, scans, tiff

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PNM", "TIFF", "WEBP")
"""Every format that is read without an extra; HEIC is read with one."""


class Header(NamedTuple):
    """Format and size of an image, as its first bytes give them."""

    format: str
    """One of :data:`FORMATS`, or HEIC; of scans NIFTI or DICOM; ``RGB`` for an array."""
    width: int
    """As stored. EXIF orientation may swap the two sides, which changes neither their product nor the longer one."""
    height: int
    """As stored; of a scan, the height of its slices below one another."""
    scan: scans.Header | None = None
    """Further properties of a scan; None for a picture."""

    @property
    def megapixels(self) -> float:
        """Height times width, in millions."""
        return self.width * self.height / 1e6


def read(data: bytes) -> Header:
    """Read format and size.

    Takes:
        data: the image file, at least 1 byte
    Raises:
        UnsupportedImage: if these are not the first bytes of one of :data:`FORMATS`
        CorruptImage: if they are, but the size cannot be read
    """
    kind = _kind(data)
    try:
        width, height = _SIZES[kind](data)
    except (struct.error, IndexError, OverflowError) as error:
        raise CorruptImage(f"the {kind} image ends within its header") from error
    return Header(kind, width, height)


def _kind(data: bytes) -> str:
    if data.startswith(b"\xff\xd8") and b"\xff" in data[2:64]:  # libjpeg skips junk before the first segment, too
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if data.startswith(b"BM"):
        return "BMP"
    if pnm.begins(data):
        return "PNM"
    if found := heif.kind(data):
        return found
    what = foreign.name(data)
    raise UnsupportedImage(what or f"not an image of a known format; send one of {', '.join(FORMATS)}")


def _gif_size(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        low_w, high_w, low_h, high_h = struct.unpack_from("<HBHB", data, 24)
        return (high_w << 16 | low_w) + 1, (high_h << 16 | low_h) + 1
    raise CorruptImage("the WEBP image does not begin with a picture")


_SIZES: dict[str, Callable[[bytes], tuple[int, int]]] = {
    "AVIF": heif.size,
    "BMP": bmp.size,
    "GIF": _gif_size,
    "HEIC": heif.size,
    "JPEG": jpeg.size,
    "PNG": png.size,
    "PNM": pnm.size,
    "TIFF": tiff.size,
    "WEBP": _webp_size,
}
