"""YOLO's segmentation text, drawn by OpenCV as YOLO's training draws it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray

from service.encodings import yolo
from tests.conftest import make_manifest
from tests.maps import STREET_CLASSES, maps, street, streets

CLASSES = make_manifest().classes


@given(maps)
def test_any_map_comes_back(labels: NDArray[np.uint8]) -> None:
    """Outlines with their holes joined to them cover exactly the pixels of their classes."""
    assert np.array_equal(yolo.decode(yolo.encode(labels, CLASSES), labels.shape), labels)


def test_streets_come_back() -> None:
    """What holds for small maps holds for those that are served."""
    for labels in streets():
        assert np.array_equal(yolo.decode(yolo.encode(labels, STREET_CLASSES), labels.shape), labels)


def test_opencv_draws_the_same_masks() -> None:
    """``cv2.fillPoly`` on each line, as training does: it draws the outline too, so that a mask grows by a pixel at most."""
    labels = streets()[0]
    height, width = labels.shape
    drawn = {entry.id: np.zeros(labels.shape, np.uint8) for entry in STREET_CLASSES}
    for line in yolo.encode(labels, STREET_CLASSES).decode().splitlines():
        owner, *corners = line.split()
        values = np.array(corners, float)
        assert ((values >= 0) & (values <= 1)).all()
        points = (values.reshape(-1, 2) * (width, height)).round().astype(np.int32)
        mask = np.zeros(labels.shape, np.uint8)
        cv2.fillPoly(mask, [points], 1)
        drawn[int(owner)] |= mask
    thick = np.ones((3, 3), np.uint8)
    for entry in STREET_CLASSES:
        mask = (labels == entry.id).astype(np.uint8)
        cores = cv2.erode(mask, thick)
        assert (drawn[entry.id][cores > 0] == 1).all()


def test_a_thing_is_a_line() -> None:
    """Learned objects and components are one line each, whatever their regions."""
    body = street("yolo", instances=True).decode().splitlines()
    assert sum(line.startswith("8 ") for line in body) >= 2
    learned = street("yolo", instances=True, learned=True, classes=["car"]).decode().splitlines()
    assert all(line.startswith("8 ") for line in learned)


def test_a_tolerance_saves_corners() -> None:
    """The text is shorter, and the mask nearly the same."""
    labels = streets()[0]
    rough = street("yolo", tolerance=1.5)
    assert len(rough) < 0.6 * len(street("yolo"))
    assert (yolo.decode(rough, labels.shape) == labels).mean() > 0.95


@pytest.mark.parametrize(
    "line", ["", "1 0 0 1", "1 0 0 1 0 1", "x 0 0 1 0 1 1", "256 0 0 1 0 1 1", "1 0 0 1 0 1 y", "1 0 0 1 0 nan 1"]
)
def test_other_lines_are_refused(line: str) -> None:
    """An empty line is skipped; anything else must be a class id and at least three corners."""
    if not line:
        assert (yolo.decode(b"\n\n", (2, 3)) == 255).all()
        return
    with pytest.raises(ValueError, match=r"line 1|could not|beyond"):
        yolo.decode(line.encode(), (2, 3))
