"""A head without its skull, as programs for skull stripping leave it: closer or looser, seldom exact."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.heads.fields import Shape, density, smooth


def brain_mask(labels: Tensor, rng: np.random.Generator) -> Tensor:
    """Draw what a skull stripping keeps.

    Takes:
        labels: X x Y x Z uint8 tissues, 255 where ignored
    Gives:
        X x Y x Z bool: the brain with more or less of the fluid around it; in one of four with shreds of what lies outside, in
        one of eight with a little of the cortex gone
    """
    shape: Shape = tuple(labels.shape)  # type: ignore[assignment]
    matter = (labels == 2) | (labels == 3)
    inside = labels > 0
    ragged = smooth(shape, float(rng.uniform(6, 20)), rng)[0] * float(rng.uniform(0.0, 0.12))
    if rng.random() < 0.25:
        return density(inside, float(rng.uniform(1.5, 4))) + ragged > float(rng.uniform(0.2, 0.6))
    kept = density(matter, float(rng.uniform(1.5, 4))) + ragged > float(rng.uniform(0.15, 0.5))
    ventricles = (labels == 1) & (density(matter, 6.0) > 0.55)
    if rng.random() < 0.5:
        return kept | ventricles | matter
    return (kept | ventricles) & (density(inside, 2.0) > 0.4) if rng.random() < 0.25 else (kept & inside) | ventricles | matter


def crop_around(mask: Tensor, rng: np.random.Generator) -> tuple[slice, slice, slice]:
    """The field of view of a stripped scan: the brain with 2 to 40 voxels of nothing on each side, as far as there are."""
    found = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        hit = torch.nonzero(mask.any(others[1]).any(others[0])).flatten()
        first, last = (int(hit[0]), int(hit[-1])) if len(hit) else (0, mask.shape[axis] - 1)
        before, after = (int(margin) for margin in rng.integers(2, 41, 2))
        found.append(slice(max(0, first - before), min(mask.shape[axis], last + 1 + after)))
    return found[0], found[1], found[2]
