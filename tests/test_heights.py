"""Heights of centres: what is measured on heatmaps, and what becomes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from models.training.heights import TOP, Heights, measure_heights, rescale
from models.training.objects import Targets
from service.pipeline.tasks.panoptic import LEAST_PEAK, find_peaks

SIDE = 48


def wanted(*centres: tuple[int, int]) -> Targets:
    """One frame of Gaussians two cells wide around these cells; its lowest eight rows are unknown."""
    y, x = np.mgrid[:SIDE, :SIDE]
    heatmap = np.max([np.exp(-((y - row) ** 2 + (x - column) ** 2) / 8) for row, column in centres], 0).astype(np.float32)
    counted = torch.ones(1, SIDE, SIDE, dtype=torch.bool)
    counted[:, -8:] = False
    empty = torch.zeros(1, 2, SIDE, SIDE)
    return Targets(torch.from_numpy(heatmap)[None], counted, empty, empty[:, 0])


def found(*peaks: tuple[int, int, float]) -> torch.Tensor:
    """A heatmap of single cells."""
    heatmap = torch.zeros(1, 1, SIDE, SIDE)
    for row, column, height in peaks:
        heatmap[0, 0, row, column] = height
    return heatmap


def test_the_best_threshold_and_the_upper_decile_of_the_right_peaks() -> None:
    """Four of four objects are found at 0.3 with one wrong peak at 0.35; those at 0.2 are wrong: F1 is best at 0.3."""
    truth = wanted((6, 6), (6, 30), (24, 6), (24, 30))
    heatmap = found(
        (6, 6, 0.7), (7, 30, 0.6), (24, 7, 0.5), (24, 30, 0.3), (15, 18, 0.35), (36, 36, 0.2), (36, 6, 0.2), (6, 18, 0.2)
    )
    heights = measure_heights(heatmap, truth)
    assert heights.least == pytest.approx(0.3)
    assert heights.top == pytest.approx(np.quantile([0.7, 0.6, 0.5, 0.3], 0.9))


def test_an_object_is_found_once_and_unknown_places_count_for_nothing() -> None:
    """A second peak at the same centre is wrong, so the threshold lies above it; peaks in the unknown rows are not seen."""
    truth = wanted((6, 6), (24, 24), (44, 24))
    heatmap = found((6, 5, 0.8), (24, 24, 0.6), (6, 8, 0.5), (44, 24, 0.95), (44, 6, 0.9))
    heights = measure_heights(heatmap, truth)
    assert heights.least == pytest.approx(0.6)
    assert heights.top == pytest.approx(np.quantile([0.8, 0.6], 0.9))


@pytest.mark.parametrize("peaks", [(), ((40, 4, 0.9),), ((6, 6, 0.5),)], ids=["none", "all wrong", "one"])
def test_too_few_right_peaks_are_refused(peaks: tuple[tuple[int, int, float], ...]) -> None:
    """There is no range to stretch."""
    with pytest.raises(ValueError, match="too few peaks"):
        measure_heights(found(*peaks), wanted((6, 6)))


def test_the_two_heights_land_where_they_should_and_the_order_stays() -> None:
    """The layer gives the service's least height and TOP for them; every peak stays where it was."""
    torch.manual_seed(0)
    layer, x = nn.Conv2d(3, 1, 1), torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        before = torch.sigmoid(layer(x))
        low, high = float(before.quantile(0.6)), float(before.quantile(0.99))
        rescale(layer, Heights(low, high))
        after = torch.sigmoid(layer(x))
    assert float(after.quantile(0.6)) == pytest.approx(LEAST_PEAK, abs=2e-3)
    assert float(after.quantile(0.99)) == pytest.approx(TOP, abs=2e-3)
    kept = {tuple(cell) for cell in find_peaks(after[0, 0].numpy()).tolist()}
    assert kept == {tuple(cell) for cell in find_peaks(before[0, 0].numpy()).tolist() if before[0, 0][tuple(cell)] >= low}
