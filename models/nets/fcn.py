"""The fully convolutional network: an encoder's feature maps, fused from coarse to fine by 2x upsampling.

Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, section 4.2 and figure 3:
1x1 score layers on the stride 32, 16 and 8 features, each coarser map upsampled 2x and added to the finer one, the finest
upsampled 8x to pixels. ``width=0`` is exactly that. ``width=C`` fuses C features instead of K class scores, and predicts
the scores from the sum: the same diagram, with the score layer after the fusion rather than before it.

The last upsampling, from ``stride`` to pixels, belongs to the code that uses the scores (loss, evaluation,
``service.pipeline.tasks.semantic``).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nets.encoders import STRIDES, EfficientNetLite, conv_norm
from models.nets.network import Network


@dataclass(frozen=True)
class FCNConfig:
    """The sizes that distinguish the networks of this file."""

    classes: int = 11
    encoder: str = "lite0"
    width: int = 0
    """Channels that are fused; 0 fuses class scores, as in the paper."""
    stride: int = 8
    """Input pixels a score cell: 8 as in the paper, or 4, which adds a skip from the stride-4 features."""
    context: int = 0
    """Dilated 3x3 layers on the stride-32 features, dilations 1, 2, 4 ...; 0 for none."""
    refine: int = 0
    """3x3 layers on the fused map before its scores."""
    smooth: bool = False
    """A 3x3 layer after every fusion, as in feature pyramid networks."""

    @property
    def name(self) -> str:
        """The architecture's name in the family's table, e.g. ``fcn8s-lite0``."""
        return f"fcn{self.stride}s-{self.encoder}"

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a checkpoint."""
        return asdict(self)


class ContextLayers(nn.Module):
    """Parallel depthwise dilated 3x3 layers and their fusion: a wide view of the coarsest map without a global operation.

    As the pyramid of DeepLab (Chen et al. 2017, section 3.3), less its image-level pooling: that would make every score depend
    on every pixel.
    """

    def __init__(self, inputs: int, outputs: int, branches: int) -> None:
        super().__init__()
        self.reduce = conv_norm(inputs, outputs, 1)
        self.branches = nn.ModuleList(conv_norm(outputs, outputs, 3, groups=outputs, dilation=2**i) for i in range(branches))
        self.fuse = conv_norm(outputs * (branches + 1), outputs, 1)
        self.activation = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        """N x inputs x h x w to N x outputs x h x w."""
        x = self.activation(self.reduce(x))
        views = [x, *(self.activation(branch(x)) for branch in self.branches)]
        fused: Tensor = self.fuse(torch.cat(views, 1))
        return x + fused


class FCN(Network):
    """Encoder, skips, fusion, scores.

    Takes:
        config: the network's sizes
        drop: stochastic depth in the encoder while training
        dropout: share of the fused channels dropped before the scores while training
    """

    coarsest = STRIDES[-1]
    multiple = STRIDES[1]
    pretrained = ("encoder.",)

    mean: Tensor
    std: Tensor

    def __init__(self, config: FCNConfig, *, drop: float = 0.1, dropout: float = 0.1) -> None:
        super().__init__()
        if config.stride not in STRIDES[:2]:
            raise ValueError(f"stride must be one of {STRIDES[:2]}, not {config.stride}")
        self.config = config
        self.classes = config.classes
        self.stride = config.stride
        self.encoder = EfficientNetLite(config.encoder, drop=drop)
        self.register_buffer("mean", torch.full((1, 3, 1, 1), self.encoder.mean))
        self.register_buffer("std", torch.full((1, 3, 1, 1), self.encoder.std))

        used = self.encoder.channels[STRIDES.index(config.stride) :]  # finest first
        fused = config.width or config.classes
        coarsest = used[-1]
        self.context = None
        if config.context:
            coarsest = max(fused, 128)
            self.context = ContextLayers(used[-1], coarsest, config.context)
        self.lateral = nn.ModuleList(
            nn.Conv2d(channels, fused, 1) if config.width == 0 else conv_norm(channels, fused, 1)
            for channels in (*used[:-1], coarsest)
        )
        self.smooth = nn.ModuleList(conv_norm(fused, fused, 3) for _ in used[:-1]) if config.smooth else None
        self.refine = nn.ModuleList(conv_norm(fused, fused, 3) for _ in range(config.refine))
        self.activation = nn.ReLU6()
        self.dropout = nn.Dropout2d(dropout)
        self.score = nn.Conv2d(fused, config.classes, 1) if config.width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """N x 3 x H x W float, RGB 0..255, to N x K x ceil(H/stride) x ceil(W/stride) scores."""
        return self.score(self.dropout(self.fuse(x)))  # type: ignore[no-any-return]

    def fuse(self, x: Tensor) -> Tensor:
        """N x 3 x H x W float, RGB 0..255, to N x C x ceil(H/stride) x ceil(W/stride) features, of which scores are made."""
        features = self.encoder((x - self.mean) / self.std)[-len(self.lateral) :]
        if self.context is not None:
            features[-1] = self.context(features[-1])
        fused: Tensor = self.lateral[-1](features[-1])  # (N, C, H/32, W/32)
        for level in range(len(self.lateral) - 2, -1, -1):
            fused = upsample_onto(fused, self.lateral[level](features[level]))  # (N, C, H/16, W/16), ...
            if self.smooth is not None:
                fused = self.activation(self.smooth[level](fused))
        if self.config.width:
            fused = self.activation(fused)
        for layer in self.refine:
            fused = self.activation(layer(fused))
        return fused


def upsample_onto(coarse: Tensor, fine: Tensor) -> Tensor:
    """Upsample a map 2x bilinearly and add it to the finer one.

    An odd fine side leaves a surplus row or column, which is cut at the bottom or right: cell i of the coarse map covers cells
    2i and 2i + 1 of the fine one whatever the size.

    Takes:
        coarse: N x C x ceil(h/2) x ceil(w/2)
        fine: N x C x h x w
    Gives:
        N x C x h x w
    """
    raised = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
    return fine + raised[:, :, : fine.shape[2], : fine.shape[3]]
