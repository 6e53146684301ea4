"""The PNG writer, against Pillow."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image

from service.encodings import png

maps = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 255))
pictures = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=20).map(lambda size: (*size, 3)))
palettes = arrays(np.uint8, (256, 3))


def reopened(data: bytes) -> Image.Image:
    """The file as Pillow reads it."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@given(maps, palettes)
def test_the_pixel_value_of_an_indexed_png_is_the_class_id(labels: NDArray[np.uint8], palette: NDArray[np.uint8]) -> None:
    """Any label map comes back bit for bit, with the palette's colours on top."""
    image = reopened(png.encode_indexed(labels, palette))
    assert image.mode == "P"
    assert np.array_equal(np.asarray(image), labels)
    assert np.array_equal(np.asarray(image.convert("RGB")), palette[labels])


@given(maps)
def test_a_gray_png_holds_its_array(array: NDArray[np.uint8]) -> None:
    """Any grey image comes back bit for bit."""
    image = reopened(png.encode_gray(array))
    assert image.mode == "L"
    assert np.array_equal(np.asarray(image), array)


@given(pictures)
def test_an_rgb_png_holds_its_image(picture: NDArray[np.uint8]) -> None:
    """Any colour image comes back bit for bit."""
    image = reopened(png.encode_rgb(picture))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), picture)


def test_an_array_need_not_be_contiguous() -> None:
    """A view, a crop or a transposed array is written as it looks."""
    labels = np.arange(200, dtype=np.uint8).reshape(10, 20)
    for view in (labels.T, labels[::2, ::-1], np.broadcast_to(labels[:1], (7, 20))):
        assert np.array_equal(np.asarray(reopened(png.encode_gray(view))), view)


def test_a_label_map_of_a_street_is_small() -> None:
    """Large regions, as masks have them, cost far less than a bit a pixel."""
    labels = np.zeros((720, 1280), np.uint8)
    labels[300:] = 3
    labels[250:500, 400:700] = 8
    assert len(png.encode_indexed(labels, np.zeros((256, 3), np.uint8))) < 10_000


def test_without_isal_zlib_writes_the_same_pixels() -> None:
    """The compressed library is optional: without it, files differ in size alone."""
    program = (
        "import sys; sys.modules['isal'] = None\n"
        "import io, zlib, numpy as np; from PIL import Image; from service.encodings import png\n"
        "assert png.compress is zlib.compress\n"
        "labels = np.arange(256, dtype=np.uint8).reshape(8, 32)\n"
        "assert np.array_equal(np.asarray(Image.open(io.BytesIO(png.encode_gray(labels)))), labels)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
