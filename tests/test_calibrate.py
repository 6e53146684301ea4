"""Fitting a temperature: on frames that judge nothing, kept in the checkpoint, carried into the manifest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from models.calibrate import calibrate, main
from models.evaluate import Prediction
from models.exporting.source import load_source
from models.nets.architectures import build
from models.scenes.__main__ import main as write_scenes
from models.training import checkpoint
from models.training.calibration import CalibrationError, draw_reliability
from models.training.classes import CAMVID
from models.training.data import DataError
from service.pipeline import onnx_file
from service.pipeline.manifest import read_manifest
from service.pipeline.tasks.semantic import label_map
from tests.conftest import make_graph, make_manifest, write_artifact

pytestmark = pytest.mark.usefixtures("one_thread")


def write_frames(folder: Path, count: int, factor: float) -> dict[str, np.ndarray]:
    """Frames whose labels are drawn by the softmax of scores; gives ``factor`` times these scores by name."""
    rng = np.random.default_rng(0)
    given = {}
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for index in range(count):
        scores = rng.normal(0, 1.5, (11, 60, 80)).astype(np.float32)
        probability = np.exp(scores) / np.exp(scores).sum(0)
        drawn = (probability.cumsum(0) > rng.random((60, 80))).argmax(0).astype(np.uint8)
        Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(folder / "images" / f"{index}.png")
        Image.fromarray(drawn).save(folder / "labels" / f"{index}.png")
        given[str(index)] = scores * np.float32(factor)
    return given


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_a_temperature_makes_probabilities_true(factor: float, tmp_path: Path) -> None:
    """Scores that are too sure, or not sure enough, by a factor: it is found, and the error all but vanishes."""
    given = write_frames(tmp_path / "frames", 6, factor)

    def predict(path: Path) -> Prediction:
        scores = given[path.stem]
        return Prediction(label_map(scores, (60, 80)), scores)

    found = calibrate(predict, tmp_path / "frames", CAMVID, "drawn")
    assert found.temperature == pytest.approx(factor, rel=0.05)
    assert found.fitted_on == "drawn"
    assert found.ece_after < 0.02 < found.ece_before


def test_one_frame_cannot_both_fit_and_judge(tmp_path: Path) -> None:
    """A network's error on what fitted it would be too good."""
    write_frames(tmp_path / "frames", 1, 1.0)
    with pytest.raises(DataError, match="at least two are needed"):
        calibrate(lambda _: Prediction(np.zeros((60, 80), np.uint8)), tmp_path / "frames", CAMVID, "one")


def test_the_command_writes_the_temperature_into_the_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing else changes in it; the exporter finds it there."""
    torch.manual_seed(0)
    weights = build("fcn8s-lite0", 11).state_dict()
    told = {"architecture": "fcn8s-lite0", "width": 1.0, "classes": CAMVID.to_json(), "working_size": [64, 80], "epoch": 1}
    file = tmp_path / "net.pt"
    checkpoint.save(file, {**told, "weights": weights})
    assert write_scenes(["--count", "2", "--size", "64x80", "--out", str(tmp_path / "drive" / "val")]) == 0
    assert main([str(file), "--data", str(tmp_path / "drive" / "val")]) == 0
    content = checkpoint.load(file)
    assert content["calibration"]["fitted_on"] == "drive-val"
    assert content["epoch"] == 1
    assert all(torch.equal(value, content["weights"][name]) for name, value in weights.items())
    source = load_source("fcn8s-lite0", file, None)
    assert source.calibration is not None
    assert f"temperature {source.calibration.temperature:g}, fitted on drive-val" in capsys.readouterr().out
    assert main([str(tmp_path / "none.pt"), "--data", str(tmp_path)]) == 2


def test_an_artifact_is_calibrated_by_a_network_that_was_not_trained_on_the_frames(tmp_path: Path) -> None:
    """The temperature of the other's scores goes into manifest and card; the graph, and so every label, stays as it is."""
    torch.manual_seed(0)
    weights = build("fcn8s-lite0", 11).state_dict()
    told = {"architecture": "fcn8s-lite0", "width": 1.0, "classes": CAMVID.to_json(), "working_size": [64, 80], "epoch": 1}
    other = tmp_path / "trained-on-train.pt"
    checkpoint.save(other, {**told, "weights": weights})
    assert write_scenes(["--count", "2", "--size", "64x80", "--out", str(tmp_path / "drive" / "val")]) == 0
    file = tmp_path / "street.onnx"
    manifest = make_manifest(classes=[entry.model_dump() for entry in CAMVID.entries])
    write_artifact(file, manifest, make_graph(np.random.default_rng(0).normal(0, 0.05, (11, 3)).astype(np.float32)))
    before = onnx.load(file)
    words = [str(file), "--by", str(other), "--data", str(tmp_path / "drive" / "val"), "--split", "val (another)"]
    assert main(words) == 0
    after = onnx.load(file)
    assert after.graph.SerializeToString() == before.graph.SerializeToString()
    found = read_manifest(onnx_file.outline(file).metadata)
    assert found.calibration is not None
    assert found.calibration.fitted_on == "val (another)"
    assert sum(one.share for one in found.calibration.reliability_after) == pytest.approx(1, abs=2e-3)
    card = file.with_suffix(".md").read_text("utf-8")
    assert "## Reliability" in card
    assert f"temperature {found.calibration.temperature:.3f}, fitted on val (another)" in card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drive", "street.md", "street.onnx", "trained-on-train.pt"]


def test_the_reliability_diagram_holds_the_calibration_error(tmp_path: Path) -> None:
    """The error is the mean gap between probability and share of right pixels; the picture is a picture."""
    rng = np.random.default_rng(1)
    probability = rng.uniform(0.2, 1, 20_000)
    error = CalibrationError()
    error.add(probability, rng.random(20_000) < probability**2)
    bins = error.bins()
    assert sum(one.share * abs(one.probability - one.right) for one in bins) == pytest.approx(error.value(), abs=1e-3)
    assert all(one.right < one.probability for one in bins[:-1])
    draw_reliability(bins, bins, tmp_path / "reliability.png")
    with Image.open(tmp_path / "reliability.png") as picture:
        assert picture.size[0] > 400
