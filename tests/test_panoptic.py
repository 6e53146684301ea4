"""Grouping pixels into objects, against its definition in float64."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from service.pipeline.tasks import panoptic
from service.pipeline.tasks.panoptic import LEAST_PEAK, MOST_OBJECTS, WINDOW, Instances, find_peaks, group, nearest_peaks

STRIDE = 4


def smooth(seed: int, *shape: int, spread: float) -> NDArray[np.float32]:
    """Planes that change slowly, as a network's do: planes x h x w, deviation ``spread``."""
    noise = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    blurred = np.stack([cv2.GaussianBlur(plane, (0, 0), 2.0) for plane in noise])
    return np.asarray(blurred / blurred.std() * spread, np.float32)


def pointed(offsets: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float64]:
    """Where each pixel points to in input pixels, 2 x H x W: its own place and its upsampled offset, pixel by pixel."""
    _, h, w = offsets.shape
    places = np.empty((2, *size))
    for y in range(size[0]):
        for x in range(size[1]):
            row, column = (y + 0.5) * h / size[0] - 0.5, (x + 0.5) * w / size[1] - 0.5
            inner_row, inner_column = min(max(row, 0), h - 1), min(max(column, 0), w - 1)
            top, left = min(int(inner_row), max(h - 2, 0)), min(int(inner_column), max(w - 2, 0))
            below, after = min(top + 1, h - 1), min(left + 1, w - 1)
            down, right = inner_row - top, inner_column - left
            for axis, place in enumerate((row, column)):
                plane = offsets[axis].astype(np.float64)
                upper = plane[top, left] * (1 - right) + plane[top, after] * right
                lower = plane[below, left] * (1 - right) + plane[below, after] * right
                places[axis, y, x] = (place + 0.5) * STRIDE - 0.5 + upper * (1 - down) + lower * down
    return places


def wrong(ids: NDArray[np.uint16], mask: NDArray[np.bool_], places: NDArray[np.float64], peaks: NDArray[np.float64]) -> int:
    """Pixels that are not at their nearest peak, ties within rounding apart."""
    distance = np.stack([np.hypot(places[0] - y, places[1] - x) for y, x in peaks])
    chosen = np.take_along_axis(distance, np.maximum(ids, 1)[None].astype(int) - 1, 0)[0]
    outside = (ids > 0) != mask
    return int((outside | (mask & (chosen > distance.min(0) + 1e-9))).sum())


@pytest.mark.parametrize(
    ("grid", "size"),
    [((12, 16), (48, 64)), ((12, 16), (97, 33)), ((12, 16), (7, 9)), ((1, 9), (5, 40)), ((9, 1), (40, 5)), ((1, 1), (6, 7))],
)
@pytest.mark.parametrize("count", [1, 2, 40])
def test_each_pixel_goes_to_the_nearest_peak(grid: tuple[int, int], size: tuple[int, int], count: int) -> None:
    """At any size, larger or smaller than the grid of offsets, and for any number of peaks."""
    rng = np.random.default_rng(count)
    offsets = smooth(count, 2, *grid, spread=9.0) if min(grid) > 1 else rng.normal(0, 9, (2, *grid)).astype(np.float32)
    mask = rng.random(size) < 0.6
    peaks = rng.uniform(-5, STRIDE * max(grid), (count, 2))
    ids = nearest_peaks(mask, offsets, peaks, STRIDE)
    assert ids.shape == size
    assert wrong(ids, mask, pointed(offsets, size), peaks) == 0


def test_the_check_of_the_above_notices_a_shift_of_a_pixel() -> None:
    """An offset that is one pixel wrong sends pixels elsewhere."""
    offsets, mask = smooth(2, 2, 12, 16, spread=9.0), np.ones((48, 64), bool)
    peaks = np.random.default_rng(2).uniform(0, 64, (12, 2))
    ids = nearest_peaks(mask, offsets + 1, peaks, STRIDE)
    assert wrong(ids, mask, pointed(offsets, (48, 64)), peaks) > 10


def test_work_in_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many cells are settled at a time changes nothing."""
    offsets, mask = smooth(5, 2, 20, 30, spread=9.0), np.ones((100, 130), bool)
    peaks = np.random.default_rng(5).uniform(0, 100, (30, 2))
    whole = nearest_peaks(mask, offsets, peaks, STRIDE)
    monkeypatch.setattr(panoptic, "BLOCK", 500)
    np.testing.assert_array_equal(nearest_peaks(mask, offsets, peaks, STRIDE), whole)


def test_peaks_are_the_highest_of_their_windows_highest_first() -> None:
    """By definition: no value in the window is higher, none that is found lies in the window of another."""
    heatmap = np.clip(smooth(7, 1, 40, 60, spread=0.4)[0], 0, 1)
    found = find_peaks(heatmap)
    reach = WINDOW // 2
    for row, column in found:
        around = heatmap[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
        assert heatmap[row, column] == around.max() >= LEAST_PEAK
    heights = heatmap[found[:, 0], found[:, 1]]
    assert len(found) > 10
    assert (np.diff(heights) <= 0).all()
    apart = np.abs(found[:, None] - found[None]).max(2) + np.eye(len(found), dtype=int) * 99
    assert apart.min() > reach


def test_a_plateau_is_one_peak() -> None:
    """Equal values side by side, as of a network in 8 bits, are one object, at the first of them."""
    heatmap = np.zeros((9, 9), np.float32)
    heatmap[3:5, 3:6] = 0.5
    assert find_peaks(heatmap).tolist() == [[3, 3]]


def test_noise_has_a_bounded_number_of_peaks() -> None:
    """The highest are kept."""
    heatmap = np.random.default_rng(0).random((300, 300), np.float32)
    found = find_peaks(heatmap)
    assert len(found) == MOST_OBJECTS
    assert heatmap[found[:, 0], found[:, 1]].min() > 0.5


def scene(size: tuple[int, int]) -> tuple[Instances, NDArray[np.uint8]]:
    """Two overlapping things of class 1, one of class 2 of which a part is labelled 1, on background 0."""
    h, w = 20, 30
    centers, offsets = np.zeros((1, h, w), np.float32), np.zeros((2, h, w), np.float32)
    at_y, at_x = np.meshgrid(np.arange(h) * STRIDE + 1.5, np.arange(w) * STRIDE + 1.5, indexing="ij")
    owner = np.zeros((h, w), int)
    labels_at = np.zeros((h, w), int)
    for number, (row, column, height, box) in enumerate(
        [(8, 8, 0.9, (4, 13, 3, 11)), (8, 14, 0.8, (4, 13, 11, 18)), (10, 24, 0.7, (5, 16, 22, 27))], start=1
    ):
        top, bottom, left, right = box
        centers[0, row, column] = height
        part = np.s_[top:bottom, left:right]
        offsets[0][part], offsets[1][part] = (row * 4 + 1.5 - at_y)[part], (column * 4 + 1.5 - at_x)[part]
        owner[part] = number
        labels_at[part] = 2 if number == 3 else 1
    labels_at[14:16, 22:27] = 1  # the lower end of the third thing is taken for another class
    scores = np.full((3, h, w), -2.0, np.float32)
    np.put_along_axis(scores, labels_at[None], 2.0, 0)
    labels = np.asarray(cv2.resize(labels_at.astype(np.uint8), (size[1], size[0]), interpolation=cv2.INTER_NEAREST), np.uint8)
    return group(labels, scores, centers, offsets, stride=STRIDE, countable=(1, 2)), labels


@pytest.mark.parametrize("size", [(80, 120), (161, 239)])
def test_things_that_touch_are_told_apart(size: tuple[int, int]) -> None:
    """Two things of one class side by side are two; one labelled as two classes is one, of the class of most of its pixels."""
    found, labels = scene(size)
    assert [row.class_id for row in found.rows] == [1, 1, 2]
    assert [row.id for row in found.rows] == [1, 2, 3]
    np.testing.assert_array_equal(found.ids > 0, labels > 0)
    assert [row.area for row in found.rows] == np.bincount(found.ids.ravel())[1:].tolist()
    assert found.rows[0].area == pytest.approx(9 * 8 * size[0] * size[1] / 600, rel=0.1)


def test_a_score_is_the_peak_times_the_mean_probability_of_the_class() -> None:
    """And objects are numbered by it."""
    found, _ = scene((80, 120))
    sure = np.exp(2.0) / (np.exp(2.0) + 2 * np.exp(-2.0))
    assert found.rows[0].score == pytest.approx(0.9 * sure, abs=1e-4)
    unsure = np.exp(-2.0) / (np.exp(2.0) + 2 * np.exp(-2.0))
    assert found.rows[2].score == pytest.approx(0.7 * (9 * sure + 2 * unsure) / 11, abs=1e-4)


def test_an_image_without_things_has_no_objects() -> None:
    """Neither where no pixel is of a countable class, nor where the heatmap has no peak."""
    flat = np.zeros((3, 5, 6), np.float32)
    labels = np.zeros((20, 24), np.uint8)
    for labelled, height in ((labels, 0.9), (labels + 1, 0.0)):
        centers = np.full((1, 5, 6), height, np.float32)
        found = group(labelled.astype(np.uint8), flat, centers, flat[:2], stride=STRIDE, countable=(1,))
        assert found.rows == ()
        assert found.ids.shape == (20, 24)
        assert not found.ids.any()
