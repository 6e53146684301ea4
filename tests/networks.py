"""Networks for tests: random weights that let something be seen in the scores."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from models.nets.network import Network

NetworkT = TypeVar("NetworkT", bound=Network)


def make_lively(net: NetworkT, seed: int = 0) -> NetworkT:
    """Give a new network weights with which its scores differ from place to place and are neither huge nor tiny.

    Score layers, which start at zero, become random; batch normalisation takes its statistics from noise.

    Gives:
        the network, ready to predict
    """
    torch.manual_seed(seed)
    for name, module in net.named_modules():
        if name.startswith("score_") and isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.05 / module.weight.shape[1] ** 0.5)
            assert module.bias is not None
            nn.init.normal_(module.bias)
        if isinstance(module, nn.ConvTranspose2d):
            module.weight.data += 0.02 * torch.randn_like(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.normal_(module.bias, std=0.2)
    if any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
        side = max(net.smallest, 64) + 32
        with torch.no_grad():
            net.train()(make_images(2, side, side))
    return net.eval()


def make_images(n: int, height: int, width: int, seed: int = 1) -> Tensor:
    """N x 3 x H x W float, RGB 0..255: noise over a slope, so that near and far differ."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(n, 3, height, width, generator=generator) * 128
    return (noise + torch.linspace(0, 127, height)[:, None]).round()
