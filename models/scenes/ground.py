"""Sky and ground: everything that is computed for each sample rather than painted as a shape. Imports numpy and cv2 only."""

from dataclasses import dataclass

import cv2
import numpy as np

from models.scenes.canvas import PAVEMENT, ROAD, SKY, SUBPIXEL_BITS, TREE, Canvas, Image, Plane, Points, View

FARTHEST_M = 900.0
KERB_M = 0.14
GUTTER_M = 0.22

# Surfaces are the classes' ids, and beyond them kinds that are told apart by colour alone.
KERB, GUTTER, REPAIR, PALE_REPAIR, DRAIN, WHITE_LINE, YELLOW_LINE, BEYOND_LAST = range(11, 19)
LABELS: Image = np.arange(BEYOND_LAST, dtype=np.uint8)
LABELS[KERB] = PAVEMENT
LABELS[GUTTER:] = ROAD

Stroke = tuple[Points, int]
"""A convex outline on the road, N x 3 metres at y = 0, and its surface."""


@dataclass(frozen=True)
class Side:
    """The strips on one side of the carriageway, in metres from the camera's path (left is negative)."""

    sign: int
    kerb: float
    front: float
    """Where the pavement ends and buildings or gardens begin."""
    beyond: int
    """The class of the ground beyond it: TREE for grass, PAVEMENT for paving."""
    shadow_m: float
    """How far from the front the buildings' shadow reaches over the street; 0 if the sun is on the other side."""


@dataclass(frozen=True)
class Junction:
    """A side street's mouth: from near to far metres ahead, on the sides named by their signs."""

    near: float
    far: float
    signs: tuple[int, ...]


def paint_sky(canvas: Canvas) -> None:
    """A gradient and clouds, from the top to below the horizon."""
    view, light = canvas.view, canvas.light
    rows = min(max(int(view.horizon) + 2, 1), view.height)
    height, width = max(rows // view.samples, 1), max(view.width // view.samples, 1)
    rise = np.linspace(1, 0, height, dtype=np.float32)[:, None, None]
    low, high = np.array(light.horizon, np.float32), np.array(light.zenith, np.float32)
    sky = low + (high - low) * rise**0.8
    # Clouds lie in a flat layer: towards the horizon they are seen from the side and grow long and thin.
    scale = width / 150
    cloud = canvas.noise.cloud(height, width, 1.6 * scale, 0.7 * scale)[..., None]
    cover = np.clip(cloud * 0.55 + light.clouds - 0.45, -0.6, 1) * light.clouds
    sky = sky + cover * (np.float32(252) - sky) * 0.9 if light.sun > 0 else sky * (1 + 0.35 * np.minimum(cover, 0.5))
    small = np.clip(sky, 0, 255).astype(np.uint8)
    canvas.color[:rows] = cv2.resize(small, (view.width, rows), interpolation=cv2.INTER_LINEAR)
    canvas.color[rows:] = np.array(light.horizon, np.uint8)
    canvas.plan[:] = SKY


def paint_ground(
    canvas: Canvas, left: Side, right: Side, junctions: list[Junction], strokes: list[Stroke], rng: np.random.Generator
) -> None:
    """Tarmac with its markings, kerbs, pavements and what lies beyond; their wear, and the buildings' shadow over them."""
    view, light, noise = canvas.view, canvas.light, canvas.noise
    top = min(max(int(np.floor(view.horizon + view.focal * view.eye_m / FARTHEST_M)) + 1, 0), view.height)
    if top >= view.height:
        return
    rows = np.arange(top, view.height, dtype=np.float32)
    columns = np.arange(view.width, dtype=np.float32)
    z, x = _places(view, rows, columns)

    bare = _surfaces(view, rows, left, right, junctions)
    marked = bare.copy()
    for outline, kind in strokes:
        if outline[:, 2].min() > 1.2:
            painted = (view.project(outline) - (0, top)) * (1 << SUBPIXEL_BITS)
            cv2.fillConvexPoly(marked, np.rint(painted).astype(np.int32), (kind,), cv2.LINE_8, SUBPIXEL_BITS)
    shown = np.where(bare == ROAD, marked, bare)

    # Soft things are computed once a pixel and spread over its samples.
    coarse_z, coarse_x = _places(view, rows[:: view.samples], columns[:: view.samples])
    patches = noise.at(coarse_x * 9.0, np.broadcast_to(coarse_z * 4.0, coarse_x.shape).astype(np.float32))
    lane = np.cos((coarse_x - (left.kerb + right.kerb) / 4) * np.float32(2 * np.pi / 1.7)) * np.float32(0.025)
    gain = _daylight(light.gain((0.0, 1.0, 0.0)), light.shade, coarse_x, coarse_z, (left, right), rng)
    if light.sun > 0:
        gain -= (gain - np.float32(light.shade)) * _dapple(canvas, coarse_x, coarse_z, rng) * np.float32(0.85)
    spread = np.dstack([1 + 0.055 * patches + lane, gain])
    wide = np.asarray(cv2.resize(spread, (view.width, view.height - top), interpolation=cv2.INTER_LINEAR), np.float32)

    fine = noise.patch(x.shape[0], x.shape[1], max(view.focal / 500, 1.0))
    rough = np.full(BEYOND_LAST, 1.0, np.float32)
    rough[TREE] = 2.2
    rough[[WHITE_LINE, YELLOW_LINE]] = 1.6
    near = np.exp(-z / 22)  # grains are seen near by and melt together farther away
    factor = wide[..., 0] + (0.03 + 0.045 * near) * fine * rough[shown]
    paved = np.nonzero(shown == PAVEMENT)
    joint = (x[paved] % 0.75 < 0.05) | (z[paved[0], 0] % 0.6 < 0.045)
    factor[paved] -= joint * (0.2 * np.exp(-z[paved[0], 0] / 14))
    factor *= wide[..., 1]
    haze = 1 - np.exp(-z / light.visibility_m)
    factor *= 1 - haze

    palette = _palette(rng)
    seen = cv2.merge([palette[:, channel][shown] * factor * np.float32(light.tint[channel]) for channel in range(3)])
    seen = np.asarray(seen, np.float32) + haze[..., None] * np.array(light.horizon, np.float32)
    canvas.color[top:] = cv2.convertScaleAbs(np.maximum(seen, 0))
    canvas.plan[top:] = LABELS[shown]


def _places(view: View, rows: Plane, columns: Plane) -> tuple[Plane, Plane]:
    """Where the ground under the samples is. Gives: z, h x 1, and x, h x w, metres, float32."""
    z = np.minimum(view.focal * view.eye_m / np.maximum(rows[:, None] - view.horizon, 1e-3), FARTHEST_M).astype(np.float32)
    x = (columns[None, :] - np.float32(view.column)) * (z / np.float32(view.focal)) - np.float32(view.bend) * z * z
    return z, x


def _surfaces(view: View, rows: Plane, left: Side, right: Side, junctions: list[Junction]) -> Image:
    """Which surface lies at each sample of these rows. Gives h x w uint8.

    Along a row the surfaces follow each other in a fixed order, so that a row is a few slices.
    """
    z, _ = _places(view, rows, np.zeros(1, np.float32))
    edges = np.array([left.front, left.kerb - KERB_M, left.kerb, left.kerb + GUTTER_M])
    edges = np.concatenate([edges, [right.kerb - GUTTER_M, right.kerb, right.kerb + KERB_M, right.front]])
    columns = view.column + (edges[None, :] + view.bend * z * z) * (view.focal / z)  # rows x edges
    stops = np.clip(np.ceil(columns), 0, view.width).astype(int).tolist()
    order = (left.beyond, PAVEMENT, KERB, GUTTER, ROAD, GUTTER, KERB, PAVEMENT, right.beyond)
    surface: Image = np.empty((len(rows), view.width), np.uint8)
    for row, ends, distance in zip(surface, stops, z[:, 0].tolist(), strict=True):
        start = 0
        for kind, end in zip(order, (*ends, view.width), strict=True):
            row[start:end] = kind
            start = end
        for junction in junctions:
            if junction.near < distance < junction.far:
                if -1 in junction.signs:
                    row[: ends[3]] = ROAD
                if 1 in junction.signs:
                    row[ends[4] :] = ROAD
    return surface


def _palette(rng: np.random.Generator) -> Plane:
    """The surfaces' colours by white light. Gives BEYOND_LAST x 3 float32."""
    tarmac, paving, warm = rng.uniform(84, 112), rng.uniform(98, 136), rng.uniform(-4, 5)
    paint = rng.uniform(160, 220)
    palette = np.zeros((BEYOND_LAST, 3), np.float32)
    palette[ROAD] = (tarmac + warm, tarmac + 1, tarmac + 4 - warm)
    palette[GUTTER] = palette[ROAD] * 0.8
    palette[PAVEMENT] = (paving + 4, paving, paving - 5)
    palette[KERB] = palette[PAVEMENT] * 1.2
    palette[TREE] = (rng.uniform(78, 100), rng.uniform(96, 116), rng.uniform(48, 60))
    palette[REPAIR] = palette[ROAD] * rng.uniform(0.75, 0.88)
    palette[PALE_REPAIR] = palette[ROAD] * rng.uniform(1.06, 1.16)
    palette[DRAIN] = palette[ROAD] * 0.68
    palette[WHITE_LINE] = (paint, paint, paint - 4)
    palette[YELLOW_LINE] = (paint * 0.92, paint * 0.78, paint * 0.36)
    return palette


def _daylight(lit: float, shade: float, x: Plane, z: Plane, sides: tuple[Side, Side], rng: np.random.Generator) -> Plane:
    """How bright level ground is at each place: houses of uneven height throw an uneven shadow. Gives h x w float32."""
    gain = np.full(x.shape, lit, np.float32)
    for side in sides:
        if side.shadow_m > 0:
            edges = np.cumsum(rng.uniform(5, 16, 60)).astype(np.float32)
            reach = (side.shadow_m * rng.uniform(0.75, 1.2, 61)).astype(np.float32)[np.searchsorted(edges, z)]
            inside = np.clip(0.5 - ((side.front - x) * side.sign - reach) / 0.3, 0, 1)
            gain -= inside * np.float32(lit - shade)
    return np.maximum(gain, np.float32(shade))


def _dapple(canvas: Canvas, x: Plane, z: Plane, rng: np.random.Generator) -> Plane:
    """The shadows of crowns and posts outside the picture, long and torn, as low sun throws them. Gives h x w float32, 0..1."""
    slant = np.float32(canvas.light.direction[2] / (abs(canvas.light.direction[0]) + 0.2))
    along = np.broadcast_to(z - x * slant, x.shape).astype(np.float32)
    torn = canvas.noise.at(x * np.float32(1.5), along * np.float32(9)) * 0.6
    crowns = canvas.noise.at(x * np.float32(0.4), along * np.float32(2.2))
    return np.asarray(np.clip((torn + crowns - np.float32(rng.uniform(0.2, 1.2))) * 1.6, 0, 1), np.float32)


def straight(x0: float, z0: float, x1: float, z1: float) -> Points:
    """A rectangle on the ground, 4 x 3 metres."""
    return np.array([[x0, 0, z0], [x1, 0, z0], [x1, 0, z1], [x0, 0, z1]], np.float64)
