"""Some rows of a TIFF page as a TIFF file of their own, one part after the other: whole strips, or whole rows of tiles.

Strips and tiles are compressed each for itself, so a part has the pixels that it has in the page. Uncompressed strips are cut
where that is needed: many writers make one strip of the whole picture.

Source: TIFF revision 6.0 (Adobe, 1992), sections 3, 15, 21.
"""

from __future__ import annotations

from collections.abc import Iterator

from service.errors import CorruptImage, ImageTooLarge, UnsupportedImage
from service.pipeline.codecs import tiff, tiff_samples
from service.pipeline.codecs.file_bytes import FileBytes
from service.pipeline.codecs.tiff_pages import Tag, find_page

PART_BYTES = 8 << 20
"""Bytes of a part, at three a pixel; one row of tiles or one strip may have more."""
MOST_PIXELS = 22_000_000
"""Pixels of one strip, or of one row of tiles: 128 MiB at six bytes a pixel."""

_NONE, _OLD_JPEG, _JPEG = 1, 6, 7
_YCBCR = 6


class Parts:
    """The rows of the page that holds the picture.

    Takes:
        file: a TIFF file on the disk
    Raises:
        UnsupportedImage, CorruptImage: as ``tiff.decode``
        ImageTooLarge: if one strip or one row of tiles is too large to be decoded at once
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
        self._can_cut = self._compression == _NONE and not page.is_tiled and not subsampled
        self._rows = rows
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
                rows = min(self._rows, self.height - strip * self._rows)
                for first in range(0, rows, most):
                    yield self._part(strip, strip + 1, min(most, rows - first), first)
            return
        together = max(1, most // self._rows)
        for first in range(0, self._down, together):
            last = min(first + together, self._down)
            yield self._part(first, last, min(last * self._rows, self.height) - first * self._rows)

    def _part(self, first: int, last: int, rows: int, skipped: int = 0) -> bytes:
        """Return some rows as a file.

        Takes:
            first, last: strips, or rows of tiles
            rows: how many the part has
            skipped: rows of a strip before those of the part
        """
        numbers = [
            (plane * self._down + place) * self._across + column
            for plane in range(self._planes)
            for place in range(first, last)
            for column in range(self._across)
        ]
        cut = self._can_cut and last == first + 1
        pieces = [self._piece(number, skipped, rows if cut else self._rows) for number in numbers]
        changes: dict[int, tuple[int, ...]] = {Tag.LENGTH: (rows,)}
        if cut:
            changes[Tag.ROWS] = (rows,)
        return self._page.with_pieces(pieces, changes)

    def _piece(self, number: int, skipped: int, rows: int) -> bytes | None:
        """Read the bytes of a strip or tile; None where it is not stored."""
        offset = int(self._offsets[number])
        length = int(self._lengths[number]) if number < len(self._lengths) else self._row_bytes * self._rows
        if not offset:
            if length and number < len(self._lengths):
                raise CorruptImage("the TIFF image has a strip or tile at offset 0, which is the file's header")
            return None
        if self._can_cut:
            before = min(length, skipped * self._row_bytes)
            offset, length = offset + before, min(length - before, rows * self._row_bytes)
        if offset + length > len(self._file):
            raise CorruptImage("the TIFF image is truncated: a strip or tile ends behind it")
        return self._file[offset : offset + length]
