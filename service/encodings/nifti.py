"""A label volume as NIfTI: the scan's own header, its shape and affine untouched, with labels as uint8.

The header is copied byte for byte, in its own byte order, except the fields that describe the values: data type, bits, slope 1,
intercept 0, display range and offset. Readers that apply slope and intercept therefore read whole numbers. Extensions of the
header are left out: they describe the scan.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.encodings.format import Format
from service.encodings.view import MaskView

UINT8 = 2
"""NIfTI's code of the data type."""
MAX_VOXELS = 1 << 31
"""The largest volume that is read: a document of a few bytes cannot ask for all memory."""


@dataclass(frozen=True)
class _Layout:
    """Where a version of the header has its fields: (offset, struct format)."""

    length: int
    dim: tuple[int, str]
    datatype: tuple[int, str]
    bitpix: tuple[int, str]
    offset: tuple[int, str]
    values: tuple[tuple[int, str, float], ...]
    """Fields that describe the values, and what they become."""


_LAYOUTS = {
    348: _Layout(
        348,
        dim=(40, "8h"),
        datatype=(70, "h"),
        bitpix=(72, "h"),
        offset=(108, "f"),
        values=((112, "f", 1.0), (116, "f", 0.0), (124, "f", 0.0), (128, "f", 0.0), (140, "i", 0), (144, "i", 0)),
    ),
    540: _Layout(
        540,
        dim=(16, "8q"),
        datatype=(12, "h"),
        bitpix=(14, "h"),
        offset=(168, "q"),
        values=((176, "d", 1.0), (184, "d", 0.0), (192, "d", 0.0), (200, "d", 0.0)),
    ),
}
"""By the header's length: NIfTI-1 and NIfTI-2."""


def encode(labels: NDArray[np.uint8], header: bytes, *, compressed: bool) -> bytes:
    """Write a label volume.

    Takes:
        labels: X x Y x Z uint8, in the order of the scan
        header: of the scan, 348 or 540 bytes, in its own byte order
        compressed: whether the file is compressed with gzip
    Gives:
        the file: .nii, or .nii.gz
    """
    layout, order = _LAYOUTS[len(header)], _byte_order(header)
    made = bytearray(header)
    fields = [(*layout.datatype, UINT8), (*layout.bitpix, 8), (*layout.offset, layout.length + 4), *layout.values]
    for at, kind, value in fields:
        struct.pack_into(order + kind, made, at, value)
    parts = bytes(made) + bytes(4), _in_file_order(labels).data
    return _compressed(parts) if compressed else b"".join(parts)


def decode(data: bytes) -> NDArray[np.uint8]:
    """Read a label volume.

    Takes:
        data: a file that :func:`encode` wrote
    Gives:
        X x Y x Z uint8
    Raises:
        ValueError: if it is not a NIfTI file of uint8 labels in one volume
    """
    try:
        data = zlib.decompressobj(31).decompress(data, MAX_VOXELS) if data.startswith(b"\x1f\x8b") else data
        length = 348 if data[344:348] == b"n+1\0" else 540
        layout, order = _LAYOUTS[length], _byte_order(data[:length])
        count, *sides = struct.unpack_from(order + layout.dim[1], data, layout.dim[0])
        (datatype,) = struct.unpack_from(order + layout.datatype[1], data, layout.datatype[0])
        (offset,) = struct.unpack_from(order + layout.offset[1], data, layout.offset[0])
        x, y, z = (*sides[:count], 1, 1)[:3]
        one_volume = min(sides[:count]) > 0 and max((*sides[3:count], 1)) == 1 and x * y * z <= MAX_VOXELS
        labels = np.frombuffer(data, np.uint8, x * y * z if one_volume else 0, int(offset))
    except (zlib.error, struct.error, IndexError, OverflowError, ValueError) as error:
        raise ValueError(f"not a NIfTI file of labels, or a damaged one: {error}") from error
    if datatype != UINT8 or not one_volume:
        raise ValueError("not a NIfTI file of uint8 labels in one volume")
    return labels.reshape((x, y, z), order="F").copy()


def _in_file_order(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Z x Y x X: the first axis of the scan is the fastest. Turned plane by plane, in the cache: a tenth of the time."""
    turned = np.empty(labels.shape[::-1], np.uint8)
    for y in range(labels.shape[1]):
        turned[:, y] = labels[:, y].copy().T
    return turned


def _byte_order(header: bytes) -> str:
    return "<" if struct.unpack_from("<i", header)[0] == len(header) else ">"


def _compressed(parts: Iterable[bytes | memoryview]) -> bytes:
    packer: Any
    try:
        from isal import isal_zlib  # noqa: PLC0415 - of the extra 'serve', which a client need not have

        packer = isal_zlib.compressobj(2, isal_zlib.DEFLATED, 31)
    except ImportError:
        packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return b"".join([*(packer.compress(part) for part in parts), packer.flush()])


def _written(view: MaskView) -> bytes:
    assert view.volume is not None  # noqa: S101 - see ``registry.encode``
    return encode(view.labels, view.volume.header, compressed=view.volume.compressed)


FORMAT = Format(
    "nifti",
    ".nii.gz",
    "application/x-nifti",
    "The label volume of a scan in its own grid, shape, affine and header; compressed if the scan was, or was DICOM.",
    encode=_written,
    decode=decode,
    volumes="only",
)
