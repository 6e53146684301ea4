"""PNG.

Source: Portable Network Graphics, third edition (W3C, 2025).

May import: numpy, cv2, Pillow, ``service.errors``, the other codecs.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from service.errors import CorruptImage, UnsupportedImage
from service.pipeline.codecs import depth, orientation, pillow
from service.pipeline.codecs.limits import Limits
from service.pipeline.codecs.profiles import to_srgb

MAX_CHUNKS = 1 << 16
"""Walked through, where that is needed."""
BAND_PIXELS = 1 << 18
"""Pixels that are converted at a time."""
MAX_DARK = 63
"""Largest 8-bit value of a 16-bit picture whose samples have 14 bits or fewer."""


def size(data: bytes) -> tuple[int, int]:
    """Read (width, height) from the first chunk.

    Raises:
        UnsupportedImage: for Apple's variant
        CorruptImage: if the first chunk is not the header
        struct.error: if the file ends within it
    """
    if data[12:16] == b"CgBI":
        raise UnsupportedImage(
            "an Apple-optimised PNG (CgBI), which is not a PNG; send the original, or revert it (`xcrun pngcrush "
            "-revert-iphone-optimizations`)"
        )
    if data[12:16] not in (b"IHDR", b"IHDR"[: len(data[12:16])]):
        raise CorruptImage("the PNG image does not begin with its header (IHDR)")
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def decode(data: bytes, limits: Limits) -> NDArray[np.uint8]:
    """Decode a PNG file. Damaged ancillary chunks (text, time, profiles, ...) are left out, as libpng does.

    Gives:
        H x W x 3 uint8 RGB, upright
    """
    try:
        picture = pillow.load(data, "PNG", limits)
    except (CorruptImage, ValueError, OSError, SyntaxError):
        sound = b"".join(_sound(data))
        if sound == data:
            raise
        data = sound
        picture = pillow.load(data, "PNG", limits)
    bits, color = data[24], data[25]
    if not (bits == 16 and color & 6 and max(pillow.largest(picture)[: 3 if color & 2 else 1]) <= MAX_DARK):
        return pillow.decode(picture)
    info = picture.info
    del picture  # OpenCV's copy is as large
    pixels = to_srgb(_wide(data), (info.get("icc_profile") or b"") if color & 2 else b"")
    return orientation.upright(pixels, orientation.of_exif(info.get("exif") or b""))


def _wide(data: bytes) -> NDArray[np.uint8]:
    """Scale a 16-bit colour picture by its depth: of its samples Pillow keeps the upper 8 bits alone.

    Gives:
        H x W x 3 uint8 RGB, as stored
    Raises:
        UnsupportedImage: if OpenCV does not decode it
    """
    samples = cv2.imdecode(np.frombuffer(_pixels_alone(data), np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype != np.uint16 or samples.ndim != 3 or samples.shape[2] not in (3, 4):
        raise UnsupportedImage("a dark PNG image of 16 bits that cannot be scaled; send it with 8 bits")
    bits = depth.significant_bits(int(samples[..., :3].max()))
    has_alpha = samples.shape[2] == 4 and bool(samples[..., 3].any())
    rgb = np.empty((*samples.shape[:2], 3), np.uint8)
    rows = max(1, BAND_PIXELS // samples.shape[1])
    for top in range(0, len(samples), rows):
        band = samples[top : top + rows].astype(np.uint16, copy=False)
        narrow = depth.to_8_bits(band[..., 2::-1], bits)
        if has_alpha:
            alpha = depth.to_8_bits(band[..., 3:]).astype(np.uint16)
            narrow = ((narrow * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        rgb[top : top + rows] = narrow
    return rgb


def _sound(data: bytes) -> Iterator[bytes]:
    """Yield the file in pieces, without ancillary chunks whose checksum is wrong."""
    yield data[:8]
    end = 8
    for start, end in _chunks(data):
        is_ancillary = data[start + 4] & 0x20
        if not is_ancillary or data[end - 4 : end] == struct.pack(">I", zlib.crc32(data[start + 4 : end - 4])):
            yield data[start:end]
    yield data[end:]


def _pixels_alone(data: bytes) -> bytes:
    """Return the file with its header and its pixels alone: OpenCV believes the length of any other chunk, and allocates it."""
    coded = b"".join(data[start + 8 : end - 4] for start, end in _chunks(data) if data[start + 4 : start + 8] == b"IDAT")
    body = b"IDAT" + coded
    pixels = struct.pack(">I", len(coded)) + body + struct.pack(">I", zlib.crc32(body))
    return data[:33] + pixels + b"\0\0\0\0IEND\xae\x42\x60\x82"


def _chunks(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the chunks; the last one may be cut short, with as many bytes as there are."""
    start = 8
    for _ in range(MAX_CHUNKS):
        if start + 12 > len(data):
            return
        end = min(len(data), start + 12 + int.from_bytes(data[start : start + 4], "big"))
        yield start, end
        start = end
