"""Objects in training: which components are single things, and the targets of the heads, against their definitions."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.training.classes import CAMVID
from models.training.losses import IGNORED, center_loss, offset_loss
from models.training.objects import LEAST_PIXELS, SIGMA_PX, UNSURE, clear_objects, targets

CAR, PEDESTRIAN = CAMVID.names.index("car"), CAMVID.names.index("pedestrian")
STRIDE = 4


def street(*rectangles: tuple[int, int, int, int, int]) -> NDArray[np.uint8]:
    """A road of 200 x 300 with rectangles: class, top, left, height, width."""
    labels = np.full((200, 300), CAMVID.names.index("road"), np.uint8)
    for k, top, left, height, width in rectangles:
        labels[top : top + height, left : left + width] = k
    return labels


def objects_in(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The object map by CamVid's table."""
    return clear_objects(labels, CAMVID.names, CAMVID.things)


def test_a_compact_component_with_a_gap_around_it_is_one_thing() -> None:
    """Two cars apart and a pedestrian are three objects, numbered from 1; nothing else has a number."""
    found = objects_in(street((CAR, 50, 30, 30, 50), (CAR, 50, 100, 30, 50), (PEDESTRIAN, 40, 200, 40, 14)))
    assert sorted(np.unique(found).tolist()) == [0, 1, 2, 3]
    assert [int((found == number).sum()) for number in (1, 2, 3)] == [1500, 1500, 560]
    assert found[60, 40] != found[60, 110]


@pytest.mark.parametrize(
    ("why", "rectangles"),
    [
        ("cut by the border", [(CAR, 50, 0, 30, 50)]),
        ("too flat", [(CAR, 50, 30, 20, 90)]),
        ("too tall", [(CAR, 50, 30, 60, 20)]),
        ("too small for its class", [(PEDESTRIAN, 50, 30, 8, 4)]),
        ("not compact: two roofs", [(CAR, 50, 30, 40, 14), (CAR, 78, 44, 12, 20), (CAR, 50, 64, 40, 14)]),
        ("touches another at a corner", [(CAR, 50, 30, 30, 50), (CAR, 80, 80, 30, 50)]),
        ("another one next to it, with no gap", [(CAR, 50, 30, 30, 50), (CAR, 80, 79, 30, 50)]),
    ],
)
def test_what_is_not_clearly_single_is_unsure(why: str, rectangles: list[tuple[int, int, int, int, int]]) -> None:
    """Its pixels are 255: no loss counts them."""
    labels = street(*rectangles)
    found = objects_in(labels)
    countable = np.isin(labels, CAMVID.things)
    assert (found[countable] == UNSURE).all(), why
    assert not found[~countable].any()


def test_another_class_beside_it_changes_nothing() -> None:
    """A pedestrian before a car: both are single things where their shapes say so."""
    found = objects_in(street((CAR, 50, 30, 30, 50), (PEDESTRIAN, 45, 80, 38, 14)))
    assert sorted(np.unique(found).tolist()) == [0, 1, 2]


def drawn(*discs: tuple[int, int, int, int]) -> torch.Tensor:
    """A 1 x 96 x 128 object map of discs: number, y, x, radius."""
    plane = np.zeros((96, 128), np.int32)
    for number, y, x, radius in discs:
        cv2.circle(plane, (x, y), radius, number, -1)
    return torch.from_numpy(plane).long()[None]


def test_offsets_point_to_the_centre_of_mass_and_centres_are_gaussians_around_it() -> None:
    """At every cell, against the definition by numpy; numbers above 255 are objects like others."""
    objects = drawn((3, 40, 50, 20), (UNSURE, 60, 100, 12), (300, 70, 30, 9))
    labels = torch.zeros_like(objects)
    labels[0, :8] = IGNORED
    found = targets(objects, labels, STRIDE, IGNORED)
    plane = objects[0].numpy()
    expected = np.zeros((24, 32))
    for number in (3, 300):
        ys, xs = np.nonzero(plane == number)
        y, x = ys.mean(), xs.mean()
        for row in range(24):
            for column in range(32):
                at_y, at_x = row * STRIDE + 1.5, column * STRIDE + 1.5
                blob = np.exp(-((at_y - y) ** 2 + (at_x - x) ** 2) / (2 * SIGMA_PX**2))
                expected[row, column] = max(expected[row, column], blob)
                if plane[row * STRIDE + 2, column * STRIDE + 2] == number:
                    offset = found.offsets[0, :, row, column].tolist()
                    assert offset == pytest.approx([y - at_y, x - at_x], abs=1e-4)
                    assert found.weights[0, row, column] > 0
    np.testing.assert_allclose(found.centers[0].numpy(), expected, atol=1e-5)
    cells = plane[2::STRIDE, 2::STRIDE]
    known = (cells != UNSURE) & (np.arange(24) * STRIDE + 2 >= 8)[:, None]
    np.testing.assert_array_equal(found.counted[0].numpy(), known)
    np.testing.assert_array_equal(found.weights[0].numpy() > 0, (cells > 0) & (cells != UNSURE))
    for number in (3, 300):  # an object weighs as the square root of its cells
        own = torch.from_numpy(cells == number)
        assert float(found.weights[0][own].sum()) == pytest.approx(float(own.sum()) ** 0.5, rel=1e-4)


def test_specks_are_not_counted() -> None:
    """An object of fewer pixels than :data:`LEAST_PIXELS` has neither a centre nor offsets, and its cells are unknown."""
    objects = torch.zeros(1, 32, 32, dtype=torch.int64)
    objects[0, 8:13, 8:12] = 7
    assert int((objects == 7).sum()) < LEAST_PIXELS
    found = targets(objects, torch.zeros_like(objects), STRIDE, IGNORED)
    assert not found.centers.any()
    assert not found.weights.any()
    assert found.counted.sum() == 8 * 8 - int((objects[0, 2::STRIDE, 2::STRIDE] == 7).sum())


def test_losses_are_zero_at_their_targets_and_ignore_what_is_unknown() -> None:
    """Right heads cost nothing; wrong values where nothing is known cost nothing either, elsewhere they do."""
    objects = drawn((1, 40, 50, 20), (UNSURE, 60, 100, 12))
    wanted = targets(objects, torch.zeros_like(objects), STRIDE, IGNORED)
    centers, offsets = wanted.centers[:, None].clone(), wanted.offsets.clone()
    assert (float(center_loss(centers, wanted)), float(offset_loss(offsets, wanted))) == (0, 0)
    unknown, free = ~wanted.counted[:, None], (wanted.weights == 0)[:, None].expand_as(offsets)
    assert float(center_loss(torch.where(unknown, 0.9, centers), wanted)) == 0
    assert float(offset_loss(torch.where(free, 77.0, offsets), wanted)) == 0
    assert float(center_loss(centers + 0.1, wanted)) == pytest.approx(200 * 0.01, rel=1e-4)
    assert float(offset_loss(offsets + 3, wanted)) == pytest.approx(0.01 * 6, rel=1e-4)
