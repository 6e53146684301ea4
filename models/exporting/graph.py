"""The tools of every rewriting of an ONNX graph: the readers of each value, and a copy with other nodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import onnx
from onnx import NodeProto, TensorProto


def readers(graph: onnx.GraphProto) -> defaultdict[str, list[NodeProto]]:
    """The nodes that read each value, by its name; a node that reads it twice is there once."""
    found: defaultdict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            found[name].append(node)
    return found


def with_nodes(model: onnx.ModelProto, nodes: Iterable[NodeProto], added: Iterable[TensorProto]) -> onnx.ModelProto:
    """Return a copy of a model with other nodes, and with the weights alone that they read.

    Takes:
        model: is left as it is
        nodes: all of them, in the order in which they run
        added: further weights; they replace weights of the same name
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in graph.node for name in node.input}
    del graph.initializer[:]
    weights = {tensor.name: tensor for tensor in (*model.graph.initializer, *added) if tensor.name in read}
    graph.initializer.extend(weights.values())
    return changed
