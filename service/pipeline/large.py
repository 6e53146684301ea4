"""Pictures that are read by rows: what the network sees of them, and their labels as rows, in a small part of their memory."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.pipeline import intensity
from service.pipeline.codecs.grey import Conversion
from service.pipeline.codecs.rows import PictureFile
from service.pipeline.manifest import InputPolicy, Manifest
from service.pipeline.segmentation import Timing

Labels = NDArray[np.uint8]

ROWS = 256
"""Rows of a band."""

_NO_PIXELS = np.empty((0, 0, 3), np.uint8)


class GreyRows:
    """A picture of one channel: its rows as the network sees them, and as people do.

    Takes:
        policy: of a network that takes grey
    Raises:
        as ``PictureFile.grey_bands``
    """

    def __init__(self, picture: PictureFile, policy: InputPolicy) -> None:
        self._picture, self._policy = picture, policy

    def bands(self) -> Iterator[NDArray[Any]]:
        """Give n x W of the policy's dtype each, from the top row to the bottom one, after the intensity policy."""
        for band in self._picture.grey_bands(self._policy.dtype):
            yield intensity.policed(band, self._policy.intensity, self._window)

    def shown(self) -> Iterator[NDArray[np.uint8]]:
        """Give n x W x 3 uint8 each, as ``intensity.preview`` draws the whole."""
        for band in self.bands():
            yield intensity.preview(band, self._range)

    @cached_property
    def _window(self) -> intensity.Window | None:
        if self._policy.intensity is None:
            return None
        return intensity.window_of(lambda: self._picture.grey_bands(self._policy.dtype), self._policy.intensity)

    @cached_property
    def _range(self) -> intensity.Window | None:
        if self._policy.dtype == "uint8":
            return None
        ranges = [intensity.range_of(band) for band in self.bands()]
        return intensity.Window(min(each.low for each in ranges), max(each.high for each in ranges))


class PackedRows:
    """H x W uint8 that is kept compressed, and is written and read from the top row to the bottom one.

    Takes:
        width: W
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._bands: list[bytes] = []
        self._pending = np.empty((0, width), np.uint8)

    def add(self, rows: Labels) -> None:
        """Add rows.

        Takes:
            rows: n x W uint8
        """
        self._pending = np.concatenate([self._pending, rows])
        while len(self._pending) >= ROWS:
            self._pack(self._pending[:ROWS])
            self._pending = self._pending[ROWS:].copy()

    def finish(self) -> None:
        """Pack what is left of the last band."""
        if len(self._pending):
            self._pack(self._pending)
            self._pending = self._pending[:0].copy()

    def _pack(self, rows: Labels) -> None:
        self._bands.append(zlib.compress(rows.tobytes(), 1))

    def __iter__(self) -> Iterator[Labels]:
        """Give bands of ``ROWS`` rows; the last one of what is left."""
        for band in self._bands:
            yield np.frombuffer(zlib.decompress(band), np.uint8).reshape(-1, self._width)


@dataclass(frozen=True, eq=False)
class LargeSegmentation:
    """The result of one picture that is read by rows."""

    picture: PictureFile
    labels: PackedRows
    """H x W: the class id of every pixel, in bands of ``ROWS``."""
    certainty: PackedRows | None
    """H x W: the winner's calibrated probability, 255 is certainty, in the same bands; None where it was not asked for."""
    manifest: Manifest
    sha256: str
    timing: Timing
    shown: Callable[[], Iterator[NDArray[np.uint8]]]
    """Gives n x W x 3 uint8 each, from the top row to the bottom one: the picture, as people see it."""

    @property
    def converted(self) -> tuple[Conversion, ...]:
        """What was changed of a picture that is another than its network takes."""
        return self.picture.converted

    def bands(self, *, pictured: bool) -> Iterator[tuple[Labels, Labels | None, NDArray[np.uint8]]]:
        """Give the result from top to bottom: bands of ``ROWS`` rows, the last one of fewer.

        Takes:
            pictured: whether the picture's own pixels are wanted, which are then read again
        Gives:
            labels n x W, certainty n x W or None, the picture n x W x 3, without pixels where it is not wanted; uint8
        Raises:
            CorruptImage: if the picture changed meanwhile
        """
        images = of_height(self.shown(), ROWS) if pictured else None
        certainties = iter(self.certainty) if self.certainty is not None else None
        for labels in self.labels:
            yield labels, next(certainties) if certainties else None, next(images) if images else _NO_PIXELS
        if images is not None and next(images, None) is not None:  # reads to the end, where a change is found
            raise AssertionError("the picture has more rows than its labels")


def of_height(bands: Iterable[NDArray[np.uint8]], rows: int) -> Iterator[NDArray[np.uint8]]:
    """Cut a picture that comes by rows into bands of so many rows; the last one has what is left."""
    held: list[NDArray[np.uint8]] = []
    count = 0
    for stored in bands:
        band = stored
        while count + len(band) >= rows:
            part, band = band[: rows - count], band[rows - count :]
            yield np.concatenate([*held, part]) if held else part
            held, count = [], 0
        if len(band):
            held, count = [*held, band.copy()], count + len(band)
    if held:
        yield np.concatenate(held)


class Window:
    """A picture that comes by rows, as rectangles whose rows never go back up.

    Takes:
        bands: n x W x 3 or n x W each, from the top row to the bottom one
    """

    def __init__(self, bands: Iterator[NDArray[Any]]) -> None:
        self._bands = bands
        self._held: list[tuple[int, NDArray[Any]]] = []
        """Row and pixels of the bands that are at hand."""
        self._bottom = 0

    def __call__(self, rows: slice, columns: slice) -> NDArray[Any]:
        """Return rows x columns x channels."""
        while self._bottom < rows.stop:
            band = next(self._bands)
            self._held.append((self._bottom, band))
            self._bottom += len(band)
        self._held = [(top, band) for top, band in self._held if top + len(band) > rows.start]
        parts = [band[max(0, rows.start - top) : rows.stop - top, columns] for top, band in self._held if top < rows.stop]
        found = np.concatenate(parts)
        return found[..., None] if found.ndim == 2 else found

    def finish(self) -> None:
        """Read to the end of the picture, where damage and changes are found."""
        for _ in self._bands:
            pass
