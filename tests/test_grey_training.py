"""Networks of one channel are trained, scored, exported and served on pictures of 16 bits and floats, by one code."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray

from models import evaluate, export, train
from models.evaluate import predictor_of
from models.training import checkpoint
from models.training.augmentation import Augmentation
from models.training.classes import ClassTable
from models.training.classes import table as class_table
from models.training.data import DataError, load_frames, read_picture
from service.client import Client
from service.pipeline.manifest import InputPolicy
from service.settings import Settings
from tests.live import live_server

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 32
LOW, STEP = 30_000, 24
"""The darkest level, and what a class is brighter than the one before: less than 8 bits can tell apart (257)."""
CLASSES = ("background", "block")
NETWORK = ["--architecture", "fcn1s-grey", "--width", "0.25", "--size", f"{SIDE}x{SIDE}"]
RUN = [
    "--batch",
    "4",
    "--epochs",
    "24",
    "--lr",
    "0.01",
    "--warm-up-epochs",
    "0",
    "--average",
    "0.5",
    "--validate-every",
    "24",
    "--device",
    "cpu",
]


def drawn(seed: int) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """A bright block in faint noise, of 16 bits, and its labels."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((SIDE, SIDE), np.uint8)
    top, left = rng.integers(4, SIDE // 2, 2)
    labels[top : top + 14, left : left + 14] = 1
    return (LOW + STEP * labels.astype(int) + rng.integers(0, 8, labels.shape)).astype(np.uint16), labels


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures to train on, four to validate on: PNG of 16 bits, TIFF of 16 bits, TIFF of floats in another unit."""
    folder = tmp_path_factory.mktemp("grey")
    for split, seeds in (("train", range(8)), ("val", range(8, 12))):
        for part in ("images", "labels"):
            (folder / split / part).mkdir(parents=True)
        for seed in seeds:
            values, labels = drawn(seed)
            file = folder / split / "images" / f"{seed:02d}.tif"
            match seed % 3:
                case 0:
                    cv2.imwrite(str(file.with_suffix(".png")), values)
                case 1:
                    tifffile.imwrite(file, values)
                case _:
                    tifffile.imwrite(file, values.astype(np.float32) / 7 - 5000)
            cv2.imwrite(str(folder / split / "labels" / f"{seed:02d}.png"), labels)
    return folder


@pytest.fixture(scope="module")
def classes(data: Path) -> str:
    """A class table as ``--classes`` takes one."""
    path = data / "blocks.json"
    rows = [{"name": name, "color": [200 * k, 90, 40], "label_id": k} for k, name in enumerate(CLASSES)]
    path.write_text(json.dumps({"name": "blocks", "classes": rows, "ignored": [255]}))
    return str(path)


@pytest.fixture(scope="module")
def trained(data: Path, classes: str) -> Path:
    """The checkpoint of a short run."""
    out = data / "run"
    assert train.main([*NETWORK, *RUN, "--data", str(data), "--classes", classes, "--out", str(out)]) == 0
    return out / "best.pt"


@pytest.fixture(scope="module")
def artifact(data: Path, trained: Path) -> Path:
    """The checkpoint as the service takes it."""
    file = data / "artifacts" / "blocks.onnx"
    assert export.main(["fcn1s-grey", "--weights", str(trained), "--name", "blocks", "--out", str(file)]) == 0
    return file


def labels_of(model: str, data: Path, table: ClassTable) -> list[NDArray[np.uint8]]:
    """What ``models.evaluate`` counts of each validation picture."""
    with ExitStack() as resources:
        predict = predictor_of(model, table, resources)
        return [predict(image).labels for image in sorted((data / "val" / "images").iterdir())]


def test_differences_below_8_bits_are_learnt(data: Path, trained: Path, classes: str, tmp_path: Path) -> None:
    """A block that is brighter by 24 of 65,536 is found in pictures that were not trained on; the picture shows it."""
    scores, shown = tmp_path / "scores.json", tmp_path / "shown.png"
    more = ["--classes", classes, "--json", str(scores), "--picture", str(shown)]
    assert evaluate.main([str(trained), "--data", str(data / "val"), *more]) == 0
    assert json.loads(scores.read_text())["mean_iou"] > 0.9
    first = np.asarray(cv2.imread(str(shown)), int)[:SIDE, :SIDE, 0]
    _, labels = drawn(8)
    assert first[labels == 1].mean() > first[labels == 0].mean() + 50
    assert checkpoint.load(trained)["input"]["intensity"]["scope"] == "picture"


def test_evaluation_and_the_service_give_equal_labels(data: Path, trained: Path, artifact: Path, classes: str) -> None:
    """The artifact and POST /segment agree on each pixel, PyTorch on all but ties of rounding; PNG, TIFF and floats."""
    table = class_table(classes)
    of_artifact = labels_of(str(artifact), data, table)
    with live_server(Settings(models_dir=artifact.parent)) as url:
        served = labels_of(url, data, table)
        with Client(url) as client:
            for image, labels in zip(sorted((data / "val" / "images").iterdir()), of_artifact, strict=True):
                np.testing.assert_array_equal(client.segment(image).labels, labels)
    np.testing.assert_array_equal(served, of_artifact)
    of_checkpoint = np.stack(labels_of(str(trained), data, table))
    assert np.mean(of_checkpoint == np.stack(of_artifact)) >= 0.999


def test_frames_in_memory_are_what_the_service_gives_the_network(data: Path, trained: Path, classes: str) -> None:
    """The same numbers: policy first, then the size; 16 bits and floats of another unit and offset come out alike."""
    policy = checkpoint.input_policy(checkpoint.load(trained))
    frames = load_frames([data / "train"], class_table(classes), policy)
    assert frames.images.dtype == torch.float32
    assert frames.images.shape == (8, 1, SIDE, SIDE)
    for index, name in enumerate(frames.names):
        values, _ = drawn(int(name))
        ordered = np.sort(values, axis=None).astype(float)
        low, high = (ordered[int((values.size - 1) * percent / 100)] for percent in (1, 99))
        wanted = np.clip((values - low) / (high - low), 0, 3)
        np.testing.assert_allclose(frames.images[index, 0], wanted, atol=1e-3)


@pytest.mark.parametrize("camera", [0.0, 3.0])
def test_variations_stay_within_the_range_of_the_policy(data: Path, trained: Path, classes: str, camera: float) -> None:
    """Of one channel, 0..3, black outside; neither hue nor JPEG, which are of colours."""
    policy = checkpoint.input_policy(checkpoint.load(trained))
    frames = load_frames([data / "train"], class_table(classes), policy)
    varied = Augmentation(crop=(64, 96), scale=(0.4, 0.6), peak=3.0, camera=camera)(frames, torch.Generator().manual_seed(1))
    assert varied.images.shape == (8, 1, 64, 96)
    assert 0 <= float(varied.images.min()) <= float(varied.images.max()) <= 3
    inside = varied.labels != 255
    assert varied.images[:, 0][~inside].mean() < 0.2 < varied.images[:, 0][varied.labels == 1].mean()


def test_a_picture_is_read_as_its_network_takes_it(data: Path) -> None:
    """All bits for one channel, 8 bits for colours; a missing file is named."""
    file = next((data / "train" / "images").glob("*.png"))
    values, _ = drawn(int(file.stem))
    numbers = InputPolicy(working_size=(SIDE, SIDE), channels=1, dtype="uint16")
    np.testing.assert_array_equal(read_picture(file, numbers).values, values)
    colours = read_picture(file, InputPolicy(working_size=(SIDE, SIDE)))
    assert colours.values is colours.image
    assert len(np.unique(colours.values)) < 3
    with pytest.raises(DataError, match="nowhere"):
        read_picture(data / "nowhere.png", numbers)


def test_painted_scenes_are_refused(data: Path, classes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are in colours: one line and status 2."""
    command = [*NETWORK, *RUN, "--data", str(data), "--classes", classes, "--scenes", "2", "--out", str(tmp_path / "run")]
    assert train.main(command) == 2
    assert "takes one channel" in capsys.readouterr().err.replace("\n", " ")


def test_int8_is_for_colours(data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Calibration frames are of 8 bits: one line and status 2, and no file."""
    out = tmp_path / "int8.onnx"
    lower = ["--precision", "int8", "--calibrate", str(data / "val")]
    assert export.main(["fcn1s-grey", "--weights", str(trained), "--name", "int8", "--out", str(out), *lower]) == 2
    assert "int8 is for networks that take colours" in capsys.readouterr().err.replace("\n", " ")
    assert not out.exists()
