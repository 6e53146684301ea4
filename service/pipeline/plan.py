"""The size at which the network sees an image, and the way to it. Serving, training and evaluation resize with this file.

An image is stretched, without a border or an offset, to a size whose sides are multiples of the network's stride. Each side is
at most half a multiple away from the image's own aspect ratio. The way back is the same linear map. Scores are sampled at the
pixel centres of the original image, so rounding shifts no mask.
"""

from __future__ import annotations

import math
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from service.pipeline.manifest import InputPolicy

Pixel = TypeVar("Pixel", np.uint8, np.uint16, np.float32)

MAX_ELONGATION = 4.0
"""The largest aspect ratio with ``fit="area"``. A longer image is squeezed to it: the network would see more pixels of blur."""


def fit_size(height: int, width: int, policy: InputPolicy) -> tuple[int, int]:
    """Return the size at which the network sees an image.

    Takes:
        height, width: the upright image's size in pixels, each at least 1
        policy: the manifest's input policy
    Gives:
        (h, w), both multiples of ``policy.multiple`` and at least one multiple
    """
    target_h, target_w = policy.working_size
    if policy.fit == "native":
        return native_size(height, width, policy)
    if policy.fit == "stretch":
        h, w = float(target_h), float(target_w)
    else:
        aspect = min(max(width / height, 1 / MAX_ELONGATION), MAX_ELONGATION)
        h = math.sqrt(target_h * target_w / aspect)
        w = h * aspect
    return _round_to(h, policy.multiple), _round_to(w, policy.multiple)


def native_size(height: int, width: int, policy: InputPolicy) -> tuple[int, int]:
    """Return the size at which the network sees an image at the image's own resolution.

    Gives:
        (h, w), the image's size rounded to multiples of ``policy.multiple``
    """
    return _round_to(height, policy.multiple), _round_to(width, policy.multiple)


def least_size(policy: InputPolicy) -> tuple[int, int]:
    """Return the smallest network input, in pixels, that :func:`fit_size` can return.

    Takes:
        policy: the manifest's input policy
    Gives:
        (h, w)
    """
    target_h, target_w = policy.working_size
    m = policy.multiple
    if policy.fit == "native":
        return m, m
    if policy.fit == "stretch":
        return _round_to(target_h, m), _round_to(target_w, m)
    # Of the heights that round to one multiple the largest has the smallest width. 1e-9 covers rounding errors.
    pixels = target_h * target_w
    lowest, tallest = math.sqrt(pixels / MAX_ELONGATION), math.sqrt(pixels * MAX_ELONGATION)
    heights = range(_round_to(lowest, m), _round_to(tallest, m) + 1, m)
    sizes = [(h, _round_to((1 - 1e-9) * pixels / min(h + m / 2, tallest), m)) for h in heights]
    return min(sizes, key=math.prod)


def resize_image(image: NDArray[Pixel], size: tuple[int, int]) -> NDArray[Pixel]:
    """Resize to the network's size.

    Halves with a 2 x 2 mean while both sides are even and stay at or above the target. The rest is one bilinear step with
    half-pixel centres (cv2 INTER_LINEAR). Where that step would skip whole pixels, because an odd side stopped the halving, it
    is a mean over areas (cv2 INTER_AREA). So thin things survive a large reduction.

    Takes:
        image: H x W x 3 uint8, or H x W of uint8, uint16 or float32
        size: (h, w)
    Gives:
        the same dtype and channels at h x w; the same array where the size is already right
    """
    h, w = size
    while image.shape[0] >= 2 * h and image.shape[1] >= 2 * w and image.shape[0] % 2 == 0 and image.shape[1] % 2 == 0:
        image = _resized(image, image.shape[0] // 2, image.shape[1] // 2, cv2.INTER_AREA)
    if image.shape[:2] == (h, w):
        return image
    # An image that cannot be halved evenly is averaged where bilinear sampling would skip whole pixels.
    skips = image.shape[0] >= 2 * h or image.shape[1] >= 2 * w
    return _resized(image, h, w, cv2.INTER_AREA if skips else cv2.INTER_LINEAR)


def _resized(image: NDArray[Pixel], h: int, w: int, interpolation: int) -> NDArray[Pixel]:
    return np.asarray(cv2.resize(image, (w, h), interpolation=interpolation), image.dtype)


def _round_to(length: float, multiple: int) -> int:
    return max(1, round(length / multiple)) * multiple
