"""Cars, vans and buses as small lofted bodies: quads with normals, sorted far to near, with glass, lights and wheels.

A body is described in its own frame: along its length (forward positive), up from the road, out to its sides.
Imports numpy only.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from models.scenes.canvas import CAR, Canvas, Points
from models.scenes.light import Color

PAINTS: list[Color] = [
    (168, 172, 176), (188, 192, 196), (120, 126, 134), (24, 26, 30), (34, 38, 46), (28, 40, 84), (36, 64, 128),
    (128, 24, 28), (156, 36, 36), (222, 222, 220), (30, 62, 54), (96, 132, 156), (150, 138, 104),
]  # fmt: skip
GLASS: Color = (38, 45, 50)
RUBBER: Color = (26, 26, 28)
BOW_M = 0.13
SWELL_M = 0.09
"""How far the middle of a nose or tail stands out before its corners, and its bumper before its upper edge."""


@dataclass(frozen=True)
class Body:
    """One make: the outline seen from the side, as (along, up) in metres from the rear bumper to the front one."""

    belt: tuple[tuple[float, float], ...]
    """The lower body's upper edge, rear to front."""
    roof: tuple[tuple[float, float], ...]
    """Base of the rear window, rear and front of the roof, base of the windscreen."""
    half_width: float
    wheels: tuple[float, float]
    wheel_m: float = 0.31
    panes: int = 3
    """Windows on a side."""
    roof_share: float = 0.74
    """The roof's width as a share of the body's."""
    blind: bool = False
    """A van's closed rear."""


HATCHBACK = Body(
    ((-1.92, 0.62), (-1.9, 0.92), (-1.2, 0.94), (0.0, 0.93), (0.85, 0.95), (1.35, 0.88), (1.72, 0.78), (1.93, 0.6)),
    ((-1.86, 0.93), (-1.45, 1.40), (0.05, 1.45), (0.95, 0.95)), 0.83, (-1.22, 1.25),
)  # fmt: skip
SALOON = Body(
    ((-2.22, 0.64), (-2.18, 0.94), (-1.6, 0.98), (-0.9, 0.95), (0.1, 0.93), (0.9, 0.95), (1.55, 0.87), (2, 0.76), (2.2, 0.58)),
    ((-1.62, 0.97), (-0.95, 1.39), (0.1, 1.42), (1.0, 0.95)), 0.87, (-1.33, 1.38),
)  # fmt: skip
ESTATE = Body(
    ((-2.25, 0.64), (-2.22, 0.94), (-1.2, 0.95), (0.1, 0.94), (0.9, 0.96), (1.5, 0.89), (1.95, 0.78), (2.2, 0.6)),
    ((-2.18, 0.95), (-1.85, 1.44), (0.1, 1.47), (1.0, 0.96)), 0.87, (-1.36, 1.38),
)  # fmt: skip
TALL = Body(
    ((-2.15, 0.7), (-2.12, 1.05), (-1.2, 1.08), (0.1, 1.07), (0.9, 1.08), (1.5, 1.02), (1.9, 0.94), (2.12, 0.7)),
    ((-2.08, 1.07), (-1.8, 1.70), (0.15, 1.73), (0.95, 1.08)), 0.9, (-1.32, 1.36), 0.36,
)  # fmt: skip
VAN = Body(
    ((-2.5, 0.7), (-2.5, 1.1), (-1.2, 1.12), (0.5, 1.12), (1.4, 1.13), (1.9, 1.06), (2.3, 0.92), (2.48, 0.66)),
    ((-2.5, 1.1), (-2.45, 2.15), (0.9, 2.18), (1.65, 1.12)), 0.95, (-1.55, 1.65), 0.34, 2, 0.9, True,
)  # fmt: skip
BUS = Body(
    ((-5.2, 0.8), (-5.2, 1.3), (-2.0, 1.3), (0.0, 1.3), (2.0, 1.3), (4.0, 1.3), (5.1, 1.3), (5.2, 0.8)),
    ((-5.2, 1.3), (-5.15, 3.0), (4.95, 3.0), (5.15, 1.3)), 1.22, (-3.2, 3.3), 0.48, 6, 0.9,
)  # fmt: skip


@dataclass(frozen=True)
class Car:
    """A vehicle in the street: where its middle stands, its heading (0 = away from the camera), its appearance."""

    x: float
    z: float
    heading: float
    body: Body
    paint: Color


def draw_car(rng: np.random.Generator, x: float, z: float, heading: float) -> Car:
    """A car of any make and paint."""
    bodies = [HATCHBACK, SALOON, ESTATE, TALL, VAN, BUS]
    body = bodies[int(rng.choice(6, p=[0.38, 0.25, 0.16, 0.12, 0.08, 0.01]))]
    paint = PAINTS[int(rng.integers(len(PAINTS)))]
    if body is VAN and rng.random() < 0.6:
        paint = (220, 220, 218)
    if body is BUS:
        paint = (150, 28, 30) if rng.random() < 0.6 else (200, 204, 206)
    return Car(x, z, heading, body, paint)


def paint_car(canvas: Canvas, car: Car, rng: np.random.Generator) -> None:
    """The shadow on the road, the body, then what is set into the sides that are seen."""
    frame = _Frame(canvas, car)
    body = car.body
    rear, front = body.belt[0][0], body.belt[-1][0]
    wide = body.half_width
    ground = frame.place(np.array([[rear, 0, -wide], [front, 0, -wide], [front, 0, wide], [rear, 0, wide]]) * 1.04)
    canvas.shadow(ground, 0.72, 0.14 * canvas.view.scale(car.z))

    for low in (-wide, wide):  # the dark under the sills, down to the tyres' middle
        flat = np.array(
            [
                [rear + 0.25, 0.15, low * 0.9],
                [front - 0.25, 0.15, low * 0.9],
                [front - 0.2, 0.35, low * 0.93],
                [rear + 0.2, 0.35, low * 0.93],
            ]
        )
        frame.flat(flat, (18, 18, 20))
    for end in (rear + 0.1, front - 0.1):
        frame.flat(
            np.array([[end, 0.15, -wide * 0.9], [end, 0.15, wide * 0.9], [end, 0.4, wide * 0.9], [end, 0.4, -wide * 0.9]]),
            (18, 18, 20),
        )
    for along in body.wheels:
        for side in (-1, 1):
            if not frame.sees_side(side):
                tyre = np.array(
                    [[along + d, h, side * wide * 0.9] for d, h in ((-0.28, 0), (0.28, 0), (0.28, 0.35), (-0.28, 0.35))]
                )
                frame.flat(tyre, RUBBER)
    pixels_m = canvas.view.scale(car.z) / canvas.view.samples
    frame.shell(fine=pixels_m > 24)
    small = pixels_m < 9  # no mirrors or plates to be seen
    for side in (-1, 1):
        if frame.sees_side(side) and not small:
            for along in body.wheels:
                _wheel(frame, along, side * wide * 0.915)
            _side_details(frame, side)
    if frame.sees_end(1):
        _front(frame, rng, small)
    if frame.sees_end(-1):
        _rear(frame, rng)


class _Frame:
    """A car's own frame on the canvas."""

    def __init__(self, canvas: Canvas, car: Car) -> None:
        self.canvas, self.car = canvas, car
        cos, sin = np.cos(car.heading), np.sin(car.heading)
        self._axes = np.array([[sin, 0.0, cos], [0.0, 1.0, 0.0], [cos, 0.0, -sin]])
        self._middle = np.array([car.x, 0.0, car.z])

    def place(self, points: Points) -> Points:
        """Takes: ... x 3 (along, up, out). Gives: ... x 3 street metres."""
        placed: Points = points @ self._axes + self._middle
        return placed

    def sees(self, point: Points, normal: Points) -> bool:
        """Whether the face at this point with this outward normal (both in the car's frame) faces the camera."""
        at = self.place(point)
        outward = normal @ self._axes
        at[0] += self.canvas.view.bend * at[2] ** 2
        return bool(outward[0] * -at[0] + outward[1] * (self.canvas.view.eye_m - at[1]) + outward[2] * -at[2] > 0)

    def sees_side(self, side: int) -> bool:
        return self.sees(np.array([0.0, 0.6, side * self.car.body.half_width]), np.array([0.0, 0.0, float(side)]))

    def sees_end(self, end: int) -> bool:
        along = self.car.body.belt[-1][0] if end > 0 else self.car.body.belt[0][0]
        return self.sees(np.array([along, 0.6, 0.0]), np.array([float(end), 0.0, 0.0]))

    def flat(self, corners: Points, color: Color, gain: float | None = None) -> None:
        """One face in one tone. Takes: N x 3 in the car's frame."""
        lit = self.canvas.light.ambient * 0.9 if gain is None else gain
        placed = self.place(corners)
        tone = self.canvas.light.tone(color, lit, self.car.z)
        self.canvas.fill(self.canvas.view.project(placed), tone, CAR)

    def shell(self, fine: bool) -> None:
        """Sheet metal and glass: every quad that faces the camera, far to near, in one projection."""
        quads, outward, glazing = _loft(self.car.body, fine)
        placed = self.place(quads)  # N x 4 x 3
        normals = outward @ self._axes
        middle = placed.mean(axis=1)
        view = np.array([0.0, self.canvas.view.eye_m, 0.0]) - middle
        view[:, 0] -= self.canvas.view.bend * middle[:, 2] ** 2
        seen = np.flatnonzero((normals * view).sum(axis=1) > 0)
        glass = glazing[seen]
        # A screen lies in its frame: it is painted after it, whichever middle is nearer.
        order = np.argsort(0.8 * (glass > 0) - np.linalg.norm(view[seen], axis=1))
        seen, glass = seen[order], glass[order, None]
        colors = np.where(glass > 0, np.array(GLASS) * glass, np.array(self.car.paint))
        self.canvas.quads(self.canvas.view.project(placed[seen]), self._shine(normals[seen], view[seen], colors, glass), CAR)

    def _shine(self, normals: Points, view: Points, colors: Points, glass: Points) -> Points:
        """Paint and glass by daylight: diffuse, and the mirrored sky above or dark street below. Gives N x 3 RGB."""
        light = self.canvas.light
        toward = view / np.linalg.norm(view, axis=1, keepdims=True)
        mirrored = 2 * (normals * toward).sum(axis=1, keepdims=True) * normals - toward
        sky = np.clip(mirrored[:, 1:2] * 1.6 + 0.25, 0, 1)
        facing = (normals * toward).sum(axis=1, keepdims=True)
        fresnel = 0.05 + 0.5 * (1 - np.clip(facing, 0, 1)) ** 3
        sun = light.sun * np.maximum(normals @ np.array(light.direction), 0)[:, None]
        diffuse = light.ambient * (0.72 + 0.38 * normals[:, 1:2]) + sun
        street = np.array([52.0, 52, 52]) * light.ambient
        around = sky * np.array(light.horizon) * min(1.0, light.ambient * 1.3) + (1 - sky) * street
        tones = colors * diffuse * np.array(light.tint) * (1 - fresnel) + around * (fresnel + 0.1 * glass)
        hazy = tones + (np.array(light.horizon) - tones) * light.haze(self.car.z)
        return np.asarray(np.clip(hazy, 0, 255), np.float64)


@cache
def _loft(body: Body, fine: bool) -> tuple[Points, Points, Points]:
    """A body's faces, in many quads or few.

    Gives: N x 4 x 3 corners (along, up, out); N x 3 outward normals of length 1; N: how bright glass is, 0 for metal
    """
    lower = _lower_half(body, fine)
    metal, screens, glazing = _upper_half(body)
    quads = np.concatenate([lower, metal, screens])
    normals = np.cross(quads[:, 2] - quads[:, 0], quads[:, 3] - quads[:, 1])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    inward = ((quads.mean(axis=1) - np.array([0.0, 0.7, 0.0])) * normals).sum(axis=1) < 0
    normals[inward] *= -1
    return quads, normals, np.concatenate([np.zeros(len(lower) + len(metal)), glazing])


def _lower_half(body: Body, fine: bool) -> Points:
    """Wings and doors, bonnet and boot, nose and tail. Gives N x 4 x 3."""
    belt = np.array(body.belt)
    along = np.unique(np.concatenate([belt[:, 0], np.linspace(belt[0, 0], belt[-1, 0], 11 if fine else 2)]))
    top = np.interp(along, belt[:, 0], belt[:, 1])
    taper = 1 - 0.13 * np.abs((along - belt[:, 0].mean()) / (belt[-1, 0] - belt[0, 0]) * 2) ** 5
    section = np.array([(0.0, 0.95), (0.25, 0.99), (0.55, 1.0), (0.8, 0.985), (0.93, 0.95), (1.0, 0.9)])
    section = section if fine else section[[0, 2, 4, 5]]
    share, swell = section[:, 0], section[:, 1]
    rings = np.zeros((len(along), len(section), 3))  # the left half's sections: stations x levels x (along, up, out)
    rings[..., 0] = along[:, None]
    rings[..., 1] = 0.22 + (top[:, None] - 0.22) * share
    rings[..., 2] = body.half_width * swell * taper[:, None]
    mirror = np.array([1, 1, -1])

    edge = rings[:, -1]
    crown = (edge + np.array([0, 0.015, 0])) * np.array([1, 1, 0])
    lids = np.stack([edge, crown], axis=1)
    columns = np.array([-1.0, -0.8, -0.45, 0.45, 0.8, 1.0])
    ends = []
    for sign, half in ((-1, rings[0]), (1, rings[-1])):  # bowed both ways so that they catch the light
        grid = np.repeat(half[:, None], len(columns), axis=1)  # levels x columns x 3
        grid[..., 2] = half[:, 2:] * columns
        grid[..., 0] += sign * (BOW_M * (1 - columns**2) + SWELL_M * np.sin(np.pi * share)[:, None] * (1 - columns**6))
        shelf = np.stack([grid[-1], half[-1] * np.array([1, 1, 0]) + grid[-1] * np.array([0, 0, 1])])
        ends += [_cells(grid), _cells(shelf)]
    return np.concatenate([_cells(rings), _cells(rings * mirror), _cells(lids), _cells(lids * mirror), *ends])


def _cells(grid: Points) -> Points:
    """The quads between adjacent points. Takes: a x b x 3. Gives: (a - 1)(b - 1) x 4 x 3."""
    corners = np.stack([grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]], axis=2)
    return corners.reshape(-1, 4, 3)


def _upper_half(body: Body) -> tuple[Points, Points, Points]:
    """Pillars and roof, and the screens in strips: dark over the dashboard, paler where they mirror more sky.

    Gives: N x 4 x 3 of metal, M x 4 x 3 of glass, and how bright each of those is, M
    """
    (r0, ry0), (r1, ry1), (f1, fy1), (f0, fy0) = body.roof
    low, high = body.half_width * 0.9, body.half_width * body.roof_share
    flank = np.array([(r0, ry0, low), (f0, fy0, low), (f1, fy1, high), (r1, ry1, high)])
    metal, screens, glazing = [flank, flank * np.array([1, 1, -1])], [], []
    for sign, (a, ay), (b, by) in ((-1, (r0, ry0), (r1, ry1)), (1, (f0, fy0), (f1, fy1))):
        outer = np.array([(a, ay, low), (a, ay, -low), (b, by, -high), (b, by, high)])
        metal.append(outer)
        if body.blind and sign < 0:
            continue
        outward = np.array([0.012 * sign, 0.006, 0.0])
        for strip, brightness in enumerate((0.55, 0.75, 1.0, 0.85)):
            levels = 0.07 + 0.215 * np.array([[strip], [strip + 1]])
            left, right = outer[0] + (outer[3] - outer[0]) * levels, outer[1] + (outer[2] - outer[1]) * levels
            inset = (right - left) * 0.06
            lower, upper = np.stack([left + inset, right - inset], axis=1) + outward
            screens.append(np.stack([lower[0], lower[1], upper[1], upper[0]]))
            glazing.append(brightness)
    steps = np.linspace(r1, f1, 4)[:, None]
    across = np.array([-1.0, -0.4, 0.4, 1.0])
    roof = np.zeros((4, 4, 3))
    roof[..., 0] = steps
    roof[..., 1] = np.interp(steps, [r1, f1], [ry1, fy1]) + np.array([[0.2], [1], [1], [0.2]]) * 0.035 * (1 - np.abs(across))
    roof[..., 2] = high * across
    return np.concatenate([np.stack(metal), _cells(roof)]), np.stack(screens), np.array(glazing)


def _side_details(frame: _Frame, side: int) -> None:
    """Side windows between their pillars, the doors' gaps, a mirror."""
    body = frame.car.body
    (r0, ry0), (r1, ry1), (f1, fy1), (f0, fy0) = body.roof
    low, high = body.half_width * 0.9 * side, body.half_width * body.roof_share * side
    starts = np.linspace(0, 1, body.panes + 1)
    sky = np.array(frame.canvas.light.horizon) * min(frame.canvas.light.ambient, 0.8)
    for index in range(body.panes):
        if body.blind and index == 0:
            continue
        s, t = starts[index] + 0.035, starts[index + 1] - 0.035
        corners = []
        for share, level in ((s, 0.1), (t, 0.1), (t, 0.86), (s, 0.86)):
            bottom = r0 + (f0 - r0) * share
            top = r1 + (f1 - r1) * share
            y0, y1 = ry0 + (fy0 - ry0) * share, ry1 + (fy1 - ry1) * share
            corners.append((bottom + (top - bottom) * level, y0 + (y1 - y0) * level, (low + (high - low) * level) * 1.012))
        tone = np.array(GLASS) * frame.canvas.light.ambient + sky * 0.07
        frame.flat(np.array(corners), (float(tone[0]), float(tone[1]), float(tone[2])), 1.0)
    dark = (frame.car.paint[0] * 0.45, frame.car.paint[1] * 0.45, frame.car.paint[2] * 0.45)
    wide = body.half_width * side * 1.003
    for along in (-0.55, 0.45):
        frame.flat(
            np.array([[along, 0.3, wide], [along + 0.025, 0.3, wide], [along + 0.025, 0.9, wide], [along, 0.9, wide]]), dark
        )
    frame.flat(np.array([[-1.7, 0.5, wide], [1.7, 0.5, wide], [1.7, 0.56, wide], [-1.7, 0.56, wide]]), dark)
    mirror = body.half_width * side * 1.12
    y = fy0 + 0.08
    frame.flat(
        np.array(
            [[f0 - 0.35, y, mirror], [f0 - 0.15, y, mirror], [f0 - 0.15, y + 0.13, mirror], [f0 - 0.35, y + 0.13, mirror]]
        ),
        dark,
    )


def _wheel(frame: _Frame, along: float, out: float) -> None:
    turns = np.linspace(0, 2 * np.pi, 15)[:-1]
    radius = frame.car.body.wheel_m
    for size, color in (
        (1.22, (12.0, 12.0, 13.0)),
        (1.0, RUBBER),
        (0.66, (120.0, 122.0, 126.0)),
        (0.5, (64.0, 66.0, 70.0)),
        (0.16, (130.0, 132.0, 134.0)),
    ):
        rim = np.stack(
            [along + np.cos(turns) * radius * size, radius + np.sin(turns) * radius * size, np.full(14, out)], axis=1
        )
        rim[:, 1] = np.maximum(rim[:, 1], 0.0)
        if size > 1:
            rim[:, 1] = np.maximum(rim[:, 1], 0.25)
        frame.flat(rim, color, max(frame.canvas.light.ambient, 0.3))


def _panel(
    frame: _Frame, end: int, low: float, high: float, left: float, right: float, color: Color, gain: float | None = None
) -> None:
    """A patch on the bowed nose (end 1) or tail (end -1). Heights are metres, left and right shares of the half width."""
    body = frame.car.body
    edge = body.belt[-1][0] if end > 0 else body.belt[0][0]
    across = np.linspace(left, right, 4)
    along = edge + end * (BOW_M * (1 - across**2) + SWELL_M * (1 - across**6) * 0.8 + 0.01)
    out = across * body.half_width * 0.87
    bottom = np.column_stack([along, np.full(4, low), out])
    top = np.column_stack([along, np.full(4, high), out])
    frame.flat(np.concatenate([bottom, top[::-1]]), color, gain)


def _lamp(frame: _Frame, end: int, side: int, low: float, high: float, color: Color, gain: float) -> None:
    """A lamp at a corner, wrapped around it where that side is seen."""
    _panel(frame, end, low, high, side * 0.56 if end > 0 else side * 0.68, side * 1.0, color, gain)
    if frame.sees_side(side):
        body = frame.car.body
        edge = body.belt[-1][0] if end > 0 else body.belt[0][0]
        out = side * body.half_width
        wrap = [(0.0, low, 0.87), (0.0, high, 0.87), (-0.26, high - 0.01, 0.945), (-0.2, low + 0.03, 0.945)]
        frame.flat(np.array([[edge + end * along, up, out * share] for along, up, share in wrap]), color, gain * 0.85)


def _front(frame: _Frame, rng: np.random.Generator, small: bool) -> None:
    body = frame.car.body
    y = body.belt[-1][1]
    lit = max(frame.canvas.light.ambient, 0.6)
    on = rng.random() < (0.75 if frame.canvas.light.ambient < 0.5 and not frame.canvas.light.sun else 0.12)
    _panel(frame, 1, y - 0.12, y - 0.02, -0.5, 0.5, (26, 27, 30))
    for side in (-1, 1):
        if not small:
            _lamp(frame, 1, side, y - 0.13, y + 0.01, (166, 172, 178), lit)
        if on:
            _panel(frame, 1, y - 0.12, y + 0.0, side * 0.68, side * 0.9, (255, 252, 236), 1.3)
    if small:
        return
    _panel(frame, 1, 0.24, 0.34, -0.75, 0.75, (24, 24, 26))
    _panel(frame, 1, 0.37, 0.48, -0.32, 0.32, (226, 226, 220), lit)


def _rear(frame: _Frame, rng: np.random.Generator) -> None:
    y = frame.car.body.belt[1][1]
    lit = max(frame.canvas.light.ambient, 0.6)
    braking = rng.random() < 0.3
    for side in (-1, 1):
        _lamp(frame, -1, side, y - 0.32, y - 0.06, (224, 34, 28) if braking else (122, 20, 22), lit * 1.2 if braking else lit)
        _panel(frame, -1, y - 0.24, y - 0.18, side * 0.7, side * 0.98, (196, 150, 130), lit * 0.8)
    _panel(frame, -1, 0.24, 0.4, -0.96, 0.96, (32, 32, 34))
    _panel(frame, -1, 0.52, 0.63, -0.32, 0.32, (214, 178, 44), lit)
