"""The overlay and the colour image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from service.encodings import color, overlay
from tests.conftest import BLUE, GREEN, RED, make_image, make_labels, make_manifest

PALETTE = make_manifest().palette()


@given(arrays(np.uint8, (35, 3, 3)), arrays(np.uint8, (35, 3)), arrays(np.uint8, (256, 3)), st.floats(0, 1, allow_nan=False))
def test_an_overlay_is_the_weighted_mean(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], palette: NDArray[np.uint8], alpha: float
) -> None:
    """Every labelled pixel is the mean of image and colour by alpha, within one step of rounding."""
    blended = overlay.blend(image, labels, palette, alpha)
    exact = (1 - alpha) * image + alpha * palette[labels].astype(float)
    labelled = labels != 255
    assert np.abs(blended - exact)[labelled].max(initial=0) <= 1.5
    assert np.array_equal(blended[~labelled], image[~labelled])


@pytest.mark.parametrize(("alpha", "shown"), [(0.0, "image"), (1.0, "colours")])
def test_the_extremes_are_exact(alpha: float, shown: str) -> None:
    """No colour at all leaves the image, full colour leaves nothing of it."""
    image = np.full((96, 128, 3), 200, np.uint8)
    expected = {"image": image, "colours": make_image()}[shown]
    assert np.array_equal(overlay.blend(image, make_labels(), PALETTE, alpha), expected)


def test_unlabelled_pixels_show_the_image() -> None:
    """A filtered mask leaves the rest of the picture as it was, not darker."""
    image = np.full((4, 4, 3), 200, np.uint8)
    labels = np.full((4, 4), 255, np.uint8)
    labels[0, 0] = 1
    blended = overlay.blend(image, labels, PALETTE)
    assert blended[0, 0].tolist() == [100, 228, 100]
    assert (blended.reshape(-1, 3)[1:] == 200).all()
    assert (image == 200).all()


def test_colours_are_those_of_the_class_table() -> None:
    """Each class is drawn in its own colour, and an id without a class in black."""
    labels = np.array([[0, 1, 2, 255]], np.uint8)
    assert color.colorize(labels, PALETTE).tolist() == [[list(RED), list(GREEN), list(BLUE), [0, 0, 0]]]
