"""The export: a graph that gives PyTorch's scores, or no artifact at all."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import helper, numpy_helper
from torch.nn.functional import interpolate

from models.export import main
from models.exporting import artifact as on_disk
from models.exporting import exporter
from models.exporting.card import card
from models.exporting.parity import TOLERANCES, ParityError, check_agreement
from models.exporting.receptive_field import measure_reach
from models.exporting.torch_parity import check_parity, compare, parity_inputs
from models.exporting.tracing import Served
from models.nets.encoders import load_imagenet
from models.nets.fcn import FCN, FCNConfig
from models.nets.network import Network
from models.scenes import street_scene, street_view
from models.training import checkpoint
from service.client import Client
from service.pipeline.codecs.decoding import Limits
from service.pipeline.manifest import InputPolicy, Manifest, SplitScores, read_manifest
from service.pipeline.plan import fit_size, resize_image
from service.pipeline.predictor import Predictor
from service.pipeline.repository import Repository
from service.settings import Settings
from tests.conftest import encode_image
from tests.live import live_server

CONFIG = FCNConfig(width=16, stride=4, context=2, smooth=True)
POLICY = InputPolicy(working_size=(64, 96))
SCORES = SplitScores(pixel_accuracy=0.5, mean_accuracy=0.4, mean_iou=0.3, frequency_weighted_iou=0.2, iou={"sky": 0.1})


@pytest.fixture(scope="module")
def net(weights: Path) -> FCN:
    """The network of the checkpoint, as exported."""
    loaded = checkpoint.network(checkpoint.load(weights))
    assert isinstance(loaded, FCN)
    return loaded


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an untrained network whose masks are lively: ImageNet's features under random scores.

    It is of the older form, in which the network is told by its fields: with fewer channels than any of the family's.
    """
    torch.manual_seed(0)
    net = FCN(CONFIG)
    load_imagenet(net.encoder)
    torch.nn.init.normal_(net.score.weight, std=2.0)  # type: ignore[arg-type]
    path = tmp_path_factory.mktemp("checkpoints") / "random.pt"
    content = {"config": CONFIG.to_dict(), "classes": "camvid", "working_size": [64, 96], "epoch": 7}
    torch.save({"format": checkpoint.OLDER_FORMAT, **content, "weights": net.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def artifact(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command makes of it."""
    folder = tmp_path_factory.mktemp("artifacts")
    (folder / "scores.json").write_text(SCORES.model_dump_json())
    out = folder / "random.onnx"
    arguments = ["fcn4s-lite0", "--weights", weights, "--name", "random", "--version", "0.1", "--out", out]
    texts = ["--data-name", "nothing", "--licence", "MIT", "--scores", f"val={folder / 'scores.json'}"]
    assert main([*map(str, arguments), *texts]) == 0
    return out


@pytest.fixture(scope="module")
def session(artifact: Path) -> ort.InferenceSession:
    """ONNX Runtime with the artifact."""
    return ort.InferenceSession(artifact, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def predictor(artifact: Path) -> Iterator[Predictor]:
    """The service's pipeline with the artifact."""
    opened = Predictor(Repository(artifact), Limits())
    yield opened
    opened.close()


def tampered(artifact: Path, out: Path, change: float) -> Path:
    """The same graph with its largest kernel changed."""
    model = onnx.load(artifact)
    kernel = max((tensor for tensor in model.graph.initializer if len(tensor.dims) == 4), key=lambda t: np.prod(t.dims))
    values = numpy_helper.to_array(kernel).copy()
    values += change
    kernel.CopyFrom(numpy_helper.from_array(values, kernel.name))
    onnx.save(model, out)
    return out


# --- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(64, 96), (97, 131), (180, 60), (8, 8)])
def test_the_service_gives_the_labels_that_pytorch_gives(height: int, width: int, net: FCN, predictor: Predictor) -> None:
    """From pixels to the mask: wherever the winner is not a tie, the artifact in the service agrees with the network."""
    image = street_scene(max(height, 16), max(width, 16), seed=5)[0][:height, :width]
    found = predictor.segment(np.ascontiguousarray(image)).labels
    fitted = resize_image(np.ascontiguousarray(image), fit_size(height, width, POLICY))
    with torch.no_grad():
        scores = net(torch.from_numpy(fitted).permute(2, 0, 1)[None].float())
        pixels = interpolate(scores, size=(height, width), mode="bilinear", align_corners=False)[0]
    best = pixels.topk(2, 0)
    clear = (best.values[0] - best.values[1] > 2e-3).numpy()
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(found[clear], best.indices[0].numpy()[clear])
    assert height * width < 100 or len(np.unique(found)) >= 4


@pytest.mark.parametrize("shape", [(1, 8, 8), (5, 8, 200), (2, 72, 40), (1, 248, 320)])
def test_batch_height_and_width_are_free(shape: tuple[int, int, int], net: FCN, session: ort.InferenceSession) -> None:
    """Not only in the declared shapes: it runs, and gives PyTorch's scores, on sizes that it was not traced with."""
    n, height, width = shape
    batch = np.random.default_rng(n).integers(0, 256, (*shape, 3), dtype=np.uint8)
    (found,) = session.run(["scores"], {"image": batch})
    with torch.no_grad():
        expected = Served(net)(torch.from_numpy(batch)).numpy()
    assert found.shape == (n, 11, height // 4, width // 4)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_graph_declares_what_the_service_feeds(session: ort.InferenceSession) -> None:
    """uint8 N x H x W x 3 named ``image`` in, float32 named ``scores`` out, sides by name."""
    (image,), (scores,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["batch", "height", "width", 3])
    assert (scores.name, scores.type, scores.shape[:2]) == ("scores", "tensor(float)", ["batch", 11])
    assert all(isinstance(side, str) for side in scores.shape[2:])


def test_the_graph_holds_nothing_that_costs_and_does_nothing(artifact: Path) -> None:
    """No padding layers, no identities, no normalisation left unmerged, nothing global, no path of the exporting machine."""
    model = onnx.load(artifact)
    operators = {node.op_type for node in model.graph.node}
    assert "Conv" in operators
    wasteful = {"Pad", "Identity", "Dropout", "BatchNormalization", "GlobalAveragePool", "ReduceMean", "ArgMax"}
    assert not operators & wasteful
    assert str(Path(__file__).parent.parent).encode() not in artifact.read_bytes()
    assert all(not node.doc_string and not node.metadata_props for node in model.graph.node)


def test_the_manifest_is_inside(artifact: Path, net: FCN, session: ort.InferenceSession) -> None:
    """Everything that was said on the command line, measured on the network, or found in the comparison."""
    manifest = read_manifest(session.get_modelmeta().custom_metadata_map)
    assert (manifest.name, manifest.version, manifest.architecture) == ("random", "0.1", "fcn4s-lite0")
    assert [entry.name for entry in manifest.classes][:2] == ["sky", "building"]
    assert manifest.input == POLICY
    reach = measure_reach(net)
    assert (manifest.stride, manifest.receptive_field, manifest.halo) == (4, reach.receptive_field, reach.halo)
    assert (manifest.training.data, manifest.training.licence, manifest.training.epochs) == ("nothing", "MIT", 7)
    assert manifest.scores == {"val": SCORES}
    assert manifest.parity is not None
    assert 0 < manifest.parity.max_score_difference <= 1e-3
    assert manifest.parity.argmax_agreement == 1
    assert manifest.parity.opset == onnx.load(artifact).opset_import[0].version
    assert set(manifest.parity.versions) >= {"torch", "onnx", "onnxruntime"}
    assert {shape[0] for shape in manifest.parity.shapes} >= {1, 2}


def test_the_card_lies_beside_the_artifact(artifact: Path) -> None:
    """One file each, nothing else left behind."""
    assert {path.name for path in artifact.parent.iterdir()} == {"random.onnx", "random.md", "scores.json"}
    assert artifact.with_suffix(".md").read_text("utf-8").startswith("# random 0.1")


def test_weights_too_large_for_one_file_lie_beside_it_and_are_served(
    artifact: Path, net: FCN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The external-data form, once the limit is reached: proven like any other, known by both files, served by the service;
    an artifact that fits takes the place of both.
    """
    graph = onnx.load(artifact)
    manifest = read_manifest({entry.key: entry.value for entry in graph.metadata_props})
    monkeypatch.setattr(exporter, "to_onnx", lambda *_: onnx.load(artifact))  # tracing again would give the same
    out = tmp_path / "models" / "large.onnx"
    with monkeypatch.context() as lowered:
        lowered.setattr(on_disk, "SELF_CONTAINED_BYTES", 1000)
        written = exporter.export(net, manifest, out)
        with pytest.raises(ValueError, match="weights beyond 2 GiB are exported in fp32 only, not in int8"):
            exporter.export(net, manifest.model_copy(update={"precision": "int8"}), tmp_path / "int8.onnx")
    assert written.parity is not None
    assert written.parity.argmax_agreement == 1
    assert sorted(path.name for path in out.parent.iterdir()) == ["large.onnx", "large.onnx.data"]
    assert out.stat().st_size < artifact.stat().st_size / 10
    image = np.ascontiguousarray(street_scene(97, 131, seed=5)[0])
    expected = Predictor(Repository(artifact), Limits())
    with live_server(Settings(models_dir=out.parent)) as url, Client(url) as client:
        served = client.segment(encode_image(image))
        np.testing.assert_array_equal(served.labels, expected.segment(image).labels)
        assert served.labels.shape == (97, 131)
    expected.close()
    text = card(written, out)
    both = hashlib.sha256(out.read_bytes() + out.with_name("large.onnx.data").read_bytes()).hexdigest()
    assert "`large.onnx`, `large.onnx.data`" in text
    assert both in text
    exporter.export(net, manifest, out)
    assert [path.name for path in out.parent.iterdir()] == ["large.onnx"]
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_tampered_graph_is_refused_with_the_place(artifact: Path, net: FCN, tmp_path: Path) -> None:
    """On which input, at which score, how far apart."""
    with pytest.raises(
        ParityError,
        match=(
            r"input \d+ x \d+ x \d+, image \d, class \d+, score cell \d+, \d+: "
            r"-?\d+\.\d{6}, PyTorch gives -?\d+\.\d{6}; at most 0\.\d+ apart is allowed"
        ),
    ):
        check_parity(net, tampered(artifact, tmp_path / "bad.onnx", 1.0), POLICY)


def test_the_place_named_is_where_they_differ_most(artifact: Path, net: FCN, tmp_path: Path) -> None:
    """Image, class and cell are those of the worst score, which leads to the error."""
    model = onnx.load(artifact)
    bump = np.zeros((2, 11, 4, 6), np.float32)
    bump[0, 1, 0, 0], bump[1, 9, 2, 4] = 0.5, -0.7
    (last,) = (node for node in model.graph.node if "scores" in node.output)
    last.output[0] = "honest"
    model.graph.initializer.append(numpy_helper.from_array(bump, "bump"))
    model.graph.node.append(helper.make_node("Add", ["honest", "bump"], ["scores"]))
    onnx.save(model, tmp_path / "bumped.onnx")
    session = ort.InferenceSession(tmp_path / "bumped.onnx", providers=["CPUExecutionProvider"])
    with pytest.raises(ParityError, match=r"input 2 x 16 x 24, image 1, class 9, score cell 2, 4: "):
        compare(net, session, np.zeros((2, 16, 24, 3), np.uint8))


class Known(Network):
    """Gives scores that are known."""

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.given = scores

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        """Whatever goes in."""
        return self.given


def make_known(scale: float, lead: float) -> ort.InferenceSession:
    """A graph that gives class 0 a score, and class 1 one that is less by ``lead``, in each of 12 cells."""
    kernel = np.full((2, 4, 1, 1), scale / 4, np.float32)
    kernel[1] -= lead / 4
    graph = helper.make_graph(
        [helper.make_node("Cast", ["image"], ["real"], to=1), helper.make_node("Conv", ["real", "kernel"], ["scores"])],
        "known",
        [helper.make_tensor_value_info("image", 2, [1, 4, 4, 3])],
        [helper.make_tensor_value_info("scores", 1, None)],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


ONES = np.ones((1, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(("scale", "apart", "agrees"), [(5, 9e-4, True), (5, 2e-3, False), (50, 4e-3, True), (50, 9e-3, False)])
def test_what_may_differ_grows_with_the_scores(scale: float, apart: float, agrees: bool) -> None:
    """Roundings are a share of a number: a thousandth is allowed up to ten, a ten-thousandth of the largest score beyond."""
    known = make_known(scale, 1)
    expected = torch.full((1, 2, 4, 3), float(scale))
    expected[0, 1] -= 1
    expected[0, 0, 2, 1] += apart
    if agrees:
        assert compare(Known(expected), known, ONES).max_difference == pytest.approx(apart, rel=0.1)
    else:
        with pytest.raises(ParityError, match="class 0, score cell 2, 1: "):
            compare(Known(expected), known, ONES)


def test_a_share_of_winners_is_not_told_from_a_few_cells() -> None:
    """One cell of twelve is more than half a percent, and says nothing: half precision is judged over all inputs together.
    Float32 has no such share: there every winner counts.
    """
    known = make_known(5, 0.1)
    expected = torch.full((1, 2, 4, 3), 5.0)
    expected[0, 1] -= 0.1
    expected[0, 1, 2, 1] += 0.15
    result = compare(Known(expected), known, ONES, TOLERANCES["fp16"])
    assert (result.cells, result.agreeing) == (12, 11)
    assert result.margin == pytest.approx(0.05, rel=1e-3)
    strict = replace(TOLERANCES["fp32"], score=1.0, mean=1.0)
    with pytest.raises(ParityError, match=r"1 x 4 x 4, first in image 0, cell 2, 1: another class wins in 1 of 12 score cells"):
        compare(Known(expected), known, ONES, strict)
    with pytest.raises(ParityError, match=r"over all 2 inputs: .* in 1 of 112 score cells, .* up to 0\.05 apart; 99\.5% must"):
        check_agreement([result, replace(result, cells=100, agreeing=100)], TOLERANCES["fp16"], "over all 2 inputs")
    check_agreement([result, replace(result, cells=200, agreeing=200)], TOLERANCES["fp16"], "over all 2 inputs")


def test_scores_that_are_all_a_little_off_are_refused() -> None:
    """Roundings go both ways and are rare at their largest; what moves every score by as much is none."""
    expected = torch.full((1, 2, 4, 3), 5.0)
    expected[0, 1] -= 0.1
    with pytest.raises(ParityError, match=r"input 1 x 4 x 4: scores are 0\.2 apart on the average; at most 0\.05 is allowed"):
        compare(Known(expected + 0.2), make_known(5, 0.1), ONES, TOLERANCES["fp16"])


def test_an_input_of_many_cells_is_judged_alone() -> None:
    """Others do not make up for it."""
    expected = torch.full((1, 2, 4, 3), 5.0)
    expected[0, 1] -= 0.1
    expected[0, 1, :2] += 0.15
    looser = replace(TOLERANCES["fp16"], mean=1.0, agreement=0.55)  # five of twelve may differ
    with pytest.raises(ParityError, match=r"input 1 x 4 x 4, .* another class wins in 6 of 12 score cells"):
        compare(Known(expected), make_known(5, 0.1), ONES, looser)


def test_a_lower_precision_that_disagrees_is_refused_with_what_works(
    artifact: Path, net: FCN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The float32 graph agreed before: that is said."""
    bad = onnx.load(tampered(artifact, tmp_path / "bad.onnx", 1.0))
    monkeypatch.setattr(exporter, "to_onnx", lambda *_: onnx.load(artifact))
    monkeypatch.setattr(exporter, "to_fp16", lambda _: bad)
    manifest = read_manifest({entry.key: entry.value for entry in onnx.load(artifact).metadata_props})
    half = manifest.model_copy(update={"precision": "fp16"})
    with pytest.raises(ParityError, match=r"^in fp16, input 1 x 64 x 96, .* In float32 it agrees: leave --precision out$"):
        exporter.export(net, half, tmp_path / "half" / "half.onnx")
    assert not list((tmp_path / "half").iterdir())


def test_scores_that_are_not_numbers_are_refused(artifact: Path, net: FCN, tmp_path: Path) -> None:
    """NaN differs from nothing by more than a tolerance; it is searched for."""
    with pytest.raises(ParityError, match="scores that are not finite"):
        check_parity(net, tampered(artifact, tmp_path / "nan.onnx", float("nan")), POLICY)


def test_a_refused_export_leaves_the_older_artifact(
    artifact: Path, net: FCN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written under the final name, and nothing is left beside it."""
    out = tmp_path / "served.onnx"
    out.write_bytes(b"the older one")
    bad = onnx.load(tampered(artifact, tmp_path / "bad.onnx", 1.0))
    (tmp_path / "bad.onnx").unlink()
    monkeypatch.setattr(exporter, "to_onnx", lambda *_: bad)
    manifest: Manifest = read_manifest({entry.key: entry.value for entry in onnx.load(artifact).metadata_props})
    with pytest.raises(ParityError):
        exporter.export(net, manifest, out)
    assert out.read_bytes() == b"the older one"
    assert [path.name for path in tmp_path.iterdir()] == ["served.onnx"]


def test_the_inputs_compared_are_streets_and_noise_of_many_shapes() -> None:
    """The working size alone and as a batch, the sizes beside it, the smallest there is; every side a multiple."""
    inputs = parity_inputs(POLICY)
    shapes = [batch.shape for batch in inputs]
    assert shapes[0] == (1, 64, 96, 3)
    assert len(set(shapes)) == len(shapes) >= 5
    assert all(height % 8 == width % 8 == 0 for _, height, width, _ in shapes)
    assert min(height for _, height, _, _ in shapes) == 8
    assert len({shape[0] for shape in shapes}) >= 3
    np.testing.assert_array_equal(inputs[0][0], street_view(64, 96, seed=1))


def test_another_architecture_than_the_checkpoint_s_is_refused(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both are named, and nothing is written."""
    out = tmp_path / "out.onnx"
    assert main(["fcn8s-lite0", "--weights", str(weights), "--name", "x", "--out", str(out)]) == 2
    assert capsys.readouterr().err == f"{weights}: a checkpoint of fcn4s-lite0, not of fcn8s-lite0\n"
    assert not out.exists()


def test_an_unknown_architecture_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    """The usage names them."""
    with pytest.raises(SystemExit) as stop:
        main(["fcn16s-lite0", "--weights", "w", "--name", "x", "--out", "o"])
    assert stop.value.code == 2
    assert {"fcn8s-lite0", "fcn4s-lite0"} <= set(re.findall(r"[\w-]+", capsys.readouterr().err))


def test_a_class_table_that_does_not_fit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three score planes cannot be eleven classes."""
    net = FCN(FCNConfig(classes=3, stride=4))
    content = {"config": net.config.to_dict(), "classes": "camvid", "working_size": [64, 96], "epoch": 1}
    torch.save({"format": checkpoint.OLDER_FORMAT, **content, "weights": net.state_dict()}, tmp_path / "three.pt")
    out = tmp_path / "out.onnx"
    assert main(["fcn4s-lite0", "--weights", str(tmp_path / "three.pt"), "--name", "x", "--out", str(out)]) == 2
    assert "class table 'camvid' has 11 classes, the network 3" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("content", ["nonsense", json.dumps({"pixel_accuracy": 1}), None])
def test_scores_that_cannot_be_read_are_refused(
    content: str | None, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is traced; no traceback."""
    file = tmp_path / "scores.json"
    if content is not None:
        file.write_text(content)
    arguments = [
        "fcn4s-lite0",
        "--weights",
        str(weights),
        "--name",
        "x",
        "--out",
        str(tmp_path / "o"),
        "--scores",
        f"val={file}",
    ]
    assert main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
