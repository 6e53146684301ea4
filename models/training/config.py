"""A training run in one frozen value: what it reads, what it trains, how, and where it writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch


def usual_device() -> str:
    """``cuda`` where there is one, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides a training run. The defaults are the recipe of docs/adr/0005."""

    data: Path = Path("../shared/camvid")
    """Folder with one sub-folder a split, each of images/ and labels/."""
    train_splits: tuple[str, ...] = ("train",)
    """Sub-folders to train on."""
    val_split: str = "val"
    """Sub-folder to validate on; a run without it keeps its last weights."""
    extra: tuple[Path, ...] = ()
    """Further folders of images/ and labels/ to train on, with objects/ where their objects are known."""
    partial: tuple[Path, ...] = ()
    """Further folders whose labels hold some of the classes only; ``teacher`` tells which pixels are sure."""
    teacher: Path | None = None
    """Checkpoint that finds the classes which the partial folders leave out."""
    scenes: int = 0
    """Painted scenes to train on (models.scenes), seeds 0, 1, ..."""
    scene_weight: float = 0.25
    """Share of the semantic loss of painted scenes."""
    also_validate: tuple[Path, ...] = ()
    """Further folders to validate on; classes that do not occur in one count in no mean of it."""
    classes: str = "camvid"
    """Class table: a known name or a JSON file. A panoptic network tells the objects of its countable classes apart."""
    maps: Path | None = None
    """Folder of label maps from which heads are generated (models.heads), for a network of slices."""
    hold_out: int = 0
    """The last so many scans or label maps by name are validated on, not trained on; for networks for scans."""
    size: tuple[int, int] | None = None
    """Working size (height, width); the architecture's own where None."""

    architecture: str = "fcn4s-lite0"
    width: float = 1.0
    """Multiplier of every layer's channels."""
    start: Path | None = None
    """Weights to begin with; the light networks take an installed package's where None."""
    freeze: tuple[str, ...] = ()
    """How the names of the layers begin that are not trained."""
    fixed_norm: bool = False
    """Whether loaded normalisation layers keep their statistics: right for a short run from finished weights."""

    epochs: int = 300
    steps_an_epoch: int = 60
    """Steps between two validations, for networks for scans; of frames an epoch is all of them."""
    batch: int = 16
    crop: tuple[int, int] | None = None
    """(height, width) of a training crop; the working size where None."""
    scale: tuple[float, float] = (0.6, 2.0)
    color: float = 1.0
    """Strength of the changes of colour."""
    camera: float = 0.0
    """Strength of what another camera changes: hue, perspective, blur, JPEG."""
    paste: float = 0.5
    """Probability of pasting another frame's objects."""
    paste_classes: tuple[str, ...] = ("pole", "sign", "fence", "car", "pedestrian", "bicyclist")
    lr: float = 1e-3
    loaded_lr: float = 0.3
    """Share of ``lr`` for what the start file filled."""
    weight_decay: float = 0.02
    warm_up_epochs: float = 2.0
    drop: float | None = None
    """Stochastic depth of a light encoder; its own where None."""
    dropout: float | None = None
    """In the place of the network's own: 0.5 on VGG16, 0.1 on the others."""
    auxiliary: float = 0.5
    """Weight of the auxiliary head's loss; 0 leaves the head out."""
    lovasz: float = 0.5
    """Weight of the Lovasz loss beside cross-entropy."""
    lovasz_step: int = 2
    """The Lovasz loss counts every so many pixels, down and across; sorting all of them costs a CPU as much as the network."""
    dice: float = 1.0
    """Weight of the Dice loss beside cross-entropy, for networks for scans."""
    class_weights: tuple[float, ...] = ()
    """Weight of each class in the cross-entropy, for networks for scans; 1 where empty."""
    objects: float = 1.0
    """Weight of the losses of centres and offsets of a panoptic network."""
    average: float = 0.998
    """Decay of the weight average."""

    out: Path = Path("runs/latest")
    resume: bool = False
    seed: int = 0
    validate_every: int = 1
    device: str = "cpu"
    bfloat16: bool = False
    """Whether a processor multiplies in bfloat16, as a GPU always does: 0.4 of a V-Net's time with AVX-512 BF16."""
