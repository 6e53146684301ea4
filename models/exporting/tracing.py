"""A network as an ONNX graph, behind the service's input layout.

The graph takes ``image``: N x H x W x channels, or N x D x H x W x channels, of the manifest's dtype. The normalisation is in
the graph; batch and sides are free. It gives the network's outputs by their names.
"""

from __future__ import annotations

import onnx
import torch
from torch import Tensor, nn

from models.exporting.folding import folded
from models.exporting.quiet import quiet
from models.nets.network import Network
from service.pipeline.manifest import INPUT, InputPolicy

OPSET = 20

SIDES = ("height", "width"), ("depth", "height", "width")
"""Names of a graph's free sides, in 2 and in 3 dimensions."""


class Served(nn.Module):
    """The network with channels last, as the service gives them."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """N x sides x channels of any dtype to the network's outputs, float32."""
        return self.net(image.movedim(-1, 1).float())  # type: ignore[no-any-return]


def to_onnx(net: Network, policy: InputPolicy) -> onnx.ModelProto:
    """Trace a network into an ONNX graph with free batch and sides.

    Takes:
        policy: dimensions, channels, dtype, and the multiple of all sides
    """
    multiple, names = policy.multiple, SIDES[policy.dimensions - 2]
    cells = range(10, 10 + 2 * len(names), 2)
    example = torch.zeros(2, *(multiple * count for count in cells), policy.channels, dtype=getattr(torch, policy.dtype))
    batch = torch.export.Dim("batch", min=1, max=4096)
    free = {0: batch} | {
        at: torch.export.Dim(f"{name}_cells", min=1, max=65536 // multiple) * multiple for at, name in enumerate(names, 1)
    }
    with quiet():
        program = torch.onnx.export(
            Served(folded(net)).eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(net.outputs),
            dynamic_shapes=(free,),
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave nothing")
    model = program.model_proto
    _name_free_sides(model, names)
    return model


def _name_free_sides(model: onnx.ModelProto, names: tuple[str, ...]) -> None:
    """Name the batch and the sides where the tracer left its own expressions, and drop its traces of Python code."""
    cells = ("score_rows", "score_columns") if len(names) == 2 else ("score_slices", "score_rows", "score_columns")
    named = [(model.graph.input[0], ("batch", *names, ""))]
    for output in model.graph.output:
        prefix = cells if output.name == "scores" else tuple(cell.replace("score", output.name) for cell in cells)
        named.append((output, ("batch", "", *prefix)))
    for value, sides in named:
        for dimension, name in zip(value.type.tensor_type.shape.dim, sides, strict=True):
            if name and not dimension.HasField("dim_value"):
                dimension.dim_param = name
    del model.graph.value_info[:]
    del model.metadata_props[:]
    for traced in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del traced.metadata_props[:]
        traced.doc_string = ""
