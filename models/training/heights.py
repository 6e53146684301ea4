"""Heights of centres that mean the same whatever the run: the service takes every maximum of 0.1 and more for an object.

A heatmap that is trained by squares is as high as its centres are certain, and how high that is differs from run to run. So
after training its logits are stretched and shifted. The order of heights stays, and with it every peak.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.training.objects import Targets
from service.pipeline.tasks.panoptic import LEAST_PEAK, find_peaks

NEAR = 0.5
"""Height of the wanted Gaussian from which on a peak has found its object: within 1.2 deviations of the centre."""
TOP = 0.9
"""What :attr:`Heights.top` becomes."""


class Heights(NamedTuple):
    """Two heights of a heatmap as it was trained."""

    least: float
    """The threshold at which the F1 of peaks is best."""
    top: float
    """The upper decile of the right peaks beyond that threshold."""


def measure_heights(centers: Tensor, wanted: Targets) -> Heights:
    """Compare the peaks of heatmaps with the objects that are known.

    A peak is right if it is near a centre (:data:`NEAR`), and no higher peak found the same one.

    Takes:
        centers: N x 1 x h x w, 0..1
    Raises:
        ValueError: if too few peaks find an object
    """
    heights: list[float] = []
    right: list[bool] = []
    objects = 0
    for heatmap, truth, counted in zip(centers[:, 0].numpy(), wanted.centers.numpy(), wanted.counted.numpy(), strict=True):
        true = [cell for cell in find_peaks(truth).tolist() if counted[tuple(cell)]]
        objects += len(true)
        free = set(range(len(true)))
        for cell in find_peaks(heatmap).tolist():
            if not counted[tuple(cell)]:
                continue
            nearest = min(range(len(true)), key=lambda k: math.dist(true[k], cell), default=-1)
            heights.append(float(heatmap[tuple(cell)]))
            right.append(nearest in free and bool(truth[tuple(cell)] >= NEAR))
            free -= {nearest} if right[-1] else set()
    order = np.argsort(-np.asarray(heights), kind="stable")
    falling, hits = np.asarray(heights)[order], np.asarray(right, bool)[order]
    if hits.any():
        f1 = 2 * hits.cumsum() / (np.arange(1, len(hits) + 1) + objects)
        least = float(falling[int(f1.argmax())])
        top = float(np.quantile(falling[hits & (falling >= least)], 0.9))
        if least < top < 1:
            return Heights(least, top)
    raise ValueError("too few peaks of the centres find an object: train for more steps")


@torch.no_grad()
def rescale(layer: nn.Conv2d, heights: Heights) -> None:
    """Change a layer of logits so that the two heights become the service's least height and :data:`TOP`."""
    slope = (_logit(TOP) - _logit(LEAST_PEAK)) / (_logit(heights.top) - _logit(heights.least))
    layer.weight *= slope
    if layer.bias is not None:
        layer.bias.mul_(slope).add_(_logit(LEAST_PEAK) - slope * _logit(heights.least))


def _logit(share: float) -> float:
    return math.log(share / (1 - share))
