"""The PNG writer and reader, against Pillow."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
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
    """A view, a crop or a transposed array is written as it is read."""
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


class Filtered:
    """PNG files written by the W3C's definition of each filter, byte for byte: what no writer can be made to do."""

    @staticmethod
    def paeth(left: int, up: int, diagonal: int) -> int:
        """The predictor of section 9.4."""
        base = left + up - diagonal
        return min((left, up, diagonal), key=lambda value: abs(base - value))  # the first of equals, in this order

    @classmethod
    def file(cls, rows: NDArray[np.uint8], kinds: list[int], header: bytes, pixel_bytes: int) -> bytes:
        """A file of these rows, each with its filter."""
        lines = bytearray()
        for y, kind in enumerate(kinds):
            lines.append(kind)
            for x, value in enumerate(rows[y].tolist()):
                left = int(rows[y, x - pixel_bytes]) if x >= pixel_bytes else 0
                up = int(rows[y - 1, x]) if y else 0
                diagonal = int(rows[y - 1, x - pixel_bytes]) if y and x >= pixel_bytes else 0
                guess = (0, left, up, (left + up) // 2, cls.paeth(left, up, diagonal), 0)[kind]
                lines.append((value - guess) % 256)
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(lines))), (b"IEND", b""))
        return png.SIGNATURE + b"".join(
            len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big") for kind, body in chunks
        )


@given(st.data(), st.sampled_from([(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (3, 8), (3, 4), (3, 1)]))
def test_every_file_is_read_as_pillow_reads_it(data: st.DataObject, kind: tuple[int, int]) -> None:
    """Any filter in any row, any depth: the same pixel values as Pillow's."""
    color, depth = kind
    height, width = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 20))
    channels = 3 if color == 2 else 1
    row_bytes = (width * channels * depth + 7) // 8
    rows = data.draw(arrays(np.uint8, (height, row_bytes)))
    kinds = data.draw(st.lists(st.integers(0, 4), min_size=height, max_size=height))
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    file = Filtered.file(rows, kinds, header, max(1, channels * depth // 8))
    if color == 3:  # Pillow wants a palette
        palette = b"PLTE" + bytes(range(256)) * 3
        at = len(png.SIGNATURE) + 25
        file = file[:at] + (768).to_bytes(4, "big") + palette + zlib.crc32(palette).to_bytes(4, "big") + file[at:]
    read, expected = png.read(file), reopened(file)
    if (color, depth) == (0, 1):  # a picture of two values
        expected = expected.convert("L")
    assert np.array_equal(read, np.asarray(expected))


@given(maps, st.integers(0, 10_000), st.integers(1, 255))
def test_a_damaged_file_is_refused(labels: NDArray[np.uint8], at: int, change: int) -> None:
    """A changed byte is found by a checksum, or changes nothing that is read."""
    file = bytearray(png.encode_gray(labels))
    file[at % len(file)] ^= change
    with contextlib.suppress(ValueError):
        assert np.array_equal(png.decode(bytes(file)), labels)
    with pytest.raises(ValueError, match="PNG"):
        png.decode(png.encode_gray(labels)[: at % len(file)])


def test_other_pictures_are_refused() -> None:
    """Colours, 16 bits, interlaced rows and a size beyond all memory are named."""
    buffer = io.BytesIO()
    Image.new("RGBA", (3, 2)).save(buffer, "PNG")
    sixteen = png.encode_gray16(np.ones((2, 3), np.uint16))
    huge = struct.pack(">IIBBBBB", 1 << 30, 1 << 30, 8, 0, 0, 0, 0)
    woven = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 1)
    one = np.zeros((1, 1), np.uint8)
    for file, match in (
        (buffer.getvalue(), "colour type 6"),
        (png.encode_rgb(np.zeros((2, 3, 3), np.uint8)), "several channels"),
        (sixteen, "16 bits"),
        (Filtered.file(one, [0], huge, 1), "size"),
        (Filtered.file(one, [0], woven, 1), "interlaced"),
        (Filtered.file(one, [5], struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0), 1), "filter 5"),
    ):
        with pytest.raises(ValueError, match=match):
            png.decode(file)


@given(arrays(np.uint16, array_shapes(min_dims=2, max_dims=2, max_side=20)))
def test_a_gray_png_of_16_bits_holds_its_array(array: NDArray[np.uint16]) -> None:
    """Any ids come back, by Pillow and by the reader."""
    file = png.encode_gray16(array)
    assert np.array_equal(np.asarray(reopened(file)), array)
    assert np.array_equal(png.read(file), array)
