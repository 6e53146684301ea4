"""``python -m models.train``: train a network of the family on a folder of frames and labels, or of scans.

The light networks need nothing but the data: their encoder starts from the ImageNet weights of an installed package. The
others start from ``--start FILE``, or from nothing. Writes into ``--out``: ``last.pt`` (everything that ``--resume`` needs),
``best.pt`` (the weights with the best validation score), ``log.csv`` and ``curves.png``. Ctrl-C ends after a checkpoint.

``models.training.trainer`` does the training; every setting with its default in ``models.training.config``.
"""

from __future__ import annotations

import argparse
import signal
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from models.arguments import size_argument
from models.nets.architectures import ARCHITECTURES, FOR_SCANS
from models.training import checkpoint
from models.training.classes import TABLES, ClassTableError
from models.training.config import TrainingConfig, usual_device
from models.training.data import DataError
from models.training.log import write_log
from models.training.scan_trainer import ScanTrainer
from models.training.trainer import Run, Trainer, fit, load_data

NAMED = 12
"""Tensors with random start values that are named one by one."""


def parse(arguments: list[str] | None) -> TrainingConfig:
    """Read the command line."""
    known = ARCHITECTURES | FOR_SCANS
    parser = argparse.ArgumentParser(
        prog="python -m models.train",
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, help="folder with train/ and val/, each of images/ and labels/")
    data.add_argument("--train-splits", nargs="+", metavar="SPLIT", help="sub-folders to train on; 'train val' for a last run")
    data.add_argument("--val-split", help="sub-folder to validate on")
    data.add_argument("--extra", nargs="*", type=Path, metavar="FOLDER", help="further folders of images/ and labels/")
    data.add_argument("--partial", nargs="*", type=Path, metavar="FOLDER", help="folders whose labels hold some classes only")
    data.add_argument("--teacher", type=Path, metavar="FILE", help="checkpoint that finds what --partial folders leave out")
    data.add_argument("--scenes", type=int, metavar="N", help="painted scenes to train on")
    data.add_argument("--scene-weight", type=float, help="share of the semantic loss of painted scenes")
    data.add_argument("--also-validate", nargs="*", type=Path, metavar="FOLDER", help="further folders to validate on")
    data.add_argument("--classes", metavar="TABLE", help=f"class table: {', '.join(TABLES)} or a JSON file")
    data.add_argument("--maps", type=Path, metavar="FOLDER", help="label maps of heads from which scans are generated")
    data.add_argument("--hold-out", type=int, metavar="N", help="the last N scans or label maps are validated on")
    data.add_argument("--size", type=size_argument, help="working size, HEIGHTxWIDTH; the architecture's own where absent")
    net = parser.add_argument_group("network")
    net.add_argument("--architecture", choices=list(known), metavar="ARCH", help=", ".join(known))
    net.add_argument("--width", type=float, help="multiplier of every layer's channels; the light ones have one")
    net.add_argument(
        "--start",
        type=Path,
        metavar="FILE",
        help="weights to begin with: of an earlier stage, of other classes, or of an image classifier; the light networks take "
        "an installed package's where absent",
    )
    net.add_argument("--freeze", nargs="*", metavar="NAME", help="how the names of layers begin that are not trained")
    net.add_argument("--fixed-norm", action="store_true", help="loaded normalisation layers keep their statistics")
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument("--epochs", type=int)
    recipe.add_argument("--steps-an-epoch", type=int, help="for networks for scans")
    recipe.add_argument("--batch", type=int)
    recipe.add_argument("--crop", type=size_argument, help="HEIGHTxWIDTH of a training crop; the working size where absent")
    recipe.add_argument("--scale", type=float, nargs=2, metavar=("LOW", "HIGH"))
    recipe.add_argument("--color", type=float, help="strength of the changes of colour")
    recipe.add_argument("--camera", type=float, help="strength of what another camera changes: hue, perspective, blur, JPEG")
    recipe.add_argument("--paste", type=float, help="probability of pasting another frame's objects")
    recipe.add_argument("--paste-classes", nargs="*")
    recipe.add_argument("--lr", type=float)
    recipe.add_argument("--loaded-lr", type=float, help="share of --lr for what the start file filled")
    recipe.add_argument("--weight-decay", type=float)
    recipe.add_argument("--warm-up-epochs", type=float)
    recipe.add_argument("--drop", type=float, help="stochastic depth of a light encoder (0.1)")
    recipe.add_argument("--dropout", type=float, help="in the place of the network's own: 0.5 on VGG16, 0.1 on the others")
    recipe.add_argument("--auxiliary", type=float, help="weight of the auxiliary head's loss (fcn-resnet); 0 leaves it out")
    recipe.add_argument("--lovasz", type=float, help="weight of the Lovasz loss beside cross-entropy")
    recipe.add_argument("--lovasz-step", type=int, help="every how many pixels the Lovasz loss counts one")
    recipe.add_argument("--dice", type=float, help="weight of the Dice loss beside cross-entropy, for networks for scans")
    recipe.add_argument("--class-weights", type=float, nargs="*", metavar="W", help="of cross-entropy, for networks for scans")
    recipe.add_argument("--objects", type=float, help="weight of the losses of a panoptic network's centres and offsets")
    recipe.add_argument("--average", type=float, help="decay of the weight average")
    run = parser.add_argument_group("run")
    run.add_argument("--out", type=Path)
    run.add_argument("--resume", action="store_true", help="go on from OUT/last.pt")
    run.add_argument("--seed", type=int)
    run.add_argument("--validate-every", type=int, metavar="EPOCHS")
    run.add_argument("--device")
    run.add_argument(
        "--bfloat16", action="store_true", help="multiply in bfloat16, for processors with AVX-512 BF16; GPUs always do"
    )
    usual = {field.name: field.default for field in fields(TrainingConfig)}
    parser.set_defaults(**{**usual, "device": usual_device()})
    found = vars(parser.parse_args(arguments)).items()
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in found}
    return TrainingConfig(**values)


def main(arguments: list[str] | None = None) -> int:
    """Train; give the exit status."""
    config = parse(arguments)
    console = Console(stderr=True)
    try:
        trainer = ScanTrainer(config) if config.architecture in FOR_SCANS else Trainer(config, load_data(config))
        if config.resume:
            trainer.restore(checkpoint.load(config.out / "last.pt"))
    except (DataError, ClassTableError, checkpoint.CheckpointError, ModuleNotFoundError, ValueError, OSError) as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        return 2
    config.out.mkdir(parents=True, exist_ok=True)
    console.print(f"{config.architecture}: {trainer.describe()}; {config.device}; into {config.out}")
    if not config.resume and len(trainer.fresh) < len(list(trainer.net.parameters())):
        fresh = ", ".join(_layers(trainer.fresh))
        console.print(
            f"starting from random numbers: {fresh}" if fresh else "all layers start from the given weights", soft_wrap=True
        )
    try:
        _show(trainer, console)
    except KeyboardInterrupt:
        checkpoint.save(config.out / "last.pt", trainer.state())
        console.print(f"stopped in epoch {trainer.epoch + 1}; go on with --resume")
        return 130
    return 0


def _layers(names: list[str]) -> list[str]:
    """Names of tensors; those under a common first part are told by it if they are more than :data:`NAMED` in all."""
    return names if len(names) <= NAMED else list(dict.fromkeys(f"{name.partition('.')[0]}.*" for name in names))


def _show(trainer: Run, console: Console) -> None:
    """Train with a bar; one line an epoch on standard output where that is not a terminal."""
    config, steps = trainer.config, trainer.steps_an_epoch
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("epoch", total=config.epochs * steps, completed=trainer.epoch * steps)

        def report(row: dict[str, float]) -> None:
            write_log(config.out, trainer.history)
            means = ", ".join(f"{key.replace('mean_iou', 'mIoU')} {row[key]:.4f}" for key in row if key.startswith("mean_iou"))
            score = f", {means} (best {trainer.best:.4f})" if means else ""
            text = f"epoch {trainer.epoch}/{config.epochs} loss {row['loss']:.4f}{score}"
            progress.update(bar, description=text)
            if not console.is_terminal:
                print(f"{text} {row['seconds']} s", flush=True)

        fit(trainer, lambda: progress.advance(bar), report)


if __name__ == "__main__":
    # A shell has SIGINT ignored in what it starts in the background; `kill -INT` must leave a checkpoint there too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
