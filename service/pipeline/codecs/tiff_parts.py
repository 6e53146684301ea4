"""Some rows of a TIFF page as a TIFF file of their own, one part after the other: whole strips, or whole rows of tiles.

Strips and tiles are compressed each for itself, so a part has the pixels that it has in the page. Strips without compression
or with Deflate are cut where that is needed: many writers make one strip of the whole picture. ``rows`` turns the whole, and no
part.

Source: TIFF revision 6.0 (Adobe, 1992), sections 3, 15, 21.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Protocol

from service.errors import CorruptImage, ImageTooLarge, UnsupportedImage
from service.pipeline.codecs import tiff, tiff_samples
from service.pipeline.codecs.file_bytes import FileBytes
from service.pipeline.codecs.tiff_pages import Tag, find_page

PART_BYTES = 8 << 20
"""Bytes of a part, at three a pixel; one row of tiles or one strip may have more."""
MOST_PIXELS = 22_000_000
"""Pixels of one row of tiles, or of one strip that is not cut: 128 MiB at six bytes a pixel."""
READ_BYTES = 1 << 20
"""Compressed bytes that are read from the file at a time."""

_NONE, _OLD_JPEG, _JPEG = 1, 6, 7
_DEFLATE = (8, 32946)
_YCBCR = 6


class Parts:
    """The rows of the page that holds the picture.

    Takes:
        file: a TIFF file on the disk
    Raises:
        UnsupportedImage, CorruptImage: as ``tiff.decode``
        ImageTooLarge: if one row of tiles, or one strip that cannot be cut, is too large to be decoded at once
        struct.error: if the file ends within a directory
    """

    def __init__(self, file: FileBytes) -> None:
        page = self._page = find_page(file)
        self._file = file
        tiff.check_kind(page)
        self.width, self.height = page.number(Tag.WIDTH, 0), page.number(Tag.LENGTH, 0)
        self._compression, self._bits = page.number(Tag.COMPRESSION, _NONE), page.number(Tag.BITS, 1)
        bands = page.number(Tag.SAMPLES, 1)
        apart = page.number(Tag.PLANAR, 1) == 2
        self._planes, self._stored = (bands, 1) if apart else (1, bands)
        if self._compression == _OLD_JPEG:
            raise UnsupportedImage("a TIFF image with JPEG compression of the old kind (6); write it with the new one (7)")
        if page.is_tiled:
            columns, rows = page.number(Tag.TILE_WIDTH, 0), page.number(Tag.TILE_LENGTH, 0)
        else:
            columns, rows = self.width, min(page.number(Tag.ROWS, self.height), self.height)
        if min(columns, rows) < 1:
            raise CorruptImage("the TIFF image's strips or tiles have no pixels")
        self._across, self._down = -(-self.width // columns), -(-self.height // rows)
        self._offsets, self._lengths = page.pieces()
        pieces = self._across * self._down * self._planes
        if len(self._offsets) < pieces:
            raise CorruptImage(f"the TIFF image has {len(self._offsets)} strips or tiles of {pieces}")
        if len(self._lengths) < pieces and self._compression != _NONE:
            raise CorruptImage(f"the TIFF image has the lengths of {len(self._lengths)} strips or tiles of {pieces}")
        self._row_bytes = (columns * self._stored * self._bits + 7) // 8
        subsampled = page.number(Tag.PHOTOMETRIC, -1) == _YCBCR and self._compression != _JPEG
        in_order = self._compression == _NONE or page.number(Tag.FILL_ORDER, 1) == 1
        by_row = self._compression in (_NONE, *_DEFLATE) and in_order and not subsampled
        self._can_cut = by_row and not page.is_tiled
        self._rows = rows
        self.orientation = page.orientation
        """As in EXIF; other numbers than 2 to 8 leave the picture as it is."""
        if not self._can_cut and rows * self._across * columns > MOST_PIXELS:
            what = "row of tiles" if page.is_tiled else "strip"
            raise ImageTooLarge(
                f"a {what} of the TIFF image has {rows} x {self._across * columns} pixels; at most {MOST_PIXELS} are decoded "
                "at once: write it in tiles (gdal_translate -co TILED=YES) or in smaller strips",
                limit=MOST_PIXELS,
                actual=rows * self._across * columns,
                unit="pixels a strip",
            )
        layout = tiff_samples.layout_of(page)
        self.needs_levels = (
            Tag.EXTRA in page.entries or bands == 2 if layout is None else layout.bits > 8 or layout.alpha > 0
        ) or page.number(Tag.FORMAT, 1) != 1
        """Whether the pixels of a part depend on the others."""

    def __iter__(self) -> Iterator[bytes]:
        """Give the page in parts, from the top row to the bottom one.

        Raises:
            CorruptImage: if a strip or tile ends behind the file
        """
        most = max(1, min(PART_BYTES // (3 * self.width), 65535))
        if self._can_cut and self._rows > most:
            for strip in range(self._down):
                yield from self._cut(strip, most)
            return
        together = max(1, most // self._rows)
        for first in range(0, self._down, together):
            last = min(first + together, self._down)
            numbers = [
                (plane * self._down + place) * self._across + column
                for plane in range(self._planes)
                for place in range(first, last)
                for column in range(self._across)
            ]
            rows = min(last * self._rows, self.height) - first * self._rows
            yield self._file_of([self._piece(number) for number in numbers], {Tag.LENGTH: (rows,)})

    def _cut(self, strip: int, most: int) -> Iterator[bytes]:
        """Give the rows of a strip, in parts of so many."""
        rows = min(self._rows, self.height - strip * self._rows)
        planes = [self._strip(plane * self._down + strip) for plane in range(self._planes)]
        for first in range(0, rows, most):
            count = min(most, rows - first)
            pieces = [None if plane is None else plane.read(count * self._row_bytes) for plane in planes]
            yield self._file_of(pieces, {Tag.LENGTH: (count,), Tag.ROWS: (count,)})
        for plane in planes:
            if plane is not None:
                plane.finish()

    def _file_of(self, pieces: list[bytes | None], changes: dict[int, tuple[int, ...]]) -> bytes:
        """Return strips or tiles as a file of the page's kind, upright."""
        return self._page.with_pieces(pieces, {**changes, Tag.ORIENTATION: (1,)})

    def _strip(self, number: int) -> _Strip | None:
        """Open a strip to be read from its first row to its last one; None where it is not stored."""
        place = self._place(number)
        if place is None:
            return None
        return _Plain(self._file, *place) if self._compression == _NONE else _Deflated(self._file, *place)

    def _piece(self, number: int) -> bytes | None:
        """Read the bytes of a strip or tile; None where it is not stored."""
        place = self._place(number)
        return None if place is None else self._file[slice(*place)]

    def _place(self, number: int) -> tuple[int, int] | None:
        """Return where a strip or tile begins and ends in the file; None where it is not stored.

        Raises:
            CorruptImage: if it ends behind the file, or begins in the file's header
        """
        offset = int(self._offsets[number])
        known = number < len(self._lengths)
        length = int(self._lengths[number]) if known else self._row_bytes * self._rows
        if not offset:
            if length and known:
                raise CorruptImage("the TIFF image has a strip or tile at offset 0, which is the file's header")
            return None
        if self._compression == _NONE and not self._page.is_tiled:  # padding behind the last row is not needed
            rows = min(self._rows, self.height - number % self._down * self._rows)
            length = min(length, self._row_bytes * rows) if self._can_cut else length
        if offset + length > len(self._file):
            raise CorruptImage("the TIFF image is truncated: a strip or tile ends behind it")
        return offset, offset + length


class _Strip(Protocol):
    """A strip that is read from its first row to its last one."""

    def read(self, count: int) -> bytes:
        """Return so many bytes of samples, stored as the page's compression wants it."""

    def finish(self) -> None:
        """Check what stands behind the last row."""


class _Plain:
    """A strip that is not compressed.

    Takes:
        start, stop: where it lies in the file
    """

    def __init__(self, file: FileBytes, start: int, stop: int) -> None:
        self._file, self._at, self._stop = file, start, stop

    def read(self, count: int) -> bytes:
        """Return the next bytes; fewer at the strip's end, which the reader of the part finds."""
        start, self._at = self._at, min(self._at + count, self._stop)
        return self._file[start : self._at]

    def finish(self) -> None:
        """Check nothing: there is no checksum."""


class _Deflated:
    """A strip that zlib decompresses, a few rows at a time.

    Takes:
        start, stop: where it lies in the file
    """

    def __init__(self, file: FileBytes, start: int, stop: int) -> None:
        self._file, self._at, self._stop = file, start, stop
        self._stream = zlib.decompressobj()

    def read(self, count: int) -> bytes:
        """Return the next rows in zlib's form again, not made smaller.

        Raises:
            CorruptImage: if the strip ends before them
            zlib.error: if it is damaged
        """
        found = bytearray()
        while len(found) < count:
            packed = self._packed()
            piece = self._stream.decompress(packed, count - len(found))
            if not piece and (not packed or self._stream.eof):
                raise CorruptImage("the TIFF image is truncated: a strip has fewer rows than the page says")
            found += piece
        return zlib.compress(found, 0)

    def finish(self) -> None:
        """Read on to the checksum, if there is one.

        Raises:
            zlib.error: if it is wrong
        """
        more = b""
        while not more and not self._stream.eof and (packed := self._packed()):
            more = self._stream.decompress(packed, 1)

    def _packed(self) -> bytes:
        """Return compressed bytes that were not taken yet, of those read before or of the file."""
        if self._stream.unconsumed_tail:
            return self._stream.unconsumed_tail
        start, self._at = self._at, min(self._at + READ_BYTES, self._stop)
        return self._file[start : self._at]
