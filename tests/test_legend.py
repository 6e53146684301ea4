"""The legend in a picture."""

from __future__ import annotations

import numpy as np
import pytest

from service.encodings import legend
from tests.conftest import BLUE, GREEN, RED

ROWS = [("red", RED), ("green", GREEN), ("blue things", BLUE)]


@pytest.mark.parametrize("size", [(360, 480), (720, 1280), (2000, 3000)])
def test_every_class_is_drawn_in_its_colour_and_the_rest_stays(size: tuple[int, int]) -> None:
    """A patch of each colour, in order from the top; the other three quarters of the picture are as they were."""
    drawn = np.full((*size, 3), 100, np.uint8)
    legend.draw(drawn, ROWS)
    tops = [np.argwhere((drawn == color).all(-1))[0][0] for _, color in ROWS]
    assert tops == sorted(set(tops))
    assert (drawn[size[0] // 2 :] == 100).all()
    assert (drawn[:, size[1] // 2 :] == 100).all()
    letters = (drawn[: size[0] // 2] > 200).all(-1)
    assert letters.sum() > 200


@pytest.mark.parametrize("size", [(1, 1), (5, 400), (30, 4), (40, 40)])
def test_a_picture_too_small_for_it_keeps_its_size(size: tuple[int, int]) -> None:
    """There is no picture for which it fails, and where no line fits none is drawn."""
    image = np.full((*size, 3), 100, np.uint8)
    legend.draw(image, ROWS)
    assert (image != 100).any() == (size[0] > 20)


def test_more_classes_than_fit_lose_the_last_ones() -> None:
    """150 classes do not fit, the first of them do."""
    drawn = np.zeros((200, 300, 3), np.uint8)
    legend.draw(drawn, [(f"class {k}", (k, 255, 0)) for k in range(150)])
    assert ((drawn == (0, 255, 0)).all(-1)).any()
    assert not ((drawn == (149, 255, 0)).all(-1)).any()
