"""The samples of a TIFF page as 8-bit RGB: whole numbers of 1 to 64 bits, floats, any number of bands, strips and tiles.

Strips and tiles are decompressed by zlib or by libtiff, and become 8 bits piece by piece, so that a picture of 64-bit numbers
takes no more memory than one of 8 bits.

Source: TIFF revision 6.0 (Adobe, 1992), sections 8, 14, 15; TIFF Technical Note 3 (Adobe, 2005) for the predictor of floats.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from service.errors import CorruptImage, ImageTooLarge, UnsupportedImage
from service.pipeline.codecs import depth, grey
from service.pipeline.codecs.levels import Levels
from service.pipeline.codecs.limits import Limits
from service.pipeline.codecs.tiff_pages import Page, Tag

MAX_BANDS = 64
"""The most of one picture. Each costs memory while a piece is read."""
MAX_PIECES = 1 << 16
"""Strips or tiles of one picture: strips of one row are at most 16,384 a band, and tiles of 32 x 32 some 50,000."""
BAND_PIXELS = 1 << 18
"""Samples that are converted at a time."""

_UNSIGNED, _SIGNED, _FLOAT, _UNDEFINED = 1, 2, 3, 4
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK = 0, 1, 2, 3, 5
_KINDS = {_UNSIGNED: "u", _SIGNED: "i", _FLOAT: "f"}
_PREMULTIPLIED, _ALPHA = 1, 2

_PLAIN, _LZW, _DEFLATE, _OLD_DEFLATE, _PACKBITS = 1, 5, 8, 32946, 32773
READ_HERE = (_PLAIN, _LZW, _DEFLATE, _OLD_DEFLATE, _PACKBITS, 34925, 50000)
"""Compressions of bytes, whatever these mean. The last two are LZMA and Zstandard."""


@dataclass(frozen=True)
class Layout:
    """How samples are stored, and which of them make the picture."""

    bits: int
    sample_format: int
    bands: int
    """Stored for each pixel."""
    colors: int
    """Bands that make the picture: 1 grey, 3 RGB, 4 CMYK."""
    alpha: int
    """Index of the band of transparency; 0 where there is none."""
    premultiplied: bool
    white_is_zero: bool


def layout_of(page: Page) -> Layout | None:
    """Decide who reads a page: None is Pillow."""
    bits_of = page.numbers(Tag.BITS) or (1,)
    bits, bands = int(bits_of[0]), page.number(Tag.SAMPLES, 1)
    formats = page.numbers(Tag.FORMAT) or (_UNSIGNED,)
    photometric = page.number(Tag.PHOTOMETRIC, -1)
    compression = page.number(Tag.COMPRESSION, _PLAIN)
    holes = 0 in page.pieces()[0]
    plain = bits <= 8 and set(formats) <= {_UNSIGNED, _UNDEFINED} and not holes
    known = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _CMYK: 4}.get(photometric, 0)
    extra = page.numbers(Tag.EXTRA)
    apart = page.number(Tag.PLANAR, 1) == 2 and bands > 1 and bits == 8 and known and compression in READ_HERE
    packed = known > 1 and bits < 8
    of_pillow = not (apart or packed or (page.big and page.order == ">") or (known == 1 and bands > 1))
    if plain and of_pillow and bands <= 4:
        return None  # also palettes, YCbCr, L*a*b*, and what only libtiff decompresses
    if holes and (not known or compression not in READ_HERE):
        raise UnsupportedImage(
            "a sparse TIFF image (strips or tiles that are not stored) with a palette, YCbCr or JPEG compression; "
            "write it in full (gdal_translate -co SPARSE_OK=FALSE), or as RGB with Deflate"
        )
    what = f"a TIFF image of {bands} x {bits}-bit samples"
    if not known:
        raise UnsupportedImage(f"{what} in colour space {photometric} of TIFF's; send it as RGB")
    if len(set(bits_of)) > 1 or len(set(formats)) > 1:
        raise UnsupportedImage(f"{what} of several kinds; send bands of one kind")
    if not 1 <= bands <= MAX_BANDS:
        raise UnsupportedImage(f"{what}; at most {MAX_BANDS} bands are read")
    if compression not in READ_HERE:
        raise UnsupportedImage(f"{what} with compression {compression} of TIFF's; send it uncompressed, or with LZW or Deflate")
    if page.number(Tag.FILL_ORDER, 1) != 1:
        raise UnsupportedImage(f"{what} with its bits in reverse order; send it with FillOrder 1")
    sample_format = _UNSIGNED if formats[0] == _UNDEFINED else int(formats[0])
    sizes = {_UNSIGNED: (*range(1, 17), 32, 64), _SIGNED: (8, 16, 32, 64), _FLOAT: (16, 32, 64)}
    if bits not in sizes.get(sample_format, ()) or (bits < 8 and bands > 1 and page.number(Tag.PREDICTOR, 1) != 1):
        name = {_UNSIGNED: "whole", _SIGNED: "signed", _FLOAT: "floating-point"}.get(sample_format, "complex")
        raise UnsupportedImage(
            f"{what}, {name} numbers; whole ones of 1 to 16, 32 and 64 bits and floats of 16, 32 and 64 are read"
        )
    alpha = next((number for number, kind in enumerate(extra, bands - len(extra)) if kind in (_PREMULTIPLIED, _ALPHA)), 0)
    others = bands - bool(alpha)
    colors = known
    if known == 1 and others > 1:
        if others != 3 and not (others == 2 and len(extra) == 1):
            raise UnsupportedImage(
                f"{what} that no tag calls colours; send three of them as RGB "
                "(gdal_translate -b 3 -b 2 -b 1 -co PHOTOMETRIC=RGB, with your bands of red, green and blue)"
            )
        colors = 3 if others == 3 else 1
    if others < colors:
        raise CorruptImage(f"the TIFF image has {bands} bands, and its colours need {colors}")
    premultiplied = bool(alpha) and extra[alpha - (bands - len(extra))] == _PREMULTIPLIED
    return Layout(bits, sample_format, bands, colors, alpha, premultiplied, photometric == _WHITE_IS_ZERO)


def read(page: Page, layout: Layout, limits: Limits, levels: Levels | None = None) -> NDArray[np.uint8]:
    """Read the picture of a page.

    Takes:
        levels: of the picture that the page is a part of; None: it is the whole
    Gives:
        H x W x 3 uint8 RGB, or H x W x 1 grey, as stored
    Raises:
        UnsupportedImage: if most of the numbers lie outside the range that is read
        ImageTooLarge: if one strip or tile is too large to be decompressed
        CorruptImage, struct.error, zlib.error, OSError: if the file is truncated or damaged
    """
    return _Reader(page, layout, limits).rgb(levels)


def survey(page: Page, layout: Layout, limits: Limits) -> Levels:
    """Read the numbers of a part of a picture, for :func:`read` of all its parts.

    Raises:
        as :func:`read`
    """
    return _Reader(page, layout, limits).levels()


def read_grey(page: Page, layout: Layout, limits: Limits, levels: Levels | None = None) -> tuple[NDArray[Any], bool]:
    """Read one channel of the picture of a page, each number as it is stored; inverted where 0 is white.

    Transparency is laid over white where whole numbers have at most 16 bits: of others nothing says which number is white.

    Takes:
        layout: of grey or of red, green and blue
        levels: as of :func:`survey_grey`; None: it is the whole
    Gives:
        H x W of the stored type (packed numbers are uint16), and whether it had colours
    Raises:
        ImageTooLarge: if one strip or tile is too large to be decompressed
        CorruptImage, struct.error, zlib.error, OSError: if the file is truncated or damaged
    """
    values, alpha, colours = _Reader(page, layout, limits).grey()
    return values if alpha is None else grey.over_white(values, alpha, levels), colours


def survey_grey(page: Page, layout: Layout, limits: Limits) -> Levels:
    """Read the numbers of a part of a picture, for :func:`read_grey` of all its parts.

    Raises:
        as :func:`read_grey`
    """
    values, alpha, _ = _Reader(page, layout, limits).grey()
    return Levels() if alpha is None else grey.levels_of(values, alpha)


class _Reader:
    """Reads the samples of one page, piece by piece."""

    def __init__(self, page: Page, layout: Layout, limits: Limits) -> None:
        self._page = page
        self._limits = limits
        self._layout = layout
        self._compression = page.number(Tag.COMPRESSION, _PLAIN)
        self._predictor = page.number(Tag.PREDICTOR, 1) if self._compression not in (_PLAIN, _PACKBITS) else 1
        self.width, self.height = page.number(Tag.WIDTH, 0), page.number(Tag.LENGTH, 0)
        self._planes = layout.bands if page.number(Tag.PLANAR, 1) == 2 else 1
        if page.is_tiled:
            self._piece_width, self._piece_height = page.number(Tag.TILE_WIDTH, 0), page.number(Tag.TILE_LENGTH, 0)
        else:
            self._piece_width, self._piece_height = self.width, min(page.number(Tag.ROWS, self.height), self.height)
        self._offsets, self._lengths = page.pieces()
        self._nodata = page.nodata
        if min(self._piece_width, self._piece_height) < 1:
            raise CorruptImage("the TIFF image's strips or tiles have no pixels")
        self._across = -(-self.width // self._piece_width)
        self._down = -(-self.height // self._piece_height)
        pieces = self._across * self._down * self._planes
        wanted = [*range(layout.colors), *([layout.alpha] if layout.alpha else [])]
        self._wanted = wanted if self._planes > 1 else [0]
        self._among = wanted if len(wanted) < layout.bands else slice(None)
        if self._across * self._down * len(self._wanted) > MAX_PIECES:
            raise UnsupportedImage(
                f"a TIFF image of {pieces} strips or tiles; write larger ones: at most {MAX_PIECES} are read"
            )
        if len(self._offsets) < pieces:
            raise CorruptImage(f"the TIFF image has {len(self._offsets)} strips or tiles of {pieces}")
        self._has_lengths = len(self._lengths) >= pieces
        if not self._has_lengths:
            if self._compression != _PLAIN:
                raise CorruptImage(f"the TIFF image has the lengths of {len(self._lengths)} strips or tiles of {pieces}")
            self._lengths = (self._row_bytes * self._piece_height,) * pieces
        if self._compression != _PLAIN:
            check_piece(self._row_bytes * self._piece_height, limits)

    @property
    def _stored(self) -> int:
        """Samples of a pixel that stand side by side in one piece."""
        return 1 if self._planes > 1 else self._layout.bands

    @property
    def _row_bytes(self) -> int:
        return (self._piece_width * self._stored * self._layout.bits + 7) // 8

    def levels(self) -> Levels:
        """Read the numbers that decide about depth, range and transparency."""
        return self._read(_Scale()).levels

    def rgb(self, levels: Levels | None) -> NDArray[np.uint8]:
        """Read the picture.

        Takes:
            levels: as of :func:`read`
        Gives:
            H x W x 3 uint8 RGB, or H x W x 1 grey, as stored
        Raises:
            UnsupportedImage: if most of the numbers lie outside the range that is read
        """
        read: _Read | None = None
        if levels is None:
            read = self._read(_Scale())
            known = read.levels
        else:
            known = levels
        if self._layout.alpha and not known.is_visible:  # an alpha channel that is 0 everywhere says nothing
            return _Reader(self._page, replace(self._layout, alpha=0), self._limits).rgb(levels)
        scale = _scale_of(known, self._layout)
        return read.pixels if read is not None and scale == _Scale() else self._read(scale).pixels

    def grey(self) -> tuple[NDArray[Any], NDArray[np.uint16] | None, bool]:
        """Read one channel, its transparency where that counts, and whether there were colours; as :func:`read_grey`."""
        layout = self._layout
        found = np.empty((self.height, self.width), _type(layout))
        has_alpha = layout.alpha and found.dtype == np.uint16
        alpha = np.empty(found.shape, np.uint16) if has_alpha else None
        colours = False
        for top, left, samples in self._bands():
            band, coloured = grey.luma(samples[..., : layout.colors])
            place = slice(top, top + band.shape[0]), slice(left, left + band.shape[1])
            found[place] = _inverted(band, layout) if layout.white_is_zero else band
            colours = colours or coloured
            if alpha is not None:
                alpha[place] = samples[..., layout.colors]
        return found, alpha, colours

    def _read(self, scale: _Scale) -> _Read:
        layout = self._layout
        colors = slice(0, layout.colors)
        pixels = np.empty((self.height, self.width, 1 if layout.colors == 1 else 3), np.uint8)
        nodata = _stored_number(self._nodata, layout) if layout.sample_format == _FLOAT else self._nodata
        read = _Read(pixels, None if self._nodata is None else nodata)
        for top, left, samples in self._bands():
            band = _narrowed(samples[..., colors], layout, scale.colors, read)
            if layout.white_is_zero:
                band = ~band
            if layout.colors == 4:
                band = np.asarray(Image.frombytes("CMYK", band.shape[1::-1], band.tobytes()).convert("RGB"))
            if layout.alpha:
                opaque = _Read(read.pixels)
                alpha = _narrowed(samples[..., layout.colors :], layout, scale.alpha, opaque).astype(np.uint32)
                read.add(Levels(is_visible=bool(alpha.any()), largest_alpha=opaque.levels.largest))
                ink = band.astype(np.uint32) * (255 if layout.premultiplied else alpha)
                band = np.minimum((ink + 255 * (255 - alpha) + 127) // 255, 255).astype(np.uint8)
            rows, columns = band.shape[:2]
            read.pixels[top : top + rows, left : left + columns] = band
        return read

    def _bands(self) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """Yield (top, left, rows x columns x colours and alpha) for a few rows of a piece at a time, padding left out."""
        rows_at_once = max(1, BAND_PIXELS // (self._piece_width * self._stored))
        for place in range(self._across * self._down):
            top, left = place // self._across * self._piece_height, place % self._across * self._piece_width
            visible = min(self._piece_height, self.height - top)
            rows = self._piece_height if self._page.is_tiled else visible
            pieces = [self._piece(plane * self._across * self._down + place, rows) for plane in self._wanted]
            for first in range(0, visible, rows_at_once):
                last = min(first + rows_at_once, visible)
                bands = [self._samples(piece, first, last) for piece in pieces]
                samples = bands[0][..., self._among] if len(bands) == 1 else np.concatenate(bands, axis=2)
                yield top + first, left, samples[:, : self.width - left]

    def _piece(self, number: int, rows: int) -> memoryview | bytes | None:
        """Decompress a strip or a tile. None stands for one that is not stored, as GDAL's SPARSE_OK leaves them out."""
        offset, length = int(self._offsets[number]), int(self._lengths[number])
        if not offset:
            if length and self._has_lengths:
                raise CorruptImage("the TIFF image has a strip or tile at offset 0, which is the file's header")
            return None
        return unpacked(memoryview(self._page.whole)[offset : offset + length], self._compression, self._row_bytes, rows)

    def _samples(self, piece: memoryview | bytes | None, first: int, last: int) -> NDArray[Any]:
        """Read the numbers of some rows of a piece: rows x columns x bands, in the machine's byte order."""
        bits, count = self._layout.bits, self._piece_width * self._stored
        shape = (last - first, self._piece_width, self._stored)
        if piece is None:
            return np.full(shape, _stored_number(self._nodata, self._layout), _type(self._layout))
        raw = np.frombuffer(piece, np.uint8, (last - first) * self._row_bytes, first * self._row_bytes)
        raw = raw.reshape(last - first, self._row_bytes)
        if bits % 8:
            each = np.unpackbits(raw, axis=1)[:, : count * bits].reshape(last - first, count, bits)
            return (each @ (1 << np.arange(bits - 1, -1, -1, dtype=np.uint16))).reshape(shape)
        kind = _KINDS[self._layout.sample_format]
        if self._predictor == 3:
            summed = np.add.accumulate(raw.reshape(last - first, -1, self._stored), axis=1, dtype=np.uint8)
            planes = summed.reshape(last - first, bits // 8, count)
            numbers = np.ascontiguousarray(planes.transpose(0, 2, 1)).view(f">{kind}{bits // 8}")
            return numbers.astype(numbers.dtype.newbyteorder("=")).reshape(shape)
        numbers = raw.view(f"{self._page.order}{kind}{bits // 8}")
        numbers = numbers.astype(numbers.dtype.newbyteorder("="), copy=False).reshape(shape)
        if self._predictor == 2:
            whole = numbers.view(f"u{bits // 8}")
            numbers = np.add.accumulate(whole, axis=1, dtype=whole.dtype).view(numbers.dtype)
        return numbers


@dataclass(frozen=True)
class _Scale:
    """Bits of 16 that count."""

    colors: int = 16
    alpha: int = 16


@dataclass
class _Read:
    """Pixels, and what their numbers were."""

    pixels: NDArray[np.uint8]
    nodata: float | None = None
    """The number of a pixel without a value, which says nothing of range and depth."""
    levels: Levels = field(default_factory=Levels)

    def add(self, found: Levels) -> None:
        """Take in what some of the numbers were."""
        self.levels = self.levels.merged(found)

    def note(self, numbers: NDArray[Any], white: float) -> None:
        """Count what lies outside 0..white."""
        numbers = self.valid(numbers)
        above, below = int(np.count_nonzero(numbers > white)), int(np.count_nonzero(numbers < 0))
        most, least = float(numbers.max(initial=0)), float(numbers.min(initial=0))
        self.add(Levels(count=numbers.size, above=above, below=below, most=most, least=least))

    def valid(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """Return the numbers that are not nodata."""
        return numbers if self.nodata is None else numbers[numbers != self.nodata]


def _scale_of(levels: Levels, layout: Layout) -> _Scale:
    """Decide how many bits count.

    Raises:
        UnsupportedImage: if most of the numbers lie outside the range that is read
    """
    if 2 * max(levels.above, levels.below) > levels.count:
        what = "floats are read as 0..1" if layout.sample_format == _FLOAT else "whole numbers are read as 0..65535"
        raise UnsupportedImage(f"a TIFF image of numbers from {levels.least:g} to {levels.most:g}; {what}: scale them")
    if layout.sample_format == _FLOAT or layout.bits < 16:
        return _Scale()
    alpha = depth.significant_bits(max(levels.largest, levels.largest_alpha)) if layout.alpha else 16
    return _Scale(depth.significant_bits(levels.largest), alpha)


def _narrowed(samples: NDArray[Any], layout: Layout, bits: int, read: _Read) -> NDArray[np.uint8]:
    """Bring numbers of any kind to 8 bits, and count what is outside their range."""
    if layout.sample_format == _FLOAT:
        finite = samples[np.isfinite(samples)]
        read.note(finite, 1.0)
        share = np.nan_to_num(np.clip(samples, 0, 1).astype(np.float32))
        return np.asarray(np.rint(share * 255), np.uint8)
    if layout.bits == 8 and layout.sample_format == _UNSIGNED:
        return np.asarray(samples, np.uint8)
    if layout.bits < 16 and layout.sample_format == _UNSIGNED:
        white = (1 << layout.bits) - 1
        return np.asarray((samples.astype(np.uint32) * 255 + white // 2) // white, np.uint8)
    if layout.bits == 8:
        return np.asarray(np.clip(samples, 0, 127).astype(np.uint16) * 2, np.uint8)
    if layout.bits > 16 or layout.sample_format == _SIGNED:
        read.note(samples, 65535)
    read.add(Levels(largest=int(depth.to_uint16(read.valid(samples)).max(initial=0))))
    wide = depth.to_uint16(samples)
    if layout.bits == bits == 16 and layout.sample_format == _SIGNED:
        return depth.scaled(wide, 32767)
    return depth.to_8_bits(wide, bits)


def _inverted(numbers: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """Exchange black and white: floats are 0..1, whole numbers of more than 16 bits count as 16-bit, negative ones as 0."""
    if layout.sample_format == _FLOAT:
        return np.asarray(1 - numbers, numbers.dtype)
    white = (1 << (min(layout.bits, 16) - (layout.sample_format == _SIGNED and layout.bits <= 16))) - 1
    return np.asarray(white - np.clip(numbers, 0, white), numbers.dtype)


def _type(layout: Layout) -> np.dtype[Any]:
    """Return the type of the numbers that are read: packed ones become uint16."""
    return np.dtype("u2" if layout.bits % 8 else f"{_KINDS[layout.sample_format]}{layout.bits // 8}")


def _stored_number(nodata: float | None, layout: Layout) -> float | int:
    """Return the number of a pixel that is not stored: nodata within the type's range, or 0."""
    if nodata is None:
        return 0
    if layout.sample_format == _FLOAT:
        return float(np.clip(nodata, np.finfo(_type(layout)).min, np.finfo(_type(layout)).max))
    if not np.isfinite(nodata):
        return 0
    low = -(1 << layout.bits - 1) if layout.sample_format == _SIGNED else 0
    return min(max(int(nodata), low), low + (1 << layout.bits) - 1)


def check_piece(actual: int, limits: Limits) -> None:
    """Check that a strip or tile is not too large to be decompressed.

    Takes:
        actual: its bytes, decompressed
    Raises:
        ImageTooLarge: if it is
    """
    most = 6 * limits.max_pixels
    if actual > most:
        message = f"a strip of the TIFF image has {actual} bytes; at most {most} are decompressed at once: write smaller strips"
        raise ImageTooLarge(message, limit=most, actual=actual, unit="bytes a strip")


def unpacked(stored: memoryview, compression: int, row_bytes: int, rows: int) -> memoryview | bytes:
    """Decompress a strip or a tile.

    Takes:
        compression: one of :data:`READ_HERE`
    Raises:
        CorruptImage: if it holds fewer bytes than ``rows`` rows
        zlib.error, OSError: if it is damaged
    """
    expected = row_bytes * rows
    if compression == _PLAIN:
        piece: memoryview | bytes = stored[:expected]
    elif compression in (_DEFLATE, _OLD_DEFLATE):
        stream = zlib.decompressobj()
        piece = stream.decompress(stored, expected)
        stream.decompress(stream.unconsumed_tail, 1)  # reads on to the checksum
    else:
        piece = _by_libtiff(bytes(stored), compression, row_bytes, rows)
    if len(piece) < expected:
        raise CorruptImage(f"the TIFF image is truncated: a strip or tile has {len(piece)} bytes of {expected}")
    return piece


def _by_libtiff(stored: bytes, compression: int, row_bytes: int, rows: int) -> bytes:
    """Decompress a strip or a tile as a grey TIFF of 8 bits: these compressions do not depend on what bytes mean."""
    entries = [
        (Tag.WIDTH, row_bytes),
        (Tag.LENGTH, rows),
        (Tag.BITS, 8),
        (Tag.COMPRESSION, compression),
        (Tag.PHOTOMETRIC, _BLACK_IS_ZERO),
    ]
    entries += [(Tag.STRIP_OFFSETS, 8), (Tag.SAMPLES, 1), (Tag.ROWS, rows), (Tag.STRIP_BYTES, len(stored))]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    file = b"II*\0" + struct.pack("<I", 8 + len(stored)) + stored + directory + bytes(4)
    with TiffImageFile(io.BytesIO(file)) as picture:
        picture.load()
        return picture.tobytes()
