"""Frames and labels: how they are read, and how training varies them.

A data set is a folder with ``images/`` and ``labels/``: files of one stem, labels as 8-bit PNG whose pixel value is the class
id. Frames are decoded and resized by the service's own code, so that training sees what serving will see.

May import: numpy, torch, cv2, PIL, ``service.errors``, ``service.pipeline`` , ``models.training``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from models.training.classes import ClassTable, ClassTableError
from models.training.losses import IGNORED
from service.errors import ServiceError
from service.pipeline.codecs.decoding import Limits, decode
from service.pipeline.manifest import InputPolicy
from service.pipeline.plan import fit_size, resize_image

GREY = 127
"""What lies outside an image."""


IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"))
LIMITS = Limits()
"""Of a frame: the service's own."""


class DataError(ValueError):
    """A data folder that can't be used; the message says what was expected."""


def image_files(folder: Path) -> list[Path]:
    """The image files directly in a folder, sorted by name; none where there is no such folder."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def frame_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """The (image, label) files of a data set, sorted by name.

    Raises:
        DataError: if the folder has no such pairs, or an image lacks its label
    """
    images = image_files(folder / "images")
    if not images:
        raise DataError(f"{folder}: no images in images/; expected images/*.jpg|png and labels/*.png of the same names")
    pairs = [(image, folder / "labels" / f"{image.stem}.png") for image in images]
    missing = [label.name for _, label in pairs if not label.is_file()]
    if missing:
        raise DataError(f"{folder}: {len(missing)} images have no label, first {folder / 'labels' / missing[0]}")
    return pairs


def read_image(path: Path) -> NDArray[np.uint8]:
    """H x W x 3 uint8 RGB, upright: what the service decodes from the same file, 16-bit and grey ones included.

    Raises:
        DataError: if the file can't be read, or the service would refuse it
    """
    try:
        return decode(path.read_bytes(), LIMITS)
    except ServiceError as error:
        raise DataError(f"{path}: {error.message}") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


def read_labels(path: Path, table: ClassTable) -> NDArray[np.uint8]:
    """H x W uint8 class ids, 255 where ignored.

    Raises:
        DataError: if the file can't be read, or a pixel value is neither a class nor ignored
    """
    try:
        with Image.open(path) as image:
            labels = np.array(image)
    except OSError as error:
        raise DataError(f"{path}: {error}") from error
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise DataError(f"{path}: expected an 8-bit single-channel PNG of class ids, found {labels.dtype} {labels.shape}")
    try:
        return table.class_ids(labels)
    except ClassTableError as error:
        raise DataError(f"{path}: {error}") from error


@dataclass(frozen=True)
class Frames:
    """A data set in memory at the network's size, frames of unlike shape padded at the right and the bottom."""

    images: Tensor
    """N x 3 x h x w uint8 RGB."""
    labels: Tensor
    """N x h x w uint8, 255 where ignored or padded."""
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device) -> Frames:
        """The same frames on a device."""
        return Frames(self.images.to(device), self.labels.to(device), self.names)


def load_frames(folders: list[Path], table: ClassTable, policy: InputPolicy) -> Frames:
    """Read data sets into memory.

    Raises:
        DataError: if a folder or a file can't be used
    """
    images: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.uint8]] = []
    names: list[str] = []
    for folder in folders:
        for image_path, label_path in frame_pairs(folder):
            image, label = read_image(image_path), read_labels(label_path, table)
            if image.shape[:2] != label.shape:
                raise DataError(f"{label_path}: {label.shape} labels for an image of {image.shape[:2]}")
            h, w = fit_size(label.shape[0], label.shape[1], policy)
            images.append(resize_image(image, (h, w)))
            labels.append(np.asarray(cv2.resize(label, (w, h), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8))
            names.append(image_path.stem)
    height, width = (max(label.shape[axis] for label in labels) for axis in (0, 1))
    all_images = np.full((len(names), height, width, 3), GREY, np.uint8)
    all_labels = np.full((len(names), height, width), IGNORED, np.uint8)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        h, w = label.shape
        all_images[index, :h, :w], all_labels[index, :h, :w] = image, label
    return Frames(torch.from_numpy(all_images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(all_labels), tuple(names))


@dataclass(frozen=True)
class Augmentation:
    """Random variations of a batch, all of them on the batch's device.

    Scale, crop, flip and a slight rotation are one bilinear sampling of the source, with half-pixel centres and without
    anti-aliasing, as ``geometry.resize_image`` samples for factors below two.
    """

    crop: tuple[int, int]
    """(height, width) of what training sees."""
    scale: tuple[float, float] = (0.6, 2.0)
    """Range of the magnification, log-uniform."""
    stretch: float = 0.1
    """Largest relative change of the aspect ratio."""
    rotation_degrees: float = 3.0
    color: float = 1.0
    """Strength of the changes of colour; 0 for none."""
    paste: float = 0.0
    """Probability that a frame gets objects of another frame pasted in (Olsson et al., "ClassMix", WACV 2021)."""
    paste_classes: tuple[int, ...] = ()

    def __call__(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Vary a batch.

        Takes:
            images: N x 3 x H x W uint8
            labels: N x H x W uint8
            generator: a CPU generator, so that a seed gives the same variations on any device, the grain of the noise apart
        Gives:
            N x 3 x h x w float32, 0..255; N x h x w int64; (h, w) is ``crop``
        """
        grid = self._grid(images.shape[0], images.shape[2], images.shape[3], generator, images.device)
        varied = F.grid_sample(images.float() - GREY, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + GREY
        # Outside the image grid_sample gives 0, which must mean "ignored".
        shifted = labels.float().unsqueeze(1) - IGNORED
        picked = F.grid_sample(shifted, grid, mode="nearest", padding_mode="zeros", align_corners=False) + IGNORED
        y = picked.squeeze(1).round().long()
        if self.paste > 0:
            varied, y = self._pasted(varied, y, generator)
        if self.color > 0:
            varied = self._recolored(varied, generator)
        return varied, y

    def _grid(self, n: int, height: int, width: int, generator: torch.Generator, device: torch.device) -> Tensor:
        """Where each output pixel is sampled, N x h x w x 2 in grid_sample's -1..1, (x, y)."""
        h, w = self.crop
        chance = torch.rand(6, n, 1, 1, generator=generator).to(device)
        low, high = (math.log(value) for value in self.scale)
        scale = torch.exp(low + (high - low) * chance[0])
        stretch = torch.exp((chance[1] * 2 - 1) * self.stretch / 2)
        angle = (chance[2] * 2 - 1) * math.radians(self.rotation_degrees)
        flip = torch.where(chance[3] < 0.5, -1.0, 1.0)

        half_y, half_x = h / 2 / (scale * stretch), w / 2 / (scale / stretch)  # reach of the crop in source pixels
        center_y = half_y + (height - 2 * half_y) * chance[4]
        center_x = half_x + (width - 2 * half_x) * chance[5]
        ys = torch.linspace(-1 + 1 / h, 1 - 1 / h, h, device=device)
        xs = torch.linspace(-1 + 1 / w, 1 - 1 / w, w, device=device)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        dy, dx = y * half_y, x * half_x * flip
        source_x = center_x + torch.cos(angle) * dx - torch.sin(angle) * dy
        source_y = center_y + torch.sin(angle) * dx + torch.cos(angle) * dy
        return torch.stack([source_x / width * 2 - 1, source_y / height * 2 - 1], -1)

    def _pasted(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        n = len(images)
        donors = torch.roll(torch.arange(n), 1)
        takes = torch.rand(n, generator=generator) < self.paste
        chosen = (torch.rand(n, len(self.paste_classes), generator=generator) < 0.5) & takes[:, None]
        donor_labels = labels[donors.to(labels.device)]
        mask = torch.zeros_like(labels, dtype=torch.bool)
        for column, k in enumerate(self.paste_classes):
            mask |= (donor_labels == k) & chosen[:, column].to(labels.device)[:, None, None]
        return (
            torch.where(mask[:, None], images[donors.to(images.device)], images),
            torch.where(mask, donor_labels, labels),
        )

    def _recolored(self, images: Tensor, generator: torch.Generator) -> Tensor:
        n, device = len(images), images.device

        def factor(reach: float, *shape: int) -> Tensor:
            spread = (torch.rand(n, *shape, generator=generator) * 2 - 1) * reach * self.color
            return torch.exp(spread).to(device).reshape(n, *shape, *([1] * (3 - len(shape))))

        x = (images / 255).clamp(1e-4, 1)
        x = x ** factor(0.4)
        x = x * factor(0.35) * factor(0.1, 3)  # exposure, white balance
        mean = x.mean((1, 2, 3), keepdim=True)
        x = (x - mean) * factor(0.35) + mean
        luma = (x * torch.tensor([0.299, 0.587, 0.114], device=device).view(1, 3, 1, 1)).sum(1, keepdim=True)
        x = (x - luma) * factor(0.6) + luma
        blurred = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        sharpness = (torch.rand(n, generator=generator) * 2 - 1).to(device).view(n, 1, 1, 1) * self.color  # < 0 blurs
        x = x + (x - blurred) * sharpness
        noise = torch.rand(n, generator=generator).to(device).view(n, 1, 1, 1) * 0.03 * self.color
        grain = torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))
        x = x + torch.randn(x.shape, generator=grain, device=device) * noise
        return (x * 255).clamp(0, 255)
