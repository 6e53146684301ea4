"""Colours that can be told apart."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from service.encodings import palettes
from tests.maps import STREET_CLASSES, street, streets


def smallest_distance(colors: list[tuple[int, int, int]]) -> float:
    """In CIELAB, between any two."""
    lab = palettes.cielab(np.array(colors))
    return min(float(np.linalg.norm(one - other)) for one, other in itertools.combinations(lab, 2))


def test_lightness_and_greys_are_those_of_the_standard() -> None:
    """White is L* 100, black 0, the middle grey 53.4; red is where the tables have it."""
    lab = palettes.cielab(np.array([[255, 255, 255], [0, 0, 0], [127, 127, 127], [255, 0, 0]]))
    assert lab[0] == pytest.approx([100, 0, 0], abs=0.1)
    assert lab[1] == pytest.approx([0, 0, 0], abs=0.1)
    assert lab[2] == pytest.approx([53.2, 0, 0], abs=0.5)
    assert lab[3] == pytest.approx([53.2, 80.1, 67.2], abs=0.2)


def test_bright_colours_can_be_told_apart() -> None:
    """Black and white among them; a street's closest two are far beyond those of its own table."""
    ends = [(0, 0, 0), (255, 255, 255)]
    bright = smallest_distance([*palettes.bright(len(STREET_CLASSES)), *ends])
    assert bright > 2 * smallest_distance([entry.color for entry in STREET_CLASSES])
    assert bright > 40
    assert smallest_distance([*palettes.bright(150), *ends]) > 9
    assert palettes.bright(150)[:11] == palettes.bright(11)
    assert len(set(palettes.bright(255))) == 255


@pytest.mark.parametrize("name", ["png", "color", "overlay"])
def test_a_bright_mask_has_the_same_classes_in_other_colours(name: str) -> None:
    """Each class has its own bright colour; pixels of an indexed PNG keep their values."""
    plain, bright = (Image.open(io.BytesIO(street(name, palette=palette))) for palette in ("model", "bright"))
    colors = np.asarray(bright.convert("RGB"))
    labels = streets()[0]
    for row, color in zip(STREET_CLASSES, palettes.bright(len(STREET_CLASSES)), strict=True):
        shown = np.array(color) if name != "overlay" else (np.array(color) * 128 + 128) // 256  # over black, half and half
        assert (colors[labels == row.id] == shown).all()
    if name == "png":
        assert np.array_equal(np.asarray(plain), np.asarray(bright))


def test_bright_colours_follow_the_ids() -> None:
    """With another table's ids, its rows are coloured."""
    bright = Image.open(io.BytesIO(street("png", palette="bright", ids="cityscapes-train", classes=["road"])))
    assert bright.convert("RGB").getpixel(tuple(np.argwhere(streets()[0] == 3)[0][::-1].tolist())) == palettes.bright(19)[0]
