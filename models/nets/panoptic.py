"""Heads that tell objects apart: where their centres are, and which way each pixel's centre lies.

Cheng et al., "Panoptic-DeepLab", CVPR 2020, section 3.1: a heatmap of centres and an offset from every pixel to the centre of
its object; ``service.pipeline.tasks.panoptic`` groups the pixels. The heads stand on the features that the scores are made
of. They have depthwise 5x5 layers for reach, and no global operation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.nets.encoders import conv_norm
from models.nets.fcn import FCN, FCNConfig

OFFSET_UNIT_PX = 32.0
"""Input pixels that an offset layer's output of 1 means, so that its weights stay as small as the others."""


class Objects(NamedTuple):
    """What :class:`PanopticFCN` gives, all at the scores' h x w cells."""

    scores: Tensor
    """N x K x h x w."""
    centers: Tensor
    """N x 1 x h x w, 0..1: how surely the centre of an object lies in the cell."""
    offsets: Tensor
    """N x 2 x h x w: (dy, dx) in input pixels from the cell's centre to the centre of its object."""


class ObjectHeads(nn.Module):
    """Centres and offsets of the fused features.

    Takes:
        inputs: channels of the features
        width: channels of the layers
    """

    def __init__(self, inputs: int, width: int = 48) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*(_separable(inputs if index == 0 else width, width) for index in range(2)))
        self.center = nn.Conv2d(width, 1, 1)
        self.offset = nn.Conv2d(width, 2, 1)
        nn.init.constant_(self.center.bias, -3.0)  # type: ignore[arg-type] # few cells hold a centre

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """N x C x h x w features to N x 1 x h x w centres, 0..1, and N x 2 x h x w offsets in input pixels."""
        x = self.trunk(x)
        return torch.sigmoid(self.center(x)), self.offset(x) * OFFSET_UNIT_PX

    def merged(self) -> MergedHeads:
        """The same for prediction: the two last layers are one, which reads its input once."""
        return MergedHeads(self)


class MergedHeads(nn.Module):
    """:class:`ObjectHeads` with one last layer of three channels, the centre and the offset in input pixels."""

    def __init__(self, heads: ObjectHeads) -> None:
        super().__init__()
        self.trunk = heads.trunk
        self.last = nn.Conv2d(heads.center.in_channels, 3, 1)
        for name in ("weight", "bias"):
            center, offset = getattr(heads.center, name), getattr(heads.offset, name)
            setattr(self.last, name, nn.Parameter(torch.cat([center, offset * OFFSET_UNIT_PX]).detach()))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`ObjectHeads.forward`."""
        center, offset = torch.split(self.last(self.trunk(x)), [1, 2], 1)
        return torch.sigmoid(center), offset


def _separable(inputs: int, outputs: int) -> nn.Sequential:
    """A depthwise 5x5 and a 1x1 layer, each normalised."""
    return nn.Sequential(conv_norm(inputs, inputs, 5, groups=inputs), nn.ReLU6(), conv_norm(inputs, outputs, 1), nn.ReLU6())


class PanopticFCN(FCN):
    """:class:`FCN` with :class:`ObjectHeads`; its tensors have the same names, so that its weights can start from an FCN's."""

    outputs = Objects._fields

    def __init__(self, config: FCNConfig, *, drop: float = 0.1, dropout: float = 0.1) -> None:
        super().__init__(config, drop=drop, dropout=dropout)
        if not config.width:
            raise ValueError("objects want fused features: a width of 1 or more")
        self.objects = ObjectHeads(config.width)

    def forward(self, x: Tensor) -> Objects:  # type: ignore[override]
        """N x 3 x H x W float, RGB 0..255, to scores, centres and offsets at ceil(H/stride) x ceil(W/stride) cells."""
        fused = self.fuse(x)
        return Objects(self.score(self.dropout(fused)), *self.objects(fused))
