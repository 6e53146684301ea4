"""Random variations of a batch of frames: scale, crop, pasted objects, colour, and what another camera changes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.training.data import Frames, outside
from models.training.losses import IGNORED
from models.training.objects import UNSURE

DONOR = 256
"""Added to the numbers of pasted objects, so that they differ from those of the frame that takes them."""


@dataclass(frozen=True)
class Batch:
    """The tensors of a training step."""

    images: Tensor
    """N x channels x h x w float32: RGB, or grey; 0..``peak``."""
    labels: Tensor
    """N x h x w int64, 255 where ignored."""
    objects: Tensor
    """N x h x w int64 object map (``models.training.objects``); numbers above 255 are pasted objects."""
    weights: Tensor
    """N float32: share of each frame's semantic loss."""


@dataclass(frozen=True)
class Augmentation:
    """Random variations of a batch, all of them on the batch's device.

    Scale, crop, flip, a slight rotation and perspective are one bilinear sampling of the source, with half-pixel centres and
    without anti-aliasing, as ``plan.resize_image`` samples for factors below two.
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
    camera: float = 0.0
    """Strength of what another camera changes: hue, perspective, blur, JPEG; 0 for none."""
    paste: float = 0.0
    """Probability that a frame gets objects of another frame pasted in (Olsson et al., "ClassMix", WACV 2021)."""
    paste_classes: tuple[int, ...] = ()
    peak: float = 255.0
    """The largest value of an image; of one whose intensities a policy scaled, the policy's ceiling."""

    def __call__(self, frames: Frames, generator: torch.Generator) -> Batch:
        """Vary a batch.

        Takes:
            frames: N frames
            generator: a CPU generator, so that a seed gives the same variations on any device, the grain of the noise apart
        Gives:
            N frames of the crop's size
        """
        grid = self._grid(frames, generator)
        beyond = outside(frames.images)
        images = F.grid_sample(frames.images.float() - beyond, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        images += beyond
        labels, objects = _picked(frames.labels, grid, IGNORED), _picked(frames.objects, grid, 0)
        if self.paste > 0:
            images, labels, objects = self._pasted(images, labels, objects, generator)
        if self.color > 0:
            images = self._recolored(images, generator)
        if self.camera > 0:
            images = self._filmed(images, generator)
        return Batch(images, labels, objects, frames.weights)

    def _grid(self, frames: Frames, generator: torch.Generator) -> Tensor:
        """Where each output pixel is sampled, N x h x w x 2 in grid_sample's -1..1, (x, y)."""
        n, device = len(frames), frames.images.device
        padded_height, padded_width = frames.images.shape[2:]
        h, w = self.crop
        height, width = frames.sizes.to(device).float().T.view(2, n, 1, 1)
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
        if self.camera > 0:
            tilt = (torch.rand(2, n, 1, 1, generator=generator).to(device) * 2 - 1) * 0.12 * self.camera
            depth = 1 + tilt[0] * y + tilt[1] * x
            y, x = y / depth, x / depth
        dy, dx = y * half_y, x * half_x * flip
        source_x = center_x + torch.cos(angle) * dx - torch.sin(angle) * dy
        source_y = center_y + torch.sin(angle) * dx + torch.cos(angle) * dy
        return torch.stack([source_x / padded_width * 2 - 1, source_y / padded_height * 2 - 1], -1)

    def _pasted(
        self, images: Tensor, labels: Tensor, objects: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        n = len(images)
        donors = torch.roll(torch.arange(n), 1)
        takes = torch.rand(n, generator=generator) < self.paste
        chosen = (torch.rand(n, len(self.paste_classes), generator=generator) < 0.5) & takes[:, None]
        donors, chosen = donors.to(images.device), chosen.to(images.device)
        donor_labels, donor_objects = labels[donors], objects[donors]
        mask = torch.zeros_like(labels, dtype=torch.bool)
        for column, k in enumerate(self.paste_classes):
            mask |= (donor_labels == k) & chosen[:, column, None, None]
        known = (donor_objects > 0) & (donor_objects != UNSURE)
        return (
            torch.where(mask[:, None], images[donors], images),
            torch.where(mask, donor_labels, labels),
            torch.where(mask, donor_objects + known * DONOR, objects),
        )

    def _recolored(self, images: Tensor, generator: torch.Generator) -> Tensor:
        n, device = len(images), images.device

        def factor(reach: float, *shape: int) -> Tensor:
            spread = (torch.rand(n, *shape, generator=generator) * 2 - 1) * reach * self.color
            return torch.exp(spread).to(device).reshape(n, *shape, *([1] * (3 - len(shape))))

        x = (images / self.peak).clamp(1e-4, 1)
        x = x ** factor(0.4)
        x = x * factor(0.35) * factor(0.1, x.shape[1])  # exposure, white balance
        mean = x.mean((1, 2, 3), keepdim=True)
        x = (x - mean) * factor(0.35) + mean
        luma = _luma(x)
        x = (x - luma) * factor(0.6) + luma
        blurred = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        sharpness = (torch.rand(n, generator=generator) * 2 - 1).to(device).view(n, 1, 1, 1) * self.color  # < 0 blurs
        x = x + (x - blurred) * sharpness
        noise = torch.rand(n, generator=generator).to(device).view(n, 1, 1, 1) * 0.03 * self.color
        grain = torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))
        x = x + torch.randn(x.shape, generator=grain, device=device) * noise
        return (x * self.peak).clamp(0, self.peak)

    def _filmed(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Changes by another camera: the hue of all, the sharpness of a third, JPEG in a third; of grey, the sharpness."""
        chance = torch.rand(5, len(images), generator=generator)
        in_colour = images.shape[1] == 3
        filmed = self._turned(images, chance[0]) if in_colour else images.clone()
        for index in range(len(images)):
            if chance[1, index] < 0.33 * self.camera:
                filmed[index] = _blurred(filmed[index], 0.4 + 0.5 * float(chance[2, index]))
            if in_colour and chance[3, index] < 0.33 * self.camera:
                filmed[index] = _compressed(filmed[index], 25 + int(65 * float(chance[4, index])))
        return filmed

    def _turned(self, images: Tensor, chance: Tensor) -> Tensor:
        """Images of another hue: N x 3 x h x w and N chances, 0..1."""
        turn = ((chance * 2 - 1) * math.radians(18) * self.camera).to(images.device).view(-1, 1, 1, 1)
        luma = _luma(images)
        red_blue = images[:, ::2] - luma  # N x 2 x h x w: the red and the blue difference, turned in their plane
        red, blue = red_blue[:, :1], red_blue[:, 1:]
        red, blue = torch.cos(turn) * red - torch.sin(turn) * blue, torch.sin(turn) * red + torch.cos(turn) * blue
        green = -(0.299 * red + 0.114 * blue) / 0.587
        return (luma + torch.cat([red, green, blue], 1)).clamp(0, 255)


def _picked(plane: Tensor, grid: Tensor, outside: int) -> Tensor:
    """Nearest values of N x H x W uint8 at a grid, N x h x w int64; ``outside`` beyond the image."""
    shifted = plane.float().unsqueeze(1) - outside  # grid_sample gives 0 there
    sampled = F.grid_sample(shifted, grid, mode="nearest", padding_mode="zeros", align_corners=False) + outside
    return sampled.squeeze(1).round().long()


def _luma(images: Tensor) -> Tensor:
    """N x 3 x h x w to N x 1 x h x w (ITU-R BT.601); one channel is its own."""
    if images.shape[1] == 1:
        return images
    return (images * torch.tensor([0.299, 0.587, 0.114], device=images.device).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _blurred(image: Tensor, factor: float) -> Tensor:
    """An image as a coarser sensor sees it: 3 x h x w made smaller by a factor below 1, and large again."""
    small = F.interpolate(image[None], scale_factor=factor, mode="bilinear", align_corners=False, antialias=True)
    return F.interpolate(small, size=image.shape[1:], mode="bilinear", align_corners=False)[0]


def _compressed(image: Tensor, quality: int) -> Tensor:
    """An image after JPEG: 3 x h x w float, 0..255."""
    pixels = image.round().byte().permute(1, 2, 0).cpu().numpy()
    encoded = cv2.imencode(".jpg", np.ascontiguousarray(pixels), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = torch.from_numpy(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
    return decoded.permute(2, 0, 1).to(image)
