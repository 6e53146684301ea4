"""A training run: epochs, validation, what is kept, how it goes on after a stop.

AdamW, loaded weights at a lower rate, warm-up and cosine decay; weighted cross-entropy at full resolution plus the Lovasz
surrogate of mean IoU, on an auxiliary head's scores as well where there is one; for a panoptic network the losses of centres
and offsets. An exponential average of the weights is what is scored and kept.

The weights that are kept as ``best.pt`` have the highest mean of the validation sets' mean IoU.
"""

from __future__ import annotations

import copy
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.exporting.weights import start_from
from models.nets.architectures import ARCHITECTURES, Architecture, architecture, build
from models.nets.encoders import EfficientNetLite, imagenet_weights_file
from models.nets.network import AUXILIARY, Network
from models.scenes import CLASSES
from models.training import checkpoint
from models.training.augmentation import Augmentation, Batch
from models.training.classes import ClassTable
from models.training.classes import table as class_table
from models.training.config import TrainingConfig
from models.training.data import DataError, Frame, Frames, painted_frames, read_frames, split_of, stacked
from models.training.losses import IGNORED, center_loss, class_weights, lovasz_softmax, offset_loss
from models.training.metrics import scores
from models.training.objects import targets
from models.training.partial import sure_frames
from service.pipeline.manifest import InputPolicy, SplitScores
from service.pipeline.plan import fit_size

Averaged = TypeVar("Averaged", bound=nn.Module)


class WeightAverage(Generic[Averaged]):
    """An exponential moving average of a network's weights and buffers (Polyak and Juditsky 1992), short at first."""

    def __init__(self, net: Averaged, decay: float) -> None:
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Move towards the network's present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        mine, theirs = self.net.state_dict(), net.state_dict()
        floating = [key for key, value in mine.items() if value.is_floating_point()]
        torch._foreach_lerp_([mine[k] for k in floating], [theirs[k] for k in floating], 1 - decay)


@dataclass(frozen=True)
class Data:
    """The data that a run trains on and is scored on."""

    table: ClassTable
    policy: InputPolicy
    train: Frames
    val: dict[str, Frames]
    """Validation sets by name; ``val`` is the first where there is one."""


def load_data(config: TrainingConfig) -> Data:
    """Read everything that a run wants into memory.

    Raises:
        DataError, ClassTableError, CheckpointError, ValueError: if something of it can't be used
    """
    table, policy = class_table(config.classes), ARCHITECTURES[config.architecture].policy(config.size)
    val = {}
    if (config.data / config.val_split).is_dir():
        val["val"] = stacked(list(read_frames(config.data / config.val_split, table, policy)))
    for folder in config.also_validate:
        val[split_of(folder)] = stacked(list(read_frames(folder, table, policy)))
    return Data(table, policy, stacked(list(_training_frames(config, table, policy))), val)


def _training_frames(config: TrainingConfig, table: ClassTable, policy: InputPolicy) -> Iterator[Frame]:
    things = table.things if ARCHITECTURES[config.architecture].objects else ()
    if ARCHITECTURES[config.architecture].objects and not things:
        raise DataError(f"{config.architecture} tells objects apart, and '{table.name}' has no countable class")
    for folder in (*(config.data / split for split in config.train_splits), *config.extra):
        yield from read_frames(folder, table, policy, objects=bool(things))
    if config.partial:
        if config.teacher is None:
            raise DataError("partial labels want a teacher: a checkpoint that knows the classes which they leave out")
        teacher = checkpoint.network(checkpoint.load(config.teacher))
        if teacher.classes != len(table.entries):
            raise DataError(f"{config.teacher} has {teacher.classes} classes, '{table.name}' {len(table.entries)}")
        if teacher.channels != policy.channels:
            raise DataError(f"{config.teacher} takes {teacher.channels} channels, {config.architecture} {policy.channels}")
        for folder, times in Counter(config.partial).items():
            for frame in sure_frames(list(read_frames(folder, table, policy)), teacher, things):
                yield from [frame] * times
    if config.scenes:
        if policy.takes_grey:
            raise DataError(f"painted scenes are in colours; {config.architecture} takes one channel")
        if table.names != CLASSES:
            raise DataError(f"painted scenes have the classes {', '.join(CLASSES)}; '{table.name}' has others")
        yield from painted_frames(config.scenes, policy, weight=config.scene_weight)


class Run:
    """The state of a training run: weights, their average, the optimiser, how far it is.

    What is trained on is a subclass's business: :meth:`_step` and :meth:`validate`.

    Takes:
        policy: how inputs are brought to the network, for the checkpoint
        steps_an_epoch: optimiser steps between two validations
    """

    def __init__(self, config: TrainingConfig, table: ClassTable, policy: InputPolicy, steps_an_epoch: int) -> None:
        self.config, self.table, self.policy, self.steps_an_epoch = config, table, policy, steps_an_epoch
        self.device = torch.device(config.device)
        torch.manual_seed(config.seed)
        net = make_network(config, len(table.entries))
        start = config.start or _imagenet(net)
        self.fresh = start_from(net, start) if start else list(net.state_dict())
        """The tensors that start from random numbers; the others come from a file."""
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(not name.startswith(config.freeze or ("\0",)))
        layout = torch.channels_last if net.dimensions == 2 else torch.contiguous_format
        self.net: Network = net.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self.average = WeightAverage[Network](self.net, config.average)
        self._prepare()
        groups = parameter_groups(self.net, config.lr, config.loaded_lr, config.weight_decay, set(self.fresh))
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.epoch = 0
        self.best = -1.0
        self.history: list[dict[str, float]] = []

    def describe(self) -> str:
        """What is trained on, in words."""
        raise NotImplementedError

    def validate(self) -> dict[str, SplitScores]:
        """Score the averaged weights, by name of the set."""
        raise NotImplementedError

    def _step(self, _step: int) -> Tensor:
        """The loss of a step of the epoch."""
        raise NotImplementedError

    def _prepare(self) -> None:
        """Do what has to be done to the network before the optimiser sees it."""

    def _begin_epoch(self) -> None:
        """Draw what an epoch draws."""

    def _precision(self) -> torch.autocast:
        """bfloat16 on a GPU, or where asked for. A captured graph casts weights itself, so autocast's cache stays out of it."""
        wanted = self.device.type == "cuda" or self.config.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=wanted, cache_enabled=False)

    def run_epoch(self, tick: Callable[[], Any]) -> float:
        """Run the steps of an epoch; give the mean loss."""
        # Dropout and stochastic depth draw from torch's own generator; with this seed a resumed run draws as one never stopped.
        torch.manual_seed(self.config.seed + self.epoch)
        self._set_training()
        self._begin_epoch()
        total = torch.zeros((), device=self.device)
        for step in range(self.steps_an_epoch):
            self._set_rate((self.epoch + step / self.steps_an_epoch) / self.config.epochs)
            loss = self._step(step)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
            self.optimizer.step()
            self.average.update(self.net)
            total += loss.detach()
            tick()
        self.epoch += 1
        mean: Tensor = total / self.steps_an_epoch
        return mean.item()

    def _set_training(self) -> None:
        self.net.train()
        if self.config.fixed_norm:
            fresh = {name.rpartition(".")[0] for name in self.fresh}
            for name, module in self.net.named_modules():
                if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d) and name not in fresh:
                    module.eval()

    def _set_rate(self, progress: float) -> None:
        epochs, warm = self.config.epochs, self.config.warm_up_epochs
        factor = (min(1.0, progress * epochs / warm) if warm else 1.0) * 0.5 * (1 + math.cos(math.pi * progress))
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs, in plain types and tensors."""
        return {
            **self.weights_only(),
            "weights": self.average.net.state_dict(),
            "raw_weights": self.net.state_dict(),
            "updates": self.average.updates,
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "best": self.best,
            "history": self.history,
        }

    def weights_only(self) -> dict[str, Any]:
        """Return the fields that evaluation and export need."""
        weights = self.average.net.state_dict()
        return {
            "architecture": self.config.architecture,
            "width": self.config.width,
            "classes": self.table.to_json(),
            "working_size": list(self.policy.working_size),
            "input": self.policy.model_dump(mode="json"),
            "weights": checkpoint.compact({name: value for name, value in weights.items() if not name.startswith(AUXILIARY)}),
            "epoch": self.epoch,
            "epochs": self.config.epochs,
            "splits": list(self.config.train_splits),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state` was taken.

        Raises:
            CheckpointError: if the checkpoint is of another network or holds weights alone
        """
        if "raw_weights" not in state:
            raise checkpoint.CheckpointError("cannot resume: the checkpoint holds weights alone; OUT/last.pt holds the run")
        found = _told(state["architecture"], state["width"], checkpoint.class_table(state), state["raw_weights"])
        own = self.net.state_dict()
        mine = _told(self.config.architecture, self.config.width, self.table, own)
        if found != mine or any(state["raw_weights"][name].shape != value.shape for name, value in own.items()):
            raise checkpoint.CheckpointError(f"cannot resume: the checkpoint is of {found}, this run of {mine}")
        self.net.load_state_dict(state["raw_weights"])
        self.average.net.load_state_dict(state["weights"])
        self.average.updates = state["updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.epoch, self.best, self.history = state["epoch"], state["best"], state["history"]


class Trainer(Run):
    """A run on frames: pictures with labels, all in memory."""

    def __init__(self, config: TrainingConfig, data: Data) -> None:
        self.crop = check_crop(
            config.crop or fit_size(*data.policy.working_size, data.policy), architecture(config.architecture)
        )
        device = torch.device(config.device)
        self.train = data.train.to(device)
        self.val = {name: frames.to(device) for name, frames in data.val.items()}
        self.batch = min(config.batch, len(self.train))
        super().__init__(config, data.table, data.policy, max(1, len(self.train) // self.batch))
        pixels = torch.bincount(data.train.labels.flatten(), minlength=256)[: self.net.classes]
        self.weights = class_weights(pixels).to(self.device)
        self.augment = Augmentation(
            crop=self.crop,
            scale=config.scale,
            color=config.color,
            camera=config.camera,
            paste=config.paste,
            paste_classes=tuple(k for k, name in enumerate(self.table.names) if name in config.paste_classes),
            peak=data.policy.intensity.ceiling if data.policy.intensity else 255.0,
        )

    def describe(self) -> str:
        """How many frames, of which sets."""
        counted = ", ".join(f"{len(frames)} {name}" for name, frames in self.val.items()) or "none"
        return f"{len(self.train)} frames; to validate: {counted}"

    def validate(self) -> dict[str, SplitScores]:
        """Score the averaged weights on the validation frames at their full size, by name of the set."""
        return {
            name: score_frames(self.average.net, frames, self.table, occurring=name != "val")
            for name, frames in self.val.items()
        }

    def _prepare(self) -> None:
        if self.device.type == "cuda" and not has_auxiliary(self.net):
            self._capture()

    def _begin_epoch(self) -> None:
        self._order = torch.randperm(len(self.train), generator=self.generator).to(self.device)

    def _step(self, _step: int) -> Tensor:
        chosen = self._order[_step * self.batch : (_step + 1) * self.batch]
        with torch.no_grad():
            batch = self.augment(self.train.take(chosen), self.generator)
        return self._step_loss(batch)

    def _step_loss(self, batch: Batch) -> Tensor:
        images = batch.images.contiguous(memory_format=torch.channels_last)
        with self._precision():
            main, *auxiliary = self.net.for_loss(images)
        loss = self._loss(main.float(), batch.labels, batch.weights)
        if ARCHITECTURES[self.config.architecture].objects:
            centers, offsets = auxiliary
            wanted = targets(batch.objects, batch.labels, self.net.stride, IGNORED)
            of_objects = center_loss(centers.float(), wanted) + offset_loss(offsets.float(), wanted)
            return loss + self.config.objects * of_objects
        for scored in auxiliary:
            loss = loss + self.config.auxiliary * self._loss(scored.float(), batch.labels, batch.weights)
        return loss

    def _capture(self) -> None:
        """Replay the network's forward and backward pass as CUDA graphs.

        At this size an H100 computes 21 ms a step and waits 57 for Python to launch it (batch 16, Lite1, 360 x 480).
        """
        sample = torch.zeros(self.batch, self.net.channels, *self.crop, device=self.device)
        self._set_training()
        with self._precision():
            torch.cuda.make_graphed_callables(self.net, (sample.contiguous(memory_format=torch.channels_last),))

    def _loss(self, scored: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Cross-entropy weighted by class and frame, and the Lovasz loss of the frames of full weight."""
        scored = F.interpolate(scored, size=y.shape[1:], mode="bilinear", align_corners=False)
        # Not cross_entropy's own mean: it is NaN, for good, at the first batch without a labelled pixel.
        losses = F.cross_entropy(scored, y, self.weights, ignore_index=IGNORED, reduction="none").sum((1, 2))
        counted = torch.where(y == IGNORED, 0, self.weights[y.clamp(max=len(self.weights) - 1)]).sum((1, 2))
        loss = (losses * weights).sum() / (counted * weights).sum().clamp(min=1e-6)
        full = weights >= 1
        if self.config.lovasz > 0 and bool(full.any()):
            step = self.config.lovasz_step
            sparse, truth = scored[full][..., ::step, ::step], y[full][..., ::step, ::step]
            loss = loss + self.config.lovasz * lovasz_softmax(sparse.softmax(1), truth)
        return loss


def _told(architecture: str, width: float, table: ClassTable, weights: dict[str, Tensor]) -> str:
    """A network in words that differ where networks do."""
    return f"{architecture} at width {width:g}, {len(weights)} tensors, for the {len(table.entries)} classes of '{table.name}'"


def make_network(config: TrainingConfig, classes: int) -> Network:
    """The network that was asked for, as it is before training.

    Raises:
        ValueError: if it does not come in this width
    """
    net = build(config.architecture, classes, width=config.width, auxiliary=config.auxiliary > 0)
    for module in net.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d) and config.dropout is not None:
            module.p = config.dropout
        if isinstance(module, EfficientNetLite) and config.drop is not None:
            module.set_drop(config.drop)
    return net


def has_auxiliary(net: Network) -> bool:
    """Whether a network has a head that only training uses."""
    return any(name.startswith(AUXILIARY) for name, _ in net.named_parameters())


def check_crop(crop: tuple[int, int], architecture: Architecture) -> tuple[int, int]:
    """Return a crop that a network takes.

    Raises:
        ValueError: if it is too small, or a side is not a multiple of what the network wants
    """
    multiple, least = architecture.multiple, architecture.smallest
    if any(side % multiple or side < least for side in crop):
        raise ValueError(f"--crop: {architecture.name} takes sides of {least} and more that are multiples of {multiple}")
    return crop


def _imagenet(net: Network) -> Path | None:
    """The ImageNet weights that an installed package has for a network; None where no package does."""
    encoder = next((module for module in net.modules() if isinstance(module, EfficientNetLite)), None)
    return imagenet_weights_file(encoder.size) if encoder else None


@torch.no_grad()
def score_frames(net: Network, frames: Frames, table: ClassTable, *, batch: int = 8, occurring: bool = False) -> SplitScores:
    """Score a network on frames in memory: scores upsampled bilinearly to pixels, then argmax, as the service does.

    Takes:
        occurring: whether the mean is over the classes that occur in the labels alone
    """
    net.eval()
    k = len(table.entries)
    confusion = torch.zeros(k * (k + 1), dtype=torch.int64, device=frames.images.device)
    for start in range(0, len(frames), batch):
        x, y = frames.images[start : start + batch].float(), frames.labels[start : start + batch].long()
        scored = F.interpolate(net.scores(x).float(), size=y.shape[1:], mode="bilinear", align_corners=False)
        counted = y != IGNORED
        pairs = y[counted] * (k + 1) + scored.argmax(1)[counted]
        confusion += torch.bincount(pairs, minlength=len(confusion))
    return scores(confusion.reshape(k, k + 1).cpu().numpy(), table.names, frames=len(frames), occurring=occurring)


def parameter_groups(net: Network, rate: float, loaded: float, weight_decay: float, fresh: set[str]) -> list[dict[str, Any]]:
    """Optimiser groups: loaded weights learn slower, biases and normalisation are not decayed, frozen ones are left out.

    Takes:
        loaded: share of the rate for what is not in ``fresh``
        fresh: names of the parameters that start from random numbers
    """
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name in fresh, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": rate * (1 if is_fresh else loaded),
            "initial_lr": rate * (1 if is_fresh else loaded),
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for (is_fresh, decayed), parameters in groups.items()
    ]


def fit(trainer: Run, tick: Callable[[], Any], report: Callable[[dict[str, float]], Any]) -> None:
    """Run epoch after epoch, validate, keep checkpoints in ``config.out``.

    Takes:
        tick: called after every step
        report: called after every epoch with its row of the log
    """
    config = trainer.config
    while trainer.epoch < config.epochs:
        started = time.monotonic()
        loss = trainer.run_epoch(tick)
        row = {"epoch": trainer.epoch, "loss": round(loss, 5), "seconds": round(time.monotonic() - started, 2)}
        trainer.history.append(row)  # at once: Ctrl-C may come while the epoch is scored
        if trainer.epoch == config.epochs or trainer.epoch % config.validate_every == 0:
            found = trainer.validate()
            row |= log_row(found)
            mean = sum(split.mean_iou for split in found.values()) / len(found) if found else None
            if mean is None or mean > trainer.best:
                trainer.best = trainer.best if mean is None else mean
                checkpoint.save(config.out / "best.pt", trainer.weights_only())
            checkpoint.save(config.out / "last.pt", trainer.state())
        report(row)


def log_row(found: dict[str, SplitScores]) -> dict[str, float]:
    """The scores of the validation sets as columns of the log; those of further sets end with ``@`` and the set's name."""
    row: dict[str, float] = {}
    for name, split in found.items():
        end = "" if name == "val" else f"@{name}"
        row |= {f"mean_iou{end}": split.mean_iou, f"pixel_accuracy{end}": split.pixel_accuracy}
        row |= {f"iou_{label}{end}": value for label, value in split.iou.items() if value is not None}
    return row
