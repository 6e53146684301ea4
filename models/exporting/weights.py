"""Published weights into the networks of the family: state dicts of torchvision, of pytorch-fcn, and of our own.

Read are torch's files, the zip form and the older one, and safetensors. A state dict may lie inside ``{"model": ...}``,
``{"state_dict": ...}`` or ``{"model_state_dict": ...}``, as training scripts write it beside their optimiser, and its names may
begin with ``module.``, as DataParallel leaves them. Nothing in a file is ever run: torch's restricted unpickler builds tensors,
plain containers and the few harmless types of :data:`BYSTANDERS`, and refuses the rest.

Weights load completely or not at all. Which network they belong to is told by their names and shapes; FCN8s and FCN8sAtOnce
alone have the same, so that there the name that was asked for decides.

Training may also begin with less: :func:`start_from` takes what fits, as long as that is the whole of the classifier that a
network grew out of.
"""

from __future__ import annotations

import argparse
import pickle
import pickletools
import warnings
from collections.abc import Mapping
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.nets.architectures import ARCHITECTURES, build
from models.nets.fcn import FCN
from models.nets.network import AUXILIARY, Network
from models.nets.vgg import BLOCKS
from models.training import checkpoint
from models.training.checkpoint import CheckpointError

WRAPPERS = ("model", "state_dict", "model_state_dict")
"""Where training scripts put the state dict."""

_SCALAR = np.float64(0).__reduce__()[0]
BYSTANDERS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *{type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?")},
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]
"""What training scripts store beside the weights and what does nothing when it is built: torchvision's command line,
pytorch-fcn's best score as a numpy number."""

REFUSALS = ("GLOBAL", "Can only create", "Can only build", "unrecognized function")
"""How torch's unpickler says that a file holds something other than that; what else it says is damage."""
NAMES_CODE = {"GLOBAL", "STACK_GLOBAL", "INST"}
"""Operators by which a pickle names functions and classes."""

OPTIONAL = ".num_batches_tracked"
"""Counters of batch normalisation, which no score depends on; files from before 2018 have none."""
NAMED_IN_ERRORS = 8


def _vgg16_names() -> dict[str, str]:
    """A VGG16's tensors under their usual names, numbered through with ReLUs and poolings between, and under the paper's."""
    layers = {"classifier.0": "fc6", "classifier.3": "fc7"}
    number = 0
    for block, (count, _) in enumerate(BLOCKS, 1):
        for layer in range(1, count + 1):
            layers[f"features.{number}"] = f"conv{block}_{layer}"
            number += 2
        number += 1
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in layers.items() for kind in ("weight", "bias")}


_VGG16 = _vgg16_names()


def load_weights(net: Network, architecture: str, path: Path) -> Network:
    """Fill a network with the weights of a file.

    The auxiliary head's are left out where the network has none.

    Takes:
        architecture: the network's name in the family's table, for the error that says whose weights these are
    Gives:
        the network, ready to predict
    Raises:
        CheckpointError: if the file can't be read, if its weights are of another network, or if a tensor is missing, too many
            or of another shape, naming each
    """
    weights = read_weights(path)
    wanted = net.state_dict()
    if not any(name.startswith(AUXILIARY) for name in wanted):
        weights = {name: value for name, value in weights.items() if not name.startswith(AUXILIARY)}
    if faults := _faults(weights, wanted):
        owners = recognise(weights)
        if owners and architecture not in owners:
            raise CheckpointError(f"{path}: these are weights of {' or '.join(owners)}, not of {architecture}")
        if planes := _other_classes(weights, wanted, net.classes):
            raise CheckpointError(f"{path}: these weights are for {planes} classes, the class table has {net.classes}")
        raise CheckpointError(f"{path}: these weights do not fit {architecture}: {'; '.join(faults)}")
    net.load_state_dict(weights, strict=False)  # nothing but counters can be missing now
    return net.eval()


def start_from(net: Network, path: Path) -> list[str]:
    """Fill a network with what fits, to train on: weights of an earlier stage (FCN-16s for FCN-8s, as in section 4.2 of Long et
    al.), of the same network for other classes, or of an image classifier.

    Takes:
        path: a checkpoint of ours, or a state dict as for :func:`read_weights`; a classifier's has its publisher's names:
            torchvision's of ResNet, those that pytorch-fcn's Caffe VGG16 shares with torchvision, EfficientNet-Lite's
    Gives:
        the names of the tensors that keep their random values
    Raises:
        CheckpointError: if the file can't be read, or does not hold all of ``net.pretrained`` in the network's shapes
    """
    if checkpoint.is_ours(path):
        weights: dict[str, Tensor] = checkpoint.load(path)["weights"]
    else:
        weights = read_weights(path)
    wanted = net.state_dict()
    renamed = {_in_network(name, net): value for name, value in weights.items()}
    for name, value in renamed.items():
        if name in ("fc6.weight", "fc7.weight") and value.ndim == 2 and value.numel() == wanted[name].numel():
            renamed[name] = value.view_as(wanted[name])  # a fully connected layer as a convolution (section 3.1)
    taken = {name: value for name, value in renamed.items() if name in wanted and value.shape == wanted[name].shape}
    needed = {name: value for name, value in wanted.items() if name.startswith(net.pretrained)}
    if faults := _faults({name: value for name, value in renamed.items() if name in needed}, needed):
        raise CheckpointError(f"{path}: training can't start from these weights: {'; '.join(faults)}")
    net.load_state_dict(taken, strict=False)
    return [name for name in wanted if name not in taken and not name.endswith(OPTIONAL)]


def _in_network(published: str, net: Network) -> str:
    """Return the name of an image classifier's tensor in a network; the name itself where it is not a classifier's."""
    if published in _VGG16:
        return _VGG16[published]
    if isinstance(net, FCN):
        own = net.encoder.own_name(published)
        return f"encoder.{own}" if own else published
    return f"backbone.{published}" if f"backbone.{published}" in net.state_dict() else published


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, out of its wrappings.

    Gives:
        tensors by name, on the CPU
    Raises:
        CheckpointError: if the file is missing, damaged, holds objects that would have to be run, or holds no state dict
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    content: Any = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    while isinstance(content, Mapping) and (wrapper := next((key for key in WRAPPERS if key in content), None)):
        content = content[wrapper]
    if not isinstance(content, Mapping) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path}: no state dict: neither tensors by name, nor any under {', '.join(WRAPPERS)}")
    prefix = "module." if all(str(name).startswith("module.") for name in content) else ""
    return {str(name).removeprefix(prefix): value for name, value in content.items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {_first_line(error)}") from error


def _read_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(BYSTANDERS), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if any(sign in str(error) for sign in REFUSALS) or _names_code(path):
            raise CheckpointError(
                f"{path}: holds more than tensors, and what it holds would have to be run to be read; it is refused,"
                " nothing was run. Save the network's state_dict() alone, by torch.save"
            ) from error
        raise CheckpointError(f"{path}: not a readable checkpoint: truncated or damaged") from error
    except Exception as error:  # a damaged file raises whatever its damage leads to, often without a word
        raise CheckpointError(f"{path}: not a readable checkpoint: {_first_line(error)}") from error


def _names_code(path: Path) -> bool:
    """Whether a bare pickle names something to be run, told without running it.

    torch reads the protocol of its own ``save`` alone: in the others it stumbles over the first thing that it does not know.
    """
    try:
        with path.open("rb") as file:
            return any(opcode.name in NAMES_CODE for opcode, _, _ in pickletools.genops(file))
    except Exception:  # noqa: BLE001  # no pickle
        return False


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _faults(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Return the differences between weights and a network, one phrase a kind; none where they fit."""
    missing = [name for name in wanted if name not in weights and not name.endswith(OPTIONAL)]
    extra = [name for name in weights if name not in wanted]
    misshapen = [
        f"{name} is {_shape(weights[name])}, not {_shape(wanted[name])}"
        for name in wanted
        if name in weights and weights[name].shape != wanted[name].shape
    ]
    kinds = {"missing": missing, "too many": extra, "of another shape": misshapen}
    return [f"{kind}: {_listed(names)}" for kind, names in kinds.items() if names]


def _other_classes(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], classes: int) -> int | None:
    """How many classes weights are for, where that is all that keeps them from a network."""
    if weights.keys() - wanted or any(name not in weights and not name.endswith(OPTIONAL) for name in wanted):
        return None
    sides = {
        (want, found)
        for name, value in weights.items()
        for want, found in zip_longest(wanted[name].shape, value.shape)
        if want != found
    }
    wants, found = ({side[index] for side in sides} for index in (0, 1))
    return found.pop() if wants == {classes} and len(found) == 1 else None


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _listed(names: list[str]) -> str:
    more = len(names) - NAMED_IN_ERRORS
    return ", ".join(names[:NAMED_IN_ERRORS]) + (f" and {more} more" if more > 0 else "")


def recognise(weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The networks of the family whose tensors these are: those with most of their names, then those with most of their shapes.

    Gives:
        names in the family's table, more than one where they can't be told apart, as FCN8s and FCN8sAtOnce; none where less
        than half of the names are any one network's
    """
    found = {name: value.shape for name, value in weights.items() if not name.startswith(AUXILIARY)}
    likeness = {
        name: (len(found.keys() & shapes.keys()) / len(found.keys() | shapes.keys()), len(found.items() & shapes.items()))
        for name, shapes in _family_shapes().items()
    }
    best = max(likeness.values())
    return tuple(name for name, value in likeness.items() if value == best) if best[0] >= 0.5 else ()


@cache
def _family_shapes() -> dict[str, dict[str, torch.Size]]:
    """The tensors of every network of the family, for one class, from networks that take no memory."""
    with torch.device("meta"):
        return {name: {key: value.shape for key, value in build(name, 1).state_dict().items()} for name in ARCHITECTURES}
