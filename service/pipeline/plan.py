"""The size at which the network sees an image, and the way to it. Serving, training and evaluation resize with this file.

An image is stretched, without a border or an offset, to a size whose sides are multiples of the network's stride. Each side is
at most half a multiple away from the image's own aspect ratio. The way back is the same linear map. Scores are sampled at the
pixel centres of the original image, so rounding shifts no mask.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from service.pipeline.manifest import InputPolicy

Pixel = TypeVar("Pixel", np.uint8, np.uint16, np.float32)

MAX_ELONGATION = 4.0
"""The largest aspect ratio with ``fit="area"``. A longer image is squeezed to it: the network would see more pixels of blur."""

_SUMS = {np.dtype(np.uint8): np.uint16, np.dtype(np.uint16): np.uint32}
"""The type that holds 256 times the numbers of another one."""

MIXED_ROWS = 64
"""Rows that are mixed at a time by :func:`stretched`."""


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
    for _ in range(halvings((image.shape[0], image.shape[1]), size)):
        image = _resized(image, image.shape[0] // 2, image.shape[1] // 2, cv2.INTER_AREA)
    if image.shape[:2] == (h, w):
        return image
    # An image that cannot be halved evenly is averaged where bilinear sampling would skip whole pixels.
    skips = image.shape[0] >= 2 * h or image.shape[1] >= 2 * w
    return _resized(image, h, w, cv2.INTER_AREA if skips else cv2.INTER_LINEAR)


def halvings(whole: tuple[int, int], size: tuple[int, int]) -> int:
    """Return how often :func:`resize_image` halves a picture before its last step.

    Takes:
        whole: (H, W) of the picture
        size: (h, w) of the network's input
    """
    (height, width), (h, w) = whole, size
    count = 0
    while height >= 2 * h and width >= 2 * w and height % 2 == 0 and width % 2 == 0:
        height, width, count = height // 2, width // 2, count + 1
    return count


def halved(bands: Iterable[NDArray[Pixel]], times: int) -> Iterator[NDArray[Pixel]]:
    """Halve a picture that comes by rows, as :func:`resize_image` does.

    Takes:
        bands: n x W x 3 uint8 each, or n x W of uint8, uint16 or float32, from the top row to the bottom one; their heights
            together, and W, are multiples of 2 ** ``times``
    """
    cells = 1 << times
    held: NDArray[Pixel] | None = None
    for band in bands:
        held = band if held is None else np.concatenate([held, band])
        rows = len(held) // cells * cells
        if rows:
            small = held[:rows]
            for _ in range(times):
                small = _resized(small, len(small) // 2, small.shape[1] // 2, cv2.INTER_AREA)
            yield small
        held = held[rows:].copy()


def native_image(image: NDArray[Pixel], size: tuple[int, int]) -> NDArray[Pixel]:
    """Bring a picture to its :func:`native_size`, as :func:`stretched` does by rows.

    Takes:
        image: H x W x 3 uint8, or H x W of uint8, uint16 or float32
        size: (h, w)
    Gives:
        the same dtype and channels at h x w; the same array where the size is already right
    """
    found = list(stretched([image], (image.shape[0], image.shape[1]), size))
    return found[0] if len(found) == 1 else np.concatenate(found)


def stretched(bands: Iterable[NDArray[Pixel]], whole: tuple[int, int], size: tuple[int, int]) -> Iterator[NDArray[Pixel]]:
    """Stretch a picture that comes by rows: bilinear with half-pixel centres; whole numbers are rounded after columns and after
    rows.

    The pixels do not depend on how the rows come, so a picture read by rows equals the same picture read whole.

    Takes:
        bands: n x W x 3 uint8 each, or n x W of uint8, uint16 or float32, from the top row to the bottom one
        whole: (H, W) of the picture
        size: (h, w)
    Gives:
        the same dtype and channels at n x w each, from top to bottom; together h rows
    """
    (height, width), (h, w) = whole, size
    position = np.clip((np.arange(h) + 0.5) * (height / h) - 0.5, 0, height - 1)
    upper = position.astype(np.intp)
    lower = np.minimum(upper + 1, height - 1)
    share = np.rint((position - upper) * 256).astype(np.uint16)
    held: NDArray[Pixel] | None = None
    top, done = 0, 0
    for stored in bands:
        # With as many rows as before, this step is one along the columns alone.
        band = stored if w == width else _resized(stored, len(stored), w, cv2.INTER_LINEAR)
        if h == height:
            yield band
            continue
        held = band if held is None else np.concatenate([held, band])
        last = int(np.searchsorted(lower, top + len(held)))
        for first in range(done, last, MIXED_ROWS):
            rows = slice(first, min(first + MIXED_ROWS, last))
            yield _mixed(held[upper[rows] - top], held[lower[rows] - top], share[rows])
        done = last
        kept = int(upper[done]) if done < h else height
        held, top = held[kept - top :].copy(), kept


def _mixed(above: NDArray[Pixel], below: NDArray[Pixel], share: NDArray[np.uint16]) -> NDArray[Pixel]:
    """Mix two rows for each row.

    Takes:
        share: of the lower one, in 256 parts
    """
    each = share.reshape(-1, *[1] * (above.ndim - 1))
    sums: Any = _SUMS.get(above.dtype)
    if sums is None:
        part: NDArray[Any] = each.astype(np.float32) / 256
        return np.asarray(above * (1 - part) + below * part, above.dtype)
    mixed = above.astype(sums) * (256 - each) + below.astype(sums) * each
    return np.asarray((mixed + sums(128)) >> 8, above.dtype)


def _resized(image: NDArray[Pixel], h: int, w: int, interpolation: int) -> NDArray[Pixel]:
    return np.asarray(cv2.resize(image, (w, h), interpolation=interpolation), image.dtype)


def _round_to(length: float, multiple: int) -> int:
    return max(1, round(length / multiple)) * multiple
