"""Fitting the biases of the scores alone: shifted ones come back, the rest stays, what cannot be fitted is refused."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.nets.network import Network
from models.scenes.__main__ import main as write_scenes
from models.train_biases import Pixels, biases_of, fitted_biases, main
from models.training import checkpoint
from models.training.classes import CAMVID
from models.training.data import read_frames
from models.training.metrics import confusion_matrix, scores
from tests.test_train_heads import write_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two painted scenes."""
    folder = tmp_path_factory.mktemp("scenes")
    assert write_scenes(["--count", "2", "--size", "64x80", "--out", str(folder)]) == 0
    return folder


def mean_iou(scored: Tensor, labels: Tensor) -> float:
    """The mean IoU of the highest scores."""
    confusion = confusion_matrix(labels.numpy().astype(np.uint8)[None], scored.argmax(1).numpy().astype(np.uint8)[None], 4)
    return scores(confusion, ("a", "b", "c", "d")).mean_iou


def test_shifted_scores_come_back() -> None:
    """Labels drawn from the scores' own probabilities; classes that a shift favours are overclaimed until the fit."""
    generator = torch.Generator().manual_seed(0)
    right = torch.randn(20_000, 4, generator=generator) * 4
    labels = torch.multinomial(right.softmax(1), 1, generator=generator)[:, 0]
    shifted = right + torch.tensor([4.0, 0.0, 0.0, -3.0])
    found = shifted + fitted_biases([Pixels(shifted, labels)], steps=120, rate=0.2)
    assert mean_iou(shifted, labels) < mean_iou(right, labels) - 0.1
    assert mean_iou(found, labels) == pytest.approx(mean_iou(right, labels), abs=0.01)


@pytest.mark.parametrize("option", ["--data", "--partial"])
def test_only_the_biases_change(tmp_path: Path, scenes: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    """By the command: cross-entropy falls, other tensors stay, a temperature that was fitted is dropped, each class is told."""
    start, out = write_checkpoint(tmp_path / "start.pt"), tmp_path / "out.pt"
    assert main([str(start), option, str(scenes), "--steps", "20", "--lr", "0.1", "--out", str(out)]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(CAMVID.names)
    before, after = checkpoint.load(start), checkpoint.load(out)
    assert "calibration" not in after
    first, second = checkpoint.network(before), checkpoint.network(after)
    moved = [
        name
        for name, value in first.state_dict().items()
        if not torch.allclose(value, second.state_dict()[name], rtol=2e-3, atol=1e-4)  # kernels are in half precision
    ]
    assert moved == ["score.bias"]
    frame = next(read_frames(scenes, CAMVID, checkpoint.input_policy(before)))
    image, truth = torch.from_numpy(frame.image).permute(2, 0, 1)[None].float(), torch.from_numpy(frame.labels).long()[None]
    with torch.no_grad():
        wrong, less = (
            nn.functional.cross_entropy(nn.functional.interpolate(net.scores(image), size=truth.shape[1:]), truth)
            for net in (first, second)
        )
    assert less < wrong


def test_what_cannot_be_fitted_is_one_line_and_status_2(
    tmp_path: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No folder, and a folder that is none."""
    start = write_checkpoint(tmp_path / "start.pt")
    for arguments, reason in (([], "nothing to fit on"), (["--data", str(tmp_path / "none")], "no images")):
        assert main([str(start), *arguments, "--out", str(tmp_path / "out.pt")]) == 2
        said = capsys.readouterr().err
        assert reason in said
        assert "Traceback" not in said
    assert not (tmp_path / "out.pt").exists()


def test_a_network_without_a_layer_of_scores_is_refused() -> None:
    """Scores that are a sum of layers have no biases of their own."""
    with pytest.raises(checkpoint.CheckpointError, match="no layer of scores"):
        biases_of(cast(Network, nn.Identity()), Path("other.pt"))
