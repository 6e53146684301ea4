"""Connected components of countable classes."""

from __future__ import annotations

import numpy as np
import pytest

from service.encodings import components, things
from service.encodings.runs import UNLABELLED, Thing, value_of
from service.errors import BadParameter
from tests.conftest import make_manifest
from tests.maps import STREET_CLASSES, streets

ROAD, CAR = 3, 8


def flood(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """The regions of a mask whose pixels touch by a side or a corner, the slow way."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    regions = []
    while left:
        region, front = set(), {left.pop()}
        while front:
            region |= front
            front = {(y + dy, x + dx) for y, x in front for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= front
        regions.append(region)
    return regions


def test_things_are_split_and_ground_stays_whole() -> None:
    """Two cars are two masks, the larger one first; a road in two parts is one; what touches by a corner is one."""
    labels = np.full((5, 9), ROAD, np.uint8)
    labels[:, 4] = UNLABELLED
    labels[0, 0] = labels[1, 1] = CAR
    labels[2:4, 5:8] = CAR
    parts, rows = components.split(labels, STREET_CLASSES)
    cars = [row for row in rows if isinstance(row, Thing)]
    assert [(row.id, row.name, row.number) for row in cars] == [(CAR, "car", 1), (CAR, "car", 2)]
    assert [np.count_nonzero(parts == row.value) for row in cars] == [6, 2]
    assert np.array_equal(parts[labels != CAR], labels[labels != CAR])
    assert [row.name for row in rows if not isinstance(row, Thing)] == [
        entry.name for entry in STREET_CLASSES if entry.name not in ("car", "pedestrian", "bicyclist")
    ]


@pytest.mark.parametrize("min_area", [0, 7])
def test_streets_are_split_as_a_flood_would(min_area: int) -> None:
    """Every component of every countable class, none else; the small ones are dropped."""
    for labels in streets()[:2]:
        parts, rows = components.split(labels, STREET_CLASSES, min_area)
        for entry in STREET_CLASSES:
            found = [{tuple(at) for at in np.argwhere(parts == value_of(row))} for row in rows if row.id == entry.id]
            if entry.id in things.countable(STREET_CLASSES):
                expected = [region for region in flood(labels == entry.id) if len(region) >= min_area]
                assert sorted(map(sorted, found)) == sorted(map(sorted, expected))
                assert [len(region) for region in found] == sorted(map(len, found), reverse=True)
            else:
                assert found == [{tuple(at) for at in np.argwhere(labels == entry.id)}]


def test_a_model_without_countable_classes_is_refused() -> None:
    """An empty list of cars would be taken for an empty street."""
    with pytest.raises(BadParameter, match="red, green, blue"):
        things.check_countable(make_manifest().classes)
