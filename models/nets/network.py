"""The interface of every network of the family, and the first step of most: the normalisation of pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Triple = tuple[float, float, float]

AUXILIARY = "aux_classifier."
"""How the names of the tensors of a head begin that only training uses; torchvision's name."""


class Network(nn.Module):
    """A fully convolutional network, from pixels to scores.

    Called with N x 3 x H x W float, RGB 0..255, it gives N x K x ceil(H / stride) x ceil(W / stride) scores. The normalisation
    is inside; the bilinear upsampling from ``stride`` to pixels is outside. ``channels`` and ``dimensions`` tell other
    inputs.
    """

    classes: int
    """K, the planes of the scores."""
    stride: int
    """Input pixels a score cell."""
    coarsest: int
    """Input pixels a cell of the coarsest map: an image that is shifted by a multiple of it gives scores shifted alike."""
    multiple: int
    """Height and width of the input are multiples of this."""
    smallest: int = 1
    """The shortest side that the network takes, in pixels."""
    channels: int = 3
    """Channels of the input."""
    dimensions: int = 2
    """2 for pictures and slices, 3 for volumes (N x channels x D x H x W)."""
    pretrained: tuple[str, ...] = ()
    """How the names of the tensors begin that an image classifier's weights can fill."""
    outputs: tuple[str, ...] = ("scores",)
    """Names of the call's results, in order; a network with more than one returns a named tuple of these fields."""

    def scores(self, x: Tensor) -> Tensor:
        """The scores alone, N x K x ceil(H / stride) x ceil(W / stride)."""
        result = self(x)
        scored: Tensor = result.scores if len(self.outputs) > 1 else result
        return scored

    def for_loss(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute what training compares: the scores, then the further outputs or the auxiliary head's scores, if any."""
        result = self(x)
        return tuple(result) if len(self.outputs) > 1 else (result,)


class Normalize(nn.Module):
    """RGB 0..255 to (pixel - mean) / std.

    The constants are not part of the state dict, because no published one holds them.

    Takes:
        mean, std: of the three channels, in the order in which the network wants them; no division where ``std`` is None
        bgr: whether that order is blue, green, red
    """

    mean: Tensor
    std: Tensor | None

    def __init__(self, mean: Triple, std: Triple | None = None, *, bgr: bool = False) -> None:
        super().__init__()
        self.bgr = bgr
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", None if std is None else torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """N x 3 x H x W float, RGB 0..255, to the same shape, normalised."""
        if self.bgr:
            x = x.flip(1)
        x = x - self.mean
        return x if self.std is None else x / self.std


def scaled(channels: int, width: float) -> int:
    """A layer's channels at a width multiplier; at least one."""
    return max(1, round(channels * width))
