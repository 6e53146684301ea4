"""PNM: bitmaps, graymaps and pixmaps of text and of bytes."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.errors import CorruptImage
from service.pipeline.codecs.decoding import Header, Limits, decode, probe

LIMITS = Limits()
RNG = np.random.default_rng(0)


def drawn(kind: int, maximum: int) -> tuple[bytes, NDArray[np.int64]]:
    """A file of 13 x 7 pixels, and its numbers, 7 x 13 or 7 x 13 x 3."""
    shape = (7, 13, 3) if kind in (3, 6) else (7, 13)
    numbers = RNG.integers(0, maximum + 1, shape)
    head = f"P{kind}\n# drawn by a test\n13 7\n" + (f"{maximum}\n" if kind not in (1, 4) else "")
    if kind < 4:
        body = " ".join(map(str, numbers.ravel())).encode() + b"\n"
    elif kind == 4:
        body = np.packbits(numbers.astype(np.uint8), axis=1).tobytes()
    else:
        body = numbers.astype(np.uint8 if maximum < 256 else ">u2").tobytes()
    return head.encode() + body, numbers


@pytest.mark.parametrize(("kind", "maximum"), [(k, m) for k in (2, 3, 5, 6) for m in (1, 15, 100, 255, 1023, 4095, 65535)])
def test_numbers_are_scaled_by_the_maximum_that_the_header_names(kind: int, maximum: int) -> None:
    """The maximum is white, every number is rounded to the nearest; grey is grey in all three channels."""
    data, numbers = drawn(kind, maximum)
    expected = np.floor(numbers * 255 / maximum + 0.5)
    pixels = decode(data, LIMITS)
    assert probe(data, LIMITS) == Header("PNM", 13, 7)
    assert np.array_equal(pixels, expected if kind in (3, 6) else np.repeat(expected[..., None], 3, axis=2))
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


@pytest.mark.parametrize("kind", [1, 4])
def test_1_is_black_in_a_bitmap(kind: int) -> None:
    """As Netpbm has it."""
    data, numbers = drawn(kind, 1)
    assert np.array_equal(decode(data, LIMITS)[..., 0], 255 * (1 - numbers))


def test_digits_of_a_bitmap_need_no_spaces() -> None:
    """As Netpbm has it."""
    assert decode(b"P1\n3 2\n010\n1 1 1", LIMITS)[..., 0].tolist() == [[255, 0, 255], [0, 0, 0]]


def test_fewer_bits_in_65535_do_not_make_a_black_picture() -> None:
    """ROS and OpenCV write 65535 for whatever 16-bit picture."""
    few = RNG.integers(0, 4096, (6, 5)).astype(">u2")
    few[0, 0] = 4095
    assert np.array_equal(decode(b"P5 5 6 65535\n" + few.tobytes(), LIMITS)[..., 0], np.rint(few.astype(int) / 4095 * 255))


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_what_pillow_writes_is_read(mode: str) -> None:
    """The bytes of an independent writer."""
    picture = Image.fromarray(RNG.integers(0, 256, (9, 11, 3), dtype=np.uint8)).convert(mode)
    file = io.BytesIO()
    picture.save(file, "PPM")
    assert np.array_equal(decode(file.getvalue(), LIMITS), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("kind", range(1, 7))
@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_truncated_file_is_corrupt(kind: int, cut: int) -> None:
    """Missing numbers are not filled up."""
    data, _ = drawn(kind, 255 if kind not in (1, 4) else 1)
    with pytest.raises(CorruptImage):
        decode(data[: len(data) - cut - 5 * (kind in (2, 3)) - (kind == 1)], LIMITS)


@pytest.mark.parametrize(
    "data", [b"P5 4 4 0\n", b"P5 4 4 99999\n", b"P5 4\n", b"P5 # no end", b"P2 2 1 9\nred blue", b"P6 -1 4 255\n"]
)
def test_a_header_that_makes_no_sense_is_corrupt(data: bytes) -> None:
    """No other error comes out."""
    with pytest.raises(CorruptImage):
        decode(data, LIMITS)


def test_a_header_of_comments_alone_keeps_no_request_waiting() -> None:
    """The header is read on the event loop."""
    start = time.thread_time()
    for data in (b"P5 " + b"#\n" * 10**7, b"P5 " + b" " * 10**7, b"P5 " + b"#" * 10**7):
        with pytest.raises(CorruptImage):
            probe(data, LIMITS)
    assert time.thread_time() - start < 0.5
