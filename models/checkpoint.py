"""Checkpoints: what a file holds, written whole or not at all, read without running any code of its own.

May import: torch, ``models.fcn``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from models.fcn import FCN, FCNConfig

FORMAT = "fcn-serve-checkpoint-1"


class CheckpointError(ValueError):
    """A checkpoint that can't be used; the message names the file and the reason."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint; a reader never sees half a file."""
    temporary = path.with_suffix(path.suffix + ".part")
    torch.save({"format": FORMAT, **content}, temporary)
    temporary.replace(path)


def compact(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict with its kernels in half precision: half the file, and no score changes in the fourth decimal.

    They are float32 again, and exactly these values, in the network that loads them.
    """
    return {
        name: value.half() if value.ndim == 4 and not name.startswith(("mean", "std")) else value
        for name, value in weights.items()
    }


def is_ours(path: Path) -> bool:
    """Whether :func:`save` wrote a file, without reading its tensors."""
    try:
        content = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except Exception:  # noqa: BLE001  # whatever is wrong with it, the loader that is chosen then says
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Gives:
        a dictionary with at least ``config`` (FCNConfig's fields), ``classes`` (a class table's name) and ``weights``,
        a state dict
    Raises:
        CheckpointError: if the file is missing, truncated, holds code, or was not written by :func:`save`
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever its damage leads to, often without a word
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: not a readable checkpoint: {reason}") from error
    if (
        not isinstance(content, dict)
        or content.get("format") != FORMAT
        or not {"config", "classes", "weights"} <= content.keys()
    ):
        raise CheckpointError(f"{path}: not a checkpoint of models.train (format {FORMAT})")
    return content


def network(content: dict[str, Any]) -> FCN:
    """The network of a checkpoint, with its weights, ready to predict.

    Raises:
        CheckpointError: if the weights do not fit the configuration, or it is of no network that this version knows
    """
    try:
        net = FCN(FCNConfig(**content["config"]))
        net.load_state_dict(content["weights"])
    except (RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"weights do not fit {content['config']}: {error}") from error
    return net.eval()
