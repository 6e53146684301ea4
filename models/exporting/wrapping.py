"""A foreign graph behind the service's input and output: operators before it and after it, in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from models.exporting.foreign import Foreign
from service.pipeline.manifest import INPUT, OUTPUT

Answer = Literal["scores", "probabilities", "sigmoids", "logits", "labels"]
"""``scores``: before a softmax over the classes; ``probabilities``: after it; ``sigmoids``: a probability of its own for each
class; ``logits``: before such sigmoids; ``labels``: class ids."""

CERTAIN = 20.0
"""Score of the class that a network named, the others having 0: a probability of 1 after the softmax, however many they are."""
LEAST_PROBABILITY = 1e-7
LEAST_SIGMOID = 1e-6
"""A sigmoid is kept this far from 0 and 1, so that its logit is finite; float32 can tell 1 - 1e-6 from 1."""

_ELEMENTS = {"uint8": TensorProto.UINT8, "uint16": TensorProto.UINT16, "float32": TensorProto.FLOAT}


@dataclass(frozen=True)
class Form:
    """The form of a network's answer, and of the artifact's input."""

    answer: Answer
    classes: int
    """Planes of the artifact's scores."""
    background: bool
    """Whether the first of them is added: the score 0 of a pixel that belongs to no class of the network."""
    dtype: str
    """Of the artifact's input."""
    batches: bool
    """Whether the network takes more than one image at a time."""


class Step:
    """One operator with one input from the step before.

    Takes:
        operator: its name
        constants: its other inputs
        attributes: its attributes
    """

    def __init__(self, operator: str, *constants: NDArray[Any] | np.generic, **attributes: Any) -> None:
        self.operator, self.constants, self.attributes = operator, constants, attributes

    def nodes(self, value: str, name: str) -> Iterator[NodeProto]:
        """The operator; its result is ``name/out``."""
        inputs = [value, *(f"{name}/{i}" for i in range(len(self.constants)))]
        yield helper.make_node(self.operator, inputs, [f"{name}/out"], name, **self.attributes)


class Logit(Step):
    """log(p) - log(1 - p) of each element. Both logarithms are needed: 1 - p is exact in float32, 1/p - 1 is not."""

    def __init__(self) -> None:
        super().__init__("Logit", np.float32(1))

    def nodes(self, value: str, name: str) -> Iterator[NodeProto]:
        """Four operators."""
        yield helper.make_node("Sub", [f"{name}/0", value], [f"{name}/rest"], f"{name}/rest")
        yield helper.make_node("Log", [value], [f"{name}/log"], f"{name}/log")
        yield helper.make_node("Log", [f"{name}/rest"], [f"{name}/log_rest"], f"{name}/log_rest")
        yield helper.make_node("Sub", [f"{name}/log", f"{name}/log_rest"], [f"{name}/out"], name)


def wrap(model: onnx.ModelProto, foreign: Foreign, form: Form) -> None:
    """Put a network behind the service's input and output, in place.

    Takes:
        model: the network's graph, with its weights
        foreign: the same network, settled
    """
    graph = model.graph
    ours = {INPUT: f"foreign/{INPUT}", OUTPUT: f"foreign/{OUTPUT}"}
    _rename(graph, ours)
    entry, answer = (ours.get(port.name, port.name) for port in (foreign.input, foreign.output))
    before, first = _chain("before", INPUT, entry, image_steps(foreign, form.dtype))
    after, last = _chain("after", answer, OUTPUT, answer_steps(foreign, form))
    if not before:
        _rename(graph, {entry: INPUT})
    if not after:
        _rename(graph, {answer: OUTPUT})
    needed = {OUTPUT}
    kept: list[NodeProto] = []
    for node in reversed([*before, *graph.node, *after]):  # they stand in the order in which they run
        if needed & set(node.output):
            kept.insert(0, node)
            needed |= _reads(node)
    for field in ("node", "input", "output", "value_info"):
        graph.ClearField(field)
    graph.node.extend(kept)
    for index in reversed(range(len(graph.initializer))):  # in place: a copy of the weights may not fit
        if graph.initializer[index].name not in needed:
            del graph.initializer[index]
    graph.initializer.extend([*first, *last])
    batch = "batch" if form.batches else 1
    names = ("height", "width") if foreign.dimensions == 2 else ("depth", "height", "width")
    sides = [side if isinstance(side, int) else name for side, name in zip(foreign.sides, names, strict=True)]
    cells = ("score_rows", "score_columns") if foreign.dimensions == 2 else ("score_slices", "score_rows", "score_columns")
    graph.input.append(helper.make_tensor_value_info(INPUT, _ELEMENTS[form.dtype], [batch, *sides, foreign.channels]))
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [batch, form.classes, *cells]))
    model.ir_version = max(model.ir_version, 4)  # before, weights had to be inputs as well


def image_steps(foreign: Foreign, dtype: str) -> Iterator[Step]:
    """From the artifact's input to the network's, moves of bytes before the arithmetic of floats.

    Steps that change nothing are left out.
    """
    normalisation, axis = foreign.normalisation, foreign.channel_axis
    shape = [1] * (foreign.dimensions + 2)
    shape[axis] = foreign.channels
    turn = slice(None, None, -1 if normalisation.order == "bgr" else 1)
    mean, std = (np.array(values, np.float32)[turn].reshape(shape) for values in (normalisation.mean, normalisation.std))
    if axis == 1:
        yield Step("Transpose", perm=[0, foreign.dimensions + 1, *range(1, foreign.dimensions + 1)])
    if normalisation.order == "bgr":
        yield Step("Gather", np.array([2, 1, 0], np.int64), axis=axis)
    if dtype != "float32":
        yield Step("Cast", to=TensorProto.FLOAT)
    if normalisation.divisor != 1:
        yield Step("Div", np.float32(normalisation.divisor))
    if mean.any():
        yield Step("Sub", mean)
    if (std != 1).any():
        yield Step("Div", std)
    if foreign.input.dtype != "float32":
        yield Step("Cast", to=helper.np_dtype_to_tensor_dtype(np.dtype(foreign.input.dtype)))


def answer_steps(foreign: Foreign, form: Form) -> Iterator[Step]:
    """From the network's answer to N x K x cells scores."""
    axis, rank, opset = foreign.class_axis, foreign.dimensions + 2, foreign.file.opset
    if form.answer == "labels":
        if axis is not None:
            yield Step("Gather", np.int64(0), axis=axis)
        yield Step("Cast", to=TensorProto.INT64)
        yield Step("OneHot", np.int64(form.classes), np.array([0, CERTAIN], np.float32), axis=1)
        return
    if foreign.output.dtype != "float32":
        yield Step("Cast", to=TensorProto.FLOAT)
    if axis is None:
        yield Step("Unsqueeze", np.array([1], np.int64)) if opset >= 13 else Step("Unsqueeze", axes=[1])
    elif axis != 1:
        yield Step("Transpose", perm=[0, rank - 1, *range(1, rank - 1)])
    if form.answer == "probabilities":  # the softmax of their logarithms gives them back
        yield Step("Max", np.float32(LEAST_PROBABILITY))
        yield Step("Log")
    if form.answer == "sigmoids":
        yield Step("Max", np.float32(LEAST_SIGMOID))
        yield Step("Min", np.float32(1 - LEAST_SIGMOID))
        yield Logit()
    if form.background:
        pads = [0, 1, *[0] * (2 * rank - 2)]
        yield Step("Pad", np.array(pads, np.int64), np.float32(0)) if opset >= 11 else Step("Pad", pads=pads, value=0.0)


def expected(answer: NDArray[Any], form: Form) -> NDArray[np.float32]:
    """The scores that an artifact must give where the network gave this answer: the oracle for the operators behind it.

    Takes:
        answer: of :meth:`Foreign.run`
    Gives:
        N x K x cells float32
    """
    if form.answer == "labels":
        ids = np.arange(form.classes).reshape(-1, *[1] * (answer.ndim - 1))
        return np.where(ids == answer[:, None], np.float32(CERTAIN), np.float32(0))
    scores = answer.astype(np.float64)
    if form.answer == "probabilities":
        scores = np.log(np.maximum(scores, LEAST_PROBABILITY))
    if form.answer == "sigmoids":
        scores = np.clip(scores, np.float32(LEAST_SIGMOID), np.float32(1 - LEAST_SIGMOID))
        scores = np.log(scores) - np.log1p(-scores)
    if form.background:
        scores = np.concatenate([np.zeros_like(scores[:, :1]), scores], 1)
    return scores.astype(np.float32)


def _chain(place: str, start: str, end: str, steps: Iterator[Step]) -> tuple[list[NodeProto], list[TensorProto]]:
    """Operators one after another between two tensors, and their constants."""
    nodes: list[NodeProto] = []
    weights: list[TensorProto] = []
    value = start
    for index, step in enumerate(steps):
        name = f"adopted/{place}/{index}_{step.operator}"
        weights += [numpy_helper.from_array(np.asarray(array), f"{name}/{i}") for i, array in enumerate(step.constants)]
        nodes += step.nodes(value, name)
        value = f"{name}/out"
    if nodes:
        nodes[-1].output[0] = end
    return nodes, weights


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename tensors where they are made and read, in the bodies of loops and branches too."""
    for node in graph.node:
        for ends in (node.input, node.output):
            ends[:] = [names.get(name, name) for name in ends]
        for body in _bodies(node):
            _rename(body, names)
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = names.get(value.name, value.name)


def _reads(node: NodeProto) -> set[str]:
    """The tensors that a node needs, with those that only its bodies read."""
    return set(node.input).union(
        *(_reads(inner) for body in _bodies(node) for inner in body.node),
        *({value.name for value in body.output} for body in _bodies(node)),
    )


def _bodies(node: NodeProto) -> Sequence[onnx.GraphProto]:
    return [body for attribute in node.attribute for body in (attribute.g, *attribute.graphs) if body.node or body.output]


MOVES = frozenset(("Cast", "Identity", "Reshape", "Resize", "Slice", "Squeeze", "Transpose", "Unsqueeze", "Upsample", "Clip"))
"""Operators after which probabilities are still probabilities."""


def ends_in_sigmoid(model: onnx.ModelProto, output: str) -> bool:
    """Whether an output comes from a sigmoid, moved and resized at most."""
    maker = {name: node for node in model.graph.node for name in node.output}
    node = maker.get(output)
    while node is not None and node.op_type in MOVES:
        node = maker.get(node.input[0])
    return node is not None and node.op_type in ("Sigmoid", "HardSigmoid")
