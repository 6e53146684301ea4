"""Channels of a residual stream brought to similar ranges (Nagel et al., ICCV 2019, section 4.1, for streams).

All maps of a stream are added to each other, so they have the same channels. Dividing a channel of all of them by a factor,
and multiplying the weights that read it by the same factor, changes no score. One range for all channels of a map then loses
less: a channel of small values is no longer rounded with the step of the largest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from models.exporting.quantisation.maps import Maps
from models.exporting.quantisation.statistics import Statistics

POWER = 0.5
"""Of the factors: 1 makes all ranges equal, and moves all of the difference into the weights that read them."""


@dataclass(frozen=True)
class Stream:
    """Maps that are added to each other, without an activation, and that nothing but convolutions reads."""

    maps: tuple[str, ...]
    makers: tuple[NodeProto, ...]
    """The convolutions that write into the stream."""
    readers: tuple[NodeProto, ...]
    """The convolutions that read it."""


@dataclass(frozen=True)
class Equalised:
    """A graph with other weights and the same scores, and the statistics of its maps."""

    maps: Maps
    statistics: Statistics


def streams(maps: Maps) -> Iterator[Stream]:
    """The streams of a graph that can be equalised."""
    inside = {node.output[0] for node in maps.convolutions if maps.carried(node.output[0]) == node.output[0]}
    sums = {node.output[0]: node for node in maps.sums if node.op_type == "Add"}
    group: dict[str, str] = {}

    def root(name: str) -> str:
        while group.setdefault(name, name) != name:
            name = group[name]
        return name

    for name, node in sums.items():
        for addend in node.input:
            group[root(addend)] = root(name)
    members: dict[str, set[str]] = {}
    for name in (*inside, *sums):
        members.setdefault(root(name), set()).add(name)
    for names in members.values():
        stream = _stream(maps, frozenset(names), inside, sums)
        if stream is not None:
            yield stream


def _stream(maps: Maps, names: frozenset[str], inside: set[str], sums: dict[str, NodeProto]) -> Stream | None:
    """Return a stream of these maps, or None if anything else writes into it or reads it."""
    int8 = {node.output[0] for node in maps.convolutions}
    makers, readers = [], {}
    for name in sorted(names):
        if name in maps.outputs or (name in sums and not names.issuperset(sums[name].input)):
            return None
        if name in inside:
            makers.append(maps.maker[name])
        for reader in maps.readers[name]:
            if reader.output[0] in names and reader.op_type == "Add":
                continue
            if reader.op_type != "Conv" or reader.output[0] not in int8 or maps.groups(reader) != 1:
                return None
            readers[reader.output[0]] = reader
    return Stream(tuple(sorted(names)), tuple(makers), tuple(readers.values())) if makers and readers else None


def equalise(maps: Maps, statistics: Statistics, power: float = POWER) -> Equalised:
    """Divide the channels of every stream by the power of their ranges.

    Takes:
        maps: a graph; it is left as it is
        statistics: of this graph
    """
    values, moments = dict(statistics.values), dict(statistics.moments)
    kernels = {node.output[0]: maps.kernel(node).astype(np.float64) for node in maps.convolutions}
    biases = {node.output[0]: maps.bias(node).astype(np.float64) for node in maps.convolutions}
    for stream in streams(maps):
        largest = (
            np.max([np.maximum(-values[name].low, values[name].high) for name in stream.maps], 0).astype(np.float64) + 1e-6
        )
        factors = (largest / np.exp(np.log(largest).mean())) ** power
        for maker in stream.makers:
            name = maker.output[0]
            kernels[name] /= factors.reshape(-1, *[1] * (kernels[name].ndim - 1))
            biases[name] /= factors
        for reader in stream.readers:
            name = reader.output[0]
            kernels[name] *= factors.reshape(1, -1, *[1] * (kernels[name].ndim - 2))
            moments[name] = moments[name].scaled(factors)
        for name in stream.maps:
            values[name] = values[name].scaled(factors)
    changed = {name: (kernels[name].astype(np.float32), biases[name].astype(np.float32)) for name in kernels}
    return Equalised(Maps(maps.with_convolutions(changed)), Statistics(values, moments))
