"""The effects of a scanner on a head: partial volume, thick slices, an uneven field, noise, and how it writes numbers."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.heads.conditions import Conditions
from models.heads.fields import Shape, blur, normal, smooth


def scanned(image: Tensor, rng: np.random.Generator, conditions: Conditions) -> Tensor:
    """Blur, resample, shade and add noise.

    Takes:
        image: X x Y x Z float32, 0 or more
    Gives:
        the same shape, 0 or more
    """
    shape: Shape = tuple(image.shape)  # type: ignore[assignment]
    sharp = float(rng.uniform(0.3, 0.85))
    image = blur(image, (sharp,) * 3)
    noise = float(rng.uniform(0.0, conditions.noise)) * 160
    image = _thick(image, noise, rng) if rng.random() < conditions.thick else _noisy(image, noise, rng)
    image = image * torch.exp(smooth(shape, float(rng.uniform(45, 110)), rng)[0] * float(rng.uniform(0, 0.2)))
    top = float(image.max()) + 1e-3
    image = top * (image / top) ** float(rng.uniform(0.8, 1.25))
    if rng.random() < 0.3:
        image = torch.round(image * (255 / top))
    return image


def _noisy(image: Tensor, deviation: float, rng: np.random.Generator) -> Tensor:
    """The magnitude of a complex signal with Gaussian noise in both parts (Rician)."""
    shape = tuple(image.shape)
    if rng.random() < 0.5:
        return (image + normal(shape, rng) * deviation).abs_()
    return torch.hypot(image + normal(shape, rng) * deviation, normal(shape, rng) * deviation)


def _thick(image: Tensor, noise: float, rng: np.random.Generator) -> Tensor:
    """Scan at another spacing, mostly thicker along one axis, and bring it back to 1 mm linearly, as the service does."""
    spacing = rng.uniform(0.9, 1.2, 3) if rng.random() < 0.5 else np.ones(3)
    spacing[rng.integers(3)] = rng.uniform(1.2, 2.2) if rng.random() < 0.75 else rng.uniform(2.2, 3.5)
    image = blur(image, tuple(0.42 * float(step) if step > 1.15 else 0.0 for step in spacing))  # type: ignore[arg-type]
    coarse = tuple(max(2, round(side / float(step))) for side, step in zip(image.shape, spacing, strict=True))
    small = F.interpolate(image[None, None], size=coarse, mode="trilinear", align_corners=False)[0, 0]
    small = _noisy(small, noise, rng)
    return F.interpolate(small[None, None], size=tuple(image.shape), mode="trilinear", align_corners=False)[0, 0]
