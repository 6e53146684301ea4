"""The files of the field's faults, where they lie beside the checkout: what is right for each stands here once more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import CorruptImage, ServiceError, UnsupportedImage
from service.pipeline.codecs.decoding import Limits, decode, probe

CASES = Path(__file__).resolve().parent.parent.parent / "shared" / "cases" / "images"
LIMITS = Limits()
FOLDERS = (
    "bmp-alpha-all-zero",
    "fifty-megapixel-phone",
    "jpeg-junk-between-segments",
    "jpeg-odd-sampling",
    "jpeg-warnings",
    "orientation-as-byte",
    "png-texts",
    "tiff-intact-called-damaged",
    "tiff-thumbnail-served",
    "tiff-wrong-picture",
)
FILES = [path for folder in FOLDERS for path in sorted((CASES / folder).glob("*")) if path.suffix != ".txt"]
REFUSED: dict[str, type[ServiceError]] = {
    "cgbi.png": UnsupportedImage,
    "half.jpg": CorruptImage,
    "half-with-eoi.jpg": CorruptImage,
    "raw.dng": UnsupportedImage,
    "webp-inside.tif": UnsupportedImage,
}
TURNED = {"6.jpg": 1, "8.tif": -1, "orientation-6-behind-junk.jpg": 1}
"""Quarter turns back."""

pytestmark = pytest.mark.skipif(not FILES, reason="the cases lie outside the repository")


def drawing() -> NDArray[np.uint8]:
    """The picture that every case holds."""
    y, x = np.mgrid[0:64, 0:96]
    rgb = np.dstack([x * 2.6, y * 4, 255 - x * 1.3 - y * 1.9]).clip(0, 255).astype(np.uint8)
    rgb[40:, 20:60], rgb[10:30, 60:80] = (70, 60, 75), (200, 40, 30)
    return rgb


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_case_is_the_drawing_or_a_clear_refusal(path: Path) -> None:
    """No wrong picture, and no refusal of an intact file."""
    data = path.read_bytes()
    if path.name in REFUSED:
        with pytest.raises(REFUSED[path.name]):
            decode(data, LIMITS)
        return
    if path.parent.name == "fifty-megapixel-phone":
        header = probe(data, LIMITS)
        assert (header.width, header.height) == (8160, 6144)
        return
    pixels = np.rot90(decode(data, LIMITS), TURNED.get(path.name, 0))
    if path.parent.name.startswith("jpeg-") and path.parent.name != "jpeg-odd-sampling":
        plain = CASES / "jpeg-warnings" / ("plain-rst.jpg" if "rst" in path.name else "plain.jpg")
        assert np.array_equal(pixels, decode(plain.read_bytes(), LIMITS))
    expected = drawing()
    if path.name in ("float16-grey.tif", "grey16-alpha.tif"):
        expected = np.repeat((expected @ [0.299, 0.587, 0.114])[..., None], 3, axis=2).astype(np.uint8)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).mean() < 3
