"""Which tensors of a graph are kept in 8 bits.

A *map* is a float tensor that depends on the image and has a batch, channels, and two or three sides. A convolution, a sum, a
concatenation, a pooling or a resizing makes one. An activation or a crop that alone reads it belongs to the same operation, so
the map after it is the one that is kept in 8 bits: the *carried* map.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper, shape_inference

from models.exporting.graph import readers, with_nodes

MAKERS = frozenset(("Conv", "Add", "Concat", "MaxPool", "Resize"))
"""Operators whose result is kept in 8 bits."""

BELONGING = frozenset(("Clip", "Relu", "Slice"))
"""Operators that belong to the one before, where no other operator reads between them."""

MOVING = frozenset(("Slice", "MaxPool", "Reshape", "Transpose"))
"""Operators whose results are numbers of their input: they need no range of their own."""


class Maps:
    """A float32 graph, its weights, and its maps.

    Takes:
        model: is left as it is; its shapes may be free
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.maker = {name: node for node in self.nodes for name in node.output}
        self.readers = readers(model.graph)
        self.outputs = frozenset(output.name for output in model.graph.output)

    @cached_property
    def ranks(self) -> dict[str, int]:
        """The number of sides of every float tensor whose rank is known."""
        graph = shape_inference.infer_shapes(self.model).graph
        return {
            value.name: len(value.type.tensor_type.shape.dim)
            for value in (*graph.value_info, *graph.output)
            if value.type.tensor_type.elem_type == TensorProto.FLOAT and value.type.tensor_type.HasField("shape")
        }

    def is_map(self, name: str) -> bool:
        """Whether a tensor is a map."""
        return name in self.maker and name not in self.weights and self.ranks.get(name, 0) in (4, 5)

    def attribute(self, node: NodeProto, name: str, default: object = None) -> object:
        """Return an attribute of a node."""
        return next((helper.get_attribute_value(found) for found in node.attribute if found.name == name), default)

    def only_reader(self, name: str) -> NodeProto | None:
        """Return the one node that reads a tensor; None if there are several or none, or the tensor is an output."""
        found = self.readers[name]
        return found[0] if len(found) == 1 and name not in self.outputs else None

    def bounds(self, node: NodeProto) -> tuple[float, float]:
        """Return the lower and the upper bound of an activation."""
        if node.op_type != "Clip":
            return (0.0, np.inf) if node.op_type == "Relu" else (-np.inf, np.inf)
        given = [float(self.weights[name]) if name in self.weights else np.nan for name in node.input[1:]]
        lower, upper = (*given, np.inf)[:2] if given else (-np.inf, np.inf)
        return lower, upper

    def carried(self, name: str) -> str:
        """Return the map that is kept in 8 bits in the place of ``name``: the one after its activation and crops."""
        while (reader := self.only_reader(name)) is not None and reader.op_type in BELONGING and reader.input[0] == name:
            if reader.op_type == "Clip" and np.isnan(self.bounds(reader)).any():
                break
            name = reader.output[0]
        return name

    def before(self, name: str) -> Iterator[NodeProto]:
        """The nodes that belong to a carried map, from the last to the operator that makes it."""
        node = self.maker[name]
        yield node
        while node.op_type in BELONGING and node.input[0] in self.maker:
            node = self.maker[node.input[0]]
            yield node

    @cached_property
    def tail(self) -> frozenset[str]:
        """Results of the last convolution before each output, and of all nodes after it. They stay in float32: they cost
        little, and no later layer makes up for their errors.
        """
        found: set[str] = set()
        waiting = list(self.outputs)
        while waiting:
            node = self.maker.get(waiting.pop())
            if node is not None and node.output[0] not in found:
                found.update(node.output)
                if node.op_type != "Conv":
                    waiting += node.input
        return frozenset(found)

    @cached_property
    def convolutions(self) -> list[NodeProto]:
        """The convolutions that run in int8: of maps, with constant kernels."""
        return [
            node
            for node in self.nodes
            if node.op_type == "Conv"
            and node.output[0] not in self.tail
            and self.is_map(node.input[0])
            and all(name in self.weights for name in node.input[1:])
        ]

    @cached_property
    def sums(self) -> list[NodeProto]:
        """Sums and concatenations of maps alone."""
        return [
            node
            for node in self.nodes
            if node.op_type in ("Add", "Concat") and node.output[0] not in self.tail and all(map(self.is_map, node.input))
        ]

    @cached_property
    def kept(self) -> list[str]:
        """The maps that are kept in 8 bits, in the order in which they are made."""
        inputs = {name for node in (*self.convolutions, *self.sums) for name in node.input if self.is_map(name)}
        whole = {node.output[0] for node in (*self.convolutions, *self.sums)}
        found = []
        for node in self.nodes:
            for name in node.output:
                makes = node.op_type in MAKERS and len(node.output) == 1 and self.is_map(name)
                belongs = node.op_type not in ("Add", "Concat", "Conv") or name in whole
                if makes and belongs and name not in self.tail:
                    found.append(self.carried(name))
                if name in inputs:
                    found.append(name)
        return list(dict.fromkeys(found))

    def source(self, name: str) -> str:
        """Return the kept map whose numbers a kept map has, where operators only move them; else the map itself."""
        kept = set(self.kept)
        at = name
        while at in self.maker and self.maker[at].op_type in MOVING:
            at = self.maker[at].input[0]
            if at in kept:
                return self.source(at)
        return name

    def kernel(self, node: NodeProto) -> NDArray[np.float32]:
        """Return a convolution's weights: out x in/groups x sides."""
        return self.weights[node.input[1]]

    def bias(self, node: NodeProto) -> NDArray[np.float32]:
        """Return a convolution's bias, zeros where it has none."""
        if len(node.input) > 2 and node.input[2]:
            return self.weights[node.input[2]]
        return np.zeros(len(self.kernel(node)), np.float32)

    def groups(self, node: NodeProto) -> int:
        """Return the number of groups of a convolution."""
        return int(str(self.attribute(node, "group", 1)))

    def with_convolutions(self, changed: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]) -> onnx.ModelProto:
        """Return a copy of the graph with other kernels and biases.

        Takes:
            changed: kernel and bias, by the name of the convolution's output
        """
        nodes: list[NodeProto] = []
        added: list[TensorProto] = []
        for node in self.nodes:
            copied = NodeProto()
            copied.CopyFrom(node)
            if node.op_type == "Conv" and node.output[0] in changed:
                names = [f"{node.output[0]}/{what}" for what in ("kernel", "bias")]
                del copied.input[1:]
                copied.input.extend(names)
                arrays = changed[node.output[0]]
                added += [
                    numpy_helper.from_array(np.ascontiguousarray(array), name)
                    for array, name in zip(arrays, names, strict=True)
                ]
            nodes.append(copied)
        return with_nodes(self.model, nodes, added)
