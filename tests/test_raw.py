"""Raw pixels of cameras, ROS and Foxglove: every encoding of the table shows the same picture."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import CorruptImage, ServiceError, UnsupportedImage
from service.pipeline.codecs import depth
from service.pipeline.codecs.raw import ENCODINGS, RawImage, demosaic, largest, to_rgb
from tests.conftest import make_image

INSIDE = np.r_[4:38, 48:80, 92:124]
"""Columns away from the edges, where colours of halved planes and mosaics mix."""
PACKED = sorted(name for name in ENCODINGS if not name.startswith(("nv", "i4", "yuv420", "yv")))
PLANAR = sorted(set(ENCODINGS) - set(PACKED))


def packed(data: np.ndarray, encoding: str, padding: int = 0, *, big: bool = False) -> RawImage:
    """An image whose rows have some padding at their ends."""
    rows = np.ascontiguousarray(data).view(np.uint8).reshape(len(data), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return RawImage(rows.reshape(-1), encoding, data.shape[0], data.shape[1], rows.shape[1], big_endian=big)


def mosaic_of(rgb: np.ndarray, order: str) -> np.ndarray:
    """What a sensor behind such a mosaic sees."""
    mosaic = np.empty(rgb.shape[:2], rgb.dtype)
    for place, color in enumerate(order.upper()):
        mosaic[place // 2 :: 2, place % 2 :: 2] = rgb[place // 2 :: 2, place % 2 :: 2, "RGB".index(color)]
    return mosaic


def drawn(encoding: str) -> tuple[np.ndarray, bool]:
    """The three stripes in a packed encoding, and whether they are grey."""
    rgb = make_image()
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    name = encoding.lower()
    wide = name.endswith("16") or name.startswith("16")
    scale = np.uint16(257) if wide else np.uint8(1)
    alpha = np.full((96, 128, 1), 9, np.uint8)
    if name.startswith("bayer"):
        return mosaic_of(rgb, name[6:10]) * scale, False
    if name.startswith("mono") or name.endswith("uc1"):
        return gray * scale, True
    if name in ("yuv422", "uyvy", "yuv422_yuy2", "yuyv", "yuy2"):
        yuv = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV)
        chroma = np.where(np.arange(128)[None] % 2 == 0, yuv[..., 1], np.roll(yuv[..., 2], 1, 1))
        both = [chroma, yuv[..., 0]] if name in ("yuv422", "uyvy") else [yuv[..., 0], chroma]
        return np.stack(both, 2), False
    colors = rgb if name.startswith("rgb") else rgb[..., ::-1]
    four = "a" in name or name.endswith("4")
    return (np.concatenate([colors, alpha], 2) if four else colors) * scale, False


@pytest.mark.parametrize("encoding", PACKED)
def test_every_packed_encoding_shows_the_same_picture(encoding: str) -> None:
    """Padding at the ends of rows, alpha, mosaics, halved colours and 16 bits: RGB comes out."""
    data, grey = drawn(encoding)
    wanted = np.repeat(cv2.cvtColor(make_image(), cv2.COLOR_RGB2GRAY)[..., None], 3, 2) if grey else make_image()
    for padding in (0, 6):
        got = to_rgb(packed(data, encoding, padding))
        difference = np.abs(got.astype(int) - wanted)[4:-4][:, INSIDE]
        assert difference.max() <= (45 if "yu" in encoding or encoding == "uyvy" else 2)
    if data.dtype == np.uint16:
        assert np.array_equal(to_rgb(packed(data.astype(">u2"), encoding, big=True)), to_rgb(packed(data, encoding)))


@pytest.mark.parametrize("encoding", PLANAR)
@pytest.mark.parametrize("size", [(96, 128), (95, 127), (1, 1)], ids=str)
def test_every_planar_encoding_shows_the_same_picture(encoding: str, size: tuple[int, int]) -> None:
    """Luma and chroma planes of even and odd sizes, with and without padding, as OpenCV's own conversion to YUV makes them."""
    height, width = size
    even = make_image(height + height % 2, width + width % 2)
    i420 = cv2.cvtColor(even, cv2.COLOR_RGB2YUV_I420).reshape(-1)
    rows, columns = even.shape[0] // 2, even.shape[1] // 2
    luma = i420[: 4 * rows * columns].reshape(2 * rows, 2 * columns)[:height, :width]
    blue, red = i420[4 * rows * columns :].reshape(2, rows, columns)
    if encoding == "nv24":
        chroma = np.stack([np.repeat(np.repeat(plane, 2, 0), 2, 1)[:height, :width] for plane in (blue, red)], 2)
        planes = [luma, chroma.reshape(height, -1)]
    elif encoding.startswith("nv"):
        planes = [luma, np.stack([blue, red] if encoding == "nv12" else [red, blue], 2).reshape(rows, -1)]
    else:
        planes = [luma, blue, red] if encoding != "yv12" else [luma, red, blue]
    data = np.concatenate([plane.reshape(-1) for plane in planes])
    got = to_rgb(RawImage(data, encoding, height, width, width))
    reference = cv2.cvtColor(i420.reshape(3 * rows, 2 * columns), cv2.COLOR_YUV2RGB_I420)[:height, :width]
    assert np.array_equal(got, reference)
    if size == (96, 128):
        halves = [16 if encoding.startswith("nv") or at == 0 else 8 for at in range(len(planes))]
        if encoding == "nv24":
            halves = [16, 32]
        padded = [np.pad(plane, ((0, 0), (0, extra))).reshape(-1) for plane, extra in zip(planes, halves, strict=True)]
        assert np.array_equal(to_rgb(RawImage(np.concatenate(padded), encoding, height, width, width + 16)), reference)


def test_names_are_read_as_drivers_write_them() -> None:
    """Capitals and spaces around a name do not matter."""
    data = make_image()
    for name in ("RGB8", " rgb8 ", "Rgb8"):
        assert np.array_equal(to_rgb(packed(data, name)), data)


@pytest.mark.parametrize(("step", "cut"), [(0, 0), (128, 0), (390, 6), (390, 0)])
def test_rows_are_found_whatever_the_step_says(step: int, cut: int) -> None:
    """A step of 0 or in pixels, where the size is exact; and a last row without its padding."""
    image = make_image()
    rows = np.pad(image.reshape(96, -1), ((0, 0), (0, 6))) if step == 390 else image
    data = rows.reshape(-1)[: rows.size - cut]
    assert np.array_equal(to_rgb(RawImage(data, "rgb8", 96, 128, step)), image)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_sensors_of_fewer_bits_are_shown_as_bright_as_others(bits: int) -> None:
    """The largest value tells the depth; scaled by it, the picture is the one of 8 bits, give or take a rounding."""
    eight = cv2.cvtColor(make_image(), cv2.COLOR_RGB2GRAY)
    eight[0, 0] = 255
    raw = packed(eight.astype(np.uint16) << (bits - 8), "mono16")
    assert depth.significant_bits(largest(raw)) == bits
    assert np.abs(to_rgb(raw, bits)[..., 0].astype(int) - eight).max() <= 1
    assert largest(packed(eight, "mono8")) == 0


def test_a_value_beyond_the_depth_is_white() -> None:
    """Nothing wraps around to black."""
    raw = packed(np.array([[1023, 1024, 65535]], np.uint16), "mono16")
    assert to_rgb(raw, 10)[0, :, 0].tolist() == [255, 255, 255]


def test_a_mosaic_can_be_given_by_itself() -> None:
    """Its order by the encoding's name; any other name is an error."""
    mosaic = mosaic_of(make_image(), "grbg")
    assert np.array_equal(demosaic(mosaic, "bayer_grbg8"), to_rgb(packed(mosaic, "bayer_grbg8")))
    with pytest.raises(UnsupportedImage, match="not a mosaic"):
        demosaic(mosaic, "rgb8")


@pytest.mark.parametrize("encoding", ["32FC1", "8UC2", "", "h264"])
def test_an_encoding_that_is_not_read_is_named_with_those_that_are(encoding: str) -> None:
    """The error lists the table."""
    with pytest.raises(UnsupportedImage, match="rgb8, bgr8"):
        to_rgb(packed(make_image(), encoding))


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_too_few_bytes_are_damage_in_every_encoding(encoding: str) -> None:
    """No size without all of its pixels is ever shown."""
    for height, width in ((0, 4), (4, 0), (40, 40)):
        with pytest.raises(CorruptImage):
            to_rgb(RawImage(np.zeros(300, np.uint8), encoding, height, width, width))


@pytest.mark.parametrize("encoding", [name for name in PACKED if name.startswith(("yu", "uy"))])
def test_an_odd_width_needs_the_shared_pixel(encoding: str) -> None:
    """Rows of 129 pixels are read if they hold the colour of the last; otherwise the error says why not."""
    data, _ = drawn(encoding)
    got = to_rgb(RawImage(np.ascontiguousarray(data).reshape(-1), encoding, 96, 127, 256))
    assert np.array_equal(got, to_rgb(packed(data, encoding))[:, :127])
    with pytest.raises(CorruptImage, match="even number"):
        to_rgb(RawImage(np.zeros(96 * 127 * 2, np.uint8), encoding, 96, 127, 254))


@given(
    st.sampled_from(sorted(ENCODINGS)),
    st.integers(-1, 9),
    st.integers(-1, 9),
    st.integers(-1, 80),
    st.integers(0, 1000),
    st.booleans(),
)
def test_any_numbers_give_a_picture_of_their_size_or_an_error_of_ours(
    encoding: str, height: int, width: int, step: int, size: int, big: bool
) -> None:
    """A message may say anything of itself."""
    raw = RawImage(np.arange(size, dtype=np.uint64).astype(np.uint8), encoding, height, width, step, big_endian=big)
    made: Any = None
    try:
        made = to_rgb(raw)
    except ServiceError:
        return
    assert (made.shape, made.dtype) == ((height, width, 3), np.uint8)
