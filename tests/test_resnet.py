"""FCN on ResNet: the published names, sizes and arithmetic written out a second time, and torchvision itself where it is."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.nets.resnet import MEAN, STD, FCNResNet
from service.pipeline.tasks.semantic import label_map
from tests.networks import make_images, make_lively

DEPTHS = pytest.mark.parametrize("depth", [50, 101])


BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""He et al., table 1."""
PARAMETERS = {50: 35_322_218, 101: 54_314_346}
"""What torchvision's table of weights says of ``fcn_resnet50`` and ``fcn_resnet101``, the auxiliary head included."""
SPACING = {"layer1": (1, 1, 1), "layer2": (2, 1, 1), "layer3": (1, 1, 2), "layer4": (1, 2, 4)}
"""Of each stage: its stride, the dilation of its first block, that of the others."""


def published_shapes(depth: int) -> dict[str, tuple[int, ...]]:
    """The published state dict, tensor by tensor: names in their order, with their shapes."""
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, inputs: int, outputs: int, kernel: int) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs, kernel, kernel)

    def normalisation(name: str, channels: int) -> None:
        for kind in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{kind}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    convolution("backbone.conv1", 3, 64, 7)
    normalisation("backbone.bn1", 64)
    inputs = 64
    for stage, (count, inner) in enumerate(zip(BLOCKS[depth], (64, 128, 256, 512), strict=True), 1):
        for block in range(count):
            name = f"backbone.layer{stage}.{block}"
            sizes = ((inputs, inner, 1), (inner, inner, 3), (inner, 4 * inner, 1))
            for layer, (wide, narrow, kernel) in enumerate(sizes, 1):
                convolution(f"{name}.conv{layer}", wide, narrow, kernel)
                normalisation(f"{name}.bn{layer}", narrow)
            if block == 0:
                convolution(f"{name}.downsample.0", inputs, 4 * inner, 1)
                normalisation(f"{name}.downsample.1", 4 * inner)
            inputs = 4 * inner
    for head, channels in (("classifier", 2048), ("aux_classifier", 1024)):
        convolution(f"{head}.0", channels, channels // 4, 3)
        normalisation(f"{head}.1", channels // 4)
        convolution(f"{head}.4", channels // 4, 21, 1)
        shapes[f"{head}.4.bias"] = (21,)
    return shapes


def reference(weights: dict[str, Tensor], x: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """The published forward pass, from its layers' names alone.

    Takes:
        x: N x 3 x H x W, normalised
    Gives:
        the scores and the auxiliary ones, at stride 8
    """

    def convolve(name: str, x: Tensor, *, stride: int = 1, dilation: int = 1) -> Tensor:
        kernel = weights[f"{name}.weight"]
        return functional.conv2d(x, kernel, None, stride, kernel.shape[2] // 2 * dilation, dilation)

    def normalise(name: str, x: Tensor) -> Tensor:
        mean, variance, scale, shift = (
            weights[f"{name}.{kind}"].view(-1, 1, 1) for kind in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * scale + shift

    x = torch.relu(normalise("backbone.bn1", convolve("backbone.conv1", x, stride=2)))
    x = functional.max_pool2d(x, 3, 2, 1)
    stages = {}
    for (stage, (stride, first, others)), count in zip(SPACING.items(), BLOCKS[depth], strict=True):
        for block in range(count):
            name = f"backbone.{stage}.{block}"
            step, dilation = (stride, first) if block == 0 else (1, others)
            y = torch.relu(normalise(f"{name}.bn1", convolve(f"{name}.conv1", x)))
            y = torch.relu(normalise(f"{name}.bn2", convolve(f"{name}.conv2", y, stride=step, dilation=dilation)))
            y = normalise(f"{name}.bn3", convolve(f"{name}.conv3", y))
            if block == 0:
                x = normalise(f"{name}.downsample.1", convolve(f"{name}.downsample.0", x, stride=step))
            x = torch.relu(y + x)
        stages[stage] = x

    def head(name: str, x: Tensor) -> Tensor:
        return convolve(f"{name}.4", torch.relu(normalise(f"{name}.1", convolve(f"{name}.0", x)))) + weights[
            f"{name}.4.bias"
        ].view(-1, 1, 1)

    return head("classifier", stages["layer4"]), head("aux_classifier", stages["layer3"])


@DEPTHS
def test_names_order_and_shapes_are_the_published_ones(depth: int) -> None:
    """As torchvision's files have them; so is the number of parameters."""
    with torch.device("meta"):
        net = FCNResNet(21, depth=depth, auxiliary=True)
    expected = published_shapes(depth)
    assert [(name, tuple(value.shape)) for name, value in net.state_dict().items()] == list(expected.items())
    assert sum(parameter.numel() for parameter in net.parameters()) == PARAMETERS[depth]


@DEPTHS
@pytest.mark.parametrize(("n", "height", "width"), [(1, 65, 97), (2, 40, 24)])
def test_scores_are_those_of_the_published_forward_pass(depth: int, n: int, height: int, width: int) -> None:
    """Both heads', on odd sizes and in batches."""
    net = make_lively(FCNResNet(5, depth=depth, auxiliary=True, width=1 / 16))
    images = make_images(n, height, width)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = reference(net.state_dict(), (images / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1), depth)
        for found, wanted in zip(net.both(images), expected, strict=True):
            assert found.shape == (n, 5, -(-height // 8), -(-width // 8))
            assert float(wanted.std()) > 0.05
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


# --- torchvision itself ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> Iterator[Any]:
    """``torchvision.models.segmentation``.

    Its wheel is built for torch with CUDA. Beside torch for the CPU its compiled operators do not load, and then its import
    fails, because it describes two of them that are not there. None of the networks uses them: they need to be known, not to
    work. It is not part of the locked set, because its wheels ask for torch's CUDA build.
    """
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("the oracle is not installed: pip install --no-deps torchvision==0.28.0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        operators = None
        try:
            importlib.import_module("torchvision")
        except RuntimeError:
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
            operators = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
            for name in ("nms", "qnms"):
                schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                operators.define(schema)  # type: ignore[no-untyped-call]
            importlib.import_module("torchvision")
        segmentation = importlib.import_module("torchvision.models.segmentation")
    yield segmentation
    del operators  # they are known as long as this lives


def make_published(published: Any, depth: int, *, auxiliary: bool) -> nn.Module:
    """torchvision's network, without weights from the net."""
    make = {50: published.fcn_resnet50, 101: published.fcn_resnet101}[depth]
    net: nn.Module = make(weights=None, weights_backbone=None, num_classes=21, aux_loss=auxiliary)
    return net.eval()


@DEPTHS
@pytest.mark.parametrize("auxiliary", [False, True])
def test_names_order_and_shapes_are_torchvisions(published: Any, depth: int, auxiliary: bool) -> None:
    """Its state dicts fit as they are, with the auxiliary head and without."""
    with torch.device("meta"):
        theirs = make_published(published, depth, auxiliary=auxiliary).state_dict()
        ours = FCNResNet(21, depth=depth, auxiliary=auxiliary).state_dict()
    assert [(name, value.shape) for name, value in ours.items()] == [(name, value.shape) for name, value in theirs.items()]


Pair = tuple[FCNResNet, nn.Module]


def make_pair(published: Any, depth: int) -> Pair:
    """Ours and torchvision's, with the same random weights."""
    net = make_lively(FCNResNet(21, depth=depth, auxiliary=True))
    theirs = make_published(published, depth, auxiliary=True)
    theirs.load_state_dict(net.state_dict())
    return net, theirs


@pytest.fixture(scope="module")
def pair(published: Any) -> Pair:
    """The smaller of the two."""
    return make_pair(published, 50)


def check_scores(net: FCNResNet, theirs: nn.Module) -> None:
    """Both heads' scores, bilinearly upsampled to the image, are torchvision's."""
    images = make_images(1, 65, 97)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = theirs((images / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1))
        scores, auxiliary = net.both(images)
        assert torch.equal(net(images), scores)
    assert scores.shape == (1, 21, 9, 13)
    for found, name in ((scores, "out"), (auxiliary, "aux")):
        raised = functional.interpolate(found, size=images.shape[2:], mode="bilinear", align_corners=False)
        assert float(raised.std()) > 0.1
        torch.testing.assert_close(raised, expected[name], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_upsampled_scores_are_torchvisions(pair: Pair) -> None:
    """With the same weights: leaving out the last upsampling is all that differs."""
    check_scores(*pair)


@pytest.mark.slow
def test_the_deeper_networks_scores_are_torchvisions_too(published: Any) -> None:
    """101 layers."""
    check_scores(*make_pair(published, 101))


@pytest.mark.slow
def test_the_services_labels_are_torchvisions_argmax(pair: Pair) -> None:
    """Leaving out the last upsampling loses nothing: the service does it, and takes the same winner wherever there is one."""
    net, theirs = pair
    image = make_images(1, 71, 104)
    with torch.no_grad():
        expected = theirs((image - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))["out"][0]
        labels = label_map(np.ascontiguousarray(net(image)[0].numpy()), (71, 104))
    best, second = expected.topk(2, dim=0).values
    clear = (best - second > 1e-3).numpy()
    assert clear.mean() > 0.99
    assert (labels == expected.argmax(0).numpy())[clear].all()
    assert len(np.unique(labels)) > 3


def test_the_constants_are_torchvisions() -> None:
    """Of pixels 0..255, where torchvision divides by 255 first."""
    assert pytest.approx([0.485 * 255, 0.456 * 255, 0.406 * 255]) == MEAN
    assert pytest.approx([0.229 * 255, 0.224 * 255, 0.225 * 255]) == STD


@pytest.mark.parametrize(("height", "width"), [(1, 1), (17, 64), (63, 33)])
def test_any_size_gives_a_score_for_every_eight_pixels(height: int, width: int) -> None:
    """Rounded up."""
    net = FCNResNet(3, width=1 / 16).eval()
    with torch.no_grad():
        assert net(make_images(2, height, width)).shape == (2, 3, -(-height // 8), -(-width // 8))


def test_the_last_stages_dilate_where_others_stride() -> None:
    """Stride 8 throughout: a first block keeps the spacing of the stage before it, the rest dilate by 2 and 4."""
    backbone = FCNResNet(3, width=1 / 16).backbone
    found = [
        [layer.conv2.dilation[0] for layer in stage]  # type: ignore[union-attr, index]
        for stage in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4)
    ]
    assert found == [[1] * 3, [1] * 4, [1] + [2] * 5, [2, 4, 4]]


def test_the_auxiliary_head_must_be_asked_for() -> None:
    """Serving never needs it."""
    with pytest.raises(ValueError, match="auxiliary=True"):
        FCNResNet(3, width=1 / 16).both(make_images(1, 32, 32))


def test_other_depths_are_refused() -> None:
    """Published are two."""
    with pytest.raises(ValueError, match="depth must be one of 50, 101, not 34"):
        FCNResNet(3, depth=34)
