"""The raw label map as a ``.npy`` file."""

from __future__ import annotations

import io
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from service.encodings.by_rows import ByRows, Sheet
from service.encodings.format import Format
from service.encodings.view import MaskView


def encode(labels: NDArray[np.uint8]) -> bytes:
    """Write a label map.

    Takes:
        labels: H x W uint8, or X x Y x Z of a scan
    Gives:
        the file, as ``numpy.load`` reads it
    """
    buffer = io.BytesIO()
    np.save(buffer, labels, allow_pickle=False)
    return buffer.getvalue()


class RowWriter:
    """Writes the same file by rows.

    Takes:
        file: empty
    """

    def __init__(self, file: BinaryIO, sheet: Sheet) -> None:
        self._file = file
        about = {"descr": "|u1", "fortran_order": False, "shape": (sheet.height, sheet.width)}
        np.lib.format.write_array_header_1_0(file, about)

    def add(self, view: MaskView) -> None:
        """Write a band."""
        self._file.write(view.labels.tobytes())

    def finish(self) -> None:
        """Write nothing more."""


def decode(data: bytes) -> NDArray[np.uint8]:
    """Read a label map back.

    Takes:
        data: the file
    Gives:
        H x W or X x Y x Z uint8
    Raises:
        ValueError: if it is not a .npy file of a uint8 array of two or three dimensions
    """
    try:
        labels = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # numpy reads the header as Python, and damage raises nearly anything
        raise ValueError("not a .npy file, or a damaged one") from error
    if not isinstance(labels, np.ndarray) or labels.dtype != np.uint8 or labels.ndim not in (2, 3):
        raise ValueError("not a .npy file of a uint8 array of two or three dimensions")
    return labels


FORMAT = Format(
    "npy",
    ".npy",
    "application/x-npy",
    "The class ids as numpy's own file.",
    encode=lambda view: encode(view.labels),
    decode=decode,
    volumes="yes",
    by_rows=ByRows(RowWriter),
)
