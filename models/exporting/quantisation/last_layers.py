"""The last layers of a quantised graph as products of integers, with the channels last.

The last convolutions keep their float weights (:attr:`models.exporting.quantisation.maps.Maps.tail`). As float operators they
read a map that is turned, made floats of, and turned again into blocks of channels: 0.9 ms of a layer of three channels at
112 x 150 cells, on one thread of an EPYC with VNNI. With each weight as two digits of 7 bits, one product of integers takes
0.2 ms. What the digits leave is a 16,000th of a channel's largest weight at the most, far below the step of the map's 8 bits.

What else reads the map reads it with the channels last, too: the heads are a session of their own, and no session turns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from models.exporting.graph import with_nodes

DIGIT = 64
"""The base of the digits: with 7 bits, no sum of two products with bytes overflows 16 bits."""
MOST = DIGIT * (DIGIT - 1) + DIGIT // 2 - 1
"""The largest number of two digits."""
LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
"""The axes of N x C x H x W with the channels last, and the way back."""


def as_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace the float convolutions of one pixel whose input is a map in 8 bits.

    Takes:
        model: a graph with QuantizeLinear and DequantizeLinear; it is left as it is
    """
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    maker = {name: node for node in model.graph.node for name in node.output}
    layers = {node.output[0]: maker[node.input[0]] for node in model.graph.node if _is_last(node, maker, weights)}
    turned = {floats.input[0] for floats in layers.values()}
    nodes: list[NodeProto] = []
    added: dict[str, NDArray[np.generic]] = {}
    for node in model.graph.node:
        if node.output[0] in layers:
            nodes += _product(node, layers[node.output[0]], weights, added)
            continue
        copied = NodeProto()
        copied.CopyFrom(node)
        copied.input[:] = [f"{name}/turned_back" if name in turned else name for name in node.input]
        nodes.append(copied)
        for name in turned.intersection(node.output):
            nodes.append(helper.make_node("Transpose", [name], [f"{name}/last"], f"{name}/last", perm=LAST))
            nodes.append(helper.make_node("Transpose", [f"{name}/last"], [f"{name}/turned_back"], f"{name}/back", perm=FIRST))
    return with_nodes(model, _read(nodes, model.graph), [numpy_helper.from_array(np.asarray(a), n) for n, a in added.items()])


def _is_last(node: NodeProto, maker: dict[str, NodeProto], weights: dict[str, NDArray[np.generic]]) -> bool:
    """Whether a node is a convolution of float weights, one pixel wide, of a map in 8 bits."""
    if node.op_type != "Conv" or len(node.input) != 3 or any(name not in weights for name in node.input[1:]):
        return False
    before = maker.get(node.input[0])
    if before is None or before.op_type != "DequantizeLinear" or before.input[0] not in maker:
        return False
    told = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    plain = told.get("group", 1) == 1 and not any(told.get("pads", ())) and set(told.get("strides", (1,))) == {1}
    return plain and weights[node.input[1]].shape[2:] == (1, 1) and weights[before.input[1]].size == 1


def _product(
    node: NodeProto, floats: NodeProto, weights: dict[str, NDArray[np.generic]], added: dict[str, NDArray[np.generic]]
) -> list[NodeProto]:
    """The nodes in the place of a convolution.

    Takes:
        floats: the DequantizeLinear of its input
        added: gets their constants
    """
    name, (bytes_, scale, zero) = node.output[0], floats.input
    kernel = weights[node.input[1]].astype(np.float64)[:, :, 0, 0].T  # C x K
    steps = np.maximum(np.abs(kernel).max(0), 1e-30) / MOST
    integers = np.rint(kernel / steps)
    high = np.rint(integers / DIGIT)
    scales = np.concatenate([DIGIT * steps, steps]) * float(weights[scale])
    constants: dict[str, NDArray[np.generic]] = {
        "digits": np.concatenate([high, integers - DIGIT * high], 1).astype(np.int8),
        "scales": scales.astype(np.float32).reshape(-1, 1, 1),
        "bias": weights[node.input[2]].reshape(-1, 1, 1),
    }
    added |= {f"{name}/{what}": array for what, array in constants.items()}

    def made_by(kind: str, read: Sequence[str], *made: str, **attributes: Any) -> NodeProto:
        return helper.make_node(kind, read, [f"{name}/{what}" for what in made], f"{name}/{kind}", **attributes)

    return [
        made_by("MatMulInteger", [f"{bytes_}/last", f"{name}/digits", zero], "sums"),
        made_by("Transpose", [f"{name}/sums"], "turned", perm=FIRST),
        made_by("Cast", [f"{name}/turned"], "numbers", to=TensorProto.FLOAT),
        made_by("Mul", [f"{name}/numbers", f"{name}/scales"], "scaled"),
        made_by("Split", [f"{name}/scaled"], "high", "low", axis=1, num_outputs=2),
        made_by("Add", [f"{name}/high", f"{name}/low"], "both"),
        helper.make_node("Add", [f"{name}/both", f"{name}/bias"], [name], node.name),
    ]


def _read(nodes: list[NodeProto], graph: onnx.GraphProto) -> list[NodeProto]:
    """The nodes whose results are read, or are outputs."""
    wanted = {output.name for output in graph.output}
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]
