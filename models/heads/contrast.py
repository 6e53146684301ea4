"""Intensities of a T1-weighted scan: dark fluid, grey cortex, bright white matter, and anything outside the brain."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.heads.conditions import Conditions
from models.heads.fields import Shape, blur, normal, smooth
from models.heads.surroundings import PATCHES
from models.heads.tissue import CLASSES, OUTSIDE


def draw_means(rng: np.random.Generator, conditions: Conditions) -> np.ndarray:
    """Draw a mean intensity for each class, on a scale of 0 to about 255.

    The order of T1 holds in the brain: fluid below grey matter below white matter, the nuclei between the last two. The classes
    outside are drawn freely.
    """
    mean = rng.uniform(0, 255, CLASSES + PATCHES)
    white = rng.uniform(110, 220)
    fluid = white * rng.uniform(*conditions.fluid)
    grey = fluid + (white - fluid) * rng.uniform(*conditions.grey)

    def between(low: float, high: float) -> float:
        return float(grey + (white - grey) * rng.uniform(low, high))

    mean[0] = abs(rng.normal(0, 6)) if rng.random() < 0.7 else 0.0
    mean[1], mean[2], mean[3] = fluid, white, grey
    mean[4], mean[5] = between(0.7, 1.15), grey * rng.normal(1, 0.05)
    mean[6], mean[7], mean[8], mean[9] = between(0.1, 0.8), between(-0.1, 0.5), between(0.2, 1.0), between(0.4, 1.05)
    mean[10] = rng.uniform(fluid, white)
    mean[13] = between(0.4, 1.05)
    if rng.random() < 0.5:
        # Bone is dark in most scans, fat is the brightest.
        mean[19 if rng.random() < 0.5 else 18] *= 0.2
    return np.clip(mean, 0, 300)


def painted(classes: Tensor, rng: np.random.Generator, conditions: Conditions) -> Tensor:
    """Give each voxel an intensity.

    Takes:
        classes: X x Y x Z uint8, 0..24 + :data:`PATCHES`
    Gives:
        X x Y x Z float32, 0..about 350: a Gaussian about the class's mean, its grain finer or coarser, and slow changes within
        a tissue
    """
    shape: Shape = tuple(classes.shape)  # type: ignore[assignment]
    mean = draw_means(rng, conditions)
    spread = rng.uniform(1, conditions.spread, mean.shape) * rng.uniform(0.4, 1.2)
    spread[OUTSIDE:] *= rng.uniform(0.5, 3.5)
    spread[0] = 0
    index = classes.long()
    grain = normal(shape, rng)
    coarse = float(rng.uniform(0, 0.9))
    if coarse > 0.3:
        grain = blur(grain, (coarse,) * 3) * (1 + 3.2 * coarse**2)
    image = torch.from_numpy(mean).float()[index]
    image *= 1 + float(rng.uniform(0, 0.06)) * smooth(shape, float(rng.uniform(10, 30)), rng)[0]
    image += torch.from_numpy(spread).float()[index] * grain
    return image.clamp_(min=0)
