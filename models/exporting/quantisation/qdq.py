"""The quantised graph: QuantizeLinear and DequantizeLinear around the operators that run in int8.

ONNX Runtime turns such a group into one int8 operator. Every scale is a constant of the graph. An activation whose bounds are
those of the 8 bits is left out: the quantiser cuts at the same values.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from models.exporting.graph import with_nodes
from models.exporting.quantisation.maps import Maps
from models.exporting.quantisation.ranges import LEVELS, Range
from models.exporting.quantisation.rounding import Rounded
from service.pipeline.manifest import INPUT

LARGEST_BIAS = 2.0**30
"""A bias is a 32-bit integer times the scales of input and weights; the sum of the products is added to it."""

ACTIVATIONS = frozenset(("Clip", "Relu"))


def quantised(maps: Maps, ranges: Mapping[str, Range], rounded: Mapping[str, Rounded]) -> onnx.ModelProto:
    """Write the int8 graph.

    Takes:
        maps: the float32 graph
        ranges: of the maps to keep in 8 bits, by name
        rounded: the weights of the convolutions to run in int8, by the name of their output. One whose input is not kept in 8
            bits runs in float32, with the rounded weights
    """
    return _Writer(maps, ranges, rounded).model()


class _Writer:
    def __init__(self, maps: Maps, ranges: Mapping[str, Range], rounded: Mapping[str, Rounded]) -> None:
        self.maps, self.ranges, self.rounded = maps, ranges, rounded
        self.nodes: list[NodeProto] = []
        self.added: dict[str, NDArray[np.generic]] = {}
        self.scales: dict[str, float] = {}
        """Of the maps that have been written in 8 bits."""

    def model(self) -> onnx.ModelProto:
        """All nodes, in the order in which they run."""
        skipped = self._image()
        for node in self.maps.nodes:
            if node.output[0] in skipped:
                continue
            copied = NodeProto()
            copied.CopyFrom(node)
            copied.input[:] = [self._read(name, node.op_type) for name in node.input]
            if node.output[0] in self.rounded:
                self._weights(node, copied)
            activation = self._implied(node)
            if activation is not None:
                copied.output[0] = activation
                skipped.add(activation)
            self.nodes.append(copied)
            for name in copied.output:
                if name in self.ranges:
                    self._quantise(name, self.ranges[name])
        return with_nodes(
            self.maps.model, self.nodes, [numpy_helper.from_array(np.asarray(a), n) for n, a in self.added.items()]
        )

    def _constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        self.added[name] = np.asarray(value)
        return name

    def _read(self, name: str, operator: str) -> str:
        """The tensor to read in the place of a map. A shape is asked of the bytes, which need not become floats for it."""
        if name not in self.scales:
            return name
        return f"{name}/bytes" if operator == "Shape" and f"{name}/bytes" in self._made() else f"{name}/floats"

    def _made(self) -> set[str]:
        return {name for node in self.nodes for name in node.output}

    def _quantise(self, name: str, found: Range) -> None:
        self.scales[name] = found.scale
        scale = self._constant(f"{name}/scale", np.float32(found.scale))
        zero = self._constant(f"{name}/zero", np.uint8(found.zero))
        for operator, read, made in (
            ("QuantizeLinear", name, f"{name}/bytes"),
            ("DequantizeLinear", f"{name}/bytes", f"{name}/floats"),
        ):
            self.nodes.append(helper.make_node(operator, [read, scale, zero], [made], f"{name}/{operator}"))

    def _image(self) -> set[str]:
        """Read the image's own bytes as the 8 bits of its normalised map, where one scale is that of all channels.

        Gives:
            the results of the nodes that this replaces
        """
        for name in self.ranges:
            chain = _normalisation(self.maps, name)
            found = _as_bytes(self.maps, chain)
            if found is not None:
                self.scales[name] = found.scale
                scale = self._constant(f"{name}/scale", np.float32(found.scale))
                zero = self._constant(f"{name}/zero", np.uint8(found.zero))
                turn = next(node for node in chain if node.op_type == "Transpose")
                perm = list(helper.get_attribute_value(turn.attribute[0]))
                self.nodes.append(helper.make_node("Transpose", [INPUT], [f"{name}/bytes"], f"{name}/Transpose", perm=perm))
                self.nodes.append(helper.make_node("DequantizeLinear", [f"{name}/bytes", scale, zero], [f"{name}/floats"]))
                return {node.output[0] for node in chain}
        return set()

    def _weights(self, node: NodeProto, copied: NodeProto) -> None:
        """Give a convolution its integers, or their values where its input is a float map."""
        name, found = node.output[0], self.rounded[node.output[0]]
        columns = (-1, *[1] * (found.integers.ndim - 1))
        del copied.input[1:]
        if node.input[0] not in self.scales:
            kernel = (found.integers * found.scales.reshape(columns)).astype(np.float32)
            copied.input.extend(
                [self._constant(f"{name}/kernel/rounded", kernel), self._constant(f"{name}/bias/rounded", found.bias)]
            )
            return
        input_scale = self.scales[node.input[0]]
        scales = np.maximum(found.scales, np.abs(found.bias) / (input_scale * LARGEST_BIAS)).astype(np.float32)
        integers = np.rint(found.integers * (found.scales / scales).reshape(columns)).astype(np.int8)
        bias_scales = (scales * np.float32(input_scale)).astype(np.float32)
        bias = np.rint(found.bias.astype(np.float64) / bias_scales).astype(np.int32)
        for what, numbers, by in (("kernel", integers, scales), ("bias", bias, bias_scales)):
            constants = [
                self._constant(f"{name}/{what}/integers", numbers),
                self._constant(f"{name}/{what}/scales", by),
                self._constant(f"{name}/{what}/zeros", np.zeros(len(by), numbers.dtype)),
            ]
            made = f"{name}/{what}/floats"
            self.nodes.append(
                helper.make_node("DequantizeLinear", constants, [made], f"{name}/{what}/DequantizeLinear", axis=0)
            )
            copied.input.append(made)

    def _implied(self, node: NodeProto) -> str | None:
        """Return the result of the activation after a node, if the 8 bits of that map cut where the activation does."""
        if len(node.output) != 1 or node.output[0] in self.ranges:
            return None
        after = self.maps.only_reader(node.output[0])
        if after is None or after.op_type not in ACTIVATIONS or after.input[0] != node.output[0]:
            return None
        found = self.ranges.get(after.output[0])
        if found is None:
            return None
        lower, upper = self.maps.bounds(after)
        step = 1e-3 * found.scale
        within = lower - step <= -found.zero * found.scale and (LEVELS - found.zero) * found.scale <= upper + step
        return after.output[0] if within else None


def _normalisation(maps: Maps, name: str) -> list[NodeProto]:
    """The nodes between the image and a map, if they only transpose, cast, and calculate with constants; else nothing."""
    chain: list[NodeProto] = []
    while name != INPUT:
        node = maps.maker.get(name)
        if node is None or node.op_type not in ("Transpose", "Cast", "Sub", "Div", "Mul", "Add"):
            return []
        if any(constant not in maps.weights for constant in node.input[1:]):
            return []
        chain.insert(0, node)
        name = node.input[0]
    return chain


def _as_bytes(maps: Maps, chain: list[NodeProto]) -> Range | None:
    """Return the range in which the image's bytes are the normalised map; None if no range is, or others read in between."""
    types = {value.name: value.type.tensor_type.elem_type for value in maps.model.graph.input}
    if types.get(INPUT) != TensorProto.UINT8 or [node.op_type for node in chain].count("Transpose") != 1:
        return None
    if any(len(maps.readers[node.output[0]]) != 1 for node in chain[:-1]):
        return None
    pixels = np.arange(LEVELS + 1, dtype=np.float32)[None]  # channels x all bytes
    calculate = {"Sub": np.subtract, "Div": np.divide, "Mul": np.multiply, "Add": np.add}
    for node in chain:
        if node.op_type in calculate:
            constant = maps.weights[node.input[1]].reshape(-1, 1)
            pixels = calculate[node.op_type](pixels, constant)
    scale = float(pixels[0, -1] - pixels[0, 0]) / LEVELS
    if scale <= 0:
        return None
    found = Range(float(np.float32(scale)), round(-float(pixels[0, 0]) / scale))
    if not 0 <= found.zero <= LEVELS:
        return None
    values = np.float32(found.scale) * (np.arange(LEVELS + 1, dtype=np.float32) - found.zero)
    return found if np.allclose(pixels, values, rtol=0, atol=1e-3 * found.scale) else None
