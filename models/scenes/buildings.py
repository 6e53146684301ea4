"""House fronts as flat textures in metres, laid on walls in perspective, with gables, roofs and chimneys.

Imports numpy and cv2 only.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from models.scenes.canvas import BUILDING, Canvas, Image
from models.scenes.light import Color

BRICKS: list[Color] = [(176, 156, 118), (160, 142, 112), (148, 92, 72), (132, 82, 66), (166, 112, 84), (120, 100, 82)]
STONES: list[Color] = [(190, 178, 150), (168, 160, 142), (204, 196, 176)]
RENDERS: list[Color] = [(226, 222, 210), (214, 206, 186), (206, 198, 196), (232, 226, 196), (178, 182, 184)]
FASCIAS: list[Color] = [(22, 30, 70), (20, 62, 46), (116, 24, 28), (26, 26, 28), (222, 220, 212), (150, 30, 34), (28, 70, 130)]
SLATE: Color = (88, 84, 86)
STOREY_M = 3.2
PLAIN_FROM_M = 30.0
"""Beyond this distance roofs and party walls are flat tones."""
PANE = np.array([0.9, 1.0, 1.1])
MIRRORED_SKY = np.array([150.0, 165.0, 180.0])
FALL = np.linspace(1, 0, 64)[:, None, None]


@dataclass(frozen=True)
class House:
    """One building of a row: its place along the street and its appearance."""

    sign: int
    front: float
    near: float
    far: float
    storeys: int
    kind: str
    """terrace, shop, office, hall or shed."""
    depth_m: float
    gabled: bool

    @property
    def height_m(self) -> float:
        """From the pavement to the eaves."""
        return {"shed": 1.35, "hall": 1.5}.get(self.kind, 1.0) * self.storeys * STOREY_M + 0.6


class Wall:
    """A flat wall being drawn. Coordinates are metres from the bottom left corner, up and to the right."""

    def __init__(self, width_m: float, height_m: float, pixels: tuple[int, int], base: Color) -> None:
        self.width_m, self.height_m = width_m, height_m
        self.pixels: Image = np.empty((*pixels, 3), np.uint8)
        self.pixels[:] = np.array(base, np.uint8)
        self._x, self._y = pixels[1] / width_m, pixels[0] / height_m

    @property
    def texels_m(self) -> float:
        """Pixels a metre of height."""
        return self._y

    def rect(self, x0: float, y0: float, x1: float, y1: float, color: Color) -> None:
        """Fill a rectangle."""
        self.slab(x0, y0, x1, y1)[:] = color

    def slab(self, x0: float, y0: float, x1: float, y1: float) -> Image:
        """A view of the pixels of a rectangle, possibly empty."""
        height, width = self.pixels.shape[:2]
        left, right = round(x0 * self._x), round(x1 * self._x)
        top, bottom = height - round(y1 * self._y), height - round(y0 * self._y)
        return self.pixels[max(top, 0) : max(bottom, 0), max(left, 0) : max(min(right, width), 0)]

    def glass(self, x0: float, y0: float, x1: float, y1: float, dark: float, sheen: float) -> None:
        """A pane: dark, with the sky mirrored from the top down."""
        pane = self.slab(x0, y0, x1, y1)
        if pane.size:
            fall = sheen * FALL[:: max(len(FALL) // pane.shape[0], 1)][: pane.shape[0]]
            pane[: len(fall)] = np.minimum(dark * PANE + fall * MIRRORED_SKY, 255)
            pane[len(fall) :] = dark * PANE


def paint_house(canvas: Canvas, house: House, rng: np.random.Generator) -> None:
    """The roof, the wall that faces the camera, and the front along the street, far to near."""
    light, view = canvas.light, canvas.view
    front, back = house.front, house.front + house.sign * house.depth_m
    height, near, far = house.height_m, house.near, house.far
    quad = view.project(np.array([[front, height, far], [front, height, near], [front, 0.0, near], [front, 0.0, far]]))
    shift = view.project(np.array([back, 0.0, near]))
    if max(quad[:, 0].max(), shift[0]) < 0 or min(quad[:, 0].min(), shift[0]) > view.width:
        return
    base = _base(house, rng)

    ridge_x, ridge_y = (front + back) / 2, height + house.depth_m * rng.uniform(0.3, 0.48)
    if house.gabled:
        roof = _color(rng, SLATE if rng.random() < 0.7 else (132, 84, 66), 10)
        slope = np.array([-house.sign * 0.55, 0.83, 0.0])
        corners = np.array([[ridge_x, ridge_y, near], [ridge_x, ridge_y, far], [front, height, far], [front, height, near]])
        if near > PLAIN_FROM_M:
            canvas.face(corners, roof, BUILDING, light.gain(slope))
        else:
            shingles = np.full((24, 48, 3), roof, np.uint8)
            canvas.texture(corners, _lit(canvas, shingles, 0.09, light.gain(slope), near, far), BUILDING)
        gable = np.array([[front, height, near], [ridge_x, ridge_y, near], [back, height, near]])
        canvas.face(gable, _color(rng, base, 6), BUILDING, light.gain((0, 0, -1)))
        for _ in range(int(rng.integers(0, 3))):
            _paint_chimney(canvas, ridge_x, ridge_y, float(rng.uniform(near, far)), base)

    outward = (float(-house.sign), 0.0, 0.0)
    density = 1.4 / view.samples
    across = int(np.clip(abs(quad[1, 0] - quad[0, 0]) * density * 1.3, 6, 720))
    up = int(np.clip(abs(quad[1, 1] - quad[2, 1]) * density, 6, 720))

    edge = np.array([[front, height, near], [back, height, near], [back, 0, near], [front, 0, near]], np.float64)
    if near > PLAIN_FROM_M:
        canvas.face(edge, base, BUILDING, light.gain((0, 0, -1)) * 0.93)
    else:
        rows, columns = up // 2, int(house.depth_m * view.scale(near) * density / 2)
        wall = Wall(house.depth_m, height, (int(np.clip(rows, 4, 400)), int(np.clip(columns, 4, 400))), _color(rng, base, 8))
        _gable_windows(wall, rng)
        canvas.texture(edge, _lit(canvas, wall.pixels, 0.07, light.gain((0, 0, -1)), near, near), BUILDING)

    corners = np.array([[front, height, near], [front, height, far], [front, 0, far], [front, 0, near]], np.float64)
    if abs(quad[1, 0] - quad[0, 0]) < 7 * view.samples:
        canvas.face(corners, _times(base, 0.82), BUILDING, light.gain(outward))
        return
    drawn = _draw_front(house, base, far - near, height, (up, across), rng)
    canvas.texture(corners, _lit(canvas, drawn, 0.06, light.gain(outward), near, far), BUILDING)


def _draw_front(
    house: House, base: Color, width: float, height: float, pixels: tuple[int, int], rng: np.random.Generator
) -> Image:
    wall = Wall(width, height, pixels, base)
    if house.kind in ("terrace", "shop") and base in BRICKS:
        _courses(wall, rng)
    if house.kind == "office":
        _office(wall, house, rng)
    elif house.kind == "shed":
        _shed(wall, rng)
    else:
        _windows(wall, house, base, rng)
    if house.kind == "shop":
        _shop(wall, rng)
    return wall.pixels


def _windows(wall: Wall, house: House, base: Color, rng: np.random.Generator) -> None:
    """Sash windows in rows, lintels and sills, a door or two, a cornice and a drainpipe."""
    count = max(round(wall.width_m / rng.uniform(1.9, 3.0)), 1)
    pitch = wall.width_m / count
    wide, tall = pitch * rng.uniform(0.36, 0.5), rng.uniform(1.35, 1.9) * (1.5 if house.kind == "hall" else 1.0)
    storey = (wall.height_m - 0.6) / house.storeys
    frame = _color(rng, (228, 226, 218) if rng.random() < 0.8 else (60, 58, 56), 8)
    lintel = _times(base, rng.uniform(1.12, 1.35))
    doors = set(rng.integers(0, count, max(count // 4, 1)).tolist())
    for floor in range(house.storeys):
        if floor == 0 and house.kind == "shop":
            continue
        sill = floor * storey + 0.85
        top = min(sill + tall * (0.9 if floor else 1.0), (floor + 1) * storey - 0.25)
        for index in range(count):
            x0 = index * pitch + (pitch - wide) / 2
            if floor == 0 and index in doors:
                _door(wall, x0 + wide * 0.1, rng)
                continue
            wall.rect(x0 - 0.12, top, x0 + wide + 0.12, top + 0.22, lintel)
            wall.rect(x0 - 0.1, sill - 0.12, x0 + wide + 0.1, sill, lintel)
            wall.rect(x0, sill, x0 + wide, top, frame)
            dark, sheen = rng.uniform(22, 60), max(rng.normal(0.25, 0.3), 0.0)
            middle, half = (sill + top) / 2, x0 + wide / 2
            if wall.texels_m < 14:  # too far for glazing bars
                wall.glass(x0 + 0.09, sill + 0.1, x0 + wide - 0.09, top - 0.09, dark + 12, sheen)
                continue
            for low, high in ((sill + 0.07, middle - 0.03), (middle + 0.03, top - 0.06)):
                wall.glass(x0 + 0.07, low, half - 0.025, high, dark, sheen)
                wall.glass(half + 0.025, low, x0 + wide - 0.07, high, dark, sheen)
    wall.rect(0, wall.height_m - 0.32, wall.width_m, wall.height_m, lintel)
    wall.rect(0, wall.height_m - 0.42, wall.width_m, wall.height_m - 0.32, _times(base, 0.55))
    pipe = rng.uniform(0, 0.15)
    wall.rect(pipe, 0, pipe + 0.12, wall.height_m - 0.4, (44, 44, 46))
    wall.rect(0, 0, wall.width_m, 0.35, _times(base, 0.72))


def _door(wall: Wall, x0: float, rng: np.random.Generator) -> None:
    wall.rect(x0 - 0.15, 0, x0 + 1.1, 2.55, (220, 216, 206))
    wall.rect(x0, 0, x0 + 0.95, 2.1, _color(rng, FASCIAS[int(rng.integers(len(FASCIAS)))], 14))
    wall.glass(x0 + 0.05, 2.16, x0 + 0.9, 2.45, 40, 0.3)


def _shop(wall: Wall, rng: np.random.Generator) -> None:
    """A shop front over the ground floor: panes full of goods, a fascia with letters, perhaps an awning."""
    x = 0.0
    while x < wall.width_m:
        width = min(rng.uniform(4, 8), wall.width_m - x)
        if wall.width_m - x - width < 2.5:
            width = wall.width_m - x
        color = _color(rng, FASCIAS[int(rng.integers(len(FASCIAS)))], 12)
        wall.rect(x, 0, x + width, 3.0, color)
        part = max(width - 0.5, 0.6) / 3
        for index in range(3):
            pane = x + 0.25 + part * index
            right = pane + part - 0.12
            wall.glass(pane, 0.5, right, 2.4, rng.uniform(24, 60), rng.uniform(0, 0.35))
            for _goods in range(int(rng.integers(2, 8)) if wall.texels_m > 8 else 1):
                gx, gy = rng.uniform(pane, right), rng.uniform(0.5, 1.9)
                bright = rng.uniform(40, 190)
                goods = _color(rng, (bright, bright * 0.9, bright * 0.8), 25)
                wall.rect(gx, gy, min(gx + rng.uniform(0.1, 0.5), right), gy + rng.uniform(0.1, 0.5), goods)
        letter = (235.0, 230.0, 214.0) if sum(color) < 380 else (40.0, 36.0, 60.0)
        text = x + rng.uniform(0.1, 0.3) * width
        while text < x + width * 0.85:
            wide = rng.uniform(0.12, 0.3)
            if rng.random() > 0.14:
                wall.rect(text, 2.62, text + wide * 0.7, 2.62 + rng.uniform(0.2, 0.32), letter)
            text += wide
        wall.rect(x, 3.0, x + width, 3.12, (200, 196, 188))
        wall.rect(x, 2.46, x + width, 2.52, _times(color, 0.5))
        wall.rect(x, 0, x + 0.2, 3.0, _times(color, 0.75))
        if rng.random() < 0.22:
            awning = _color(rng, (150, 40, 40) if rng.random() < 0.4 else (30, 100, 70), 30)
            for stripe in range(int(width / 0.4)):
                tone = awning if stripe % 2 else (224.0, 220.0, 208.0)
                wall.rect(x + stripe * 0.4, 2.0, x + stripe * 0.4 + 0.4, 2.6, tone)
        x += width


def _office(wall: Wall, house: House, rng: np.random.Generator) -> None:
    """Bands of glass between floors of concrete or brick."""
    storey = wall.height_m / house.storeys
    mullion = rng.uniform(1.1, 2.4)
    frame = _color(rng, (70, 74, 80) if rng.random() < 0.6 else (214, 214, 212), 8)
    for floor in range(house.storeys):
        low, high = floor * storey + rng.uniform(0.7, 1.0), (floor + 1) * storey - 0.45
        wall.rect(0.4, low, wall.width_m - 0.4, high, frame)
        x = 0.5
        while x < wall.width_m - 0.5:
            right = min(x + mullion - 0.1, wall.width_m - 0.5)
            wall.glass(x, low + 0.08, right, high - 0.08, rng.uniform(30, 75), max(rng.normal(0.4, 0.3), 0))
            x += mullion
    wall.rect(0, wall.height_m - 0.25, wall.width_m, wall.height_m, (190, 188, 182))


def _shed(wall: Wall, rng: np.random.Generator) -> None:
    """A supermarket or workshop: glass below, a broad band above."""
    band = _color(rng, RENDERS[int(rng.integers(len(RENDERS)))], 10)
    wall.rect(0, wall.height_m * 0.62, wall.width_m, wall.height_m, band)
    wall.rect(0, wall.height_m * 0.60, wall.width_m, wall.height_m * 0.63, (120, 44, 40))
    x = 0.5
    while x < wall.width_m - 1:
        wide = rng.uniform(1.6, 2.6)
        wall.glass(x, 0.4, min(x + wide - 0.15, wall.width_m), wall.height_m * 0.57, rng.uniform(34, 80), rng.uniform(0.1, 0.6))
        x += wide


def _gable_windows(wall: Wall, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.uniform(1, max(wall.width_m - 2, 1.1)), rng.uniform(1, max(wall.height_m - 2, 1.1))
        wall.rect(x, y, x + 0.95, y + 1.4, (224, 222, 214))
        wall.glass(x + 0.08, y + 0.08, x + 0.87, y + 1.32, 42, 0.2)


def _courses(wall: Wall, rng: np.random.Generator) -> None:
    """Bricks, each of its own shade, and their mortar where they are large enough to be seen."""
    height, width = wall.pixels.shape[:2]
    rows, columns = max(int(wall.height_m / 0.1), 1), max(int(wall.width_m / 0.3), 1)
    shades = rng.normal(1, 0.06, (rows, columns)).astype(np.float32)
    bricks = cv2.resize(shades, (width, height), interpolation=cv2.INTER_NEAREST if height > 2 * rows else cv2.INTER_AREA)
    bricks = np.asarray(bricks, np.float32)
    if height > 3 * rows:
        course = (np.arange(height) * rows / height) % 1 < 0.16
        bricks[course] *= np.float32(1.1)
    wall.pixels[:] = np.clip(wall.pixels * bricks[..., None], 0, 255)


def _paint_chimney(canvas: Canvas, x: float, y: float, z: float, base: Color) -> None:
    for low, high, half, tone in ((-0.8, 1.2, 0.45, 0.8), (1.2, 1.35, 0.52, 1.0), (1.35, 1.75, 0.15, 0.9)):
        box = np.array([[x - half, y + low, z], [x + half, y + low, z], [x + half, y + high, z], [x - half, y + high, z]])
        canvas.face(box, _times(base, tone), BUILDING, canvas.light.gain((0, 0, -1)))


def _base(house: House, rng: np.random.Generator) -> Color:
    if house.kind in ("hall", "office") and rng.random() < 0.7:
        return STONES[int(rng.integers(len(STONES)))]
    if rng.random() < 0.3:
        return RENDERS[int(rng.integers(len(RENDERS)))]
    return BRICKS[int(rng.integers(len(BRICKS)))]


def _lit(canvas: Canvas, texture: Image, strength: float, gain: float, near: float, far: float) -> Image:
    """The texture with its stains, by the scene's light: hazier along the wall, darker at its foot, where less sky is
    seen. Takes and gives h x w x 3 uint8.
    """
    light = canvas.light
    height, width = texture.shape[:2]
    z = np.linspace(near, far, width, dtype=np.float32)
    haze = 1 - np.exp(-z / np.float32(light.visibility_m))
    stains = canvas.noise.cloud(height, width, width / 200 + 0.3, height / 120 + 0.3)
    factor = 1 + np.float32(strength) * stains
    factor *= np.linspace(1.06 * gain, 0.8 * gain, height, dtype=np.float32)[:, None] * (1 - haze)
    seen = texture * np.asarray(cv2.merge([factor * np.float32(tint) for tint in light.tint]), np.float32)
    seen += haze[None, :, None] * np.array(light.horizon, np.float32)
    return np.asarray(cv2.convertScaleAbs(seen), np.uint8)  # the quickest cast that saturates


def _times(color: Color, gain: float) -> Color:
    return (min(color[0] * gain, 245.0), min(color[1] * gain, 245.0), min(color[2] * gain, 245.0))


def _color(rng: np.random.Generator, color: Color, spread: float) -> Color:
    drawn = np.clip(np.array(color) + rng.normal(0, spread) + rng.normal(0, spread / 3, 3), 4, 250)
    return (float(drawn[0]), float(drawn[1]), float(drawn[2]))
