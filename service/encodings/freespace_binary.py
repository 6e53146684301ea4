"""Free space in bytes, for programs that read it at the rate of a camera. Little-endian, version 1.

======= ============ ====================================================================================
offset  type         what
======= ============ ====================================================================================
0       4 bytes      ``FCNF``
4       uint16       1, the version
6       uint16       flags: bit 0 is set if distances, bearings and a scan follow; the other bits are 0
8       uint32       H, the image's height in pixels
12      uint32       W, the image's width in pixels
16      uint32       B, the beams of the scan; 0 without
20      float32 x 5  angle_min, angle_max, angle_increment (radians), range_min, range_max (metres); 0 without a scan
40      int32 x W    row of the lowest pixel of each column that is not drivable; -1 where there is none
..      uint8 x W    its class id; 255 where it is unlabelled or where there is none
..      uint8 x W    its probability times 255
..      0..3 bytes   0, up to a multiple of four from the beginning
..      float32 x W  with bit 0: metres to it on the ground; inf where there is none, NaN where it is unlabelled
..      float32 x W  with bit 0: its bearing in radians, positive to the left
..      float32 x B  with bit 0: the ranges of the scan, from right to left
======= ============ ====================================================================================
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from service.encodings.document import check_size
from service.encodings.driving import TAKES
from service.encodings.format import Format
from service.encodings.freespace import Freespace, of_view
from service.encodings.ground import Scan
from service.encodings.several import zipped

MAGIC, VERSION = b"FCNF", 1
_HEADER = struct.Struct("<4sHHIII5f")
_MEASURED = 1


def write(found: Freespace) -> bytes:
    """Write free space."""
    height, width = found.size
    scan = found.scan
    parts: list[NDArray[np.generic]] = [found.rows.astype("<i4"), found.labels, found.confidences]
    head = (0, height, width, 0, 0.0, 0.0, 0.0, 0.0, 0.0)
    if scan is not None and found.distances is not None and found.bearings is not None:
        angles = (scan.angle_min, scan.angle_max, scan.angle_increment)
        head = (_MEASURED, height, width, len(scan.ranges), *angles, scan.range_min, scan.range_max)
        parts.append(np.zeros(_padding(width), np.uint8))
        parts += [values.astype("<f4") for values in (found.distances, found.bearings, scan.ranges)]
    else:
        parts.append(np.zeros(_padding(width), np.uint8))
    return _HEADER.pack(MAGIC, VERSION, *head) + b"".join(part.tobytes() for part in parts)


def read(body: bytes) -> Freespace:
    """Read free space.

    Raises:
        ValueError: if it is of another kind or version, or cut
    """
    if len(body) < _HEADER.size or body[:4] != MAGIC:
        raise ValueError("not free space: it begins with FCNF, and 40 bytes")
    _, version, flags, height, width, beams, *numbers = _HEADER.unpack_from(body)
    if version != VERSION or flags & ~_MEASURED:
        raise ValueError(f"free space of version {version} with flags {flags}; this reads version {VERSION}")
    check_size(height, width)
    measured = bool(flags & _MEASURED)
    if measured != (beams > 0):
        raise ValueError(f"free space with {beams} beams and flags {flags}")
    columns = _HEADER.size + 6 * width + _padding(width)
    if len(body) != columns + measured * 4 * (2 * width + beams):
        raise ValueError(f"free space of {width} columns and {beams} beams has another length than {len(body)} bytes")
    rows = np.frombuffer(body, "<i4", width, _HEADER.size).astype(np.int32)
    labels = np.frombuffer(body, np.uint8, width, _HEADER.size + 4 * width)
    sure = np.frombuffer(body, np.uint8, width, _HEADER.size + 5 * width)
    if rows.min() < -1 or rows.max() >= height:
        raise ValueError(f"free space with a row that is not -1..{height - 1}")
    if not measured:
        return Freespace((height, width), rows, labels, sure)
    metres, bearings, ranges = np.split(np.frombuffer(body, "<f4", 2 * width + beams, columns), [width, 2 * width])
    angle_min, angle_max, increment, range_min, range_max = numbers
    scan = Scan(angle_min, angle_max, increment, range_min, range_max, ranges.astype(np.float32))
    return Freespace((height, width), rows, labels, sure, metres.astype(np.float32), bearings.astype(np.float32), scan)


def _padding(width: int) -> int:
    """Zero bytes after the columns: the header and the rows are multiples of four already."""
    return -2 * width % 4


FORMAT = Format(
    "freespace-binary",
    ".freespace",
    "application/x-freespace",
    "Free space as little-endian bytes, version 1: the same as `freespace`, for programs at a camera's rate.",
    encode=lambda view: write(of_view(view)[0]),
    gather=zipped(".freespace"),
    takes=TAKES,
)
