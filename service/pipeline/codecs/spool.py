"""The rows of a picture on the disk: decoded once, turned, and read from the top as often as is needed.

A picture that is stored turned comes column by column, or from the bottom. So each part is turned alone and written behind the
others into a temporary file; a row of the upright picture is then a piece of one block, or a piece of each.

The file lies in the folder for temporary files (``TMPDIR``). It has no name there, and ends with the process. Not a memory map:
a disk that fills up would end the process.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.pipeline.codecs.orientation import SIDEWAYS, upright

BAND_BYTES = 8 << 20
"""Bytes of the rows that are read at a time."""

_LAST_FIRST = (3, 4, 6, 7)
"""Orientations of which the last stored row comes first, from the top or from the left."""


class _Block(NamedTuple):
    """Some stored rows, turned: where they lie in the file."""

    start: int
    shape: tuple[int, ...]
    """n x m or n x m x C of the upright picture."""


class Spool:
    """A picture on the disk. Thread-safe once it is written.

    Takes:
        stored: n x W x C or n x W each, all of one dtype, from the first stored row to the last one; at least one
        orientation: of EXIF; other numbers than 2 to 8 leave the picture as it is
    Raises:
        OSError: if the temporary file cannot be written, naming its folder
        anything that ``stored`` raises
    """

    def __init__(self, stored: Iterable[NDArray[Any]], orientation: int) -> None:
        self._is_sideways = orientation in SIDEWAYS
        self._blocks: list[_Block] = []
        self._file = _temporary()
        weakref.finalize(self, os.close, self._file)
        at = 0
        for band in stored:
            block = upright(band, orientation)
            self._blocks.append(_Block(at, block.shape))
            self._dtype = block.dtype
            at = self._write(block, at)
        if orientation in _LAST_FIRST:
            self._blocks.reverse()

    def bands(self) -> Iterator[NDArray[Any]]:
        """Read the picture.

        Gives:
            rows x W x C or rows x W each, from the top row to the bottom one; arrays of their own
        Raises:
            OSError: if the file cannot be read
        """
        if not self._is_sideways:
            for block in self._blocks:
                yield self._read(block, 0, block.shape[0])
            return
        height = self._blocks[0].shape[0]
        row_bytes = sum(self._row_bytes(block) for block in self._blocks)
        step = max(1, BAND_BYTES // row_bytes)
        for top in range(0, height, step):
            yield np.concatenate([self._read(block, top, min(step, height - top)) for block in self._blocks], axis=1)

    def _row_bytes(self, block: _Block) -> int:
        return int(np.prod(block.shape[1:])) * self._dtype.itemsize

    def _read(self, block: _Block, top: int, rows: int) -> NDArray[Any]:
        """Read some rows of a block."""
        length, at = rows * self._row_bytes(block), block.start + top * self._row_bytes(block)
        found = np.empty((rows, *block.shape[1:]), self._dtype)
        left = found.reshape(-1).view(np.uint8).data
        while left:
            count = os.preadv(self._file, [left], at + length - len(left))
            if not count:
                raise OSError(f"the temporary file in {tempfile.gettempdir()} was cut short")
            left = left[count:]
        return found

    def _write(self, block: NDArray[Any], at: int) -> int:
        """Write a block, and return where the next one begins."""
        left = block.reshape(-1).view(np.uint8).data
        try:
            while left:
                count = os.pwrite(self._file, left, at)
                at, left = at + count, left[count:]
        except OSError as error:
            folder = tempfile.gettempdir()
            reason = f"{error.strerror} in {folder}, where the picture's rows are kept; TMPDIR names another folder"
            raise OSError(error.errno, reason) from error
        return at


def _temporary() -> int:
    """Open a temporary file that has no name."""
    with tempfile.TemporaryFile(buffering=0) as file:
        return os.dup(file.fileno())
