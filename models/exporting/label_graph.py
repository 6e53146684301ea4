"""The graph that turns scores into labels on a GPU: ``python -m models.exporting.label_graph``.

It is written once and shipped as ``service/pipeline/tasks/labels.onnx``; the service runs it after a network, on the scores
where the network left them. It computes what ``service/pipeline/tasks/labels.c`` computes, in the same order and in float64,
with one operator an arithmetic step: no runtime may fuse two roundings into one, so the labels are the same bit for bit.

- Resize is not used. ONNX Runtime's CUDA kernel covers opset 19 and later only from 1.25 on (microsoft/onnxruntime#27415), and
  it samples in float32.
- ArgMax is not used. On CUDA it covers opset 12 and later only from 1.21 on (microsoft/onnxruntime#22713), and there it is
  cuDNN's, whose documentation does not say which of equal scores wins (microsoft/onnxruntime#9700). The lowest id that has the
  maximum is found by ReduceMax, Equal and ReduceMin.

The operators are those of opset 13, with types that the CUDA provider lists in ONNX Runtime's docs/OperatorKernels.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from service.pipeline.device_labels import LABEL_GRAPH

OPSET, IR_VERSION = 13, 8
NEVER = -1e300
"""The lead of a class that cannot win in a cell."""
NO_CLASS = 255


class _Writer:
    """Nodes and constants, in the order in which they are made."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, name: str, values: object, dtype: type) -> str:
        """Add a constant; gives its name."""
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def node(self, operator: str, inputs: Sequence[str], made: str, **attributes: Any) -> str:
        """Add an operator; gives the name of its result."""
        self.nodes.append(helper.make_node(operator, list(inputs), [made], made, **attributes))
        return made

    def lowest(self, condition: str, made: str) -> str:
        """Return the lowest class id at which a condition of K planes holds: 1 x rows x columns int32."""
        ids = self.node("Where", [condition, "ids", "no_class"], f"{made}/ids")
        return self.node("ReduceMin", [ids], made, axes=[0], keepdims=1)

    def mixed(self, start: str, end: str, share: str, made: str) -> str:
        """Return ``start + share * (end - start)``, each step rounded by itself."""
        step = self.node("Sub", [end, start], f"{made}/step")
        part = self.node("Mul", [share, step], f"{made}/part")
        return self.node("Add", [start, part], made)


def label_graph() -> onnx.ModelProto:
    """Write the graph.

    Its inputs: ``scores`` N x K x h x w float32, both sides at least 2; ``index``, the number of the image; ``ids`` K x 1 x 1
    int32, 0 to K - 1; of the rows to label ``row_cell`` R int64 and ``row_fraction`` R x 1 float64; ``column_cell`` C int64 and
    ``column_fraction`` C float64: see ``service.pipeline.tasks.semantic.axis``.

    Its outputs: ``labels`` R x C uint8; ``finite`` int32, 1 if every score of the image is a finite number.
    """
    w = _Writer()
    w.constant("no_class", NO_CLASS, np.int32)
    w.constant("never", NEVER, np.float64)
    w.constant("axes", [1, 2], np.int64)
    w.constant("zero", 0, np.float32)
    w.node("Gather", ["scores", "index"], "image", axis=0)  # K x h x w
    w.node("Sub", ["image", "image"], "difference")  # not a number where a score is infinite, or not a number itself
    w.node("Equal", ["difference", "zero"], "is_finite")
    w.node("Cast", ["is_finite"], "are_finite", to=TensorProto.INT32)
    w.node("ReduceMin", ["are_finite"], "finite", keepdims=0)
    w.node("Where", ["is_finite", "image", "zero"], "clean")  # what follows counts on an order of the scores
    w.node("Cast", ["clean"], "exact", to=TensorProto.DOUBLE)
    far = np.iinfo(np.int64).max
    corners = []
    for name, starts, ends in (
        ("upper_left", (0, 0), (-1, -1)),
        ("upper_right", (0, 1), (-1, far)),
        ("lower_left", (1, 0), (far, -1)),
        ("lower_right", (1, 1), (far, far)),
    ):
        bounds = [w.constant(f"{name}/starts", starts, np.int64), w.constant(f"{name}/ends", ends, np.int64)]
        corners.append(w.node("Slice", ["exact", *bounds, "axes"], name))  # K x h-1 x w-1

    # The class that is strongest on the whole: of equals the lowest. A class that it beats at all four corners wins nowhere.
    w.node("Add", corners[:2], "upper")
    w.node("Add", ["upper", corners[2]], "three")
    w.node("Add", ["three", corners[3]], "sum")
    w.node("ReduceMax", ["sum"], "most", axes=[0], keepdims=1)
    w.node("Equal", ["sum", "most"], "is_strongest")
    w.node("Cast", [w.lowest("is_strongest", "strongest")], "strongest/index", to=TensorProto.INT64)
    beaten = []
    for name in corners:
        w.node("GatherElements", [name, "strongest/index"], f"{name}/strongest", axis=0)
        beaten.append(w.node("Less", [name, f"{name}/strongest"], f"{name}/beaten"))
    w.node("And", beaten[:2], "beaten/upper")
    w.node("And", beaten[2:], "beaten/lower")
    w.node("And", ["beaten/upper", "beaten/lower"], "beaten")
    w.node("Not", ["beaten"], "possible")

    # The lead of each class over the first that can win, at the four corners.
    w.node("Cast", [w.lowest("possible", "first")], "first/index", to=TensorProto.INT64)
    leads = []
    for name in corners:
        w.node("GatherElements", [name, "first/index"], f"{name}/first", axis=0)
        w.node("Sub", [name, f"{name}/first"], f"{name}/ahead")
        w.node("Where", ["possible", f"{name}/ahead", "never"], f"{name}/lead")
        leads.append(w.node("Gather", [f"{name}/lead", "row_cell"], f"{name}/rows", axis=1))  # K x R x w-1
    west = w.mixed(leads[0], leads[2], "row_fraction", "west")
    w.node("Sub", [w.mixed(leads[1], leads[3], "row_fraction", "east"), west], "slope")
    for name in (west, "slope"):
        w.node("Gather", [name, "column_cell"], f"{name}/columns", axis=2)  # K x R x C
    w.node("Mul", ["column_fraction", "slope/columns"], "rise")
    w.node("Add", ["west/columns", "rise"], "lead")
    w.node("ReduceMax", ["lead"], "longest", axes=[0], keepdims=1)
    w.node("Equal", ["lead", "longest"], "wins")
    w.constant("planes", [0], np.int64)
    w.node("Squeeze", [w.lowest("wins", "winner"), "planes"], "winner/plane")
    w.node("Cast", ["winner/plane"], "labels", to=TensorProto.UINT8)

    inputs: dict[str, tuple[int, list[Any]]] = {
        "scores": (TensorProto.FLOAT, ["N", "K", "h", "w"]),
        "index": (TensorProto.INT64, []),
        "ids": (TensorProto.INT32, ["K", 1, 1]),
        "row_cell": (TensorProto.INT64, ["R"]),
        "row_fraction": (TensorProto.DOUBLE, ["R", 1]),
        "column_cell": (TensorProto.INT64, ["C"]),
        "column_fraction": (TensorProto.DOUBLE, ["C"]),
    }
    outputs: dict[str, tuple[int, list[Any]]] = {"labels": (TensorProto.UINT8, ["R", "C"]), "finite": (TensorProto.INT32, [])}
    graph = helper.make_graph(
        w.nodes,
        "labels",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        w.constants,
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="fcn-serve"
    )
    onnx.checker.check_model(made, full_check=True)
    return made


def main(file: Path = LABEL_GRAPH) -> int:
    """Write the file."""
    file.write_bytes(label_graph().SerializeToString(deterministic=True))
    print(f"wrote {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
