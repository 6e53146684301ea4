"""FCN-32s, 16s and 8s on VGG16: the published layers, and the published arithmetic written out a second time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.nets.upsampling import bilinear_kernel
from models.nets.vgg import BLOCKS, FCNVGG16, FUSIONS, LAST, MEAN_BGR, PADDING
from tests.networks import make_images, make_lively

BACKBONE = [
    *(f"conv{block}_{layer}" for block, (count, _) in enumerate(BLOCKS, 1) for layer in range(1, count + 1)),
    "fc6",
    "fc7",
    "score_fr",
]
PUBLISHED = {
    32: [*BACKBONE, "upscore"],
    16: [*BACKBONE, "score_pool4", "upscore2", "upscore16"],
    8: [*BACKBONE, "score_pool3", "score_pool4", "upscore2", "upscore8", "upscore_pool4"],
}
"""Layers of pytorch-fcn's FCN32s, FCN16s and FCN8s in the order of their state dicts."""
SHAPES = {
    "conv1_1": (64, 3, 3, 3),
    "conv1_2": (64, 64, 3, 3),
    "conv2_1": (128, 64, 3, 3),
    "conv3_3": (256, 256, 3, 3),
    "conv5_3": (512, 512, 3, 3),
    "fc6": (4096, 512, 7, 7),
    "fc7": (4096, 4096, 1, 1),
    "score_fr": (21, 4096, 1, 1),
    "score_pool3": (21, 256, 1, 1),
    "score_pool4": (21, 512, 1, 1),
    "upscore": (21, 21, 64, 64),
    "upscore2": (21, 21, 4, 4),
    "upscore16": (21, 21, 32, 32),
    "upscore8": (21, 21, 16, 16),
    "upscore_pool4": (21, 21, 4, 4),
}
"""Of some of their weights."""
FORMS = [(32, False), (16, False), (8, False), (8, True)]


def reference(weights: dict[str, Tensor], x: Tensor, *, at_once: bool) -> Tensor:
    """The published forward pass, from its layers' names alone; x is N x 3 x H x W, BGR, less the mean."""

    def convolve(name: str, x: Tensor, padding: int = 0) -> Tensor:
        return functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=padding)

    def upsample(name: str, x: Tensor, stride: int) -> Tensor:
        return functional.conv_transpose2d(x, weights[f"{name}.weight"], stride=stride)

    height, width = x.shape[2:]
    h = x
    h = functional.relu(convolve("conv1_1", h, 100))
    h = functional.max_pool2d(functional.relu(convolve("conv1_2", h, 1)), 2, ceil_mode=True)
    h = functional.relu(convolve("conv2_1", h, 1))
    h = functional.max_pool2d(functional.relu(convolve("conv2_2", h, 1)), 2, ceil_mode=True)
    h = functional.relu(convolve("conv3_2", functional.relu(convolve("conv3_1", h, 1)), 1))
    pool3 = h = functional.max_pool2d(functional.relu(convolve("conv3_3", h, 1)), 2, ceil_mode=True)
    h = functional.relu(convolve("conv4_2", functional.relu(convolve("conv4_1", h, 1)), 1))
    pool4 = h = functional.max_pool2d(functional.relu(convolve("conv4_3", h, 1)), 2, ceil_mode=True)
    h = functional.relu(convolve("conv5_2", functional.relu(convolve("conv5_1", h, 1)), 1))
    h = functional.max_pool2d(functional.relu(convolve("conv5_3", h, 1)), 2, ceil_mode=True)
    h = convolve("score_fr", functional.relu(convolve("fc7", functional.relu(convolve("fc6", h)))))
    if "upscore.weight" in weights:
        return upsample("upscore", h, 32)[:, :, 19 : 19 + height, 19 : 19 + width]
    h = upsample("upscore2", h, 2)
    skip = convolve("score_pool4", pool4 * 0.01 if at_once else pool4)
    h = h + skip[:, :, 5 : 5 + h.shape[2], 5 : 5 + h.shape[3]]
    if "upscore16.weight" in weights:
        return upsample("upscore16", h, 16)[:, :, 27 : 27 + height, 27 : 27 + width]
    h = upsample("upscore_pool4", h, 2)
    skip = convolve("score_pool3", pool3 * 0.0001 if at_once else pool3)
    h = h + skip[:, :, 9 : 9 + h.shape[2], 9 : 9 + h.shape[3]]
    return upsample("upscore8", h, 8)[:, :, 31 : 31 + height, 31 : 31 + width]


@pytest.mark.parametrize("finest", [32, 16, 8])
def test_layers_are_named_ordered_and_shaped_as_published(finest: int) -> None:
    """Published state dicts fit as they are; upsamplings have no bias."""
    with torch.device("meta"):
        state = FCNVGG16(21, finest=finest).state_dict()
    names = PUBLISHED[finest]
    expected = [f"{name}.{kind}" for name in names for kind in ("weight", "bias") if kind == "weight" or "up" not in name]
    assert list(state) == expected
    assert {name: tuple(state[f"{name}.weight"].shape) for name in names if name in SHAPES} == {
        name: shape for name, shape in SHAPES.items() if name in names
    }


@pytest.mark.parametrize(("finest", "millions"), [(32, 136.15), (16, 134.82), (8, 134.49)])
def test_the_published_size(finest: int, millions: float) -> None:
    """About 134 million parameters, a hundred of them in fc6."""
    with torch.device("meta"):
        net = FCNVGG16(21, finest=finest)
    assert sum(parameter.numel() for parameter in net.parameters()) == pytest.approx(millions * 1e6, abs=0.01e6)


@pytest.mark.parametrize(("finest", "at_once"), FORMS)
@pytest.mark.parametrize(("n", "height", "width"), [(1, 1, 1), (2, 37, 61), (1, 130, 47)])
def test_scores_are_those_of_the_published_forward_pass(finest: int, at_once: bool, n: int, height: int, width: int) -> None:
    """Any size goes in, and comes out; padding, poolings, crops and scales are the reference's."""
    net = make_lively(FCNVGG16(3, finest=finest, at_once=at_once, width=1 / 32))
    images = make_images(n, height, width)
    with torch.no_grad():
        expected = reference(net.state_dict(), images[:, [2, 1, 0]] - torch.tensor(MEAN_BGR).view(3, 1, 1), at_once=at_once)
        assert expected.shape == (n, 3, height, width)
        torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_at_full_width_the_scores_are_still_the_published_ones() -> None:
    """The real thing, with all its 134 million parameters."""
    net = make_lively(FCNVGG16(21))
    images = make_images(1, 90, 121)
    with torch.no_grad():
        expected = reference(net.state_dict(), images[:, [2, 1, 0]] - torch.tensor(MEAN_BGR).view(3, 1, 1), at_once=False)
        torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4)


def test_the_at_once_form_differs_by_the_scales_alone() -> None:
    """Same names, same shapes, other scores: only who asks knows which one a file is for."""
    staged, at_once = FCNVGG16(3, width=1 / 16), FCNVGG16(3, at_once=True, width=1 / 16)
    make_lively(staged)
    at_once.load_state_dict(staged.state_dict())
    images = make_images(1, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(staged(images), at_once.eval()(images), atol=1e-2)
        for name, scale in (("score_pool4", 1e-2), ("score_pool3", 1e-4)):
            layer = staged.get_submodule(name)
            assert isinstance(layer, nn.Conv2d)
            layer.weight *= scale
        torch.testing.assert_close(staged(images), at_once(images), rtol=1e-4, atol=1e-4)


def test_every_crop_follows_from_where_the_cells_lie() -> None:
    """A cell's centre in pixels is scale * i + shift; a crop is the distance of two first cells, in cells."""
    scale, shift = 1.0, 1.0 - PADDING  # conv1_1: its cell 0 is centred on pixel (3 - 1) / 2 - 100
    pools = {}
    for block in range(1, 6):
        scale, shift = 2 * scale, shift + scale / 2
        pools[block] = shift
    shift += 3 * scale  # fc6: 7 x 7 without padding
    start = {32: shift}
    for fusion in FUSIONS:
        scale, shift = scale / 2, shift - 1.5 * scale / 2  # kernel 4 at stride 2: cell i goes to 2i + 1.5
        assert (shift - pools[fusion.block]) / scale == fusion.crop
        start[int(scale)] = shift
    for stride, (_, crop) in LAST.items():
        assert -(start[stride] - (2 * stride - 1) / 2) == crop


def test_upsamplings_start_bilinear_and_score_layers_at_zero() -> None:
    """Section 4.3: nothing is known of the classes at first, and no class leaks into another."""
    net = FCNVGG16(3, width=1 / 16)
    weights = net.state_dict()
    for name, size in (("upscore2", 4), ("upscore_pool4", 4), ("upscore8", 16)):
        assert torch.equal(weights[f"{name}.weight"], torch.eye(3)[:, :, None, None] * bilinear_kernel(size))
    assert not any(weights[name].any() for name in weights if name.startswith("score"))


def test_activations_neither_grow_nor_fade_on_the_way() -> None:
    """Without pretrained weights the network still trains: fc7 is of the size of the pixels."""
    torch.manual_seed(0)
    net = FCNVGG16(3, width=1 / 8).eval()
    seen: list[Tensor] = []
    net.fc7.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad():
        net(make_images(1, 96, 96))
    assert 1 < float(seen[0].std()) < 1000


def test_other_strides_are_refused() -> None:
    """There is no FCN-4s on VGG16 in the paper."""
    with pytest.raises(ValueError, match="finest must be one of 32, 16, 8, not 4"):
        FCNVGG16(3, finest=4)
