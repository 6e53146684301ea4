"""Every step of int8 against a plainer computation of the same, on small graphs."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from models.exporting import loss
from models.exporting.quantisation import statistics
from models.exporting.quantisation.equalisation import equalise, streams
from models.exporting.quantisation.last_layers import as_products
from models.exporting.quantisation.maps import Maps
from models.exporting.quantisation.qdq import quantised
from models.exporting.quantisation.ranges import Range, find_ranges
from models.exporting.quantisation.recipe import BITS, Quantisation, quantise
from models.exporting.quantisation.rounding import Rounded, round_weights
from models.exporting.quantisation.statistics import Moments, Statistics, collect
from service.pipeline import onnx_file
from service.pipeline.cpus import int8_instructions

Array = NDArray[np.float32]
SHIPPED = Path(__file__).resolve().parents[1] / "models/artifacts/fcn4s-lite0-streets-int8.onnx"


def graph(nodes: Sequence[NodeProto], weights: dict[str, Array], planes: int = 4) -> onnx.ModelProto:
    """uint8 ``image`` N x H x W x 3 -> (x - 127) / 128, channels first, as ``x`` -> ``nodes`` -> ``scores``."""
    first = [
        helper.make_node("Transpose", ["image"], ["bytes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["bytes"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["floats", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["x"]),
    ]
    constants = {"mean": np.full((1, 3, 1, 1), 127, np.float32), "std": np.full((1, 3, 1, 1), 128, np.float32), **weights}
    made = helper.make_graph(
        [*first, *nodes],
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "h", "w", 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", planes, None, None])],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def convolution(read: str, made: str, weights: dict[str, Array], shape: tuple[int, ...], **attributes: Any) -> NodeProto:
    """A convolution of random weights, which are added to ``weights``."""
    rng = np.random.default_rng(len(weights))
    weights[f"{made}_w"] = rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)
    weights[f"{made}_b"] = rng.normal(0, 0.1, shape[0]).astype(np.float32)
    return helper.make_node("Conv", [read, f"{made}_w", f"{made}_b"], [made], made, **attributes)


def residual() -> onnx.ModelProto:
    """A stem, an inverted residual whose channels differ a hundredfold, a pooling, a cut, a concatenation, the scores."""
    weights: dict[str, Array] = {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    nodes = [
        convolution("x", "stem", weights, (8, 3, 3, 3), pads=[1] * 4, strides=[2, 2]),
        convolution("stem", "wide", weights, (16, 8, 1, 1)),
        helper.make_node("Clip", ["wide", "low", "high"], ["wide6"]),
        convolution("wide6", "deep", weights, (16, 1, 3, 3), pads=[1] * 4, group=16),
        helper.make_node("Relu", ["deep"], ["deep0"]),
        convolution("deep0", "narrow", weights, (8, 16, 1, 1)),
        helper.make_node("Add", ["stem", "narrow"], ["sum"]),
        convolution("sum", "left", weights, (6, 8, 1, 1)),
        helper.make_node("Relu", ["left"], ["left0"]),
        helper.make_node("MaxPool", ["left0"], ["pooled"], kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4),
        convolution("sum", "right", weights, (6, 8, 1, 1)),
        helper.make_node("Concat", ["pooled", "right"], ["both"], axis=1),
        convolution("both", "mix", weights, (8, 12, 3, 3), pads=[2] * 4, dilations=[2, 2]),
        helper.make_node("Relu", ["mix"], ["mix0"]),
        convolution("mix0", "scores", weights, (4, 8, 1, 1)),
    ]
    spread = np.geomspace(0.1, 10, 8).astype(np.float32)
    for name in ("stem", "narrow"):
        weights[f"{name}_w"] *= spread.reshape(-1, 1, 1, 1)
        weights[f"{name}_b"] *= spread
    return graph(nodes, weights)


def frames(count: int = 4, side: int = 32) -> list[NDArray[np.uint8]]:
    """Smooth random images, as batches of one."""
    rng = np.random.default_rng(3)
    small = rng.integers(0, 256, (count, side // 4, side // 4, 3), dtype=np.uint8)
    return [image.repeat(4, 0).repeat(4, 1)[None] for image in small]


def run(model: onnx.ModelProto, image: NDArray[np.uint8], *names: str, kind: int = TensorProto.FLOAT) -> list[Array]:
    """The outputs of a graph, or any of its tensors of one type."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(
        helper.make_tensor_value_info(name, kind, None)
        for name in names
        if name not in [output.name for output in model.graph.output]
    )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(array) for array in session.run(list(names) or ["scores"], {"image": image})]


def test_maps_are_kept_after_their_activation() -> None:
    """The 8 bits of a convolution are those after its activation; the last convolution stays in float32."""
    maps = Maps(residual())
    assert [node.output[0] for node in maps.convolutions] == ["stem", "wide", "deep", "narrow", "left", "right", "mix"]
    assert [node.output[0] for node in maps.sums] == ["sum", "both"]
    assert maps.kept == ["x", "stem", "wide6", "deep0", "narrow", "sum", "left0", "pooled", "right", "both", "mix0"]
    assert maps.source("pooled") == "left0"
    assert maps.source("both") == "both"
    assert maps.bounds(maps.maker["wide6"]) == (0, 6)


def test_the_moments_are_those_of_all_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean and covariance of what each output channel's weights are multiplied with, against patches cut in plain loops."""
    monkeypatch.setattr(statistics, "PLACES", 10**6)
    model = residual()
    maps, images = Maps(model), frames(2, 16)
    found = collect(maps, images).moments
    for node in maps.convolutions:
        kernel, groups = maps.kernel(node), maps.groups(node)
        side = kernel.shape[2]
        stride, pad, dilation = {"stem": (2, 1, 1), "deep": (1, 1, 1), "mix": (1, 2, 2)}.get(node.output[0], (1, 0, 1))
        patches = []
        for image in images:
            (read,) = run(model, image, node.input[0])
            padded = np.pad(read[0], [(0, 0), (pad, pad), (pad, pad)])
            last = padded.shape[1] - dilation * (side - 1)
            for y, x in itertools.product(range(0, last, stride), repeat=2):
                cut = padded[:, y : y + dilation * side : dilation, x : x + dilation * side : dilation][:, :side, :side]
                patches.append(cut.reshape(groups, -1))
        every = np.stack(patches).astype(np.float64)  # places x G x K
        moments = found[node.output[0]]
        np.testing.assert_allclose(moments.mean, every.mean(0), rtol=1e-4, atol=1e-5)
        centred = every - every.mean(0)
        expected = np.einsum("mgk,mgl->gkl", centred, centred) / len(every)
        np.testing.assert_allclose(moments.covariance, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_wide_kernels_keep_the_diagonal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a number of weights a channel, memory stays linear; the diagonal is the same."""
    maps, images = Maps(residual()), frames(2, 16)
    whole = collect(maps, images).moments
    monkeypatch.setattr(statistics, "MOST_INPUTS", 0)
    for name, moments in collect(maps, images).moments.items():
        assert moments.covariance.ndim == 2
        np.testing.assert_allclose(moments.covariance, whole[name].diagonal, rtol=1e-5, atol=1e-9)
    assert quantise(maps.model, images).model().graph.node


def test_equalising_changes_no_score_and_evens_the_channels() -> None:
    """The stream of the residual has channels that differ a hundredfold; after it, tenfold, with the scores as before."""
    maps, images = Maps(residual()), frames()
    (stream,) = streams(maps)
    assert stream.maps == ("narrow", "stem", "sum")
    assert {node.output[0] for node in stream.readers} == {"wide", "left", "right"}
    before = collect(maps, images)
    after = equalise(maps, before)
    for image in images:
        np.testing.assert_allclose(run(after.maps.model, image)[0], run(maps.model, image)[0], rtol=1e-4, atol=1e-4)
    again = collect(after.maps, images)
    for name, values in after.statistics.values.items():
        np.testing.assert_allclose(values.high, again.values[name].high, rtol=1e-3, atol=1e-4)
    for name, moments in after.statistics.moments.items():
        np.testing.assert_allclose(moments.mean, again.moments[name].mean, rtol=1e-3, atol=1e-4)

    def spread(found: Statistics) -> float:
        largest = np.maximum(found.values["sum"].high, -found.values["sum"].low)
        return float(largest.max() / largest.min())

    assert spread(after.statistics) < 2 * np.sqrt(spread(before))


@given(st.floats(-1e4, 0), st.floats(0, 1e4))
def test_a_range_holds_zero_exactly_and_its_ends_within_a_step(low: float, high: float) -> None:
    """Padding is zero and must stay zero; a value inside the range moves by half a step at most, the ends by one."""
    found = Range.between(low, high)
    values = np.linspace(low, high, 100, dtype=np.float32)
    assert found.rounded(np.zeros(1, np.float32))[0] == 0
    assert np.abs(found.rounded(values) - values).max() <= 1.01 * found.scale + 1e-6


def test_ranges_follow_activations_and_shared_numbers() -> None:
    """Clip bounds its map, Relu has no negative half, and a pooling has the range of the map that it pools."""
    maps = Maps(residual())
    ranges = find_ranges(maps, collect(maps, frames()))
    assert ranges["wide6"].zero == ranges["left0"].zero == 0
    assert 255 * ranges["wide6"].scale <= 6 + 1e-5
    assert ranges["pooled"] == ranges["left0"]
    assert ranges["both"] != ranges["pooled"]


def error(difference: NDArray[np.float64], moments: Moments) -> float:
    """The mean square error of a layer's centred output."""
    return float(np.einsum("gok,gkl,gol->", difference, moments.covariance, difference))


def test_rounding_with_the_covariance_beats_rounding_to_the_nearest() -> None:
    """On every layer, at the scale of the largest weight and 5 bits; the integers stay in range, the mean error is gone."""
    maps = Maps(residual())
    moments = collect(maps, frames()).moments
    rounded = round_weights(maps, moments, 5)
    gains = []
    for node in maps.convolutions:
        found, known = rounded[node.output[0]], moments[node.output[0]]
        groups = maps.groups(node)
        weights = maps.kernel(node).astype(np.float64).reshape(groups, len(found.scales) // groups, -1)
        scales = found.scales.astype(np.float64).reshape(groups, -1, 1)
        difference = found.integers.reshape(weights.shape) * scales - weights
        simple_scales = np.abs(weights).max(-1, keepdims=True) / 15
        simple = np.rint(weights / simple_scales) * simple_scales - weights
        assert found.integers.min() >= -16
        assert found.integers.max() <= 15
        gains.append(error(difference, known) / error(simple, known))
        mean_error = np.einsum("gok,gk->go", difference, known.mean).reshape(-1)
        np.testing.assert_allclose(found.bias, maps.bias(node) - mean_error, rtol=1e-4, atol=1e-5)
    assert max(gains) <= 1.0
    assert np.mean(gains) < 0.6


def simulated(maps: Maps, found: Quantisation, image: NDArray[np.uint8]) -> Array:
    """The scores of the same graph in float32 with rounded weights, every kept map rounded after its nodes have run."""
    changed = {
        name: ((w.integers * w.scales.reshape(-1, *[1] * (w.integers.ndim - 1))).astype(np.float32), w.bias)
        for name, w in found.rounded.items()
    }
    model = maps.with_convolutions(changed)
    values: dict[str, NDArray[np.generic]] = {"image": image}
    for node in model.graph.node:
        constants = [tensor for tensor in model.graph.initializer if tensor.name in node.input]
        read = [name for name in node.input if name in values]
        kinds = [helper.np_dtype_to_tensor_dtype(values[name].dtype) for name in read]
        inputs = [helper.make_tensor_value_info(name, kind, values[name].shape) for name, kind in zip(read, kinds, strict=True)]
        kind = TensorProto.UINT8 if node.output[0] == "bytes" else TensorProto.FLOAT
        one = helper.make_graph([node], "one", inputs, [helper.make_tensor_value_info(node.output[0], kind, None)], constants)
        alone = helper.make_model(one, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        session = ort.InferenceSession(alone.SerializeToString(), providers=["CPUExecutionProvider"])
        (values[node.output[0]],) = session.run(None, {name: values[name] for name in read})
        if node.output[0] in found.ranges:
            floats = np.asarray(values[node.output[0]], np.float32)
            values[node.output[0]] = found.ranges[node.output[0]].rounded(floats)
    return np.asarray(values["scores"], np.float32)


def test_the_int8_graph_computes_what_rounding_each_map_computes() -> None:
    """Against a simulation in float32; values at half a step may be rounded to either side."""
    model = residual()
    found = quantise(model, frames())
    written = found.model()
    onnx.checker.check_model(written, full_check=True)
    for image in frames(3, 24):
        session = ort.InferenceSession(written.SerializeToString(), providers=["CPUExecutionProvider"])
        (scores,) = session.run(["scores"], {"image": image})
        expected, exact = simulated(found.maps, found, image), run(model, image)[0]
        assert np.abs(scores - expected).mean() < 0.25 * np.abs(exact - expected).mean()
        assert np.abs(scores - exact).mean() < 0.1 * exact.std()


def test_the_image_s_bytes_are_read_as_they_are() -> None:
    """(x - 127) / 128 is an 8-bit range itself: no float image is made, and every bit is kept."""
    found = quantise(residual(), frames())
    written = quantised(found.maps, found.ranges, found.rounded)
    operators = [node.op_type for node in written.graph.node]
    assert not {"Sub", "Div", "Cast"} & set(operators)
    (x,) = run(written, frames(1)[0], "x/floats")
    (exact,) = run(residual(), frames(1)[0], "x")
    np.testing.assert_array_equal(x, exact)


def test_a_normalisation_of_its_own_for_each_channel_stays_in_front() -> None:
    """ImageNet's mean and deviation are not one range of the bytes; the map after them is quantised like any other."""
    model = residual()
    for tensor in model.graph.initializer:
        if tensor.name == "mean":
            tensor.CopyFrom(numpy_helper.from_array(np.array([124, 116, 104], np.float32).reshape(1, 3, 1, 1), "mean"))
    found = quantise(model, frames())
    written = found.model()
    image = frames(1, 24)[0]
    exact, scores = run(model, image)[0], run(written, image)[0]
    assert "x/QuantizeLinear" in [node.name for node in written.graph.node]
    assert np.abs(scores - exact).mean() < 0.1 * exact.std()


def test_a_channel_without_weights_keeps_its_bias() -> None:
    """A bias is a 32-bit integer of the scales: with a vanishing weight it would overflow, and be cut without a sign."""
    model = residual()
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if tensor.name == "left_w":
            array[2] = 1e-12
        if tensor.name == "left_b":
            array[2] = 3.0
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    found = quantise(model, frames())
    (left,) = run(quantised(found.maps, found.ranges, found.rounded), frames(1)[0], "left0/floats")
    np.testing.assert_allclose(left[:, 2], 3.0, atol=2 * found.ranges["left0"].scale)


def test_the_layer_that_costs_most_is_named() -> None:
    """One layer is given weights of one bit: it is the one that changes most of the winners."""
    images = frames()
    found = quantise(residual(), images)
    worst = found.rounded["right"]
    coarse = Rounded(np.sign(worst.integers), (worst.scales * 60).astype(np.float32), worst.bias)
    spoiled = Quantisation(found.maps, found.ranges, {**found.rounded, "right": coarse})
    name, share = loss.costliest(spoiled, images)
    assert name == "right"
    assert share > 0.05


PAIR = 2**15 - 1
"""``vpmaddubsw`` of AVX2 adds two products of an unsigned and a signed byte, and cuts the sum off at 16 bits."""


def test_no_sum_of_two_products_leaves_16_bits() -> None:
    """With 7 bits the largest pair of products fits, whatever the image; with 8 it is twice as large as what fits."""
    largest = 2 ** (BITS - 1)
    assert 2 * 255 * largest <= PAIR < 2 * 255 * 2 * largest
    kernels = [
        numpy_helper.to_array(tensor) for tensor in onnx.load(SHIPPED).graph.initializer if tensor.data_type == TensorProto.INT8
    ]
    integers = [kernel.astype(np.int64) for kernel in kernels if kernel.ndim > 1]
    assert len(integers) > 50
    assert max(2 * 255 * int(np.abs(kernel).max()) for kernel in integers) <= PAIR
    # And no channel's sum leaves the 32 bits of the accumulator.
    sums = [255 * np.abs(kernel).reshape(len(kernel), -1).sum(1).max() for kernel in integers]
    assert max(sums) < 2**31


def products(largest: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """ONNX Runtime's sums of products of white pixels and the largest weights, and the exact ones."""
    pixels = np.full((64, 96), 255, np.uint8)
    weights = np.full((96, 32), largest, np.int8)
    weights[:, ::2] = -largest
    made = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "products",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, pixels.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
        [numpy_helper.from_array(weights, "b")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"a": pixels})[0].astype(np.int64), pixels.astype(np.int64) @ weights.astype(np.int64)


def test_seven_bits_are_multiplied_exactly_on_this_processor() -> None:
    """White against the largest weights of the recipe: nothing is cut off, with VNNI or without."""
    found, exact = products(2 ** (BITS - 1) - 1)
    assert np.array_equal(found, exact)


@pytest.mark.skipif(
    platform.machine() != "x86_64" or int8_instructions() is not None, reason="this processor adds 8-bit products in 32 bits"
)
def test_eight_bits_would_be_cut_off_on_this_processor() -> None:
    """The reason for 7 bits: with 8, and without VNNI or AMX, sums of products are wrong, and no error says so."""
    found, exact = products(127)
    assert not np.array_equal(found, exact)


def two_heads() -> onnx.ModelProto:
    """Scores, and a head of its own layer beside them; both read one map."""
    weights: dict[str, Array] = {}
    nodes = [
        convolution("x", "stem", weights, (8, 3, 3, 3), pads=[1] * 4),
        helper.make_node("Relu", ["stem"], ["stem0"]),
        convolution("stem0", "scores", weights, (4, 8, 1, 1)),
        convolution("stem0", "deep", weights, (8, 1, 5, 5), pads=[2] * 4, group=8),
        helper.make_node("Relu", ["deep"], ["deep0"]),
        convolution("deep0", "offsets", weights, (2, 8, 1, 1)),
    ]
    weights["offsets_w"] *= 100
    model = graph(nodes, weights)
    model.graph.output.append(helper.make_tensor_value_info("offsets", TensorProto.FLOAT, ["n", 2, None, None]))
    return model


def test_last_layers_are_products_of_integers_with_the_same_results() -> None:
    """Against the float layers of the same maps in float64: nothing is lost but what two digits of 7 bits leave."""
    found = quantise(two_heads(), frames())
    model = as_products(quantised(found.maps, found.ranges, found.rounded))
    onnx.checker.check_model(model, full_check=True)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("MatMulInteger") == 2
    assert kinds.count("Conv") == 2  # the stem, and the head's own layer
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for name, read in (("scores", "stem0"), ("offsets", "deep0")):
        assert np.abs(constants[f"{name}/digits"].astype(int)).max() <= 64
        kernel, bias = (found.maps.weights[part] for part in found.maps.maker[name].input[1:])
        for image in frames(2):
            (served,), (byte,) = run(model, image, name), run(model, image, f"{read}/bytes", kind=TensorProto.UINT8)
            values = (byte.astype(np.float64) - found.ranges[read].zero) * found.ranges[read].scale
            expected = np.einsum("nchw,kc->nkhw", values, kernel[:, :, 0, 0]) + bias.reshape(1, -1, 1, 1)
            left = np.abs(kernel).max(1)[:, 0, 0] / 8126 / 2 * np.abs(values).sum(1).max()
            assert (np.abs(served - expected) <= left.reshape(1, -1, 1, 1) + 1e-4 * np.abs(expected).max()).all()


def test_the_heads_read_the_map_with_its_channels_last(tmp_path: Path) -> None:
    """The graph in two halves gives the bits of the whole, and no half turns the map between them."""
    found = quantise(two_heads(), frames())
    path = tmp_path / "halves.onnx"
    onnx.save(as_products(quantised(found.maps, found.ranges, found.rounded)), path)
    halves = onnx_file.halves(path, ("scores",))
    assert halves is not None
    (between,) = halves.between
    image = frames(1)[0]
    first = ort.InferenceSession(halves.first, providers=["CPUExecutionProvider"])
    scores, carried = first.run(["scores", between], {"image": image})
    assert carried.shape[-1] == 8
    assert carried.dtype == np.uint8
    second = halves.rest({node.name: (node.type, node.shape) for node in first.get_outputs()})
    assert second is not None
    rest = ort.InferenceSession(second, providers=["CPUExecutionProvider"])
    (offsets,) = rest.run(["offsets"], {between: carried})
    whole = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(["scores", "offsets"], {"image": image})
    np.testing.assert_array_equal(scores, whole[0])
    np.testing.assert_array_equal(offsets, whole[1])


def test_a_graph_without_such_layers_stays_as_it_is() -> None:
    """In float32 nothing is replaced."""
    assert as_products(two_heads()).graph == two_heads().graph
