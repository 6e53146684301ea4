"""The names of classes in Foxglove's window stand on their classes."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.live.label_places import places


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.integers(1, 400), st.integers(1, 6))
def test_each_name_stands_on_a_pixel_of_its_class(seed: int, height: int, width: int, classes: int) -> None:
    """Whatever the regions are, no name is written over another class, and no class has two."""
    coarse = np.random.default_rng(seed).integers(0, classes, (4, 5), np.uint8)
    labels = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST).astype(np.uint8)
    found = places(labels, list(range(classes)))
    assert len({place.class_id for place in found}) == len(found) <= classes
    for place in found:
        assert labels[int(place.y), int(place.x)] == place.class_id


def test_the_largest_region_is_named_in_its_middle() -> None:
    """Of two regions the larger one has the name, as far from its border as it can be."""
    labels = np.zeros((360, 640), np.uint8)
    labels[20:60, 20:60] = 1
    labels[100:300, 200:400] = 1
    (place,) = places(labels, [1])
    assert abs(place.x - 300) < 8
    assert abs(place.y - 200) < 8


def test_a_speck_has_no_name() -> None:
    """A name would cover it."""
    labels = np.zeros((360, 640), np.uint8)
    labels[100:110, 100:110] = 3
    assert [place.class_id for place in places(labels, [0, 3])] == [0]
