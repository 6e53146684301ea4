"""Learned objects as masks of their own."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from service.encodings import decode, things
from service.encodings.runs import UNLABELLED, Thing, value_of
from service.errors import BadParameter
from tests.conftest import make_manifest
from tests.maps import STREET_CLASSES, Learned, objects, street, street_view

ROAD, CAR = 3, 8
ENTRIES = ("coco", "coco-uncompressed", "labelstudio", "cvat", "polygons")


@dataclass
class Row:
    """A row that says whether its class is countable."""

    id: int
    name: str
    countable: bool


def test_a_table_says_which_classes_are_countable_or_their_names_do() -> None:
    """What a manifest marks wins over names; without a mark, the names count."""
    assert things.countable([Row(0, "car", False), Row(1, "forklift", True)]) == {1}
    assert things.countable([Row(0, "Car", False), Row(1, "forklift", False)]) == {0}
    with pytest.raises(BadParameter, match="red, green, blue"):
        things.check_countable(make_manifest().classes)


def test_each_object_is_a_mask_and_the_rest_stays_with_its_class() -> None:
    """Two objects that touch are two, the larger one is number 1, and what no object claims keeps its class."""
    labels = np.full((4, 6), ROAD, np.uint8)
    labels[1:3] = CAR
    numbers = np.zeros((4, 6), np.uint16)
    numbers[1:3, :2], numbers[1:3, 2:5] = 1, 2
    learned = Learned.of(numbers, (CAR, CAR), (0.25, 0.75))
    parts, rows = things.split(things.claim(labels, learned), STREET_CLASSES, learned)
    cars = [row for row in rows if isinstance(row, Thing)]
    assert [(row.id, row.number, row.score) for row in cars] == [(CAR, 1, 0.75), (CAR, 2, 0.25)]
    assert [np.count_nonzero(parts == row.value) for row in cars] == [6, 4]
    assert np.count_nonzero(parts == CAR) == 2
    assert np.count_nonzero(parts == ROAD) == 12


@given(
    arrays(np.uint8, (8, 9), elements=st.sampled_from([0, 3, 8, 255])),
    arrays(np.uint16, (8, 9), elements=st.integers(0, 4)),
    st.lists(st.sampled_from([0, 3, 8]), min_size=4, max_size=4),
    st.integers(0, 12),
)
def test_masks_of_objects_are_their_pixels(
    labels: NDArray[np.uint8], numbers: NDArray[np.uint16], ids: list[int], min_area: int
) -> None:
    """An object's mask is every pixel of its number that has a class; small objects are dropped; the rest is unchanged."""
    learned = Learned.of(numbers, ids, (0.1, 0.2, 0.3, 0.4))
    claimed = things.claim(labels, learned)
    parts, rows = things.split(claimed, STREET_CLASSES, learned, min_area)
    found = {row.score: row for row in rows if isinstance(row, Thing)}
    for number, (owner, score) in enumerate(zip(ids, learned.scores, strict=True), 1):
        mask = (numbers == number) & (labels != UNLABELLED)
        if mask.any() and mask.sum() >= min_area:
            assert np.array_equal(parts == value_of(found[score]), mask)
            assert found[score].id == owner
        else:
            assert score not in found
            assert (parts[mask] == UNLABELLED).all()
    outside = (numbers == 0) | (labels == UNLABELLED)
    assert np.array_equal(parts[outside], labels[outside])


@pytest.mark.parametrize("name", ENTRIES)
def test_entries_say_instance_and_score(name: str) -> None:
    """In place of ``component``; the labels that come back are those that the objects claim."""
    document = json.loads(street(name, learned=True, instances=True))
    learned = [entry for entry in document["classes"] if "instance" in entry]
    assert sorted(entry["score"] for entry in learned) == sorted(
        score for number, score in enumerate(objects().scores, 1) if (objects().ids == number).any()
    )
    assert not [entry for entry in document["classes"] if "component" in entry]
    expected = things.claim(street_view().labels, objects())
    assert np.array_equal(decode(name, json.dumps(document).encode()), expected)


@pytest.mark.parametrize("name", [*ENTRIES, "coco-dataset", "labelme"])
def test_filters_and_ids_reach_objects(name: str) -> None:
    """Objects of other classes go, uncertain pixels go, and the ids are the table's."""
    body = street(name, learned=True, instances=True, classes=["car"], min_confidence=0.5, ids="cityscapes-label")
    claimed = things.claim(street_view().labels, objects())
    kept = (claimed == CAR) & (street_view().confidence() > 127)
    assert np.array_equal(decode(name, body), np.where(kept, 26, UNLABELLED))


def test_without_instances_objects_change_nothing() -> None:
    """A caller who does not ask for objects gets the classes of the pixels, and nothing is grouped."""
    assert street("png", learned=True) == street("png")
    assert street("coco", learned=True) == street("coco")
