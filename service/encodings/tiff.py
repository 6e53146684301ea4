"""A label map as a TIFF file: ``format=tiff``. Where the picture is a GeoTIFF, the mask lies where the picture lies.

One strip, deflated, little-endian, with the classes' colours as its colour map. The tag ``GDAL_NODATA`` names 255, unlabelled.
Sources: TIFF 6.0 (Adobe 1992); OGC GeoTIFF 1.1 (19-008r4).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from service.encodings.by_rows import ByRows, Sheet
from service.encodings.format import Format
from service.encodings.geo import Geo
from service.encodings.runs import UNLABELLED
from service.encodings.several import zipped
from service.encodings.view import MaskView

try:
    from isal.isal_zlib import compress
except ImportError:  # the same files, more slowly
    from zlib import compress

_ASCII, _SHORT, _LONG, _DOUBLE = 2, 3, 4, 12
_CODES = {_SHORT: "H", _LONG: "I", _DOUBLE: "d"}
_DEFLATE, _BLACK_IS_ZERO, _PALETTE = 8, 1, 3
_FLOATS = 3
_LEVEL = 1
_USER_DEFINED = 32767


@dataclass(frozen=True)
class _Tag:
    """One entry of the directory."""

    number: int
    kind: int
    values: tuple[float, ...] | bytes

    def packed(self) -> bytes:
        """The values' bytes."""
        if isinstance(self.values, bytes):
            return self.values
        whole = self.values if self.kind == _DOUBLE else [int(value) for value in self.values]
        return struct.pack(f"<{len(self.values)}{_CODES[self.kind]}", *whole)


def encode(labels: NDArray[np.uint8], palette: NDArray[np.uint8], geo: Geo | None = None) -> bytes:
    """Write a label map.

    Takes:
        labels: H x W uint8, H and W at least 1
        palette: 256 x 3 uint8 RGB, the colour of every pixel value
        geo: where the picture lies; None writes no georeference
    Gives:
        the file: the pixel value is the class id
    """
    height, width = labels.shape
    strip = bytes(compress(np.ascontiguousarray(labels), _LEVEL))
    at = 8 + len(strip) + len(strip) % 2
    header = struct.pack("<2sHI", b"II", 42, at)
    return header + strip + bytes(len(strip) % 2) + _described((height, width), palette, geo, height, [len(strip)], at)


class RowWriter:
    """Writes one file by rows: one strip a band.

    Takes:
        file: empty; it can be sought
    """

    def __init__(self, file: BinaryIO, sheet: Sheet) -> None:
        self._file, self._sheet = file, sheet
        self._lengths: list[int] = []
        file.write(bytes(8))

    def add(self, view: MaskView) -> None:
        """Write a strip."""
        strip = bytes(compress(np.ascontiguousarray(view.labels), _LEVEL))
        self._file.write(strip)
        self._lengths.append(len(strip))

    def finish(self) -> None:
        """Write the directory, and the header that points to it."""
        sheet, at = self._sheet, self._file.tell()
        self._file.write(bytes(at % 2))
        at += at % 2
        self._file.write(_described((sheet.height, sheet.width), sheet.palette, sheet.geo, sheet.rows, self._lengths, at))
        self._file.seek(0)
        self._file.write(struct.pack("<2sHI", b"II", 42, at))


def _described(
    size: tuple[int, int], palette: NDArray[np.uint8], geo: Geo | None, rows: int, lengths: Sequence[int], at: int
) -> bytes:
    """Write the directory of a label map, and behind it the values that do not fit into its entries.

    Takes:
        size: (height, width)
        palette, geo: as of :func:`encode`
        rows: of every strip but the last one
        lengths: bytes of the strips, which lie one behind the other from byte 8
        at: where the directory will lie
    """
    height, width = size
    offsets = list(accumulate(lengths[:-1], initial=8))
    colors = (palette.T.astype(np.uint16) * 257).reshape(-1).tolist()
    tags = [
        _Tag(256, _LONG, (width,)),
        _Tag(257, _LONG, (height,)),
        _Tag(258, _SHORT, (8,)),
        _Tag(259, _SHORT, (_DEFLATE,)),
        _Tag(262, _SHORT, (_PALETTE,)),
        _Tag(273, _LONG, tuple(offsets)),
        _Tag(277, _SHORT, (1,)),
        _Tag(278, _LONG, (rows,)),
        _Tag(279, _LONG, tuple(lengths)),
        _Tag(320, _SHORT, tuple(colors)),
        *(_geo_tags(geo) if geo is not None else ()),
        _Tag(42113, _ASCII, f"{UNLABELLED}\0".encode()),
    ]
    return _directory(tags, at)


def encode_floats(array: NDArray[np.float32]) -> bytes:
    """Write one channel of floats.

    Takes:
        array: H x W float32, H and W at least 1
    Gives:
        the file: grey, each number as it is
    """
    height, width = array.shape
    strip = bytes(compress(np.ascontiguousarray(array, "<f4"), _LEVEL))
    tags = [
        _Tag(256, _LONG, (width,)),
        _Tag(257, _LONG, (height,)),
        _Tag(258, _SHORT, (32,)),
        _Tag(259, _SHORT, (_DEFLATE,)),
        _Tag(262, _SHORT, (_BLACK_IS_ZERO,)),
        _Tag(273, _LONG, (8,)),
        _Tag(277, _SHORT, (1,)),
        _Tag(278, _LONG, (height,)),
        _Tag(279, _LONG, (len(strip),)),
        _Tag(339, _SHORT, (_FLOATS,)),
    ]
    at = 8 + len(strip) + len(strip) % 2
    header = struct.pack("<2sHI", b"II", 42, at)
    return header + strip + bytes(len(strip) % 2) + _directory(tags, at)


def _directory(tags: list[_Tag], at: int) -> bytes:
    """The directory at an offset, and behind it the values that do not fit into its entries."""
    entries, behind = [], b""
    end = at + 2 + 12 * len(tags) + 4
    for tag in tags:
        values = tag.packed()
        count = len(values) if tag.kind == _ASCII else len(tag.values)
        if len(values) > 4:
            place = struct.pack("<I", end + len(behind))
            behind += values + bytes(len(values) % 2)
        else:
            place = values.ljust(4, b"\0")
        entries.append(struct.pack("<HHI", tag.number, tag.kind, count) + place)
    return struct.pack("<H", len(tags)) + b"".join(entries) + bytes(4) + behind


def _geo_tags(geo: Geo) -> list[_Tag]:
    """The georeference: scale and tie point where the picture is upright on the map, otherwise the whole matrix."""
    x0, x_column, x_row, y0, y_column, y_row = geo.transform
    if x_row == y_column == 0 and x_column > 0 > y_row:
        placed = [_Tag(33550, _DOUBLE, (x_column, -y_row, 0.0)), _Tag(33922, _DOUBLE, (0.0, 0.0, 0.0, x0, y0, 0.0))]
    else:
        rows = (x_column, x_row, 0.0, x0), (y_column, y_row, 0.0, y0), (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)
        placed = [_Tag(34264, _DOUBLE, tuple(value for row in rows for value in row))]
    model, key = (1, 3072) if geo.projected else (2, 2048)
    keys = [(1024, _USER_DEFINED if geo.epsg is None else model), (1025, 1)]
    if geo.epsg is not None:
        keys.append((key, geo.epsg))
    directory = [(1, 1, 0, len(keys)), *((number, 0, 1, value) for number, value in keys)]
    return [*placed, _Tag(34735, _SHORT, tuple(value for entry in directory for value in entry))]


FORMAT = Format(
    "tiff",
    ".tif",
    "image/tiff",
    "The pixel value is the class id, as a TIFF; where the picture is a GeoTIFF, the mask has its georeference.",
    encode=lambda view: encode(view.labels, view.palette(), view.geo),
    gather=zipped(".tif"),
    by_rows=ByRows(RowWriter),
    takes=frozenset(("palette",)),
)
