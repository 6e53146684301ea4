"""V-Net: a fully convolutional network of volumes.

Milletari, Navab, Ahmadi, "V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation", 3DV 2016.

Section by section:

- **Section 2, figure 2, the left path**: stages of one, two, three, three and three convolutions of 5 x 5 x 5 voxels
  (:data:`CONVOLUTIONS`), padded so that sides stay; between them a convolution of 2 x 2 x 2 at stride 2 halves the sides and
  doubles the channels, in the place of pooling (Springenberg et al. 2014).
- **Section 2, residual functions**: each stage adds its input to the output of its last convolution (:class:`Residual`). The
  first stage has one input channel and 16 features; its input is added to each of them.
- **Section 2, the right path**: a transposed convolution of 2 x 2 x 2 at stride 2 doubles the sides (figure 3), its features
  are put beside those that the left path had at that resolution, and a stage with a residual follows.
- **Section 2, non-linearities**: PReLU after every convolution (He et al. 2015), one slope a channel.
- **Section 2, output**: 1 x 1 x 1 convolution to the scores, as large as the input.
- **Section 3, Dice loss**: ``models.training.losses.dice_loss``.
- **Table 1, receptive fields**: ``models.exporting.receptive_field`` measures them; a test compares the left path's.

Departures: K classes in the place of two; batch normalisation after each convolution, which the exporter folds away. It is not
instance normalisation, because that would make each score depend on the whole volume, and blocks would differ from the whole.
``vnet-light`` has 3 x 3 x 3 convolutions, two of them a stage, and one level less. Its right stages halve their channels,
so their residual is a 1 x 1 x 1 convolution of the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.nets.network import Network, scaled

CHANNELS = 16
"""Features of the first stage, at width 1; each level has twice as many as the one above."""

CONVOLUTIONS = (1, 2, 3, 3, 3)
"""Of the left path's stages, finest first; the right path's stages have as many as the left one's at their level."""


@dataclass(frozen=True)
class VNetConfig:
    """The sizes of a V-Net."""

    name: str = "vnet"
    depth: int = 4
    """How often the sides are halved."""
    kernel: int = 5
    """Side of the convolutions of the stages."""
    convolutions: tuple[int, ...] = CONVOLUTIONS
    """Of each stage, finest first: ``depth + 1`` of them."""
    wide: bool = True
    """Whether the right path's stages keep the channels of both sources, as in the paper, or halve them."""


PAPER = VNetConfig()
LIGHT = VNetConfig("vnet-light", depth=3, kernel=3, convolutions=(1, 2, 2, 2), wide=False)


class Residual(nn.Module):
    """A stage: convolutions, and its input added before the last activation."""

    def __init__(self, inputs: int, outputs: int, *, count: int, kernel: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(inputs if index == 0 else outputs, outputs, kernel, padding=kernel // 2, bias=False),
                nn.BatchNorm3d(outputs),
            )
            for index in range(count)
        )
        self.activations = nn.ModuleList(nn.PReLU(outputs) for _ in range(count))
        added = inputs in (outputs, 1)  # as it is; one channel is added to each
        self.shortcut = None if added else nn.Conv3d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """N x inputs x X x Y x Z to N x outputs x X x Y x Z; a single input channel is added to every output."""
        y = x
        last = len(self.convolutions) - 1
        for index, (convolution, activation) in enumerate(zip(self.convolutions, self.activations, strict=True)):
            y = convolution(y)
            if index == last:
                y = y + (x if self.shortcut is None else self.shortcut(x))
            y = activation(y)
        return y


class Resample(nn.Sequential):
    """Halve the sides by a strided convolution, or double them by a transposed one; normalised, with its PReLU."""

    def __init__(self, inputs: int, outputs: int, *, up: bool) -> None:
        make = nn.ConvTranspose3d if up else nn.Conv3d
        super().__init__(make(inputs, outputs, 2, 2, bias=False), nn.BatchNorm3d(outputs), nn.PReLU(outputs))


class VNet(Network):
    """V-Net of any width and depth.

    Takes:
        classes: K
        channels: of the input
        width: multiplier of every stage's features
    Raises:
        ValueError: if the stages are not one more than the depth
    """

    stride = 1
    dimensions = 3

    def __init__(self, classes: int, *, config: VNetConfig = PAPER, channels: int = 1, width: float = 1.0) -> None:
        super().__init__()
        if len(config.convolutions) != config.depth + 1:
            raise ValueError(f"a V-Net of depth {config.depth} has {config.depth + 1} stages, not {len(config.convolutions)}")
        self.config = config
        self.classes = classes
        self.channels = channels
        self.coarsest = self.multiple = 2**config.depth
        sizes = [scaled(CHANNELS * 2**level, width) for level in range(config.depth + 1)]
        self.left = nn.ModuleList(
            Residual(channels if level == 0 else size, size, count=count, kernel=config.kernel)
            for level, (size, count) in enumerate(zip(sizes, config.convolutions, strict=True))
        )
        self.down = nn.ModuleList(Resample(fine, coarse, up=False) for fine, coarse in pairwise(sizes))
        outputs = [size * (2 if config.wide else 1) for size in sizes[:-1]]  # of the right path's stages
        self.up = nn.ModuleList(
            Resample(below, size, up=True) for size, below in zip(sizes[:-1], [*outputs[1:], sizes[-1]], strict=True)
        )
        self.right = nn.ModuleList(
            Residual(2 * size, output, count=count, kernel=config.kernel)
            for size, output, count in zip(sizes[:-1], outputs, config.convolutions[:-1], strict=True)
        )
        self.score = nn.Conv3d(outputs[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """N x channels x X x Y x Z float, normalised, to N x K x X x Y x Z scores; sides are multiples of ``multiple``."""
        features = []
        for level, stage in enumerate(self.left):
            x = stage(x)
            if level < len(self.down):
                features.append(x)
                x = self.down[level](x)
        for level in range(len(features) - 1, -1, -1):
            x = self.right[level](torch.cat([features[level], self.up[level](x)], 1))
        return self.score(x)  # type: ignore[no-any-return]
