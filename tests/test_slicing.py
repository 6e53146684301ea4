"""Wide layers in slices: the same scores, smaller maps, and nothing else touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from models.exporting.slicing import BLOCK, SLICE_BYTES, in_slices, map_shapes
from service.pipeline.manifest import INPUT, OUTPUT
from tests.graphs import run

ARTIFACTS = Path(__file__).resolve().parent.parent / "models" / "artifacts"
H, W = 24, 40
MAP = 4 * H * W
"""Bytes of one channel."""


def network(
    channels: int,
    *,
    activation: str | None = "Relu",
    bias: bool = True,
    stride: int = 1,
    kernel: int = 1,
    groups: int | None = None,
    read_twice: bool = False,
    given_out: bool = False,
) -> onnx.ModelProto:
    """Widen three colours to so many channels, filter each, narrow them to 8: with random weights."""
    rng = np.random.default_rng(channels)
    weights: list[TensorProto] = []

    def weight(name: str, *shape: int) -> str:
        weights.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
        return name

    def convolution(source: str, made: str, shape: tuple[int, int, int, int], group: int = 1, step: int = 1) -> onnx.NodeProto:
        inputs = [source, weight(f"{made}.weight", *shape), *([weight(f"{made}.bias", shape[0])] if bias else [])]
        pads = [shape[2] // 2] * 4
        return helper.make_node("Conv", inputs, [made], made, group=group, strides=[step, step], pads=pads)

    nodes = [
        helper.make_node("Cast", [INPUT], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["map"], perm=[0, 3, 1, 2]),
        convolution("map", "wide", (channels, 3, kernel, kernel)),
    ]
    widened = "wide"
    if activation == "Clip":
        weights += [numpy_helper.from_array(np.array(bound, np.float32), name) for name, bound in (("low", 0.0), ("high", 6.0))]
    bounds = ["low", "high"] if activation == "Clip" else []
    if activation:
        nodes.append(helper.make_node(activation, ["wide", *bounds], ["active"], "active"))
        widened = "active"
    groups = channels if groups is None else groups
    nodes.append(convolution(widened, "filtered", (channels, channels // groups, 3, 3), groups, stride))
    filtered = "filtered"
    if activation:
        nodes.append(helper.make_node(activation, ["filtered", *bounds], ["filtered.active"], "filtered.active"))
        filtered = "filtered.active"
    nodes.append(convolution(filtered, "narrow", (8, channels, 1, 1)))
    narrowed = "narrow"
    if read_twice:
        nodes.append(helper.make_node("ReduceMean", [widened], ["mean"], keepdims=1))
        nodes.append(helper.make_node("Add", ["narrow", "mean"], ["both"]))
        narrowed = "both"
    nodes.append(helper.make_node("Identity", [narrowed], [OUTPUT]))
    outputs = [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", 8, "rows", "columns"])]
    if given_out:
        outputs.append(helper.make_tensor_value_info(widened, TensorProto.FLOAT, ["n", channels, "h", "w"]))
    image = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["n", "h", "w", 3])
    graph = helper.make_graph(nodes, "network", [image], outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def convolutions(model: onnx.ModelProto) -> int:
    """How many there are."""
    return sum(node.op_type == "Conv" for node in model.graph.node)


@settings(max_examples=30)
@given(
    blocks=st.integers(2, 9),
    activation=st.sampled_from(["Relu", "Clip", "HardSwish", "Sigmoid", None]),
    bias=st.booleans(),
    stride=st.sampled_from([1, 2]),
    kernel=st.sampled_from([1, 3]),
    slices=st.integers(1, 9),
)
def test_slices_give_the_same_scores(
    blocks: int, activation: str | None, bias: bool, stride: int, kernel: int, slices: int
) -> None:
    """At the size that they were measured at and at others, single and in batches."""
    channels = blocks * BLOCK
    model = network(channels, activation=activation, bias=bias, stride=stride, kernel=kernel)
    sliced = in_slices(model, (H, W), largest=channels * MAP / slices)
    onnx.checker.check_model(sliced, full_check=True)
    assert (convolutions(sliced) > 3) == (slices > 1)
    for shape in ((1, H, W), (3, 10, 17)):
        expected = run(model, shape)
        assert np.abs(run(sliced, shape) - expected).max() <= 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize(("blocks", "limit", "slices"), [(6, 6, 1), (6, 5, 2), (6, 2, 3), (6, 1.5, 6), (6, 0.1, 6), (5, 4, 5)])
def test_slices_are_the_fewest_that_are_small_enough(blocks: int, limit: float, slices: int) -> None:
    """Equal and of whole blocks; where a single block is too large, blocks."""
    sliced = in_slices(network(blocks * BLOCK), (H, W), largest=limit * BLOCK * MAP)
    assert convolutions(sliced) == 3 * slices
    widest = max(shape[1] for name, shape in map_shapes(sliced, (H, W)).items() if name.startswith(("wide", "filtered")))
    assert widest == blocks * BLOCK // slices


@pytest.mark.parametrize(
    "model",
    [
        network(40),
        network(48, groups=1),
        network(48, groups=24),
        network(48, read_twice=True),
        network(48, given_out=True),
    ],
    ids=["no whole blocks", "no depthwise filter", "filters of two channels", "another node reads it", "it is an output"],
)
def test_whatever_else_is_left_alone(model: onnx.ModelProto) -> None:
    """Slicing it would be wrong, or no gain."""
    assert in_slices(model, (H, W), largest=1).graph == model.graph


def test_the_graph_given_is_not_changed() -> None:
    """The lower precisions are made of it."""
    model = network(48)
    before = model.SerializeToString(deterministic=True)
    in_slices(model, (H, W), largest=1)
    assert model.SerializeToString(deterministic=True) == before


def test_the_shipped_network_has_no_large_map() -> None:
    """At its working size; before it was sliced, one of 26 MB."""
    shapes = map_shapes(onnx.load(ARTIFACTS / "fcn4s-lite0-streets.onnx"), (448, 600))
    maps = {name: 4 * int(np.prod(shape)) for name, shape in shapes.items() if len(shape) == 4}
    assert len(maps) > 100
    assert max(maps.values()) <= SLICE_BYTES
