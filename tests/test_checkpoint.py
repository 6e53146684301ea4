"""Checkpoints: whole or not at all, and never a program."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from models.nets.architectures import ARCHITECTURES, build
from models.nets.fcn import FCN, FCNConfig
from models.nets.network import AUXILIARY, Network
from models.nets.resnet import FCNResNet
from models.training import checkpoint
from models.training.checkpoint import CheckpointError
from models.training.classes import CAMVID

NARROW = 1 / 32
CHECKPOINTS = Path(__file__).resolve().parents[1] / "models" / "checkpoints"


def make_net(name: str) -> Network:
    """A network of the family for CamVid, narrow where it can be, with random weights."""
    torch.manual_seed(0)
    return build(name, 11, width=1 if "lite" in name else NARROW).eval()


@pytest.fixture(scope="module")
def net() -> Network:
    """A network with random weights, normalisation included."""
    return make_net("fcn-resnet50")


def content_of(net: Network, name: str = "fcn-resnet50") -> dict[str, Any]:
    """What the least checkpoint holds."""
    width = 1.0 if "lite" in name else NARROW
    return {"architecture": name, "width": width, "classes": CAMVID.to_json(), "weights": net.state_dict()}


@pytest.fixture
def file(tmp_path: Path, net: Network) -> Path:
    """A checkpoint file."""
    path = tmp_path / "net.pt"
    checkpoint.save(path, content_of(net))
    return path


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name.endswith(("lite1", "lite2")) else ())
        for name in ARCHITECTURES
        if name not in ("fcn-resnet101", "deconvnet-vgg16")
    ],
)
def test_a_network_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    """Of whatever architecture: same name, same classes, same tensors, ready to predict."""
    net = make_net(name)
    checkpoint.save(tmp_path / "net.pt", content_of(net, name))
    content = checkpoint.load(tmp_path / "net.pt")
    found = checkpoint.network(content)
    assert content["architecture"] == name
    assert checkpoint.class_table(content) == CAMVID
    assert type(found) is type(net)
    assert not found.training
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", ["fcn4s-lite0-camvid", "fcn4s-lite0-camvid-train-only"])
def test_checkpoints_of_the_older_form_still_load(name: str) -> None:
    """Those of this repository: the network that they describe by its fields, by the name that it has now."""
    content = checkpoint.load(CHECKPOINTS / f"{name}.pt")
    net = checkpoint.network(content)
    assert (content["architecture"], content["width"]) == ("fcn4s-lite0", 1.0)
    assert checkpoint.class_table(content) == CAMVID
    assert isinstance(net, FCN)
    assert net.config == FCNConfig(stride=4, width=48, context=3, smooth=True)
    assert net.config == build("fcn4s-lite0", 11).config  # so it can be trained on


def test_an_older_network_outside_of_the_family_still_loads(tmp_path: Path) -> None:
    """Its fields say what it is; those of another version are refused by name."""
    net = FCN(FCNConfig(classes=3, width=8, refine=1))
    content = {"config": net.config.to_dict(), "classes": "camvid", "weights": net.state_dict()}
    torch.save({"format": checkpoint.OLDER_FORMAT, **content}, tmp_path / "older.pt")
    found = checkpoint.network(checkpoint.load(tmp_path / "older.pt"))
    assert isinstance(found, FCN)
    assert found.config == net.config
    content["config"] = {**net.config.to_dict(), "attention": True}
    torch.save({"format": checkpoint.OLDER_FORMAT, **content}, tmp_path / "older.pt")
    with pytest.raises(CheckpointError, match=r"older\.pt: of a network that this version does not know: .*attention"):
        checkpoint.load(tmp_path / "older.pt")


def test_the_auxiliary_head_is_not_needed_to_predict(tmp_path: Path) -> None:
    """A checkpoint of a run under way has it; the network that predicts does not."""
    net = FCNResNet(11, auxiliary=True, width=NARROW)
    checkpoint.save(tmp_path / "last.pt", content_of(net))
    found = checkpoint.network(checkpoint.load(tmp_path / "last.pt"))
    assert not any(name.startswith(AUXILIARY) for name in found.state_dict())


def test_a_failed_write_leaves_the_old_file(file: Path, tmp_path: Path) -> None:
    """The disk fills, the machine goes off, a value cannot be written: the last good checkpoint is still there, whole."""
    before = file.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        checkpoint.save(file, {"config": {}, "classes": "camvid", "weights": {"a": torch.zeros(9)}, "no": lambda: None})
    assert file.read_bytes() == before


def test_a_reader_never_sees_half_a_file(file: Path, net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
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
    content = {"format": checkpoint.FORMAT, "architecture": "x", "width": 1, "classes": "camvid", "weights": Trap(mark)}
    if plain:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"trap\.pt: not a readable checkpoint"):
        checkpoint.load(path)
    assert not mark.exists()
    if plain:  # the trap works: unpickling it without care runs it
        pickle.loads(path.read_bytes())
        assert mark.exists()


@pytest.mark.parametrize(
    "content", [[1, 2], {"weights": {}}, {"format": "another-1"}, {"format": checkpoint.FORMAT, "weights": {}}]
)
def test_another_program_s_file_is_refused(content: object, tmp_path: Path) -> None:
    """A readable file that is not a checkpoint of ours, or lacks what every one of ours has."""
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt: not a checkpoint of models\.train"):
        checkpoint.load(tmp_path / "other.pt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """Not a traceback."""
    with pytest.raises(CheckpointError, match=r"nowhere\.pt: no such file"):
        checkpoint.load(tmp_path / "nowhere.pt")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"classes": "voc"}, r"weights do not fit fcn-resnet50: .*"),
        ({"width": 1 / 16}, r"weights do not fit fcn-resnet50: .*"),
        ({"architecture": "fcn-resnet101"}, r"weights do not fit fcn-resnet101: .*"),
        ({"architecture": "fcn-resnet18"}, r"weights do not fit fcn-resnet18: no architecture 'fcn-resnet18'; there are: .*"),
        ({"classes": "{}"}, r"the checkpoint's classes: no class table: classes: Field required"),
    ],
)
def test_weights_that_do_not_fit_what_is_told_are_refused(changes: dict[str, Any], reason: str, net: Network) -> None:
    """Other shapes, another depth, a network that there is not, classes that are none: refused, never half loaded."""
    with pytest.raises(CheckpointError, match=rf"(?s)^{reason}$"):
        checkpoint.network(content_of(net) | changes)


def test_a_compact_checkpoint_holds_its_own_weights_exactly(tmp_path: Path) -> None:
    """Kernels are halved; loaded, saved and compacted again they do not change any more."""
    net = make_net("fcn8s-lite0")
    assert isinstance(net, FCN)
    compact = checkpoint.compact(net.state_dict())
    checkpoint.save(tmp_path / "small.pt", {**content_of(net, "fcn8s-lite0"), "weights": compact})
    checkpoint.save(tmp_path / "whole.pt", content_of(net, "fcn8s-lite0"))
    assert (tmp_path / "small.pt").stat().st_size < 0.6 * (tmp_path / "whole.pt").stat().st_size
    loaded = checkpoint.network(checkpoint.load(tmp_path / "small.pt"))
    assert all(value.dtype in (torch.float32, torch.int64) for value in loaded.state_dict().values())
    assert all(torch.equal(value, loaded.state_dict()[name].to(value.dtype)) for name, value in compact.items())
    again = checkpoint.compact(loaded.state_dict())
    assert all(torch.equal(value, again[name]) for name, value in compact.items())
    assert isinstance(loaded, FCN)
    assert torch.equal(loaded.mean, net.mean)
    with torch.no_grad():
        image = torch.rand(1, 3, 64, 64) * 255
        torch.testing.assert_close(loaded(image), net(image), rtol=0.01, atol=0.01)
