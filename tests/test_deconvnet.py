"""DeconvNet: the mirrored VGG16, its switches, and that no image of a batch touches another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.nets.deconvnet import DeconvNet
from models.nets.vgg import BLOCKS, MEAN_BGR
from tests.networks import make_images, make_lively

NARROW = 1 / 32
CHANNELS = [
    *[64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512],
    *[4096, 4096, 512],
    *[512, 512, 512, 512, 512, 256, 256, 256, 128, 128, 64, 64, 64],
]
"""Of every layer in the paper's table, conv1-1 to deconv1-2."""


def test_the_layers_are_the_papers() -> None:
    """Thirteen convolutions, fc6 and fc7, deconv-fc6, thirteen deconvolutions, one score layer; 252 million parameters."""
    with torch.device("meta"):
        net = DeconvNet(21)
    layers = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
    assert [layer.out_channels for layer in layers] == [*CHANNELS, 21]
    assert [type(layer) for layer in layers] == [nn.Conv2d] * 15 + [nn.ConvTranspose2d] * 14 + [nn.Conv2d]
    assert [layer.kernel_size[0] for layer in layers] == [3] * 13 + [7, 1, 7] + [3] * 13 + [1]
    assert sum(isinstance(module, nn.BatchNorm2d) for module in net.modules()) == len(layers) - 1
    assert sum(parameter.numel() for parameter in net.parameters()) == pytest.approx(252e6, rel=0.01)


def reference(net: DeconvNet, x: Tensor) -> Tensor:
    """The paper's forward pass with PyTorch's own pooling and unpooling."""
    names = iter([name for name, _ in net.named_children() if name.startswith(("conv", "deconv"))])
    x = x[:, [2, 1, 0]] - torch.tensor(MEAN_BGR).view(3, 1, 1)
    places: list[Tensor] = []
    for count, _ in BLOCKS:
        for _ in range(count):
            x = net.get_submodule(next(names))(x)
        x, where = functional.max_pool2d(x, 2, return_indices=True)
        places.append(where)
    x = net.fc6_deconv(net.fc7(net.fc6(x)))
    for (count, _), where in zip(reversed(BLOCKS), reversed(places), strict=True):
        x = functional.max_unpool2d(x, where, [2, 2])
        for _ in range(count):
            x = net.get_submodule(next(names))(x)
    assert next(names, None) is None
    scores: Tensor = net.seg_score(x)
    return scores


@pytest.mark.parametrize(("n", "height", "width"), [(1, 224, 224), (2, 224, 256)])
def test_scores_are_those_of_the_papers_forward_pass(n: int, height: int, width: int) -> None:
    """One score a pixel, at the trained size and at larger ones."""
    net = make_lively(DeconvNet(3, width=NARROW))
    images = make_images(n, height, width)
    with torch.no_grad():
        scores = net(images)
        assert scores.shape == (n, 3, height, width)
        torch.testing.assert_close(scores, reference(net, images), rtol=1e-4, atol=1e-4)
    assert float(scores.std()) > 1e-3


def test_at_the_trained_size_the_bottleneck_is_one_cell() -> None:
    """fc6 has no padding: 224 / 32 = 7 cells become one."""
    net = DeconvNet(3, width=NARROW).eval()
    seen: list[torch.Size] = []
    net.fc7.register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape[2:]))
    with torch.no_grad():
        net(make_images(1, 224, 288))
    assert seen == [(1, 3)]


def test_the_images_of_a_batch_do_not_touch_each_other() -> None:
    """Switches count within one plane: each image's scores are those that it has alone."""
    net = make_lively(DeconvNet(3, width=NARROW))
    images = make_images(2, 224, 224)
    with torch.no_grad():
        together = net(images)
        for index in range(2):
            torch.testing.assert_close(together[index : index + 1], net(images[index : index + 1]), rtol=1e-4, atol=1e-4)
