"""Regions of a class and the objects in them: no object ends in the middle of another one's region."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from service.pipeline.tasks import compiled, panoptic, regions
from service.pipeline.tasks.panoptic import Instances, group
from service.pipeline.tasks.regions import LEAST_CELLS, regions_of
from tests.test_panoptic import regions_defined

STRIDE = 4
CAR, BICYCLIST = 8, 10
GRID = (24, 40)
SIZE = (96, 160)


@pytest.fixture(params=["compiled", "numpy"], autouse=True)
def either_way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both ways of grouping."""
    library = compiled.loaded()
    if request.param == "compiled" and library is None:
        pytest.skip("objects.c is not compiled: python service/pipeline/tasks/compiled.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panoptic, "_compiled", library if request.param == "compiled" else None)
        yield


def grouped(labels: NDArray[np.uint8], peaks: dict[tuple[int, int], float], offsets: NDArray[np.float32]) -> Instances:
    """Group labels by peaks of the given heights; the scores are sure of each label."""
    centers = np.zeros((1, *GRID), np.float32)
    for cell, height in peaks.items():
        centers[0][cell] = height
    small = labels[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    scores = np.float32(20) * (np.arange(11)[:, None, None] == small).astype(np.float32)
    return group(labels, scores, centers, offsets, stride=STRIDE, countable=(CAR, BICYCLIST))


def nowhere() -> NDArray[np.float32]:
    """Offsets of zero: each cell points to itself."""
    return np.zeros((2, *GRID), np.float32)


def test_regions_are_what_a_flood_fills() -> None:
    """Of a random map: classes apart, corners touch, numbers from 1 without a gap."""
    labels = np.random.default_rng(0).choice([0, CAR, BICYCLIST], (30, 40), p=[0.5, 0.3, 0.2]).astype(np.uint8)
    numbered = regions_of(labels, (CAR, BICYCLIST), panoptic._compiled)
    found = numbered.at(np.arange(30), np.arange(40))
    expected = regions_defined(labels, (CAR, BICYCLIST))
    assert numbered.count == len(expected)
    assert not (found[labels == 0]).any()
    assert {tuple(np.unique(found[region])) for region in expected} == {(number,) for number in range(1, numbered.count + 1)}


def test_more_runs_than_a_first_try_holds_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkerboard: every row has twenty runs, and corners join them all."""
    labels = np.where(np.indices((30, 40)).sum(0) % 2, CAR, 0).astype(np.uint8)
    monkeypatch.setattr(regions, "FEW_RUNS", 7)
    found = regions_of(labels, (CAR,), panoptic._compiled)
    assert found.count == 1
    np.testing.assert_array_equal(found.at(np.arange(30), np.arange(40)) == 1, labels == CAR)


def test_a_region_that_holds_a_peak_is_not_shared_with_one_outside() -> None:
    """Half of a car points to another car's centre, and stays with its own."""
    labels = np.zeros(SIZE, np.uint8)
    labels[20:60, 10:60] = labels[20:60, 100:150] = CAR
    offsets = nowhere()
    offsets[1, :, 9:15] = 70
    found = grouped(labels, {(10, 8): 0.9, (10, 31): 0.8}, offsets)
    assert [row.area for row in found.rows] == [2000, 2000]
    assert len(np.unique(found.ids[20:60, 10:60])) == 1


def test_two_peaks_in_a_region_share_it_by_offsets() -> None:
    """Two cars side by side are one region, and each pixel goes to the nearer of the two."""
    labels = np.zeros(SIZE, np.uint8)
    labels[20:60, 20:100] = CAR
    found = grouped(labels, {(10, 9): 0.9, (10, 19): 0.8}, nowhere())  # in columns 37.5 and 77.5
    first, second = found.ids[30, 37], found.ids[30, 77]
    assert np.array_equal(found.ids[30, 20:100], np.repeat([first, second], [38, 42]))
    assert sorted(row.area for row in found.rows) == [40 * 38, 40 * 42]


def test_a_region_without_a_peak_goes_to_the_peak_that_it_points_to() -> None:
    """The part of a car behind a pole belongs to it."""
    labels = np.zeros(SIZE, np.uint8)
    labels[20:60, 20:60] = labels[20:60, 64:90] = CAR
    offsets = nowhere()
    offsets[1, :, 16:] = -40
    found = grouped(labels, {(10, 9): 0.9}, offsets)
    assert [row.area for row in found.rows] == [40 * 66]


@pytest.mark.parametrize("peaks", [{}, {(10, 8): 0.9}])
def test_a_region_that_points_to_no_peak_is_an_object_of_its_own(peaks: dict[tuple[int, int], float]) -> None:
    """Whether there is a peak elsewhere or not; with the least score."""
    labels = np.zeros(SIZE, np.uint8)
    labels[40:80, 100:150] = BICYCLIST
    if peaks:
        labels[20:60, 10:60] = CAR
    found = grouped(labels, peaks, nowhere())
    assert [(row.class_id, row.area) for row in found.rows] == [(CAR, 2000)] * len(peaks) + [(BICYCLIST, 2000)]
    assert found.rows[-1].score == pytest.approx(0.1, abs=1e-3)
    assert (found.ids[40:80, 100:150] == len(found.rows)).all()


def test_a_speck_gets_no_object() -> None:
    """Below ten cells; without a peak it has none."""
    labels = np.zeros(SIZE, np.uint8)
    side = STRIDE * (LEAST_CELLS - 1)
    labels[40:44, 40 : 40 + side] = CAR
    assert grouped(labels, {}, nowhere()).rows == ()
    labels[40:44, 40 : 40 + side + STRIDE] = CAR
    assert [row.area for row in grouped(labels, {}, nowhere()).rows] == [4 * (side + STRIDE)]


def test_both_ways_give_the_same_objects() -> None:
    """Of random regions, offsets and peaks: areas by class are those of the map."""
    rng = np.random.default_rng(3)
    labels = np.kron(rng.choice([0, CAR, BICYCLIST], (12, 20), p=[0.5, 0.3, 0.2]), np.ones((8, 8))).astype(np.uint8)
    peaks = {
        (int(r), int(c)): float(h)
        for r, c, h in zip(rng.integers(0, 24, 9), rng.integers(0, 40, 9), rng.random(9), strict=True)
    }
    offsets = rng.normal(0, 12, (2, *GRID)).astype(np.float32)
    found = grouped(labels, peaks, offsets)
    with pytest.MonkeyPatch.context() as other:
        other.setattr(panoptic, "_compiled", None)
        again = grouped(labels, peaks, offsets)
    assert np.array_equal(found.ids, again.ids)
    assert found.rows == again.rows
    for row in found.rows:
        assert row.area == (found.ids == row.id).sum()
        inside = labels[found.ids == row.id]
        assert row.class_id == np.bincount(inside).argmax()


def test_work_in_bands_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many rows are worked on at a time changes nothing."""
    labels = np.zeros(SIZE, np.uint8)
    labels[20:60, 10:60] = labels[20:60, 100:150] = CAR
    labels[70:90, 60:120] = BICYCLIST
    offsets = nowhere()
    offsets[1, :, 9:15] = 70
    whole = grouped(labels, {(10, 8): 0.9, (10, 31): 0.8}, offsets)
    assert [row.area for row in whole.rows] == [2000, 2000, 1200]
    monkeypatch.setattr(regions, "BLOCK", 300)
    again = grouped(labels, {(10, 8): 0.9, (10, 31): 0.8}, offsets)
    assert np.array_equal(again.ids, whole.ids)
    assert again.rows == whole.rows
