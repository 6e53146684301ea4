"""A small fully convolutional network for slices of a volume and for grey pictures, with scores at every pixel.

Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, section 4.2: skips from fine
layers are added to the upsampled coarse ones. There they end at stride 8; the cortex is two to four pixels thick, so here the
fusion goes on to stride 1, and what is fused are features (as with ``width`` in ``models.nets.fcn``). Dilated layers on the
coarsest map widen the view without a global operation.

A slice comes with its neighbours as further channels: they tell scalp from cortex where one slice alone does not. A picture
comes alone.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from models.nets.encoders import conv_norm
from models.nets.fcn import ContextLayers, upsample_onto
from models.nets.network import Network, scaled

CHANNELS = (16, 24, 48, 96, 144)
"""Features at strides 1, 2, 4, 8 and 16."""

REPEATS = (1, 2, 2, 2, 2)
"""3 x 3 layers at each stride on the way down; the first one of a stride halves the map."""


def _layers(inputs: int, outputs: int, count: int, stride: int) -> nn.Sequential:
    """3 x 3 convolutions, each with its normalisation and ReLU; the first one strides."""
    layers: list[nn.Module] = []
    for index in range(count):
        layers += [conv_norm(inputs if index == 0 else outputs, outputs, 3, stride=stride if index == 0 else 1), nn.ReLU()]
    return nn.Sequential(*layers)


class SliceFCN(Network):
    """Scores at stride 1 for a slice and its neighbours.

    Takes:
        classes: K
        channels: of the input: one slice, or a slice in the middle of its neighbours
        width: multiplier of every layer's features
        context: dilated branches on the coarsest map
    """

    stride = 1
    coarsest = 16
    multiple = 16

    def __init__(self, classes: int, *, channels: int = 3, width: float = 1.0, context: int = 4) -> None:
        super().__init__()
        self.classes = classes
        self.channels = channels
        sizes = [scaled(size, width) for size in CHANNELS]
        self.down = nn.ModuleList(
            _layers(inputs, outputs, count, 1 if level == 0 else 2)
            for level, (inputs, outputs, count) in enumerate(zip([channels, *sizes], sizes, REPEATS, strict=False))
        )
        self.context = ContextLayers(sizes[-1], sizes[-1], context)
        self.lateral = nn.ModuleList(conv_norm(coarse, fine, 1) for fine, coarse in pairwise(sizes))
        self.up = nn.ModuleList(_layers(size, size, 1 if level == 0 else 2, 1) for level, size in enumerate(sizes[:-1]))
        self.score = nn.Conv2d(sizes[0], classes, 1)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1  # no published statistics are kept; a run of 50 steps must have its own

    def forward(self, x: Tensor) -> Tensor:
        """N x channels x H x W float, normalised, to N x K x H x W scores; sides are multiples of 16."""
        features = []
        for layers in self.down:
            x = layers(x)
            features.append(x)  # (N, C, H/s, W/s), s = 1, 2, 4, 8, 16
        x = self.context(x)
        for level in range(len(self.up) - 1, -1, -1):
            x = upsample_onto(self.lateral[level](x), features[level])
            x = self.up[level](x)
        return self.score(x)  # type: ignore[no-any-return]
