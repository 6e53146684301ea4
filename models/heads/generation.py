"""One head, from a label map and a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.heads.conditions import ANY, Conditions
from models.heads.contrast import painted
from models.heads.scanner import scanned
from models.heads.shape import deformed
from models.heads.stripping import brain_mask, crop_around
from models.heads.surroundings import surrounded
from models.heads.tissue import CLASSES, tissue_labels


@dataclass(frozen=True)
class Head:
    """A generated scan."""

    image: NDArray[np.float32]
    """X x Y x Z, 0 or more, 1 mm, axes to the right, anterior and superior."""
    labels: NDArray[np.uint8]
    """X x Y x Z tissues, 255 where ignored: exact, whatever was done to the image."""
    stripped: bool
    """Whether the skull is gone; what lies outside the brain is then 0 exactly."""


def generate(classes: NDArray[np.uint8], seed: int, *, stripped: bool | None = None, conditions: Conditions = ANY) -> Head:
    """Generate a head; the same arguments give the same head.

    Takes:
        classes: X x Y x Z uint8, 0..24, as :func:`models.heads.tissue.read_map` gives
        seed: 0 or more
        stripped: without its skull or with it; drawn, one to one, where None
        conditions: how good the scan is
    """
    rng = np.random.default_rng(seed)
    bare = bool(rng.random() < 0.5)
    bare = bare if stripped is None else stripped
    found = deformed(torch.from_numpy(classes), rng)
    labels = torch.from_numpy(tissue_labels(np.minimum(found.numpy(), CLASSES - 1)))
    mask = None
    if bare:
        mask = brain_mask(labels, rng)
        view = crop_around(mask, rng)
        found, labels, mask = found[view], labels[view], mask[view]
    elif rng.random() < 0.8:
        found = surrounded(found, rng)
    image = scanned(painted(found, rng, conditions), rng, conditions)
    if mask is not None:
        image = torch.where(mask, image, 0.0)
        labels = torch.where(mask, labels, torch.tensor(0, dtype=torch.uint8))
    elif rng.random() < 0.4:
        # Many programs write 0 where they find air.
        image = torch.where((found == 0) & (image < 40), 0.0, image)
    return Head(image.numpy(), labels.numpy(), bare)
