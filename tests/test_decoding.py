"""Bytes to upright RGB: every format, every mode, every kind of damage."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from service.errors import BodyTooLarge, CorruptImage, EmptyBody, ImageTooLarge, ServiceError, UnsupportedImage
from service.pipeline.codecs import scans
from service.pipeline.codecs.decoding import FORMATS, Header, Limits, decode, probe
from service.settings import Settings
from tests.conftest import encode_image, make_image

LIMITS = Limits()
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
SMOOTH = cv2.resize(NOISE[:4, :6], (60, 40), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
LOSSLESS: dict[str, dict[str, Any]] = {"BMP": {}, "GIF": {}, "PNG": {}, "PNM": {}, "TIFF": {}, "WEBP": {"lossless": True}}


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_that_claims(width: int, height: int) -> bytes:
    """A well-formed PNG file of a few bytes, with a header that may be a lie."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def claiming(kind: str, width: int, height: int) -> bytes:
    """A small file of any format, its header rewritten to claim another size."""
    if kind == "PNG":
        return png_that_claims(width, height)
    data = bytearray(encode_image(NOISE, kind, **({"lossless": True} if kind == "WEBP" else {})))
    if kind == "JPEG":
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    elif kind == "BMP":
        struct.pack_into("<ii", data, 18, width, height)
    elif kind == "GIF":
        struct.pack_into("<HH", data, 6, width, height)
    elif kind == "PNM":
        return b"P6 %d %d 255\n" % (width, height) + data[-7200:]
    elif kind == "AVIF":
        struct.pack_into(">II", data, data.index(b"ispe") + 8, width, height)
    elif kind == "WEBP":
        struct.pack_into("<I", data, 21, (width - 1) & 0x3FFF | ((height - 1) & 0x3FFF) << 14)
    else:
        (offset,) = struct.unpack_from("<I", data, 4)
        for entry in range(offset + 2, offset + 2 + 12 * data[offset], 12):
            tag = struct.unpack_from("<H", data, entry)[0]
            if tag in (256, 257):
                struct.pack_into("<HII", data, entry + 2, 4, 1, width if tag == 256 else height)
    return bytes(data)


# --- formats and modes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(LOSSLESS))
def test_lossless_formats_come_back_bit_for_bit(kind: str) -> None:
    """The network sees the pixels that the caller sent."""
    image = make_image(40, 60)
    pixels = decode(encode_image(image, kind, **LOSSLESS[kind]), LIMITS)
    assert np.array_equal(pixels, image)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"keep_rgb": True}, {"quality": 20}])
def test_jpeg_is_what_pillow_decodes(options: dict[str, Any]) -> None:
    """The fast decoder and the usual one agree."""
    data = encode_image(SMOOTH, "JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.abs(decode(data, LIMITS).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("kind", FORMATS)
def test_one_pixel_is_an_image(kind: str) -> None:
    """The smallest image there is."""
    pixels = decode(encode_image(np.full((1, 1, 3), 255, np.uint8), kind), LIMITS)
    assert pixels.tolist() == [[[255, 255, 255]]]


HOLDS = {
    "BMP": "1 L P RGB RGBA",
    "GIF": "1 L P",
    "JPEG": "1 L RGB CMYK YCbCr",
    "PNG": "1 L LA P RGB RGBA",
    "PNM": "1 L RGB",
    "TIFF": "1 L LA P RGB RGBA CMYK YCbCr",
    "WEBP": "L RGB RGBA",
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in HOLDS.items() for mode in modes.split()])
def test_every_mode_becomes_rgb(kind: str, mode: str) -> None:
    """Whatever a format can hold is shown as a viewer shows it, within what the format itself loses."""
    picture = Image.fromarray(SMOOTH).convert(mode)
    pixels = decode(encode_image(picture, kind, **LOSSLESS.get(kind, {"quality": 95})), LIMITS)
    assert pixels.shape == (40, 60, 3)
    assert np.abs(pixels - np.asarray(picture.convert("RGB")).astype(int)).mean() < (8 if kind == "JPEG" else 1)


def test_a_colour_space_that_cannot_be_shown_is_unsupported() -> None:
    """Better refused than shown in wrong colours."""
    with pytest.raises(UnsupportedImage, match="LAB"):
        decode(encode_image(Image.new("LAB", (4, 4)), "TIFF"), LIMITS)


GREY16 = np.arange(0, 65536, 27, dtype=np.uint16)[:2400].reshape(40, 60)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    """65535 is white, 257 is 1: every value is rounded to the nearest 8-bit value."""
    pixels = decode(encode_image(GREY16, kind), LIMITS)
    assert np.array_equal(pixels, np.repeat(np.rint(GREY16 / 257)[..., None], 3, axis=2))


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bit_colour_is_scaled_not_clipped(suffix: str) -> None:
    """The same for three channels, within one step."""
    wide = RNG.integers(0, 65536, (10, 12, 3)).astype(np.uint16)
    _, data = cv2.imencode(suffix, wide[..., ::-1])
    assert np.abs(decode(data.tobytes(), LIMITS) - wide / 257).max() <= 1


def test_integers_of_32_bits_count_as_16_and_floats_as_0_to_1() -> None:
    """What scientific TIFF files hold; numbers outside the range are its ends, and what is not a number is black."""
    grey = np.array([[-5, 0, 257, 65535, 10**6]], np.int32)
    assert decode(encode_image(grey, "TIFF"), LIMITS)[0, :, 0].tolist() == [0, 0, 1, 255, 255]
    real = np.array([[-1.0, 0.0, 0.5, 1.0, 9.0, np.nan, np.inf, -np.inf]], np.float32)
    assert decode(encode_image(real, "TIFF"), LIMITS)[0, :, 2].tolist() == [0, 0, 128, 255, 255, 0, 255, 0]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_the_brightest_pixel_does_not_change_the_others(kind: str) -> None:
    """Scaling depends on the depth, 8, 10, 12, 14 or 16 bits, and not on the maximum within it."""
    dark = np.full((8, 8), 1100, np.uint16)
    bright = dark.copy()
    bright[0, 0] = 4095
    shown = [decode(encode_image(image, kind), LIMITS)[1, 1, 0] for image in (dark, bright)]
    assert shown[0] == shown[1] == round(1100 / 4095 * 255)


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize(("kind", "channels"), [("PNG", 1), ("PNG", 3), ("PNG", 4), ("TIFF", 1), ("TIFF", 3)])
def test_fewer_bits_in_16_do_not_make_a_black_picture(kind: str, channels: int, bits: int) -> None:
    """Cameras of 10, 12 and 14 bits store them in 16: the picture is that of the same numbers, scaled to 16."""
    few = RNG.integers(0, 1 << bits, (30, 40, channels)).astype(np.uint16)
    few[0, 0], few[..., 3:] = (1 << bits) - 1, 65535
    suffix = {"PNG": ".png", "TIFF": ".tiff"}[kind]
    _, data = cv2.imencode(suffix, few)
    expected = np.rint(few[..., :3][..., ::-1] / ((1 << bits) - 1) * 255)
    assert np.array_equal(decode(data.tobytes(), LIMITS), np.broadcast_to(expected, (30, 40, 3)))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_lies_over_white(kind: str) -> None:
    """Half a colour over white paper; where nothing is drawn, the paper."""
    image = np.zeros((1, 3, 4), np.uint8)
    image[0, :, 0] = 200
    image[0, :, 3] = (0, 128, 255)
    pixels = decode(encode_image(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})), LIMITS)
    assert np.abs(pixels[0].astype(int) - [[255, 255, 255], [227, 127, 127], [200, 0, 0]]).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_an_alpha_of_zeros_says_nothing(kind: str) -> None:
    """Screenshots of game engines have one: their picture is the colours, and not a white sheet."""
    clear = np.dstack([SMOOTH, np.zeros((40, 60), np.uint8)])
    of_kind: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True, "exact": True}, "AVIF": {"quality": 95}}
    options = of_kind.get(kind, {})
    difference = np.abs(decode(encode_image(clear, kind, **options), LIMITS).astype(int) - SMOOTH)
    assert difference.mean() < (8 if kind == "AVIF" else 0.01)


@pytest.mark.parametrize("header_bytes", [56, 108, 124])
@pytest.mark.parametrize("alpha", [0, 255])
@pytest.mark.parametrize("masks", [(0xFF0000, 0xFF00, 0xFF, 0xFF000000), (0xFF000000, 0xFF0000, 0xFF00, 0xFF)])
def test_a_bmp_with_an_alpha_of_zeros_or_ones_is_opaque(header_bytes: int, alpha: int, masks: tuple[int, ...]) -> None:
    """Versions 3, 4 and 5 of the header, with the bands in both orders."""
    shifts = [mask.bit_length() - 8 for mask in masks]
    bands = np.dstack([NOISE, np.full((40, 60), alpha, np.uint8)]).astype(np.uint32)
    pixels = np.sum(bands << np.array(shifts, np.uint32), axis=2).astype("<u4")[::-1].tobytes()
    head = struct.pack("<IiiHHIIiiII", header_bytes, 60, 40, 1, 32, 3, len(pixels), 2835, 2835, 0, 0)
    head = (head + struct.pack("<IIII", *masks)).ljust(header_bytes, b"\0")
    data = b"BM" + struct.pack("<IHHI", 14 + len(head) + len(pixels), 0, 0, 14 + len(head)) + head + pixels
    assert np.array_equal(decode(data, LIMITS), NOISE)


@pytest.mark.parametrize("bits", [12, 16])
def test_grey_of_16_bits_with_transparency_is_scaled(bits: int) -> None:
    """PNG's fifth kind of pixels, which OpenCV and Pillow do not write."""
    grey = RNG.integers(0, 1 << bits, (5, 7)).astype(">u2")
    grey[0, 0] = (1 << bits) - 1
    rows = np.dstack([grey, np.full_like(grey, 65535)]).astype(">u2").reshape(5, -1)
    header = struct.pack(">IIBBBBB", 7, 5, 16, 4, 0, 0, 0)
    body = png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + body + png_chunk(b"IEND", b"")
    assert np.abs(decode(data, LIMITS)[..., 0] - grey.astype(int) / ((1 << bits) - 1) * 255).max() <= 1


def test_a_transparent_palette_entry_lies_over_white() -> None:
    """Palettes have transparency of their own, in PNG and in GIF."""
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putdata([0, 1])
    for data in (
        encode_image(picture, "PNG", transparency=0),
        encode_image(picture, "PNG", transparency=bytes([0, 255])),
        encode_image(picture, "GIF", transparency=0),
    ):
        assert decode(data, LIMITS).tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_cmyk_jpegs_are_not_shown_inverted() -> None:
    """Adobe stores the inks the other way round."""
    picture = Image.new("CMYK", (16, 16), (255, 0, 0, 0))  # cyan
    red, green, blue = decode(encode_image(picture, "JPEG", quality=95), LIMITS)[8, 8].tolist()
    assert red < 20
    assert green > 235
    assert blue > 235


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_a_moving_image_the_first_frame_is_taken(kind: str) -> None:
    """An animation is its first picture."""
    first = make_image(40, 60)
    frames = [Image.fromarray(first), Image.fromarray(first[:, ::-1].copy())]
    data = encode_image(frames[0], kind, save_all=True, append_images=frames[1:], **LOSSLESS[kind])
    assert np.array_equal(decode(data, LIMITS), first)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "group4"])
def test_tiff_compressions(compression: str) -> None:
    """What scanners and instruments write."""
    picture = Image.fromarray(SMOOTH).convert("1" if compression == "group4" else "RGB")
    data = encode_image(picture, "TIFF", compression=compression)
    assert np.array_equal(decode(data, LIMITS), np.asarray(picture.convert("RGB")))


# --- orientation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    """The mask fits the image as people see it, in all eight ways to hold a camera."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode_image(NOISE, kind, exif=exif, **LOSSLESS.get(kind, {}))
    with Image.open(io.BytesIO(data)) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    pixels = decode(data, LIMITS)
    assert pixels.shape == ((60, 40, 3) if orientation > 4 else (40, 60, 3))
    assert np.array_equal(pixels, expected)


def test_orientation_behind_the_pixels_of_a_png_counts() -> None:
    """The chunk may stand anywhere."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode_image(NOISE)
    end = data.index(b"IEND") - 4
    late = data[:end] + png_chunk(b"eXIf", exif.tobytes()[6:]) + data[end:]
    assert np.array_equal(decode(late, LIMITS), np.rot90(NOISE, -1))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0garbage garbage", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*\0\0\0\x08\0\x01"]
)
def test_broken_exif_is_not_a_reason_to_refuse_a_picture(exif: bytes) -> None:
    """It then says nothing of the orientation."""
    assert decode(encode_image(NOISE, "JPEG", exif=exif), LIMITS).shape == NOISE.shape


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_the_header_tells_the_size(kind: str) -> None:
    """Without decoding, for every format."""
    assert probe(encode_image(NOISE, kind), LIMITS) == Header(kind, 60, 40)
    assert probe(encode_image(NOISE, kind), LIMITS).megapixels == pytest.approx(0.0024)


def test_a_comment_with_the_marks_of_scans_leaves_a_jpeg_a_picture() -> None:
    """DICOM's mark at 128 and that of NIfTI's pairs at 344 may stand in any comment or table of a picture."""
    comment = bytearray(400)
    comment[128 - 6 : 132 - 6], comment[344 - 6 : 348 - 6] = b"DICM", b"ni1\0"
    plain = encode_image(NOISE, "JPEG")
    marked = plain[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + bytes(comment) + plain[2:]
    assert (marked[128:132], marked[344:348]) == (b"DICM", b"ni1\0")
    assert probe(marked, LIMITS) == Header("JPEG", 60, 40)
    assert scans.kind(marked) is None
    np.testing.assert_array_equal(decode(marked, LIMITS), decode(plain, LIMITS))


@pytest.mark.parametrize("options", [{"quality": 80}, {"lossless": True}, {"lossless": True, "exif": b"Exif\0\0"}])
def test_each_of_the_three_kinds_of_webp_tells_its_size(options: dict[str, Any]) -> None:
    """Lossy, lossless and extended have different headers."""
    assert probe(encode_image(NOISE, "WEBP", **options), LIMITS) == Header("WEBP", 60, 40)


def test_big_tiff_and_big_endian_tiff_tell_their_size() -> None:
    """Both byte orders, and the form for large files."""
    assert probe(encode_image(NOISE, "TIFF", big_tiff=True), LIMITS) == Header("TIFF", 60, 40)
    assert decode(encode_image(NOISE, "TIFF", big_tiff=True), LIMITS).shape == NOISE.shape
    sides = struct.pack(">HHIHH", 256, 3, 1, 60, 0) + struct.pack(">HHII", 257, 4, 1, 40)
    assert probe(b"MM\0*\0\0\0\x08\0\x02" + sides, LIMITS) == Header("TIFF", 60, 40)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_giant_is_refused_in_milliseconds_without_memory(kind: str) -> None:
    """60000 x 60000 pixels in a file of a few bytes cost nothing."""
    side = 16_000 if kind == "WEBP" else 60_000
    data = claiming(kind, side, side)
    tracemalloc.start()
    start = time.thread_time()  # and not by the clock, which runs while others compute
    with pytest.raises(ImageTooLarge) as caught:
        decode(data, LIMITS)
    elapsed_s = time.thread_time() - start
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert elapsed_s < 0.1
    assert peak < 1_000_000
    assert caught.value.facts == {"limit": LIMITS.max_pixels, "actual": side * side, "unit": "pixels"}


@pytest.mark.parametrize("kind", FORMATS)
def test_too_long_a_side_is_refused(kind: str) -> None:
    """A line of pixels is few pixels, but more than any decoder and network is made for."""
    with pytest.raises(ImageTooLarge) as caught:
        probe(claiming(kind, 12_000, 1), Limits(max_side=11_999))
    assert caught.value.facts == {"limit": 11_999, "actual": 12_000, "unit": "pixels a side"}


def test_the_limits_themselves_are_allowed() -> None:
    """At the limit is not beyond it."""
    data = encode_image(NOISE)
    assert decode(data, Limits(max_bytes=len(data), max_pixels=2400, max_side=60)).shape == NOISE.shape
    with pytest.raises(BodyTooLarge) as caught:
        decode(data, Limits(max_bytes=len(data) - 1))
    assert caught.value.facts == {"limit": len(data) - 1, "actual": len(data), "unit": "bytes"}


def test_a_gif_frame_larger_than_its_screen_is_refused() -> None:
    """The first frame counts, not what the screen promised."""
    data = bytearray(encode_image(NOISE, "GIF"))
    struct.pack_into("<HH", data, 6, 1, 1)
    frame = data.index(b"\x2c\0\0\0\0")
    struct.pack_into("<HH", data, frame + 5, 60_000, 60_000)
    with pytest.raises(ImageTooLarge):
        decode(bytes(data), LIMITS)


def test_a_tiff_tile_larger_than_its_image_is_refused() -> None:
    """Decoders allocate whole tiles."""
    entries = [(256, 10), (257, 10), (322, 60_000), (323, 60_000)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    with pytest.raises(ImageTooLarge):
        probe(b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory, LIMITS)


# --- damage ----------------------------------------------------------------------------------------------------------


def test_nothing_is_an_empty_body() -> None:
    """No bytes, no image."""
    with pytest.raises(EmptyBody):
        decode(b"", LIMITS)


@pytest.mark.parametrize(
    "data", [b"this is a text file called .jpg", b"%PDF-1.7", b"<svg/>", b"\0" * 100, b"\xff\xd8", b"RIFF____WAVE"]
)
def test_what_is_not_an_image_is_unsupported(data: bytes) -> None:
    """The bytes decide, not the name or the media type."""
    with pytest.raises(UnsupportedImage):
        decode(data, LIMITS)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
def test_a_truncated_image_is_corrupt(kind: str, share: float) -> None:
    """Half a picture is not quietly filled up with grey."""
    data = encode_image(NOISE, kind, **LOSSLESS.get(kind, {}))
    with pytest.raises(CorruptImage):
        decode(data[: int(len(data) * share)], LIMITS)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_last_rows_is_corrupt(progressive: bool) -> None:
    """Even one that lacks only its last bytes of coded data; the end marker alone decides no pixel."""
    data = encode_image(NOISE, "JPEG", progressive=progressive)
    assert np.array_equal(decode(data[:-2], LIMITS), decode(data, LIMITS))
    for missing in (4, 10, len(data) // 2):
        for end in (b"", b"\xff\xd9"):
            with pytest.raises(CorruptImage):
                decode(data[:-missing] + end, LIMITS)


def test_a_jpeg_with_damage_inside_is_corrupt() -> None:
    """The rest would be shifted or grey."""
    data = bytearray(encode_image(NOISE, "JPEG", quality=95))
    middle = len(data) // 2
    data[middle : middle + 60] = bytes(60)
    with pytest.raises(CorruptImage):
        decode(bytes(data), LIMITS)


def test_the_padding_of_webcams_is_not_damage() -> None:
    """A few bytes before the end marker, or anything behind it, change no pixel."""
    data = encode_image(np.full((16, 16, 3), 128, np.uint8), "JPEG")
    for padded in (data[:-2] + b"\0\0\0\0" + data[-2:], data + bytes(100)):
        assert np.array_equal(decode(padded, LIMITS), decode(data, LIMITS))


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_an_image_without_pixels_is_corrupt(size: tuple[int, int]) -> None:
    """0 x 0 is nothing to segment."""
    with pytest.raises(CorruptImage, match="no pixels"):
        decode(png_that_claims(*size), LIMITS)


def test_the_defaults_are_those_of_the_service() -> None:
    """A program that decodes without the service has the same bounds."""
    served = Settings()
    assert Limits() == Limits(served.max_image_bytes, served.max_image_pixels, served.max_image_side)


def test_12_bit_jpegs_are_unsupported() -> None:
    """They are said to be what they are."""
    data = bytearray(encode_image(NOISE, "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(UnsupportedImage, match="12 bits"):
        decode(bytes(data), LIMITS)


@pytest.mark.parametrize("marker", [0xC3, 0xC7, 0xCB, 0xCF])
def test_lossless_jpegs_are_unsupported(marker: int) -> None:
    """All four kinds of them are."""
    data = encode_image(NOISE, "JPEG").replace(b"\xff\xc0", bytes([0xFF, marker]))
    with pytest.raises(UnsupportedImage, match="lossless"):
        decode(data, LIMITS)


def test_a_jpeg_of_countless_scans_is_refused() -> None:
    """Each would cost a pass over the image."""
    data = encode_image(NOISE, "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(CorruptImage, match="scans"):
        decode(data[:-2] + scan * 200 + data[-2:], LIMITS)


def test_neither_is_one_with_arithmetic_coding() -> None:
    """The other progressive kind."""
    data = encode_image(NOISE, "JPEG", progressive=True).replace(b"\xff\xc2", b"\xff\xca")
    scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(CorruptImage, match="scans"):
        decode(data[:-2] + scan * 200 + data[-2:], LIMITS)


def test_the_oldest_bmps_tell_their_size() -> None:
    """A header of 12 bytes has 16-bit sides."""
    head = struct.pack("<IHHHH", 12, 3, 2, 1, 24)
    rows = bytes([0, 0, 255] * 3 + [0] * 3) * 2
    data = b"BM" + struct.pack("<IHHI", 14 + len(head) + len(rows), 0, 0, 14 + len(head)) + head + rows
    assert probe(data, LIMITS) == Header("BMP", 3, 2)
    assert decode(data, LIMITS).tolist() == [[[255, 0, 0]] * 3] * 2


def test_a_jpeg_of_countless_segments_is_refused() -> None:
    """Walking through them ends."""
    with pytest.raises(CorruptImage):
        probe(b"\xff\xd8" + b"\xff\xe2\0\x02" * 100_000, LIMITS)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8\xff" + b"\xff" * 30_000_000,  # fill bytes before a marker that never comes
        b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**60) + struct.pack("<HHQQ", 1, 4, 1, 1) * 1_500_000,
    ],
    ids=["jpeg", "bigtiff"],
)
def test_a_header_as_long_as_the_file_is_read_quickly(data: bytes) -> None:
    """A header is read on the event loop: it took 1.5 s and 0.7 s of every request's time."""
    start = time.thread_time()
    with pytest.raises(CorruptImage):
        probe(data, LIMITS)
    assert time.thread_time() - start < 0.2


def test_an_offset_beyond_everything_is_damage() -> None:
    """A BigTIFF may say that its directory is two exabytes away."""
    with pytest.raises(CorruptImage):
        probe(b"II+\0\x08\0\0\0" + b"\xff" * 8, LIMITS)


def test_fill_bytes_before_a_marker_are_not_damage() -> None:
    """The standard allows any number of them."""
    data = encode_image(NOISE, "JPEG")
    assert probe(data[:2] + b"\xff" * 1000 + data[2:], LIMITS) == probe(data, LIMITS)


# --- manners ---------------------------------------------------------------------------------------------------------


def test_no_warning_leaks(recwarn: pytest.WarningsRecorder) -> None:
    """Pillow's complaints about odd metadata are not the operator's, and under `-W error` no reason to fail."""
    warnings.simplefilter("error")
    palette = Image.fromarray(SMOOTH).quantize(4)
    for data in (
        encode_image(palette, "PNG", transparency=bytes([0, 128, 255, 255])),
        encode_image(NOISE, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0"),
        encode_image(np.zeros((3000, 3000, 3), np.uint8)),
    ):
        decode(data, LIMITS)
    assert not recwarn.list


def test_decoding_works_from_many_threads() -> None:
    """No state is shared."""
    files = [encode_image(NOISE, kind, **LOSSLESS[kind]) for kind in ("PNG", "WEBP", "TIFF", "BMP")] * 10

    def decoded(data: bytes) -> NDArray[np.uint8]:
        return decode(data, LIMITS)

    with ThreadPoolExecutor(8) as pool:
        assert all(np.array_equal(pixels, NOISE) for pixels in pool.map(decoded, files))


def tiff(bits: int, sample_format: int, pixels: bytes, *, white_is_0: bool = False) -> bytes:
    """A grey TIFF of one row, uncompressed: Pillow writes no such kinds."""
    width = len(pixels) * 8 // bits
    entries = [(256, 4, width), (257, 4, 1), (258, 3, bits), (259, 3, 1), (262, 3, not white_is_0), (273, 4, 8)]
    entries += [(277, 3, 1), (278, 4, 1), (279, 4, len(pixels)), (339, 3, sample_format)]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, kind, 1, n) for tag, kind, n in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory + bytes(4)


def test_unsigned_32_bit_numbers_are_not_taken_for_negative_ones() -> None:
    """The upper half of their range is white, not black; signed numbers below zero stay black."""
    pixels = np.array([0, 257, 65535, 2**31, 2**32 - 1], np.uint32).tobytes()
    assert decode(tiff(32, 1, pixels), LIMITS)[0, :, 0].tolist() == [0, 1, 255, 255, 255]
    assert decode(tiff(32, 2, pixels), LIMITS)[0, :, 0].tolist() == [0, 1, 255, 0, 0]


@pytest.mark.parametrize(
    ("bits", "sample_format", "pixels"),
    [
        (1, 1, bytes([0b00001111])),
        (4, 1, bytes([0x08, 0xFF])),
        (8, 1, bytes([0, 128, 255])),
        (16, 1, np.array([0, 257, 65535], np.uint16).tobytes()),
        (32, 3, np.array([0, 0.5, 1], np.float32).tobytes()),
    ],
)
def test_a_tiff_in_which_0_is_white_is_turned(bits: int, sample_format: int, pixels: bytes) -> None:
    """However many bits it has: scanners and microscopes write 16."""
    positive = decode(tiff(bits, sample_format, pixels), LIMITS)
    assert (positive.min(), positive.max()) == (0, 255)
    assert np.array_equal(decode(tiff(bits, sample_format, pixels, white_is_0=True), LIMITS), 255 - positive)


def test_12_bit_grey_is_scaled_too() -> None:
    """4095 is white: it came out as 16. Every number is rounded, not cut off."""
    numbers = np.arange(4096)
    pairs = numbers.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1).astype(np.uint8)
    assert np.array_equal(decode(tiff(12, 1, packed.tobytes()), LIMITS)[0, :, 0], np.rint(numbers * 255 / 4095))
    assert decode(tiff(12, 1, bytes([0x00, 0x08, 0x00, 0xFF, 0xF0, 0x10])), LIMITS)[0, :, 0].tolist() == [0, 128, 255, 1]


def test_64_bit_numbers_are_read() -> None:
    """Floats as 0..1, whole numbers as 0..65535: as with fewer bits."""
    assert decode(tiff(64, 3, np.array([0.5, 1.0]).tobytes()), LIMITS)[0, :, 0].tolist() == [128, 255]
    assert decode(tiff(64, 1, np.array([257, 65535], np.uint64).tobytes()), LIMITS)[0, :, 0].tolist() == [1, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "F", "CMYK", "L"])
def test_bands_join_without_a_seam(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large pictures are converted a few rows at a time; that must not show."""
    kind = "TIFF" if mode in ("F", "CMYK") else "PNG"
    rng = np.random.default_rng(0)
    if mode == "I;16":
        picture = Image.fromarray(rng.integers(0, 65536, (37, 29), dtype=np.uint16))
    elif mode == "F":
        picture = Image.fromarray(rng.random((37, 29), dtype=np.float32))
    elif mode == "P":
        picture = Image.fromarray(rng.integers(0, 256, (37, 29), dtype=np.uint8)).convert("P")
    else:
        bands = len(Image.new(mode, (1, 1)).getbands())
        picture = Image.frombytes(mode, (29, 37), rng.bytes(29 * 37 * bands))
    data = encode_image(picture, kind, **({"transparency": 3} if mode == "P" else {}))
    whole = decode(data, LIMITS)
    monkeypatch.setattr("service.pipeline.codecs.pillow.BAND_PIXELS", 5 * 29)
    monkeypatch.setattr("service.pipeline.codecs.tiff_samples.BAND_PIXELS", 5 * 29)
    np.testing.assert_array_equal(decode(data, LIMITS), whole)


def test_a_chunk_that_claims_gigabytes_takes_none() -> None:
    """OpenCV, which reads dark PNGs of 16 bits, is given no chunk but the pixels."""
    _, encoded = cv2.imencode(".png", RNG.integers(0, 4096, (9, 11, 3)).astype(np.uint16))
    data = encoded.tobytes()
    at = data.index(b"IDAT") - 4
    claiming_much = data[:at] + struct.pack(">I", 0x7FFFFFFF) + data[at + 4 :]
    before = time.thread_time()
    assert np.array_equal(decode(claiming_much, LIMITS), decode(data, LIMITS))
    assert time.thread_time() - before < 0.2


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_thousand_bombs_of_every_format_take_no_memory() -> None:
    """They are refused by their headers: resident memory grows by less than 50 MB, at any moment."""
    files = [claiming(kind, 16000, 16000) for kind in FORMATS]

    def most_mb() -> float:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
        return float(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024

    before = most_mb()
    for number in range(1002):
        with pytest.raises(ImageTooLarge):
            decode(files[number % len(files)], Limits())
    assert most_mb() - before < 50


def nested_exif(depth: int) -> bytes:
    """An EXIF block whose directory points to itself, at the end of a long chain."""
    entry = struct.pack("<HHII", 0x8769, 4, 1, 8)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + struct.pack("<H", depth) + entry * depth + struct.pack("<I", 8)


def test_exif_that_points_to_itself_is_not_a_trap() -> None:
    """It says nothing, and quickly."""
    begun = time.thread_time()
    assert decode(encode_image(NOISE, "JPEG", exif=nested_exif(3000)), LIMITS).shape == NOISE.shape
    assert time.thread_time() - begun < 1


SEEDS = [encode_image(NOISE[:9, :11], kind, **LOSSLESS.get(kind, {})) for kind in ("JPEG", "AVIF", *LOSSLESS)] + [
    tiff(32, 1, bytes(40))
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A small good file of any format with bytes changed, cut off, doubled or put in."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(("change", "cut", "insert", "number"))):
            case "change":
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del data[at : at + draw(st.integers(1, 64))]
            case "insert":
                data[at:at] = draw(st.binary(max_size=16))
            case _:
                data[at : at + 4] = draw(st.sampled_from((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\1\0")))
    return bytes(data)


def survives(data: bytes) -> None:
    """A file becomes a picture within the limits or an error of the service."""
    limits = Limits(max_pixels=100_000, max_side=2000)
    try:
        image = decode(data, limits)
    except ServiceError:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.shape[0] * image.shape[1] <= limits.max_pixels


@given(mutated() | st.binary(max_size=200))
@settings(max_examples=300)
def test_whatever_bytes_come_the_answer_is_a_picture_or_an_error_of_ours(data: bytes) -> None:
    """No other exception, no hang, no image beyond the limits."""
    survives(data)


@pytest.mark.slow
@given(mutated())
@settings(max_examples=20_000, suppress_health_check=[HealthCheck.too_slow])
def test_twenty_thousand_damaged_files_are_a_picture_or_an_error_of_ours(data: bytes) -> None:
    """The same, for longer."""
    survives(data)


def png_of(samples: NDArray[Any], bits: int, color: int, *chunks: bytes) -> bytes:
    """A PNG file of samples (H x W x bands), with further chunks before the pixels."""
    height, width = samples.shape[:2]
    flat = samples.reshape(height, -1)
    if bits < 8:
        digits = (flat[..., None] >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8)
        lines = [line.tobytes() for line in np.packbits(digits.reshape(height, -1), axis=1)]
    else:
        lines = [line.tobytes() for line in flat.astype(">u2" if bits == 16 else "u1")]
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("opaque", ["own depth", "16 bits"])
@pytest.mark.parametrize("color", [4, 6])
def test_transparency_of_a_png_has_the_depth_of_its_colours(color: int, opaque: str, bits: int) -> None:
    """The largest number of the depth is opaque, as is 65535; half of it shows half of the paper."""
    white = (1 << bits) - 1
    colors = SMOOTH.astype(np.uint32)[..., : 3 if color == 6 else 1] * white // 255
    colors[0, 0] = white
    most = white if opaque == "own depth" else 65535
    alpha = np.full((*SMOOTH.shape[:2], 1), most)
    alpha[10:20] = most // 2
    share = alpha / most
    expected = colors / white * 255 * share + 255 * (1 - share)
    data = png_of(np.concatenate([colors, alpha], axis=2), 16, color)
    assert np.abs(decode(data, LIMITS) - expected).max() <= 2


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 10, 12, 14, 16])
@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("key", ["dark", "brightest"])
def test_a_transparent_colour_of_a_png_of_any_depth_is_white(key: str, bands: int, bits: int) -> None:
    """The pixels of that colour show the paper; others, also those that differ in the lowest bit, stay."""
    if bits < 8 and bands == 3:
        pytest.skip("PNG has no such pictures")
    white = (1 << bits) - 1
    samples = SMOOTH.astype(np.uint32)[..., :bands] * white // 255
    samples[0, 0], samples[5:9, 5:30] = white, white // 3
    color = np.full(bands, white // 3)
    if key == "brightest":
        color = np.full(bands, 65535 if bits > 8 else white)
        samples[5:9, 5:30] = color
    near = color.copy()
    near[-1] ^= 1
    samples[20, :10] = np.minimum(near, white)
    expected = np.broadcast_to(np.rint(np.minimum(samples / white, 1) * 255), SMOOTH.shape).copy()
    expected[(samples == color).all(axis=2)] = 255
    words = png_chunk(b"tRNS", color.astype(">u2").tobytes())
    found = decode(png_of(samples, max(bits, 16) if bits > 8 else bits, 0 if bands == 1 else 2, words), LIMITS)
    assert np.abs(found - expected).max() <= 1


ODD = {
    "short pHYs": png_chunk(b"pHYs", b"12"),
    "short gAMA": png_chunk(b"gAMA", b"1"),
    "short cHRM": png_chunk(b"cHRM", b"12"),
    "empty sRGB": png_chunk(b"sRGB", b""),
    "short acTL": png_chunk(b"acTL", b"1"),
    "short fcTL": png_chunk(b"acTL", bytes((0, 0, 0, 2, 0, 0, 0, 0))) + png_chunk(b"fcTL", b"1"),
    "short tRNS": png_chunk(b"tRNS", b"1"),
    "huge zTXt": png_chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2_000_000))),
    "huge iTXt": png_chunk(b"iTXt", b"x\0\1\0\0\0" + zlib.compress(bytes(2_000_000))),
    "huge iCCP": png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2_000_000))),
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_chunks_of_a_png_do_not_refuse_its_pixels(odd: str) -> None:
    """Their checksums are right and their contents are not; orientation and transparency still count."""
    exif = Image.Exif()
    exif[274] = 3
    turn = png_chunk(b"eXIf", exif.tobytes()[6:])
    assert np.array_equal(decode(png_of(NOISE, 8, 2, ODD[odd], turn), LIMITS), NOISE[::-1, ::-1])
    assert np.array_equal(decode(png_of(NOISE, 8, 2, turn, ODD[odd]), LIMITS), NOISE[::-1, ::-1])
    if odd != "short tRNS":
        clear = png_chunk(b"tRNS", NOISE[3, 4].astype(">u2").tobytes())
        assert decode(png_of(NOISE, 8, 2, ODD[odd], clear), LIMITS)[3, 4].tolist() == [255, 255, 255]


def test_a_png_of_12_bits_is_unsupported_by_name() -> None:
    """PNG has 1, 2, 4, 8 and 16 bits alone."""
    data = bytearray(png_of(NOISE, 8, 2))
    data[24] = 12
    with pytest.raises(UnsupportedImage, match="12 bits"):
        decode(bytes(data), LIMITS)


def bmp_of(height: int, bits: int, compression: int, pixels: bytes, more: bytes = b"", header_bytes: int = 40) -> bytes:
    """A BMP file of 60 columns; ``more`` is what stands behind the first 40 bytes of the header."""
    header = struct.pack("<IiiHHIIiiII", header_bytes, 60, height, 1, bits, compression, len(pixels), 0, 0, 0, 0) + more
    header = header.ljust(header_bytes, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(pixels), 0, 0, 14 + len(header)) + header + pixels


@pytest.mark.parametrize("upward", [False, True])
@pytest.mark.parametrize(("header_bytes", "compression"), [(40, 3), (40, 6), (52, 3), (56, 3), (108, 3), (124, 3)])
@pytest.mark.parametrize(
    "fields",
    [(0, 8, 16, 24), (16, 8, 0, 24), (8, 16, 24, 0), (24, 16, 8, 0), "4444", "565", "555", "1555", "10-10-10"],
)
def test_bit_fields_of_a_bmp_may_lie_anywhere(fields: Any, header_bytes: int, compression: int, upward: bool) -> None:
    """Each field is scaled by its own largest number, whatever its order; an opaque alpha changes nothing."""
    named: dict[str, Any] = {
        "4444": (16, (8, 4), (4, 4), (0, 4), (12, 4)),
        "565": (16, (11, 5), (5, 6), (0, 5), (0, 0)),
        "555": (16, (10, 5), (5, 5), (0, 5), (0, 0)),
        "1555": (16, (10, 5), (5, 5), (0, 5), (15, 1)),
        "10-10-10": (32, (20, 10), (10, 10), (0, 10), (30, 2)),
    }
    if isinstance(fields, str):
        bits, *places = named[fields]
    else:
        bits, places = 32, [(low, 8) for low in fields]
    numbers, expected, masks = np.zeros((40, 60), np.uint32), np.zeros((40, 60, 3)), []
    for band, (low, count) in enumerate(places):
        white = (1 << count) - 1
        masks.append(white << low)
        values = NOISE[..., band].astype(np.uint32) * white // 255 if band < 3 else np.full((40, 60), white, np.uint32)
        numbers |= values << np.uint32(low)
        if band < 3:
            expected[..., band] = np.rint(values / white * 255)
    stored = (numbers[::-1] if upward else numbers).astype(f"<u{bits // 8}").tobytes()
    used = 4 if header_bytes >= 56 or compression == 6 else 3
    file = bmp_of(40 if upward else -40, bits, compression, stored, struct.pack(f"<{used}I", *masks[:used]), header_bytes)
    assert np.abs(decode(file, LIMITS) - expected).max() <= 1
    with pytest.raises(CorruptImage):
        decode(file[:-100], LIMITS)


def test_run_lengths_of_a_bmp_may_skip_pixels() -> None:
    """Skipped pixels have the first colour of the palette; runs and literal pixels are read; a cut is corrupt."""
    palette = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2], axis=1)
    table = np.concatenate([palette[:, ::-1], np.zeros((256, 1))], axis=1).astype(np.uint8).tobytes()
    runs = bytes((0, 2, 10, 3, 5, 200, 0, 3, 1, 2, 3, 0, 0, 0, 2, 7, 0, 1))
    indices = np.zeros((40, 60), int)
    indices[3, 10:15], indices[3, 15:18], indices[4, :2] = 200, (1, 2, 3), 7
    file = bmp_of(40, 8, 1, runs, table, 40)
    assert np.array_equal(decode(file, LIMITS), palette[indices[::-1]])
    with pytest.raises(CorruptImage):
        decode(file[:-2], LIMITS)
    halves = bytes((0, 2, 10, 3, 5, 0x2C, 0, 3, 0x12, 0x30, 0, 1))
    indices = np.zeros((40, 60), int)
    indices[3, 10:15], indices[3, 15:18] = (2, 12, 2, 12, 2), (1, 2, 3)
    assert np.array_equal(decode(bmp_of(40, 4, 2, halves, table[:64]), LIMITS), palette[indices[::-1]])


def test_a_bmp_that_holds_a_png_or_a_jpeg_is_that_picture() -> None:
    """As printers take it; a file inside that is larger than its header says is corrupt."""
    inside = encode_image(NOISE, "PNG")
    assert np.array_equal(decode(bmp_of(40, 0, 5, inside), LIMITS), NOISE)
    jpeg = encode_image(NOISE, "JPEG")
    assert np.array_equal(decode(bmp_of(40, 0, 4, jpeg), LIMITS), decode(jpeg, LIMITS))
    with pytest.raises(CorruptImage, match="inside"):
        decode(bmp_of(41, 0, 5, inside), LIMITS)


@pytest.mark.parametrize(("compression", "header_bytes"), [(11, 40), (3, 64), (4, 64)])
def test_other_compressions_of_a_bmp_are_unsupported(compression: int, header_bytes: int) -> None:
    """CMYK, and Huffman and RLE24 of OS/2: the file is not called damaged."""
    with pytest.raises(UnsupportedImage, match="BMP"):
        decode(bmp_of(40, 24, compression, bytes(60 * 40 * 3), b"", header_bytes), LIMITS)
