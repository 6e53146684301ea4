"""PNM: portable bitmaps, graymaps and pixmaps, of text (P1 to P3) and of bytes (P4 to P6).

Pillow reads them pixel by pixel in Python where the largest number is not 255: ten seconds for a photo.

Source: the Netpbm manual, pages pbm, pgm and ppm (https://netpbm.sourceforge.net/doc).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import CorruptImage
from service.pipeline.codecs import depth

MAX_HEADER = 1 << 16
"""Bytes of a header with its comments."""

_SPACE = rb"(?:[ \t\n\v\f\r]|#[^\n\r]*[\n\r])+"
_HEADER = re.compile(rb"P([1-6])" + _SPACE + rb"(\d{1,9})" + _SPACE + rb"(\d{1,9})")
_MAXIMUM = re.compile(_SPACE + rb"(\d{1,5})")
_COMMENT = re.compile(rb"#[^\n\r]*")
_WHITE = b" \t\n\v\f\r"


@dataclass(frozen=True)
class Outline:
    """A header."""

    kind: int
    """1 to 6."""
    width: int
    height: int
    maximum: int
    """The number that is white; 1 for bitmaps."""
    body: int
    """Offset of the first pixel."""

    @property
    def bands(self) -> int:
        """Numbers of a pixel."""
        return 3 if self.kind in (3, 6) else 1


def begins(data: bytes) -> bool:
    """Return whether these are the first bytes of a PNM file."""
    return data[:1] == b"P" and data[1:2] in b"123456" and data[2:3] in (*(bytes([byte]) for byte in _WHITE), b"#")


def outline(data: bytes) -> Outline:
    """Read the header.

    Raises:
        CorruptImage: if it cannot be read
    """
    found = _HEADER.match(data, 0, MAX_HEADER)
    if found is None:
        raise CorruptImage("the PNM image ends within its header")
    kind, width, height = map(int, found.groups())
    end, maximum = found.end(), 1
    if kind not in (1, 4):
        largest = _MAXIMUM.match(data, end, MAX_HEADER)
        if largest is None or not 0 < int(largest[1]) < 65536:
            raise CorruptImage("the PNM image does not say which number is white (1 to 65535)")
        end, maximum = largest.end(), int(largest[1])
    return Outline(kind, width, height, maximum, end + 1)


def size(data: bytes) -> tuple[int, int]:
    """Read (width, height).

    Raises:
        CorruptImage: if the header cannot be read
    """
    found = outline(data)
    return found.width, found.height


def decode(data: bytes) -> NDArray[np.uint8]:
    """Decode the first picture of a PNM file.

    Gives:
        H x W x 3 uint8 RGB
    Raises:
        CorruptImage: if it is truncated, or its text is not of numbers
    """
    found = outline(data)
    shape = (found.height, found.width, found.bands)
    if found.kind in (2, 3, 5, 6):
        pixels = _to_8_bits(samples(data), found.maximum)
    elif found.kind == 4:
        row = -(-found.width // 8)
        packed = np.asarray(_numbers(data, found, found.height * row, np.dtype(np.uint8)), np.uint8).reshape(found.height, row)
        pixels = (1 - np.unpackbits(packed, axis=1)[:, : found.width, None]) * np.uint8(255)  # 1 is black
    else:
        bits = _text(data[found.body - 1 :], is_bitmap=True, count=found.height * found.width)
        pixels = _to_8_bits(bits.reshape(shape), 1)
    return np.array(np.broadcast_to(pixels, (*shape[:2], 3)), order="C")


def samples(data: bytes) -> NDArray[np.uint8 | np.uint16]:
    """Read the numbers of the first graymap or pixmap of a PNM file, as they are stored.

    Gives:
        H x W x 1 or H x W x 3, 0 to ``maximum``
    Raises:
        CorruptImage: as :func:`decode`
    """
    found = outline(data)
    count = found.height * found.width * found.bands
    if found.kind > 3:
        numbers = _numbers(data, found, count, np.dtype(np.uint8 if found.maximum < 256 else ">u2"))
    else:
        numbers = _text(data[found.body - 1 :], is_bitmap=False, count=count)
    return numbers.reshape(found.height, found.width, found.bands)


def _numbers(data: bytes, found: Outline, count: int, kind: np.dtype[np.uint8 | np.uint16]) -> NDArray[np.uint8 | np.uint16]:
    if len(data) - found.body < count * kind.itemsize:
        have = max(0, len(data) - found.body)
        raise CorruptImage(f"the PNM image is truncated: it has {have} bytes of {count * kind.itemsize}")
    return np.frombuffer(data, kind, count, found.body)


def _text(body: bytes, *, is_bitmap: bool, count: int) -> NDArray[np.uint16]:
    """Read numbers of text. Those of a bitmap are digits, with or without spaces between them."""
    plain = _COMMENT.sub(b" ", body)
    if is_bitmap:
        digits = np.frombuffer(plain, np.uint8)
        digits = digits[(digits == ord("0")) | (digits == ord("1"))][:count]
        numbers = (ord("1") - digits).astype(np.uint16)
    else:
        try:
            numbers = depth.to_uint16(np.fromstring(plain, np.int64, sep=" ")[:count])
        except (ValueError, DeprecationWarning) as error:
            raise CorruptImage("the PNM image's text is not of numbers") from error
    if numbers.size < count:
        raise CorruptImage(f"the PNM image is truncated: it has {numbers.size} numbers of {count}")
    return np.asarray(numbers, np.uint16)


def _to_8_bits(numbers: NDArray[np.uint8 | np.uint16], maximum: int) -> NDArray[np.uint8]:
    """Bring numbers to 8 bits: the maximum becomes 255. A maximum of 65535 says no more than 16 bits do."""
    if maximum == 255 and numbers.dtype == np.uint8:
        return np.asarray(numbers, np.uint8)
    if maximum == 65535:
        return depth.to_8_bits(depth.to_uint16(numbers), depth.significant_bits(int(numbers.max())))
    return depth.scaled(numbers, maximum)
