"""Stride, receptive field and halo of a network: computed from the network itself, not typed.

A pixel can change a score exactly where the score's derivative with respect to it is not zero. The network is copied with
kernels that are positive averages, average poolings, unpoolings that fill their whole cells, and no activations. There no
derivative can cancel, so the non-zero ones are the receptive field, whatever the skips, dilations and crops. Channels behave
alike, so every layer of the copy has one; all sides behave alike, so one long side is enough.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.exporting.folding import Convolution, Normalisation
from models.nets.network import Network
from models.nets.upsampling import MaxPool, MaxUnpool, nearest


@dataclass(frozen=True)
class Reach:
    """The reach of a network."""

    receptive_field: int
    """Side in pixels of the smallest square that holds every pixel that some one score depends on."""
    halo: int
    """Pixels to add on each side of a tile so that the labels inside are those of the whole image; a multiple of the coarsest
    stride, the reach of the final bilinear upsampling included."""
    strides: tuple[int, ...]
    """Input pixels a cell of each output, the scores first."""


def measure_reach(net: Network, *, length: int = 4096) -> Reach:
    """Measure a network.

    Takes:
        length: of the longest strip of pixels that is tried; it must be longer than twice the reach
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
    others = (-(-linear.smallest // coarsest) * coarsest,) * (linear.dimensions - 1)
    strip = torch.zeros(1, linear.channels, *others, length, requires_grad=True)
    answer = linear(strip)
    outputs = [answer] if isinstance(answer, Tensor) else list(answer)  # each 1 x 1 x cells, the scores first
    strides = [length // output.shape[-1] for output in outputs]
    widest, reach = 0, 0
    for output, stride in zip(outputs, strides, strict=True):
        middle = length // 2 // coarsest * (coarsest // stride)
        for cell in range(middle, middle + coarsest // stride):  # every position within a cell of the coarsest map
            (gradient,) = torch.autograd.grad(output[..., cell].sum(), strip, retain_graph=True)
            seen = torch.nonzero(gradient.flatten(0, -2).sum(0)).flatten()
            first, last = int(seen[0]), int(seen[-1])
            if first == 0 or last == length - 1:
                return None
            if output is outputs[0]:
                widest = max(widest, last - first + 1)
            start = cell * stride
            upsampled = stride if stride > 1 else 0  # bilinear upsampling also reads the next cell
            reach = max(reach, start - first + upsampled, last - (start + stride - 1) + upsampled)
    return Reach(widest, -(-reach // coarsest) * coarsest, tuple(strides))


def _positive(net: Network) -> Network:
    """A linear copy, one channel wide, whose layers give positive weight to all that they read."""
    linear = copy.deepcopy(net, {id(p): p for p in net.parameters()})  # the weights are not used, so not copied
    for module in list(linear.modules()):
        for name, child in module.named_children():
            if (replacement := _linear(child)) is not None:
                setattr(module, name, replacement)
    return linear.eval().requires_grad_(False)


def _linear(layer: nn.Module) -> nn.Module | None:
    """The layer's replacement in the copy; None where it may stay, or holds layers itself."""
    if isinstance(layer, Convolution):
        return _Spread(layer)
    if isinstance(layer, nn.MaxPool2d):
        return nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode)
    if isinstance(layer, nn.MaxPool3d):
        return nn.AvgPool3d(layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode)
    if isinstance(layer, MaxPool):
        return _Average()
    if isinstance(layer, MaxUnpool):
        return _Fill()
    return nn.Identity() if isinstance(layer, Normalisation | nn.ReLU | nn.ReLU6 | nn.PReLU | nn.Sigmoid) else None


class _Spread(nn.Module):
    """A convolution's reach: one kernel of equal weights on the mean of the channels."""

    def __init__(self, layer: Convolution) -> None:
        super().__init__()
        make = next(kind for kind in get_args(Convolution) if isinstance(layer, kind))
        size, stride, padding, dilation = layer.kernel_size, layer.stride, layer.padding, layer.dilation
        self.layer = make(1, 1, size, stride, padding, dilation=dilation, bias=False)
        nn.init.constant_(self.layer.weight, 1 / self.layer.weight.numel())

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean(1, keepdim=True)
        # Whether, not how much: a product of a hundred small weights would end as zero.
        x.register_hook(torch.sign)  # type: ignore[no-untyped-call]
        return self.layer(x)  # type: ignore[no-any-return]


class _Average(nn.Module):
    """A pooling's reach, both as the value that goes on and as the switches."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled = F.avg_pool2d(x, 2) if x.ndim == 4 else F.avg_pool3d(x, 2)
        return pooled, pooled


class _Fill(nn.Module):
    """An unpooling's reach: any cell may be where the maximum was, and the pooled cells decide which."""

    def forward(self, x: Tensor, switches: Tensor) -> Tensor:
        return nearest(x + switches, 2)


def influences(net: Network, image: Tensor, pixel: tuple[int, ...]) -> Tensor:
    """Which scores a pixel changes: the check of the above by perturbation.

    Takes:
        image: 1 x 3 x H x W float, 0..255; 1 x C x D x H x W of a network of volumes
        pixel: (row, column), with the slice before them of a volume
    Gives:
        h x w bool, or d x h x w
    """
    changed = image.clone()
    seen = changed
    for at in pixel:  # a view: what it is set to is set in ``changed``
        seen = seen.select(2, at)
    seen.copy_(255 - seen)
    with torch.no_grad():
        differs: Tensor = net(changed) != net(image)
    return differs.any(1)[0]
