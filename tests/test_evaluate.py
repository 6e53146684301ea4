"""Evaluation: an artifact, its checkpoint and a running service score alike, because all of them predict alike."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.evaluate import Prediction, components, evaluate, main, predictor_of
from models.scenes import draw_scene
from models.scenes.__main__ import main as write_scenes
from models.training.classes import CAMVID
from models.training.losses import IGNORED
from models.training.metrics import confusion_matrix, scores
from service.pipeline.manifest import SplitScores
from service.pipeline.tasks.panoptic import Instance, Instances
from service.settings import Settings
from tests.conftest import make_manifest, write_artifact
from tests.live import live_server

ROOT = Path(__file__).resolve().parent.parent
ARTIFACT = ROOT / "models" / "artifacts" / "fcn4s-lite0-streets.onnx"
CHECKPOINT = ROOT / "models" / "checkpoints" / "fcn4s-lite0-streets.pt"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four generated scenes of two sizes, as JPEG, with their labels; a corner of each is unlabelled."""
    folder = tmp_path_factory.mktemp("scenes")
    for size, seed in (("180x240", 0), ("135x240", 10)):
        assert write_scenes(["--count", "2", "--size", size, "--seed", str(seed), "--out", str(folder)]) == 0
    for file in (folder / "labels").iterdir():
        labels = np.array(Image.open(file))
        labels[:20, :20] = 11
        Image.fromarray(labels).save(file)
    return folder


def score(model: str, data: Path) -> SplitScores:
    """What the command scores."""
    with ExitStack() as resources:
        return evaluate(predictor_of(model, CAMVID, resources), data, CAMVID).scores


@pytest.fixture(scope="module")
def of_artifact(data: Path) -> SplitScores:
    """The shipped artifact's scores on the scenes."""
    return score(str(ARTIFACT), data)


def assert_alike(found: SplitScores, expected: SplitScores) -> None:
    """Every score within a thousandth; average precision, which ranks objects of nearly equal score, within a hundredth."""
    assert found.objects.keys() == expected.objects.keys() >= {"car", "pedestrian", "bicyclist"}
    for name, objects in found.objects.items():
        mine, its = objects.model_dump(), expected.objects[name].model_dump()
        assert [mine[one] for one in ("pq", "sq", "rq")] == pytest.approx([its[one] for one in ("pq", "sq", "rq")], abs=1e-3)
        assert [mine[one] for one in ("ap", "ap50")] == pytest.approx([its[one] for one in ("ap", "ap50")], abs=1e-2)
    plain, other = found.model_dump(exclude={"objects"}), expected.model_dump(exclude={"objects"})
    assert plain.pop("iou") == pytest.approx(other.pop("iou"), abs=1e-3)
    assert plain.pop("dice") == other.pop("dice") == {}
    assert plain == pytest.approx(other, abs=1e-3)


def test_a_checkpoint_scores_as_its_artifact_does(data: Path, of_artifact: SplitScores) -> None:
    """PyTorch with the service's resizing and labelling, against the service's pipeline."""
    assert of_artifact.frames == 4
    assert of_artifact.mean_iou > 0.3
    assert_alike(score(str(CHECKPOINT), data), of_artifact)


def test_a_running_service_scores_as_its_artifact_does(data: Path, of_artifact: SplitScores, tmp_path: Path) -> None:
    """Over HTTP, the files' bytes as they are: what is scored is what is served."""
    (tmp_path / ARTIFACT.name).symlink_to(ARTIFACT)
    with live_server(Settings(models_dir=tmp_path)) as url:
        assert_alike(score(url, data), of_artifact)


def test_the_scores_are_those_of_all_pixels_that_have_a_label(data: Path) -> None:
    """Against predictions that are known beforehand: right in the upper half, road in the lower."""
    predictions: dict[str, NDArray[np.uint8]] = {}

    def predict(path: Path) -> Prediction:
        labels = np.array(Image.open(data / "labels" / f"{path.stem}.png"))
        labels[len(labels) // 2 :] = 3
        predictions[path.stem] = labels
        return Prediction(labels)

    evaluation = evaluate(predict, data, CAMVID)
    assert evaluation.error_before is None
    found = evaluation.scores
    truth = {file.stem: np.array(Image.open(file)) for file in (data / "labels").iterdir()}
    assert predictions.keys() == truth.keys()
    everything = [np.concatenate([masks[name].ravel() for name in sorted(masks)]) for masks in (truth, predictions)]
    assert found == scores(confusion_matrix(everything[0], everything[1], 11), CAMVID.names, frames=4)


def test_a_prediction_of_another_size_is_an_error(data: Path) -> None:
    """It is not resized until it fits."""
    with pytest.raises(ValueError, match=r"a prediction of \(90, 120\) for labels of \("):
        evaluate(lambda _: Prediction(np.zeros((90, 120), np.uint8)), data, CAMVID)


def test_the_command_writes_scores_and_a_picture(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table with every class and the four scores; JSON that the exporter reads; frames beside truth and prediction."""
    out, picture = tmp_path / "scores.json", tmp_path / "frames.png"
    assert main([str(ARTIFACT), "--data", str(data), "--json", str(out), "--picture", str(picture)]) == 0
    said = capsys.readouterr().out
    found = SplitScores.model_validate(json.loads(out.read_text()))
    assert all(name in said for name in CAMVID.names)
    assert f"mean IoU {found.mean_iou:.4f}" in said
    assert f"pixel accuracy {found.pixel_accuracy:.4f}" in said
    with Image.open(picture) as drawn:
        pixels = np.asarray(drawn)
    assert pixels.shape == (2 * 180 + 2 * 135, 3 * 240, 3)
    truth, prediction = pixels[:, 240:480], pixels[:, 480:]
    labels = np.vstack([np.array(Image.open(file)) for file in sorted((data / "labels").iterdir())])
    palette = np.zeros((256, 3), np.uint8)
    palette[:11] = [entry.color for entry in CAMVID.entries]
    np.testing.assert_array_equal(truth, palette[np.where(labels == 11, IGNORED, labels)])
    assert not prediction[labels == 11].any()
    right = (truth == prediction).all(2)[labels != 11].mean()
    assert right == pytest.approx(found.pixel_accuracy, abs=1e-3)


def test_a_model_of_other_classes_is_not_scored(artifact: Path) -> None:
    """Its ids mean something else. Artifact, service and checkpoint are all asked before the first frame."""
    colours = replace(CAMVID, name="colours", entries=make_manifest().classes)
    with ExitStack() as resources:
        with pytest.raises(ValueError, match=r"colours\.onnx has the classes red, green, blue; 'camvid' has sky, .*"):
            predictor_of(str(artifact), CAMVID, resources)
        url = resources.enter_context(live_server(Settings(models_dir=artifact.parent)))
        with pytest.raises(ValueError, match=r"http://.* has the classes red, green, blue; 'camvid' has sky, .*"):
            predictor_of(url, CAMVID, resources)
        with pytest.raises(ValueError, match=r"streets\.pt has the classes sky, .*; 'colours' has red, green, blue"):
            predictor_of(str(CHECKPOINT), colours, resources)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("nowhere.onnx", r"nowhere\.onnx: no such file"),
        ("nowhere.pt", r"nowhere\.pt: no such file"),
        ("http://127.0.0.1:9", r".*127\.0\.0\.1:9.*"),
        ("{folder}/broken.onnx", r".*broken\.onnx.*"),
        ("{folder}/broken.pt", r".*broken\.pt: not a readable checkpoint: .*"),
        ("{folder}/bare.onnx", r".*bare\.onnx: no 'fcn_serve\.manifest' in its ONNX metadata.*"),
    ],
)
def test_what_cannot_be_scored_is_one_line_and_status_2(
    model: str, reason: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing file, a dead service, a damaged file, a graph that says nothing of itself."""
    for name in ("broken.onnx", "broken.pt"):
        (tmp_path / name).write_bytes(b"no model at all")
    bare = onnx.load(write_artifact(tmp_path / "bare.onnx"))
    del bare.metadata_props[:]
    onnx.save(bare, tmp_path / "bare.onnx")
    assert main([model.format(folder=tmp_path), "--data", str(data)]) == 2
    captured = capsys.readouterr()
    assert re.fullmatch(reason + r"\n", captured.err)
    assert captured.out == ""


def test_a_folder_without_frames_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Said before anything is predicted."""
    assert main([str(ARTIFACT), "--data", str(tmp_path / "[empty]")]) == 2
    assert re.fullmatch(r".*\[empty\]: no images in images/; expected .*\n", capsys.readouterr().err)


def test_objects_are_scored_against_those_of_the_folder(tmp_path: Path) -> None:
    """Painted objects found as they are have every quality 1; their components do not, where one hides another."""
    assert write_scenes(["--count", "3", "--size", "180x240", "--seed", "40", "--out", str(tmp_path)]) == 0

    def exact(path: Path) -> Prediction:
        seed = int(path.stem.removeprefix("scene-"))
        scene = draw_scene(180, 240, seed)
        areas = np.bincount(scene.objects.ravel())[1:]
        classes = [int(scene.labels[scene.objects == number][0]) for number in range(1, len(areas) + 1)]
        rows = tuple(Instance(n, k, 0.9, int(area)) for n, (k, area) in enumerate(zip(classes, areas, strict=True), start=1))
        return Prediction(scene.labels, instances=Instances(scene.objects, rows))

    found = evaluate(exact, tmp_path, CAMVID).scores.objects
    assert {"sky", "car", "pedestrian"} <= found.keys()
    assert all(of_class.pq == of_class.sq == of_class.rq == 1 for of_class in found.values())
    assert found["car"].ap == found["car"].ap50 == 1
    assert found["sky"].ap is None
    by_components = evaluate(exact, tmp_path, CAMVID, by_components=True).scores.objects
    assert by_components["sky"].pq == 1
    assert by_components["car"].rq < 1
    assert (by_components["car"].ap or 0) < 1


def test_components_are_the_connected_parts_of_countable_classes() -> None:
    """One object each, numbered through, with its class and its pixels."""
    labels = np.zeros((6, 8), np.uint8)
    labels[0, 0], labels[1, 1], labels[4:, 5:] = 8, 8, 8
    labels[0, 4:6] = 9
    found = components(labels, CAMVID.things)
    assert [(row.id, row.class_id, row.area) for row in found.rows] == [(1, 8, 2), (2, 8, 6), (3, 9, 2)]
    assert found.ids[0].tolist() == [1, 0, 0, 0, 3, 3, 0, 0]


def test_the_calibration_error_of_a_model_is_printed(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before and after the temperature, from the probabilities that are served."""
    assert main([str(ARTIFACT), "--data", str(data)]) == 0
    said = re.search(r"expected calibration error (0\.\d{4}); (0\.\d{4}) at temperature 1", capsys.readouterr().out)
    assert said is not None
    assert 0 < float(said[2]) < 0.5
