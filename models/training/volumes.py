"""Volumes and their labels: how they are read, and how training varies them.

A data set is a folder with ``images/`` and ``labels/``: NIfTI files of one name. Intensities are normalised by the service's
own code, from the whole volume.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.training.data import DataError
from models.training.losses import IGNORED
from service.pipeline.intensity import normalised, window
from service.pipeline.manifest import Percentiles

SUFFIXES = (".nii", ".nii.gz")


@dataclass(frozen=True)
class Volume:
    """A scan in memory as the network sees it."""

    image: NDArray[np.float32]
    """X x Y x Z, 0..ceiling, normalised."""
    labels: NDArray[np.uint8]
    """X x Y x Z class ids, 255 where ignored."""
    name: str


def volume_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """The (image, label) files of a data set, sorted by name.

    Raises:
        DataError: if the folder has no such pairs, or an image lacks its label
    """
    images = sorted(path for path in (folder / "images").glob("*") if path.name.endswith(SUFFIXES))
    if not images:
        raise DataError(f"{folder}: no scans in images/; expected images/*.nii.gz and labels/*.nii.gz of the same names")
    pairs = [(image, folder / "labels" / image.name) for image in images]
    missing = [label for _, label in pairs if not label.is_file()]
    if missing:
        raise DataError(f"{folder}: {len(missing)} scans have no label, first {missing[0]}")
    return pairs


def load_volume(image: Path, labels: Path, percentiles: Percentiles) -> Volume:
    """Read a scan and its labels, axes to the right, anterior and superior.

    Raises:
        DataError: if the two have not one shape
    """
    scan, truth = (nibabel.as_closest_canonical(nibabel.load(path)) for path in (image, labels))
    values = np.asarray(scan.dataobj, np.float32)
    ids = np.asarray(np.asarray(truth.dataobj).round(), np.uint8)
    if values.shape != ids.shape:
        raise DataError(f"{labels}: {ids.shape} labels for a scan of {values.shape}")
    return Volume(normalised(values, window(values, percentiles), percentiles), ids, image.name)


@dataclass(frozen=True)
class VolumeAugmentation:
    """Random variations of volumes: turned, scaled, displaced, mirrored, and of other intensities."""

    sides: tuple[int, int, int]
    """Of what training sees."""
    rotation_degrees: float = 18.0
    scale: tuple[float, float] = (0.82, 1.2)
    displacement: float = 2.5
    """Largest deviation of the smooth displacement, in voxels."""

    def __call__(self, volumes: list[Volume], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Vary a batch.

        Gives:
            N x 1 x sides float32
            N x sides int64, 255 where ignored; what lies outside a volume is 0 in both
        """
        images, labels = zip(*(self._varied(volume, rng) for volume in volumes), strict=True)
        return torch.stack(images), torch.stack(labels)

    def _varied(self, volume: Volume, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        grid = self._grid(volume.image.shape, rng)
        x = F.grid_sample(torch.from_numpy(volume.image)[None, None], grid, padding_mode="zeros", align_corners=False)[0]
        y = F.grid_sample(
            torch.from_numpy(volume.labels).float()[None, None], grid, mode="nearest", padding_mode="zeros", align_corners=False
        )[0, 0].long()
        if rng.random() < 0.25:
            x = F.avg_pool3d(x, 3, 1, 1, count_include_pad=False) * (share := float(rng.uniform(0, 1))) + x * (1 - share)
        x = x.clamp(min=0) ** float(rng.uniform(0.75, 1.35)) * float(rng.uniform(0.85, 1.15)) + float(rng.normal(0, 0.03))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        return x + torch.randn(x.shape, generator=generator) * float(rng.uniform(0, 0.08)), y

    def _grid(self, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
        """Where each voxel is sampled, 1 x sides x 3 in grid_sample's -1..1."""
        angles = np.radians(rng.uniform(-self.rotation_degrees, self.rotation_degrees, 3))
        turn = np.eye(3)
        for (first, second), angle in zip(((0, 1), (0, 2), (1, 2)), angles, strict=True):
            plane = np.eye(3)
            plane[[first, second], [first, second]] = np.cos(angle)
            plane[first, second], plane[second, first] = -np.sin(angle), np.sin(angle)
            turn = turn @ plane
        mirror = rng.choice([-1.0, 1.0])
        matrix = turn / rng.uniform(*self.scale) @ np.diag(rng.uniform(0.93, 1.07, 3)) @ np.diag([mirror, 1.0, 1.0])
        shift = rng.uniform(-0.08, 0.08, 3) * np.array(shape)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        coarse = torch.randn((1, 3, 5, 5, 5), generator=generator) * float(rng.uniform(0, self.displacement))
        moved = F.interpolate(coarse, size=self.sides, mode="trilinear", align_corners=True)[0]
        axes = [torch.arange(side, dtype=torch.float32) - (side - 1) / 2 for side in self.sides]
        points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        moved = moved + torch.einsum("ij,jxyz->ixyz", torch.from_numpy(matrix).float(), points)
        moved = (moved + torch.from_numpy(shift).float().view(3, 1, 1, 1)) * (2 / torch.tensor(shape)).view(3, 1, 1, 1)
        return moved.flip(0).permute(1, 2, 3, 0)[None]


__all__ = ["IGNORED", "Volume", "VolumeAugmentation", "load_volume", "volume_pairs"]
