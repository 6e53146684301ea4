"""``python -m models.train``: train a network of the family on a folder of frames and labels.

The light networks need nothing but the data: their encoder starts from the ImageNet weights of an installed package. The
others start from ``--start FILE``, or from nothing. Writes into ``--out``: ``last.pt`` (everything that ``--resume`` needs),
``best.pt`` (the weights with the best validation score), ``log.csv`` and ``curves.png``. Ctrl-C ends after a checkpoint.

The recipe: AdamW, what was trained before at a lower rate, warm-up and cosine decay; weighted cross-entropy at full resolution
plus the Lovasz surrogate of mean IoU, on an auxiliary head's scores as well where there is one; an exponential average of the
weights is what is scored and kept.

May import: torch, rich, matplotlib, ``service.pipeline`` (geometry, manifest), the rest of ``models``.
"""

from __future__ import annotations

import argparse
import copy
import csv
import math
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from models.arguments import size_argument
from models.exporting.weights import start_from
from models.nets.architectures import ARCHITECTURES, Architecture, build
from models.nets.encoders import EfficientNetLite, imagenet_weights_file
from models.nets.network import AUXILIARY, Network
from models.training import checkpoint
from models.training.classes import TABLES, ClassTable, ClassTableError
from models.training.classes import table as class_table
from models.training.data import Augmentation, DataError, Frames, load_frames
from models.training.losses import IGNORED, class_weights, lovasz_softmax
from models.training.metrics import scores
from service.pipeline.manifest import SplitScores
from service.pipeline.plan import fit_size


class WeightAverage:
    """An exponential moving average of a network's weights and buffers (Polyak and Juditsky 1992), short at first."""

    def __init__(self, net: nn.Module, decay: float) -> None:
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


class Trainer:
    """The state of a training run and its two verbs: one epoch, one validation."""

    def __init__(self, args: argparse.Namespace, table: ClassTable, train: Frames, val: Frames | None) -> None:
        self.args, self.table = args, table
        self.device = torch.device(args.device)
        self.train, self.val = train.to(self.device), val.to(self.device) if val else None
        torch.manual_seed(args.seed)
        net = make_network(args, len(table.entries))
        start = args.start or _imagenet(net)
        self.fresh: list[str] | None = start_from(net, start) if start and not args.resume else None
        """The tensors that start anew where the others come from a file."""
        self.net: Network = net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = WeightAverage(self.net, args.average)
        if self.device.type == "cuda" and not has_auxiliary(self.net):
            self._capture()
        slower = args.encoder_lr if start else 1.0
        self.optimizer = torch.optim.AdamW(parameter_groups(self.net, args.lr, slower, args.weight_decay), fused=True)
        pixels = torch.bincount(train.labels.flatten(), minlength=256)[: net.classes]
        self.weights = class_weights(pixels).to(self.device)
        self.generator = torch.Generator().manual_seed(args.seed)
        things = tuple(k for k, name in enumerate(table.names) if name in args.paste_classes)
        self.augment = Augmentation(
            crop=args.crop, scale=tuple(args.scale), color=args.color, paste=args.paste, paste_classes=things
        )
        self.epoch = 0
        self.best = -1.0
        self.history: list[dict[str, float]] = []
        self.steps_an_epoch = max(1, len(train) // args.batch)

    def run_epoch(self, tick: Any) -> float:
        """One pass over the frames; gives the mean loss."""
        # Dropout and stochastic depth draw from torch's own generator; seeded anew, a resumed run draws as one never stopped.
        torch.manual_seed(self.args.seed + self.epoch)
        self.net.train()
        order = torch.randperm(len(self.train), generator=self.generator).to(self.device)
        total = torch.zeros((), device=self.device)
        for step in range(self.steps_an_epoch):
            self._set_rate((self.epoch + step / self.steps_an_epoch) / self.args.epochs)
            chosen = order[step * self.args.batch : (step + 1) * self.args.batch]
            with torch.no_grad():
                x, y = self.augment(self.train.images[chosen], self.train.labels[chosen], self.generator)
                x = x.contiguous(memory_format=torch.channels_last)
            with self._precision():
                main, *auxiliary = self.net.for_loss(x)
            loss = self._loss(main.float(), y)
            for scored in auxiliary:
                loss = loss + self.args.auxiliary * self._loss(scored.float(), y)
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

    def _precision(self) -> torch.autocast:
        """bfloat16 on a GPU; a captured graph casts weights itself, so autocast's cache must stay out of it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda", cache_enabled=False)

    def _capture(self) -> None:
        """Replay the network's forward and backward pass as CUDA graphs.

        At this size an H100 computes 21 ms a step and waits 57 for Python to launch it (batch 16, Lite1, 360 x 480).
        """
        sample = torch.zeros(self.args.batch, 3, *self.args.crop, device=self.device)
        self.net.train()
        with self._precision():
            torch.cuda.make_graphed_callables(self.net, (sample.contiguous(memory_format=torch.channels_last),))

    def _loss(self, scored: Tensor, y: Tensor) -> Tensor:
        scored = F.interpolate(scored, size=y.shape[1:], mode="bilinear", align_corners=False)
        # Not cross_entropy's own mean: it is NaN, for good, at the first batch without a labelled pixel.
        loss = F.cross_entropy(scored, y, self.weights, ignore_index=IGNORED, reduction="sum")
        loss = loss / self.weights[y[y != IGNORED]].sum().clamp(min=1e-6)
        if self.args.lovasz > 0:
            loss = loss + self.args.lovasz * lovasz_softmax(scored[..., ::2, ::2].softmax(1), y[..., ::2, ::2])
        return loss

    def _set_rate(self, progress: float) -> None:
        warm_up = min(1.0, progress * self.args.epochs / self.args.warm_up_epochs) if self.args.warm_up_epochs else 1.0
        factor = warm_up * 0.5 * (1 + math.cos(math.pi * progress))
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def validate(self) -> SplitScores | None:
        """Score the averaged weights on the validation frames at their full size."""
        return score_frames(self.average.net, self.val, self.table) if self.val else None

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
        """What evaluation and export need."""
        weights = self.average.net.state_dict()
        return {
            "architecture": self.args.architecture,
            "width": self.args.width,
            "classes": self.table.to_json(),
            "working_size": list(self.args.size),
            "weights": checkpoint.compact({name: value for name, value in weights.items() if not name.startswith(AUXILIARY)}),
            "epoch": self.epoch,
            "epochs": self.args.epochs,
            "splits": list(self.args.train_splits),
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
        mine = _told(self.args.architecture, self.args.width, self.table, own)
        if found != mine or any(state["raw_weights"][name].shape != value.shape for name, value in own.items()):
            raise checkpoint.CheckpointError(f"cannot resume: the checkpoint is of {found}, this run of {mine}")
        self.net.load_state_dict(state["raw_weights"])
        self.average.net.load_state_dict(state["weights"])
        self.average.updates = state["updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.epoch, self.best, self.history = state["epoch"], state["best"], state["history"]


def _told(architecture: str, width: float, table: ClassTable, weights: dict[str, Tensor]) -> str:
    """A network in words that differ where networks do."""
    return f"{architecture} at width {width:g}, {len(weights)} tensors, for the {len(table.entries)} classes of '{table.name}'"


def make_network(args: argparse.Namespace, classes: int) -> Network:
    """The network that was asked for, as it is before training.

    Raises:
        ValueError: if it does not come in this width
    """
    net = build(args.architecture, classes, width=args.width, auxiliary=args.auxiliary > 0)
    for module in net.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d) and args.dropout is not None:
            module.p = args.dropout
        if isinstance(module, EfficientNetLite) and args.drop is not None:
            module.set_drop(args.drop)
    return net


def has_auxiliary(net: Network) -> bool:
    """Whether a network has a head that only training uses."""
    return any(name.startswith(AUXILIARY) for name, _ in net.named_parameters())


def _imagenet(net: Network) -> Path | None:
    """The ImageNet weights that an installed package has for a network; None where no package does."""
    encoder = next((module for module in net.modules() if isinstance(module, EfficientNetLite)), None)
    return imagenet_weights_file(encoder.size) if encoder else None


@torch.no_grad()
def score_frames(net: nn.Module, frames: Frames, table: ClassTable, *, batch: int = 8) -> SplitScores:
    """Scores of a network on frames in memory: scores upsampled bilinearly to pixels, then argmax, as the service does."""
    net.eval()
    k = len(table.entries)
    confusion = torch.zeros(k * (k + 1), dtype=torch.int64, device=frames.images.device)
    for start in range(0, len(frames), batch):
        x, y = frames.images[start : start + batch].float(), frames.labels[start : start + batch].long()
        scored = F.interpolate(net(x).float(), size=y.shape[1:], mode="bilinear", align_corners=False)
        counted = y != IGNORED
        pairs = y[counted] * (k + 1) + scored.argmax(1)[counted]
        confusion += torch.bincount(pairs, minlength=len(confusion))
    return scores(confusion.reshape(k, k + 1).cpu().numpy(), table.names, frames=len(frames))


def parameter_groups(net: Network, rate: float, encoder_factor: float, weight_decay: float) -> list[dict[str, Any]]:
    """Optimiser groups: what a classifier's weights can fill learns slower, biases and normalisation are not decayed."""
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in net.named_parameters():
        groups.setdefault((name.startswith(net.pretrained), parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": rate * (encoder_factor if in_encoder else 1),
            "initial_lr": rate * (encoder_factor if in_encoder else 1),
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for (in_encoder, decayed), parameters in groups.items()
    ]


def write_log(folder: Path, history: list[dict[str, float]]) -> None:
    """``log.csv`` and ``curves.png`` of the epochs so far."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = list(dict.fromkeys(key for row in history for key in row))
    with (folder / "log.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    left.plot([row["epoch"] for row in history], [row["loss"] for row in history])
    left.set(title="training loss", xlabel="epoch")
    scored = [row for row in history if "mean_iou" in row]
    for key in ("mean_iou", "pixel_accuracy"):
        right.plot([row["epoch"] for row in scored], [row[key] for row in scored], label=key)
    right.set(title="validation", xlabel="epoch")
    right.grid(alpha=0.3)
    right.legend()
    figure.savefig(folder / "curves.png", dpi=100)
    plt.close(figure)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m models.train",
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", type=Path, default=Path("../shared/camvid"), help="folder with train/ and val/, each of images/ and labels/"
    )
    data.add_argument(
        "--train-splits",
        nargs="+",
        default=["train"],
        metavar="SPLIT",
        help="sub-folders to train on; 'train val' for a last run",
    )
    data.add_argument("--val-split", default="val", help="sub-folder to validate on")
    data.add_argument(
        "--extra", nargs="*", type=Path, default=[], metavar="FOLDER", help="further folders of images/ and labels/ to train on"
    )
    data.add_argument("--classes", default="camvid", metavar="TABLE", help=f"class table: {', '.join(TABLES)} or a JSON file")
    data.add_argument(
        "--size", type=size_argument, help="working size of the network, HEIGHTxWIDTH; the architecture's own where absent"
    )
    net = parser.add_argument_group("network")
    net.add_argument(
        "--architecture", default="fcn4s-lite0", choices=list(ARCHITECTURES), metavar="ARCH", help=", ".join(ARCHITECTURES)
    )
    net.add_argument("--width", type=float, default=1.0, help="multiplier of every layer's channels; the light ones have one")
    net.add_argument(
        "--start",
        type=Path,
        metavar="FILE",
        help="weights to begin with: of an earlier stage, of other classes, or of an image classifier; the light networks take "
        "an installed package's where absent",
    )
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument("--epochs", type=int, default=300)
    recipe.add_argument("--batch", type=int, default=16)
    recipe.add_argument("--crop", type=size_argument, help="HEIGHTxWIDTH of a training crop; the working size where absent")
    recipe.add_argument("--scale", type=float, nargs=2, default=(0.6, 2.0), metavar=("LOW", "HIGH"))
    recipe.add_argument("--color", type=float, default=1.0, help="strength of the changes of colour")
    recipe.add_argument("--paste", type=float, default=0.5, help="probability of pasting another frame's objects")
    recipe.add_argument("--paste-classes", nargs="*", default=["pole", "sign", "fence", "car", "pedestrian", "bicyclist"])
    recipe.add_argument("--lr", type=float, default=1e-3)
    recipe.add_argument("--encoder-lr", type=float, default=0.3, help="share of --lr for what was trained as a classifier")
    recipe.add_argument("--weight-decay", type=float, default=0.02)
    recipe.add_argument("--warm-up-epochs", type=float, default=2.0)
    recipe.add_argument("--drop", type=float, help="stochastic depth of a light encoder (0.1)")
    recipe.add_argument("--dropout", type=float, help="in the place of the network's own: 0.5 on VGG16, 0.1 on the others")
    recipe.add_argument(
        "--auxiliary", type=float, default=0.5, help="weight of the auxiliary head's loss (fcn-resnet); 0 leaves it out"
    )
    recipe.add_argument("--lovasz", type=float, default=0.5, help="weight of the Lovasz loss beside cross-entropy")
    recipe.add_argument("--average", type=float, default=0.998, help="decay of the weight average")
    run = parser.add_argument_group("run")
    run.add_argument("--out", type=Path, default=Path("runs/latest"))
    run.add_argument("--resume", action="store_true", help="go on from OUT/last.pt")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--validate-every", type=int, default=1, metavar="EPOCHS")
    run.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Train; gives the exit status."""
    args = parse(arguments)
    console = Console(stderr=True)
    architecture = ARCHITECTURES[args.architecture]
    args.data_folders = [args.data / split for split in args.train_splits] + args.extra
    try:
        table, policy = class_table(args.classes), architecture.policy(args.size)
        args.size = policy.working_size
        args.crop = check_crop(args.crop or fit_size(*policy.working_size, policy), architecture)
        train = load_frames(args.data_folders, table, policy)
        val = load_frames([args.data / args.val_split], table, policy) if (args.data / args.val_split).is_dir() else None
        args.batch = min(args.batch, len(train))
        trainer = Trainer(args, table, train, val)
        if args.resume:
            trainer.restore(checkpoint.load(args.out / "last.pt"))
    except (DataError, ClassTableError, checkpoint.CheckpointError, ModuleNotFoundError, ValueError, OSError) as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    console.print(
        f"{args.architecture}: {len(train)} frames, {len(val) if val else 0} to validate, {args.device}, into {args.out}"
    )
    if trainer.fresh is not None:
        console.print(f"starting anew: {', '.join(trainer.fresh) or 'nothing'}", soft_wrap=True)
    try:
        fit(trainer, console)
    except KeyboardInterrupt:
        checkpoint.save(args.out / "last.pt", trainer.state())
        console.print(f"stopped in epoch {trainer.epoch + 1}; go on with --resume")
        return 130
    return 0


def check_crop(crop: tuple[int, int], architecture: Architecture) -> tuple[int, int]:
    """A crop that a network takes.

    Raises:
        ValueError: if it is too small, or a side is no multiple of what the network wants
    """
    multiple, least = architecture.multiple, architecture.smallest
    if any(side % multiple or side < least for side in crop):
        raise ValueError(f"--crop: {architecture.name} takes sides of {least} and more that are multiples of {multiple}")
    return crop


def fit(trainer: Trainer, console: Console) -> None:
    """Epoch after epoch, with a bar, a log, checkpoints."""
    args = trainer.args
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(
            "epoch", total=args.epochs * trainer.steps_an_epoch, completed=trainer.epoch * trainer.steps_an_epoch
        )
        while trainer.epoch < args.epochs:
            started = time.monotonic()
            loss = trainer.run_epoch(lambda: progress.advance(bar))
            row: dict[str, float] = {
                "epoch": trainer.epoch,
                "loss": round(loss, 5),
                "seconds": round(time.monotonic() - started, 2),
            }
            trainer.history.append(row)  # at once: Ctrl-C may come while the epoch is scored
            last = trainer.epoch == args.epochs
            if last or trainer.epoch % args.validate_every == 0:
                found = trainer.validate()
                if found:
                    row |= {"mean_iou": found.mean_iou, "pixel_accuracy": found.pixel_accuracy}
                    row |= {f"iou_{name}": value for name, value in found.iou.items() if value is not None}
                if found is None or found.mean_iou > trainer.best:
                    trainer.best = found.mean_iou if found else trainer.best
                    checkpoint.save(args.out / "best.pt", trainer.weights_only())
                checkpoint.save(args.out / "last.pt", trainer.state())
                write_log(args.out, trainer.history)
            score = f", mIoU {row['mean_iou']:.4f} (best {trainer.best:.4f})" if "mean_iou" in row else ""
            progress.update(bar, description=f"epoch {trainer.epoch}/{args.epochs} loss {loss:.4f}{score}")
            if not console.is_terminal:
                print(f"epoch {trainer.epoch}/{args.epochs} loss {loss:.4f}{score} {row['seconds']} s", flush=True)


if __name__ == "__main__":
    # A shell has SIGINT ignored in what it starts in the background; `kill -INT` must leave a checkpoint there too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
