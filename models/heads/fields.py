"""Smooth random fields and blurs of volumes: what every step of the generation is made of."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Shape = tuple[int, int, int]


def normal(shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """White noise of mean 0 and deviation 1, float32; torch draws it, from a seed that the generator gives."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(int(rng.integers(2**62))))


def smooth(shape: Shape, cells: float, rng: np.random.Generator, *, channels: int = 1) -> Tensor:
    """A smooth random field: a coarse grid of white noise, interpolated.

    Takes:
        cells: voxels between two points of the grid
    Gives:
        channels x X x Y x Z float32, deviation near 1 at the grid's points
    """
    coarse = tuple(max(2, math.ceil(side / cells) + 1) for side in shape)
    noise = normal((1, channels, *coarse), rng)
    return F.interpolate(noise, size=shape, mode="trilinear", align_corners=True)[0]


def blur(volume: Tensor, sigmas: tuple[float, float, float]) -> Tensor:
    """Blur with a Gaussian, axis by axis; the border is repeated.

    Takes:
        volume: X x Y x Z float32
        sigmas: the standard deviation along each axis, in voxels; 0.15 and less leaves an axis as it is
    """
    for axis, sigma in enumerate(sigmas):
        if sigma <= 0.15:
            continue
        reach = max(1, math.ceil(2.5 * sigma))
        bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
        taps: list[float] = (bell / bell.sum()).tolist()
        side = volume.shape[axis]
        before, after = volume.narrow(axis, 0, 1), volume.narrow(axis, side - 1, 1)
        padded = torch.cat([before] * reach + [volume] + [after] * reach, axis)
        volume = torch.zeros_like(volume)
        for offset, tap in enumerate(taps):
            volume.add_(padded.narrow(axis, offset, side), alpha=tap)
    return volume


def density(mask: Tensor, sigma: float) -> Tensor:
    """The share of a mask around each voxel, computed at half the resolution.

    Takes:
        mask: X x Y x Z bool
        sigma: of the Gaussian that weighs, in voxels
    Gives:
        X x Y x Z float32, 0..1
    """
    half = F.avg_pool3d(mask.float()[None, None], 2, ceil_mode=True, count_include_pad=False)[0, 0]
    return F.interpolate(blur(half, (sigma / 2,) * 3)[None, None], size=mask.shape, mode="trilinear", align_corners=False)[0, 0]
