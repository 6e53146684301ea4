"""Training, for real: a few epochs of a small run on generated scenes, stopped, resumed, repeated."""

from __future__ import annotations

import csv
import json
import math
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from models.evaluate import evaluate, predictor_of
from models.nets.architectures import ARCHITECTURES, build
from models.nets.network import Network
from models.scenes.__main__ import main as write_scenes
from models.train import main, parse
from models.training import checkpoint
from models.training.classes import CAMVID
from models.training.config import TrainingConfig
from models.training.data import Frames, load_frames
from models.training.losses import IGNORED
from models.training.metrics import confusion_matrix, scores
from models.training.trainer import Trainer, WeightAverage, load_data, parameter_groups, score_frames
from service.pipeline.manifest import InputPolicy

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parent.parent
SIZE = (64, 80)
RUN = ["--size", "64x80", "--batch", "2", "--seed", "3", "--device", "cpu"]
SMALL = [*RUN, "--architecture", "fcn-resnet50", "--width", "0.0625"]
"""A run of seconds: of the smallest network that has everything, an encoder, normalisation and an auxiliary head."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six scenes to train on, two to validate."""
    folder = tmp_path_factory.mktemp("scenes")
    for split, count, seed in (("train", 6, 0), ("val", 2, 100)):
        arguments = ["--count", count, "--size", "64x80", "--seed", seed, "--out", folder / split]
        assert write_scenes([str(argument) for argument in arguments]) == 0
    return folder


def arguments(data: Path, out: Path, *more: str) -> list[str]:
    """The command line of a small run."""
    return [*SMALL, "--data", str(data), "--out", str(out), *more]


def read_log(out: Path) -> list[dict[str, str]]:
    """The rows of ``log.csv``."""
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of two epochs leaves behind."""
    out = tmp_path_factory.mktemp("runs") / "two-epochs"
    assert main(arguments(data, out, "--epochs", "2")) == 0
    return out


def make_trainer(data: Path, *more: str) -> Trainer:
    """A trainer as the command makes it."""
    config = parse(arguments(data, Path("unused"), *more))
    return Trainer(config, load_data(config))


def test_a_run_leaves_its_checkpoints_its_log_and_its_curves(finished: Path) -> None:
    """Both checkpoints can be read, every epoch has its row, the picture is a picture."""
    assert {path.name for path in finished.iterdir()} == {"last.pt", "best.pt", "log.csv", "curves.png"}
    rows = read_log(finished)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(math.isfinite(float(row["loss"])) and 0 <= float(row["mean_iou"]) <= 1 for row in rows)
    assert {f"iou_{name}" for name in CAMVID.names} >= {name for name in rows[0] if name.startswith("iou_")}
    with Image.open(finished / "curves.png") as picture:
        assert min(picture.size) > 200
    last, best = (checkpoint.load(finished / name) for name in ("last.pt", "best.pt"))
    assert last["epoch"] == 2
    assert checkpoint.class_table(best) == CAMVID
    assert (best["working_size"], best["splits"]) == (list(SIZE), ["train"])
    assert (best["architecture"], best["width"]) == ("fcn-resnet50", 0.0625)
    assert checkpoint.network(best).state_dict().keys() == build("fcn-resnet50", 11, width=0.0625).state_dict().keys()
    assert (finished / "best.pt").stat().st_size < (finished / "last.pt").stat().st_size / 4


def test_the_best_checkpoint_scores_what_the_log_says(finished: Path, data: Path) -> None:
    """The row with the highest mean IoU belongs to the weights in ``best.pt``."""
    best = checkpoint.load(finished / "best.pt")
    row = max(read_log(finished), key=lambda row: float(row["mean_iou"]))
    assert best["epoch"] == int(row["epoch"])
    frames = load_frames([data / "val"], CAMVID, InputPolicy(working_size=SIZE))
    found = score_frames(checkpoint.network(best), frames, CAMVID)
    assert found.mean_iou == pytest.approx(float(row["mean_iou"]), abs=2e-3)  # its kernels are rounded to half precision
    assert found.pixel_accuracy == pytest.approx(float(row["pixel_accuracy"]), abs=2e-3)


def test_a_resumed_run_continues_where_the_other_ended(finished: Path, data: Path, tmp_path: Path) -> None:
    """Two epochs more are the third and the fourth, after the same first two."""
    out = tmp_path / "resumed"
    out.mkdir()
    (out / "last.pt").write_bytes((finished / "last.pt").read_bytes())
    assert main(arguments(data, out, "--epochs", "3", "--resume")) == 0
    assert checkpoint.load(out / "last.pt")["epoch"] == 3
    before, after = read_log(finished), read_log(out)
    assert [row["epoch"] for row in after] == ["1", "2", "3"]
    assert [row["loss"] for row in after[:2]] == [row["loss"] for row in before]


def test_stopping_between_epochs_and_resuming_changes_nothing(data: Path, tmp_path: Path) -> None:
    """The same seed gives the same losses, and a run that was stopped and resumed ends with the same weights, bit by bit."""
    through, stopped = make_trainer(data, "--epochs", "2"), make_trainer(data, "--epochs", "2")
    losses = [through.run_epoch(lambda: None), through.run_epoch(lambda: None)]
    assert stopped.run_epoch(lambda: None) == losses[0]
    checkpoint.save(tmp_path / "last.pt", stopped.state())
    torch.rand(3)  # the machine did something else meanwhile
    resumed = make_trainer(data, "--epochs", "2")
    resumed.restore(checkpoint.load(tmp_path / "last.pt"))
    assert resumed.run_epoch(lambda: None) == losses[1]
    for one, other in ((through.net, resumed.net), (through.average.net, resumed.average.net)):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_another_seed_is_another_run(data: Path) -> None:
    """Or nothing would be random."""
    first, second = make_trainer(data), make_trainer(data, "--seed", "4")
    assert first.run_epoch(lambda: None) != second.run_epoch(lambda: None)


def test_training_learns(data: Path) -> None:
    """A few steps on six unvaried scenes lower the loss by far more than chance, and the average of the weights follows."""
    plain = ("--color", "0", "--paste", "0", "--drop", "0", "--dropout", "0", "--scale", "1", "1", "--lovasz", "0")
    trainer = make_trainer(data, *plain, "--epochs", "6", "--warm-up-epochs", "0", "--lr", "1e-2")
    untrained = trainer.validate()["val"]
    losses = [trainer.run_epoch(lambda: None) for _ in range(6)]
    trained = trainer.validate()["val"]
    assert losses[-1] < 0.8 * losses[0]
    assert trained.pixel_accuracy > untrained.pixel_accuracy + 0.1


def test_a_batch_without_a_labelled_pixel_does_not_end_the_run(data: Path) -> None:
    """Its loss is zero, not NaN: the weights stay numbers."""
    trainer = make_trainer(data, "--epochs", "1")
    trainer.train.labels.fill_(IGNORED)
    assert trainer.run_epoch(lambda: None) == 0
    assert all(torch.isfinite(value).all() for value in trainer.net.state_dict().values())


def test_ctrl_c_leaves_a_checkpoint_that_resumes(data: Path, tmp_path: Path) -> None:
    """The command ends with status 130 and one line that says how to go on; going on works."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "models.train", *arguments(data, out, "--epochs", "1000")]
    with (
        (tmp_path / "errors").open("w") as errors,
        subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            assert "epoch 1/1000" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            rest = process.stdout.read()
            assert process.wait(timeout=60) == 130
        finally:
            process.kill()
    said = (tmp_path / "errors").read_text()
    assert re.search(r"stopped in epoch \d+; go on with --resume", said), said
    assert "Traceback" not in said + rest
    state = checkpoint.load(out / "last.pt")
    done = state["epoch"]
    assert 1 <= done < 1000
    assert [row["epoch"] for row in state["history"]] == list(range(1, done + 1))
    assert main(arguments(data, out, "--epochs", str(done + 1), "--resume")) == 0
    assert checkpoint.load(out / "last.pt")["epoch"] == done + 1


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--data", "[no]/where"], r"\[no\]/where/train: no images in images/; expected .*"),
        (["--train-splits", "train", "night"], r".*/night: no images in images/; expected .*"),
        (["--resume"], r".*/last\.pt: no such file"),
        (["--start", "nowhere.pth"], r"nowhere\.pth: no such file"),
        (["--classes", "nowhere.json"], r"no class table 'nowhere\.json': it is neither one of voc, .* nor a JSON file"),
        (["--architecture", "fcn8s-lite0"], r"fcn8s-lite0 has one width; choose a size instead: lite0, lite1, lite2"),
        (["--architecture", "deconvnet-vgg16"], r"deconvnet-vgg16 takes sides of 224 and more, not 64 x 80"),
        (["--crop", "60x80"], r"--crop: fcn-resnet50 takes sides of 1 and more that are multiples of 8"),
    ],
    ids=["data", "split", "resume", "start", "classes", "width", "size", "crop"],
)
def test_what_cannot_be_trained_on_is_one_line_and_status_2(
    more: list[str], reason: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback, nothing written, and the path as it was given."""
    assert main(arguments(data, tmp_path / "run", "--epochs", "1", *more)) == 2
    assert re.fullmatch(reason + r"\n", capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_network_is_not_resumed(finished: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor one that holds weights alone."""
    for more in (["--width", "0.125"], ["--architecture", "fcn8s-vgg16"], ["--auxiliary", "0"]):
        assert main(arguments(data, finished, "--resume", *more)) == 2
        assert re.search(
            r"cannot resume: the checkpoint is of fcn-resnet50 at width 0\.0625, \d+ tensors, for the 11 classes of 'camvid', "
            r"this run of fcn",
            capsys.readouterr().err,
        )
    trainer = make_trainer(data)
    with pytest.raises(checkpoint.CheckpointError, match="cannot resume"):
        trainer.restore(checkpoint.load(finished / "best.pt"))


@pytest.mark.parametrize("text", ["360", "axb", "0x480", "-8x8", "1x2x3"])
def test_a_size_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With an example of one."""
    with pytest.raises(SystemExit) as stop:
        parse([f"--size={text}"])
    assert stop.value.code == 2
    assert "expected HEIGHTxWIDTH, e.g. 360x480" in capsys.readouterr().err


# --- every network of the family -------------------------------------------------------------------------------------

ONE_EACH = ["fcn32s-vgg16", "fcn8s-vgg16-atonce", "fcn8s-lite0", "deconvnet-vgg16"]
"""One of each kind. FCN-ResNet, FCN-16s and FCN-8s are trained elsewhere in this file; the others differ in numbers alone."""


@pytest.mark.parametrize(
    "name", [name if name in ONE_EACH else pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES]
)
def test_every_architecture_trains_resumes_and_is_scored(name: str, data: Path, tmp_path: Path) -> None:
    """By the command: an epoch, another one with ``--resume``, and the scores of what it left; its weights have moved."""
    large = ["--size", "224x224", "--epochs", "1"] if name == "deconvnet-vgg16" else ["--size", "64x80", "--epochs", "1"]
    width = [] if "lite" in name else ["--width", "0.03125"]
    command = [*RUN, *large, "--architecture", name, *width, "--data", str(data), "--out", str(tmp_path / "run")]
    assert main(command) == 0
    first = checkpoint.load(tmp_path / "run" / "last.pt")
    assert first["architecture"] == name
    assert main([*command, "--epochs", "2", "--resume"]) == 0
    second = checkpoint.load(tmp_path / "run" / "last.pt")
    assert second["epoch"] == 2
    kernels = [key for key, value in first["raw_weights"].items() if value.ndim == 4]
    assert any(not torch.equal(first["raw_weights"][key], second["raw_weights"][key]) for key in kernels)
    with ExitStack() as resources:
        found = evaluate(predictor_of(str(tmp_path / "run" / "best.pt"), CAMVID, resources), data / "val", CAMVID).scores
    best = max(float(row["pixel_accuracy"]) for row in read_log(tmp_path / "run"))
    assert found.frames == 2
    assert 0 <= found.pixel_accuracy <= best + 0.05


def test_the_auxiliary_head_is_trained_and_left_out(data: Path, finished: Path) -> None:
    """It learns, as the rest does; what is kept for serving has no trace of it, and a run may do without."""
    trainer = make_trainer(data, "--epochs", "1")
    before = trainer.net.state_dict()["aux_classifier.4.weight"].clone()
    trainer.run_epoch(lambda: None)
    assert not torch.equal(trainer.net.state_dict()["aux_classifier.4.weight"], before)
    assert "aux_classifier.4.weight" in checkpoint.load(finished / "last.pt")["raw_weights"]
    assert not any(name.startswith("aux") for name in checkpoint.load(finished / "best.pt")["weights"])
    plain = make_trainer(data, "--auxiliary", "0")
    assert not any(name.startswith("aux") for name in plain.net.state_dict())


def test_the_loss_is_the_scores_and_a_share_of_the_auxiliary_heads(data: Path) -> None:
    """Half of it, as torchvision trains."""
    losses = []
    for share in ("0.5", "0.25"):
        trainer = make_trainer(data, "--auxiliary", share, "--epochs", "1", "--lr", "0", "--dropout", "0")
        losses.append(trainer.run_epoch(lambda: None))
        generator = torch.Generator().manual_seed(3)
        main_loss, auxiliary = torch.zeros(()), torch.zeros(())
        order = torch.randperm(6, generator=generator)
        trainer.net.train()
        for step in range(3):
            chosen = order[2 * step : 2 * step + 2]
            batch = trainer.augment(trainer.train.take(chosen), generator)
            with torch.no_grad():
                scored, other = trainer.net.for_loss(batch.images)
            main_loss += trainer._loss(scored, batch.labels, batch.weights) / 3
            auxiliary += trainer._loss(other, batch.labels, batch.weights) / 3
        assert losses[-1] == pytest.approx(float(main_loss + float(share) * auxiliary), rel=1e-3)


def test_a_class_table_of_ones_own_is_trained_kept_and_exported_by(data: Path, tmp_path: Path) -> None:
    """From JSON into the checkpoint, whole: it need not be named again."""
    table = tmp_path / "halves.json"
    rows = [{"name": "above", "label_id": 0}, {"name": "below", "color": [1, 2, 3], "label_id": 3}]
    table.write_text(json.dumps({"name": "halves", "classes": rows, "ignored": [1, 2, *range(4, 12), 255]}))
    assert main(arguments(data, tmp_path / "run", "--epochs", "1", "--classes", str(table))) == 0
    content = checkpoint.load(tmp_path / "run" / "best.pt")
    table.unlink()
    kept = checkpoint.class_table(content)
    assert kept.names == ("above", "below")
    assert kept.label_ids == (0, 3)
    assert checkpoint.network(content).classes == 2


def test_training_starts_from_another_networks_weights(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """FCN-8s from FCN-16s, as in the paper; what is new is named, and the rest learns at its own rate."""
    sixteen = [*RUN, "--architecture", "fcn16s-vgg16", "--width", "0.03125", "--data", str(data)]
    assert main([*sixteen, "--out", str(tmp_path / "sixteen"), "--epochs", "1"]) == 0
    start = str(tmp_path / "sixteen" / "best.pt")
    eight = [*sixteen, "--architecture", "fcn8s-vgg16", "--start", start]
    capsys.readouterr()
    assert main([*eight, "--out", str(tmp_path / "eight"), "--epochs", "1", "--lr", "0"]) == 0
    said = capsys.readouterr().err
    assert "starting from random numbers: score_pool3.weight, score_pool3.bias, upscore8.weight, upscore_pool4.weight" in said
    weights = checkpoint.load(tmp_path / "eight" / "last.pt")["raw_weights"]
    assert torch.equal(weights["fc6.weight"], checkpoint.load(Path(start))["weights"]["fc6.weight"].float())
    assert not weights["score_pool3.weight"].any()


# --- the parts -------------------------------------------------------------------------------------------------------


class Fixed(Network):
    """Gives scores that are known beforehand, at a quarter of the size."""

    def __init__(self, planes: Tensor) -> None:
        super().__init__()
        self.planes = planes

    def forward(self, x: Tensor) -> Tensor:
        """The first N planes."""
        return self.planes[: len(x)]


def test_validation_scores_upsampled_scores_and_leaves_out_what_is_ignored() -> None:
    """Bilinear upsampling, then the winner: by hand with the pixels' own confusion matrix, over unequal batches."""
    generator = torch.Generator().manual_seed(0)
    planes = torch.randn(2, 11, 4, 5, generator=generator)
    labels = torch.randint(0, 11, (5, 16, 20), generator=generator).to(torch.uint8)
    labels[:, :3] = IGNORED
    images = torch.zeros(5, 3, 16, 20, dtype=torch.uint8)
    sizes, weights = torch.tensor([[16, 20]] * 5), torch.ones(5)
    frames = Frames(images, labels, torch.zeros_like(labels), sizes, weights, tuple("abcde"))
    found = score_frames(Fixed(planes), frames, CAMVID, batch=2)
    winners = torch.nn.functional.interpolate(planes, scale_factor=4, mode="bilinear").argmax(1)
    prediction = winners[[0, 1, 0, 1, 0]]
    assert found == scores(confusion_matrix(labels.numpy(), prediction.numpy(), 11), CAMVID.names, frames=5)


def test_the_weight_average_is_a_moving_average() -> None:
    """Short at first, then by its decay; whole numbers are left alone."""
    layer = torch.nn.BatchNorm1d(1)
    average = WeightAverage(layer, decay=0.5)
    expected = 1.0
    for update, value in enumerate([3.0, 5.0, -2.0, 8.0, 1.0, 1.0, 9.0, 4.0, 4.0, 2.0], start=1):
        torch.nn.init.constant_(layer.weight, value)
        average.update(layer)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * value
    assert float(average.net.state_dict()["weight"]) == pytest.approx(expected, rel=1e-5)
    assert int(average.net.state_dict()["num_batches_tracked"]) == 0
    assert not any(parameter.requires_grad for parameter in average.net.parameters())


def test_loaded_weights_learn_slower_and_only_kernels_decay() -> None:
    """Every parameter is in exactly one group, with the rate and the decay that are its own."""
    net = build("fcn8s-lite0", 3)
    fresh = {name for name, _ in net.named_parameters() if not name.startswith("encoder.")}
    groups = parameter_groups(net, 0.01, 0.3, 0.02, fresh)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    found = {names[id(parameter)]: group for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(names) == len(found)
    for name, parameter in net.named_parameters():
        assert found[name]["initial_lr"] == found[name]["lr"] == pytest.approx(0.003 if name.startswith("encoder.") else 0.01)
        assert found[name]["weight_decay"] == (0.02 if parameter.ndim > 1 else 0.0)


def test_the_rate_warms_up_and_falls_to_zero(data: Path) -> None:
    """Linearly up, then a half cosine down, every group in proportion."""
    trainer = make_trainer(data, "--epochs", "10", "--warm-up-epochs", "2", "--lr", "1.0")

    def factor(progress: float) -> float:
        trainer._set_rate(progress)
        factors = [group["lr"] / group["initial_lr"] for group in trainer.optimizer.param_groups]
        assert factors == pytest.approx([factors[0]] * len(factors))
        return float(factors[0])

    rates = [factor(step / 100) for step in range(101)]
    assert rates[0] == 0
    assert int(np.argmax(rates)) == 20
    assert rates[20] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.2)))
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[100] == pytest.approx(0, abs=1e-9)


def test_the_recipe_from_scratch_is_the_default() -> None:
    """``python -m models.train`` alone trains ``fcn4s-lite0-camvid``: the same network at the same size."""
    args: TrainingConfig = parse([])
    shipped: dict[str, Any] = checkpoint.load(ROOT / "models" / "checkpoints" / "fcn4s-lite0-camvid.pt")
    architecture = ARCHITECTURES[args.architecture]
    assert args.architecture == shipped["architecture"]
    assert args.width == 1
    assert args.size is None
    assert list(architecture.working_size) == shipped["working_size"]
    assert args.epochs == shipped["epochs"]
    assert args.data == Path("../shared/camvid")
