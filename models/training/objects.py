"""Objects in training: which components of a label map are single things, and what the heads must say of them.

Object maps are uint8: 0 where there is none, 1 .. 254 an object, :data:`UNSURE` where the objects of a countable class are not
known.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

UNSURE = 255
"""A pixel of a countable class whose object is not known: no loss of centres or offsets counts it."""
MOST = 254
"""Objects that a map can number."""
LEAST_PIXELS = 24
"""Fewer pixels than this of an object are unsure: they cover a cell or two, and their centre means little."""
SIGMA_PX = 8.0
"""Deviation of the Gaussian that marks a centre, in input pixels: Panoptic-DeepLab's, two cells of stride 4. Of a centre that
is known to s pixels, the best height is about 1 / (1 + s^2 / sigma^2): a narrower Gaussian makes heights low."""


@dataclass(frozen=True)
class Shape:
    """Conditions for a component of a class to count as one thing. Sizes are shares of the frame's height."""

    height: tuple[float, float]
    aspect: tuple[float, float]
    """Width over height of the bounding box."""
    solidity: float
    """Least share of the convex hull that is filled: cars in a row leave notches between their roofs."""


SHAPES = {
    "car": Shape(height=(0.03, 0.7), aspect=(0.75, 2.4), solidity=0.85),
    "pedestrian": Shape(height=(0.05, 0.7), aspect=(0.18, 0.52), solidity=0.70),
    "bicyclist": Shape(height=(0.06, 0.8), aspect=(0.25, 1.3), solidity=0.66),
}
"""By class name; components of other classes are never taken for single things."""
GAP = 0.006
"""Share of the frame's height that must lie between a single thing and another component of its class."""


def clear_objects(labels: NDArray[np.uint8], names: tuple[str, ...], things: tuple[int, ...]) -> NDArray[np.uint8]:
    """Find the components that are clearly single things.

    A component of a countable class is one if its class has a :class:`Shape` that it fits, the frame's border does not cut it,
    and no other component of its class lies within :data:`GAP` of it. All others are unsure.

    Takes:
        labels: H x W uint8 class ids, 255 where ignored
        names: class names in the order of their ids
        things: ids of the countable classes; CamVid's poles and signs are none: they are one to three pixels wide, their labels
            break and merge, and a score cell often holds two of them
    Gives:
        H x W uint8 object map
    """
    height, width = labels.shape
    objects = np.zeros((height, width), np.uint8)
    reach = max(1, round(GAP * height))
    number = 0
    for k in things:
        mask = (labels == k).astype(np.uint8)
        objects[mask != 0] = UNSURE
        count, components, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        shape = SHAPES.get(names[k])
        if shape is None:
            continue
        for component in range(1, count):
            left, top, wide, tall, _ = statistics[component].tolist()
            if left == 0 or top == 0 or left + wide == width or top + tall == height:
                continue
            box = (slice(max(top - reach, 0), top + tall + reach), slice(max(left - reach, 0), left + wide + reach))
            part = components[box]
            own = (part == component).astype(np.uint8)
            near = cv2.dilate(own, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) != 0
            alone = not np.any(near & (part != component) & (part != 0))
            if alone and number < MOST and _fits(own, wide, tall, height, shape):
                number += 1
                objects[box][own != 0] = number
    return objects


def _fits(mask: NDArray[np.uint8], wide: int, tall: int, frame: int, shape: Shape) -> bool:
    if not (shape.height[0] <= tall / frame <= shape.height[1] and shape.aspect[0] <= wide / tall <= shape.aspect[1]):
        return False
    points = cv2.findNonZero(mask)
    # The hull runs through pixel centres; half a pixel more on each side makes it comparable with a count of pixels.
    hull = cv2.convexHull(np.concatenate([points + shift for shift in ((0, 0), (1, 0), (0, 1), (1, 1))]))
    return bool(mask.sum() >= shape.solidity * cv2.contourArea(hull))


@dataclass(frozen=True)
class Targets:
    """The targets of the heads, at h x w cells."""

    centers: Tensor
    """N x h x w float32, 0..1: a Gaussian around each object's centre of mass; the largest where they overlap."""
    counted: Tensor
    """N x h x w bool: cells whose centre value is known."""
    offsets: Tensor
    """N x 2 x h x w float32: (dy, dx) in input pixels to the centre of the cell's object."""
    weights: Tensor
    """N x h x w float32: weight of a cell's offset, 1 / sqrt(cells of its object); 0 where there is none."""


def targets(objects: Tensor, labels: Tensor, stride: int, ignored: int) -> Targets:
    """Return the targets of the heads for a batch.

    Takes:
        objects: N x H x W int64 object map; numbers above 255 are objects too
        labels: N x H x W int64, ``ignored`` where unlabelled
        stride: pixels a cell
    """
    n, height, width = objects.shape
    middle = stride // 2
    cells = objects[:, middle::stride, middle::stride]
    h, w = cells.shape[1:]
    at_y = torch.arange(h, device=objects.device) * stride + (stride - 1) / 2
    at_x = torch.arange(w, device=objects.device) * stride + (stride - 1) / 2
    centers = torch.zeros(n, h, w, device=objects.device)
    offsets = torch.zeros(n, 2, h, w, device=objects.device)
    weights = torch.zeros(n, h, w, device=objects.device)
    counted = (cells != UNSURE) & (labels[:, middle::stride, middle::stride] != ignored)
    ys = torch.arange(height, device=objects.device, dtype=torch.float64)[:, None].expand(height, width)
    xs = torch.arange(width, device=objects.device, dtype=torch.float64)[None].expand(height, width)
    for index in range(n):
        inside = (objects[index] > 0) & (objects[index] != UNSURE)
        numbers = objects[index][inside]
        pixels = torch.bincount(numbers)
        sum_y, sum_x = torch.bincount(numbers, ys[inside]), torch.bincount(numbers, xs[inside])
        for number in torch.nonzero(pixels).flatten().tolist():
            own = cells[index] == number
            if pixels[number] < LEAST_PIXELS:
                counted[index] &= ~own
                continue
            y, x = (sum_y[number] / pixels[number]).float(), (sum_x[number] / pixels[number]).float()
            down, right = y - at_y, x - at_x
            blob = torch.exp(-(down**2) / (2 * SIGMA_PX**2))[:, None] * torch.exp(-(right**2) / (2 * SIGMA_PX**2))
            centers[index] = torch.maximum(centers[index], blob)
            row, column = torch.nonzero(own, as_tuple=True)
            offsets[index, 0, row, column], offsets[index, 1, row, column] = down[row], right[column]
            weights[index, row, column] = max(len(row), 1) ** -0.5
    return Targets(centers, counted, offsets, weights)
