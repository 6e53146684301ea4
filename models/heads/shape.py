"""A head of another shape: a random affine map and a random smooth displacement of a label map."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.heads.fields import Shape, smooth


def deformed(classes: Tensor, rng: np.random.Generator) -> Tensor:
    """Sample a label map through a random map of space; no class is ever mixed with another.

    Takes:
        classes: X x Y x Z uint8
    Gives:
        X' x Y' x Z' uint8: mirrored or not, turned by up to 12 degrees about each axis, larger or smaller by up to 18 %,
        sheared, displaced by a few voxels, and shown in a field of view that cuts a little off or leaves air around
    """
    sides = torch.tensor(classes.shape, dtype=torch.float32)
    view = sides * torch.from_numpy(rng.uniform(0.88, 1.1, 3)).float()
    shape: Shape = tuple(int(side) for side in view.round())  # type: ignore[assignment]
    matrix = torch.from_numpy(_matrix(rng)).float()
    shift = torch.from_numpy(rng.uniform(-0.05, 0.05, 3)).float() * sides
    axes = [torch.arange(side, dtype=torch.float32) - (side - 1) / 2 for side in shape]
    moved = smooth(shape, 32, rng, channels=3) * float(rng.uniform(0, 3.5))
    if rng.random() < 0.5:
        moved += smooth(shape, 12, rng, channels=3) * float(rng.uniform(0, 0.9))
    for row in range(3):
        for column in range(3):
            along = [1, 1, 1]
            along[column] = -1
            moved[row] += matrix[row, column] * axes[column].view(along)
        # grid_sample counts from -1 at the first voxel's outer face to 1 at the last one's.
        moved[row] = (moved[row] + shift[row]) * (2 / sides[row])
    grid = torch.stack([moved[2], moved[1], moved[0]], -1)[None]
    source = classes[None, None].float()
    return F.grid_sample(source, grid, mode="nearest", padding_mode="zeros", align_corners=False)[0, 0].to(torch.uint8)


def _matrix(rng: np.random.Generator) -> np.ndarray:
    """Rotation, scale, shear and a mirror in one 3 x 3 matrix, from the generated head to the map."""
    turn = np.eye(3)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        angle = np.radians(rng.uniform(-12, 12))
        plane = np.eye(3)
        plane[[first, second], [first, second]] = np.cos(angle)
        plane[first, second], plane[second, first] = -np.sin(angle), np.sin(angle)
        turn = turn @ plane
    scale = np.diag(rng.uniform(0.92, 1.08, 3) / rng.uniform(0.86, 1.14))
    shear = np.eye(3) + rng.uniform(-0.06, 0.06, (3, 3)) * (1 - np.eye(3))
    mirror = np.diag([rng.choice([-1.0, 1.0]), 1.0, 1.0])
    return turn @ shear @ scale @ mirror
