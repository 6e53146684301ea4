"""The family: every network by its name, and what a user must know of it before choosing one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from models.nets.deconvnet import DeconvNet
from models.nets.encoders import WIDTH_AND_DEPTH
from models.nets.fcn import FCN, FCNConfig
from models.nets.network import Network
from models.nets.panoptic import PanopticFCN
from models.nets.resnet import FCNResNet
from models.nets.slices import SliceFCN
from models.nets.vgg import FCNVGG16
from models.nets.vnet import LIGHT, PAPER, VNet, VNetConfig
from service.pipeline.manifest import InputPolicy

LONG = "Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation, CVPR 2015"
HE = "He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016"
NOH = "Noh, Hong, Han: Learning Deconvolution Network for Semantic Segmentation, ICCV 2015"
CHENG = (
    "Cheng, Collins, Zhu, Liu, Huang, Adam, Chen: Panoptic-DeepLab: A Simple, Strong, and Fast Baseline for Bottom-Up "
    "Panoptic Segmentation, CVPR 2020"
)
MILLETARI = (
    "Milletari, Navab, Ahmadi: V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation, 3DV 2016"
)
TAN = "Tan, Le: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019"


@dataclass(frozen=True)
class Architecture:
    """One row of the family's table."""

    name: str
    make: Callable[[int, float, bool], Network]
    """Of the number of classes, the width multiplier, and whether with the auxiliary head."""
    stride: int
    """Input pixels a score cell."""
    coarsest: int
    """Input pixels a cell of the coarsest map."""
    multiple: int
    """Height and width of the input are multiples of this."""
    working_size: tuple[int, int]
    """(height, width) at which its weights are usually trained: where nothing else is said, the artifact's."""
    papers: tuple[str, ...]
    smallest: int = 1
    """The shortest side of the input."""
    fit: Literal["area", "stretch", "native"] = "area"
    """How images are brought to the working size: see ``service.pipeline.manifest.InputPolicy``."""
    auxiliary: bool = False
    """Whether there is a second head, for training."""
    objects: bool = False
    """Whether it tells the objects of countable classes apart (outputs ``centers`` and ``offsets``)."""
    input_fields: Mapping[str, object] = field(default_factory=dict)
    """Further fields of the input policy, of a network for scans or for pictures of one channel."""

    def policy(self, working_size: tuple[int, int] | None = None) -> InputPolicy:
        """How images are brought to the network.

        Takes:
            working_size: (height, width) in the place of the usual one
        Raises:
            ValueError: if a side is shorter than the network takes
        """
        size = working_size or self.working_size
        if min(size) < self.smallest:
            raise ValueError(f"{self.name} takes sides of {self.smallest} and more, not {size[0]} x {size[1]}")
        known = {"working_size": size, "fit": self.fit, "multiple": self.multiple}
        return InputPolicy.model_validate({**known, **self.input_fields})


def _vgg(name: str, finest: int, *, at_once: bool = False) -> Architecture:
    return Architecture(
        name=name,
        make=lambda classes, width, _: FCNVGG16(classes, finest=finest, at_once=at_once, width=width),
        stride=1,
        coarsest=32,
        multiple=8,
        working_size=(375, 500),  # PASCAL VOC's usual frame; the reference never resizes
        papers=(LONG,),
    )


def _resnet(depth: int) -> Architecture:
    return Architecture(
        name=f"fcn-resnet{depth}",
        make=lambda classes, width, auxiliary: FCNResNet(classes, depth=depth, auxiliary=auxiliary, width=width),
        stride=8,
        coarsest=8,
        multiple=8,
        working_size=(520, 696),  # torchvision: the shorter side to 520
        papers=(LONG, HE),
        auxiliary=True,
    )


def _lite(config: FCNConfig, working_size: tuple[int, int], *, objects: bool = False) -> Architecture:
    def make(classes: int, width: float, _: bool) -> Network:
        if width != 1:
            raise ValueError(f"{config.name} has one width; choose a size instead: {', '.join(WIDTH_AND_DEPTH)}")
        sized = FCNConfig(**{**config.to_dict(), "classes": classes})
        return PanopticFCN(sized) if objects else FCN(sized)

    return Architecture(
        name=f"{config.name}-panoptic" if objects else config.name,
        make=make,
        stride=config.stride,
        coarsest=32,
        multiple=8,
        working_size=working_size,
        papers=(LONG, TAN, CHENG) if objects else (LONG, TAN),
        objects=objects,
    )


GREY_PICTURES = {"channels": 1, "dtype": "float32", "intensity": {"lower": 1, "upper": 99, "ceiling": 3}}
"""Pictures of one channel with all their bits: 99 % of a picture's numbers become 0..1, and the brightest at most 3."""

STREETS = {size: FCNConfig(encoder=size, stride=4, width=48, context=3, smooth=True) for size in WIDTH_AND_DEPTH}
"""Networks for street scenes by encoder (docs/adr/0005)."""

_FAMILY = (
    _vgg("fcn32s-vgg16", 32),
    _vgg("fcn16s-vgg16", 16),
    _vgg("fcn8s-vgg16", 8),
    _vgg("fcn8s-vgg16-atonce", 8, at_once=True),
    _resnet(50),
    _resnet(101),
    *(_lite(FCNConfig(encoder=size), (360, 480)) for size in WIDTH_AND_DEPTH),
    *(_lite(STREETS[size], (448, 600)) for size in WIDTH_AND_DEPTH),
    *(_lite(STREETS[size], (448, 600), objects=True) for size in WIDTH_AND_DEPTH),
    Architecture(
        name="deconvnet-vgg16",
        make=lambda classes, width, _: DeconvNet(classes, width=width),
        stride=1,
        coarsest=32,
        multiple=32,
        working_size=(224, 224),
        papers=(NOH,),
        smallest=224,
        fit="stretch",
    ),
    Architecture(
        name="fcn1s-grey",
        make=lambda classes, width, _: SliceFCN(classes, channels=1, width=width),
        stride=1,
        coarsest=16,
        multiple=16,
        working_size=(384, 384),
        papers=(LONG,),
        input_fields=GREY_PICTURES,
    ),
)

TISSUE = {"lower": 1, "upper": 50, "scope": "volume", "foreground": True, "ceiling": 3}
"""Intensities of T1 scans: half of the tissue, which is above the mean, is below 1 (see ``service.pipeline.intensity``)."""

_RAS_1MM = {"color_order": None, "dtype": "float32", "intensity": TISSUE, "spacing_mm": (1, 1, 1), "orientation": "RAS"}


def _vnet(config: VNetConfig, sides: tuple[int, int, int]) -> Architecture:
    return Architecture(
        name=config.name,
        make=lambda classes, width, _: VNet(classes, config=config, width=width),
        stride=1,
        coarsest=2**config.depth,
        multiple=2**config.depth,
        working_size=sides[1:],
        papers=(MILLETARI,),
        fit="native",
        input_fields={**_RAS_1MM, "dimensions": 3, "channels": 1, "working_depth": sides[0]},
    )


_FOR_SCANS = (
    Architecture(
        name="fcn1s-slices",
        make=lambda classes, width, _: SliceFCN(classes, width=width),
        stride=1,
        coarsest=16,
        multiple=16,
        working_size=(192, 192),
        papers=(LONG,),
        fit="native",
        input_fields={**_RAS_1MM, "channels": 3, "planes": ("axial", "coronal", "sagittal")},
    ),
    _vnet(PAPER, (64, 128, 128)),
    _vnet(LIGHT, (40, 56, 40)),
)

FOR_SCANS = {architecture.name: architecture for architecture in _FOR_SCANS}
"""Networks of slices and volumes, by name."""

ARCHITECTURES = {architecture.name: architecture for architecture in _FAMILY}
"""Networks of pictures by name, in the order of the family's table."""


def build(name: str, classes: int, *, width: float = 1.0, auxiliary: bool = False) -> Network:
    """A network of the family, its weights as they are before training.

    Takes:
        width: multiplier of every layer's channels, 1 as published; the light ones come in sizes instead
        auxiliary: with the second head, for training, where the architecture has one
    Raises:
        ValueError: if there is no such network, naming those there are, or it has one width
    """
    return architecture(name).make(classes, width, auxiliary)


def architecture(name: str) -> Architecture:
    """Return the row of a network for pictures or for scans.

    Raises:
        ValueError: if there is no such network, naming those there are
    """
    found = ARCHITECTURES.get(name) or FOR_SCANS.get(name)
    if found is None:
        raise ValueError(f"no architecture '{name}'; there are: {', '.join((*ARCHITECTURES, *FOR_SCANS))}")
    return found
