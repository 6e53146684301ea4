"""Checkpoints: what a file holds, written whole or not at all, read without running any code of its own.

Two forms are read. In the one that is written the network is told by its ``architecture``, a name of the family, and ``width``,
its multiplier of channels, and ``classes`` is a class table in JSON. In the older one it is told by ``config``, the fields of
FCNConfig, and ``classes`` is a table's name.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from models.nets.architectures import architecture, build
from models.nets.fcn import FCN, FCNConfig
from models.nets.network import AUXILIARY, Network
from models.training.classes import TABLES, ClassTable, ClassTableError, from_json
from service.pipeline.manifest import InputPolicy

FORMAT, OLDER_FORMAT = "fcn-serve-checkpoint-2", "fcn-serve-checkpoint-1"
_HELD = {FORMAT: {"architecture", "width", "classes", "weights"}, OLDER_FORMAT: {"config", "classes", "weights"}}
"""Keys that a file of each format must hold."""


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
        name: value.half() if value.ndim >= 4 and not name.startswith(("mean", "std")) else value
        for name, value in weights.items()
    }


def with_weights(content: dict[str, Any], weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What to save of a checkpoint whose weights have changed: all but its calibration, which was measured on the old ones.

    Takes:
        content: as :func:`load` gives it
        weights: a state dict, which is saved :func:`compact`
    """
    kept = {key: value for key, value in content.items() if key not in ("format", "calibration")}
    return {**kept, "weights": compact(weights)}


def is_ours(path: Path) -> bool:
    """Whether :func:`save` wrote a file, without reading its tensors."""
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except Exception:  # noqa: BLE001  # whatever is wrong with it, the loader that is chosen then says
        return False
    return isinstance(content, dict) and content.get("format") in _HELD


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Gives:
        a dictionary with at least ``architecture``, ``width``, ``classes`` and ``weights``, a state dict; an older file's has
        ``config`` as well
    Raises:
        CheckpointError: if the file is missing, truncated, holds code, or was not written by :func:`save`
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever its damage leads to, often without a word
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: not a readable checkpoint: {reason}") from error
    held = _HELD.get(content.get("format", "")) if isinstance(content, dict) else None
    if held is None or not held <= content.keys():
        raise CheckpointError(f"{path}: not a checkpoint of models.train (format {FORMAT})")
    if content["format"] == OLDER_FORMAT:
        try:
            return {**content, "architecture": FCNConfig(**content["config"]).name, "width": 1.0}
        except TypeError as error:
            raise CheckpointError(f"{path}: of a network that this version does not know: {error}") from error
    return dict(content)


def class_table(content: dict[str, Any]) -> ClassTable:
    """The class table of a checkpoint.

    Raises:
        CheckpointError: if it is none
    """
    try:
        return TABLES.get(content["classes"]) or from_json(content["classes"], "the checkpoint's classes")
    except ClassTableError as error:
        raise CheckpointError(str(error)) from error


def input_policy(content: dict[str, Any]) -> InputPolicy:
    """How inputs are brought to the network: as the checkpoint says, else the architecture's own at the working size."""
    if "input" in content:
        return InputPolicy.model_validate(content["input"])
    return architecture(content["architecture"]).policy(tuple(content["working_size"]))


def network(content: dict[str, Any]) -> Network:
    """The network of a checkpoint, with its weights, ready to predict; the auxiliary head is left out.

    Raises:
        CheckpointError: if the weights do not fit the network, or it is none that this version knows
    """
    weights = {name: value for name, value in content["weights"].items() if not name.startswith(AUXILIARY)}
    classes = len(class_table(content).entries)
    try:
        if "config" in content:
            net: Network = FCN(FCNConfig(**content["config"]))
        else:
            net = build(content["architecture"], classes, width=content["width"])
        net.load_state_dict(weights)
    except (RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"weights do not fit {content['architecture']}: {error}") from error
    return net.eval()
