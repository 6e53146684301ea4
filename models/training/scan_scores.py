"""Scores of label volumes: Dice, IoU, the distance of their surfaces, the error of their size; and a picture of slices.

- Dice coefficient, 2 |A and B| / (|A| + |B|): the mean of the scans
- IoU: of all voxels together, as of pictures
- HD95, in mm: the 95th percentile of the distances from one surface to the other, the larger one of both directions
  (Huttenlocher et al. 1993; Maier-Hein et al., "Metrics reloaded", 2024). At most :data:`POINTS` voxels of a surface count,
  evenly drawn, each against all of the other
- volume error: (predicted - true) / true, its mean over the scans with its sign
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track

from models.training.classes import ClassTable
from models.training.data import DataError, evenly_spread
from models.training.losses import IGNORED
from models.training.metrics import confusion_matrix, scores
from models.training.scan_trainer import mean_dice
from models.training.volumes import volume_pairs
from service.encodings import color
from service.pipeline.manifest import SplitScores

POINTS = 4000
"""Voxels of a surface from which distances are measured."""
_AT_ONCE = 2**24
"""Distances that are held in memory together."""
SHOWN = 4
"""Slices of a picture."""

Labels = NDArray[np.uint8]
PredictScan = Callable[[Path], Labels]
"""A scan's file to its label volume, in the order of the file."""


@dataclass(frozen=True)
class ScanScores:
    """The scores of a model on a folder of scans."""

    scores: SplitScores
    hd95_mm: dict[str, float | None]
    """Mean over the scans by class; None where no scan has the class in both volumes."""
    volume_error: dict[str, float | None]
    """Mean over the scans by class, as a share of the true volume."""


def is_of_scans(folder: Path) -> bool:
    """Whether a data set holds scans."""
    return any(path.name.endswith((".nii", ".nii.gz")) for path in (folder / "images").glob("*"))


def hd95(found: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: Sequence[float]) -> float | None:
    """The 95th percentile of the distances between two surfaces, in mm.

    Takes:
        found, truth: X x Y x Z, where a class is
        spacing_mm: of the voxels along each axis
    Gives:
        None where one of them is empty
    """
    if not found.any() or not truth.any():
        return None
    one, other = (surface(mask) * np.asarray(spacing_mm, np.float32) for mask in (found, truth))
    return max(_to_nearest(one, other), _to_nearest(other, one))


def surface(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Indices of the voxels with a face to the outside, P x 3; beyond the volume is outside."""
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis in range(3):
        for shift in (0, 2):
            part = [slice(1, -1)] * 3
            part[axis] = slice(shift, shift + mask.shape[axis])
            inside &= padded[tuple(part)]
    return np.argwhere(mask & ~inside).astype(np.float32)


def _to_nearest(points: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    chosen = torch.from_numpy(points[evenly_spread(len(points), POINTS)])
    targets = torch.from_numpy(others)
    step = max(1, _AT_ONCE // len(targets))
    nearest = [torch.cdist(part, targets).amin(1) for part in torch.split(chosen, step)]
    return float(torch.quantile(torch.cat(nearest), 0.95))


def evaluate_scans(
    predict: PredictScan, folder: Path, table: ClassTable, *, last: int = 0, picture: Path | None = None
) -> ScanScores:
    """Score every scan of a folder in its own grid; voxels without a label do not count.

    Takes:
        last: the last so many scans by name alone, as ``models.train --hold-out`` keeps them; 0 is all
        picture: where to draw slices of the first scan, each beside its truth and its prediction
    Raises:
        DataError: if the folder can't be used
    """
    pairs = volume_pairs(folder)[-last:]
    confusions: list[NDArray[np.int64]] = []
    distances: dict[int, list[float]] = {}
    for image, label in track(pairs, description=folder.name, console=Console(stderr=True)):
        stored = nibabel.load(label)
        truth = np.asarray(np.asarray(stored.dataobj).round(), np.uint8)
        found = predict(image)
        if found.shape != truth.shape:
            raise DataError(f"{label}: {truth.shape} labels for a prediction of {found.shape}")
        known = truth != IGNORED
        confusions.append(confusion_matrix(truth[known], found[known], len(table.entries)))
        for k in range(1, len(table.entries)):
            apart = hd95((found == k) & known, truth == k, stored.header.get_zooms()[:3])
            if apart is not None:
                distances.setdefault(k, []).append(apart)
        if picture is not None and len(confusions) == 1:
            draw(image, truth, found, table, picture)
    total = scores(np.sum(confusions, 0), table.names, frames=len(pairs))
    by_class = list(enumerate(table.names))
    return ScanScores(
        total.model_copy(update={"dice": mean_dice(confusions, table.names)}),
        {name: round(float(np.mean(distances[k])), 3) if k in distances else None for k, name in by_class if k},
        {name: _volume_error(confusions, k) for k, name in by_class if k},
    )


def _volume_error(confusions: Sequence[NDArray[np.int64]], k: int) -> float | None:
    errors = [(int(one[:, k].sum()) - int(one[k].sum())) / int(one[k].sum()) for one in confusions if one[k].sum()]
    return round(float(np.mean(errors)), 4) if errors else None


def draw(image: Path, truth: Labels, found: Labels, table: ClassTable, picture: Path) -> None:
    """Draw evenly spread slices across the third axis: scan, truth and prediction side by side."""
    values = np.asarray(nibabel.load(image).dataobj, np.float32).reshape(truth.shape)
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(table.entries)] = [entry.color for entry in table.entries]
    grey = (np.clip(values / max(float(np.percentile(values, 99.5)), 1e-6), 0, 1) * 255).astype(np.uint8)
    rows = []
    for k in np.linspace(0, truth.shape[2] - 1, SHOWN + 2).round().astype(int)[1:-1]:
        planes = [np.repeat(np.rot90(grey[:, :, k])[..., None], 3, 2)]
        planes += [color.colorize(np.ascontiguousarray(np.rot90(volume[:, :, k])), palette) for volume in (truth, found)]
        rows.append(np.hstack(planes))
    Image.fromarray(np.vstack(rows)).save(picture)
