"""TIFF, BigTIFF and what is built on them.

May import: ``service.errors``.
"""

from __future__ import annotations

import struct

from service.errors import CorruptImage, UnsupportedImage

MAX_ENTRIES = 4096
"""Of one directory; a picture has some twenty. Bounds the walk through a file of entries."""


def size(data: bytes) -> tuple[int, int]:
    """Read (width, height) from the first directory. A tile larger than its image counts with its own size.

    Raises:
        CorruptImage: if a side is not a whole number, or the directory is too long
        UnsupportedImage: for 64-bit samples
        struct.error: if the file ends within its header
    """
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    (offset,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, offset)
    if count > MAX_ENTRIES:
        raise CorruptImage(f"the TIFF image's directory claims {count} entries; at most {MAX_ENTRIES} are read")
    entry, start = (20, offset + 8) if big else (12, offset + 2)
    sides = dict.fromkeys((256, 257, 322, 323), 0)
    for at in range(start, min(start + count * entry, len(data) - entry + 1), entry):
        tag, kind = struct.unpack_from(order + "HH", data, at)
        if tag in sides:
            value = {3: "H", 4: "I", 16: "Q"}.get(kind)
            if value is None:
                raise CorruptImage("the TIFF image gives its size as something else than a whole number")
            (sides[tag],) = struct.unpack_from(order + value, data, at + entry - (8 if big else 4))
        elif (tag, kind) == (258, 3) and struct.unpack_from(order + "H", data, at + entry - (8 if big else 4)) == (64,):
            raise UnsupportedImage("a TIFF image of 64-bit numbers; 8, 16 and 32 bits are read")
    return max(sides[256], sides[322] if sides[256] else 0), max(sides[257], sides[323] if sides[257] else 0)
