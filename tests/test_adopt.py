"""Adopting networks from elsewhere: each is a real ONNX file, and what comes out is served by the real pipeline.

The network is the colour network of ``conftest`` as a stranger would have exported it: normalised float planes in, and its
answer in any of the forms that are met in the world. A mask with red and blue exchanged tells a wrong order of channels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from models import adopt
from models.exporting import artifact as on_disk
from models.exporting import wrapping
from models.exporting.adoption import Told, observe
from models.exporting.foreign import AdoptionError, Foreign, Normalisation
from models.exporting.parity import SCORE_TOLERANCE
from models.exporting.quiet import quiet
from service.errors import BadArtifact
from service.pipeline import intensity
from service.pipeline.codecs.decoding import Limits
from service.pipeline.engine import Engine
from service.pipeline.predictor import Predictor
from service.pipeline.repository import Repository
from service.pipeline.segmentation import Segmentation
from tests.conftest import STRIDE, make_image, make_labels, write_artifact
from tests.phantoms import nifti_bytes

IMAGENET = ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]
CAFFE = ["--mean", "122.67891434,116.66876762,104.00698793", "--std", "1,1,1", "--scale", "1"]
Sides = tuple[int | str, int | str]


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """The classes of the colour network, as a user would write them down."""
    path = tmp_path / "colours.json"
    path.write_text(json.dumps({"classes": [{"name": "red", "color": [255, 0, 0]}, {"name": "green"}, {"name": "blue"}]}))
    return path


def foreign_graph(
    answer: str = "scores",
    *,
    order: str = "rgb",
    sides: Sides = ("H", "W"),
    batch: int | str = "N",
    dtype: int = TensorProto.FLOAT,
    names: tuple[str, str] = ("pixels", "logits"),
    opset: int = 18,
    channels: int = 3,
) -> onnx.ModelProto:
    """float N x 3 x H x W -> the mean red, green and blue of each cell of 8 x 8 pixels, as scores or in another form."""
    source, target = names
    real = helper.tensor_dtype_to_np_dtype(dtype)
    kernel = np.eye(3)[:: -1 if order == "bgr" else 1].reshape(3, 3, 1, 1).astype(real)
    nodes = [
        helper.make_node("AveragePool", [source], ["cells"], kernel_shape=[STRIDE] * 2, strides=[STRIDE] * 2),
        helper.make_node("Conv", ["cells", "kernel"], ["mixed"]),
    ]
    shape: list[int | str] = [batch, 3, "h", "w"]
    kind = dtype
    if answer == "scores":
        nodes.append(helper.make_node("Identity", ["mixed"], [target]))
    elif answer == "probabilities":
        nodes.append(helper.make_node("Softmax", ["mixed"], [target], axis=1))
    elif answer == "labels":
        nodes.append(helper.make_node("ArgMax", ["mixed"], [target], axis=1, keepdims=0))
        shape, kind = [batch, "h", "w"], TensorProto.INT64
    else:  # labels with one channel, as 32-bit numbers
        nodes.append(helper.make_node("ArgMax", ["mixed"], ["wide"], axis=1, keepdims=1))
        nodes.append(helper.make_node("Cast", ["wide"], [target], to=TensorProto.INT32))
        shape, kind = [batch, 1, "h", "w"], TensorProto.INT32
    graph = helper.make_graph(
        nodes,
        "stranger",
        [helper.make_tensor_value_info(source, dtype, [batch, channels, *sides])],
        [helper.make_tensor_value_info(target, kind, shape)],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def saved(model: onnx.ModelProto, tmp_path: Path, name: str = "stranger.onnx") -> Path:
    """The file of a model, in a folder of its own."""
    path = tmp_path / "from" / name
    path.parent.mkdir(exist_ok=True)
    onnx.save(model, path)
    return path


def words(network: Path, classes: Path | str, *more: str) -> list[str]:
    """The command line that adopts a network as ``served/mine.onnx`` two folders up."""
    out = network.parent.parent / "served" / "mine.onnx"
    return [str(network), "--classes", str(classes), "--name", "mine", "--out", str(out), *more]


def run(network: Path, classes: Path | str, *more: str) -> Path:
    """Adopt a network; gives the artifact."""
    command = words(network, classes, *more)
    assert adopt.main(command) == 0
    return Path(command[command.index("--out") + 1])


def segment(artifact: Path, image: np.ndarray[Any, np.dtype[np.uint8]]) -> Segmentation:
    """An image's mask, by the service's own pipeline."""
    predictor = Predictor(Repository(artifact.parent), Limits(10**7, 10**7, 10**4))
    try:
        return predictor.segment(image, "mine")
    finally:
        predictor.close()


@pytest.mark.parametrize("answer", ["scores", "probabilities", "labels", "labels with a channel"])
@pytest.mark.parametrize(("order", "normalisation"), [("rgb", IMAGENET), ("bgr", CAFFE)], ids=["rgb", "bgr"])
def test_a_network_of_any_form_is_served_with_the_right_mask(
    answer: str, order: str, normalisation: list[str], classes: Path, tmp_path: Path
) -> None:
    """Scores, probabilities and labels, in both orders of channels, with both habits of normalising."""
    network = saved(foreign_graph(answer, order=order), tmp_path)
    artifact = run(network, classes, *normalisation, "--order", order, "--input-size", "96x120")
    result = segment(artifact, make_image(96, 120))
    assert np.array_equal(result.labels, make_labels(96, 120))
    assert result.manifest.stride == STRIDE
    assert result.manifest.input.multiple == STRIDE
    assert result.manifest.input.fit == "area"
    assert [entry.name for entry in result.manifest.classes] == ["red", "green", "blue"]
    assert result.confidence()[:, 10].min() > 250 or answer in ("scores", "probabilities")


def test_scores_are_those_of_the_network_on_normalised_pixels(classes: Path, tmp_path: Path) -> None:
    """Against the foreign file itself, with the normalisation in float64, at a size and a batch that adoption has not tried."""
    network = saved(foreign_graph(order="bgr"), tmp_path)
    artifact = run(network, classes, *IMAGENET, "--order", "bgr", "--input-size", "96x128")
    batch = np.random.default_rng(1).integers(0, 256, (5, 40, 88, 3), dtype=np.uint8)
    pixels = (batch / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    planes = pixels[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32)
    (expected,) = ort.InferenceSession(network, providers=["CPUExecutionProvider"]).run(None, {"pixels": planes})
    assert np.allclose(Engine.open(artifact).run(batch)["scores"], expected, atol=1e-5)


def test_probabilities_come_out_of_the_services_softmax_as_they_went_in(classes: Path, tmp_path: Path) -> None:
    """Their logarithms are the scores: a confidence is the network's own, not a softmax of a softmax."""
    network = saved(foreign_graph("probabilities"), tmp_path)
    engine = Engine.open(run(network, classes, *IMAGENET, "--order", "rgb", "--input-size", "96x128"))
    batch = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    planes = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(batch).transpose(0, 3, 1, 2)
    (expected,) = ort.InferenceSession(network, providers=["CPUExecutionProvider"]).run(None, {"pixels": planes})
    exponents = np.exp(engine.run(batch)["scores"])
    assert np.allclose(exponents / exponents.sum(1, keepdims=True), expected, atol=1e-5)


def test_the_report_is_in_the_manifest_and_on_the_screen(
    classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Largest and mean difference, agreement, and at least five shapes, batches and odd ones among them."""
    artifact = run(saved(foreign_graph(), tmp_path), classes, *IMAGENET, "--order", "rgb", "--input-size", "96x128")
    parity = Engine.open(artifact).manifest.parity
    assert parity is not None
    assert parity.max_score_difference <= SCORE_TOLERANCE
    assert parity.argmax_agreement == 1
    assert len(set(parity.shapes)) >= 5
    assert max(n for n, _, _ in parity.shapes) > 1
    out = capsys.readouterr().out
    assert "scores differ by at most" in out
    assert "3x96x128" in out
    assert "fcn-serve check" in out


def test_what_is_unknown_is_said_to_be_unknown(classes: Path, tmp_path: Path) -> None:
    """A missing number is better than a guess for a program that cuts tiles by it."""
    artifact = run(saved(foreign_graph(), tmp_path), classes, *IMAGENET, "--order", "rgb", "--input-size", "96x128")
    manifest = Engine.open(artifact).manifest
    assert (manifest.receptive_field, manifest.halo) == (None, None)


def test_a_network_of_one_size_is_stretched_to_it(classes: Path, tmp_path: Path) -> None:
    """Fixed sides and a fixed batch of one: any image is served at that size, batches one by one."""
    network = saved(foreign_graph(sides=(48, 96), batch=1), tmp_path)
    artifact = run(network, classes, *IMAGENET, "--order", "rgb")
    policy = Engine.open(artifact).manifest.input
    assert (policy.fit, policy.working_size, policy.multiple) == ("stretch", (48, 96), STRIDE)
    assert np.array_equal(segment(artifact, make_image(150, 192)).labels, make_labels(150, 192))
    batch = np.random.default_rng(0).integers(0, 256, (3, 48, 96, 3), dtype=np.uint8)
    engine = Engine.open(artifact)
    assert np.array_equal(engine.run(batch)["scores"], np.concatenate([engine.run(image[None])["scores"] for image in batch]))


def needs_multiples_of_32() -> onnx.ModelProto:
    """A network that shrinks by 32, grows back to stride 8, and adds what it finds there: other sides do not fit."""
    model = foreign_graph()
    pool = helper.make_node("MaxPool", ["cells"], ["coarse"], kernel_shape=[4, 4], strides=[4, 4])
    grow = helper.make_node("Resize", ["coarse", "", "scales"], ["grown"], mode="nearest")
    add = helper.make_node("Add", ["cells", "grown"], ["sum"])
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 4, 4], np.float32), "scales"))
    model.graph.node[1].input[0] = "sum"
    for index, node in enumerate((pool, grow, add)):
        model.graph.node.insert(1 + index, node)
    return model


def test_the_multiple_of_sides_is_found_by_running(classes: Path, tmp_path: Path) -> None:
    """The stride is 8, but sides must be multiples of 32; the working size itself need not be one."""
    artifact = run(saved(needs_multiples_of_32(), tmp_path), classes, *IMAGENET, "--order", "rgb", "--input-size", "96x128")
    manifest = Engine.open(artifact).manifest
    assert (manifest.stride, manifest.input.multiple) == (STRIDE, 32)
    assert segment(artifact, make_image(77, 300)).labels.shape == (77, 300)


def only_at(height: int, width: int) -> onnx.ModelProto:
    """A network whose sides are free on paper, with a size baked into it."""
    model = foreign_graph()
    flat = helper.make_node("Reshape", ["cells", "shape"], ["shaped"])
    shape = np.array([1, 3, height // STRIDE, width // STRIDE])
    model.graph.initializer.append(numpy_helper.from_array(shape, "shape"))
    model.graph.node[1].input[0] = "shaped"
    model.graph.node.insert(1, flat)
    return model


def test_a_size_baked_into_a_free_graph_is_found_out(classes: Path, tmp_path: Path) -> None:
    """Exporters leave such graphs behind; they are served at their one size, and one image at a time."""
    artifact = run(saved(only_at(48, 96), tmp_path), classes, *IMAGENET, "--order", "rgb", "--input-size", "48x96")
    assert Engine.open(artifact).manifest.input.fit == "stretch"
    assert np.array_equal(segment(artifact, make_image(96, 96)).labels, make_labels(96, 96))


def test_names_that_we_need_are_taken_over(classes: Path, tmp_path: Path) -> None:
    """Also where the network's own tensors have them, the wrong way round."""
    network = saved(foreign_graph(names=("scores", "image")), tmp_path)
    artifact = run(network, classes, *IMAGENET, "--order", "rgb", "--input-size", "96x120")
    assert np.array_equal(segment(artifact, make_image(96, 120)).labels, make_labels(96, 120))


def test_half_precision_is_adopted_as_it_is(classes: Path, tmp_path: Path) -> None:
    """Half-precision planes inside; uint8 and float32 outside."""
    network = saved(foreign_graph(dtype=TensorProto.FLOAT16), tmp_path)
    artifact = run(network, classes, *IMAGENET, "--order", "rgb", "--input-size", "96x120")
    result = segment(artifact, make_image(96, 120))
    assert result.manifest.precision == "fp16"
    assert np.array_equal(result.labels, make_labels(96, 120))


def two_heads() -> onnx.ModelProto:
    """A network with an auxiliary head, which is wrong and has weights of its own."""
    model = foreign_graph()
    model.graph.node.append(helper.make_node("Conv", ["cells", "auxiliary"], ["aux"]))
    model.graph.initializer.append(numpy_helper.from_array(np.full((3, 3, 1, 1), 0.5, np.float32), "auxiliary"))
    model.graph.output.append(helper.make_tensor_value_info("aux", TensorProto.FLOAT, ["N", 3, "h", "w"]))
    return model


def test_of_two_outputs_one_is_chosen_and_the_other_leaves_no_weights(
    classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked for by name, for a guess would be silent."""
    network = saved(two_heads(), tmp_path)
    more = [*IMAGENET, "--order", "rgb", "--input-size", "96x120"]
    assert adopt.main(words(network, classes, *more)) == 2
    assert "--output" in capsys.readouterr().err
    assert adopt.main(words(network, classes, *more, "--output", "unicorn")) == 2
    assert "aux" in capsys.readouterr().err
    artifact = run(network, classes, *more, "--output", "logits")
    assert np.array_equal(segment(artifact, make_image(96, 120)).labels, make_labels(96, 120))
    assert "auxiliary" not in [weight.name for weight in onnx.load(artifact).graph.initializer]


def branching() -> onnx.ModelProto:
    """A network with the branches of an ``If``, which read a tensor named ``image`` from outside."""
    model = foreign_graph()
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "image"
    info = helper.make_tensor_value_info("same", TensorProto.FLOAT, None)
    then = helper.make_graph([helper.make_node("Identity", ["image"], ["same"])], "then", [], [info])
    other = helper.make_graph([helper.make_node("Neg", ["image"], ["same"])], "other", [], [info])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "condition"))
    choice = helper.make_node("If", ["condition"], ["chosen"], then_branch=then, else_branch=other)
    model.graph.node[1].input[0] = "chosen"
    model.graph.node.insert(1, choice)
    return model


def test_branches_inside_the_network_survive(classes: Path, tmp_path: Path) -> None:
    """They read tensors of the graph around them, which must be neither dropped nor called by their old names."""
    network = saved(branching(), tmp_path)
    artifact = run(network, classes, *IMAGENET, "--order", "rgb", "--input-size", "96x120")
    assert np.array_equal(segment(artifact, make_image(96, 120)).labels, make_labels(96, 120))


def test_a_network_whose_weights_lie_beside_it_is_adopted_whole(
    classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into one file as long as it fits; beyond, into the external-data form, with everything that it needs."""
    model = foreign_graph()
    wide = np.zeros((3, 3, 16, 16), np.float32)  # beyond the kilobyte from which weights move out
    wide[np.arange(3), np.arange(3), 8, 8] = 1
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(wide, "kernel"))
    model.graph.node[1].attribute.append(helper.make_attribute("pads", [8, 8, 7, 7]))
    network = tmp_path / "from" / "stranger.onnx"
    network.parent.mkdir()
    onnx.save(model, network, save_as_external_data=True, location="weights.bin")
    more = [*IMAGENET, "--order", "rgb", "--input-size", "96x120"]
    artifact = run(network, classes, *more)
    assert not artifact.with_name("mine.onnx.data").exists()
    assert np.array_equal(segment(artifact, make_image(96, 120)).labels, make_labels(96, 120))
    artifact.unlink()
    monkeypatch.setattr(on_disk, "SELF_CONTAINED_BYTES", 0)
    run(network, classes, *more)
    assert sorted(path.name for path in artifact.parent.iterdir()) == ["mine.onnx", "mine.onnx.data"]
    assert np.array_equal(segment(artifact, make_image(96, 120)).labels, make_labels(96, 120))
    monkeypatch.undo()
    run(network, classes, *more)
    assert [path.name for path in artifact.parent.iterdir()] == ["mine.onnx"]  # no weights of the older one stay behind


# Networks that PyTorch exported ----------------------------------------------------------------------------------------------


class Small(nn.Module):
    """A small network with random weights, upsampled to the image's size as most published ones are."""

    def __init__(self, *, labels: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 11, 1)
        )
        self.labels = labels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x 3 x H x W to N x 11 x H x W scores, or N x H x W labels."""
        scores = nn.functional.interpolate(self.layers(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return scores.argmax(1) if self.labels else scores


def exported(network: nn.Module, path: Path, *, free: bool) -> Path:
    """Export as a user would, with free or with fixed sides."""
    path.parent.mkdir()
    dim = torch.export.Dim
    shapes = ({0: dim("n"), 2: dim("height", min=8), 3: dim("width", min=8)},) if free else None
    with quiet():
        torch.onnx.export(
            network.eval(), (torch.zeros(2 if free else 1, 3, 64, 96),), path, dynamo=True, dynamic_shapes=shapes, verbose=False
        )
    return path


@pytest.mark.parametrize(("form", "order"), [("free scores", "bgr"), ("fixed scores", "rgb"), ("fixed labels", "bgr")])
def test_what_torch_exports_is_served_as_torch_would_have_it(form: str, order: str, tmp_path: Path) -> None:
    """The mask of the service is that of PyTorch on pixels normalised by hand, at the network's own size."""
    torch.manual_seed(3)
    network = Small(labels=form.endswith("labels"))
    path = exported(network, tmp_path / "from" / "small.onnx", free=form.startswith("free"))
    size = ["--input-size", "64x96"] if form.startswith("free") else []
    artifact = run(path, "camvid", *IMAGENET, "--order", order, *size)
    image = np.random.default_rng(2).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    pixels = ((image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225])[..., :: -1 if order == "bgr" else 1]
    with torch.no_grad():
        answer = network(torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32)))[0]
    expected = (answer if form.endswith("labels") else answer.argmax(0)).numpy()
    result = segment(artifact, image)
    assert np.mean(result.labels == expected) > 0.999  # ties between random scores apart
    assert result.manifest.stride == 1


# Independent probabilities, other layouts, volumes ---------------------------------------------------------------------------


def sigmoid_graph(
    planes: int, *, ends: str = "Sigmoid", axis: int | None = 1, opset: int = 18, gain: float = 12.0
) -> onnx.ModelProto:
    """float N x 3 x H x W -> for each cell a number of its own for red, green, blue: far above 0 where the colour is.

    Takes:
        planes: the first so many of the three colours
        ends: ``Sigmoid``; ``arithmetic``, the same by other operators; or ``nothing``: the logits
        axis: of the classes: 1, 3, or None for no such axis
    """
    kernel = np.eye(3, dtype=np.float32)[:planes].reshape(planes, 3, 1, 1) * gain
    bias = np.full(planes, -gain / 2, np.float32)
    nodes = [
        helper.make_node("AveragePool", ["pixels"], ["cells"], kernel_shape=[STRIDE] * 2, strides=[STRIDE] * 2),
        helper.make_node("Conv", ["cells", "kernel", "bias"], ["raw"]),
    ]
    weights = [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(bias, "bias")]
    value = "raw"
    if ends == "Sigmoid":
        nodes.append(helper.make_node("Sigmoid", [value], ["shares"]))
        value = "shares"
    if ends == "arithmetic":
        weights.append(numpy_helper.from_array(np.array(1, np.float32), "one"))
        steps = [("Neg", ["raw"]), ("Exp", ["step0"]), ("Add", ["step1", "one"]), ("Reciprocal", ["step2"])]
        nodes += [helper.make_node(operator, read, [f"step{at}"]) for at, (operator, read) in enumerate(steps)]
        value = "step3"
    shape: list[int | str] = ["N", planes, "h", "w"]
    if axis == 3:
        nodes.append(helper.make_node("Transpose", [value], ["answer"], perm=[0, 2, 3, 1]))
        shape = ["N", "h", "w", planes]
    elif axis is None:
        weights.append(numpy_helper.from_array(np.array([1], np.int64), "axes"))
        squeeze = helper.make_node("Squeeze", [value, "axes"], ["answer"])
        nodes.append(squeeze if opset >= 13 else helper.make_node("Squeeze", [value], ["answer"], axes=[1]))
        shape = ["N", "h", "w"]
    else:
        nodes.append(helper.make_node("Identity", [value], ["answer"]))
    graph = helper.make_graph(
        nodes,
        "sigmoids",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, shape)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


PLAIN = ["--mean", "0", "--std", "1", "--input-size", "96x128"]


def named(tmp_path: Path, *names: str) -> Path:
    """A class table of these names."""
    path = tmp_path / "named.json"
    path.write_text(json.dumps({"classes": [{"name": name} for name in names]}))
    return path


@pytest.mark.parametrize("names", [("red",), ("other", "red")])
@pytest.mark.parametrize(
    ("ends", "axis", "opset", "more"),
    [
        ("Sigmoid", 1, 18, []),
        ("Sigmoid", 1, 10, []),
        ("Sigmoid", None, 18, []),
        ("Sigmoid", None, 11, []),
        ("Sigmoid", 3, 18, []),
        ("nothing", 1, 18, []),
        ("arithmetic", 1, 18, ["--answer", "sigmoids"]),
    ],
)
def test_a_binary_network_splits_at_one_half(
    names: tuple[str, ...], ends: str, axis: int | None, opset: int, more: list[str], tmp_path: Path
) -> None:
    """One plane becomes two classes: the mask is red where its probability is 0.5 or more, and the confidence is that
    probability, or of the background what is left of 1.
    """
    network = saved(sigmoid_graph(1, ends=ends, axis=axis, opset=opset), tmp_path)
    artifact = run(network, named(tmp_path, *names), *PLAIN, *more)
    image = np.zeros((96, 128, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, 16).round().astype(np.uint8).repeat(8)[None]
    result = segment(artifact, image)
    background = "background" if len(names) == 1 else names[0]
    assert [entry.name for entry in result.manifest.classes] == [background, "red"]
    assert [entry.id for entry in result.manifest.classes] == [0, 1]
    logits = 12.0 * image[0, 4::8, 0] / 255 - 6  # the middle of each cell, where no resizing mixes two
    share = 1 / (1 + np.exp(-logits))
    middle = result.labels[44, 4::8], result.confidence()[44, 4::8] / 255
    assert np.array_equal(middle[0], share >= 0.5)
    np.testing.assert_allclose(middle[1], np.maximum(share, 1 - share), atol=0.03)


@pytest.mark.parametrize("ends", ["Sigmoid", "nothing"])
def test_independent_classes_leave_a_background(ends: str, tmp_path: Path) -> None:
    """A pixel whose classes are all below 0.5 is background; of several above it the most probable one wins."""
    more = ["--answer", "logits"] if ends == "nothing" else []
    artifact = run(saved(sigmoid_graph(3, ends=ends), tmp_path), named(tmp_path, "red", "green", "blue"), *PLAIN, *more)
    image = np.zeros((96, 128, 3), np.uint8)
    image[:, 32:64, 0] = 255
    image[:, 64:96, 1:] = (180, 220)  # green and blue both, blue more
    image[:, 96:, 2] = 100
    result = segment(artifact, image)
    assert [entry.name for entry in result.manifest.classes] == ["background", "red", "green", "blue"]
    assert result.labels[40, [12, 44, 76, 116]].tolist() == [0, 1, 3, 0]
    confidence = result.confidence()[40, [12, 44]] / 255
    assert confidence.min() > 0.97


def test_a_background_of_the_network_s_own_stays_as_it_is(tmp_path: Path) -> None:
    """Where one of the planes is the background, none is added."""
    artifact = run(saved(sigmoid_graph(3), tmp_path), named(tmp_path, "background", "green", "blue"), *PLAIN)
    assert len(Engine.open(artifact).manifest.classes) == 3


@pytest.mark.parametrize("planes", [1, 3])
def test_numbers_of_an_unknown_form_are_refused_with_what_to_say(
    planes: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbers of 0..1 that do not add up to 1, from no sigmoid that can be seen, may be either."""
    network = saved(sigmoid_graph(planes, ends="arithmetic"), tmp_path)
    names = ("red", "green", "blue")[:planes]
    line = refusal(network, named(tmp_path, *names), *PLAIN, capsys=capsys)
    assert "say --answer sigmoids" in line
    assert f"--answer {'logits' if planes == 1 else 'scores'} if not" in line


@pytest.mark.parametrize(("answer", "planes"), [("scores", 1), ("probabilities", 3), ("labels", 3)])
def test_an_answer_that_contradicts_the_numbers_is_refused(
    answer: str, planes: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One plane of scores has no winner, and sigmoids are not a softmax."""
    names = ("red", "green", "blue")[:planes]
    line = refusal(saved(sigmoid_graph(planes), tmp_path), named(tmp_path, *names), *PLAIN, "--answer", answer, capsys=capsys)
    assert f"--answer {answer} contradicts" in line


def channels_last(answer: str, sides: Sides = ("H", "W")) -> onnx.ModelProto:
    """The colour network as TensorFlow's exporter writes it: N x H x W x 3 in; its planes last, first, or as labels."""
    model = foreign_graph("labels" if answer == "labels" else "scores", sides=sides)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", *sides, 3]))
    model.graph.node.insert(0, helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]))
    model.graph.node[1].input[0] = "planes"
    if answer == "last":
        model.graph.node[-1].output[0] = "first"
        model.graph.node.append(helper.make_node("Transpose", ["first"], ["logits"], perm=[0, 2, 3, 1]))
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", "h", "w", 3]))
    return model


@pytest.mark.parametrize("answer", ["last", "first", "labels"])
@pytest.mark.parametrize("sides", [(96, 120), (24, 24)])
@pytest.mark.parametrize(("order", "normalisation"), [("rgb", IMAGENET), ("bgr", CAFFE)], ids=["rgb", "bgr"])
def test_a_network_with_channels_last_is_transposed_around(
    answer: str,
    sides: tuple[int, int],
    order: str,
    normalisation: list[str],
    classes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever the place of the classes. Of 3 x 3 cells in three classes only the user knows it."""
    model = channels_last(answer, sides)
    if order == "bgr":
        kernel = np.eye(3, dtype=np.float32)[::-1].reshape(3, 3, 1, 1)
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(kernel, "kernel"))
    network, more = saved(model, tmp_path), [*normalisation, "--order", order]
    if answer != "labels" and sides == (24, 24):
        assert "say which with --class-axis" in refusal(network, classes, *more, capsys=capsys)
        more += ["--class-axis", answer]
    capsys.readouterr()
    artifact = run(network, classes, *more)
    result = segment(artifact, make_image(*sides))
    assert np.array_equal(result.labels[:, ::8], make_labels(*sides)[:, ::8])


def volume_network(*, last: bool) -> onnx.ModelProto:
    """N x 1 x D x H x W (or channels last) -> N x 2 x D x H x W: class 1 where a voxel's normalised value is above 0."""
    kernel = np.array([-1, 1], np.float32).reshape(2, 1, 1, 1, 1)
    nodes = [helper.make_node("Conv", ["planes" if last else "scan", "kernel"], ["mixed"])]
    sides = ["D", "H", "W"]
    shape: list[int | str] = ["N", *sides, 1] if last else ["N", 1, *sides]
    if last:
        nodes.insert(0, helper.make_node("Transpose", ["scan"], ["planes"], perm=[0, 4, 1, 2, 3]))
        nodes.append(helper.make_node("Transpose", ["mixed"], ["answer"], perm=[0, 2, 3, 4, 1]))
    else:
        nodes.append(helper.make_node("Identity", ["mixed"], ["answer"]))
    graph = helper.make_graph(
        nodes,
        "volumes",
        [helper.make_tensor_value_info("scan", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["N", *sides, 2] if last else ["N", 2, *sides])],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize("last", [False, True])
def test_a_network_of_volumes_is_adopted(last: bool, tmp_path: Path) -> None:
    """Five dimensions: the manifest says so, with the intensity policy that was told, and no axis is exchanged."""
    more = ["--mean", "0.5", "--std", "0.25", "--input-size", "12x16x20", "--intensity", "1,99"]
    artifact = run(saved(volume_network(last=last), tmp_path), named(tmp_path, "air", "tissue"), *more)
    engine = Engine.open(artifact)
    policy = engine.manifest.input
    assert (policy.dimensions, policy.channels, policy.dtype, policy.sides) == (3, 1, "float32", (12, 16, 20))
    assert policy.intensity is not None
    assert (policy.intensity.lower, policy.intensity.upper, policy.fit) == (1, 99, "native")
    scan = np.random.default_rng(3).random((2, 4, 6, 5, 1), np.float32)
    scores = engine.run(scan)["scores"]
    np.testing.assert_allclose(scores[:, 1], (scan[..., 0] - 0.5) / 0.25, atol=1e-5)


class StrangerUNet3D(nn.Module):
    """A 3-D U-Net as other libraries write it: instance norm, PReLU, strided convolutions, trilinear upsampling, group norm."""

    def __init__(self, *, last: bool = False) -> None:
        super().__init__()
        self.last = last
        self.enter = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4, affine=True), nn.PReLU(4))
        self.down = nn.Sequential(nn.Conv3d(4, 8, 3, 2, padding=1), nn.GroupNorm(2, 8), nn.LeakyReLU(0.1))
        self.up = nn.Upsample(scale_factor=2, mode="trilinear")
        self.leave = nn.Conv3d(12, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x 1 x D x H x W to N x 3 x D x H x W; or with the channels last at both ends."""
        x = x.movedim(-1, 1) if self.last else x
        fine = self.enter(x)
        scores: torch.Tensor = self.leave(torch.cat([fine, self.up(self.down(fine))], 1))
        return scores.movedim(1, -1) if self.last else scores


def exported_volume_network(tmp_path: Path, *, last: bool, fixed: bool) -> tuple[Path, StrangerUNet3D]:
    """The network's file by torch's exporter, with free sides or for 16 x 12 x 20 voxels alone; and the network."""
    torch.manual_seed(4)
    net = StrangerUNet3D(last=last).eval()
    sides = [16, 12, 20]
    example = torch.randn(1, *sides, 1) if last else torch.randn(1, 1, *sides)
    even = {axis + (1 if last else 2): 2 * torch.export.Dim(f"half{axis}", min=2, max=64) for axis in range(3)}
    path = tmp_path / "from" / "stranger.onnx"
    path.parent.mkdir(exist_ok=True)
    with quiet():
        shapes = None if fixed else ({0: torch.export.Dim("n"), **even},)
        program = torch.onnx.export(net, (example,), dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert program is not None
    program.save(path)
    return path, net


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("last", "fixed"), [(False, False), (True, False), (False, True)])
def test_a_foreign_network_of_volumes_is_served_as_torch_would_have_it(last: bool, fixed: bool, tmp_path: Path) -> None:
    """A scan in another orientation than the network's: turned, scaled, padded or resampled, and turned back."""
    network, net = exported_volume_network(tmp_path, last=last, fixed=fixed)
    more = [
        "--mean",
        "0.4",
        "--std",
        "0.3",
        "--intensity",
        "1,99",
        "--orientation",
        "ras",
        "--class-axis",
        "last" if last else "first",
    ]
    more += [] if fixed else ["--input-size", "16x12x20"]
    artifact = run(network, named(tmp_path, "air", "organ", "lesion"), *more)
    rng = np.random.default_rng(8)
    voxels = (rng.random((16, 12, 20), np.float32) * 900).astype(np.int16)
    flipped = nifti_bytes(voxels[::-1], np.diag([-1.0, 1, 1, 1]))
    predictor = Predictor(Repository(artifact.parent), Limits(10**7, 10**7, 10**4))
    try:
        result = predictor.segment(flipped, "mine")
        larger = predictor.segment(nifti_bytes(voxels[:15, :11, :19].copy()), "mine")
    finally:
        predictor.close()
    policy = result.manifest.input
    assert (policy.dimensions, policy.orientation, policy.fit) == (3, "RAS", "stretch" if fixed else "native")
    assert policy.intensity is not None
    volume = voxels.astype(np.float32)
    scaled = (intensity.normalised(volume, intensity.window(volume, policy.intensity), policy.intensity) - 0.4) / 0.3
    example = torch.from_numpy(scaled)[None, ..., None] if last else torch.from_numpy(scaled)[None, None]
    with torch.no_grad():
        scores = net(example)[0].movedim(-1, 0).numpy() if last else net(example)[0].numpy()
    ranked = np.sort(scores, 0)
    clear = ranked[-1] - ranked[-2] > 1e-3
    assert clear.mean() > 0.98
    assert np.array_equal(result.labels[::-1][clear], scores.argmax(0)[clear])
    assert larger.labels.shape == (15, 11, 19)


# Refusals --------------------------------------------------------------------------------------------------------------------


def refusal(network: Path, classes: Path | str, *more: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a network is refused; nothing is written."""
    command = words(network, classes, *more)
    assert adopt.main(command) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert not Path(command[command.index("--out") + 1]).exists()
    (line,) = captured.err.splitlines()
    return line


def test_a_class_table_of_another_length_names_both_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every mask would be named wrongly."""
    more = [*IMAGENET, "--order", "rgb", "--input-size", "96x128"]
    line = refusal(saved(foreign_graph(), tmp_path), "voc", *more, capsys=capsys)
    assert "'voc' has 21 classes" in line
    assert "3 score planes" in line


def test_labels_beyond_the_class_table_name_both_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A label output does not say how many classes it has; running it does."""
    short = tmp_path / "short.json"
    short.write_text('{"classes": [{"name": "red"}]}')
    more = [*IMAGENET, "--order", "rgb", "--input-size", "96x128"]
    line = refusal(saved(foreign_graph("labels"), tmp_path), short, *more, capsys=capsys)
    assert "'short' has 1 classes" in line
    assert "0..2" in line


def test_a_mean_of_the_other_habit_is_found_out(classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0..255 with a scale of 255: a mistake that would give masks, and wrong ones."""
    more = [*CAFFE[:4], "--order", "bgr", "--input-size", "96x128"]
    line = refusal(saved(foreign_graph(), tmp_path), classes, *more, capsys=capsys)
    assert "--scale 1" in line


def classifier() -> onnx.ModelProto:
    """A network that gives N x K."""
    model = foreign_graph()
    model.graph.node.append(helper.make_node("GlobalAveragePool", ["logits"], ["pooled"]))
    model.graph.node.append(helper.make_node("Flatten", ["pooled"], ["classes"]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("classes", TensorProto.FLOAT, ["N", 3]))
    return model


def foreign_of_rank(rank: int, channels: int = 1) -> onnx.ModelProto:
    """A network that gives back what it takes: N x channels x sides."""
    shape = ["N", channels, *"ABCD"[: rank - 2]]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("pixels", "scores")]
    graph = helper.make_graph([helper.make_node("Identity", ["pixels"], ["scores"])], "rank", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def uneven() -> onnx.ModelProto:
    """A network without a stride: its valid convolution loses a border."""
    model = foreign_graph()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((3, 3, 3, 3), np.float32), "kernel"))
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: foreign_graph(sides=(5, 5), channels=4), "takes pixels float32 N x 4 x 5 x 5"),
        (lambda: foreign_of_rank(3), "export it with one float input: pictures N x 3 x H x W"),
        (lambda: foreign_of_rank(6), "volumes N x 1 x D x H x W or N x D x H x W x 1"),
        (lambda: foreign_of_rank(5, channels=2), "takes volumes of 2 channels"),
        (classifier, "it is not a segmentation network"),
        (uneven, "no whole number of pixels a score"),
        (lambda: foreign_graph(batch=4), "batches of exactly 4"),
        (lambda: foreign_graph(opset=8), "opset 9 or later, has 8"),
        (lambda: foreign_graph(sides=(64, "W")), "64 x W only, not of 96 x 128"),
    ],
    ids=["four channels", "rank 3", "rank 6", "two volumes", "classifier", "no stride", "batch", "opset", "size"],
)
def test_what_cannot_be_adopted_is_refused_with_the_reason(
    model: Any, reason: str, classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, and no artifact."""
    more = [*IMAGENET, "--order", "rgb", "--input-size", "96x128"]
    assert reason in refusal(saved(model(), tmp_path), classes, *more, capsys=capsys)


@pytest.mark.parametrize("option", [["--intensity", "1,99"], ["--orientation", "RAS"], ["--spacing", "1,1,1"]])
def test_options_of_volumes_are_refused_for_pictures(
    option: list[str], classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They would have no effect."""
    more = [*IMAGENET, "--input-size", "96x128", *option]
    assert "are for volumes, leave them out" in refusal(saved(foreign_graph(), tmp_path), classes, *more, capsys=capsys)


def test_a_free_size_must_be_named(classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A graph does not show at which size it was trained."""
    assert "--input-size" in refusal(saved(foreign_graph(), tmp_path), classes, *IMAGENET, "--order", "rgb", capsys=capsys)


def test_an_artifact_is_not_adopted_again(classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It would be normalised twice."""
    (tmp_path / "from").mkdir()
    artifact = write_artifact(tmp_path / "from" / "colours.onnx")
    assert "colours@1.0.0" in refusal(artifact, classes, *IMAGENET, "--order", "rgb", capsys=capsys)


def test_the_network_itself_is_never_overwritten(classes: Path, tmp_path: Path) -> None:
    """A mistyped --out does not overwrite the input."""
    network = saved(foreign_graph(), tmp_path)
    before = network.read_bytes()
    more = [*IMAGENET, "--order", "rgb", "--input-size", "96x128"]
    assert adopt.main([*words(network, classes, *more), "--out", str(network)]) == 2
    assert network.read_bytes() == before


def test_a_name_that_the_service_would_refuse_is_refused(
    classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the file is written, with the field's name."""
    more = [*IMAGENET, "--order", "rgb", "--input-size", "96x128", "--name", "My Net"]
    assert "name" in refusal(saved(foreign_graph(), tmp_path), classes, *more, capsys=capsys)


@pytest.mark.parametrize("option", [["--mean", "1,2"], ["--std", "a,b,c"], ["--input-size", "96"], ["--input-size", "0x9"]])
def test_an_option_that_makes_no_sense_is_explained(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """By the command line itself, with exit code 2."""
    command = ["x.onnx", "--classes", "voc", *IMAGENET, "--order", "rgb", "--name", "n", "--out", "o.onnx", *option]
    with pytest.raises(SystemExit) as end:
        adopt.main(command)
    assert end.value.code == 2
    assert option[0] in capsys.readouterr().err


def test_an_artifact_that_disagrees_with_its_network_is_not_written(
    classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the operators in the graph are made to forget the mean."""
    steps = wrapping.image_steps
    monkeypatch.setattr(wrapping, "image_steps", lambda *given: (step for step in steps(*given) if step.operator != "Sub"))
    more = [*IMAGENET, "--order", "rgb", "--input-size", "96x128"]
    assert "stranger.onnx gives" in refusal(saved(foreign_graph(), tmp_path), classes, *more, capsys=capsys)


def test_numbers_that_are_none_are_refused(classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """NaN equals nothing, itself included."""
    model = foreign_graph()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((3, 3, 1, 1), np.nan, np.float32), "kernel"))
    more = [*IMAGENET, "--order", "rgb", "--input-size", "96x128"]
    assert "not finite" in refusal(saved(model, tmp_path), classes, *more, capsys=capsys)


def test_what_is_not_an_onnx_file_is_refused(classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As ``fcn-serve check`` would refuse it."""
    (tmp_path / "from").mkdir()
    text = tmp_path / "from" / "notes.onnx"
    text.write_text("a list of things to buy")
    assert "notes.onnx: is not an ONNX file" in refusal(text, classes, *IMAGENET, "--order", "rgb", capsys=capsys)


@pytest.mark.parametrize("wrong", [{"scale": 0}, {"std": (1, 0, 1)}, {"mean": (-1, 0, 0)}, {"mean": (0, 0, 1.5)}])
def test_a_normalisation_that_can_only_be_a_mistake_is_refused(wrong: dict[str, Any]) -> None:
    """A divisor of nothing, and a mean that no pixel could have."""
    with pytest.raises(AdoptionError):
        Normalisation(**{"mean": (0, 0, 0), "std": (1, 1, 1), **wrong})


def test_a_network_that_does_not_run_at_its_size_is_refused(classes: Path, tmp_path: Path) -> None:
    """With what ONNX Runtime says."""
    foreign = Foreign(saved(only_at(48, 96), tmp_path), Normalisation((0, 0, 0), (1, 1, 1)))
    with pytest.raises(AdoptionError, match=r"does not run on 1 x 3 x 64 x 64"):
        observe(foreign, Told((64, 64)), 3)
    with pytest.raises(BadArtifact, match=r"gone\.onnx"):
        Foreign(tmp_path / "gone.onnx", Normalisation((0, 0, 0), (1, 1, 1)))
