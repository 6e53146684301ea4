"""Training the heads of objects alone: they learn, the rest stays, what cannot be trained is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.nets.architectures import build
from models.nets.panoptic import ObjectHeads, PanopticFCN
from models.scenes.__main__ import main as write_scenes
from models.train_heads import examples, main, train_heads
from models.training import checkpoint
from models.training.augmentation import Augmentation
from models.training.classes import CAMVID, ClassTable
from models.training.data import painted_frames, stacked
from models.training.losses import center_loss, offset_loss
from service.pipeline.manifest import InputPolicy

pytestmark = pytest.mark.usefixtures("one_thread")


def write_checkpoint(path: Path, architecture: str = "fcn4s-lite0-panoptic", table: ClassTable = CAMVID) -> Path:
    """Random weights that work at 64 x 80."""
    torch.manual_seed(0)
    weights = build(architecture, len(table.entries)).state_dict()
    told = {"architecture": architecture, "width": 1.0, "classes": table.to_json(), "working_size": [64, 80], "epoch": 1}
    checkpoint.save(path, {**told, "weights": weights, "calibration": {"temperature": 2.0}})
    return path


def test_heads_for_prediction_give_what_the_trained_ones_give() -> None:
    """One last layer, in the place of two, differs by rounding alone."""
    torch.manual_seed(0)
    heads = ObjectHeads(12).eval()
    x = torch.rand(2, 12, 9, 7)
    with torch.no_grad():
        for found, expected in zip(heads.merged()(x), heads(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_heads_learn() -> None:
    """Both losses fall by a third in 150 steps on six scenes."""
    torch.manual_seed(0)
    net = build("fcn4s-lite0-panoptic", 11).eval()
    assert isinstance(net, PanopticFCN)
    frames = stacked(list(painted_frames(6, InputPolicy(working_size=(64, 80)))))
    still = Augmentation(crop=(64, 80), scale=(1.0, 1.0), stretch=0.0, rotation_degrees=0.0, color=0.0)
    given = examples(net, frames, still, torch.Generator().manual_seed(0), "features")

    def losses() -> list[float]:
        with torch.no_grad():
            centers, offsets = net.objects.eval()(given.features.float())
        return [float(center_loss(centers, given.wanted)), float(offset_loss(offsets, given.wanted))]

    before = losses()
    heads = train_heads(net.objects, given, steps=150, batch=4, rate=1e-2, average=0.5, seed=0)
    net.objects.load_state_dict(heads.state_dict())
    after = losses()
    assert after[0] < 0.67 * before[0]
    assert after[1] < 0.67 * before[1]


def test_scores_stay_as_they_are(tmp_path: Path) -> None:
    """By the command: the heads have other weights, all other tensors the same; a temperature that was fitted is dropped."""
    start, out = write_checkpoint(tmp_path / "start.pt"), tmp_path / "out.pt"
    data = tmp_path / "data"
    assert write_scenes(["--count", "2", "--size", "64x80", "--out", str(data)]) == 0
    arguments = [str(start), "--data", str(data), "--scenes", "2", "--steps", "3", "--batch", "2", "--out", str(out)]
    assert main(arguments) == 0
    before, after = checkpoint.load(start), checkpoint.load(out)
    assert "calibration" not in after
    first, second = checkpoint.network(before), checkpoint.network(after)
    image = torch.rand(1, 3, 64, 80) * 255
    with torch.no_grad():
        torch.testing.assert_close(
            first.scores(image), second.scores(image), rtol=0, atol=0.05
        )  # kernels are in half precision
    moved = {
        name.partition(".")[0]
        for name, value in first.state_dict().items()
        if value.is_floating_point() and not torch.allclose(value, second.state_dict()[name], rtol=2e-3, atol=1e-4)
    }
    assert moved == {"objects"}


def test_what_cannot_be_trained_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A network without heads, no frames at all, scenes of other classes."""
    out = tmp_path / "out.pt"
    plain = write_checkpoint(tmp_path / "plain.pt", "fcn4s-lite0")
    panoptic = write_checkpoint(tmp_path / "panoptic.pt")
    other = write_checkpoint(tmp_path / "other.pt", table=ClassTable("two", CAMVID.entries[:2], (0, 1), (255,)))
    for arguments, reason in (
        ([str(plain)], "has no heads of objects"),
        ([str(panoptic), "--scenes", "0"], "nothing to train on"),
        ([str(other)], "painted scenes have the classes"),
    ):
        assert main([*arguments, "--out", str(out)]) == 2
        said = capsys.readouterr().err
        assert reason in said
        assert said.count("\n") == 1
    assert not out.exists()
