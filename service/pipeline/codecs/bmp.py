"""BMP: the bitmaps of Windows and OS/2.

Pillow reads the plain ones. Bit fields, run lengths and embedded files are read here: Pillow rejects many of them.

Source: "Bitmap Storage" and BITMAPV5HEADER (Microsoft, Windows GDI).
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from service.errors import CorruptImage, UnsupportedImage
from service.pipeline.codecs import depth, jpeg, pillow, png
from service.pipeline.codecs.limits import Limits, check_size

_OS2 = 64
"""Bytes of the second header of OS/2, whose compressions have other meanings."""
_RLE8, _RLE4, _FIELDS, _JPEG, _PNG, _ALPHA_FIELDS = 1, 2, 3, 4, 5, 6
_END_OF_LINE, _END, _DELTA = 0, 1, 2


def size(data: bytes) -> tuple[int, int]:
    """Read (width, height) from the header, whose oldest form has 16-bit sides.

    Raises:
        struct.error: if the file ends within the header
    """
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header_bytes == 12 else "<ii", data, 18)
    return width, abs(height)  # negative: stored top row first


def decode(data: bytes, limits: Limits) -> NDArray[np.uint8]:
    """Decode a BMP file.

    Gives:
        H x W x 3 uint8 RGB, upright
    Raises:
        UnsupportedImage: for compressions that are not read
        CorruptImage, ValueError, OSError, struct.error: if the file is truncated or damaged
    """
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    bits, compression = struct.unpack_from("<HI", data, 28) if header_bytes >= 40 else (24, 0)
    if header_bytes == _OS2 and compression not in (0, _RLE8, _RLE4):
        raise UnsupportedImage("a BMP image of OS/2 with Huffman or RLE24 compression; convert it to PNG")
    if compression > _ALPHA_FIELDS:
        raise UnsupportedImage(f"a BMP image with compression {compression}; convert it to PNG")
    if compression in (_FIELDS, _ALPHA_FIELDS) and bits in (16, 32):
        pixels = _fields(data, bits, has_alpha=header_bytes >= 56 or compression == _ALPHA_FIELDS)
    elif (compression, bits) in ((_RLE8, 8), (_RLE4, 4)):
        pixels = _palette(data, header_bytes, bits)[_indices(data, bits)]
    elif compression in (_JPEG, _PNG):
        return _embedded(data, compression, limits)
    else:
        return pillow.decode(pillow.load(data, "BMP", limits))
    is_top_down = struct.unpack_from("<i", data, 22)[0] < 0
    return np.ascontiguousarray(pixels if is_top_down else pixels[::-1])


def _fields(data: bytes, bits: int, *, has_alpha: bool) -> NDArray[np.uint8]:
    """Read pixels whose colours are fields of bits: H x W x 3 uint8 RGB, in the order of the file."""
    width, height = size(data)
    (offset,) = struct.unpack_from("<I", data, 10)
    masks = struct.unpack_from("<4I" if has_alpha else "<3I", data, 54)
    row, used = (width * bits + 31) // 32 * 4, width * bits // 8
    if len(data) < offset + row * (height - 1) + used:  # the padding of the last row may be absent
        raise CorruptImage(f"the BMP image is truncated: it has {len(data)} bytes of {offset + row * height}")
    stored = data[offset : offset + row * height].ljust(row * height, b"\0")
    numbers = np.frombuffer(stored, np.uint8).reshape(height, row)[:, :used].copy().view(f"<u{bits // 8}")
    rgb = np.stack([_field(numbers, mask) for mask in masks[:3]], axis=2)
    alpha = _field(numbers, masks[3])[..., None].astype(np.uint16) if has_alpha and masks[3] else np.zeros((1, 1, 1), np.uint16)
    if not alpha.any():  # an alpha channel that is 0 everywhere says nothing
        return rgb
    return np.asarray((rgb * alpha + 255 * (255 - alpha) + 127) // 255, np.uint8)


def _field(numbers: NDArray[np.uint16 | np.uint32], mask: int) -> NDArray[np.uint8]:
    """Scale one field of bits to 8 bits: its largest number becomes 255."""
    if not mask:
        return np.zeros(numbers.shape, np.uint8)
    low, count = (mask & -mask).bit_length() - 1, mask.bit_count()
    if mask >> low != (1 << count) - 1:
        raise UnsupportedImage(f"a BMP image whose field of bits {mask:#x} has gaps; convert it to PNG")
    surplus = max(0, count - 16)
    values = (numbers.astype(np.uint32) & np.uint32(mask)) >> np.uint32(low + surplus)
    return depth.scaled(values.astype(np.uint16), (1 << count - surplus) - 1)


def _palette(data: bytes, header_bytes: int, bits: int) -> NDArray[np.uint8]:
    """Read the palette: 2 ** bits x 3 uint8 RGB; colours that are absent are black."""
    (colors,) = struct.unpack_from("<I", data, 46)
    start = 14 + header_bytes
    most = 1 << bits
    stored = data[start : start + 4 * min(colors or most, most)].ljust(4 * most, b"\0")
    return np.frombuffer(stored, np.uint8).reshape(most, 4)[:, 2::-1]


def _indices(data: bytes, bits: int) -> NDArray[np.uint8]:
    """Undo run lengths: H x W uint8 indices of the palette, in the order of the file. Skipped pixels have index 0.

    Raises:
        CorruptImage: if the file ends before its last pixel
    """
    width, height = size(data)
    (at,) = struct.unpack_from("<I", data, 10)
    rows = bytearray(width * height)
    x = y = 0
    while y < height:
        if at + 2 > len(data):
            if y == height - 1 and x >= width:  # without its end mark
                break
            raise CorruptImage("the BMP image is truncated within its run lengths")
        count, value = data[at], data[at + 1]
        at += 2
        if not count and value == _END:
            break
        if not count and value == _END_OF_LINE:
            x, y = 0, y + 1
            continue
        if not count and value == _DELTA:
            right, up = data[at : at + 2].ljust(2, b"\0")
            x, y, at = x + right, y + up, at + 2
            continue
        if count:
            run = bytes((value,)) * count if bits == 8 else (bytes((value >> 4, value & 15)) * count)[:count]
        else:
            count, taken = value, value if bits == 8 else (value + 1) // 2
            run = data[at : at + taken]
            if len(run) < taken:
                raise CorruptImage("the BMP image is truncated within its run lengths")
            run = run if bits == 8 else bytes(half for byte in run for half in (byte >> 4, byte & 15))
            at += taken + taken % 2
        kept = max(0, min(count, width - x))
        rows[y * width + x : y * width + x + kept] = run[:kept]
        x += count
    return np.frombuffer(rows, np.uint8).reshape(height, width)


def _embedded(data: bytes, compression: int, limits: Limits) -> NDArray[np.uint8]:
    """Decode a BMP file that holds a JPEG or a PNG file, as printers take it."""
    (offset,) = struct.unpack_from("<I", data, 10)
    inside = data[offset:]
    sides = jpeg.size(inside) if compression == _JPEG else png.size(inside)
    check_size("BMP", *sides, limits)
    if sides != size(data):
        raise CorruptImage(f"the BMP image is {size(data)} and the file inside is {sides}")
    return jpeg.decode(inside) if compression == _JPEG else png.decode(inside, limits)
