"""Slices of generated heads as training sees them: a pool of volumes, renewed as it goes, and slices of all three planes.

A volume costs a second or two, a slice of it next to nothing; so a pool of volumes is kept, one of them is replaced from time
to time, and a batch takes slices of many.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.heads import ANY, USUAL, Conditions, generate
from models.training.losses import IGNORED
from service.pipeline.intensity import normalised, window
from service.pipeline.manifest import Percentiles

USUAL_SHARE = 0.5
"""Share of the volumes that are usual scans; the others are good and bad ones."""

FIRST = 8
"""Volumes that the first batch waits for; the pool grows to its size during the first batches."""


@dataclass(frozen=True)
class Normalised:
    """A head as the network sees it."""

    image: NDArray[np.float16]
    """X x Y x Z, 0..ceiling: normalised by the percentiles of the whole."""
    labels: NDArray[np.uint8]
    """X x Y x Z, 255 where ignored."""


def head(
    classes: NDArray[np.uint8],
    seed: int,
    percentiles: Percentiles,
    *,
    stripped: bool | None = None,
    conditions: Conditions = ANY,
) -> Normalised:
    """Generate a head and normalise it as the service does."""
    made = generate(classes, seed, stripped=stripped, conditions=conditions)
    scaled = normalised(made.image, window(made.image, percentiles), percentiles)
    return Normalised(scaled.astype(np.float16), made.labels)


class SlicePool:
    """Batches of slices from a pool of generated heads.

    Takes:
        maps: label maps, X x Y x Z uint8 intensity classes
        side: of the square crops, in voxels
        volumes: how many are kept
        each: batches between two new volumes
        neighbours: slices on either side that come as further channels
    """

    def __init__(
        self,
        maps: list[NDArray[np.uint8]],
        percentiles: Percentiles,
        *,
        seed: int,
        side: int = 192,
        volumes: int = 32,
        each: int = 24,
        neighbours: int = 1,
    ) -> None:
        self.maps, self.percentiles = maps, percentiles
        self.side, self.volumes, self.each, self.neighbours = side, volumes, each, neighbours
        self.rng = np.random.default_rng(seed)
        self.pool: list[Normalised] = []
        self.batches = 0

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Draw a batch.

        Gives:
            count x (2 neighbours + 1) x side x side float32
            count x side x side int64, 255 where ignored
        """
        wanted = FIRST if not self.pool else 1 if self.batches % (self.each if self.batches > 400 else 8) == 0 else 0
        for _ in range(wanted):
            self._renew()
        self.batches += 1
        images, labels = zip(*(self._slice() for _ in range(count)), strict=True)
        return torch.stack(images), torch.stack(labels)

    def _renew(self) -> None:
        chosen = self.maps[self.rng.integers(len(self.maps))]
        conditions = USUAL if self.rng.random() < USUAL_SHARE else ANY
        self.pool.append(head(chosen, int(self.rng.integers(2**62)), self.percentiles, conditions=conditions))
        if len(self.pool) > self.volumes:
            del self.pool[0]

    def _slice(self) -> tuple[Tensor, Tensor]:
        rng, source = self.rng, self.pool[self.rng.integers(len(self.pool))]
        axis = int(rng.integers(3))
        slices = source.image.shape[axis]
        middle = int(rng.integers(slices)) if rng.random() < 0.3 else int(np.clip(rng.normal(0.5, 0.22), 0, 0.999) * slices)
        reach = range(middle - self.neighbours, middle + self.neighbours + 1)
        image = np.stack([source.image.take(min(max(k, 0), slices - 1), axis) for k in reach])
        labels = source.labels.take(middle, axis)
        x = torch.from_numpy(image.astype(np.float32))
        y = torch.from_numpy(labels.astype(np.float32))[None]
        x, y = self._moved(x, y) if rng.random() < 0.5 else self._cropped(x, y)
        if rng.random() < 0.3:
            x = x.flip(0)  # from the other side: the order of the neighbours
        x = x * float(rng.uniform(0.86, 1.16)) + float(rng.normal(0, 0.01))
        return x.clamp(0, self.percentiles.ceiling), y[0].long()

    def _cropped(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """A square of the plane, with nothing where it reaches beyond."""
        for axis in (1, 2):
            spare = x.shape[axis] - self.side
            before = int(self.rng.integers(min(spare, 0), max(spare, 0) + 1))
            if spare < 0:
                pad = [-before, before - spare]
                around = [*pad, 0, 0] if axis == 2 else [0, 0, *pad]
                x, y = F.pad(x, around), F.pad(y, around)
            else:
                x, y = x.narrow(axis, before, self.side), y.narrow(axis, before, self.side)
        return x, y

    def _moved(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """A square of the plane, turned and scaled: what the volumes do not vary often enough."""
        rng, (height, width) = self.rng, x.shape[1:]
        angle, scale = np.radians(rng.uniform(-20, 20)), rng.uniform(0.8, 1.22)
        mirror = rng.choice([-1.0, 1.0])
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
        spare = np.maximum(np.array([height, width]) - self.side, 0) / 2 + 12
        centre = rng.uniform(-spare, spare)
        line = (np.arange(self.side) - (self.side - 1) / 2).astype(np.float32)
        rows, columns = np.meshgrid(line, line * np.float32(mirror), indexing="ij")
        at_row = (turn[0, 0] * rows + turn[0, 1] * columns + centre[0]) * (2 / height)
        at_column = (turn[1, 0] * rows + turn[1, 1] * columns + centre[1]) * (2 / width)
        grid = torch.from_numpy(np.stack([at_column, at_row], -1)).float()[None]
        x = F.grid_sample(x[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
        y = F.grid_sample(y[None], grid, mode="nearest", padding_mode="zeros", align_corners=False)[0]
        return x, y


__all__ = ["IGNORED", "Normalised", "SlicePool", "head"]
