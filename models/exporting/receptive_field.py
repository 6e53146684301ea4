"""Stride, receptive field and halo of a network: computed from the network itself, not typed.

A pixel can change a score exactly where the score's derivative with respect to it is not zero. In a copy of the network whose
kernels are positive averages, without activations, whose maximum poolings are averages and whose unpoolings fill their
whole cells, no derivative can cancel, so the non-zero ones are the receptive field, whatever the network's skips, dilations and
crops. Channels behave alike, so every layer of the copy has one; rows and columns behave alike, so one dimension is enough.

May import: torch, ``models.nets.network``, ``models.nets.upsampling``.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nets.network import Network
from models.nets.upsampling import MaxPool, MaxUnpool, nearest


@dataclass(frozen=True)
class Reach:
    """How far a network sees."""

    receptive_field: int
    """Side in pixels of the smallest square that holds every pixel that some one score depends on."""
    halo: int
    """Pixels to add on each side of a tile so that the labels inside are those of the whole image; a multiple of the coarsest
    stride, the reach of the final bilinear upsampling included."""
    stride: int
    """Input pixels a score cell."""


def measure_reach(net: Network, *, length: int = 4096) -> Reach:
    """Measure a network.

    Takes:
        length: of the longest strip of pixels to look at; it must be longer than twice the reach
    Raises:
        ValueError: if the receptive field does not fit the strip: the network has a global operation, or sees very far
    """
    linear = _positive(net)
    tried = min(length, 1024)  # most networks fit, and time grows with it
    while (reach := _reach_within(linear, tried)) is None:
        if tried >= length:
            raise ValueError(f"the receptive field is larger than {length} pixels: is there a global operation in the network?")
        tried = min(2 * tried, length)
    return reach


def _reach_within(linear: Network, length: int) -> Reach | None:
    """The reach of a network's linear copy; None where it goes beyond a strip of this length."""
    coarsest = linear.coarsest
    length = -(-length // coarsest) * coarsest
    height = -(-linear.smallest // coarsest) * coarsest
    strip = torch.zeros(1, 3, height, length, requires_grad=True)
    scores = linear(strip)  # (1, 1, height/s, length/s)
    stride = length // scores.shape[3]
    middle = length // 2 // coarsest * (coarsest // stride)
    widest, reach = 0, 0
    for cell in range(middle, middle + coarsest // stride):  # every position within a cell of the coarsest map
        (gradient,) = torch.autograd.grad(scores[0, :, :, cell].sum(), strip, retain_graph=True)
        seen = torch.nonzero(gradient.sum((0, 1, 2))).flatten()
        first, last = int(seen[0]), int(seen[-1])
        if first == 0 or last == length - 1:
            return None
        widest = max(widest, last - first + 1)
        start = cell * stride
        reach = max(reach, start - first, last - (start + stride - 1))
    # Bilinear upsampling also reads the neighbouring cell.
    reach += stride if stride > 1 else 0
    return Reach(widest, -(-reach // coarsest) * coarsest, stride)


def _positive(net: Network) -> Network:
    """A linear copy, one channel wide, whose layers give positive weight to all that they read."""
    linear = copy.deepcopy(net, {id(p): p for p in net.parameters()})  # the weights are not looked at, so not copied
    for module in list(linear.modules()):
        for name, child in module.named_children():
            if (replacement := _linear(child)) is not None:
                setattr(module, name, replacement)
    return linear.eval().requires_grad_(False)


def _linear(layer: nn.Module) -> nn.Module | None:
    """What stands for a layer in the copy; None where it may stay, or holds layers itself."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        return _Spread(layer)
    if isinstance(layer, nn.MaxPool2d):
        return nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode)
    if isinstance(layer, MaxPool):
        return _Average()
    if isinstance(layer, MaxUnpool):
        return _Fill()
    return nn.Identity() if isinstance(layer, nn.BatchNorm2d | nn.ReLU | nn.ReLU6) else None


class _Spread(nn.Module):
    """A convolution's reach: one kernel of equal weights on the mean of the channels."""

    def __init__(self, layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        make = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.ConvTranspose2d
        size, stride, padding, dilation = layer.kernel_size, layer.stride, layer.padding, layer.dilation
        self.layer = make(1, 1, size, stride, padding, dilation=dilation, bias=False)  # type: ignore[arg-type]
        nn.init.constant_(self.layer.weight, 1 / self.layer.weight.numel())

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean(1, keepdim=True)
        # Whether, not how much: a product of a hundred small weights would end as zero.
        x.register_hook(torch.sign)  # type: ignore[no-untyped-call]
        return self.layer(x)  # type: ignore[no-any-return]


class _Average(nn.Module):
    """A pooling's reach, both as the value that goes on and as the switches."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled = F.avg_pool2d(x, 2)
        return pooled, pooled


class _Fill(nn.Module):
    """An unpooling's reach: any cell may be where the maximum was, and the pooled cells decide which."""

    def forward(self, x: Tensor, switches: Tensor) -> Tensor:
        return nearest(x + switches, 2)


def influences(net: Network, image: Tensor, pixel: tuple[int, int]) -> Tensor:
    """Which scores a pixel really changes: the check of the above by perturbation.

    Takes:
        image: 1 x 3 x H x W float, 0..255
        pixel: (row, column)
    Gives:
        h x w bool
    """
    changed = image.clone()
    changed[:, :, pixel[0], pixel[1]] = 255 - changed[:, :, pixel[0], pixel[1]]
    with torch.no_grad():
        differs: Tensor = net(changed) != net(image)
    return differs.any(1)[0]
