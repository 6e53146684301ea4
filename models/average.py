"""``python -m models.average CHECKPOINT=SHARE ... --out FILE.pt``: mix the weights of checkpoints of one network.

Weights that were fine-tuned from common ones can be averaged, with the common ones too. Most of the new skill stays, and less
of the old is lost (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022; "Model
soups", ICML 2022). Tensors that one checkpoint alone has, as new heads, are taken as they are.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from models.training import checkpoint


def mixed(contents: list[dict[str, Any]], shares: list[float]) -> dict[str, Tensor]:
    """Average state dicts tensor by tensor.

    Takes:
        contents: checkpoints
        shares: one each, 0 or more, not all 0; of those that have a tensor they are scaled to a sum of 1
    Gives:
        a state dict with the tensors of all
    Raises:
        CheckpointError: if a tensor has unlike shapes
    """
    weights: dict[str, Tensor] = {}
    for name in dict.fromkeys(name for content in contents for name in content["weights"]):
        both = zip(contents, shares, strict=True)
        held = [(content["weights"][name], share) for content, share in both if name in content["weights"]]
        if len({tuple(tensor.shape) for tensor, _ in held}) > 1:
            raise checkpoint.CheckpointError(f"{name} has unlike shapes: {', '.join(str(tuple(t.shape)) for t, _ in held)}")
        total = sum(share for _, share in held)
        if not held[0][0].is_floating_point() or total == 0:
            weights[name] = held[0][0]
        else:
            weights[name] = torch.stack([tensor.double() * (share / total) for tensor, share in held]).sum(0).float()
    return weights


def main(arguments: list[str] | None = None) -> int:
    """Mix; give the exit status."""
    parser = argparse.ArgumentParser(prog="python -m models.average", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("mix", nargs="+", metavar="CHECKPOINT=SHARE", help="the first tells architecture and classes")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.pt")
    args = parser.parse_args(arguments)
    try:
        parts = [part.rpartition("=") for part in args.mix]
        contents = [checkpoint.load(Path(path)) for path, _, _ in parts]
        weights = mixed(contents, [float(share) for _, _, share in parts])
        content = checkpoint.with_weights(contents[0], weights)
        content.pop("config", None)
        checkpoint.network(content)
    except (checkpoint.CheckpointError, ValueError) as error:
        Console(stderr=True, soft_wrap=True).print(str(error), style="red", markup=False, highlight=False)
        return 2
    checkpoint.save(args.out, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
