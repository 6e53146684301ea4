"""Statistics of calibration frames: values of the kept maps, and second moments of what each convolution reads."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from models.exporting.quantisation.maps import Maps
from service.pipeline.manifest import INPUT

PLACES = 600
"""Places of each frame at which a convolution's input is sampled."""

MOST_VALUES = 2_000_000
"""Values of a map that are kept, over all frames."""

MOST_INPUTS = 1536
"""Weights of one output channel beyond which only the diagonal of their second moments is taken: the others cost their square
in memory and their cube in time, and gain least where a sum has so many parts."""

MOST_BYTES = 400e6
"""Of maps that are asked for in one run of the network."""

Array = NDArray[np.float32]
Exact = NDArray[np.float64]


@dataclass(frozen=True)
class Values:
    """Values of one map over all frames."""

    sample: Array
    """C x n: values at random places."""
    low: Array
    """C: the smallest value of each channel."""
    high: Array
    """C: the largest value of each channel."""

    def scaled(self, factors: Exact) -> Values:
        """The values of a map whose channels are divided by ``factors``, all greater than 0."""
        by = factors.astype(np.float32)
        return Values(self.sample / by[:, None], self.low / by, self.high / by)


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of the numbers that the weights of one output channel are multiplied with.

    A group of channels has its own: G x K, and G x K x K, or G x K where only the diagonal is known; K weights a channel.
    """

    mean: Exact
    covariance: Exact

    @property
    def diagonal(self) -> Exact:
        """G x K: the variances."""
        return self.covariance if self.covariance.ndim == 2 else np.einsum("gkk->gk", self.covariance)

    def scaled(self, factors: Exact) -> Moments:
        """The moments of an input whose channels are divided by ``factors``.

        Takes:
            factors: C greater than 0; the K weights are the C channels of one group, each with all places of the kernel
        """
        by = np.repeat(factors, self.mean.shape[1] // len(factors))
        covariance = self.covariance / (by * by if self.covariance.ndim == 2 else np.outer(by, by))
        return Moments(self.mean / by, covariance)


@dataclass(frozen=True)
class Statistics:
    """The statistics of all frames."""

    values: dict[str, Values]
    """By kept map."""
    moments: dict[str, Moments]
    """By the name of the convolution's output."""


def collect(maps: Maps, frames: Sequence[NDArray[np.generic]], seed: int = 0) -> Statistics:
    """Run the float32 network on calibration frames.

    Takes:
        frames: one batch of one image each, as the network takes them
    """
    rng = np.random.default_rng(seed)
    share = MOST_VALUES // max(1, len(frames))
    samples: dict[str, list[Array]] = {}
    lows: dict[str, Array] = {}
    highs: dict[str, Array] = {}
    sums = {node.output[0]: _Sum.of(maps, node) for node in maps.convolutions}
    reading: dict[str, list[NodeProto]] = {}
    for node in maps.convolutions:
        reading.setdefault(node.input[0], []).append(node)
    for name, found in _maps_of(maps, list(dict.fromkeys([*maps.kept, *reading])), frames):
        flat = found[0].reshape(found.shape[1], -1)
        if name in maps.kept:
            at = rng.choice(flat.shape[1], min(flat.shape[1], max(1, share // len(flat))), replace=False)
            samples.setdefault(name, []).append(flat[:, at])
            low, high = flat.min(1), flat.max(1)
            lows[name] = np.minimum(lows.get(name, low), low)
            highs[name] = np.maximum(highs.get(name, high), high)
        for node in reading.get(name, ()):
            sums[node.output[0]].add(found[0], rng)
    values = {name: Values(np.concatenate(parts, 1), lows[name], highs[name]) for name, parts in samples.items()}
    return Statistics(values, {name: total.moments() for name, total in sums.items()})


def _maps_of(maps: Maps, names: list[str], frames: Sequence[NDArray[np.generic]]) -> Iterator[tuple[str, Array]]:
    """Every map of every frame, as many in a run as fit in memory."""
    for part in _parts(maps, names, frames[0]):
        session = _session(maps.model, part)
        for frame in frames:
            yield from zip(part, session.run(part, {INPUT: frame}), strict=True)


def _parts(maps: Maps, names: list[str], frame: NDArray[np.generic]) -> Iterator[list[str]]:
    """The names in parts whose maps are of at most :data:`MOST_BYTES` together, measured on one frame."""
    sizes: dict[str, int] = {}
    for start in range(0, len(names), 16):
        part = names[start : start + 16]
        sizes |= {name: array.nbytes for name, array in zip(part, _run(maps.model, part, frame), strict=True)}
    part, load = [], 0
    for name in names:
        if part and load + sizes[name] > MOST_BYTES:
            yield part
            part, load = [], 0
        part.append(name)
        load += sizes[name]
    yield part


def _run(model: onnx.ModelProto, names: list[str], frame: NDArray[np.generic]) -> list[Array]:
    return list(_session(model, names).run(names, {INPUT: frame}))


def _session(model: onnx.ModelProto, names: list[str]) -> ort.InferenceSession:
    """A session whose outputs are these maps. No operator is fused with another, so that each map exists."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])


@dataclass
class _Sum:
    """Sums over the places at which a convolution was sampled."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    groups: int
    count: int
    total: Exact
    squares: Exact

    @classmethod
    def of(cls, maps: Maps, node: NodeProto) -> _Sum:
        """Nothing yet."""
        _, inputs, *kernel = maps.kernel(node).shape
        sides, groups = len(kernel), maps.groups(node)

        def numbers(name: str, default: int, count: int = sides) -> tuple[int, ...]:
            found = maps.attribute(node, name)
            return tuple(found) if isinstance(found, list) else (default,) * count

        k = inputs * int(np.prod(kernel))
        squares = np.zeros((groups, k, k) if k <= MOST_INPUTS else (groups, k))
        strides, dilations, pads = numbers("strides", 1), numbers("dilations", 1), numbers("pads", 0, 2 * sides)
        return cls(tuple(kernel), strides, dilations, pads, groups, 0, np.zeros((groups, k)), squares)

    def add(self, found: Array, rng: np.random.Generator) -> None:
        """Sample one frame.

        Takes:
            found: C x sides, the convolution's input
        """
        sides = len(self.kernel)
        padded = np.pad(found, [(0, 0), *zip(self.pads[:sides], self.pads[sides:], strict=True)])
        spans = [dilation * (k - 1) + 1 for dilation, k in zip(self.dilations, self.kernel, strict=True)]
        rows = [(side - span) // stride + 1 for side, span, stride in zip(padded.shape[1:], spans, self.strides, strict=True)]
        places = int(np.prod(rows))
        chosen = np.unravel_index(rng.choice(places, min(PLACES, places), replace=False), rows)
        starts = [at * stride for at, stride in zip(chosen, self.strides, strict=True)]
        flat = padded.reshape(len(padded), -1)
        taps = []
        for tap in itertools.product(*map(range, self.kernel)):
            at = [start + dilation * offset for start, dilation, offset in zip(starts, self.dilations, tap, strict=True)]
            taps.append(flat[:, np.ravel_multi_index(tuple(at), padded.shape[1:])])
        patches = taps[0][:, None] if len(taps) == 1 else np.stack(taps, 1)  # C x places of the kernel x m
        read = patches.reshape(self.groups, -1, patches.shape[-1])  # G x K x m
        self.count += read.shape[-1]
        self.total += read.sum(-1, dtype=np.float64)
        self.squares += read @ read.transpose(0, 2, 1) if self.squares.ndim == 3 else np.square(read).sum(-1, dtype=np.float64)

    def moments(self) -> Moments:
        """Mean and covariance of all samples."""
        mean = self.total / self.count
        squares = self.squares / self.count
        outer = mean[:, :, None] * mean[:, None, :] if squares.ndim == 3 else mean * mean
        return Moments(mean, squares - outer)
