"""Pictures of files that are larger than those that are decoded whole: read by rows, in the memory of a few of them.

TIFF and PNG. A part of such a file is made a file of its own, and decoded by the reader that decodes whole files, so that the
pixels are the same: see ``tiff_parts`` and ``png_parts``.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import CorruptImage, ImageTooLarge, UnsupportedImage
from service.pipeline.codecs import decoding, orientation, png, png_parts, tiff, tiff_parts
from service.pipeline.codecs.damage import damage
from service.pipeline.codecs.decoding import Dtype
from service.pipeline.codecs.file_bytes import CHANGED, FileBytes
from service.pipeline.codecs.georeference import Georeference
from service.pipeline.codecs.georeference import of as georeference_of
from service.pipeline.codecs.grey import Conversion
from service.pipeline.codecs.levels import Levels
from service.pipeline.codecs.limits import Limits
from service.pipeline.codecs.spool import Spool

MAX_SIDE = 65_535
"""The longest side of a picture that is read by rows, in pixels."""

_KINDS = {b"\x89PNG\r\n\x1a\n": "PNG", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF"}


class PictureFile:
    """A picture that is read by rows: its size, and its pixels each time that they are asked for.

    Takes:
        path: of a TIFF or PNG file
        limits: on images
    Raises:
        ImageTooLarge: if it has more than ``limits.max_file_pixels``, a side of more than ``MAX_SIDE``, or strips too large
        UnsupportedImage: if it is of a kind that is not read by rows, naming it
        CorruptImage: if it is damaged
        OSError: if it cannot be read
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path = path
        self._limits = replace(limits, max_pixels=tiff_parts.MOST_PIXELS, max_side=MAX_SIDE, max_bytes=sys.maxsize)
        with FileBytes(path) as file:
            self.format = kind_of(file) or ""
            if not self.format:
                raise UnsupportedImage("only TIFF and PNG files are read by rows")
            with damage(self.format):
                width, height = size_of(file, self.format)
                _check_size(self.format, width, height, limits)
                parts = self._parts(file)
                self._orientation = parts.orientation
                self.geo: Georeference | None = georeference_of(file) if self.format == "TIFF" else None
            self._stored_height = parts.height
            self.height, self.width = orientation.upright_size(parts.height, parts.width, self._orientation)
            self._state = file.state
        self._levels: dict[Dtype | None, Levels] = {}
        self._spools: dict[Dtype | None, Spool] = {}
        self._converted: set[Conversion] = set()

    @property
    def converted(self) -> tuple[Conversion, ...]:
        """What was changed of the picture for :meth:`grey_bands`, as far as its rows were read."""
        return tuple(sorted(self._converted))

    def bands(self) -> Iterator[NDArray[np.uint8]]:
        """Decode the picture, from the top row to the bottom one. One that is stored turned is decoded once, into a ``Spool``.

        Gives:
            n x W x 3 uint8 RGB each, upright
        Raises:
            CorruptImage: if the file is truncated or damaged, or changes meanwhile
            UnsupportedImage: as of ``decoding.decode``
            OSError: if a temporary file cannot be written
        """
        return self._spooled(None) if self._orientation in orientation.TURNED else self._stored(None)

    def grey_bands(self, dtype: Dtype) -> Iterator[NDArray[Any]]:
        """Decode the picture to one channel, from the top row to the bottom one; once, into a ``Spool``.

        Takes:
            dtype: as of ``decoding.decode_grey``
        Gives:
            n x W of that dtype each, upright; arrays of their own
        Raises:
            as :meth:`bands`
            UnsupportedImage: also if ``dtype`` cannot hold the numbers
        """
        return self._spooled(dtype)

    def _spooled(self, dtype: Dtype | None) -> Iterator[NDArray[Any]]:
        if dtype not in self._spools:
            self._spools[dtype] = Spool(self._stored(dtype), self._orientation)
        with FileBytes(self.path) as file:
            self._check_state(file)
        yield from self._spools[dtype].bands()

    def _stored(self, dtype: Dtype | None) -> Iterator[NDArray[Any]]:
        """Decode the picture as it is stored, from its first row to the last one; None is RGB."""
        with FileBytes(self.path) as file, damage(self.format):
            self._check_state(file)
            parts = self._parts(file)
            if parts.needs_levels and dtype not in self._levels:
                found = [decoding.survey(part, self.format, self._limits, dtype) for part in parts]
                self._levels[dtype] = functools.reduce(Levels.merged, found)
            levels = self._levels.get(dtype, Levels())
            rows = 0
            for part in parts:
                if dtype is None:
                    band = decoding.decode_as(part, self.format, self._limits, levels)
                else:
                    grey = decoding.decode_grey_as(part, self.format, self._limits, dtype, levels)
                    band = grey.values
                    self._converted.update(grey.converted)
                rows += len(band)
                yield band
            if rows != self._stored_height:
                raise CorruptImage(f"the {self.format} image has {rows} of {self._stored_height} rows")
            file.check_unchanged()

    def _check_state(self, file: FileBytes) -> None:
        if file.state != self._state:
            raise CorruptImage(CHANGED)

    def _parts(self, file: FileBytes) -> png_parts.Parts | tiff_parts.Parts:
        return png_parts.Parts(file) if self.format == "PNG" else tiff_parts.Parts(file)


def read_by_rows(path: Path, limits: Limits) -> PictureFile | None:
    """Open a file by rows if it is too large to be decoded whole.

    Gives:
        None for a file within the limits, and for one of another format than TIFF and PNG
    Raises:
        as :class:`PictureFile`
    """
    with FileBytes(path) as file:
        kind = kind_of(file)
        if kind is None:
            return None
        with damage(kind):
            width, height = size_of(file, kind)
        within = width * height <= limits.max_pixels and max(width, height) <= limits.max_side
        if within and len(file) <= limits.max_bytes:
            return None
    return PictureFile(path, limits)


def kind_of(file: FileBytes) -> str | None:
    """Return ``PNG`` or ``TIFF``; None for another format."""
    head = file[:8]
    return _KINDS.get(head) or _KINDS.get(head[:4])


def size_of(file: FileBytes, kind: str) -> tuple[int, int]:
    """Read (width, height)."""
    return png.size(file[:64]) if kind == "PNG" else tiff.size(file)


def _check_size(kind: str, width: int, height: int, limits: Limits) -> None:
    if width < 1 or height < 1:
        raise CorruptImage(f"the {kind} image has no pixels: it is {width} x {height}")
    if width * height > limits.max_file_pixels:
        message = f"the image is {width} x {height} = {width * height} pixels; at most {limits.max_file_pixels} are taken"
        message += " from files: cut it, or raise FCN_MAX_FILE_PIXELS"
        raise ImageTooLarge(message, limit=limits.max_file_pixels, actual=width * height, unit="pixels")
    if max(width, height) > MAX_SIDE:
        message = f"the image is {width} x {height}; a side has at most {MAX_SIDE} pixels: cut it"
        raise ImageTooLarge(message, limit=MAX_SIDE, actual=max(width, height), unit="pixels a side")
