"""Training, scoring and export of networks for scans, by the same commands as for pictures, on data drawn here."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from models import evaluate, export, train
from models.heads import TISSUES
from models.training import checkpoint
from models.training.classes import CAMVID
from models.training.classes import table as class_table
from models.training.losses import IGNORED, dice_loss
from models.training.scan_scores import evaluate_scans, hd95, surface
from models.training.scan_trainer import mean_dice
from tests.phantoms import phantom_map

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parent.parent
SLICES = ["--architecture", "fcn1s-slices", "--width", "0.25", "--size", "64x64"]
VOLUMES = ["--architecture", "vnet-light", "--width", "0.25"]
RUN = ["--batch", "2", "--steps-an-epoch", "2", "--lr", "0.01", "--loaded-lr", "1", "--warm-up-epochs", "0", "--device", "cpu"]


def table(path: Path, names: tuple[str, ...]) -> str:
    """A class table as ``--classes`` takes one."""
    classes = [{"name": name, "color": [60 * k, 90, 40], "label_id": k} for k, name in enumerate(names)]
    path.write_text(json.dumps({"name": path.stem, "classes": classes, "ignored": [255]}))
    return str(path)


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three label maps of heads."""
    folder = tmp_path_factory.mktemp("maps")
    for number in range(3):
        nibabel.save(nibabel.Nifti1Image(phantom_map(32 + 4 * number), np.eye(4)), folder / f"subject-{number}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four volumes with a bright ball each, and its labels."""
    folder = tmp_path_factory.mktemp("volumes")
    rng = np.random.default_rng(3)
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for number in range(4):
        grid = np.stack(np.meshgrid(*(np.arange(side) for side in (36, 50, 34)), indexing="ij"))
        ball = (np.linalg.norm(grid - rng.uniform(14, 20, 3)[:, None, None, None], axis=0) < 8).astype(np.uint8)
        values = (ball * 400.0 + 200 + rng.normal(0, 20, ball.shape)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, 1, 1, 1])), folder / "images" / f"{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(ball, np.diag([-1.0, 1, 1, 1])), folder / "labels" / f"{number}.nii.gz")
    return folder


def rows(out: Path) -> list[dict[str, str]]:
    """The log of a run."""
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_slices_of_generated_heads_are_learnt_and_exported(maps: Path, tmp_path: Path) -> None:
    """Train, go on, evaluate the checkpoint on a scan, export with parity: one network through all three commands."""
    classes = table(tmp_path / "tissue.json", TISSUES)
    out = tmp_path / "run"
    command = [*SLICES, *RUN, "--maps", str(maps), "--hold-out", "1", "--classes", classes, "--out", str(out)]
    assert train.main([*command, "--epochs", "1", "--class-weights", "1", "2", "1", "1"]) == 0
    assert train.main([*command, "--epochs", "2", "--resume"]) == 0
    assert [row["epoch"] for row in rows(out)] == ["1", "2"]
    assert all(0 <= float(row["mean_iou"]) <= 1 for row in rows(out))
    content = checkpoint.load(out / "best.pt")
    assert content["input"]["planes"] == ["axial", "coronal", "sagittal"]
    artifact = tmp_path / "tissue.onnx"
    weights = ["--weights", str(out / "best.pt"), "--name", "tissue", "--out", str(artifact)]
    assert export.main(["fcn1s-slices", *weights]) == 0
    with_labels = tmp_path / "scans"
    for name in ("images", "labels"):
        (with_labels / name).mkdir(parents=True)
    labels = np.clip(phantom_map(24), 0, 3).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image((labels * 90).astype(np.int16), np.eye(4)), with_labels / "images" / "a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), with_labels / "labels" / "a.nii.gz")
    found = []
    for model in (out / "best.pt", artifact):
        scores = tmp_path / "scores.json"
        more = ["--classes", classes, "--json", str(scores), "--picture", str(tmp_path / "slices.png")]
        assert evaluate.main([str(model), "--data", str(with_labels), *more]) == 0
        found.append(json.loads(scores.read_text()))
    assert found[0]["dice"] == pytest.approx(found[1]["dice"], abs=1e-3)
    with Image.open(tmp_path / "slices.png") as picture:
        assert picture.width == 3 * labels.shape[0]


def test_volumes_are_learnt(volumes: Path, tmp_path: Path) -> None:
    """The ball is found in the held-out volume after a few steps, by the checkpoint and by the log."""
    classes = table(tmp_path / "ball.json", ("background", "ball"))
    out = tmp_path / "run"
    command = [*VOLUMES, *RUN, "--batch", "1", "--steps-an-epoch", "10", "--average", "0.5"]
    command += ["--data", str(volumes), "--classes", classes]
    assert train.main([*command, "--hold-out", "1", "--epochs", "2", "--out", str(out)]) == 0
    assert float(rows(out)[-1]["mean_iou"]) > 0.6
    scores = tmp_path / "scores.json"
    arguments = [str(out / "best.pt"), "--data", str(volumes), "--last", "1", "--classes", classes, "--json", str(scores)]
    assert evaluate.main(arguments) == 0
    found = json.loads(scores.read_text())
    assert found["frames"] == 1
    assert found["dice"]["ball"] > 0.6


def test_weights_stay_float32_where_products_are_bfloat16(volumes: Path, tmp_path: Path) -> None:
    """Products of 8 bits move the weights elsewhere, a little; what is kept is as ever."""
    classes = table(tmp_path / "ball.json", ("background", "ball"))
    command = [*VOLUMES, *RUN, "--batch", "1", "--epochs", "1", "--data", str(volumes), "--classes", classes]
    for name, more in (("exact", []), ("rounded", ["--bfloat16"])):
        assert train.main([*command, *more, "--out", str(tmp_path / name)]) == 0
    exact, rounded = (
        torch.load(tmp_path / name / "last.pt", weights_only=True)["raw_weights"] for name in ("exact", "rounded")
    )
    moved = [float((exact[name].float() - value.float()).abs().max()) for name, value in rounded.items()]
    assert {value.dtype for value in rounded.values()} <= {torch.float32, torch.int64}
    assert 0 < max(moved) < 0.1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([*SLICES], "say --maps"),
        ([*VOLUMES, "--maps", "."], "takes volumes"),
        ([*VOLUMES, "--data", "nowhere"], "no scans in images/"),
        ([*SLICES, "--maps", ".", "--class-weights", "1", "2"], "2 numbers for"),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_status_2(
    arguments: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says what to give."""
    classes = table(tmp_path / "tissue.json", TISSUES)
    assert train.main([*arguments, *RUN, "--classes", classes, "--out", str(tmp_path / "run")]) == 2
    assert reason in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "run").exists()


def test_held_out_scans_are_fewer_than_all(volumes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the folder and both numbers."""
    classes = table(tmp_path / "ball.json", ("background", "ball"))
    arguments = [*VOLUMES, *RUN, "--data", str(volumes), "--hold-out", "4", "--classes", classes]
    assert train.main([*arguments, "--out", str(tmp_path / "run")]) == 2
    assert "--hold-out keeps 4" in capsys.readouterr().err.replace("\n", " ")


def test_for_hard_predictions_the_dice_loss_is_one_minus_the_mean_dice() -> None:
    """Of the classes that occur, the background apart, unlabelled voxels left out; up to the 1 in both parts."""
    rng = np.random.default_rng(5)
    truth, found = rng.integers(0, 4, (2, 2, 30, 30, 8))
    labels = np.where(rng.random(truth.shape) < 0.1, IGNORED, truth)
    hard = torch.nn.functional.one_hot(torch.from_numpy(found), 4).movedim(-1, 1).float()
    known = labels != IGNORED
    dice = [
        2 * ((found == k) & (truth == k) & known).sum() / (((found == k) & known).sum() + ((truth == k) & known).sum())
        for k in (1, 2, 3)
    ]
    assert float(dice_loss(hard, torch.from_numpy(labels))) == pytest.approx(1 - np.mean(dice), abs=2e-3)
    flat = torch.full((1, 3, 4, 4), 1 / 3, requires_grad=True)
    nothing = dice_loss(flat, torch.zeros((1, 4, 4), dtype=torch.int64))
    torch.autograd.backward(nothing)
    assert float(nothing.detach()) == 0


def test_descending_the_dice_loss_raises_the_overlap() -> None:
    """Its gradient points the right way, for pictures and for volumes."""
    for sides in ((12, 12), (6, 6, 6)):
        truth = torch.zeros((1, *sides), dtype=torch.int64)
        truth[:, 2:5, 2:5] = 1
        scores = torch.zeros((1, 2, *sides), requires_grad=True)
        before = dice_loss(scores.softmax(1), truth).item()
        for _ in range(150):
            (slope,) = torch.autograd.grad(dice_loss(scores.softmax(1), truth), scores)
            scores = (scores - 50 * slope).detach().requires_grad_()
        assert dice_loss(scores.softmax(1), truth).item() < 0.2 * before


def test_the_distance_of_shifted_cubes_is_their_shift() -> None:
    """In mm along each axis; None where one is empty; 0 where they are equal."""
    cube, moved = np.zeros((2, 30, 30, 30), bool)
    cube[10:14, 10:20, 10:20] = True
    moved[10:14, 13:23, 10:20] = True
    assert hd95(cube, cube, (1, 1, 1)) == 0
    assert hd95(cube, moved, (1, 2, 1)) == pytest.approx(6)
    assert hd95(cube, np.zeros_like(cube), (1, 1, 1)) is None
    assert len(surface(cube)) == cube.sum() - 2 * 8 * 8


def test_mean_dice_leaves_out_scans_without_the_class() -> None:
    """Neither in truth nor in the answer; a class that is nowhere has no figure."""
    confusions = [np.array([[5, 0, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0]]), np.array([[9, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])]
    assert mean_dice(confusions, ("a", "b", "c")) == {"a": pytest.approx(0.9545), "b": pytest.approx(0.8571), "c": None}


def test_the_error_of_the_volume_has_a_sign(volumes: Path, tmp_path: Path) -> None:
    """A prediction of twice the voxels is an error of one; distances are in the scan's own mm."""
    classes = class_table(table(tmp_path / "ball.json", ("background", "ball")))

    def twice(path: Path) -> np.ndarray:
        labels = np.asarray(nibabel.load(volumes / "labels" / path.name).dataobj)
        count = int(labels.sum())
        grown = labels.copy().reshape(-1)
        grown[np.flatnonzero(grown == 0)[:count]] = 1
        return grown.reshape(labels.shape)

    found = evaluate_scans(twice, volumes, classes, last=2)
    assert found.volume_error == {"ball": 1.0}
    assert found.scores.dice["ball"] == pytest.approx(2 / 3, abs=1e-3)
    assert (found.hd95_mm["ball"] or 0) > 3


def test_a_model_of_other_classes_scores_no_scan(volumes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that names both."""
    artifact = ROOT / "models/artifacts/more/hippocampus-vnet.onnx"
    assert evaluate.main([str(artifact), "--data", str(volumes), "--classes", CAMVID.name]) == 2
    assert "has the classes background, anterior, posterior" in capsys.readouterr().err
