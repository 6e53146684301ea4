"""Trees in leaf, bare winter trees, hedges and bushes, as sprites of noise. Imports numpy and cv2 only.

A bare crown is tree to its outline: the sky that glimmers between its twigs belongs to it, as annotators draw it.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from models.scenes.canvas import TREE, Canvas, Image, Noise, Plane
from models.scenes.light import Color

LEAVES: list[Color] = [(74, 88, 48), (60, 74, 44), (92, 100, 62), (48, 58, 40), (100, 98, 66), (98, 86, 60)]
BARK: list[Color] = [(66, 58, 48), (54, 48, 42), (84, 76, 62)]
CROWN_PX = 144


@dataclass(frozen=True)
class Species:
    """A crown's sprite and what it is made of: the trees of one scene share a few."""

    sprite: Plane
    """CROWN_PX square, 3 channels: cover, opacity, brightness."""
    color: Color
    bare: bool


def grow_species(noise: Noise, rng: np.random.Generator, side_of_sun: float, bare: bool) -> Species:
    """A new kind of tree. The sun's side is -1 (left) to 1 (right)."""
    if bare:
        return Species(_bare_crown(noise, rng), BARK[int(rng.integers(len(BARK)))], True)
    return Species(_leafy_crown(noise, rng, side_of_sun), LEAVES[int(rng.integers(len(LEAVES)))], False)


def paint_tree(
    canvas: Canvas, species: Species, x: float, z: float, height: float, width: float, rng: np.random.Generator
) -> None:
    """A trunk and a crown. The place is the trunk's foot, metres; so are height and width."""
    light = canvas.light
    gain = light.ambient * 0.85 + 0.45 * light.sun * max(0.0, 0.6 - 0.4 * light.direction[2])
    radius = 0.018 * height + 0.06
    clear = height * (0.12 if species.bare else rng.uniform(0.16, 0.32))
    top = clear + (0.1 if species.bare else 0.3) * height
    bark = BARK[0]
    for left, right, tone in ((-1.0, 1.0, 0.8), (0.1, 0.8, 1.2) if light.direction[0] > 0 else (-0.8, -0.1, 1.2)):
        trunk = np.array(
            [
                [x + left * radius * 1.3, 0, z],
                [x + right * radius * 1.3, 0, z],
                [x + right * radius * 0.6, top, z],
                [x + left * radius * 0.6, top, z],
            ]
        )
        canvas.face(trunk, bark, TREE, gain * tone)
    foot = canvas.view.project(np.array([x, clear, z]))
    scale = canvas.view.scale(z)
    box = (foot[0] - width * scale / 2, foot[1] - (height - clear) * scale, foot[0] + width * scale / 2, foot[1])
    sprite = species.sprite[:, ::-1] if rng.random() < 0.5 and not light.sun else species.sprite
    canvas.foliage(sprite, box, light.tone(species.color, gain, z), scale * (0.05 if species.bare else 0.11), TREE)


def paint_hedge(
    canvas: Canvas, corners: tuple[float, float, float, float], height: float, color: Color, rng: np.random.Generator
) -> None:
    """A hedge from (x0, z0) to (x1, z1), its top ragged, darker towards the ground."""
    x0, z0, x1, z1 = corners
    light = canvas.light
    normal = (float(-np.sign(x0 + x1)), 0.25, -0.3)
    gain = light.ambient * 0.85 + light.sun * 0.6 * max(0.0, float(np.dot(normal, light.direction)))
    quad = canvas.view.project(np.array([[x0, height, z0], [x1, height, z1], [x1, 0, z1], [x0, 0, z0]]))
    wide = int(np.clip(np.abs(quad[1, 0] - quad[0, 0]) / canvas.view.samples, 8, 900))
    tall = int(np.clip(np.abs(quad[3, 1] - quad[0, 1]) / canvas.view.samples, 4, 500))
    grain = max(tall / height * 0.09, 1.0)
    leaves = canvas.noise.patch(tall, wide, grain) + 0.5 * canvas.noise.cloud(tall, wide, wide / 100 + 0.1, tall / 60 + 0.1)
    fall = np.linspace(1.2, 0.55, tall, dtype=np.float32)[:, None]
    z = np.linspace(z0, z1, wide, dtype=np.float32)
    haze = (1 - np.exp(-z / light.visibility_m))[None, :, None]
    seen = np.array(color, np.float32) * (np.float32(gain) * fall * np.maximum(1 + 0.28 * leaves, 0.2))[..., None]
    seen = seen * np.array(light.tint, np.float32)
    seen += (np.array(light.horizon, np.float32) - seen) * haze
    texture = np.clip(seen, 0, 255).astype(np.uint8)
    canvas.texture(np.array([[x0, height, z0], [x1, height, z1], [x1, 0, z1], [x0, 0, z0]], np.float64), texture, TREE)
    steps = max(int(abs(z1 - z0) + abs(x1 - x0)), 1)
    for place in rng.uniform(0, 1, steps):
        z_at = z0 + (z1 - z0) * place
        middle = canvas.view.project(np.array([x0 + (x1 - x0) * place, height * 0.97, z_at]))
        size = rng.uniform(0.15, 0.4) * canvas.view.scale(z_at)
        turns = np.linspace(0, 2 * np.pi, 11)[:-1] + rng.uniform(0, 1)
        ragged = size * rng.uniform(0.7, 1.1, 10)
        tuft = middle + np.column_stack([np.cos(turns) * ragged * 1.4, np.sin(turns) * ragged * 0.6])
        canvas.fill(
            cv2.convexHull(tuft.astype(np.float32))[:, 0].astype(np.float64),
            light.tone(color, gain * rng.uniform(0.9, 1.35), z_at),
            TREE,
        )


def _leafy_crown(noise: Noise, rng: np.random.Generator, side_of_sun: float) -> Plane:
    """A heap of overlapping clumps, each lit from its sunny upper side."""
    place = np.arange(CROWN_PX, dtype=np.float32) / CROWN_PX
    rows, columns = place[:, None], place[None, :]
    cover: Plane = np.full((CROWN_PX, CROWN_PX), -1, np.float32)
    bright: Plane = np.zeros((CROWN_PX, CROWN_PX), np.float32)
    for _ in range(int(rng.integers(16, 26))):
        angle, reach = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 1)) * 0.32
        x, y, radius = 0.5 + reach * np.cos(angle), 0.48 + reach * 1.05 * np.sin(angle), rng.uniform(0.09, 0.2)
        dx, dy = (columns - x) / radius, (rows - y) / radius
        clump = 1 - dx * dx - dy * dy
        closer = clump > cover
        shade = 0.75 - 0.42 * dy + 0.22 * side_of_sun * dx - 0.5 * (y - 0.4)
        bright[closer] = shade[closer]
        cover[closer] = clump[closer]
    leaves = noise.cloud(CROWN_PX, CROWN_PX, 0.55, 0.55)
    leaves[cover < -0.35] = 0  # none fly about far from the crown
    cover = np.asarray(0.5 + 0.55 * cover + 0.13 * leaves, np.float32)
    bright = np.asarray(np.clip(bright * (1 + 0.25 * leaves), 0.15, 1.7), np.float32)
    return np.dstack([cover, np.ones_like(cover) * 1.2, bright])


def _bare_crown(noise: Noise, rng: np.random.Generator) -> Plane:
    """Branches that fork until they are twigs, and the veil of twigs too fine to draw around them."""
    side = CROWN_PX * 2
    branches: Image = np.zeros((side, side), np.uint8)
    foot, heading, length, thick = np.array([[side * 0.5, side]]), np.array([-np.pi / 2]), np.array([side * 0.16]), side * 0.02
    for level in range(9):
        swung = heading + rng.normal(0, 0.12, len(heading))
        tip = foot + np.column_stack([np.cos(swung), np.sin(swung)]) * length[:, None]
        lines = np.round(np.stack([foot, tip], axis=1) * 16).astype(np.int32)
        cv2.polylines(branches, list(lines), False, (255 if thick >= 1 else 150,), max(round(thick), 1), cv2.LINE_AA, 4)
        forks = 3 if level in (1, 3) else 2
        fan = np.tile(np.arange(forks) - (forks - 1) / 2, len(heading))
        heading = np.repeat(heading, forks) + fan * rng.uniform(0.45, 0.75, len(fan)) + rng.normal(0, 0.12, len(fan))
        foot, length = np.repeat(tip, forks, axis=0), np.repeat(length, forks) * rng.uniform(0.72, 0.92, len(fan))
        thick *= 0.66
        if len(heading) > 360:
            kept = rng.choice(len(heading), 360, replace=False)
            foot, heading, length = foot[kept], heading[kept], length[kept]
    fine = np.asarray(cv2.resize(branches, (CROWN_PX, CROWN_PX), interpolation=cv2.INTER_AREA), np.float32) / 255
    density = np.asarray(cv2.GaussianBlur(fine, (0, 0), CROWN_PX * 0.02), np.float32)
    veil = np.clip(density * 4.0, 0, 0.9) * (1 + 0.12 * noise.cloud(CROWN_PX, CROWN_PX, 0.5, 0.5))
    cover = np.maximum(veil, np.clip(fine * 2.0, 0, 1.2))
    twigs = noise.patch(CROWN_PX, CROWN_PX, 1.0)
    opacity = np.clip(0.12 + 0.45 * density + 0.14 * twigs, 0.04, 0.7)
    return np.dstack([cover, np.maximum(opacity, np.clip(fine * 1.7, 0, 1.3)), np.full_like(cover, 0.8)])
