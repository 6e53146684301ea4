"""The sheet that a scene is painted on: colour and class side by side, so that their edges cannot part.

Every stroke goes to both planes through the same rasteriser. World coordinates are metres in the street's frame: x to the
right of the camera's path, y up from the tarmac, z ahead along the street. Imports numpy and cv2 only.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.scenes.light import Color, Light

Image = NDArray[np.uint8]
Plane = NDArray[np.float32]
Points = NDArray[np.float64]

Planned = NDArray[np.uint16]

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)

COUNTABLE = (CAR, PEDESTRIAN, BICYCLIST)
"""Classes whose objects are told apart. Poles and signs are not: at the usual distances a cell of four pixels holds two."""

OBJECT = 16
"""A value of the plan is the class plus this times the object's number."""

SUBPIXEL_BITS = 4
NEAREST_M = 0.4


@dataclass(frozen=True)
class View:
    """A pinhole camera above a gently bending street, measured in samples of the canvas."""

    height: int
    width: int
    samples: int
    """Samples of the canvas along one side of a pixel of the picture."""
    focal: float
    column: float
    """Where the street's vanishing point lies across the canvas."""
    horizon: float
    """Its row."""
    eye_m: float
    bend: float
    """The street leaves the straight line by bend * z * z metres."""

    def project(self, points: Points) -> Points:
        """Takes: ... x 3 metres (x, y, z). Gives: ... x 2 samples (column, row)."""
        z = np.maximum(points[..., 2], NEAREST_M)
        scale = self.focal / z
        column = self.column + (points[..., 0] + self.bend * z * z) * scale
        row = self.horizon + (self.eye_m - points[..., 1]) * scale
        placed = np.empty((*points.shape[:-1], 2))
        placed[..., 0], placed[..., 1] = column, row
        return placed

    def scale(self, z: float) -> float:
        """Samples a metre at the distance z."""
        return self.focal / max(z, NEAREST_M)


class Canvas:
    """Colour (h x w x 3 uint8 RGB) and plan (h x w uint16) of one scene, and the light that falls on it.

    The plan holds the class and the number of the object that was painted last at each sample: class + OBJECT * number.
    """

    def __init__(self, view: View, light: Light, noise: "Noise") -> None:
        self.view = view
        self.light = light
        self.noise = noise
        self.color: Image = np.zeros((view.height, view.width, 3), np.uint8)
        self.plan: Planned = np.full((view.height, view.width), SKY, np.uint16)
        self.number = 0
        """Number of the object that is being painted, 0..4095."""

    def labels(self, step: int) -> Image:
        """Classes of every ``step``-th sample, h / step x w / step uint8."""
        return np.ascontiguousarray(self._middle(step) % OBJECT).astype(np.uint8)

    def objects(self, step: int) -> Planned:
        """Objects of the countable classes at every ``step``-th sample: 1, 2, ... far to near; 0 elsewhere."""
        plan = self._middle(step)
        numbers = np.where(np.isin(plan % OBJECT, COUNTABLE), plan // OBJECT, 0)
        found, ranks = np.unique(numbers, return_inverse=True)
        objects: Planned = (ranks.reshape(plan.shape) + (found[0] > 0)).astype(np.uint16)
        return objects

    def _middle(self, step: int) -> Planned:
        middle: Planned = self.plan[step // 2 :: step, step // 2 :: step]
        return middle

    def _value(self, label: int) -> int:
        return label + OBJECT * self.number

    def fill(self, polygon: Points, color: Color, label: int) -> None:
        """Takes: a convex polygon, N x 2 samples (column, row)."""
        corners = _fixed(polygon)
        cv2.fillConvexPoly(self.color, corners, color, cv2.LINE_8, SUBPIXEL_BITS)
        cv2.fillConvexPoly(self.plan, corners, (self._value(label),), cv2.LINE_8, SUBPIXEL_BITS)

    def quads(self, polygons: Points, colors: Points, label: int) -> None:
        """Fill many in order. Takes: N x 4 x 2 samples, N x 3 RGB 0..255."""
        for corners, color in zip(_fixed(polygons), colors.tolist(), strict=True):
            cv2.fillConvexPoly(self.color, corners, color, cv2.LINE_8, SUBPIXEL_BITS)
            cv2.fillConvexPoly(self.plan, corners, (self._value(label),), cv2.LINE_8, SUBPIXEL_BITS)

    def face(self, corners: Points, color: Color, label: int, gain: float = 1.0) -> None:
        """Paint a flat convex face in one tone. Takes: N x 3 metres; the colour by white light."""
        tone = self.light.tone(color, gain, float(corners[:, 2].mean()))
        self.fill(self.view.project(corners), tone, label)

    def texture(self, corners: Points, texture: Image, label: int) -> None:
        """Lay a picture on a flat quad, in perspective.

        Takes:
            corners: 4 x 3 metres: the texture's top left, top right, bottom right, bottom left
            texture: any height x any width x 3 uint8 RGB, light and haze already in it
        """
        quad = self.view.project(corners)
        box = self._visible(quad)
        if box is None:
            return
        left, top, right, bottom = box
        height, width = texture.shape[:2]
        source = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32) - 0.5
        target = (quad - (left, top)).astype(np.float32)
        mask: Image = np.zeros((bottom - top, right - left), np.uint8)
        cv2.fillConvexPoly(mask, _fixed(target.astype(np.float64)), (255,), cv2.LINE_8, SUBPIXEL_BITS)
        laid = cv2.warpPerspective(
            texture,
            cv2.getPerspectiveTransform(source, target),
            (right - left, bottom - top),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        cv2.copyTo(laid, mask, self.color[top:bottom, left:right])
        self.plan[top:bottom, left:right][mask != 0] = self._value(label)

    def foliage(self, sprite: Plane, box: tuple[float, float, float, float], color: Color, grain: float, label: int) -> None:
        """Stand a sprite upright on the canvas.

        Takes:
            sprite: h x w x 3 float32: how surely the plant covers a place (over 0.5 it does), how
                opaque it is there, how bright
            box: left, top, right, bottom in samples
            color: what a brightness of 1 is
            grain: samples to a leaf
        """
        left, top, right, bottom = box
        roi = self._visible(np.array([[left, top], [right, bottom]]))
        if roi is None:
            return
        x0, y0, x1, y1 = roi
        height, width = sprite.shape[:2]
        step_x, step_y = width / (right - left), height / (bottom - top)
        inverse = np.array([[step_x, 0, (x0 - left + 0.5) * step_x - 0.5], [0, step_y, (y0 - top + 0.5) * step_y - 0.5]])
        placed = cv2.warpAffine(
            sprite, inverse, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderValue=(0.0, 0.0, 0.0)
        )
        leaves = self.noise.patch(y1 - y0, x1 - x0, max(grain, 1.0))
        mask = placed[..., 0] + 0.16 * leaves > 0.5
        if not mask.any():
            return
        opacity = np.clip(placed[..., 1][mask] + 0.3 * leaves[mask], 0, 1)[:, None]
        bright = np.maximum(placed[..., 2][mask] * (1 + 0.3 * leaves[mask]), 0.05)[:, None]
        behind = self.color[y0:y1, x0:x1][mask]
        paint = bright * np.array(color, np.float32)
        self.color[y0:y1, x0:x1][mask] = np.clip(behind + (paint - behind) * opacity, 0, 255).astype(np.uint8)
        self.plan[y0:y1, x0:x1][mask] = self._value(label)

    def veil(self, polygon: Points, color: Color, opacity: float, label: int) -> None:
        """A see-through thing (railings, spokes): it is its class all over, and what is behind shows faintly."""
        box = self._visible(polygon)
        if box is None:
            return
        left, top, right, bottom = box
        mask: Image = np.zeros((bottom - top, right - left), np.uint8)
        cv2.fillConvexPoly(mask, _fixed(polygon - (left, top)), (255,), cv2.LINE_8, SUBPIXEL_BITS)
        inside = mask != 0
        part = self.color[top:bottom, left:right]
        part[inside] = (part[inside] * (1 - opacity) + np.array(color, np.float32) * opacity).astype(np.uint8)
        self.plan[top:bottom, left:right][inside] = self._value(label)

    def shadow(self, ground: Points, depth: float, softness: float) -> None:
        """Darken the ground under a thing. Takes: N x 3 metres at y = 0; depth 0..1; softness in samples. Labels stay."""
        polygon = self.view.project(ground)
        margin = 2 * softness + 1
        box = self._visible(np.concatenate([polygon - margin, polygon + margin]))
        if box is None:
            return
        left, top, right, bottom = box
        mask: Plane = np.zeros((bottom - top, right - left), np.float32)
        cv2.fillConvexPoly(mask, _fixed(polygon - (left, top)), (depth,), cv2.LINE_8, SUBPIXEL_BITS)
        if softness >= 0.7:
            mask = np.asarray(
                cv2.blur(cv2.blur(mask, (_odd(softness), _odd(softness))), (_odd(softness), _odd(softness))), np.float32
            )
        part = self.color[top:bottom, left:right]
        np.copyto(part, (part * (1 - mask[..., None])).astype(np.uint8))

    def _visible(self, points: Points) -> tuple[int, int, int, int] | None:
        """The part of the points' bounding box inside the canvas: left, top, right, bottom; None if empty."""
        low, high = np.floor(points.min(axis=0)) - 1, np.ceil(points.max(axis=0)) + 2
        left, top = max(int(low[0]), 0), max(int(low[1]), 0)
        right, bottom = min(int(high[0]), self.view.width), min(int(high[1]), self.view.height)
        return (left, top, right, bottom) if left < right and top < bottom else None


class Noise:
    """Two square tiles of noise, from which every texture of a scene takes its patches."""

    SIDE = 384

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._white: Plane = rng.standard_normal((self.SIDE, self.SIDE), np.float32)
        cloud = np.zeros((self.SIDE, self.SIDE), np.float32)
        for octave in range(6):
            cells = 3 * 2**octave
            waves = rng.standard_normal((cells, cells), np.float32)
            cloud += (
                np.asarray(cv2.resize(waves, (self.SIDE, self.SIDE), interpolation=cv2.INTER_CUBIC), np.float32) * 0.62**octave
            )
        self._cloud: Plane = (cloud - cloud.mean()) / cloud.std()

    def patch(self, height: int, width: int, scale: float) -> Plane:
        """White noise, height x width float32, deviation 1, each grain `scale` pixels wide."""
        return self._patch(self._white, height, width, scale, scale)

    def cloud(self, height: int, width: int, scale_x: float, scale_y: float) -> Plane:
        """Noise of all frequencies, height x width float32, deviation 1; a tile of 384 cells is stretched by the scales."""
        return self._patch(self._cloud, height, width, scale_x, scale_y)

    def at(self, x: Plane, y: Plane) -> Plane:
        """The cloud at places given in cells, any shape, float32."""
        offset = np.float32(self._rng.uniform(0, self.SIDE))
        found = cv2.remap(self._cloud, x + offset, y + offset, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        return np.asarray(found, np.float32)

    def _patch(self, tile: Plane, height: int, width: int, scale_x: float, scale_y: float) -> Plane:
        start = self._rng.uniform(0, self.SIDE, 2)
        inverse = np.array([[1 / scale_x, 0, start[0]], [0, 1 / scale_y, start[1]]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        found = cv2.warpAffine(tile, inverse, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)
        return np.asarray(found, np.float32)


def _fixed(polygon: Points) -> NDArray[np.int32]:
    return np.rint(polygon * (1 << SUBPIXEL_BITS)).astype(np.int32)


def _odd(size: float) -> int:
    return 2 * int(size / 2) + 1
