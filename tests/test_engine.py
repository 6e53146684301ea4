"""One ONNX Runtime session, opened, checked and proven."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.errors import BadArtifact, InferenceFailed, ProviderUnavailable
from service.pipeline.engine import Engine, EngineOptions
from service.pipeline.manifest import ClassEntry, InputPolicy, Manifest, Output
from service.pipeline.providers import CUDA
from tests.conftest import make_graph, make_image, make_manifest, write_artifact

MAPS = Path("/proc/self/maps")

without_cuda = pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this machine may have a GPU")


def test_scores_have_the_shape_that_the_manifest_promises(artifact: Path) -> None:
    """N x h x w x 3 in, N x K x h/8 x w/8 out; and the colours win where they are."""
    engine = Engine.open(artifact)
    scores = engine.run(np.stack([make_image(), make_image()[:, ::-1]]))["scores"]
    assert scores.shape == (2, 3, 12, 16)
    assert scores.dtype == np.float32
    assert scores[0, :, 0].argmax(0).tolist() == [0] * 5 + [1] * 6 + [2] * 5
    assert scores[1, :, 0].argmax(0).tolist() == [2] * 5 + [1] * 6 + [0] * 5


def test_an_engine_says_what_it_is(artifact: Path) -> None:
    """Manifest, hash of the file, and where it runs."""
    engine = Engine.open(artifact)
    assert engine.manifest == make_manifest()
    assert engine.sha256 == hashlib.sha256(artifact.read_bytes()).hexdigest()
    assert engine.provider == "cpu"


def with_weights_beside(folder: Path) -> Path:
    """The colour network in the external-data form, its weights beyond the kilobyte from which they move out."""
    model = make_graph()
    wide = np.zeros((3, 3, 9, 9), np.float32)
    wide[np.arange(3), np.arange(3), 4, 4] = 1 / 255
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(wide, "kernel"))
    model.graph.node[3].attribute.append(helper.make_attribute("pads", [4] * 4))
    helper.set_model_props(model, make_manifest().to_metadata())
    path = folder / "colours.onnx"
    onnx.save(model, path, save_as_external_data=True, location="colours.onnx.data")
    return path


def test_weights_beside_the_file_are_served_and_hashed(artifact: Path, tmp_path: Path) -> None:
    """The external-data form is the same network, and its hash changes with its weights."""
    path = with_weights_beside(tmp_path)
    batch = make_image()[None]
    engine = Engine.open(path)
    assert np.allclose(engine.run(batch)["scores"], Engine.open(artifact).run(batch)["scores"], atol=1e-6)
    data = tmp_path / "colours.onnx.data"
    assert engine.sha256 == hashlib.sha256(path.read_bytes() + data.read_bytes()).hexdigest()


def test_weights_that_are_cut_off_under_a_running_engine_change_nothing(tmp_path: Path) -> None:
    """ONNX Runtime would map the file, and the next run would end the process (SIGBUS); the engine has what it read."""
    path = with_weights_beside(tmp_path)
    engine = Engine.open(path)
    before = engine.run(make_image()[None])["scores"]
    os.truncate(tmp_path / "colours.onnx.data", 0)
    if MAPS.exists():
        assert "colours.onnx.data" not in MAPS.read_text("utf-8")
    assert np.array_equal(engine.run(make_image()[None])["scores"], before)


def test_missing_weights_are_a_bad_artifact(tmp_path: Path) -> None:
    """The file that was forgotten is named, its folder is not."""
    path = with_weights_beside(tmp_path)
    (tmp_path / "colours.onnx.data").unlink()
    with pytest.raises(BadArtifact, match=r"^colours\.onnx: keeps its weights in colours\.onnx\.data, which is missing"):
        Engine.open(path)


def at_one_size(height: int, width: int, batch: int | str = "N") -> onnx.ModelProto:
    """The colour network for images of one size."""
    model = make_graph()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, height, width, 3]))
    return model


def test_a_graph_of_one_image_runs_a_batch_one_by_one(tmp_path: Path) -> None:
    """A caller that batches need not know."""
    policy = InputPolicy(working_size=(96, 128), fit="stretch", multiple=8)
    engine = Engine.open(write_artifact(tmp_path / "one.onnx", make_manifest(input=policy), at_one_size(96, 128, batch=1)))
    batch = np.stack([make_image(), make_image()[:, ::-1]])
    scores = engine.run(batch)["scores"]
    assert scores.shape == (2, 3, 12, 16)
    assert scores[:, :, 0, 0].argmax(1).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("policy", "graph", "complaint"),
    [
        (InputPolicy(working_size=(96, 128), fit="area"), at_one_size(96, 128), "'area' of 96x128"),
        (InputPolicy(working_size=(96, 128), fit="stretch"), at_one_size(64, 128), "'stretch' of 96x128"),
        (InputPolicy(working_size=(96, 128), fit="stretch", multiple=64), at_one_size(96, 128), "multiples of 64"),
        (InputPolicy(working_size=(96, 128)), at_one_size(96, 128, batch=4), "exactly 4 images"),
    ],
)
def test_a_size_that_contradicts_the_manifest_is_a_bad_artifact(
    policy: InputPolicy, graph: onnx.ModelProto, complaint: str, tmp_path: Path
) -> None:
    """A graph of one size serves images that are stretched to that size, and no others."""
    with pytest.raises(BadArtifact, match=complaint):
        Engine.open(write_artifact(tmp_path / "bad.onnx", make_manifest(input=policy), graph))


def test_a_multiple_that_is_not_the_graphs_is_a_bad_artifact(tmp_path: Path) -> None:
    """The working size happens to suit the graph; the next image of another shape would not."""
    model = make_graph()
    halved = helper.make_node("MaxPool", ["cells"], ["halved"], kernel_shape=[2, 2], strides=[2, 2])
    grown = helper.make_node("Resize", ["halved", "", "scales"], ["grown"], mode="nearest")
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"))
    model.graph.node.insert(3, halved)
    model.graph.node.insert(4, grown)
    model.graph.node[5].input[0] = "grown"
    policy = InputPolicy(working_size=(96, 128), multiple=16)
    Engine.open(write_artifact(tmp_path / "good.onnx", make_manifest(input=policy), model))
    with pytest.raises(BadArtifact, match="instead of"):
        Engine.open(write_artifact(tmp_path / "bad.onnx", graph=model))


def test_an_engine_runs_from_many_threads(artifact: Path) -> None:
    """One session serves all, at changing sizes."""
    engine = Engine.open(artifact, EngineOptions(threads=1))
    batches = [np.full((1, 8 * n, 16, 3), (0, 255, 0), np.uint8) for n in range(1, 20)]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(engine.run, batches):
            assert (found["scores"].argmax(1) == 1).all()


def test_a_lane_gives_the_scores_of_the_whole(artifact: Path) -> None:
    """An image's answer does not depend on who else is there."""
    engine = Engine.open(artifact, EngineOptions(threads=4, lanes=2))
    batch = np.random.default_rng(0).integers(0, 256, (1, 96, 128, 3), np.uint8)
    np.testing.assert_allclose(engine.run(batch, alone=False)["scores"], engine.run(batch)["scores"], rtol=1e-5, atol=1e-5)
    engine.close()
    for alone in (True, False):
        with pytest.raises(InferenceFailed, match="closed"):
            engine.run(batch, alone=alone)


def test_lanes_share_the_threads() -> None:
    """All together never want more processors than one inference that is alone, and each has one at least."""
    assert EngineOptions(threads=8, lanes=4).threads_in_lane == 2
    assert EngineOptions(threads=2, lanes=8).threads_in_lane == 1
    assert EngineOptions(threads=3).threads_in_lane == EngineOptions(threads=3).threads_alone == 3


def test_a_closed_engine_fails_cleanly(artifact: Path) -> None:
    """A request that holds a retired engine gets an error of ours."""
    engine = Engine.open(artifact)
    engine.close()
    with pytest.raises(InferenceFailed, match="closed"):
        engine.warm_up()


def test_a_shape_that_the_network_cannot_take_is_a_failed_inference(artifact: Path) -> None:
    """ONNX Runtime's own errors do not leak."""
    engine = Engine.open(artifact)
    with pytest.raises(InferenceFailed, match="colours failed"):
        engine.run(np.zeros((1, 8, 8, 4), np.uint8))
    engine.warm_up()


@pytest.mark.parametrize("content", [b"", b"not ONNX at all", b"\x08\x0a" + bytes(200)])
def test_what_is_not_onnx_is_a_bad_artifact(content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It is named, its folder is not, and ONNX Runtime does not talk over our log."""
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(BadArtifact, match=r"^broken\.onnx: ") as caught:
        Engine.open(path)
    assert str(tmp_path) not in caught.value.message
    assert capfd.readouterr() == ("", "")


def test_a_truncated_artifact_is_a_bad_artifact(artifact: Path, tmp_path: Path) -> None:
    """A copy that was cut off."""
    path = tmp_path / "half.onnx"
    path.write_bytes(artifact.read_bytes()[:-300])
    with pytest.raises(BadArtifact):
        Engine.open(path)


def test_a_file_that_is_not_there_is_a_bad_artifact(tmp_path: Path) -> None:
    """Removed between listing and opening."""
    with pytest.raises(BadArtifact, match=r"gone\.onnx: cannot be read"):
        Engine.open(tmp_path / "gone.onnx")


def test_an_onnx_file_without_a_manifest_is_a_bad_artifact(tmp_path: Path) -> None:
    """It could run, but the meaning of its numbers would be unknown."""
    onnx.save(make_graph(), tmp_path / "bare.onnx")
    with pytest.raises(BadArtifact, match=r"models\.export"):
        Engine.open(tmp_path / "bare.onnx")


def contradicting_graphs() -> dict[str, tuple[onnx.ModelProto, str]]:
    """Graphs that do not do what the manifest says, and a word of the complaint about each."""
    float_input, other_input, other_output, float_output = (make_graph() for _ in range(4))
    float_input.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    other_input.graph.input[0].name = other_input.graph.node[0].input[0] = "pixels"
    other_output.graph.output[0].name = other_output.graph.node[-1].output[0] = "logits"
    float_output.graph.node.append(helper.make_node("Cast", ["real_scores"], ["scores"], to=TensorProto.DOUBLE))
    float_output.graph.node[-2].output[0] = "real_scores"
    float_output.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    return {
        "too few planes": (make_graph(np.eye(3, dtype=np.float32)[:2]), "one plane a class"),
        "float input": (float_input, "must be uint8"),
        "another input": (other_input, "one input 'image'"),
        "another output": (other_output, "an output 'scores'"),
        "double output": (float_output, "must be float32"),
    }


@pytest.mark.parametrize("contradiction", contradicting_graphs())
def test_a_graph_that_contradicts_its_manifest_is_a_bad_artifact(contradiction: str, tmp_path: Path) -> None:
    """What cannot be served is refused when it is opened, with the reason."""
    graph, complaint = contradicting_graphs()[contradiction]
    with pytest.raises(BadArtifact, match=complaint):
        Engine.open(write_artifact(tmp_path / "bad.onnx", graph=graph))


def test_a_stride_that_is_not_the_graphs_is_a_bad_artifact(tmp_path: Path) -> None:
    """Only a run tells; the warm-up is that run."""
    with pytest.raises(BadArtifact, match="instead of"):
        Engine.open(write_artifact(tmp_path / "bad.onnx", make_manifest(stride=4)))


@without_cuda
def test_cuda_is_strict(artifact: Path) -> None:
    """A request for the GPU never gets the CPU in silence."""
    with pytest.raises(ProviderUnavailable, match="CUDA"):
        Engine.open(artifact, EngineOptions(provider="cuda"))


@without_cuda
def test_auto_falls_back_and_says_so(artifact: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The CPU is taken, and the log has the reason."""
    with caplog.at_level(logging.WARNING):
        engine = Engine.open(artifact, EngineOptions(provider="auto"))
    assert engine.provider == "cpu"
    assert "falling back to the CPU" in caplog.text


@without_cuda
def test_a_broken_artifact_is_not_blamed_on_the_provider(tmp_path: Path) -> None:
    """Also where the GPU was asked for."""
    (tmp_path / "broken.onnx").write_bytes(b"x")
    with pytest.raises(BadArtifact):
        Engine.open(tmp_path / "broken.onnx", EngineOptions(provider="cuda"))


def panoptic_graph(cost: int = 1) -> onnx.ModelProto:
    """The colour network with a second and a third output, ``centers`` and ``offsets``, behind a chain of convolutions.

    Takes:
        cost: convolutions of 64 channels that only these two need
    """
    model = make_graph()
    graph = model.graph
    weights = {
        "widen": np.full((64, 3, 1, 1), 0.01, np.float32),
        "deepen": np.full((64, 64, 3, 3), 1e-3, np.float32),
        "one": np.ones((1, 64, 1, 1), np.float32),
        "two": np.ones((2, 64, 1, 1), np.float32),
    }
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    nodes = [helper.make_node("Conv", ["planes", "widen"], ["deep0"], strides=[4, 4])]
    nodes += [helper.make_node("Conv", [f"deep{i}", "deepen"], [f"deep{i + 1}"], f"deep{i}", pads=[1] * 4) for i in range(cost)]
    nodes += [
        helper.make_node("Conv", [f"deep{cost}", "one"], ["raw"], strides=[2, 2]),
        helper.make_node("Sigmoid", ["raw"], ["centers"]),
        helper.make_node("Conv", [f"deep{cost}", "two"], ["offsets"]),
    ]
    graph.node.extend(nodes)
    for name, planes in (("centers", 1), ("offsets", 2)):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", planes, None, None]))
    return model


def panoptic_manifest(**changes: Any) -> Manifest:
    """The manifest of :func:`panoptic_graph`: blue things can be counted."""
    plain = make_manifest()
    outputs = [Output(name="scores", kind="scores", stride=8), Output(name="centers", kind="centers", stride=8)]
    fields = {
        "task": "panoptic",
        "classes": (*plain.classes[:2], plain.classes[2].model_copy(update={"countable": True})),
        "outputs": (*outputs, Output(name="offsets", kind="offsets", stride=4)),
    }
    return make_manifest(**{**fields, **changes})


def test_outputs_come_by_their_names_each_at_its_own_stride(tmp_path: Path) -> None:
    """A run gives the outputs that are asked for, in that order, and the same numbers whatever else is asked for."""
    engine = Engine.open(write_artifact(tmp_path / "panoptic.onnx", panoptic_manifest(), panoptic_graph()))
    batch = np.stack([make_image(), make_image()[:, ::-1]])
    every = engine.run(batch, ("offsets", "scores", "centers"))
    assert {name: array.shape for name, array in every.items()} == {
        "offsets": (2, 2, 24, 32),
        "scores": (2, 3, 12, 16),
        "centers": (2, 1, 12, 16),
    }
    for name, array in every.items():
        (alone,) = engine.run(batch, (name,)).values()
        assert np.array_equal(alone, array)
    assert list(engine.run(batch)) == ["scores"]
    with pytest.raises(InferenceFailed, match="no output 'depth'; it has scores, centers, offsets"):
        engine.run(batch, ("depth",))


def renamed(model: onnx.ModelProto, output: str, name: str) -> None:
    """Give the tensor behind an output another name, so that more operators may come behind it."""
    (node,) = (node for node in model.graph.node if output in node.output)
    node.output[list(node.output).index(output)] = name


def from_the_last_operator_on(model: onnx.ModelProto) -> None:
    """Store the operators in an order in which they cannot run."""
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def with_scores_of_all(model: onnx.ModelProto) -> None:
    """Let the scores depend on all other outputs, so that nothing is left for a second half."""
    renamed(model, "scores", "raw scores")
    for name in ("centers", "offsets"):
        model.graph.node.append(helper.make_node("ReduceMax", [name], [f"most {name}"], keepdims=0))
    model.graph.node.append(helper.make_node("Sum", ["raw scores", "most centers", "most offsets"], ["scores"]))


def with_a_sequence_between(model: onnx.ModelProto) -> None:
    """Let scores and centres read one sequence."""
    renamed(model, "scores", "raw scores")
    renamed(model, "centers", "raw centers")
    model.graph.initializer.append(numpy_helper.from_array(np.array(0), "first"))
    model.graph.node.extend(
        [
            helper.make_node("SequenceConstruct", ["raw scores"], ["sequence"]),
            helper.make_node("SequenceAt", ["sequence", "first"], ["scores"]),
            helper.make_node("SequenceAt", ["sequence", "first"], ["again"]),
            helper.make_node("ReduceMax", ["again"], ["most"], keepdims=0),
            helper.make_node("Sum", ["raw centers", "most"], ["centers"]),
        ]
    )


def with_unsigned_numbers_between(model: onnx.ModelProto) -> None:
    """Let scores and centres read numbers of 32 bits without a sign."""
    renamed(model, "scores", "raw scores")
    renamed(model, "centers", "raw centers")
    model.graph.node.append(helper.make_node("Cast", ["planes"], ["unsigned"], to=TensorProto.UINT32))
    for name in ("scores", "centers"):
        model.graph.node.append(helper.make_node("Cast", ["unsigned"], [f"for {name}"], to=TensorProto.FLOAT))
        model.graph.node.append(helper.make_node("ReduceMax", [f"for {name}"], [f"most for {name}"], keepdims=0))
        model.graph.node.append(helper.make_node("Sum", [f"raw {name}", f"most for {name}"], [name]))


@pytest.mark.parametrize(
    "change", [from_the_last_operator_on, with_scores_of_all, with_a_sequence_between, with_unsigned_numbers_between]
)
def test_every_graph_that_runs_as_a_whole_is_opened(change: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    """Whatever lies between scores and heads, the outputs are those of the whole graph."""
    model = panoptic_graph()
    change(model)
    path = write_artifact(tmp_path / "panoptic.onnx", panoptic_manifest(), model)
    batch, names = np.stack([make_image()]), ["scores", "centers", "offsets"]
    expected = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(names, {"image": batch})
    engine = Engine.open(path)
    found = engine.run(batch, names)
    assert all(np.array_equal(found[name], value) for name, value in zip(names, expected, strict=True))
    assert np.array_equal(engine.run(batch)["scores"], expected[0])


def test_operators_that_no_wanted_output_needs_do_not_run(tmp_path: Path) -> None:
    """The heads of a panoptic network cost nothing where only the scores are wanted: 40 convolutions are left out."""
    engine = Engine.open(write_artifact(tmp_path / "heavy.onnx", panoptic_manifest(), panoptic_graph(40)))
    batch = np.stack([make_image()])

    def cpu_s(*outputs: str) -> float:
        start = time.process_time()
        engine.run(batch, outputs)
        return time.process_time() - start

    engine.run(batch, ("scores", "centers", "offsets"))
    without, with_heads = [cpu_s("scores") for _ in range(5)], [cpu_s("centers", "offsets") for _ in range(5)]
    assert 10 * min(without) < min(with_heads)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"outputs": "centers"}, "needs an output 'middles'"),
        ({"planes": 2}, "output 'centers' must be float32 N x 1 x h x w; is"),
        ({"stride": 4}, r"gave centers of \(1, 1, 13, 17\) instead of"),
    ],
)
def test_an_output_that_contradicts_the_manifest_is_a_bad_artifact(
    changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    """Names, planes and strides of every output are proven when the artifact is opened."""
    manifest, model = panoptic_manifest(), panoptic_graph()
    if "outputs" in changes:
        named = [out.model_copy(update={"name": "middles"}) if out.kind == "centers" else out for out in manifest.outputs]
        manifest = panoptic_manifest(outputs=tuple(named))
    if "planes" in changes:
        next(tensor for tensor in model.graph.initializer if tensor.name == "one").CopyFrom(
            numpy_helper.from_array(np.ones((2, 64, 1, 1), np.float32), "one")
        )
        model.graph.output[1].CopyFrom(helper.make_tensor_value_info("centers", TensorProto.FLOAT, ["N", 2, None, None]))
    if "stride" in changes:
        nearer = [out.model_copy(update={"stride": 4}) if out.kind == "centers" else out for out in manifest.outputs]
        manifest = panoptic_manifest(outputs=tuple(nearer))
    with pytest.raises(BadArtifact, match=complaint):
        Engine.open(write_artifact(tmp_path / "bad.onnx", manifest, model))


def volume_graph(dtype: int, channels: int = 1) -> onnx.ModelProto:
    """N x D x H x W x ``channels`` in; a voxel's first channel is the score of class 1, its negative that of class 0."""
    kernel = np.zeros((2, channels, 1, 1, 1), np.float32)
    kernel[:, 0] = np.array([-1, 1], np.float32).reshape(2, 1, 1, 1)
    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["real"], ["planes"], perm=[0, 4, 1, 2, 3]),
        helper.make_node("Conv", ["planes", "kernel"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "volumes",
        [helper.make_tensor_value_info("image", dtype, ["N", "D", "H", "W", channels])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2, "d", "h", "w"])],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def volume_manifest(**policy: Any) -> Manifest:
    """The manifest of :func:`volume_graph`."""
    size = {"working_size": (16, 24), "working_depth": 8, "fit": "native", "multiple": 8, "dimensions": 3, "channels": 1}
    tissues = tuple(ClassEntry(id=k, name=name, color=(k, k, k)) for k, name in enumerate(("air", "tissue")))
    whole = InputPolicy.model_validate({**size, **policy})
    return make_manifest(input=whole, classes=tissues, stride=1, halo=0, receptive_field=1)


@pytest.mark.parametrize(
    ("dtype", "element", "largest"),
    [("uint8", TensorProto.UINT8, 255), ("uint16", TensorProto.UINT16, 65535), ("float32", TensorProto.FLOAT, 1e4)],
)
def test_a_volume_of_any_dtype_keeps_its_numbers(dtype: str, element: int, largest: float, tmp_path: Path) -> None:
    """Depth, height and width come out as they go in, and no bit of a 16-bit voxel is lost on the way."""
    engine = Engine.open(write_artifact(tmp_path / "volume.onnx", volume_manifest(dtype=dtype), volume_graph(element)))
    volume = np.zeros((2, 8, 16, 24, 1), dtype)
    volume[1, 2, 3, 4] = largest
    scores = engine.run(volume)["scores"]
    assert scores.shape == (2, 2, 8, 16, 24)
    assert scores[1, 1, 2, 3, 4] == largest
    assert np.count_nonzero(scores) == 2


@pytest.mark.parametrize(
    ("policy", "complaint"),
    [
        ({"dtype": "uint16"}, r"input must be uint16 N x D x H x W x 1; is tensor\(uint8\)"),
        ({"channels": 2}, "input must be uint8 N x D x H x W x 2"),
        ({"dimensions": 2, "working_depth": None}, "input must be uint8 N x H x W x 1"),
    ],
)
def test_an_input_that_contradicts_the_manifest_is_a_bad_artifact(
    policy: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    """The dtype, the rank and the channels of the graph's input are proven."""
    with pytest.raises(BadArtifact, match=complaint):
        Engine.open(write_artifact(tmp_path / "bad.onnx", volume_manifest(**policy), volume_graph(TensorProto.UINT8)))
