"""Checkpoints: whole or not at all, and never a program."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from models import checkpoint
from models.checkpoint import CheckpointError
from models.fcn import FCN, FCNConfig

CONFIG = FCNConfig(classes=3, width=8, stride=4, smooth=True)


@pytest.fixture(scope="module")
def net() -> FCN:
    """A network with random weights."""
    torch.manual_seed(0)
    return FCN(CONFIG).eval()


def content_of(net: FCN) -> dict[str, Any]:
    """What the least checkpoint holds."""
    return {"config": net.config.to_dict(), "classes": "camvid", "weights": net.state_dict()}


@pytest.fixture
def file(tmp_path: Path, net: FCN) -> Path:
    """A checkpoint file."""
    path = tmp_path / "net.pt"
    checkpoint.save(path, content_of(net))
    return path


def test_a_network_comes_back_as_it_was(file: Path, net: FCN) -> None:
    """Same configuration, same tensors, ready to predict."""
    found = checkpoint.network(checkpoint.load(file))
    assert found.config == CONFIG
    assert not found.training
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in net.state_dict().items())


def test_a_failed_write_leaves_the_old_file(file: Path, tmp_path: Path) -> None:
    """The disk fills, the machine goes off, a value cannot be written: the last good checkpoint is still there, whole."""
    before = file.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        checkpoint.save(file, {"config": {}, "classes": "camvid", "weights": {"a": torch.zeros(9)}, "no": lambda: None})
    assert file.read_bytes() == before


def test_a_reader_never_sees_half_a_file(file: Path, net: FCN, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the new file is written the old one is whole; then the new one is."""
    seen = []
    write = torch.save

    def watched(content: object, path: Path) -> None:
        write(content, path)
        seen.append(checkpoint.load(file).get("epoch"))

    monkeypatch.setattr(torch, "save", watched)
    checkpoint.save(file, {**content_of(net), "epoch": 1})
    checkpoint.save(file, {**content_of(net), "epoch": 2})
    assert seen == [None, 1]
    assert checkpoint.load(file)["epoch"] == 2
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused_by_name(share: float, file: Path) -> None:
    """A copy that broke off is one sentence, wherever it broke off."""
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=r"net\.pt: not a readable checkpoint: .+"):
        checkpoint.load(file)


class Trap:
    """Runs a command as soon as it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("plain", [True, False])
def test_a_file_with_code_in_it_is_refused_and_the_code_does_not_run(plain: bool, tmp_path: Path) -> None:
    """A checkpoint from the internet is data; as a bare pickle or in torch's own form."""
    mark, path = tmp_path / "it-ran", tmp_path / "trap.pt"
    content = {"format": checkpoint.FORMAT, "config": {}, "classes": "camvid", "weights": Trap(mark)}
    if plain:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"trap\.pt: not a readable checkpoint"):
        checkpoint.load(path)
    assert not mark.exists()
    if plain:  # the trap works: whoever unpickles it without care runs it
        pickle.loads(path.read_bytes())
        assert mark.exists()


@pytest.mark.parametrize(
    "content", [[1, 2], {"weights": {}}, {"format": "another-1"}, {"format": checkpoint.FORMAT, "weights": {}}]
)
def test_another_program_s_file_is_refused(content: object, tmp_path: Path) -> None:
    """A readable file that is no checkpoint of ours, or lacks what every one of ours has."""
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt: not a checkpoint of models\.train"):
        checkpoint.load(tmp_path / "other.pt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """Not a traceback."""
    with pytest.raises(CheckpointError, match=r"nowhere\.pt: no such file"):
        checkpoint.load(tmp_path / "nowhere.pt")


@pytest.mark.parametrize(
    "changes", [{"classes": 4}, {"width": 16}, {"stride": 2}, {"attention": True}], ids=lambda changes: next(iter(changes))
)
def test_weights_that_do_not_fit_their_configuration_are_refused(changes: dict[str, Any], net: FCN) -> None:
    """Other shapes, a stride that there is not, a field of a later version: refused, never half loaded."""
    content = content_of(net)
    content["config"] |= changes
    with pytest.raises(CheckpointError, match="weights do not fit"):
        checkpoint.network(content)


def test_a_compact_checkpoint_holds_its_own_weights_exactly(net: FCN, tmp_path: Path) -> None:
    """Kernels are halved; loaded, saved and compacted again they do not change any more."""
    compact = checkpoint.compact(net.state_dict())
    checkpoint.save(tmp_path / "small.pt", {**content_of(net), "weights": compact})
    checkpoint.save(tmp_path / "whole.pt", content_of(net))
    assert (tmp_path / "small.pt").stat().st_size < 0.6 * (tmp_path / "whole.pt").stat().st_size
    loaded = checkpoint.network(checkpoint.load(tmp_path / "small.pt"))
    assert all(value.dtype in (torch.float32, torch.int64) for value in loaded.state_dict().values())
    assert all(torch.equal(value, loaded.state_dict()[name].to(value.dtype)) for name, value in compact.items())
    again = checkpoint.compact(loaded.state_dict())
    assert all(torch.equal(value, again[name]) for name, value in compact.items())
    assert torch.equal(loaded.mean, net.mean)
    with torch.no_grad():
        image = torch.rand(1, 3, 64, 64) * 255
        torch.testing.assert_close(loaded(image), net(image), rtol=0.01, atol=0.01)
