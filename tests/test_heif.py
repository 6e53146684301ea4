"""AVIF by Pillow, HEIC by pillow-heif where it is installed."""

from __future__ import annotations

import importlib.util
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.errors import CorruptImage, ServiceError, UnsupportedImage
from service.pipeline.codecs.decoding import Header, Limits, decode, probe
from tests.conftest import encode_image, make_image

LIMITS = Limits()
SMOOTH = np.asarray(Image.fromarray(make_image(6, 9)).resize((120, 80), Image.Resampling.BICUBIC))
HAS_HEIC = importlib.util.find_spec("pillow_heif") is not None
needs_heic = pytest.mark.skipif(not HAS_HEIC, reason="the extra 'heif' is not installed")


def heic(picture: np.ndarray[Any, np.dtype[np.uint8]], **options: Any) -> bytes:
    """A HEIC file."""
    from pillow_heif import from_pillow  # noqa: PLC0415 - an extra

    file = io.BytesIO()
    from_pillow(Image.fromarray(picture)).save(file, quality=95, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    """EXIF that says how the camera was held."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_avif_is_read_upright(orientation: int) -> None:
    """The size of the header is the stored one; the picture is turned."""
    data = encode_image(SMOOTH, "AVIF", quality=95, exif=exif(orientation))
    assert probe(data, LIMITS) == Header("AVIF", 120, 80)
    expected = np.rot90(SMOOTH, {1: 0, 3: 2, 6: -1, 8: 1}[orientation])
    pixels = decode(data, LIMITS)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).mean() < 4


def test_transparency_of_avif_lies_over_white() -> None:
    """As that of other formats."""
    alpha = np.zeros((80, 120), np.uint8)
    alpha[:, 60:] = 255
    pixels = decode(encode_image(np.dstack([SMOOTH, alpha]), "AVIF"), LIMITS)
    assert pixels[:, :56].min() > 240
    assert np.abs(pixels[:, 64:].astype(int) - SMOOTH[:, 64:]).mean() < 6


@needs_heic
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_heic_is_read_upright(orientation: int) -> None:
    """Turned once: by the file's own transform or by EXIF, and not by both."""
    pixels = decode(heic(SMOOTH, exif=exif(orientation).tobytes()), LIMITS)
    expected = np.rot90(SMOOTH, {1: 0, 3: 2, 6: -1, 8: 1}[orientation])
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).mean() < 4


@needs_heic
@pytest.mark.parametrize("size", [(80, 120), (600, 800)])
def test_heic_is_read(size: tuple[int, int]) -> None:
    """Phones store their photos so."""
    picture = np.asarray(Image.fromarray(SMOOTH).resize(size[::-1], Image.Resampling.BICUBIC))
    data = heic(picture)
    assert probe(data, LIMITS) == Header("HEIC", size[1], size[0])
    assert np.abs(decode(data, LIMITS).astype(int) - picture).mean() < 4


@needs_heic
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_heic_is_corrupt(share: float) -> None:
    """Half a photo is none."""
    data = heic(SMOOTH)
    with pytest.raises(CorruptImage):
        decode(data[: int(len(data) * share)], LIMITS)


@pytest.mark.skipif(HAS_HEIC, reason="the extra 'heif' is installed")
def test_heic_without_its_extra_is_refused_with_the_extra() -> None:
    """The refusal says which installation reads it."""
    with pytest.raises(UnsupportedImage, match=r"HEIC.*heif"):
        probe(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(60), LIMITS)


def test_heic_is_named_without_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal names HEIC, the extra and another way; it needs no whole header."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for brands in (b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic", b"heix\0\0\0\0mif1heix", b"msf1\0\0\0\0msf1hevc"):
        with pytest.raises(UnsupportedImage, match=r"a HEIC image; .*heif.* or convert it to JPEG or PNG"):
            probe(b"\0\0\0\x18ftyp" + brands, LIMITS)


def test_damage_in_the_boxes_is_an_error_of_ours() -> None:
    """Of every byte of the header: a picture of the same size, or an error."""
    data = encode_image(SMOOTH, "AVIF")
    for at in range(min(len(data), 400)):
        damaged = bytearray(data)
        damaged[at] ^= 0xFF
        try:
            decode(bytes(damaged), Limits(max_pixels=100_000))
        except ServiceError:
            continue
