"""TIFF files of every layout: the judge is tifffile, which writes them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.errors import CorruptImage, ImageTooLarge, UnsupportedImage
from service.pipeline.codecs.decoding import Header, Limits, decode, probe
from tests.conftest import encode_image

tifffile = pytest.importorskip("tifffile", reason="tifffile writes the files")

LIMITS = Limits()
ROWS, COLUMNS = np.mgrid[0:64, 0:96]
PICTURE = np.dstack([COLUMNS * 2.6, ROWS * 4, 255 - COLUMNS * 1.3 - ROWS * 1.9]).clip(0, 255).astype(np.uint8)
PICTURE[40:, 20:60], PICTURE[10:30, 60:80] = (70, 60, 75), (200, 40, 30)
GREY = PICTURE[..., 1]


def wide(picture: NDArray[np.uint8], kind: str) -> NDArray[Any]:
    """The same picture in numbers of another type, which come back to 8 bits exactly."""
    if kind.startswith("f"):
        return (picture / 255).astype(kind)
    return picture.astype(kind) * (1 if kind == "u1" else 257)


def written(array: NDArray[Any], **options: Any) -> bytes:
    """A TIFF file."""
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def planes(picture: NDArray[Any]) -> NDArray[Any]:
    """One plane a band."""
    return np.ascontiguousarray(np.moveaxis(picture, 2, 0))


LAYOUTS: dict[str, dict[str, Any]] = {
    "one strip": {},
    "strips": {"rowsperstrip": 10},
    "tiles": {"tile": (32, 48)},
    "deflated strips": {"rowsperstrip": 10, "compression": "zlib"},
    "deflated tiles": {"tile": (16, 32), "compression": "zlib"},
}


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "f2", "f4", "f8"])
def test_rgb_of_every_type_and_layout_is_read(kind: str, layout: str, separate: bool, order: str, big: bool) -> None:
    """Bits, byte orders, strips and tiles, bands together or apart: the same picture."""
    array = wide(PICTURE, kind)
    options = LAYOUTS[layout] | {"photometric": "rgb", "planarconfig": "separate" if separate else "contig"}
    data = written(planes(array) if separate else array, byteorder=order, bigtiff=big, **options)
    assert probe(data, LIMITS) == Header("TIFF", 96, 64)
    assert np.array_equal(decode(data, LIMITS), PICTURE)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "u8", "f2", "f4", "f8"])
def test_grey_of_every_type_and_layout_is_read(kind: str, layout: str, inverted: bool, order: str) -> None:
    """0 is black or white, as the file says."""
    options = LAYOUTS[layout] | {"photometric": "miniswhite" if inverted else "minisblack"}
    data = written(wide(255 - GREY if inverted else GREY, kind), byteorder=order, **options)
    assert np.array_equal(decode(data, LIMITS), np.repeat(GREY[..., None], 3, axis=2))


@pytest.mark.parametrize("predictor", [2, 3])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u2", "u4", "f4"])
@pytest.mark.parametrize("bands", [1, 3])
def test_predictors_are_undone(kind: str, bands: int, order: str, predictor: int) -> None:
    """Differences of adjacent values, and the shuffled bytes of floats; written here by the technical note."""
    if (predictor == 3) != kind.startswith("f"):
        pytest.skip("differences are for whole numbers, shuffled bytes for floats")
    picture = PICTURE[..., :bands]
    array = wide(picture, kind)
    if predictor == 2:
        stored = array.copy()
        stored[:, 1:] -= array[:, :-1]
        rows = stored.astype(order + kind).tobytes()
    else:
        shuffled = array.astype(">" + kind).view(np.uint8).reshape(64, 96 * bands, -1).transpose(0, 2, 1).reshape(64, -1, bands)
        differences = shuffled.copy()
        differences[:, 1:] -= shuffled[:, :-1]
        rows = np.ascontiguousarray(differences).tobytes()
    strip = zlib.compress(rows)
    entries = [(256, 96), (257, 64), (258, 8 * array.itemsize), (259, 8), (262, 2 if bands == 3 else 1), (273, 8), (277, bands)]
    entries += [(278, 64), (279, len(strip)), (317, predictor), (339, 3 if predictor == 3 else 1)]
    data = by_hand(order, entries, strip)
    assert np.array_equal(decode(data, LIMITS), np.repeat(picture, 3 // bands, axis=2))


def by_hand(order: str, entries: list[tuple[int, int]], strip: bytes) -> bytes:
    """A TIFF file of one strip behind its header, with tags of one number each."""
    directory = struct.pack(order + "H", len(entries))
    directory += b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in entries)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(strip))
    return head + strip + directory + bytes(4)


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
@pytest.mark.parametrize("bands", [1, 3])
def test_lzw_of_wide_numbers_is_read(kind: Any, bands: int) -> None:
    """As OpenCV writes it, with a predictor."""
    array = wide(PICTURE[..., :bands], np.dtype(kind).str[1:])
    done, data = cv2.imencode(".tiff", array[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    assert done
    assert np.array_equal(decode(data.tobytes(), LIMITS), np.repeat(PICTURE[..., :bands], 3 // bands, axis=2))


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("separate", [False, True])
def test_three_bands_that_no_tag_calls_colours_are_red_green_and_blue(kind: str, separate: bool) -> None:
    """As GDAL writes them, with and without a word on the extra samples."""
    array = wide(PICTURE, kind)
    stored = planes(array) if separate else array
    options = {"photometric": "minisblack", "planarconfig": "separate" if separate else "contig"}
    for extra in ({}, {"extrasamples": (0, 0)}):
        assert np.array_equal(decode(written(stored, **options, **extra), LIMITS), PICTURE)


@pytest.mark.parametrize("bands", [4, 5, 13])
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_more_bands_that_no_tag_calls_colours_are_unsupported(kind: str, bands: int) -> None:
    """Which of a satellite's bands are colours is not to be guessed; the refusal says what to do."""
    array = np.repeat(wide(PICTURE, kind), 5, axis=2)[..., :bands]
    with pytest.raises(UnsupportedImage, match="gdal_translate"):
        decode(written(np.ascontiguousarray(array), photometric="minisblack", planarconfig="contig"), LIMITS)


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("separate", [False, True])
def test_further_bands_of_an_rgb_picture_are_left_out(kind: str, separate: bool) -> None:
    """Near infrared is not transparency."""
    array = np.concatenate([wide(PICTURE, kind), wide(255 - PICTURE[..., :2], kind)], axis=2)
    stored, planar = (planes(array), "separate") if separate else (array, "contig")
    data = written(stored, photometric="rgb", planarconfig=planar, extrasamples=("unspecified", "unspecified"))
    assert np.array_equal(decode(data, LIMITS), PICTURE)


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("premultiplied", [False, True])
def test_transparency_lies_over_white(kind: str, grey: bool, premultiplied: bool) -> None:
    """Grey and colours, with premultiplied colours and without."""
    color = PICTURE[..., 1:2] if grey else PICTURE
    alpha = np.broadcast_to((COLUMNS * 255 // 95).astype(np.uint8)[..., None], (64, 96, 1))
    paper = color / 255 * (alpha / 255) + 1 - alpha / 255
    stored = color / 255 * (alpha / 255) if premultiplied else color / 255
    scale = {"u1": 255, "u2": 65535, "f4": 1}[kind]
    array = np.concatenate([stored, alpha / 255], axis=2) * scale
    array = (array if kind == "f4" else np.rint(array)).astype(kind)
    extra = "assocalpha" if premultiplied else "unassalpha"
    data = written(array, photometric="minisblack" if grey else "rgb", extrasamples=(extra,), planarconfig="contig")
    assert np.abs(decode(data, LIMITS) - paper * 255).max() <= 2


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("separate", [False, True])
def test_an_alpha_of_zeros_says_nothing(kind: str, separate: bool) -> None:
    """The picture is the colours, and not a white sheet; bands together and apart."""
    for value in (0, 255):
        array = np.concatenate([wide(PICTURE, kind), wide(np.full((64, 96, 1), value, np.uint8), kind)], axis=2)
        stored, planar = (planes(array), "separate") if separate else (array, "contig")
        data = written(stored, photometric="rgb", planarconfig=planar, extrasamples=("unassalpha",))
        assert np.array_equal(decode(data, LIMITS), PICTURE)


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("separate", [False, True])
def test_inks_are_read_as_pillow_reads_them(kind: str, separate: bool) -> None:
    """CMYK of 8 and of 16 bits, bands together and apart."""
    inks = np.asarray(Image.fromarray(PICTURE).convert("CMYK"))
    array = wide(inks, kind)
    stored, planar = (planes(array), "separate") if separate else (array, "contig")
    expected = np.asarray(Image.frombytes("CMYK", (96, 64), inks.tobytes()).convert("RGB"))
    assert (
        np.abs(decode(written(stored, photometric="separated", planarconfig=planar), LIMITS).astype(int) - expected).max() <= 1
    )


def test_a_file_of_countless_strips_is_refused() -> None:
    """Each costs a step of Python."""
    entries = [
        (256, 300),
        (257, 300),
        (258, 16),
        (259, 1),
        (262, 1),
        (277, 1),
        (322, 1),
        (323, 1),
        (324, 90_000),
        (325, 90_000),
    ]
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", tag, 4, value if tag in (324, 325) else 1, 200 if tag in (324, 325) else value)
        for tag, value in entries
    )
    with pytest.raises(UnsupportedImage, match="90000 strips or tiles"):
        decode(b"II*\0\x08\0\0\0" + directory + bytes(4) + bytes(400_000), LIMITS)


@pytest.mark.parametrize("bits", [2, 4, 9, 10, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("bands", [1, 3])
def test_packed_numbers_of_any_bits_are_scaled(bits: int, bands: int) -> None:
    """The largest number is white, every other is rounded to the nearest."""
    numbers = np.random.default_rng(bits).integers(0, 1 << bits, (8, 13, bands))
    digits = (numbers[..., None] >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8).reshape(8, -1)
    strip = np.packbits(digits, axis=1).tobytes()
    entries = [(256, 13), (257, 8), (258, bits), (259, 1), (262, 2 if bands == 3 else 1), (273, 8), (277, bands), (278, 8)]
    data = by_hand("<", [*entries, (279, len(strip))], strip)
    expected = np.rint(numbers * 255 / ((1 << bits) - 1))
    assert np.array_equal(decode(data, LIMITS), np.broadcast_to(expected, (8, 13, 3)))


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("separate", [False, True])
def test_fewer_bits_in_16_do_not_make_a_black_picture(bits: int, separate: bool) -> None:
    """What cameras, drones and satellites store."""
    few = np.random.default_rng(bits).integers(0, 1 << bits, (20, 30, 3)).astype(np.uint16)
    few[0, 0] = (1 << bits) - 1
    stored = planes(few) if separate else few
    data = written(stored, photometric="rgb", planarconfig="separate" if separate else "contig", compression="zlib")
    assert np.array_equal(decode(data, LIMITS), np.rint(few / ((1 << bits) - 1) * 255))


@pytest.mark.parametrize(
    ("array", "range_"),
    [
        (GREY.astype(np.float32), "0..1"),
        (GREY.astype(np.float16), "0..1"),
        (-1 - GREY.astype(np.float64), "0..1"),
        (GREY.astype(np.uint32) * 2**20 + 70_000, "0..65535"),
        (-1 - GREY.astype(np.int32), "0..65535"),
        (-1 - GREY.astype(np.int16), "0..65535"),
    ],
)
def test_numbers_that_would_be_all_white_or_all_black_are_unsupported(array: NDArray[Any], range_: str) -> None:
    """A float picture of 0..255 would be white without a word; the refusal names the range of the file and of the service."""
    with pytest.raises(UnsupportedImage, match=f"numbers from .* to .* are read as {range_}"):
        decode(written(array), LIMITS)


def test_a_few_numbers_beyond_the_range_are_its_ends() -> None:
    """Highlights of a float picture, and holes that are not numbers."""
    array = wide(GREY, "f4")
    array[0, :4] = (7.5, -0.1, np.nan, np.inf)
    assert decode(written(array), LIMITS)[0, :4, 0].tolist() == [255, 0, 0, 255]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("colors", [16, 256])
def test_a_palette_of_0_to_255_is_one_of_8_bits(colors: int, order: str) -> None:
    """As libtiff reads such tables; those of 16 bits stay what they are."""
    table = np.random.default_rng(1).integers(0, 256, (3, 256))
    picture = (COLUMNS % colors).astype(np.uint8)
    expected = table.T[picture]
    for scale in (1, 257):
        data = written(picture, photometric="palette", colormap=(table * scale).astype(np.uint16), byteorder=order)
        assert np.array_equal(decode(data, LIMITS), expected)


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("type_", [1, 3, 4])
def test_orientation_of_any_integer_type_is_obeyed(type_: int, orientation: int, kind: str) -> None:
    """By both readers, in both byte orders, as Pillow turns a picture."""
    flips = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE"}
    flips[8] = "ROTATE_90"
    turned = Image.fromarray(PICTURE)
    if orientation > 1:
        turned = turned.transpose(Image.Transpose[flips[orientation]])
    for order in "<>":
        options = {"photometric": "rgb", "byteorder": order, "extratags": [(274, type_, 1, orientation, True)]}
        assert np.array_equal(decode(written(wide(PICTURE, kind), **options), LIMITS), np.asarray(turned))


def pages(*arrays: tuple[NDArray[Any], dict[str, Any]]) -> bytes:
    """A file of several pages."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for array, options in arrays:
            writer.write(array, **options)
    return file.getvalue()


SMALL = np.ascontiguousarray(PICTURE[::8, ::8])
RGB: dict[str, Any] = {"photometric": "rgb"}


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("marked", [1, 4, 5])
def test_a_first_page_that_is_marked_as_reduced_or_as_a_mask_is_not_the_picture(marked: int, kind: str) -> None:
    """The first page that is not marked counts, in the header's size too."""
    data = pages((SMALL, RGB | {"subfiletype": 1}), (wide(PICTURE, kind), RGB), (SMALL, RGB))
    data = with_number(data, 254, marked)
    assert probe(data, LIMITS) == Header("TIFF", 96, 64)
    assert np.array_equal(decode(data, LIMITS), PICTURE)


def test_a_picture_in_a_sub_directory_of_a_reduced_page_is_found() -> None:
    """As cameras store it."""
    data = pages((SMALL, RGB | {"subfiletype": 1, "subifds": 1}), (PICTURE, RGB | {"subfiletype": 0}), (SMALL, RGB))
    assert np.array_equal(decode(data, LIMITS), PICTURE)


def test_the_levels_of_a_pyramid_are_not_the_picture() -> None:
    """The first page is, whatever follows."""
    reduced = RGB | {"subfiletype": 1}
    assert np.array_equal(decode(pages((PICTURE, RGB | {"subifds": 1}), (SMALL, reduced)), LIMITS), PICTURE)
    assert np.array_equal(decode(pages((PICTURE, RGB), (SMALL, reduced)), LIMITS), PICTURE)


def test_a_file_of_reduced_pages_alone_gives_the_first() -> None:
    """There is no other."""
    assert np.array_equal(decode(pages((SMALL, RGB | {"subfiletype": 1})), LIMITS), SMALL)


@pytest.mark.parametrize("photometric", [32803, 34892])
@pytest.mark.parametrize("marked", [0, 1])
def test_camera_raw_is_unsupported_by_name(photometric: int, marked: int) -> None:
    """Neither the mosaic nor the thumbnail is the picture."""
    sensor = wide(GREY if photometric == 32803 else PICTURE, "u2")
    below = pages(
        (SMALL, RGB | {"subfiletype": marked, "subifds": 1}), (sensor, {"photometric": photometric, "subfiletype": 0})
    )
    alone = pages((sensor, {"photometric": photometric}))
    for data in (below, alone, b"II*\0\x10\0\0\0CR\2\0" + bytes(100)):
        with pytest.raises(UnsupportedImage, match="raw picture"):
            probe(data, LIMITS)


def with_number(data: bytes, tag: int, number: int) -> bytes:
    """The file with another number in a tag of its first page."""
    changed = bytearray(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        struct.pack_into("<H", changed, file.pages[0].tags[tag].valueoffset, number)
    return bytes(changed)


def retagged(tag: int, number: int) -> bytes:
    """A 16-bit RGB file with another number in one tag."""
    return with_number(written(wide(PICTURE, "u2"), photometric="rgb", compression="zlib"), tag, number)


@pytest.mark.parametrize(
    ("compression", "name"),
    [
        (50001, "WebP"),
        (34712, "JPEG 2000"),
        (34887, "LERC"),
        (50002, "JPEG XL"),
        (34933, "PNG"),
        (22610, "JPEG XR"),
        (60000, "60000"),
        (7, "compression 7"),
    ],
)
def test_a_foreign_compression_is_unsupported_by_name(compression: int, name: str) -> None:
    """An intact file is not called damaged."""
    with pytest.raises(UnsupportedImage, match=name):
        decode(retagged(259, compression), LIMITS)


@pytest.mark.parametrize("photometric", [8, 9, 10, 32844])
def test_a_foreign_colour_space_is_unsupported(photometric: int) -> None:
    """L*a*b* and LogL are not red, green and blue."""
    with pytest.raises(UnsupportedImage, match="RGB"):
        decode(retagged(262, photometric), LIMITS)


def test_complex_numbers_are_unsupported() -> None:
    """Radar."""
    with pytest.raises(UnsupportedImage, match="complex"):
        decode(written(GREY.astype(np.complex64)), LIMITS)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("cut", [0.3, 0.7, 0.97])
def test_a_truncated_file_is_corrupt(layout: str, kind: str, cut: float) -> None:
    """The directory in front, the samples cut off: nothing is filled up with black."""
    data = written(wide(PICTURE, kind), photometric="rgb", **LAYOUTS[layout])
    with pytest.raises(CorruptImage):
        decode(data[: int(len(data) * cut)], LIMITS)


def test_damaged_deflated_data_is_corrupt() -> None:
    """The checksum counts, though every row is there."""
    data = bytearray(written(wide(PICTURE, "u2"), photometric="rgb", compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        end = file.pages[0].dataoffsets[0] + file.pages[0].databytecounts[0]
    data[end - 1] ^= 1
    with pytest.raises(CorruptImage):
        decode(bytes(data), LIMITS)


@pytest.mark.parametrize("mode", ["L", "RGB", "YCbCr", "CMYK"])
@pytest.mark.parametrize("filler", [b"\0", b"\xff\xd9"])
def test_a_strip_of_jpeg_that_ends_early_is_corrupt(mode: str, filler: bytes) -> None:
    """libtiff would fill the rest with grey and say nothing."""
    picture = Image.fromarray(np.kron(PICTURE, np.ones((2, 2, 1), np.uint8))).convert(mode)
    data = bytearray(encode_image(picture, "TIFF", compression="jpeg"))
    assert decode(bytes(data), LIMITS).shape == (128, 192, 3)
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        start, length = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    half = length // 2
    data[start + half : start + length] = (filler * length)[: length - half]
    with pytest.raises(CorruptImage):
        decode(bytes(data), LIMITS)


def test_a_strip_too_large_to_be_decompressed_is_refused() -> None:
    """64-bit numbers in one deflated strip would take 24 bytes a pixel; 6 are given."""
    data = written(np.zeros((100, 100, 3), np.float64), photometric="rgb", compression="zlib", rowsperstrip=100)
    with pytest.raises(ImageTooLarge) as caught:
        decode(data, Limits(max_pixels=10_000))
    assert caught.value.facts == {"limit": 60_000, "actual": 240_000, "unit": "bytes a strip"}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
def test_what_pillow_writes_is_read_as_pillow_reads_it(mode: str, compression: str) -> None:
    """The pictures of 8 bits that Pillow and libtiff know."""
    if compression == "jpeg" and mode in ("1", "P", "LA", "RGBA"):
        pytest.skip("JPEG holds no such picture")
    data = encode_image(Image.fromarray(PICTURE).convert(mode), "TIFF", compression=compression)
    with Image.open(io.BytesIO(data)) as picture:
        expected = np.asarray(picture.convert("RGB"))
    rounding = 2 if (mode, compression) == ("YCbCr", "raw") else 0  # libtiff's and Pillow's equations in whole numbers
    assert np.abs(decode(data, LIMITS).astype(int) - expected).max() <= rounding


def with_holes(data: bytes, *places: int) -> bytes:
    """The file without some of its strips or tiles, as GDAL's SPARSE_OK writes it: offset 0, length 0."""
    changed = bytearray(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tags = file.pages[0].tags
        for name in ("TileOffsets", "TileByteCounts") if "TileOffsets" in tags else ("StripOffsets", "StripByteCounts"):
            tag = tags[name]
            size = {3: 2, 4: 4, 16: 8}[int(tag.dtype)]
            for place in places:
                changed[tag.valueoffset + place * size : tag.valueoffset + (place + 1) * size] = bytes(size)
    return bytes(changed)


def nodata(text: str) -> dict[str, Any]:
    """GDAL's tag for the number of pixels without a value."""
    return {"extratags": [(42113, 2, 0, text, True)]}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("layout", ["tiles", "deflated tiles"])
@pytest.mark.parametrize("value", [None, 200])
def test_tiles_that_are_not_stored_are_nodata(value: int | None, layout: str, kind: str, bands: int, order: str) -> None:
    """A hole is GDAL_NODATA, or 0 without that tag, and never the bytes of the file's header."""
    number = wide(np.full(1, value or 0, np.uint8), kind)[0]
    options = LAYOUTS[layout] | (nodata(repr(number.item())) if value else {})
    options |= {"photometric": "rgb" if bands == 3 else "minisblack", "byteorder": order, "metadata": None}
    array = wide(PICTURE if bands == 3 else GREY, kind)
    expected = PICTURE.copy() if bands == 3 else np.repeat(GREY[..., None], 3, axis=2)
    height, width = options["tile"]
    expected[:height, :width] = expected[:height, width : 2 * width] = value or 0
    assert np.array_equal(decode(with_holes(written(array, **options), 0, 1), LIMITS), expected)


def test_a_sparse_palette_is_unsupported_and_an_offset_of_0_with_a_length_is_corrupt() -> None:
    """Neither shows the header of the file as pixels."""
    table = np.zeros((3, 256), np.uint16)
    sparse = with_holes(written(GREY, photometric="palette", colormap=table, tile=(32, 48), metadata=None), 0)
    with pytest.raises(UnsupportedImage, match="sparse"):
        decode(sparse, LIMITS)
    whole = bytearray(written(PICTURE, photometric="rgb", metadata=None))
    with tifffile.TiffFile(io.BytesIO(bytes(whole))) as file:
        tag = file.pages[0].tags["StripOffsets"]
        whole[tag.valueoffset : tag.valueoffset + 4] = bytes(4)
    with pytest.raises(CorruptImage, match="offset 0"):
        decode(bytes(whole), LIMITS)


def test_white_is_the_largest_number_of_16_signed_bits() -> None:
    """32767 is white, as 127 is with 8 bits; fewer bits keep their own depth."""
    for white in (32767, 4095):
        numbers = (GREY.astype(np.int32) * white // 255).astype(np.int16)
        numbers[0, 0] = white
        expected = np.rint(numbers / white * 255)
        assert np.abs(decode(written(numbers), LIMITS)[..., 0] - expected).max() == 0


@pytest.mark.parametrize(("kind", "hole"), [("u2", 65535), ("u2", 20000), ("i2", 32767), ("i4", 65535)])
@pytest.mark.parametrize("bits", [10, 12])
def test_pixels_without_a_value_do_not_decide_the_depth(bits: int, kind: str, hole: int) -> None:
    """A picture of 12 bits is not black where GDAL_NODATA is 65535."""
    few = (GREY.astype(np.uint32) * ((1 << bits) - 1) // 255).astype(kind)
    few[1, 1] = (1 << bits) - 1
    expected = decode(written(few), LIMITS)
    few[:1] = hole
    found = decode(written(few, metadata=None, **nodata(str(hole))), LIMITS)
    assert np.array_equal(found[1:], expected[1:])
    assert (found[0] == 255).all()


@pytest.mark.parametrize("hole", ["-9999", "-1.7976931348623157e+308", "nan"])
@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
def test_most_pixels_may_be_without_a_value(kind: str, hole: str) -> None:
    """A flight strip is a small part of its raster; numbers beyond a type's range raise no warning."""
    array = wide(GREY, kind)
    array[:50] = np.clip(float(hole), np.finfo(kind).min, np.finfo(kind).max)
    found = decode(written(array, metadata=None, **nodata(hole)), LIMITS)
    assert np.array_equal(found[50:, :, 0], GREY[50:])
    assert not found[:50].any()


@pytest.mark.parametrize("layout", ["one strip", "tiles", "deflated tiles"])
@pytest.mark.parametrize("extra", ["unspecified", "assocalpha", "unassalpha"])
def test_four_planes_of_8_bits_are_read(extra: str, layout: str) -> None:
    """Near infrared is left out, and transparency lies over white."""
    fourth = np.full((64, 96, 1), 128 if extra == "unspecified" else 255, np.uint8)
    stored = planes(np.concatenate([PICTURE, fourth], axis=2))
    data = written(stored, photometric="rgb", planarconfig="separate", extrasamples=(extra,), **LAYOUTS[layout])
    assert np.array_equal(decode(data, LIMITS), PICTURE)


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("writer", ["imagej", "ome"])
def test_channels_in_pages_of_their_own_are_unsupported(writer: str, kind: str) -> None:
    """The first channel is not the picture; a stack of slices and a picture of colours are still read."""
    three = planes(wide(PICTURE, kind))
    with pytest.raises(UnsupportedImage, match=r"3 channels.*RGB"):
        decode(written(three, **{writer: True}, photometric="minisblack", metadata={"axes": "CYX"}), LIMITS)
    slices = written(three, **{writer: True}, photometric="minisblack", metadata={"axes": "ZYX"})
    assert np.array_equal(decode(slices, LIMITS)[..., 0], PICTURE[..., 0])
    colours = written(wide(PICTURE, "u1"), **{writer: True}, photometric="rgb", metadata={"axes": "YXS"})
    assert np.array_equal(decode(colours, LIMITS), PICTURE)


def ycbcr(across: int, down: int, order: str, compression: int) -> tuple[bytes, NDArray[np.float64]]:
    """A TIFF file of YCbCr with a reference black and white of video, and its colours by the equations of the format.

    Source: TIFF 6.0 (1992), section 21.
    """
    small = PICTURE[::down, ::across].astype(np.float64)
    red, green, blue = np.moveaxis(np.repeat(np.repeat(small, down, 0), across, 1), 2, 0)
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    stored = [16 + light * 219 / 255, 128 + (blue - light) / 1.772 * 224 / 255, 128 + (red - light) / 1.402 * 224 / 255]
    y, cb, cr = (np.rint(plane).astype(np.uint8) for plane in stored)
    high, wide_ = y.shape
    blocks = y.reshape(high // down, down, wide_ // across, across).swapaxes(1, 2).reshape(high // down, wide_ // across, -1)
    data = np.concatenate([blocks, cb[::down, ::across, None], cr[::down, ::across, None]], axis=2).tobytes()
    data = zlib.compress(data) if compression == 8 else data
    tail = 8 + len(data)
    further = struct.pack(order + "3H", 8, 8, 8) + bytes(2)
    further += struct.pack(order + "12I", *(n for value in (16, 235, 128, 240, 128, 240) for n in (value, 1)))
    entries = [
        (256, 4, 1, struct.pack(order + "I", wide_)),
        (257, 4, 1, struct.pack(order + "I", high)),
        (258, 3, 3, struct.pack(order + "I", tail)),
        (259, 3, 1, struct.pack(order + "HH", compression, 0)),
        (262, 3, 1, struct.pack(order + "HH", 6, 0)),
        (273, 4, 1, struct.pack(order + "I", 8)),
        (277, 3, 1, struct.pack(order + "HH", 3, 0)),
        (278, 4, 1, struct.pack(order + "I", high)),
        (279, 4, 1, struct.pack(order + "I", len(data))),
        (530, 3, 2, struct.pack(order + "HH", across, down)),
        (532, 5, 6, struct.pack(order + "I", tail + 8)),
    ]
    directory = struct.pack(order + "H", len(entries))
    directory += b"".join(struct.pack(order + "HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, tail + len(further))
    return head + data + further + directory + bytes(4), np.dstack([red, green, blue])


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("across", "down"), [(1, 1), (2, 1), (2, 2), (4, 2), (4, 4)])
def test_ycbcr_is_read_by_its_subsampling_and_its_black_and_white(across: int, down: int, order: str, compression: int) -> None:
    """Uncompressed and deflated: the colours of the format's equations, but for the rounding of the stored numbers."""
    data, colors = ycbcr(across, down, order, compression)
    difference = np.abs(decode(data, LIMITS) - colors)
    assert difference.max() <= 6
    assert difference.mean() <= 1.5


@pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("separate", [False, True])
def test_ycbcr_of_every_layout_is_read(options: dict[str, Any], separate: bool) -> None:
    """Strips and tiles, bands together or apart."""
    samples = np.asarray(Image.fromarray(PICTURE).convert("YCbCr"))
    array, kind = (planes(samples), "separate") if separate else (samples, "contig")
    data = written(array, photometric="ycbcr", planarconfig=kind, **options)
    assert np.abs(decode(data, LIMITS).astype(int) - PICTURE).max() <= 3


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_damaged_ycbcr_is_corrupt(compression: str) -> None:
    """libtiff fills what it cannot decompress, in silence."""
    data = bytearray(encode_image(Image.fromarray(PICTURE).convert("YCbCr"), "TIFF", compression=compression))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        begin, length = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    data[begin + length // 2 : begin + length] = bytes(length - length // 2)
    with pytest.raises(CorruptImage):
        decode(bytes(data), LIMITS)


@pytest.mark.parametrize("compression", [1, 8])
def test_ycbcr_with_too_few_samples_is_corrupt(compression: int) -> None:
    """A whole stream of half of them."""
    data, _ = ycbcr(2, 2, "<", compression)
    assert decode(data, LIMITS).shape == PICTURE.shape
    where = data.index(struct.pack("<HHI", 257, 4, 1)) + 8
    longer = data[:where] + struct.pack("<I", 128) + data[where + 4 :]
    rows = longer.index(struct.pack("<HHI", 278, 4, 1)) + 8
    with pytest.raises(CorruptImage):
        decode(longer[:rows] + struct.pack("<I", 128) + longer[rows + 4 :], LIMITS)


def test_ycbcr_that_breaks_off_is_corrupt() -> None:
    """A strip that ends behind the file, or holds fewer samples than its size: no picture with grey rows."""
    data, _ = ycbcr(2, 2, "<", 1)
    where = data.index(struct.pack("<HHI", 279, 4, 1)) + 8
    (length,) = struct.unpack_from("<I", data, where)
    for wrong in (length // 2, length * 3):
        with pytest.raises(CorruptImage):
            decode(data[:where] + struct.pack("<I", wrong) + data[where + 4 :], LIMITS)
