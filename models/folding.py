"""Batch normalisation folded into the convolutions before it: the network as it predicts, with half as many layers to trace.

At prediction a batch normalisation multiplies and shifts every channel by constants, and so do a convolution's kernel and
bias: one of them is enough. ONNX Runtime would fold them too, when it loads a graph. Folded before, they cost the tracer no
time, which takes every normalisation apart into a dozen operators with symbolic shapes: FCN-8s on Lite0 is traced in 20 seconds
of one CPU rather than 29, FCN on ResNet-50 in 14 rather than 17 (2026-11).

May import: torch, ``models.network``.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from models.network import Network


def folded(net: Network) -> Network:
    """A copy of a network, without the batch normalisations that follow a convolution.

    Which convolution each follows is found out by running the network once. Unfolded weights are shared with the original.

    Takes:
        net: ready to predict
    Gives:
        a network whose scores differ from the original's by rounding alone
    """
    copied = copy.deepcopy(net, {id(parameter): parameter for parameter in net.parameters()})
    for convolution, normalisation in _pairs(copied):
        _fold(convolution, normalisation)
        _replace(copied, normalisation, nn.Identity())
    return copied


def _pairs(net: Network) -> list[tuple[nn.Conv2d | nn.ConvTranspose2d, nn.BatchNorm2d]]:
    """Every convolution whose output is a batch normalisation's input, with it."""
    made: dict[int, tuple[nn.Conv2d | nn.ConvTranspose2d, Tensor]] = {}  # the tensors are kept, so that no id comes twice
    pairs = []

    def remember(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            made[id(output)] = (module, output)

    def match(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], module))

    hooks = [module.register_forward_hook(remember) for module in net.modules()]
    hooks += [module.register_forward_pre_hook(match) for module in net.modules()]
    side = -(-max(net.smallest, net.multiple) // net.multiple) * net.multiple
    with torch.no_grad():
        net(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    return pairs


def _fold(convolution: nn.Conv2d | nn.ConvTranspose2d, normalisation: nn.BatchNorm2d) -> None:
    mean, variance = normalisation.running_mean, normalisation.running_var
    assert mean is not None  # noqa: S101  # no network here tracks no statistics
    assert variance is not None  # noqa: S101
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        mean,
        variance,
        normalisation.eps,
        normalisation.weight,
        normalisation.bias,
        transpose=isinstance(convolution, nn.ConvTranspose2d),
    )


def _replace(net: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for module in net.modules():
        for name, child in module.named_children():
            if child is old:
                setattr(module, name, new)
