"""TIFF and BigTIFF of both byte orders.

Two readers share the work. Pillow, with libtiff, reads the pictures of at most 8 bits a sample that it knows. ``tiff_samples``
reads the others, which Pillow refuses or gets wrong: 9 to 64 bits, floats, bands that no tag calls colours, big-endian BigTIFF.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from service.errors import CorruptImage, UnsupportedImage
from service.pipeline.codecs import grey, jpeg, pillow, tiff_samples
from service.pipeline.codecs.levels import Levels
from service.pipeline.codecs.limits import Limits, check_size
from service.pipeline.codecs.orientation import upright
from service.pipeline.codecs.profiles import to_srgb
from service.pipeline.codecs.tiff_pages import WHOLE, Data, Page, Tag, find_page

_RGB = (2, 3, 6)
"""Photometric interpretations whose colour profile is one of RGB: RGB itself, palettes, YCbCr."""
_YCBCR = 6
_NONE, _JPEG, _DEFLATE = 1, 7, 8
_FOREIGN = {
    22610: "JPEG XR",
    34712: "JPEG 2000",
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    33005: "JPEG 2000",
    34887: "LERC",
    34892: "lossy DNG JPEG",
    34933: "PNG",
    34934: "JPEG XR",
    34926: "Zstandard",
    34927: "WebP",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
"""Names of compressions that neither reader knows."""
_KNOWN = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32809, 32946, 34676, 34677, 34925, 50000))
"""Compressions of libtiff."""


def size(data: Data) -> tuple[int, int]:
    """Read (width, height) of the page that holds the picture. A tile larger than its image counts with its own size.

    Raises:
        CorruptImage: if a side is not a whole number, or the directories are too long
        UnsupportedImage: for camera raw
        struct.error: if the file ends within its header
    """
    page = find_page(data)
    sides = []
    for tag, tile in ((Tag.WIDTH, Tag.TILE_WIDTH), (Tag.LENGTH, Tag.TILE_LENGTH)):
        for side in (tag, tile):
            if side in page.entries and page.entries[side][0] not in WHOLE:
                raise CorruptImage("the TIFF image gives its size as something else than a whole number")
        length = page.number(tag, 0)
        sides.append(max(length, page.number(tile, 0)) if length else 0)
    return sides[0], sides[1]


def decode(data: bytes, limits: Limits, levels: Levels | None = None) -> NDArray[np.uint8]:
    """Decode the page that holds the picture.

    Takes:
        levels: of the picture that the page is a part of; None: it is the whole
    Gives:
        H x W x 3 uint8 RGB, upright
    Raises:
        UnsupportedImage: naming what is not read
        CorruptImage, struct.error, zlib.error, OSError: if the file is truncated or damaged
    """
    page = _checked_page(data, limits)
    layout = tiff_samples.layout_of(page)
    if layout is None:
        pixels = pillow.to_rgb(_by_pillow(page, limits), levels)
    else:
        pixels = tiff_samples.read(page, layout, limits, levels)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    elif page.number(Tag.PHOTOMETRIC, -1) in _RGB:
        pixels = to_srgb(pixels, bytes(page.numbers(Tag.PROFILE)))
    return upright(pixels, page.orientation)


def decode_grey(data: bytes, limits: Limits, dtype: str, levels: Levels | None = None) -> tuple[NDArray[Any], bool] | None:
    """Decode a picture of more than 8 bits to one channel, with all its bits.

    Takes:
        dtype: ``uint16`` or ``float32``
        levels: as of :func:`survey_grey`; None: it is the whole
    Gives:
        H x W of that dtype, upright, as stored (inverted where 0 is white), and whether it had colours; None if the numbers
        have 8 bits, or are CMYK
    Raises:
        as :func:`decode`
        UnsupportedImage: also if ``dtype`` cannot hold the numbers
    """
    page = _checked_page(data, limits)
    layout = _grey_layout(page)
    if layout is None:
        return None
    found, was_colour = tiff_samples.read_grey(page, layout, limits, levels)
    return upright(grey.cast(found, dtype, "TIFF", None if layout.white_is_zero else page.nodata), page.orientation), was_colour


def survey_grey(data: bytes, limits: Limits) -> Levels | None:
    """Read the numbers of a part of a picture, for :func:`decode_grey` of all its parts; None where that gives None.

    Raises:
        as :func:`decode_grey`
    """
    page = find_page(data)
    layout = _grey_layout(page)
    return None if layout is None else tiff_samples.survey_grey(page, layout, limits)


def _grey_layout(page: Page) -> tiff_samples.Layout | None:
    """Return the layout of numbers of more than 8 bits that are not CMYK; None for others."""
    layout = tiff_samples.layout_of(page)
    return None if layout is None or layout.bits <= 8 or layout.colors == 4 else layout


def _checked_page(data: bytes, limits: Limits) -> Page:
    """Find the page that holds the picture.

    Raises:
        UnsupportedImage: naming what is not read
        CorruptImage, struct.error: if its directory is damaged
        ImageTooLarge: if it has too many pixels
    """
    page = find_page(data)
    check_size("TIFF", page.number(Tag.WIDTH, 0), page.number(Tag.LENGTH, 0), limits)
    check_kind(page)
    return page


def survey(data: bytes, limits: Limits) -> Levels:
    """Read the numbers of a part of a picture, for :func:`decode` of all its parts.

    Raises:
        as :func:`decode`
    """
    page = find_page(data)
    layout = tiff_samples.layout_of(page)
    return pillow.levels(_by_pillow(page, limits)) if layout is None else tiff_samples.survey(page, layout, limits)


def check_kind(page: Page) -> None:
    """Check that a page is of a kind that is read.

    Raises:
        UnsupportedImage: naming what is not read
    """
    compression = page.number(Tag.COMPRESSION, 1)
    if compression not in _KNOWN:
        name = _FOREIGN.get(compression, f"method {compression}")
        raise UnsupportedImage(f"a TIFF image compressed with {name}; send it uncompressed, or with LZW, Deflate or JPEG")
    channels, bands = page.channels, page.number(Tag.SAMPLES, 1)
    if channels > bands:
        raise UnsupportedImage(
            f"a TIFF image of {channels} channels, each a page of its own (ImageJ or OME); send them as one RGB image "
            "(in ImageJ: Image > Type > RGB Color), or one channel as a grey image"
        )


def _by_pillow(page: Page, limits: Limits) -> ImageFile:
    compression = page.number(Tag.COMPRESSION, 1)
    if compression == _JPEG:
        _check_jpegs(page, limits)
    has_samples = page.number(Tag.PHOTOMETRIC, -1) == _YCBCR and compression in tiff_samples.READ_HERE
    picture = pillow.load(_checked_ycbcr(page, limits) if has_samples else page.first_and_upright(), "TIFF", limits)
    _mend_palette(picture)
    return picture


def _checked_ycbcr(page: Page, limits: Limits) -> bytes:
    """Return a file of the same YCbCr samples, all of which are there, stored in zlib's form: Pillow leaves that to libtiff.

    Pillow itself knows neither the subsampling nor the reference black and white. And where a strip or tile is damaged or ends
    early, libtiff fills the rest of YCbCr in silence.

    Source: TIFF 6.0 (1992), section 21; RFC 1950.

    Raises:
        CorruptImage: if a strip or tile ends behind the file, or before its last sample
        ImageTooLarge: if one is too large to be decompressed
        zlib.error, OSError: if one is damaged
    """
    offsets, lengths = page.pieces()
    if any(offset + length > len(page.data) for offset, length in zip(offsets, lengths, strict=True)):
        raise CorruptImage("the TIFF image is truncated: a strip or tile ends behind it")
    compression, wide, high = page.number(Tag.COMPRESSION, _NONE), page.number(Tag.WIDTH, 0), page.number(Tag.LENGTH, 0)
    whole = compression == _NONE and Tag.SUBSAMPLING not in page.entries and sum(lengths) == 3 * wide * high
    # Two by two is the format's default, which three bytes a pixel are not.
    across, down = (1, 1) if whole else (max(1, int(n)) for n in (*page.numbers(Tag.SUBSAMPLING), 2, 2)[:2])
    columns = page.number(Tag.TILE_WIDTH, 0) or wide
    rows = page.number(Tag.TILE_LENGTH, 0) or max(1, min(page.number(Tag.ROWS, high), high))
    a_plane = -(-wide // columns) * -(-high // rows)
    pieces = []
    for index, (offset, length) in enumerate(zip(offsets, lengths, strict=True)):
        plane, place = divmod(index, a_plane)
        left = rows if page.is_tiled else min(rows, high - place * rows)
        blocks, block_rows = -(-columns // across), -(-left // down)
        if page.number(Tag.PLANAR, 1) != 2:
            row_bytes = blocks * (across * down + 2)
        elif plane:
            row_bytes = blocks
        else:
            row_bytes, block_rows = columns, left
        tiff_samples.check_piece(row_bytes * block_rows, limits)
        stored = memoryview(page.whole)[offset : offset + length]
        pieces.append(zlib.compress(tiff_samples.unpacked(stored, compression, row_bytes, block_rows), 0))
    changes: dict[int, tuple[int, ...]] = {Tag.COMPRESSION: (_DEFLATE,), Tag.ORIENTATION: (1,), Tag.SUBSAMPLING: (across, down)}
    return page.with_pieces(pieces, changes)


def _check_jpegs(page: Page, limits: Limits) -> None:
    """Check that no strip or tile of JPEG ends early: libtiff fills the rest with grey in silence.

    Source: TIFF Technical Note 2 (1995): the tables stand in a tag, the rest in each strip or tile.

    Raises:
        CorruptImage: if pixels are missing
    """
    tables = bytes(page.numbers(Tag.JPEG_TABLES))
    offsets, lengths = page.pieces()
    for offset, length in zip(offsets, lengths, strict=False):
        strip = page.whole[offset : offset + length]
        jpeg.check(tables.removesuffix(b"\xff\xd9") + strip[2:] if tables else strip, limits)


def _mend_palette(picture: ImageFile) -> None:
    """Take a palette whose numbers are 0..255 for one of 8 bits, as libtiff does; TIFF's own have 16."""
    table = picture.tag_v2.get(Tag.COLORS, ()) if isinstance(picture, TiffImageFile) else ()
    if picture.mode == "P" and table and max(table) < 256:
        colors = np.array(table, np.uint8).reshape(3, -1).T
        picture.putpalette(colors.tobytes())
