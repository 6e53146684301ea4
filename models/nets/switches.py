"""A network that unpools beside its graph: where two pixels of a pooling cell are equal up to a rounding, either may be the
maximum.

Its switch decides where a whole value returns to, so that the scores around it differ by far more than a rounding, though
neither side is wrong: of DeconvNet's 1.5 million switches at 224 x 224 and full width some ten differ between ONNX Runtime and
PyTorch, and as many between PyTorch with its batch normalisations and with these folded. So the graph's own switches are read
out. Each must lie on a pixel of its cell that is the maximum but for a rounding, and PyTorch, given the graph's switches, must
then give the graph's scores as any other network does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.nets.network import Network
from models.nets.upsampling import MaxPool, MaxUnpool

UNPOOLING = "ScatterElements"
"""What :class:`models.nets.upsampling.MaxUnpool` becomes; its second input are the switches."""


def unpools(net: Network) -> bool:
    """Whether a network's scores hang on recorded maxima."""
    return any(isinstance(module, MaxUnpool) for module in net.modules())


def with_switches(file: Path) -> Path:
    """The same graph once more beside a file, with its switches as further outputs.

    Beside it, because a large graph's weights are found from where it lies; the caller removes it.
    """
    model = onnx.load(file, load_external_data=False)
    names = [node.input[1] for node in model.graph.node if node.op_type == UNPOOLING]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None) for name in names)
    probe = file.with_name(f"{file.name}.switches")
    onnx.save(model, probe)
    return probe


@dataclass(frozen=True)
class Replayed:
    """PyTorch's scores with the switches of a graph, and what these are worth."""

    scores: NDArray[np.float32]
    switches: int
    moved: int
    """Those that are not PyTorch's own."""
    gap: float
    """The most by which a switch's pixel is below its cell's maximum, as a share of its map's largest value."""


def replay(net: nn.Module, images: Tensor, switches: Sequence[NDArray[np.int64]] | None) -> Replayed:
    """Run a network with given switches in the place of its own.

    Takes:
        net: it gets ``images`` as they are
        switches: N x C x (h * w) of every unpooling, in the order in which they run; None leaves the network its own
    Raises:
        ValueError: if the network does not unpool so many times, or if a switch lies in another cell than its own
    """
    if switches is None:
        with torch.no_grad():
            return Replayed(net(images).numpy(), 0, 0, 0.0)
    pooled: list[tuple[Tensor, Tensor]] = []
    given = [torch.from_numpy(places) for places in switches]
    taken: list[tuple[int, int, float]] = []

    def remember(_module: nn.Module, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, Tensor]) -> None:
        pooled.append((inputs[0], outputs[1]))

    def exchange(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        (source,) = (values for values, places in pooled if places is inputs[1])
        if len(taken) == len(given):
            raise ValueError(f"the graph unpools {len(given)} times, the network more often")
        places = given[len(taken)].view(inputs[1].shape)
        taken.append((places.numel(), int((places != inputs[1]).sum()), _gap(source, inputs[1], places)))
        return inputs[0], places

    hooks = [module.register_forward_hook(remember) for module in net.modules() if isinstance(module, MaxPool)]
    hooks += [module.register_forward_pre_hook(exchange) for module in net.modules() if isinstance(module, MaxUnpool)]
    try:
        with torch.no_grad():
            scores = net(images).numpy()
    finally:
        for hook in hooks:
            hook.remove()
    if len(taken) != len(given):
        raise ValueError(f"the graph unpools {len(given)} times, the network {len(taken)} times")
    return Replayed(
        scores,
        sum(count for count, _, _ in taken),
        sum(moved for _, moved, _ in taken),
        max((gap for _, _, gap in taken), default=0.0),
    )


def _gap(values: Tensor, own: Tensor, places: Tensor) -> float:
    """How far below the maxima the values at other places are.

    Takes:
        values: N x C x 2h x 2w
        own, places: N x C x h x w, a place in the plane each: PyTorch's and the graph's
    Raises:
        ValueError: if one of them lies in another cell
    """
    width = values.shape[3]
    other = places != own
    mine, theirs = own[other], places[other]
    if not len(theirs):
        return 0.0
    if not bool(((theirs // width // 2 == mine // width // 2) & (theirs % width // 2 == mine % width // 2)).all()):
        raise ValueError("a recorded maximum of the graph lies in another cell than its own")
    flat = values.flatten(2)
    below = (flat.gather(2, own.flatten(2)) - flat.gather(2, places.flatten(2))).max()
    return float(below / values.abs().max())
