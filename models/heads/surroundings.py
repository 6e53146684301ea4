"""Everything outside the brain: scalp, face and neck of many kinds, and objects in the air.

The maps' own skulls are sixteen; a network that has seen these alone paints tissue into other faces. So the outside is cut into
random patches, and shapes that no map has are put around it. All of it is background.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.heads.fields import Shape, density, smooth
from models.heads.tissue import CLASSES, OUTSIDE

PATCHES = 12
"""Classes that are added for what is invented: each gets an intensity of its own."""


def surrounded(classes: Tensor, rng: np.random.Generator) -> Tensor:
    """Invent surroundings; the brain and its fluid stay as they are.

    Takes:
        classes: X x Y x Z uint8, 0..24
    Gives:
        X x Y x Z uint8, 0..24 + :data:`PATCHES`; whatever is 25 or more is background
    """
    shape: Shape = tuple(classes.shape)  # type: ignore[assignment]
    found = classes.clone()
    outside = classes >= OUTSIDE
    air = classes == 0
    if rng.random() < 0.6:
        # Soft tissue in patches, as muscle, fat and airways are; sometimes across the borders of the map's own classes.
        patches = _patches(shape, rng, first=CLASSES, count=int(rng.integers(2, 7)))
        where = outside & (smooth(shape, float(rng.uniform(12, 50)), rng)[0] > float(rng.uniform(-1.2, 0.6)))
        found[where] = patches[where]
    if rng.random() < 0.5:
        # A thicker head: another layer of scalp around the map's, of a thickness that varies.
        layer = density(~air, float(rng.uniform(3, 9))) + 0.12 * smooth(shape, 30, rng)[0]
        where = air & (layer > float(rng.uniform(0.12, 0.4)))
        found[where] = CLASSES + 6 + int(rng.integers(2))
        air = air & ~where
    if rng.random() < 0.5:
        # Neck, face, coil, cushion: blobs anywhere in the air, most of them below.
        height = torch.linspace(1.0, -1.0, shape[2]).view(1, 1, -1) * float(rng.uniform(-0.3, 1.2))
        field = smooth(shape, float(rng.uniform(20, 60)), rng)[0] + height
        where = air & (field > float(rng.uniform(0.6, 1.6)))
        found[where] = _patches(shape, rng, first=CLASSES + 8, count=4)[where]
    if rng.random() < 0.3:
        # A thinner head: the outermost scalp is gone.
        bare = outside & (density(air, float(rng.uniform(3, 7))) > float(rng.uniform(0.25, 0.5)))
        found[bare] = 0
    return found


def _patches(shape: Shape, rng: np.random.Generator, *, first: int, count: int) -> Tensor:
    """Space cut into patches of several sizes, numbered from ``first`` on."""
    levels = smooth(shape, float(rng.uniform(5, 28)), rng)[0]
    bounds = torch.linspace(-0.9, 0.9, count - 1) if count > 2 else torch.zeros(1)
    return (torch.bucketize(levels, bounds) + first).to(torch.uint8)
