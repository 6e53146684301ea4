"""Published weights: every form in which they come loads completely, or is refused in one line that says why."""

from __future__ import annotations

import argparse
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.exporting.weights import load_weights, read_weights, recognise, start_from
from models.nets.architectures import ARCHITECTURES, build
from models.nets.network import Network
from models.nets.resnet import FCNResNet
from models.training import checkpoint
from models.training.checkpoint import CheckpointError

CLASSES = 3
NARROW = 1 / 32
VGG, RESNET = "fcn8s-vgg16", "fcn-resnet50"


def make_net(name: str, seed: int = 0) -> Network:
    """A narrow network of the family."""
    torch.manual_seed(seed)
    return build(name, CLASSES, width=1 if "lite" in name else NARROW)


def make_weights(name: str, seed: int = 1) -> dict[str, Tensor]:
    """A state dict of random numbers, other ones than :func:`make_net` starts from."""
    torch.manual_seed(seed)
    state = make_net(name).state_dict()
    return {key: torch.rand(value.shape) if value.is_floating_point() else value for key, value in state.items()}


def check_loaded(path: Path, name: str, weights: dict[str, Tensor]) -> None:
    """Every tensor of the file is in the network, and the network is ready to predict."""
    net = load_weights(make_net(name), name, path)
    assert not net.training
    assert all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if "lite" not in name])
def test_the_weights_of_every_architecture_load_by_name(name: str, tmp_path: Path) -> None:
    """Bare state dicts, as they are published."""
    weights = make_weights(name)
    torch.save(weights, tmp_path / "weights.pth")
    check_loaded(tmp_path / "weights.pth", name, weights)


WRAPPINGS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "torchvision's training script": lambda state: {
        "model": state,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.01, "params": [0, 1]}]},
        "lr_scheduler": {"last_epoch": 3},
        "epoch": 29,
        "args": argparse.Namespace(data_path="/data", lr=0.01, device="cuda", aux_loss=True),
    },
    "pytorch-fcn's trainer": lambda state: {
        "epoch": 12,
        "iteration": 90000,
        "arch": "FCN8s",
        "optim_state_dict": {"state": {}},
        "model_state_dict": state,
        "best_mean_iu": np.float64(0.655),
    },
    "state_dict and DataParallel": lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    "one in another": lambda state: {"model": {"state_dict": state}},
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS.keys())
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_what_training_scripts_write_loads(wrap: Callable[[dict[str, Tensor]], Any], zipped: bool, tmp_path: Path) -> None:
    """The state dict is found beside whatever lies there, in torch's file format of today and of 2017."""
    weights = make_weights(VGG)
    torch.save(wrap(weights), tmp_path / "checkpoint.pth.tar", _use_new_zipfile_serialization=zipped)
    check_loaded(tmp_path / "checkpoint.pth.tar", VGG, weights)


def test_safetensors_load(tmp_path: Path) -> None:
    """The same names, another file format."""
    weights = make_weights(RESNET)
    save_file(weights, tmp_path / "model.safetensors")
    check_loaded(tmp_path / "model.safetensors", RESNET, weights)


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    """A small file loads into the same network."""
    weights = make_weights(VGG)
    torch.save({key: value.half() for key, value in weights.items()}, tmp_path / "half.pth")
    state = load_weights(make_net(VGG), VGG, tmp_path / "half.pth").state_dict()
    assert all(value.dtype == torch.float32 for value in state.values())
    assert torch.equal(state["fc7.weight"], weights["fc7.weight"].half().float())


def test_counters_of_batch_normalisation_may_be_missing(tmp_path: Path) -> None:
    """No score depends on them, and old files have none."""
    weights = make_weights(RESNET)
    torch.save({key: value for key, value in weights.items() if "num_batches_tracked" not in key}, tmp_path / "old.pth")
    check_loaded(tmp_path / "old.pth", RESNET, weights)


def test_the_auxiliary_head_is_dropped_or_kept(tmp_path: Path) -> None:
    """Published files have it; serving drops it, and a network that has the head gets it."""
    torch.manual_seed(1)
    weights = FCNResNet(CLASSES, auxiliary=True, width=NARROW).state_dict()
    torch.save(weights, tmp_path / "published.pth")
    plain = load_weights(make_net(RESNET), RESNET, tmp_path / "published.pth").state_dict()
    assert not any(key.startswith("aux_classifier") for key in plain)
    kept = load_weights(FCNResNet(CLASSES, auxiliary=True, width=NARROW), RESNET, tmp_path / "published.pth").state_dict()
    assert all(torch.equal(kept[key], value) for key, value in weights.items())


def test_a_head_that_is_not_in_the_file_is_missing(tmp_path: Path) -> None:
    """A network with the auxiliary head is not left with half of its weights."""
    torch.save(make_weights(RESNET), tmp_path / "plain.pth")
    with pytest.raises(CheckpointError, match=r"missing: aux_classifier\.0\.weight, aux_classifier\.1\.weight"):
        load_weights(FCNResNet(CLASSES, auxiliary=True, width=NARROW), RESNET, tmp_path / "plain.pth")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_recognised_from_its_tensors(name: str) -> None:
    """At full width, whatever the number of classes; the two FCN-8s alone can't be told apart."""
    with torch.device("meta"):
        state = build(name, 21).state_dict()
    twins = ("fcn8s-vgg16", "fcn8s-vgg16-atonce")
    assert recognise(state) == (twins if name in twins else (name,))


def test_a_strangers_weights_are_nobodys() -> None:
    """A classifier's state dict is not taken for the nearest network of the family."""
    assert recognise(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 10)).state_dict()) == ()


def test_weights_of_another_network_are_refused_with_its_name(tmp_path: Path) -> None:
    """Not as a list of five hundred tensors."""
    torch.save(make_weights("fcn-resnet101"), tmp_path / "deep.pth")
    with pytest.raises(CheckpointError, match=r"deep\.pth: these are weights of fcn-resnet101, not of fcn-resnet50$"):
        load_weights(make_net(RESNET), RESNET, tmp_path / "deep.pth")
    torch.save(make_weights("fcn16s-vgg16"), tmp_path / "sixteen.pth")
    with pytest.raises(CheckpointError, match=r"these are weights of fcn16s-vgg16, not of fcn8s-vgg16$"):
        load_weights(make_net(VGG), VGG, tmp_path / "sixteen.pth")


@pytest.mark.parametrize("name", ["fcn8s-vgg16", "fcn8s-vgg16-atonce"])
def test_of_the_two_fcn8s_the_name_decides(name: str, tmp_path: Path) -> None:
    """The file fits both; who asks knows which it is."""
    weights = make_weights("fcn8s-vgg16")
    torch.save(weights, tmp_path / "fcn8s.pth")
    check_loaded(tmp_path / "fcn8s.pth", name, weights)


def test_missing_extra_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    """All three kinds at once, each with its names, and shapes where they differ."""
    weights = make_weights(VGG)
    del weights["conv3_2.bias"]
    weights["score_fr.weight"] = torch.zeros(21, 128, 1, 1)
    weights["dropped"] = torch.zeros(1)
    torch.save(weights, tmp_path / "wrong.pth")
    with pytest.raises(CheckpointError) as error:
        load_weights(make_net(VGG), VGG, tmp_path / "wrong.pth")
    assert str(error.value) == (
        f"{tmp_path / 'wrong.pth'}: these weights do not fit fcn8s-vgg16: missing: conv3_2.bias; too many: dropped; "
        "of another shape: score_fr.weight is 21x128x1x1, not 3x128x1x1"
    )


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    """Enough names to see what is wrong, and how many more there are."""
    weights = {key: value for key, value in make_weights(VGG).items() if not key.startswith("conv1")}
    weights = {key: value for key, value in weights.items() if not key.startswith(("conv2", "fc"))}
    torch.save(weights, tmp_path / "headless.pth")
    with pytest.raises(CheckpointError, match=r"missing: conv1_1\.weight, .* and 4 more$"):
        load_weights(make_net(VGG), VGG, tmp_path / "headless.pth")


def test_a_refused_file_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    """Completely or not at all."""
    weights = make_weights(VGG)
    del weights["upscore8.weight"]
    torch.save(weights, tmp_path / "partial.pth")
    net = make_net(VGG)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(CheckpointError):
        load_weights(net, VGG, tmp_path / "partial.pth")
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", ["fcn8s-vgg16", "fcn-resnet50"])
def test_weights_for_another_number_of_classes_are_told_as_that(name: str, tmp_path: Path) -> None:
    """Not as tensors of odd shapes: the error names the class table."""
    torch.save(build(name, 3, width=1 / 32).state_dict(), tmp_path / "three.pth")
    with pytest.raises(CheckpointError, match=r"three\.pth: these weights are for 3 classes, the class table has 4$"):
        load_weights(build(name, 4, width=1 / 32), name, tmp_path / "three.pth")


class Bomb:
    """Runs a command when it is unpickled by a reader that lets it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_code_in_a_pickle_is_refused_and_never_run(zipped: bool, tmp_path: Path) -> None:
    """Wherever it hides: here beside honest weights."""
    content = {"state_dict": make_weights(VGG), "callback": Bomb(tmp_path / "run")}
    torch.save(content, tmp_path / "bomb.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"bomb\.pth: holds more than tensors.*nothing was run"):
        read_weights(tmp_path / "bomb.pth")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_bare_pickle_is_refused_in_every_protocol(protocol: int, tmp_path: Path) -> None:
    """Pickled without torch, in protocols too that its unpickler does not know: refused for what it is, without a warning."""
    file = tmp_path / "bomb.pth"
    file.write_bytes(pickle.dumps({"state_dict": Bomb(tmp_path / "run")}, protocol=protocol))
    assert not checkpoint.is_ours(file)
    with pytest.raises(CheckpointError, match=r"holds more than tensors.*would have to be run.*it is refused, nothing was run"):
        read_weights(file)
    assert not (tmp_path / "run").exists()


def test_a_whole_pickled_network_is_refused_with_the_remedy(tmp_path: Path) -> None:
    """``torch.save(net)`` needs the network's own code to be read."""
    torch.save(nn.Conv2d(3, 8, 3), tmp_path / "whole.pth")
    with pytest.raises(
        CheckpointError, match=r"holds more than tensors.*Save the network's state_dict\(\) alone, by torch\.save$"
    ):
        read_weights(tmp_path / "whole.pth")


@pytest.mark.parametrize("kind", ["zip", "before 1.6", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_one_clear_line(kind: str, share: float, tmp_path: Path) -> None:
    """Wherever it breaks off."""
    path = tmp_path / ("cut.safetensors" if kind == "safetensors" else "cut.pth")
    if kind == "safetensors":
        save_file(make_weights(VGG), path)
    else:
        torch.save(make_weights(VGG), path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(CheckpointError, match=re.escape(f"{path}: not a readable ")) as error:
        read_weights(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [{}, [torch.zeros(3)], torch.zeros(3), {"epoch": 3, "net": {"conv.weight": torch.zeros(3)}}, {"model": "fcn8s"}],
    ids=["empty", "list", "tensor", "unknown wrapping", "name only"],
)
def test_a_file_without_a_state_dict_is_refused(content: Any, tmp_path: Path) -> None:
    """The error names the places that were searched."""
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="no state dict: neither tensors by name, nor any under model, state_dict"):
        read_weights(tmp_path / "other.pth")


def test_a_text_file_and_no_file_are_refused(tmp_path: Path) -> None:
    """A page that was saved instead of the weights, and a slip in the path."""
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><title>Google Drive - Virus scan warning</title>")
    with pytest.raises(CheckpointError, match=r"page\.pth: not a readable checkpoint"):
        read_weights(tmp_path / "page.pth")
    with pytest.raises(CheckpointError, match="no such file"):
        read_weights(tmp_path / "none.pth")


# --- weights to train on from ----------------------------------------------------------------------------------------


def check_started(net: Network, before: dict[str, Tensor], source: dict[str, Tensor], fresh: list[str]) -> None:
    """What is named as fresh is as it was, the rest is the source's."""
    state = net.state_dict()
    for name, value in state.items():
        assert torch.equal(value, before[name] if name in fresh else source[name]), name


def test_a_finer_network_starts_from_the_coarser_one(tmp_path: Path) -> None:
    """Section 4.2: FCN-8s from FCN-16s; the new skip's scores start at zero, the new upsamplings bilinear."""
    source = make_weights("fcn16s-vgg16")
    torch.save(source, tmp_path / "sixteen.pth")
    net = make_net(VGG)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fresh = start_from(net, tmp_path / "sixteen.pth")
    assert fresh == ["score_pool3.weight", "score_pool3.bias", "upscore8.weight", "upscore_pool4.weight"]
    check_started(net, before, source, fresh)


@pytest.mark.parametrize("name", [VGG, RESNET, "deconvnet-vgg16", "fcn8s-lite0"])
def test_a_checkpoint_for_other_classes_is_a_start(name: str, tmp_path: Path) -> None:
    """Everything but what has a plane for each class."""
    torch.manual_seed(1)
    width = 1.0 if "lite" in name else NARROW
    other = build(name, 11, width=width)
    content = {"architecture": name, "width": width, "classes": "camvid", "weights": other.state_dict()}
    checkpoint.save(tmp_path / "camvid.pt", content)
    net = make_net(name)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    fresh = start_from(net, tmp_path / "camvid.pt")
    assert 0 < len(fresh) <= 9
    assert {key.split(".")[0] for key in fresh} <= {
        *(
            "score_fr",
            "score_pool4",
            "score_pool3",
            "upscore2",
            "upscore_pool4",
            "upscore8",
            "classifier",
            "seg_score",
            "lateral",
        )
    }
    check_started(net, before, other.state_dict(), fresh)


def test_a_classifiers_resnet_is_a_start(tmp_path: Path) -> None:
    """torchvision's names: without ``backbone.``, and with a head that is not taken."""
    source = {key: value for key, value in make_weights(RESNET).items() if key.startswith("backbone.")}
    published = {key.removeprefix("backbone."): value for key, value in source.items()}
    torch.save({**published, "fc.weight": torch.zeros(1000, 64), "fc.bias": torch.zeros(1000)}, tmp_path / "resnet50.pth")
    net = make_net(RESNET)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    fresh = start_from(net, tmp_path / "resnet50.pth")
    assert {key.split(".")[0] for key in fresh} == {"classifier"}
    counters = {key: value for key, value in before.items() if key.endswith("num_batches_tracked")}
    check_started(net, before, {**counters, **source}, fresh)


VGG16_FEATURES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""The places of VGG16's convolutions among its layers, as published."""


def test_a_classifiers_vgg16_is_a_start(tmp_path: Path) -> None:
    """Its convolutions by their numbers; its two fully connected layers become convolutions (section 3.1)."""
    net = make_net(VGG)
    layers = [f"conv{block}_{layer}" for block, count in enumerate((2, 2, 3, 3, 3), 1) for layer in range(1, count + 1)]
    source = {key: torch.rand(value.shape) for key, value in net.state_dict().items() if key.startswith(net.pretrained)}
    published = {
        f"features.{place}.{kind}": source[f"{layer}.{kind}"]
        for place, layer in zip(VGG16_FEATURES, layers, strict=True)
        for kind in ("weight", "bias")
    }
    for theirs, ours in (("classifier.0", "fc6"), ("classifier.3", "fc7")):
        published[f"{theirs}.weight"] = source[f"{ours}.weight"].flatten(1)
        published[f"{theirs}.bias"] = source[f"{ours}.bias"]
    published["classifier.6.weight"], published["classifier.6.bias"] = torch.zeros(1000, 128), torch.zeros(1000)
    torch.save(published, tmp_path / "vgg16_from_caffe.pth")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    fresh = start_from(net, tmp_path / "vgg16_from_caffe.pth")
    assert all(key.startswith(("score", "upscore")) for key in fresh)
    check_started(net, before, source, fresh)


def test_weights_without_the_whole_classifier_cannot_be_a_start(tmp_path: Path) -> None:
    """What is missing or misshapen is named: half a pretrained network would train as if it were none."""
    torch.save(make_weights(RESNET), tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match=r"resnet\.pth: training can't start from these weights: missing: conv1_1\.w"):
        start_from(make_net(VGG), tmp_path / "resnet.pth")
    torch.manual_seed(0)
    with pytest.raises(CheckpointError, match=r"of another shape: backbone\.conv1\.weight is 2x3x7x7, not 4x3x7x7, "):
        start_from(build(RESNET, 3, width=1 / 16), tmp_path / "resnet.pth")
