"""The network that is shipped: complete, the one that was trained, as good as its card says, and as cheap."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.evaluate import evaluate, predictor_of
from models.exporting.receptive_field import measure_reach
from models.exporting.torch_parity import check_parity
from models.nets.panoptic import PanopticFCN
from models.scenes import street_scene
from models.training import checkpoint
from models.training.classes import CAMVID
from models.training.data import frame_pairs
from models.training.metrics import confusion_matrix, scores
from service.pipeline.codecs.decoding import Limits
from service.pipeline.manifest import Manifest
from service.pipeline.predictor import Predictor
from service.pipeline.repository import Repository

ROOT = Path(__file__).resolve().parent.parent
ARTIFACT = ROOT / "models" / "artifacts" / "fcn4s-lite0-streets.onnx"
CHECKPOINT = ROOT / "models" / "checkpoints" / "fcn4s-lite0-streets.pt"
CAMVID_VAL = ROOT.parent / "shared" / "camvid" / "val"
MOST_FLOP = 5.0e9
"""A frame's cost at the working size without the heads of objects, multiplications and additions counted apart."""
MOST_FOR_HEADS = 0.1
"""Share of that which the heads of objects may add."""


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """The service's pipeline with the shipped artifact."""
    return Predictor(Repository(ARTIFACT), Limits())


@pytest.fixture(scope="module")
def manifest(predictor: Predictor) -> Manifest:
    """What the artifact says of itself."""
    return predictor.repository.get().manifest


@pytest.fixture(scope="module")
def net() -> PanopticFCN:
    """The network that the artifact was made of."""
    found = checkpoint.network(checkpoint.load(CHECKPOINT))
    assert isinstance(found, PanopticFCN)
    return found


def test_the_manifest_is_complete(manifest: Manifest, net: PanopticFCN) -> None:
    """Name, classes, input, origin with its licence, scores, parity: and all of it true of the network."""
    assert manifest.name == ARTIFACT.stem
    assert manifest.architecture == f"{net.config.name}-panoptic" == "fcn4s-lite0-panoptic"
    assert manifest.learns_instances
    assert [row.name for row in manifest.classes if row.countable] == ["car", "pedestrian", "bicyclist"]
    assert manifest.description
    assert [(row.id, row.name, row.color) for row in manifest.classes] == [
        (row.id, row.name, row.color) for row in CAMVID.entries
    ]
    assert manifest.ignore_id not in range(len(manifest.classes))
    assert min(manifest.input.working_size) >= 360
    reach = measure_reach(net)
    assert (manifest.stride, manifest.receptive_field, manifest.halo) == (4, reach.receptive_field, reach.halo)
    training = manifest.training
    assert "CamVid" in training.data
    assert "CC BY-NC" in training.licence
    assert training.notes
    assert manifest.parity is not None
    assert manifest.parity.max_score_difference < 1e-3
    assert len(manifest.parity.shapes) >= 5
    camvid, elsewhere = manifest.scores["camvid-val"], manifest.scores["labelmefacade-val"]
    assert camvid.mean_iou >= 0.77
    assert set(camvid.iou) == set(CAMVID.names)
    assert elsewhere.mean_iou >= 0.74


def test_the_card_is_that_of_this_file() -> None:
    """Name, checksum, classes, origin."""
    text = ARTIFACT.with_suffix(".md").read_text("utf-8")
    assert text.startswith(f"# {ARTIFACT.stem} ")
    assert hashlib.sha256(ARTIFACT.read_bytes()).hexdigest() in text
    assert "CC BY-NC" in text
    assert all(name in text for name in CAMVID.names)


def test_the_artifact_is_what_its_checkpoint_computes(manifest: Manifest, net: PanopticFCN) -> None:
    """ONNX Runtime and PyTorch agree on streets and noise, at the working size, in batches, on other shapes."""
    parity = check_parity(net, ARTIFACT, manifest.input)
    assert parity.max_score_difference < 1e-3
    assert parity.argmax_agreement == 1


def test_a_frame_costs_at_most_five_gigaflop(manifest: Manifest, net: PanopticFCN) -> None:
    """Counted layer by layer at the working size; the heads of objects add at most a tenth."""
    spent: dict[str, int] = {}
    convolutions = {name: module for name, module in net.named_modules() if isinstance(module, nn.Conv2d)}

    def count(name: str, layer: nn.Conv2d, output: Tensor) -> None:
        spent[name] = 2 * output.numel() * layer.weight[0].numel()

    hooks = [
        layer.register_forward_hook(lambda layer, _inputs, output, name=name: count(name, layer, output))
        for name, layer in convolutions.items()
    ]
    with torch.no_grad():
        net(torch.zeros(1, 3, *manifest.input.working_size))
    for hook in hooks:
        hook.remove()
    assert spent.keys() == convolutions.keys()
    of_heads = sum(flop for name, flop in spent.items() if name.startswith("objects."))
    of_scores = sum(spent.values()) - of_heads
    assert of_scores <= MOST_FLOP
    assert 0 < of_heads <= MOST_FOR_HEADS * of_scores


def test_it_segments_generated_streets_sensibly(predictor: Predictor) -> None:
    """Scenes that a stranger without data can make: the large classes are found where they are.

    Measured: pixel accuracy 0.93; IoU of sky .96, road .97, building .88, car .86, tree .83.
    """
    confusion = np.zeros((11, 12), np.int64)
    for seed in range(8):
        image, truth = street_scene(360, 480, seed)
        confusion += confusion_matrix(truth, predictor.segment(image).labels, 11)
    found = scores(confusion, CAMVID.names)
    assert found.pixel_accuracy > 0.9
    large = {name: found.iou[name] or 0.0 for name in ("sky", "road", "building", "car", "tree")}
    assert min(large.values()) > 0.75, large
    assert large["sky"] > 0.9
    assert large["road"] > 0.9


@pytest.mark.slow
@pytest.mark.skipif(not CAMVID_VAL.is_dir(), reason="needs ../shared/camvid, which is not part of this repository")
def test_it_reaches_its_score_on_frames_that_it_never_saw(tmp_path: Path) -> None:
    """The shipped weights on every fourth of CamVid's validation frames: mean IoU 0.77 and more.

    Measured on all 101: 0.785.
    """
    assert checkpoint.load(CHECKPOINT)["splits"] == ["train"]
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    for image, label in frame_pairs(CAMVID_VAL)[::4]:
        (tmp_path / "images" / image.name).symlink_to(image.resolve())
        (tmp_path / "labels" / label.name).symlink_to(label.resolve())
    with ExitStack() as resources:
        found = evaluate(predictor_of(str(ARTIFACT), CAMVID, resources), tmp_path, CAMVID).scores
    assert found.frames == 26
    assert found.mean_iou >= 0.77
    assert found.pixel_accuracy >= 0.94
