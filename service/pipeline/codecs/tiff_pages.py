"""The directories of a TIFF file: tags, and the page that holds the picture.

Source: TIFF revision 6.0 (Adobe, 1992), sections 2 and 8; the BigTIFF proposal (2004); DNG 1.7 (Adobe, 2023) for camera raw.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from service.errors import CorruptImage, UnsupportedImage
from service.pipeline.codecs.file_bytes import FileBytes

Data = bytes | FileBytes
"""A file, whole or on the disk."""

MAX_ENTRIES = 4096
"""The entries of all directories that are read; a picture has some twenty. They bound the walk through a file of entries."""
MAX_SUB_DIRECTORIES = 64
"""Read of one directory; a raw picture has up to five, a pyramid some ten."""

MAX_NUMBERS = 1 << 23
"""Numbers of one tag that are read from a file on the disk: one strip a row and band of a gigapixel are fewer."""
MAX_KEPT = 1 << 17
"""Bytes of a tag that goes along with a part of a picture; those that pixels depend on have less."""

MAX_DESCRIPTION = 1 << 16
"""Bytes of a description that are searched for the number of channels."""

_IMAGEJ_CHANNELS = re.compile(rb"^channels=(\d{1,6})\s*$", re.MULTILINE)
_OME_CHANNELS = re.compile(rb"""\bSizeC=["'](\d{1,6})["']""")
_FORMATS = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q", 17: "q"}
"""Formats of ``struct`` by TIFF's types; rational numbers (5, 10) are read nowhere."""
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8}
"""Bytes by TIFF's types."""
WHOLE = (1, 3, 4, 16)
"""Types of whole numbers that are never negative."""
_RAW = (32803, 34892)
"""Photometric interpretations of camera raw: the mosaic of a colour filter, and linear sensor values."""


_ELSEWHERE = frozenset((288, 330, 34665, 34853, 40965))
"""Tags whose value is an offset in the file: of free space, sub-directories, EXIF, GPS and interoperability."""


class Tag(IntEnum):
    """Tags that are read."""

    NEW_SUBFILE = 254
    SUBFILE = 255
    WIDTH = 256
    LENGTH = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    DESCRIPTION = 270
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    SAMPLES = 277
    ROWS = 278
    STRIP_BYTES = 279
    PLANAR = 284
    PREDICTOR = 317
    COLORS = 320
    TILE_WIDTH = 322
    TILE_LENGTH = 323
    TILE_OFFSETS = 324
    TILE_BYTES = 325
    SUB_DIRECTORIES = 330
    EXTRA = 338
    FORMAT = 339
    JPEG_TABLES = 347
    SUBSAMPLING = 530
    PROFILE = 34675
    NODATA = 42113


@dataclass(frozen=True)
class Page:
    """One directory of a file: its tags, read when they are asked for."""

    data: Data = field(repr=False)
    order: str
    """The byte order as ``struct`` writes it: ``<`` or ``>``."""
    big: bool
    """BigTIFF: 64-bit offsets."""
    offset: int
    following: int
    """Offset of the next directory; 0 for the last one."""
    entries: dict[int, tuple[int, int, int]] = field(repr=False)
    """Tag to (type, count, offset of the value)."""

    def numbers(self, tag: int) -> tuple[Any, ...]:
        """Read the numbers of a tag; () where it is absent or not of numbers.

        Raises:
            struct.error: if they lie outside the file
            CorruptImage: if they are more than any picture has
        """
        kind, count, at = self.entries.get(tag, (0, 0, 0))
        if kind not in _FORMATS:
            return ()
        if count > MAX_NUMBERS and isinstance(self.data, FileBytes):
            raise CorruptImage(f"the TIFF image's tag {tag} claims {count} numbers; at most {MAX_NUMBERS} are read")
        return unpack(f"{self.order}{count}{_FORMATS[kind]}", self.data, at)

    def number(self, tag: int, default: int) -> int:
        """Read the first number of a Tag."""
        found = self.numbers(tag)
        return int(found[0]) if found else default

    def first_and_upright(self) -> bytes:
        """Return the file with this page as its first one, and without orientation; the same bytes where nothing changes.

        Pillow follows no sub-directories, and obeys not all types of the tag.
        """
        at, form = (8, self.order + "Q") if self.big else (4, self.order + "I")
        if unpack(form, self.whole, at)[0] == self.offset and self.orientation == 1:
            return self.whole
        changed = bytearray(self.whole)
        struct.pack_into(form, changed, at, self.offset)
        kind, _, value = self.entries.get(Tag.ORIENTATION, (0, 0, 0))
        if kind in _FORMATS:
            struct.pack_into(self.order + _FORMATS[kind], changed, value, 1)
        return bytes(changed)

    def with_pieces(self, pieces: Sequence[bytes | None], changes: Mapping[int, Sequence[int]]) -> bytes:
        """Return a file of this page alone, with other strips or tiles. The file is a classic TIFF, whatever this one is.

        Takes:
            pieces: the bytes of each strip or tile, in their order; None is one that is not stored
            changes: tags with other values, 16-bit
        """
        file = bytearray((b"II*\0" if self.order == "<" else b"MM\0*") + bytes(4))
        offsets = []
        for piece in pieces:
            offsets.append(0 if piece is None else len(file))
            file += b"" if piece is None else piece + bytes(len(piece) % 2)
        where, how_long = (Tag.TILE_OFFSETS, Tag.TILE_BYTES) if self.is_tiled else (Tag.STRIP_OFFSETS, Tag.STRIP_BYTES)
        entries = {
            tag: (kind, count, self.data[at : at + _SIZES[kind] * count])
            for tag, (kind, count, at) in self.entries.items()
            if tag not in _ELSEWHERE and tag not in (where, how_long) and _SIZES.get(kind, MAX_KEPT) * count <= MAX_KEPT
        }
        for tag, values in changes.items():
            entries[tag] = (3, len(values), struct.pack(f"{self.order}{len(values)}H", *values))
        for tag, longs in ((where, offsets), (how_long, [len(piece or b"") for piece in pieces])):
            entries[tag] = (4, len(longs), struct.pack(f"{self.order}{len(longs)}I", *longs))
        directory = struct.pack(self.order + "H", len(entries))
        for tag, (kind, count, value) in sorted(entries.items()):
            inline = value.ljust(4, b"\0")
            if len(value) > 4:
                inline = struct.pack(self.order + "I", len(file))
                file += value + bytes(len(value) % 2)
            directory += struct.pack(self.order + "HHI", tag, kind, count) + inline
        struct.pack_into(self.order + "I", file, 4, len(file))
        return bytes(file + directory + bytes(4))

    @property
    def whole(self) -> bytes:
        """The file. Of one on the disk parts are read, and not all of it.

        Raises:
            TypeError: if it is one
        """
        if not isinstance(self.data, bytes):
            raise TypeError("a page of a file on the disk is read in parts")
        return self.data

    @property
    def orientation(self) -> int:
        """As in EXIF, of whatever integer type; 1 where it says nothing."""
        return self.number(Tag.ORIENTATION, 1)

    @property
    def nodata(self) -> float | None:
        """GDAL's number of pixels without a value; None where the file names none."""
        text = bytes(self.numbers(Tag.NODATA)[:64]).partition(b"\0")[0]
        try:
            return float(text)
        except ValueError:
            return None

    @property
    def channels(self) -> int:
        """Channels of the picture that ImageJ or OME store as pages of their own; 1 where the description names none."""
        text = bytes(self.numbers(Tag.DESCRIPTION)[:MAX_DESCRIPTION])
        pattern = _IMAGEJ_CHANNELS if text.startswith(b"ImageJ=") else _OME_CHANNELS if b"<OME" in text else None
        found = pattern.search(text) if pattern else None
        return int(found[1]) if found else 1

    @property
    def is_reduced(self) -> bool:
        """Whether the file marks this page as a thumbnail or a mask of another page."""
        return bool(self.number(Tag.NEW_SUBFILE, 0) & 5) or self.number(Tag.SUBFILE, 1) == 2

    def pieces(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Read the offsets and the lengths in bytes of the tiles or strips."""
        tags = (Tag.TILE_OFFSETS, Tag.TILE_BYTES) if self.is_tiled else (Tag.STRIP_OFFSETS, Tag.STRIP_BYTES)
        return self.numbers(tags[0]), self.numbers(tags[1])

    @property
    def is_tiled(self) -> bool:
        """Whether the samples are stored in tiles and not in strips."""
        return Tag.TILE_WIDTH in self.entries


def unpack(form: str, data: Data, at: int) -> tuple[Any, ...]:
    """Read numbers, as ``struct.unpack_from``.

    Raises:
        struct.error: if they lie outside the file
    """
    length = struct.calcsize(form)
    if at + length > len(data):
        raise struct.error(f"{length} bytes at {at} lie outside the file")
    return struct.unpack(form, data[at : at + length])


def find_page(data: Data) -> Page:
    """Find the page that holds the picture: the first one that is not marked as reduced.

    Sub-directories count before the next page. Where all are marked, it is the first.

    Raises:
        UnsupportedImage: if the file holds a camera's raw picture
        CorruptImage: if a directory is too long
        struct.error: if the file ends within a directory
    """
    if data[8:10] == b"CR" or data[8:12] == b"IIII":  # of Canon and Phase One, beside their thumbnails
        raise _raw()
    entries = MAX_ENTRIES
    first = _page(data, None, entries)
    entries -= len(first.entries)
    inside = first.numbers(Tag.SUB_DIRECTORIES)[:MAX_SUB_DIRECTORIES]
    below = []
    for offset in inside:
        below.append(_page(data, int(offset), entries))
        entries -= len(below[-1].entries)
    pages = [first, *below]
    if any(page.number(Tag.PHOTOMETRIC, -1) in _RAW for page in pages):
        raise _raw()
    found = next((page for page in pages if not page.is_reduced), None)
    page = first
    while found is None and page.following and entries > 0:
        page = _page(data, page.following, entries)
        entries -= max(1, len(page.entries))
        if page.number(Tag.PHOTOMETRIC, -1) in _RAW:
            raise _raw()
        found = None if page.is_reduced else page
    return found or first


def _raw() -> UnsupportedImage:
    return UnsupportedImage("a camera's raw picture (DNG, CR2, NEF, ARW, ...); develop it, and send a JPEG, PNG or TIFF image")


def _page(data: Data, offset: int | None, most: int) -> Page:
    """Read one directory; None is the first."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    if offset is None:
        (offset,) = unpack(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = unpack(order + ("Q" if big else "H"), data, offset)
    if count > most:
        raise CorruptImage(f"the TIFF image's directory claims {count} entries; at most {MAX_ENTRIES} are read")
    entry, start, inline = (20, offset + 8, 8) if big else (12, offset + 2, 4)
    entries = {}
    for at in range(start, min(start + count * entry, len(data) - entry + 1), entry):
        tag, kind, values = unpack(order + ("HHQ" if big else "HHI"), data, at)
        value = at + entry - inline
        if _SIZES.get(kind, 1) * values > inline:
            (value,) = unpack(order + ("Q" if big else "I"), data, value)
        entries[tag] = (kind, min(values, len(data)), value)
    end = start + count * entry
    following = unpack(order + ("Q" if big else "I"), data, end)[0] if end + inline <= len(data) else 0
    return Page(data, order, big, offset, following, entries)
