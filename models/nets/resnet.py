"""FCN on ResNet-50 and ResNet-101, in the form that torchvision publishes as ``fcn_resnet50`` and ``fcn_resnet101``.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, table 1 and figure 5 (bottleneck blocks, the
stride in their 3x3); the last two stages keep stride 8 and dilate instead (Yu and Koltun 2016; Chen et al. 2017). The head is
one 3x3 convolution to a quarter of the channels and one 1x1 to class scores (Long et al. 2015, section 4.1, in torchvision's
form). An auxiliary head of the same kind reads the stage before, for a second loss while training (Zhao et al. 2017).

The scores have stride 8. torchvision's own forward ends with their bilinear upsampling to the image, ``align_corners=False``:
exactly what ``service.pipeline.tasks.semantic`` does, so it is not done twice. Names of layers are torchvision's.
"""

from __future__ import annotations

from torch import Tensor, nn

from models.nets.network import Network, Normalize, scaled

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Bottleneck blocks of the four stages, by depth."""
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
"""Of ImageNet, RGB 0..255: torchvision's (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225) times 255."""


def _convolution(inputs: int, outputs: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 * dilation, dilation, bias=False)


class Bottleneck(nn.Module):
    """Reduce, convolve, expand four times, and add what came in."""

    def __init__(self, inputs: int, inner: int, *, stride: int, dilation: int, project: bool) -> None:
        super().__init__()
        outputs = 4 * inner
        self.conv1 = _convolution(inputs, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = _convolution(inner, inner, 3, stride=stride, dilation=dilation)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = _convolution(inner, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample = (
            nn.Sequential(_convolution(inputs, outputs, 1, stride=stride), nn.BatchNorm2d(outputs)) if project else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """N x inputs x h x w to N x 4 inner x ceil(h / stride) x ceil(w / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(y + shortcut)  # type: ignore[no-any-return]


class Backbone(nn.Module):
    """ResNet without its classifier, its last two stages dilated."""

    def __init__(self, depth: int, width: float) -> None:
        super().__init__()
        stem = scaled(64, width)
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        counts = BLOCKS[depth]
        # In a dilated stage the first block keeps the dilation of the stage before: its input still has that spacing.
        self.layer1 = self._stage(stem, stem, counts[0], stride=1, dilations=(1, 1))
        self.layer2 = self._stage(4 * stem, 2 * stem, counts[1], stride=2, dilations=(1, 1))
        self.layer3 = self._stage(8 * stem, 4 * stem, counts[2], stride=1, dilations=(1, 2))
        self.layer4 = self._stage(16 * stem, 8 * stem, counts[3], stride=1, dilations=(2, 4))
        self.channels = (16 * stem, 32 * stem)
        """Of the two maps that :meth:`forward` gives."""

    @staticmethod
    def _stage(inputs: int, inner: int, count: int, *, stride: int, dilations: tuple[int, int]) -> nn.Sequential:
        first = Bottleneck(inputs, inner, stride=stride, dilation=dilations[0], project=True)
        rest = (Bottleneck(4 * inner, inner, stride=1, dilation=dilations[1], project=False) for _ in range(count - 1))
        return nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """N x 3 x H x W, normalised, to the maps of the last two stages, both of stride 8."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (N, 64, H/4, W/4)
        x = self.layer2(self.layer1(x))  # (N, 512, H/8, W/8)
        x = self.layer3(x)  # (N, 1024, H/8, W/8)
        return x, self.layer4(x)  # (N, 2048, H/8, W/8)


class Head(nn.Sequential):
    """3x3 to a quarter of the channels, then 1x1 to class scores."""

    def __init__(self, inputs: int, classes: int) -> None:
        inner = max(1, inputs // 4)
        super().__init__(
            _convolution(inputs, inner, 3), nn.BatchNorm2d(inner), nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(inner, classes, 1)
        )


class FCNResNet(Network):
    """The network.

    Takes:
        classes: K
        depth: 50 or 101
        auxiliary: with the second head, for training
        width: multiplier of every layer's channels, 1 as published
    """

    stride = 8
    coarsest = 8
    multiple = 8
    pretrained = ("backbone.",)

    def __init__(self, classes: int = 21, *, depth: int = 50, auxiliary: bool = False, width: float = 1.0) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"depth must be one of {', '.join(map(str, BLOCKS))}, not {depth}")
        self.classes = classes
        self.normalize = Normalize(MEAN, STD)
        self.backbone = Backbone(depth, width)
        earlier, last = self.backbone.channels
        self.classifier = Head(last, classes)
        self.aux_classifier = Head(earlier, classes) if auxiliary else None
        for module in self.backbone.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """N x 3 x H x W float, RGB 0..255, to N x K x ceil(H/8) x ceil(W/8) scores."""
        _, features = self.backbone(self.normalize(x))
        return self.classifier(features)  # type: ignore[no-any-return]

    def for_loss(self, x: Tensor) -> tuple[Tensor, ...]:
        """The scores, and the auxiliary head's where there is one."""
        return super().for_loss(x) if self.aux_classifier is None else self.both(x)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The scores and the auxiliary head's, for a loss on both; shapes as :meth:`forward`.

        Raises:
            ValueError: if the network was made without the auxiliary head
        """
        if self.aux_classifier is None:
            raise ValueError("this network has no auxiliary head: make it with auxiliary=True")
        earlier, features = self.backbone(self.normalize(x))
        return self.classifier(features), self.aux_classifier(earlier)
