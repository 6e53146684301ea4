"""Grouping pixels into objects, against its definition in float64: in C and in numpy."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.pipeline.tasks import compiled, panoptic
from service.pipeline.tasks.compiled import Library
from service.pipeline.tasks.grid import grid_of
from service.pipeline.tasks.panoptic import LEAST_PEAK, MOST_OBJECTS, WINDOW, Instances, find_peaks, group
from service.pipeline.tasks.regions import FAR_CELLS, LEAST_CELLS

STRIDE = 4
sides = st.integers(1, 14)


@pytest.fixture(scope="module")
def library() -> Library:
    """What objects.c does."""
    found = compiled.loaded()
    if found is None:
        pytest.skip("objects.c is not compiled: python service/pipeline/tasks/compiled.py")
    return found


@pytest.fixture(scope="module", params=["compiled", "numpy"])
def either_way(request: pytest.FixtureRequest) -> Iterator[None]:
    """For tests of what both ways must do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panoptic, "_compiled", request.getfixturevalue("library") if request.param == "compiled" else None)
        yield


def nearest_peaks(
    mask: NDArray[np.bool_], offsets: NDArray[np.float32], peaks: NDArray[np.float64], stride: int
) -> NDArray[np.uint16]:
    """The map of ``panoptic.nearest_peaks`` for the pixels of a mask."""
    labels, grid = mask.astype(np.uint8), grid_of(offsets, mask.shape, stride)
    found = panoptic.nearest_peaks(labels, grid, peaks, (1,))
    assert np.array_equal(found.votes[:, 1], np.bincount(found.ids.ravel(), minlength=len(peaks) + 1)[1:])
    assert found.votes.sum() == mask.sum()
    return found.ids


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


@pytest.mark.usefixtures("either_way")
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


@pytest.mark.usefixtures("either_way")
def test_the_check_of_the_above_notices_a_shift_of_a_pixel() -> None:
    """An offset that is one pixel wrong sends pixels elsewhere."""
    offsets, mask = smooth(2, 2, 12, 16, spread=9.0), np.ones((48, 64), bool)
    peaks = np.random.default_rng(2).uniform(0, 64, (12, 2))
    ids = nearest_peaks(mask, offsets + 1, peaks, STRIDE)
    assert wrong(ids, mask, pointed(offsets, (48, 64)), peaks) > 10


def test_work_in_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many cells are settled at a time changes nothing."""
    monkeypatch.setattr(panoptic, "_compiled", None)
    offsets, mask = smooth(5, 2, 20, 30, spread=9.0), np.ones((100, 130), bool)
    peaks = np.random.default_rng(5).uniform(0, 100, (30, 2))
    whole = nearest_peaks(mask, offsets, peaks, STRIDE)
    monkeypatch.setattr(panoptic, "BLOCK", 500)
    np.testing.assert_array_equal(nearest_peaks(mask, offsets, peaks, STRIDE), whole)


@pytest.mark.usefixtures("either_way")
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


@pytest.mark.usefixtures("either_way")
def test_a_plateau_is_one_peak() -> None:
    """Equal values side by side, as of a network in 8 bits, are one object, at the first of them."""
    heatmap = np.zeros((9, 9), np.float32)
    heatmap[3:5, 3:6] = 0.5
    assert find_peaks(heatmap).tolist() == [[3, 3]]


@pytest.mark.usefixtures("either_way")
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


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("size", [(80, 120), (161, 239)])
def test_things_that_touch_are_told_apart(size: tuple[int, int]) -> None:
    """Two things of one class side by side are two; one labelled as two classes is one, of the class of most of its pixels."""
    found, labels = scene(size)
    assert [row.class_id for row in found.rows] == [1, 1, 2]
    assert [row.id for row in found.rows] == [1, 2, 3]
    np.testing.assert_array_equal(found.ids > 0, labels > 0)
    assert [row.area for row in found.rows] == np.bincount(found.ids.ravel())[1:].tolist()
    assert found.rows[0].area == pytest.approx(9 * 8 * size[0] * size[1] / 600, rel=0.1)


@pytest.mark.usefixtures("either_way")
def test_a_score_is_the_peak_times_the_mean_probability_of_the_class() -> None:
    """And objects are numbered by it."""
    found, _ = scene((80, 120))
    sure = np.exp(2.0) / (np.exp(2.0) + 2 * np.exp(-2.0))
    assert found.rows[0].score == pytest.approx(0.9 * sure, abs=1e-4)
    unsure = np.exp(-2.0) / (np.exp(2.0) + 2 * np.exp(-2.0))
    assert found.rows[2].score == pytest.approx(0.7 * (9 * sure + 2 * unsure) / 11, abs=1e-4)


@pytest.mark.usefixtures("either_way")
def test_an_image_without_things_has_no_objects() -> None:
    """Neither where no pixel is of a countable class, nor where a speck is and the heatmap has no peak."""
    flat = np.zeros((3, 5, 6), np.float32)
    labels = np.zeros((20, 24), np.uint8)
    speck = labels.copy()
    speck[3:9, 4:12] = 1
    for labelled, height in ((labels, 0.9), (speck, 0.0)):
        centers = np.full((1, 5, 6), height, np.float32)
        found = group(labelled, flat, centers, flat[:2], stride=STRIDE, countable=(1,))
        assert found.rows == ()
        assert found.ids.shape == (20, 24)
        assert not found.ids.any()


# --- bit for bit -----------------------------------------------------------------------------------------------------


def defined(
    labels: NDArray[np.uint8],
    scores: NDArray[np.float32],
    centers: NDArray[np.float32],
    offsets: NDArray[np.float32],
    countable: tuple[int, ...],
) -> Instances:
    """The objects by their definition: every pixel against every peak that may have it, in float64, without a short cut."""
    peaks = peaks_defined(centers[0])
    height, width = labels.shape
    _, h, w = offsets.shape
    padded = np.pad(offsets.astype(np.float64), ((0, 0), (1, 1), (1, 1)), mode="edge")
    padded[0] += ((np.arange(h + 2) - 0.5) * STRIDE - 0.5)[:, None]
    padded[1] += (np.arange(w + 2) - 0.5) * STRIDE - 0.5
    down, right = (np.arange(height) + 0.5) * (h / height) + 0.5, (np.arange(width) + 0.5) * (w / width) + 0.5
    top, left = np.minimum(down.astype(int), h), np.minimum(right.astype(int), w)
    down, right = (down - top)[:, None], right - left
    a, b = padded[:, top][:, :, left], padded[:, top][:, :, left + 1]
    c, d = padded[:, top + 1][:, :, left], padded[:, top + 1][:, :, left + 1]
    west, east = a + down * (c - a), b + down * (d - b)
    y, x = west + right * (east - west)
    places = [(row * STRIDE + (STRIDE - 1) / 2, column * STRIDE + (STRIDE - 1) / 2) for row, column in peaks]
    away = np.array([(y - at_y) ** 2 + (x - at_x) ** 2 for at_y, at_x in places]).reshape(-1, height, width)
    owner = np.full(labels.shape, -1)
    alone = []
    middle = np.ix_([int((i + 0.5) * height / h) for i in range(h)], [int((j + 0.5) * width / w) for j in range(w)])
    for region in regions_defined(labels, countable):
        inside = [k for k, cell in enumerate(peaks) if region[middle][cell]]
        if inside:
            owner[region] = np.array(inside)[away[inside][:, region].argmin(0)]
            continue
        cells = np.argwhere(region[middle])
        pointed = padded[:, cells[:, 0] + 1, cells[:, 1] + 1]
        steps = [min((np.hypot(a - at_y, b - at_x) for at_y, at_x in places), default=np.inf) for a, b in pointed.T]
        if len(cells) >= LEAST_CELLS and sum(steps) > FAR_CELLS * STRIDE * len(cells):
            alone.append((-len(cells), cells[0].tolist(), region))
        elif peaks:
            owner[region] = away[:, region].argmin(0)
    alone.sort(key=lambda one: one[:2])
    heights = [float(centers[0, row, column]) for row, column in peaks] + [LEAST_PEAK] * len(alone)
    pieces = [owner == index for index in range(len(peaks))] + [region for _, _, region in alone]
    found = []
    for height_of, own in zip(heights, pieces, strict=True):
        if own.any():
            kind = int(np.bincount(labels[own]).argmax())
            sampled = [
                softmax(scores[:, i, j].astype(np.float64))[kind]
                for i in range(scores.shape[1])
                for j in range(scores.shape[2])
                if own[int((i + 0.5) * height / scores.shape[1]), int((j + 0.5) * width / scores.shape[2])]
            ]
            sure = min(height_of, 1.0) * (float(np.mean(sampled)) if sampled else 1.0)
            found.append((round(sure, 4), kind, own))
    found.sort(key=lambda one: -one[0])
    ids = np.zeros(labels.shape, np.uint16)
    for number, (_, _, own) in enumerate(found, start=1):
        ids[own] = number
    rows = (panoptic.Instance(number, kind, sure, int(own.sum())) for number, (sure, kind, own) in enumerate(found, start=1))
    return Instances(ids, tuple(rows))


def regions_defined(labels: NDArray[np.uint8], classes: tuple[int, ...]) -> list[NDArray[np.bool_]]:
    """The regions of some classes, by a flood that goes to all eight sides."""
    rest = np.isin(labels, classes)
    found = []
    while rest.any():
        y, x = np.argwhere(rest)[0].tolist()
        region, open_ends = np.zeros(labels.shape, bool), [(y, x)]
        while open_ends:
            down, right = open_ends.pop()
            within = 0 <= down < labels.shape[0] and 0 <= right < labels.shape[1]
            if within and not region[down, right] and labels[down, right] == labels[y, x]:
                region[down, right] = True
                open_ends += [(down + i, right + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        rest &= ~region
        found.append(region)
    return found


def softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores of one place to probabilities."""
    powers = np.exp(values - values.max())
    return np.asarray(powers / powers.sum())


def peaks_defined(heatmap: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Maxima by their definition, highest first, of equals the first in reading order."""
    h, w = heatmap.shape
    reach = WINDOW // 2
    cells = [(row, column) for row in range(h) for column in range(w) if heatmap[row, column] >= np.float32(LEAST_PEAK)]
    found: list[tuple[int, int]] = []
    for row, column in sorted(cells, key=lambda cell: -heatmap[cell]):
        around = heatmap[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
        apart = all(max(abs(row - y), abs(column - x)) > reach for y, x in found)
        if heatmap[row, column] == around.max() and apart:
            found.append((row, column))
    return found


Arrays = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def answer(seed: int, h: int, w: int, size: tuple[int, int], step: float) -> Arrays:
    """Labels, scores, centres and offsets as of a network; with a step, on its multiples, as one in 8 bits has them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, (h, w), np.uint8)
    wide = np.asarray(cv2.resize(labels, (size[1], size[0]), interpolation=cv2.INTER_NEAREST), np.uint8)
    scores = rng.normal(0, 2, (4, h, w))
    centers, offsets = rng.random((1, h, w)) ** 3, rng.normal(0, 8, (2, h, w))
    if step:
        scores, offsets = np.rint(scores / step) * step, np.rint(offsets / (4 * step)) * (4 * step)
        centers = np.rint(centers * 8) / 8
    return wide, scores.astype(np.float32), centers.astype(np.float32), offsets.astype(np.float32)


@pytest.mark.usefixtures("either_way")
@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), sides, sides, st.integers(1, 60), st.integers(1, 60), st.sampled_from([0.0, 0.5, 1.0]))
def test_objects_are_those_of_the_definition(seed: int, h: int, w: int, H: int, W: int, step: float) -> None:  # noqa: N803
    """To the last pixel, equal distances and equal scores included: at any size, larger or smaller than the grid."""
    labels, scores, centers, offsets = answer(seed, h, w, (H, W), step)
    expected = defined(labels, scores, centers, offsets, (1, 3))
    found = group(labels, scores, centers, offsets, stride=STRIDE, countable=(1, 3))
    np.testing.assert_array_equal(found.ids, expected.ids)
    assert found.rows == expected.rows


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("spread", [0.0, 3.0, 1e30])
def test_offsets_of_any_size_are_the_definitions(spread: float) -> None:
    """None at all, where whole cells lie between two centres; and such as a broken network gives."""
    labels, scores, centers, _ = answer(3, 12, 16, (96, 128), 0.5)
    offsets = (smooth(3, 2, 12, 16, spread=1.0) * np.float32(spread)).astype(np.float32)
    expected = defined(labels, scores, centers, offsets, (1, 2, 3))
    found = group(labels, scores, centers, offsets, stride=STRIDE, countable=(1, 2, 3))
    np.testing.assert_array_equal(found.ids, expected.ids)
    assert found.rows == expected.rows


@pytest.mark.parametrize("size", [(720, 1280), (360, 480), (101, 1003)])
def test_compiled_objects_are_those_of_numpy(library: Library, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    """At the sizes of cameras, with objects that lie one before the other."""
    shape = (112, 150)
    scores, offsets = smooth(4, 4, *shape, spread=4.0), smooth(5, 2, *shape, spread=30.0)
    centers = np.clip(smooth(6, 1, *shape, spread=0.3), 0, 1)
    labels = np.asarray(cv2.resize(scores.argmax(0).astype(np.uint8), (size[1], size[0])), np.uint8)
    found = []
    for way in (library, None):
        monkeypatch.setattr(panoptic, "_compiled", way)
        found.append(group(labels, scores, centers, offsets, stride=STRIDE, countable=(2, 3)))
    assert len(found[0].rows) > 20
    assert found[0].rows == found[1].rows
    np.testing.assert_array_equal(found[0].ids, found[1].ids)


@pytest.mark.usefixtures("either_way")
def test_arrays_in_any_order_of_memory_are_taken() -> None:
    """A view of a batch, or of a turned array, is not a plain block of memory."""
    labels, scores, centers, offsets = answer(9, 10, 12, (40, 50), 0.0)
    expected = group(labels, scores, centers, offsets, stride=STRIDE, countable=(1, 2))
    labels, scores = np.asfortranarray(labels), np.asfortranarray(scores)
    centers, offsets = np.asfortranarray(centers), np.asfortranarray(offsets)
    found = group(labels, scores, centers, offsets, stride=STRIDE, countable=(1, 2))
    np.testing.assert_array_equal(found.ids, expected.ids)
    assert found.rows == expected.rows
