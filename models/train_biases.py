"""``python -m models.train_biases CHECKPOINT``: fit the biases of the scores alone, with all classes of one weight.

The losses of ``models.train`` weigh rare classes more, so that they are learned at all; the network then claims them too often.
Here cross-entropy and the Lovasz loss have no weights. Scores are computed once, at some pixels of each frame, so that a step
costs milliseconds. All other weights stay.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from models.nets.network import Network
from models.training import checkpoint
from models.training.classes import ClassTable, ClassTableError
from models.training.data import DataError, Frame, read_frames
from models.training.losses import IGNORED, lovasz_softmax
from models.training.partial import sure_frames
from service.pipeline.manifest import InputPolicy

CROSS_ENTROPY = 0.3
"""Weight of cross-entropy beside the Lovasz loss."""
PIXELS = 4000
"""Labelled pixels of a frame, at the most."""
BATCH = 12_000
"""Pixels of a data set in a step."""


class Pixels(NamedTuple):
    """Pixels of a data set."""

    scores: Tensor
    """P x K float32."""
    labels: Tensor
    """P int64."""


@torch.no_grad()
def sampled(net: Network, frames: Iterable[Frame], generator: torch.Generator) -> Pixels:
    """Compute the scores of labelled pixels, as the service upsamples them.

    Takes:
        net: a network in evaluation mode
        frames: at the network's size
    Raises:
        DataError: if no pixel is labelled
    """
    scores, labels = [torch.zeros(0, net.classes)], [torch.zeros(0, dtype=torch.int64)]
    for frame in frames:
        truth = torch.from_numpy(frame.labels).long().flatten()
        known = (truth != IGNORED).nonzero()[:, 0]
        chosen = known[torch.randperm(len(known), generator=generator)[:PIXELS]]
        scored = net.scores(torch.from_numpy(frame.image).permute(2, 0, 1)[None].float())
        whole = F.interpolate(scored, size=frame.labels.shape, mode="bilinear", align_corners=False)
        scores.append(whole[0].flatten(1)[:, chosen].T)
        labels.append(truth[chosen])
    if len(labels) == 1 or not sum(map(len, labels)):
        raise DataError("no pixel is labelled")
    return Pixels(torch.cat(scores), torch.cat(labels))


def fitted_biases(sets: list[Pixels], *, steps: int, rate: float, seed: int = 0) -> Tensor:
    """Find what is to be added to the scores so that the losses are least; Adam, cosine decay, all sets of one weight.

    Gives:
        K float32
    """
    generator = torch.Generator().manual_seed(seed)
    biases = torch.zeros(sets[0].scores.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([biases], rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        losses = []
        for scores, labels in sets:
            chosen = torch.randint(0, len(labels), (BATCH,), generator=generator)
            scored, truth = scores[chosen] + biases, labels[chosen]
            overlap = lovasz_softmax(scored.softmax(1).T[None, :, :, None], truth[None, :, None])
            losses.append(overlap + CROSS_ENTROPY * F.cross_entropy(scored, truth))
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return biases.detach()


def biases_of(net: Network, path: Path) -> Tensor:
    """Return the biases of the layer that makes the scores.

    Raises:
        CheckpointError: if the network has no such layer
    """
    layer = getattr(net, "score", None)
    if not isinstance(layer, nn.Conv2d) or layer.bias is None:
        raise checkpoint.CheckpointError(f"{path}: the network has no layer of scores with biases")
    return layer.bias


def samples(args: argparse.Namespace, net: Network, table: ClassTable, policy: InputPolicy) -> list[Pixels]:
    """Sample every folder.

    Raises:
        DataError: if there is none, or one can't be used
    """
    generator = torch.Generator().manual_seed(args.seed)
    found = []
    for folder in track([*args.data, *args.partial], description="scores", console=Console(stderr=True)):
        frames = list(read_frames(folder, table, policy))[:: args.every]
        found.append(sampled(net, sure_frames(frames, net, ()) if folder in args.partial else frames, generator))
    if not found:
        raise DataError("nothing to fit on: give --data FOLDER")
    return found


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m models.train_biases",
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint that models.train wrote")
    parser.add_argument("--data", nargs="*", type=Path, default=[], metavar="FOLDER", help="images/ and labels/")
    parser.add_argument(
        "--partial", nargs="*", type=Path, default=[], metavar="FOLDER", help="the same, of some of the classes only"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th frame")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.pt")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Fit; give the exit status."""
    args = parse(arguments)
    try:
        content = checkpoint.load(args.checkpoint)
        net, table = checkpoint.network(content), checkpoint.class_table(content)
        biases = biases_of(net, args.checkpoint)
        added = fitted_biases(
            samples(args, net, table, checkpoint.input_policy(content)), steps=args.steps, rate=args.lr, seed=args.seed
        )
    except (DataError, ClassTableError, checkpoint.CheckpointError, OSError) as error:
        Console(stderr=True).print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        return 2
    with torch.no_grad():
        biases.add_(added)
    for name, value in zip(table.names, added.tolist(), strict=True):
        print(f"{name} {value:+.2f}")
    checkpoint.save(args.out, checkpoint.with_weights(content, net.state_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
