"""FCN-32s, FCN-16s and FCN-8s on VGG16: one network, its skips chosen.

Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, sections 4.1 and 4.2, layer by
layer as in its authors' reference: the 13 convolutions of VGG16 (Simonyan and Zisserman 2015, configuration D), its two fully
connected layers as convolutions of 7x7 and 1x1, class scores from there (32s), from pool4 too (16s) and from pool3 too (8s),
learned 2x upsamplings between, and one last upsampling to pixels. The scores therefore have stride 1.

The first layer pads by 100, so that fc6, which has none, still finds 7 x 7 cells on an image of one pixel. The crops
undo that shift. They follow from where each cell's centre lies in the image:

====================  ==========================================  =======================================================
map                   centre of cell i, in pixels                 because
====================  ==========================================  =======================================================
pool3, pool4, pool5   8i - 95.5, 16i - 91.5, 32i - 83.5           2^k i + (2^k - 1) / 2, less 99 for the padding
fc7, score_fr         32i + 12.5                                  fc6 begins three cells later
upscore2              16i - 11.5                                  kernel 4, stride 2: new cell 2i + 1.5 has cell i's centre
upscore_pool4         8i - 23.5                                   likewise
====================  ==========================================  =======================================================

so that cell i of upscore2 lies on cell i + 5 of pool4, cell i of upscore_pool4 on cell i + 9 of pool3, and the image begins at
cell 19 of upscore, 27 of upscore16 and 31 of upscore8.

Names of layers are those of the reference, so that its published weights load as they are. They were trained on BGR images less
the mean colour, and so is the image brought here.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from models.nets.network import Network, Normalize, scaled
from models.nets.upsampling import deconvolution

BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
"""VGG16's convolutions: how many, with how many channels, before each of the five poolings."""
FC_CHANNELS = 4096
"""Channels of fc6 and fc7."""
MEAN_BGR = (104.00698793, 116.66876762, 122.67891434)
"""The mean colour of ImageNet, blue first, that VGG16 was trained without."""
PADDING = 100


class Fusion(NamedTuple):
    """One step on the way up: upsample 2x, add the scores of a finer map."""

    upsampling: str
    block: int
    """The block after whose pooling the finer map comes."""
    crop: int
    """Cells of the finer map above and left of the coarser one."""
    scale: float
    """Factors of the finer maps in the at-once form, because activations grow towards the input."""


FUSIONS = (Fusion("upscore2", 4, 5, 1e-2), Fusion("upscore_pool4", 3, 9, 1e-4))
LAST = {32: ("upscore", 19), 16: ("upscore16", 27), 8: ("upscore8", 31)}
"""The last upsampling and its crop, by the stride from which it starts."""


class FCNVGG16(Network):
    """The network.

    Takes:
        classes: K
        finest: stride of the finest scores that are fused: 32, 16 or 8
        at_once: train every skip from the start, with pool4 and pool3 scaled down, rather than 32s, then 16s, then 8s
        width: multiplier of every layer's channels, 1 as published
    """

    stride = 1
    coarsest = 32
    multiple = 8
    pretrained = ("conv", "fc6.", "fc7.")

    def __init__(self, classes: int = 21, *, finest: int = 8, at_once: bool = False, width: float = 1.0) -> None:
        super().__init__()
        if finest not in LAST:
            raise ValueError(f"finest must be one of {', '.join(map(str, LAST))}, not {finest}")
        self.classes = classes
        self.at_once = at_once
        self.fusions = [fusion for fusion in FUSIONS if 2**fusion.block >= finest]
        self.last, self.last_crop = LAST[finest]
        self.normalize = Normalize(MEAN_BGR, bgr=True)
        self.activation = nn.ReLU()
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.dropout = nn.Dropout2d()

        channels = 3
        for block, (count, outputs) in enumerate(BLOCKS, 1):
            for layer in range(1, count + 1):
                padding = PADDING if (block, layer) == (1, 1) else 1
                self.add_module(f"conv{block}_{layer}", nn.Conv2d(channels, scaled(outputs, width), 3, padding=padding))
                channels = scaled(outputs, width)
        self.fc6 = nn.Conv2d(channels, scaled(FC_CHANNELS, width), 7)
        self.fc7 = nn.Conv2d(scaled(FC_CHANNELS, width), scaled(FC_CHANNELS, width), 1)
        self.score_fr = nn.Conv2d(scaled(FC_CHANNELS, width), classes, 1)
        for fusion in reversed(self.fusions):
            skipped = scaled(BLOCKS[fusion.block - 1][1], width)
            self.add_module(f"score_pool{fusion.block}", nn.Conv2d(skipped, classes, 1))
        upsamplings = [(fusion.upsampling, 2) for fusion in self.fusions]
        upsamplings.insert(1, (self.last, finest))  # the published order
        for name, factor in upsamplings:
            self.add_module(name, deconvolution(classes, factor))
        self._initialize()

    def _initialize(self) -> None:
        """Score layers start at zero (section 4.3), the others so that activations neither grow nor fade (He et al. 2015)."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                if name.startswith("score"):
                    nn.init.zeros_(module.weight)
                else:
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """N x 3 x H x W float, RGB 0..255, to N x K x H x W scores. Sizes below are exact for H = 32 h."""
        height, width = x.shape[2:]
        x = self.normalize(x)
        pooled = {}
        for block, (count, _) in enumerate(BLOCKS, 1):
            for layer in range(1, count + 1):
                x = self.activation(self.get_submodule(f"conv{block}_{layer}")(x))
            pooled[block] = x = self.pool(x)  # 16h+99, 8h+50, 4h+25, 2h+13, h+7 cells
        x = self.dropout(self.activation(self.fc6(x)))  # h+1; fully connected layers as convolutions: section 3.1, figure 2
        x = self.dropout(self.activation(self.fc7(x)))
        x = self.score_fr(x)  # (N, K, h+1, w+1); the classifier, as a 1x1 convolution: section 4.1
        for fusion in self.fusions:  # section 4.2, figure 3
            x = self.get_submodule(fusion.upsampling)(x)  # 2h+4, 4h+10; learned, at first bilinear: section 3.3
            finer = pooled[fusion.block] * fusion.scale if self.at_once else pooled[fusion.block]
            scores = self.get_submodule(f"score_pool{fusion.block}")(finer)
            x = x + crop(scores, fusion.crop, x.shape[2], x.shape[3])
        x = self.get_submodule(self.last)(x)  # 32h+64, 32h+80, 32h+88
        return crop(x, self.last_crop, height, width)


def crop(x: Tensor, offset: int, height: int, width: int) -> Tensor:
    """The part of a map that begins ``offset`` cells from its top and left."""
    return x[:, :, offset : offset + height, offset : offset + width]
