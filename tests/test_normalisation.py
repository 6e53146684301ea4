"""The normalisation by rows: the same bits, and every graph that begins in another way is left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.nets.normalisation import by_rows
from service.pipeline.manifest import INPUT, OUTPUT
from tests.graphs import run

ARTIFACTS = Path(__file__).resolve().parent.parent / "models" / "artifacts"


def network(
    *steps: str, shape: tuple[int, ...] = (1, 3, 1, 1), flipped: bool = False, read_between: bool = False
) -> onnx.ModelProto:
    """Transpose, cast, such steps by constants of such a shape, and a convolution."""
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.normal(size=(5, 3, 3, 3)).astype(np.float32), "weight")]
    nodes = [
        helper.make_node("Transpose", [INPUT], ["map0"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["map0"], ["map"], to=TensorProto.FLOAT),
    ]
    at = "map"
    if flipped:
        weights.append(numpy_helper.from_array(np.array([2, 1, 0], np.int64), "order"))
        nodes.append(helper.make_node("Gather", [at, "order"], ["bgr"], axis=1))
        at = "bgr"
    for number, step in enumerate(steps):
        weights.append(numpy_helper.from_array(rng.uniform(1, 200, shape).astype(np.float32), f"constant{number}"))
        nodes.append(helper.make_node(step, [at, f"constant{number}"], [f"step{number}"]))
        at = f"step{number}"
    nodes.append(helper.make_node("Conv", [at, "weight"], [OUTPUT if not read_between else "made"], pads=[1] * 4))
    if read_between:
        nodes.append(helper.make_node("ReduceMean", ["step0"], ["mean"], keepdims=1))
        weights.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
        nodes.append(helper.make_node("ReduceMean", ["mean", "axis"], ["one"], keepdims=1))
        nodes.append(helper.make_node("Add", ["made", "one"], [OUTPUT]))
    image = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["n", "h", "w", 3])
    scores = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", 5, "h", "w"])
    graph = helper.make_graph(nodes, "network", [image], [scores], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("steps", [("Sub", "Div"), ("Sub",), ("Div",)])
@pytest.mark.parametrize("shape", [(1, 24, 32), (3, 7, 5), (1, 1, 1)])
def test_every_bit_is_the_same(steps: tuple[str, ...], shape: tuple[int, int, int]) -> None:
    """At any size, single and in batches."""
    model = network(*steps)
    changed = by_rows(model)
    onnx.checker.check_model(changed, full_check=True)
    assert [node.op_type for node in changed.graph.node].count("Tile") == len(steps)
    assert np.array_equal(run(changed, shape), run(model, shape))


def test_steps_that_another_node_reads_are_kept_for_all() -> None:
    """Equal but for the order in which a mean is summed."""
    model = network("Sub", "Div", read_between=True)
    changed = by_rows(model)
    onnx.checker.check_model(changed, full_check=True)
    expected = run(model, (2, 9, 11))
    assert np.abs(run(changed, (2, 9, 11)) - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize(
    "model",
    [network(), network("Sub", shape=(1, 1, 1, 1)), network("Add"), network("Sub", flipped=True)],
    ids=["none", "one number for all", "another operator", "blue first"],
)
def test_other_beginnings_are_left_alone(model: onnx.ModelProto) -> None:
    """By name: the very graph comes back."""
    assert by_rows(model) is model


def test_the_shipped_int8_network_takes_the_bytes_as_they_are() -> None:
    """Its normalisation is the scale and the zero point of the image's own bytes: no operator computes it."""
    model = onnx.load(ARTIFACTS / "fcn4s-lite0-streets-int8.onnx")
    assert by_rows(model) is model
    first, second = model.graph.node[:2]
    assert (first.op_type, first.input[0], second.op_type, second.input[0]) == (
        "Transpose",
        INPUT,
        "DequantizeLinear",
        first.output[0],
    )
    readers = [node for node in model.graph.node if {INPUT, first.output[0]}.intersection(node.input)]
    assert [node for node in readers if node.op_type != "Shape"] == [first, second]
    assert not {"Sub", "Tile"} & {node.op_type for node in model.graph.node}
