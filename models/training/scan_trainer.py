"""A training run on scans: slices of generated heads for a network of slices, volumes with labels for one of volumes.

The same run as on pictures (``models.training.trainer``): optimiser, averaged weights, checkpoints. The loss is cross-entropy
weighted by class, and the Dice loss. The last scans by name are held out; of generated heads the last label maps, so subjects.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.heads import TISSUES, read_map
from models.nets.architectures import architecture
from models.nets.network import Network
from models.training.classes import ClassTable
from models.training.classes import table as class_table
from models.training.config import TrainingConfig
from models.training.data import DataError
from models.training.losses import IGNORED, dice_loss
from models.training.metrics import confusion_matrix, scores
from models.training.slices import SlicePool, head
from models.training.trainer import Run
from models.training.volumes import Volume, VolumeAugmentation, load_volume, volume_pairs
from service.pipeline.manifest import InputPolicy, SplitScores
from service.pipeline.tasks.volume import slices

EVERY = 8
"""Of the slices of a held-out head, so many are passed over between two that are scored."""


class Batches(Protocol):
    """Draws what a step sees."""

    rng: np.random.Generator

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Inputs N x channels x sides float32, and labels N x sides int64."""


class VolumeBatches:
    """Varied volumes, drawn with replacement.

    Takes:
        sides: of what training sees, in voxels
    """

    def __init__(self, volumes: Sequence[Volume], sides: tuple[int, int, int], seed: int) -> None:
        self.volumes, self.augment, self.rng = volumes, VolumeAugmentation(sides), np.random.default_rng(seed)

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Draw a batch."""
        return self.augment([self.volumes[index] for index in self.rng.integers(len(self.volumes), size=count)], self.rng)


class ScanTrainer(Run):
    """A run on scans.

    Raises:
        DataError: if there is nothing to train on, or less than what is held out
        ValueError: if the numbers of class weights and classes differ
    """

    def __init__(self, config: TrainingConfig) -> None:
        table, row = class_table(config.classes), architecture(config.architecture)
        policy = row.policy(config.size)
        if config.class_weights and len(config.class_weights) != len(table.entries):
            raise ValueError(f"--class-weights: {len(config.class_weights)} numbers for {len(table.entries)} classes")
        self.source: Batches
        self.held_out: list[Volume]
        self.source, self.held_out = _read(config, table, policy)
        super().__init__(config, table, policy, config.steps_an_epoch)
        self.weights = torch.tensor(config.class_weights or [1.0] * len(table.entries), device=self.device)

    def describe(self) -> str:
        """What is trained on, and how many scans are held out."""
        what = "heads generated from label maps" if self.config.maps else "volumes"
        return f"{what}; to validate: {len(self.held_out)} scans"

    def validate(self) -> dict[str, SplitScores]:
        """Score the averaged weights on the scans that are held out; a network of slices on some of their slices."""
        if not self.held_out:
            return {}
        return {"val": score_volumes(self.average.net, self.held_out, self.table, self.policy)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state` was taken, with other scans and variations than those at the start."""
        super().restore(state)
        self.source.rng = np.random.default_rng([self.config.seed, self.epoch])

    def _step(self, _step: int) -> Tensor:
        x, y = self.source.batch(self.config.batch)
        layout = torch.channels_last if x.ndim == 4 else torch.contiguous_format
        with self._precision():
            scored = self.net(x.to(self.device).contiguous(memory_format=layout)).float()
        y = y.to(self.device)
        loss = F.cross_entropy(scored, y, self.weights, ignore_index=IGNORED, reduction="sum")
        counted = torch.where(y == IGNORED, 0, self.weights[y.clamp(max=len(self.weights) - 1)]).sum()
        return loss / counted.clamp(min=1e-6) + self.config.dice * dice_loss(scored.softmax(1), y)


def _read(config: TrainingConfig, table: ClassTable, policy: InputPolicy) -> tuple[Batches, list[Volume]]:
    if policy.intensity is None:
        raise DataError(f"{config.architecture} says nothing of intensities")
    if config.maps is not None:
        if policy.dimensions != 2:
            raise DataError(f"{config.architecture} takes volumes; --maps gives slices of generated heads")
        if table.names != TISSUES:
            raise DataError(f"generated heads have the classes {', '.join(TISSUES)}; '{table.name}' has others")
        paths = sorted(config.maps.glob("*.nii.gz"))
        kept = _split(paths, config.hold_out, config.maps)
        maps = [read_map(path) for path in paths]
        pool = SlicePool(
            maps[:kept], policy.intensity, seed=config.seed, side=policy.working_size[0], neighbours=policy.channels // 2
        )
        return pool, [_generated(maps[at], paths[at], at, policy) for at in range(kept, len(maps))]
    if policy.dimensions != 3:
        raise DataError(f"{config.architecture} takes slices of generated heads: say --maps FOLDER")
    pairs = volume_pairs(config.data)
    kept = _split(pairs, config.hold_out, config.data)
    volumes = [load_volume(image, labels, policy.intensity) for image, labels in pairs]
    depth, height, width = policy.sides
    return VolumeBatches(volumes[:kept], (depth, height, width), config.seed), volumes[kept:]


def _split(found: Sequence[Any], hold_out: int, folder: Path) -> int:
    """How many are trained on."""
    if len(found) <= hold_out:
        raise DataError(f"{folder}: {len(found)} scans, of which --hold-out keeps {hold_out} from training")
    return len(found) - hold_out


def _generated(classes: NDArray[np.uint8], path: Path, seed: int, policy: InputPolicy) -> Volume:
    """A held-out head: every other one is stripped."""
    assert policy.intensity is not None  # noqa: S101 - see _read
    made = head(classes, seed, policy.intensity, stripped=seed % 2 == 0)
    return Volume(made.image.astype(np.float32), made.labels, path.name)


@torch.no_grad()
def score_volumes(net: Network, volumes: Sequence[Volume], table: ClassTable, policy: InputPolicy) -> SplitScores:
    """Score a network on scans at its own spacing: all of a volume, or every :data:`EVERY`-th slice of each plane.

    Gives:
        scores of all voxels together, and the mean Dice coefficient of the scans by class
    """
    net.eval()
    classes = len(table.entries)
    each = []
    for volume in volumes:
        confusion = np.zeros((classes, classes + 1), np.int64)
        for x, truth in _whole(volume, policy) if policy.dimensions == 3 else _some_slices(volume, policy):
            best = net(x).argmax(1).numpy()
            seen = tuple(slice(0, side) for side in truth.shape)
            confusion += confusion_matrix(truth, best[seen], classes)
        each.append(confusion)
    found = scores(np.sum(each, 0), table.names, frames=len(volumes))
    return found.model_copy(update={"dice": mean_dice(each, table.names)})


def mean_dice(confusions: Sequence[NDArray[np.int64]], names: tuple[str, ...]) -> dict[str, float | None]:
    """The mean Dice coefficient of scans by class, 2 n_ii / (t_i + p_i); scans without the class in truth and answer are left
    out.

    Takes:
        confusions: K x (K + 1) of each scan
    """
    found: dict[str, float | None] = {}
    for k, name in enumerate(names):
        values = [2 * one[k, k] / total for one in confusions if (total := int(one[k].sum() + one[:, k].sum())) > 0]
        found[name] = round(float(np.mean(values)), 4) if values else None
    return found


def _whole(volume: Volume, policy: InputPolicy) -> list[tuple[Tensor, NDArray[np.uint8]]]:
    spare = [-side % policy.multiple for side in volume.image.shape]
    padded = np.pad(volume.image, [(0, more) for more in spare])
    return [(torch.from_numpy(padded)[None, None], volume.labels[None])]


def _some_slices(volume: Volume, policy: InputPolicy) -> list[tuple[Tensor, NDArray[np.uint8]]]:
    found = []
    for axis in range(3):
        across, truth = np.moveaxis(volume.image, axis, 0), np.moveaxis(volume.labels, axis, 0)
        for k in range(EVERY // 2, len(across), EVERY):
            x = torch.from_numpy(slices(across, range(k, k + 1), policy)).permute(0, 3, 1, 2)
            found.append((x.contiguous(memory_format=torch.channels_last), truth[k : k + 1]))
    return found
