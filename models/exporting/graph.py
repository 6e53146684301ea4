"""What every rewriting of an ONNX graph needs: who reads what, and a copy with other nodes.

May import: onnx.
"""

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
    """A copy of a model with other nodes, and with the weights alone that they read.

    Takes:
        model: is left as it is
        nodes: all of them, in the order in which they run
        added: weights that the model does not have
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in graph.node for name in node.input}
    del graph.initializer[:]
    graph.initializer.extend(tensor for tensor in (*model.graph.initializer, *added) if tensor.name in read)
    return changed
