"""Pictures in other colours than sRGB, and the profiles that say so."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from service.pipeline.codecs.decoding import Limits, decode
from service.pipeline.codecs.profiles import MAX_BYTES, to_srgb
from tests.conftest import encode_image

LIMITS = Limits()
D50 = (0.9642, 1.0, 0.8249)
PRIMARIES = {
    "Display P3": ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)),
    "Adobe RGB": ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446)),
    "sRGB": ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)),
}
"""XYZ of red, green and blue, adapted to D50, as the profiles of their makers have them."""
GAMMA = 563 / 256
"""Of Adobe RGB; here of all three, so that a conversion is a matrix between two powers."""


def profile(name: str, kind: bytes = b"RGB ") -> bytes:
    """An ICC profile of a matrix and three curves, version 2."""
    xyz = [b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(number * 65536) for number in color)) for color in PRIMARIES[name]]
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(GAMMA * 256)) + b"\0\0"
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(number * 65536) for number in D50))
    text = b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name.encode() + b"\0" + bytes(78)
    names = (b"desc", b"wtpt", b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC")
    contents = [text + bytes(-len(text) % 4), white, *xyz, curve, curve, curve]
    table, body, at = struct.pack(">I", len(names)), b"", 128 + 4 + 12 * len(names)
    for tag, content in zip(names, contents, strict=True):
        table += tag + struct.pack(">II", at + len(body), len(content))
        body += content
    size = at + len(body)
    head = struct.pack(">I4sI4s4s4s12s4s", size, b"lcms", 0x02100000, b"mntr", kind, b"XYZ ", bytes(12), b"acsp")
    head = head.ljust(68, b"\0") + struct.pack(">3i", *(round(number * 65536) for number in D50))
    return head.ljust(128, b"\0") + table + body


def expected(pixels: NDArray[np.uint8], name: str) -> NDArray[np.float64]:
    """The same colours in sRGB, by the definition: curve, matrix, the inverse matrix and curve of sRGB."""
    linear = (pixels / 255) ** GAMMA @ np.array(PRIMARIES[name])
    red_green_blue = np.clip(linear @ np.linalg.inv(np.array(PRIMARIES["sRGB"])), 0, 1)
    low = red_green_blue * 12.92
    high = 1.055 * np.maximum(red_green_blue, 1e-9) ** (1 / 2.4) - 0.055
    return np.asarray(np.where(red_green_blue <= 0.0031308, low, high) * 255, np.float64)


COLORS = np.random.default_rng(0).integers(40, 216, (16, 16, 3), dtype=np.uint8)
PICTURE = np.repeat(np.repeat(COLORS, 8, axis=0), 8, axis=1)


@pytest.mark.parametrize("name", ["Display P3", "Adobe RGB"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_colours_of_another_profile_become_those_of_srgb(kind: str, name: str) -> None:
    """As the definition of the profile says, within what the format itself loses."""
    of_kind: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    options = of_kind.get(kind, {})
    pixels = decode(encode_image(PICTURE, kind, icc_profile=profile(name), **options), LIMITS)
    difference = np.abs(pixels - expected(PICTURE, name))
    assert difference.mean() < 1.5
    assert difference.max() < 8
    assert np.abs(PICTURE - expected(PICTURE, name)).mean() > 3


def test_a_profile_of_several_segments_counts() -> None:
    """A JPEG segment holds 64 KiB; chunks are numbered, and one that is missing makes the profile void."""
    whole = profile("Display P3")
    data = encode_image(PICTURE, "JPEG", quality=100, subsampling=0)
    half = len(whole) // 2
    first, second = (
        b"\xff\xe2" + struct.pack(">H", 16 + len(part)) + b"ICC_PROFILE\0" + bytes([number, 2]) + part
        for number, part in ((1, whole[:half]), (2, whole[half:]))
    )
    plain = decode(data, LIMITS)
    for chunks in (first + second, second + first):
        moved = decode(data[:20] + chunks + data[20:], LIMITS)
        assert np.abs(moved - expected(PICTURE, "Display P3")).mean() < 1.5
    assert np.array_equal(decode(data[:20] + first + data[20:], LIMITS), plain)


@pytest.mark.parametrize(
    "icc",
    [
        b"",
        b"not a profile" * 30,
        profile("Display P3")[:200],
        profile("Display P3")[:-60],
        profile("Display P3", b"CMYK"),
        profile("Display P3") + bytes(MAX_BYTES),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
    ],
    ids=["none", "text", "cut in its table", "cut in its curves", "inks", "too long", "sRGB", "Lab"],
)
def test_other_profiles_leave_the_picture_as_it_is(icc: bytes) -> None:
    """A broken profile does not reject a picture, and sRGB is converted to nothing."""
    assert to_srgb(PICTURE, icc) is PICTURE
    assert np.array_equal(decode(encode_image(PICTURE, "PNG", icc_profile=icc), LIMITS), PICTURE)


def test_bands_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large pictures are converted a few rows at a time."""
    whole = to_srgb(PICTURE, profile("Adobe RGB"))
    monkeypatch.setattr("service.pipeline.codecs.profiles.BAND_PIXELS", 1000)
    assert np.array_equal(to_srgb(PICTURE, profile("Adobe RGB")), whole)


def test_a_grey_picture_keeps_its_numbers() -> None:
    """A profile of colours says nothing about it."""
    grey = Image.fromarray(PICTURE[..., 0])
    assert np.array_equal(
        decode(encode_image(grey, "JPEG", icc_profile=profile("Adobe RGB")), LIMITS), decode(encode_image(grey, "JPEG"), LIMITS)
    )
