"""Lower precisions: what they must keep of the float32 network, and when they are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from models.export import main
from models.exporting import exporter
from models.exporting.artifact import write
from models.exporting.card import card
from models.exporting.exporter import Evidence
from models.exporting.loss import Labelled, check_loss, describe, measure_loss
from models.exporting.parity import ParityError
from models.exporting.precision import MOST_FRAMES, calibration_frames, to_fp16
from models.exporting.quantisation.recipe import quantise
from models.exporting.tracing import to_onnx
from models.nets import resnet
from models.nets.architectures import ARCHITECTURES, build
from models.scenes import street_scene
from models.training import checkpoint
from models.training.classes import CAMVID
from models.training.data import DataError
from service.pipeline.codecs.decoding import Limits
from service.pipeline.manifest import InputPolicy, Loss, Manifest, Reduced, read_manifest
from service.pipeline.predictor import Predictor
from service.pipeline.repository import Repository
from tests.conftest import make_manifest
from tests.networks import make_lively

ARTIFACTS = Path(__file__).resolve().parents[1] / "models" / "artifacts"
FLOAT, INT8 = ARTIFACTS / "fcn4s-lite0-streets.onnx", ARTIFACTS / "fcn4s-lite0-streets-int8.onnx"
POLICY = InputPolicy(working_size=(448, 600))


def manifest_of(path: Path) -> Manifest:
    """The manifest inside an artifact."""
    return read_manifest({entry.key: entry.value for entry in onnx.load(path).metadata_props})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two streets."""
    root = tmp_path_factory.mktemp("streets")
    for name in ("images", "labels"):
        (root / name).mkdir()
    for seed in range(2):
        image, labels = street_scene(180, 240, seed=seed)
        Image.fromarray(image).save(root / "images" / f"{seed}.png")
        Image.fromarray(labels).save(root / "labels" / f"{seed}.png")
    return root


@pytest.fixture(scope="module")
def exact() -> Iterator[Predictor]:
    """The service's pipeline with the float32 artifact."""
    predictor = Predictor(Repository(FLOAT), Limits())
    yield predictor
    predictor.close()


@pytest.fixture(scope="module")
def loss(folder: Path) -> Loss:
    """The cost of the shipped int8 artifact on the streets."""
    return measure_loss(FLOAT, INT8, Labelled("streets", folder, CAMVID, max_loss=100))


def agreement(exact: Predictor, path: Path, *sizes: tuple[int, int]) -> float:
    """The least share of a street's pixels that an artifact labels as float32 does, of several sizes."""
    other = Predictor(Repository(path), Limits())
    streets = [street_scene(*size, seed=11)[0] for size in sizes]
    share = min(float((other.segment(image).labels == exact.segment(image).labels).mean()) for image in streets)
    other.close()
    return share


def test_the_shipped_int8_network_sees_what_float32_sees(exact: Predictor) -> None:
    """Quantising changes few pixels, at the size it was calibrated for and at others."""
    assert agreement(exact, INT8, (360, 480), (173, 331)) > 0.97


def test_the_shipped_int8_network_says_what_it_is() -> None:
    """Its manifest tells its precision, and it has the classes and weights of the float32 one: the patch number may differ."""
    found, original = manifest_of(INT8), manifest_of(FLOAT)
    assert (found.precision, original.precision) == ("int8", "fp32")
    assert [(row.id, row.name) for row in found.classes] == [(row.id, row.name) for row in original.classes]
    weights, same_weights = (manifest.version.rpartition(".")[0] for manifest in (found, original))
    assert (weights, found.input, found.outputs) == (same_weights, original.input, original.outputs)
    assert found.reduced is not None
    assert found.reduced.float32 == original.name
    assert set(found.reduced.losses) == {"camvid-val", "labelmefacade-val"}
    assert all(loss.points <= 0.3 and loss.changed <= 0.01 for loss in found.reduced.losses.values())
    assert found.scores.keys() == original.scores.keys()
    for split, score in found.scores.items():
        assert score.mean_iou > original.scores[split].mean_iou - 0.005


@pytest.mark.slow
def test_a_graph_is_quantised_with_frames_of_one_s_own(exact: Predictor, folder: Path, tmp_path: Path) -> None:
    """All convolutions run in int8, those of the outputs as products of integers, and the mask stays nearly the same."""
    frames = calibration_frames(folder, InputPolicy(working_size=(240, 320)))
    model = quantise(onnx.load(FLOAT), frames).model()
    weights = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    dequantised = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    kernels = [dequantised.get(node.input[1]) for node in model.graph.node if node.op_type == "Conv"]
    assert len(kernels) == 82  # 64 layers, nine of which are in three slices each
    assert None not in kernels
    assert [node.op_type for node in model.graph.node].count("MatMulInteger") == 2
    assert {weights[name] for name in kernels if name} == {onnx.TensorProto.INT8}
    write(model, manifest_of(FLOAT).model_copy(update={"precision": "int8"}), tmp_path / "int8.onnx")
    assert agreement(exact, tmp_path / "int8.onnx", (240, 320)) > 0.97


def test_another_network_of_the_family_is_exported_in_int8(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A narrow, shallow ResNet: its card has the loss by class, the changed pixels and the frames; ``--max-loss`` refuses."""
    monkeypatch.setitem(resnet.BLOCKS, 50, (1, 1, 1, 1))
    torch.manual_seed(1)  # one draw of noise in six has too many near ties for int8
    net = make_lively(build("fcn-resnet50", len(CAMVID.entries), width=1 / 16))
    policy = ARCHITECTURES["fcn-resnet50"].policy((64, 88))
    reduced = Reduced(float32="narrow", calibrated_on="streets", frames=2)
    manifest = make_manifest(
        name="narrow-int8", classes=CAMVID.entries, input=policy, stride=8, precision="int8", reduced=reduced
    )
    frames = calibration_frames(folder, policy)
    out = tmp_path / "narrow-int8.onnx"
    traced = to_onnx(net, policy)
    quantisation = quantise(traced, frames)
    monkeypatch.setattr(exporter, "to_onnx", lambda *_: traced)
    monkeypatch.setattr(exporter, "quantise", lambda *_: quantisation)  # once for both exports
    found = exporter.export(net, manifest, out, Evidence(frames, [Labelled("streets", folder, CAMVID, max_loss=100)]))
    assert found.reduced is not None
    assert found.reduced.losses["streets"].frames == 2
    model = onnx.load(out)
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) > 10
    written = card(found, out)
    assert "Calibrated on 2 frames of streets." in written
    assert "| pixels changed | " in written
    assert "| points lost, road | " in written
    monkeypatch.setattr(exporter, "check_parity", lambda *_: found.parity)  # compared above
    with pytest.raises(ParityError, match=r"at most -100 points .* The layer that costs most is \S+: alone in int8 it changes"):
        exporter.export(net, manifest, out, Evidence(frames, [Labelled("streets", folder, CAMVID, max_loss=-100)]))
    assert read_manifest({entry.key: entry.value for entry in onnx.load(out).metadata_props}) == found


def test_half_precision_keeps_the_service_s_types_and_the_mask(exact: Predictor, tmp_path: Path) -> None:
    """uint8 in and float32 out, whatever the network computes in."""
    write(to_fp16(onnx.load(FLOAT)), manifest_of(FLOAT).model_copy(update={"precision": "fp16"}), tmp_path / "fp16.onnx")
    assert (tmp_path / "fp16.onnx").stat().st_size < 0.6 * FLOAT.stat().st_size
    assert agreement(exact, tmp_path / "fp16.onnx", (240, 320)) > 0.995


@pytest.mark.slow
def test_the_shipped_network_is_exported_in_half_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within what half precision may cost, on every input that float32 is compared on."""
    monkeypatch.setattr(exporter, "to_onnx", lambda *_: onnx.load(FLOAT))  # tracing again would give the same
    net = checkpoint.network(checkpoint.load(ARTIFACTS.parent / "checkpoints" / "fcn4s-lite0-streets.pt"))
    half = manifest_of(FLOAT).model_copy(update={"precision": "fp16"})
    parity = exporter.export(net, half, tmp_path / "half.onnx").parity
    assert parity is not None
    assert parity.argmax_agreement > 0.995
    assert 1e-3 < parity.mean_score_difference < 0.05


def test_a_loss_is_measured_on_the_classes_that_occur(folder: Path, loss: Loss) -> None:
    """Points of mean IoU, per class, and the share of pixels whose label changed; nothing is lost against oneself."""
    assert -10 < loss.points < 10
    assert 0 < loss.changed < 0.05
    assert loss.frames == 2
    occurring = {int(k) for path in (folder / "labels").iterdir() for k in np.unique(np.asarray(Image.open(path)))} - {11}
    assert list(loss.iou) == [CAMVID.names[k] for k in sorted(occurring)]
    assert loss.points == pytest.approx(np.mean(list(loss.iou.values())), abs=0.01)
    same = measure_loss(INT8, INT8, Labelled("streets", folder, CAMVID, max_loss=100))
    assert (same.points, same.changed, set(same.iou.values())) == (0, 0, {0})


def test_a_loss_beyond_the_limit_is_refused_with_the_figures(folder: Path, loss: Loss) -> None:
    """The split, the points, the class that lost most, and the limit."""
    labelled = Labelled("streets", folder, CAMVID, max_loss=-100)
    with pytest.raises(ParityError, match=r"streets, 2 frames: [+-]\d+\.\d\d points .* at most -100 points may be lost"):
        check_loss(loss, labelled, None, [])
    check_loss(loss, Labelled("streets", folder, CAMVID, max_loss=100), None, [])
    assert max(loss.iou, key=lambda name: loss.iou[name]) in describe(loss, "streets")


def test_calibration_frames_are_few_and_of_the_network_s_size(folder: Path, tmp_path: Path) -> None:
    """A large folder is sampled; an empty one is an error that names it."""
    frames = calibration_frames(folder, POLICY)
    assert {frame.shape for frame in frames} == {(1, 448, 600, 3)}
    assert {frame.dtype for frame in frames} == {np.dtype(np.uint8)}
    for index in range(MOST_FRAMES + 20):
        Image.new("RGB", (8, 6)).save(tmp_path / f"{index:03}.png")
    assert len(calibration_frames(tmp_path, InputPolicy(working_size=(8, 8)))) == MOST_FRAMES
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no images"):
        calibration_frames(tmp_path / "empty", POLICY)


@pytest.mark.parametrize("words", [["--precision", "int8"], ["--precision", "fp16", "--calibrate", "frames"]])
def test_int8_and_its_frames_belong_together(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Neither is taken without the other, and nothing has been computed by then."""
    with pytest.raises(SystemExit):
        main(["fcn4s-lite0", "--weights", "w.pt", "--name", "n", "--out", "o.onnx", *words])
    assert "--calibrate FOLDER" in capsys.readouterr().err
