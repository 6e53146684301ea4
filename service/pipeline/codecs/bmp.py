"""BMP: the bitmaps of Windows and OS/2."""

from __future__ import annotations

import struct


def size(data: bytes) -> tuple[int, int]:
    """Read (width, height) from the header, whose oldest form has 16-bit sides.

    Raises:
        struct.error: if the file ends within the header
    """
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header_bytes == 12 else "<ii", data, 18)
    return width, abs(height)  # negative: stored top row first
