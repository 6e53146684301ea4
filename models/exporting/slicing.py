"""Wide layers in slices: the same scores up to rounding, less memory, less time.

An inverted residual (Sandler et al., CVPR 2018, section 3.3) widens a map six times, filters every channel by itself, and
narrows it again. At the first of them the widened map is by far the network's largest, 26 MB at 480 x 360 where most have
less than 4, and comes from main memory instead of the cache. No channel meets another before the narrowing, which is a sum: so
a slice of them can go all the way before the next begins.

FCN-4s on Lite0: 0.92 of the time on one thread, and 22 MB less for each lane (docs/adr/0009-slices.md). The cost of
the further kernels on a GPU has not been measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper, shape_inference

from models.exporting.graph import readers, with_nodes
from service.pipeline.manifest import INPUT

SLICE_BYTES = 9e6
"""Largest slice of a float32 map. Of 9, 5 and 2.5 MB the first was the fastest: a slice costs a kernel's start each."""
BLOCK = 16
"""Channels that ONNX Runtime keeps together on processors with 512-bit vectors; a slice is a multiple."""
ACTIVATIONS = {"Clip", "HardSwish", "LeakyRelu", "Relu", "Sigmoid"}
"""Operators that take every channel by itself, and only their first input from other nodes."""


@dataclass(frozen=True)
class _Expansion:
    """``expand``, ``depthwise``, ``project``, with an activation after the first two or none; each alone reads the last."""

    expand: NodeProto
    between: NodeProto | None
    depthwise: NodeProto
    after: NodeProto | None
    project: NodeProto

    @property
    def inner(self) -> list[NodeProto]:
        """All but ``project``, in their order."""
        return [node for node in (self.expand, self.between, self.depthwise, self.after) if node is not None]


def in_slices(model: onnx.ModelProto, size: tuple[int, int], largest: float = SLICE_BYTES) -> onnx.ModelProto:
    """Compute every expansion whose map is large in slices of its channels.

    Takes:
        model: a graph of float32 that takes N x H x W x channels under the name ``image``; it is left as it is
        size: (h, w) at which the maps are measured
        largest: bytes of a slice at that size; where :data:`BLOCK` channels are more than that, they are a slice
    Gives:
        a graph whose scores differ by rounding alone: the narrowing adds up its slices one after the other
    """
    shapes = map_shapes(model, size)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    added: list[TensorProto] = []
    rewritten: dict[str, list[NodeProto]] = {}
    dropped: set[str] = set()
    for expansion in _expansions(model.graph, weights):
        n, channels, *sides = shapes.get(expansion.expand.output[0], (0, 0))
        count = _slices(channels, 4 * n * channels * int(np.prod(sides)), largest)
        if count > 1:
            rewritten[expansion.project.output[0]] = list(_rewrite(expansion, count, weights, added))
            dropped |= {node.output[0] for node in expansion.inner}
    nodes = [new for node in model.graph.node if node.output[0] not in dropped for new in rewritten.get(node.output[0], [node])]
    return with_nodes(model, nodes, added)


def map_shapes(model: onnx.ModelProto, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """N x C x h x w of every map whose shape follows from that of one image of h x w."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    image = next(value for value in probe.graph.input if value.name == INPUT)
    for dimension, side in zip(image.type.tensor_type.shape.dim[:3], (1, *size), strict=True):
        dimension.dim_value = side
    inferred = shape_inference.infer_shapes(probe, data_prop=True)
    return {
        value.name: tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
        for value in inferred.graph.value_info
    }


def _slices(channels: int, size_bytes: int, largest: float) -> int:
    """The fewest of equal whole blocks that are small enough, 1 where there is no need or no way."""
    blocks, rest = divmod(channels, BLOCK)
    if rest or size_bytes <= largest:
        return 1
    fitting = (count for count in range(2, blocks) if blocks % count == 0 and size_bytes <= largest * count)
    return next(fitting, blocks)


def _expansions(graph: onnx.GraphProto, weights: dict[str, TensorProto]) -> Iterator[_Expansion]:
    read_by = readers(graph)
    outputs = {value.name for value in graph.output}

    def reader(node: NodeProto) -> NodeProto | None:
        """Return the only reader of a node's output, or None."""
        found = read_by[node.output[0]]
        return found[0] if len(found) == 1 and node.output[0] not in outputs else None

    def past_activation(node: NodeProto) -> tuple[NodeProto | None, NodeProto | None]:
        follower = reader(node)
        if follower is not None and follower.op_type in ACTIVATIONS:
            return follower, reader(follower)
        return None, follower

    def is_convolution(node: NodeProto | None) -> bool:
        return node is not None and node.op_type == "Conv" and all(name in weights for name in node.input[1:] if name)

    for expand in graph.node:
        if not is_convolution(expand) or _group(expand) != 1:
            continue
        between, depthwise = past_activation(expand)
        channels = weights[expand.input[1]].dims[0]
        if depthwise is None or not is_convolution(depthwise) or _group(depthwise) != channels:
            continue
        after, project = past_activation(depthwise)
        if project is None or not is_convolution(project) or _group(project) != 1:
            continue
        if weights[depthwise.input[1]].dims[0] == channels:
            yield _Expansion(expand, between, depthwise, after, project)


def _rewrite(
    expansion: _Expansion, count: int, weights: dict[str, TensorProto], added: list[TensorProto]
) -> Iterator[NodeProto]:
    """The nodes that take an expansion's place; their weights join those added."""
    width = weights[expansion.expand.input[1]].dims[0] // count
    made = expansion.project.output[0]

    def weight(name: str, content: NDArray[np.float32]) -> str:
        added.append(numpy_helper.from_array(np.ascontiguousarray(content), name))
        return name

    total = ""
    for index in range(count):
        suffix = f"_slice{index}"
        channels = slice(index * width, (index + 1) * width)

        def part(node: NodeProto, source: str, suffix: str = suffix, channels: slice = channels) -> NodeProto:
            """A node for these channels alone."""
            copied = NodeProto()
            copied.CopyFrom(node)
            copied.name = node.name + suffix
            copied.input[0] = source
            copied.output[0] = node.output[0] + suffix
            if node.op_type == "Conv":
                for at, name in enumerate(node.input[1:], 1):
                    if name:
                        copied.input[at] = weight(name + suffix, numpy_helper.to_array(weights[name])[channels])
            for attribute in copied.attribute:
                if attribute.name == "group" and node is expansion.depthwise:
                    attribute.i = width
            return copied

        source = expansion.expand.input[0]
        for node in expansion.inner:
            copied = part(node, source)
            yield copied
            source = copied.output[0]
        narrowed = NodeProto()
        narrowed.CopyFrom(expansion.project)
        kernel = expansion.project.input[1]
        kernel_part = weight(kernel + suffix, numpy_helper.to_array(weights[kernel])[:, channels])
        del narrowed.input[:]
        narrowed.input.extend([source, kernel_part, *(expansion.project.input[2:] if index == 0 else ())])
        narrowed.name += suffix
        narrowed.output[0] = made + suffix
        yield narrowed
        if index == 0:
            total = narrowed.output[0]
        else:
            addends = [total, narrowed.output[0]]
            total = made if index == count - 1 else f"{made}_sum{index}"
            yield helper.make_node("Add", addends, [total], name=f"{expansion.project.name}_sum{index}")


def _group(node: NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
