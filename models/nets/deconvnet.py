"""DeconvNet: VGG16 and its mirror image, with unpooling by the recorded maxima.

Noh, Hong and Han, "Learning Deconvolution Network for Semantic Segmentation", ICCV 2015, sections 3 and 4.1: the
13 convolutions of VGG16, fc6 (7x7) and fc7 (1x1), then the same backwards: a 7x7 deconvolution, and five times an unpooling to
where the maxima were and the block's deconvolutions. Every layer is followed by batch normalisation and a ReLU; the scores have
stride 1. Layers are called as in its authors' Caffe file.

As in the paper fc6 has no padding. An image of 224 x 224 comes out of it as one cell, which is how the network was trained;
larger images, their sides multiples of 32, give more cells, smaller ones none.
"""

from __future__ import annotations

from torch import Tensor, nn

from models.nets.network import Network, Normalize, scaled
from models.nets.upsampling import MaxPool, MaxUnpool
from models.nets.vgg import BLOCKS, FC_CHANNELS, MEAN_BGR


class Layer(nn.Sequential):
    """A convolution or a deconvolution, its batch normalisation and a ReLU."""

    def __init__(self, convolution: nn.Conv2d | nn.ConvTranspose2d) -> None:
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        super().__init__(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU())


class DeconvNet(Network):
    """The network.

    Takes:
        classes: K
        width: multiplier of every layer's channels, 1 as in the paper
    """

    stride = 1
    coarsest = 32
    multiple = 32
    smallest = 224
    pretrained = ("conv", "fc6.", "fc7.")

    def __init__(self, classes: int = 21, *, width: float = 1.0) -> None:
        super().__init__()
        self.classes = classes
        self.normalize = Normalize(MEAN_BGR, bgr=True)
        self.pool = MaxPool()
        self.unpool = MaxUnpool()
        fc = scaled(FC_CHANNELS, width)
        channels = 3
        for block, (count, outputs) in enumerate(BLOCKS, 1):
            for layer in range(1, count + 1):
                self.add_module(f"conv{block}_{layer}", Layer(nn.Conv2d(channels, scaled(outputs, width), 3, padding=1)))
                channels = scaled(outputs, width)
        self.fc6 = Layer(nn.Conv2d(channels, fc, 7))
        self.fc7 = Layer(nn.Conv2d(fc, fc, 1))
        self.fc6_deconv = Layer(nn.ConvTranspose2d(fc, channels, 7))
        for block in range(len(BLOCKS), 0, -1):
            count, _ = BLOCKS[block - 1]
            for layer in range(1, count + 1):
                # The block's last layer gives the channels of the block below, which the next switches are for.
                outputs = BLOCKS[max(block - 2, 0)][1] if layer == count else BLOCKS[block - 1][1]
                self.add_module(
                    f"deconv{block}_{layer}", Layer(nn.ConvTranspose2d(channels, scaled(outputs, width), 3, padding=1))
                )
                channels = scaled(outputs, width)
        self.seg_score = nn.Conv2d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """N x 3 x H x W float, RGB 0..255, to N x K x H x W scores; sides are multiples of 32, and at least 224."""
        x = self.normalize(x)
        switches = []
        for block, (count, _) in enumerate(BLOCKS, 1):
            for layer in range(1, count + 1):
                x = self.get_submodule(f"conv{block}_{layer}")(x)
            x, places = self.pool(x)  # H/2, H/4, H/8, H/16, H/32; the switches of section 3.2.1
            switches.append(places)
        x = self.fc7(self.fc6(x))  # (N, 4096, H/32 - 6, W/32 - 6); the end of the convolution network, section 3.1
        x = self.fc6_deconv(x)  # (N, 512, H/32, W/32)
        for block in range(len(BLOCKS), 0, -1):
            x = self.unpool(x, switches.pop())  # H/16, H/8, H/4, H/2, H; section 3.2.1
            for layer in range(1, BLOCKS[block - 1][0] + 1):
                x = self.get_submodule(f"deconv{block}_{layer}")(x)  # section 3.2.2; batch normalisation: section 4.1
        return self.seg_score(x)  # type: ignore[no-any-return]
