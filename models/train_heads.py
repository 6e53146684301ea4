"""``python -m models.train_heads CHECKPOINT``: train the centres and offsets of a panoptic network alone.

Everything before the heads stays as it is, and with it every score. So features are computed once for each frame, varied once,
and a step costs a small share of a step of ``models.train``: the way to object heads on a CPU. At last the heights of the
centres are rescaled (``models.training.heights``).
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from models.nets.panoptic import ObjectHeads, PanopticFCN
from models.scenes import CLASSES
from models.training import checkpoint
from models.training.augmentation import Augmentation
from models.training.classes import ClassTable, ClassTableError
from models.training.data import DataError, Frames, painted_frames, read_frames, stacked
from models.training.heights import TOP, measure_heights, rescale
from models.training.losses import IGNORED, center_loss, offset_loss
from models.training.objects import Targets, targets
from models.training.trainer import WeightAverage
from service.pipeline.manifest import InputPolicy
from service.pipeline.plan import fit_size
from service.pipeline.tasks.panoptic import LEAST_PEAK


@dataclass(frozen=True)
class Examples:
    """What the heads learn from: N frames."""

    features: Tensor
    """N x C x h x w float16."""
    wanted: Targets


@torch.no_grad()
def examples(net: PanopticFCN, frames: Frames, augment: Augmentation, generator: torch.Generator, label: str) -> Examples:
    """Vary each frame once and compute its features.

    Takes:
        label: what the progress bar says
    """
    features, found = [], []
    for index in track(range(len(frames)), description=label, console=Console(stderr=True)):
        batch = augment(frames.take(torch.tensor([index])), generator)
        features.append(net.fuse(batch.images.contiguous(memory_format=torch.channels_last)).half())
        found.append(targets(batch.objects, batch.labels, net.stride, IGNORED))
    return Examples(
        torch.cat(features),
        Targets(
            torch.cat([one.centers for one in found]),
            torch.cat([one.counted for one in found]),
            torch.cat([one.offsets for one in found]),
            torch.cat([one.weights for one in found]),
        ),
    )


def train_heads(
    heads: ObjectHeads, given: Examples, *, steps: int, batch: int, rate: float, average: float, seed: int
) -> ObjectHeads:
    """Train heads on features; AdamW, warm-up over a twentieth of the steps, cosine decay.

    Takes:
        average: decay of the weight average, which is what is returned
    """
    generator = torch.Generator().manual_seed(seed)
    heads.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in heads.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # a short run has no hundreds of steps for the statistics to follow
    averaged = WeightAverage(heads, average)
    optimizer = torch.optim.AdamW(heads.parameters(), rate, weight_decay=0.01)
    for step in track(range(steps), description="heads", console=Console(stderr=True)):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, 20 * (step + 1) / steps) * 0.5 * (1 + math.cos(math.pi * step / steps))
        chosen = torch.randint(0, len(given.features), (batch,), generator=generator)
        whole = given.wanted
        wanted = Targets(whole.centers[chosen], whole.counted[chosen], whole.offsets[chosen], whole.weights[chosen])
        centers, offsets = heads(given.features[chosen].float().contiguous(memory_format=torch.channels_last))
        of_centers, of_offsets = center_loss(centers, wanted), offset_loss(offsets, wanted)
        optimizer.zero_grad(set_to_none=True)
        (of_centers + of_offsets).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(heads.parameters(), 5.0)
        optimizer.step()
        averaged.update(heads)
        if (step + 1) % 50 == 0 or step + 1 == steps:
            print(f"step {step + 1}/{steps} centres {of_centers.item():.4f} offsets {of_offsets.item():.4f}", flush=True)
    return averaged.net


@torch.no_grad()
def centers_of(heads: ObjectHeads, given: Examples) -> Tensor:
    """Return the heatmaps of all examples, N x 1 x h x w float32."""
    heads.eval()
    parts = torch.split(given.features, 8)
    return torch.cat([heads(part.float().contiguous(memory_format=torch.channels_last))[0] for part in parts])


def panoptic_network(content: dict[str, Any], path: Path) -> PanopticFCN:
    """Build the network of a checkpoint.

    Raises:
        CheckpointError: if it has no heads of objects
    """
    net = checkpoint.network(content)
    if not isinstance(net, PanopticFCN):
        raise checkpoint.CheckpointError(f"{path}: {content['architecture']} has no heads of objects")
    return net


def load(args: argparse.Namespace, table: ClassTable, policy: InputPolicy) -> Frames:
    """Read the frames and paint the scenes.

    Raises:
        DataError: if there are none, or scenes have other classes
    """
    if args.scenes and table.names != CLASSES:
        raise DataError(f"painted scenes have the classes {', '.join(CLASSES)}; '{table.name}' has others")
    frames = [frame for folder in args.data for frame in read_frames(folder, table, policy, objects=True)]
    frames += painted_frames(args.scenes, policy, first_seed=args.first_seed)
    if not frames:
        raise DataError("nothing to train on: give --data FOLDER or --scenes N")
    return stacked(frames)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m models.train_heads",
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint of a panoptic network")
    parser.add_argument("--data", nargs="*", type=Path, default=[], metavar="FOLDER", help="images/, labels/, perhaps objects/")
    parser.add_argument("--scenes", type=int, default=200, help="painted scenes")
    parser.add_argument("--first-seed", type=int, default=1000, help="of the painted scenes")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--average", type=float, default=0.98, help="decay of the weight average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.pt")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Train; give the exit status."""
    args = parse(arguments)
    console = Console(stderr=True)
    try:
        content = checkpoint.load(args.checkpoint)
        net = panoptic_network(content, args.checkpoint)
        policy = checkpoint.input_policy(content)
        frames = load(args, checkpoint.class_table(content), policy)
    except (DataError, ClassTableError, checkpoint.CheckpointError, OSError) as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        return 2
    crop = fit_size(*policy.working_size, policy)
    augment = Augmentation(crop=crop, scale=(0.7, 1.5), camera=0.5, paste=0.0)
    generator = torch.Generator().manual_seed(args.seed)
    torch.manual_seed(args.seed)
    given = examples(net, frames, augment, generator, "features")
    heads = train_heads(
        net.objects, given, steps=args.steps, batch=args.batch, rate=args.lr, average=args.average, seed=args.seed
    )
    try:
        heights = measure_heights(centers_of(heads, given), given.wanted)
    except ValueError as error:
        console.print(f"{error}; heights stay as they are", markup=False, highlight=False, soft_wrap=True)
    else:
        rescale(heads.center, heights)
        print(f"heights of {heights.least:.2f} and {heights.top:.2f} became {LEAST_PEAK} and {TOP}", flush=True)
    net.objects.load_state_dict(heads.state_dict())
    checkpoint.save(args.out, checkpoint.with_weights(content, net.state_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
