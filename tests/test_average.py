"""Mixing checkpoints: the arithmetic, the command, what cannot be mixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from models.average import main, mixed
from models.nets.architectures import build
from models.training import checkpoint
from models.training.classes import CAMVID


def content(architecture: str, seed: int) -> dict[str, Any]:
    """A checkpoint of random weights."""
    torch.manual_seed(seed)
    weights = build(architecture, 11).state_dict()
    told = {"architecture": architecture, "width": 1.0, "classes": CAMVID.to_json(), "working_size": [64, 80], "epoch": seed}
    return {**told, "weights": weights}


def test_a_mix_is_the_weighted_mean_tensor_by_tensor() -> None:
    """Shares need not add up to one; counters are taken from the first; what one alone has stays as it is."""
    plain, panoptic = content("fcn4s-lite0", 1), content("fcn4s-lite0-panoptic", 2)
    found = mixed([panoptic, plain], [3.0, 1.0])
    assert found.keys() == panoptic["weights"].keys()
    for name, value in panoptic["weights"].items():
        other = plain["weights"].get(name)
        if other is None or not value.is_floating_point():
            assert torch.equal(found[name], value), name
        else:
            torch.testing.assert_close(found[name], 0.75 * value + 0.25 * other)


def test_the_command_writes_a_checkpoint_of_the_first(tmp_path: Path) -> None:
    """With its architecture and classes, in half precision as training writes it, and it loads."""
    for name, seed in (("a", 1), ("b", 2)):
        checkpoint.save(tmp_path / f"{name}.pt", content("fcn4s-lite0", seed))
    assert main([f"{tmp_path}/a.pt=0.5", f"{tmp_path}/b.pt=0.5", "--out", str(tmp_path / "mix.pt")]) == 0
    mix = checkpoint.load(tmp_path / "mix.pt")
    assert (mix["architecture"], mix["epoch"]) == ("fcn4s-lite0", 1)
    first, second, both = (checkpoint.network(checkpoint.load(tmp_path / f"{name}.pt")) for name in ("a", "b", "mix"))
    expected = (first.state_dict()["score.weight"] + second.state_dict()["score.weight"]) / 2
    torch.testing.assert_close(both.state_dict()["score.weight"], expected, rtol=1e-3, atol=1e-3)


def test_a_mix_has_no_calibration(tmp_path: Path) -> None:
    """The first one's temperature was measured on other weights."""
    checkpoint.save(tmp_path / "a.pt", {**content("fcn4s-lite0", 1), "calibration": {"temperature": 2.0}})
    checkpoint.save(tmp_path / "b.pt", content("fcn4s-lite0", 2))
    assert main([f"{tmp_path}/a.pt=0.5", f"{tmp_path}/b.pt=0.5", "--out", str(tmp_path / "mix.pt")]) == 0
    assert "calibration" not in checkpoint.load(tmp_path / "mix.pt")


@pytest.mark.parametrize("more", [["nowhere.pt=1"], ["a.pt=much"]], ids=["missing", "share"])
def test_what_cannot_be_mixed_is_one_line_and_status_2(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written."""
    checkpoint.save(tmp_path / "a.pt", content("fcn4s-lite0", 1))
    assert main([*(f"{tmp_path}/{part}" for part in more), "--out", str(tmp_path / "mix.pt")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "mix.pt").exists()


def test_networks_of_unlike_shapes_are_not_mixed() -> None:
    """Naming the first tensor that differs."""
    with pytest.raises(checkpoint.CheckpointError, match=r"has unlike shapes: \("):
        mixed([content("fcn4s-lite0", 1), content("fcn4s-lite2", 1)], [1.0, 1.0])
