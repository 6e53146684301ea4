"""People on foot and on bicycles, drawn upright and facing the camera, of tapered limbs. Imports numpy only."""

from itertools import pairwise

import numpy as np

from models.scenes.canvas import BICYCLIST, PEDESTRIAN, Canvas, Points
from models.scenes.light import Color

CLOTHES: list[Color] = [
    (22, 22, 26), (30, 34, 48), (26, 32, 60), (46, 46, 48), (60, 56, 52), (70, 58, 44), (36, 44, 36), (86, 30, 34),
    (150, 40, 42), (178, 172, 160), (80, 96, 120), (110, 110, 112),
]  # fmt: skip
TROUSERS: list[Color] = [(24, 24, 28), (30, 36, 56), (44, 52, 76), (56, 52, 48), (88, 80, 66)]
SKIN: list[Color] = [(196, 152, 126), (176, 132, 108), (132, 94, 72), (92, 64, 50)]
HAIR: list[Color] = [(30, 24, 22), (58, 42, 30), (104, 82, 54), (120, 116, 112), (22, 20, 20)]
BRIGHT: list[Color] = [(198, 220, 40), (226, 120, 30), (200, 34, 38)]

CIRCLE: Points = np.column_stack([np.cos(np.arange(16) * np.pi / 8), np.sin(np.arange(16) * np.pi / 8)])
CAP: Points = np.column_stack([np.cos(np.linspace(-np.pi / 2, np.pi / 2, 6)), np.sin(np.linspace(-np.pi / 2, np.pi / 2, 6))])
"""A limb's round end: along and across it."""


class _Figure:
    """A person's own upright plane: metres to the right of the feet and up from the ground."""

    def __init__(self, canvas: Canvas, x: float, z: float, label: int, mirrored: bool) -> None:
        self.canvas, self.x, self.z, self.label = canvas, x, z, label
        scale = canvas.view.scale(z)
        self._foot = canvas.view.project(np.array([x, 0.0, z]))
        self._scale = np.array([-scale if mirrored else scale, -scale])
        light = canvas.light
        self._gain = max(light.gain((0.0, 0.0, -1.0)), light.ambient)

    def polygon(self, points: Points, color: Color, gain: float = 1.0) -> None:
        """Takes: a convex outline, N x 2 metres."""
        tone = self.canvas.light.tone(color, self._gain * gain, self.z)
        self.canvas.fill(self._placed(points), tone, self.label)

    def veil(self, points: Points, color: Color, opacity: float) -> None:
        """A polygon that is seen through."""
        self.canvas.veil(self._placed(points), self.canvas.light.tone(color, self._gain, self.z), opacity, self.label)

    def _placed(self, points: Points) -> Points:
        placed: Points = self._foot + points * self._scale
        return placed

    def limb(self, start: tuple[float, float], end: tuple[float, float], wide: float, narrow: float, color: Color) -> None:
        """A tapered capsule, lighter on one side as a round thing is."""
        a, b = np.array(start), np.array(end)
        along = (b - a) / max(float(np.hypot(*(b - a))), 1e-6)
        cap = CAP @ np.array([along, [-along[1], along[0]]])
        for share, shift, gain in ((1.0, 0.0, 0.82), (0.55, 0.2, 1.18)):
            outline = np.concatenate([b + cap * (narrow * share), a - cap * (wide * share)])
            outline[:, 0] += shift * wide
            self.polygon(outline, color, gain)

    def ellipse(self, middle: tuple[float, float], radii: tuple[float, float], color: Color, gain: float = 1.0) -> None:
        """An upright ellipse."""
        self.polygon(CIRCLE * np.array(radii) + np.array(middle), color, gain)


def paint_pedestrian(canvas: Canvas, x: float, z: float, rng: np.random.Generator) -> None:
    """One walker or stander."""
    tall = rng.uniform(1.52, 1.86) if rng.random() > 0.1 else rng.uniform(1.05, 1.35)
    figure = _Figure(canvas, x, z, PEDESTRIAN, bool(rng.random() < 0.5))
    _ground_shadow(canvas, x, z, 0.28)
    coat, trousers = _pick(rng, CLOTHES), _pick(rng, TROUSERS)
    skin, hair = _pick(rng, SKIN), _pick(rng, HAIR)
    stride = rng.uniform(0.02, 0.3) if rng.random() < 0.7 else 0.04
    hip, shoulder, neck = 0.5 * tall, 0.80 * tall, 0.84 * tall
    for swing, dim in ((-stride, 0.75), (stride, 1.0)):
        shade = (trousers[0] * dim, trousers[1] * dim, trousers[2] * dim)
        side = 0.07 * np.sign(swing)
        knee = (side + swing * 0.45, 0.27 * tall)
        foot = (side + swing * (0.9 if swing > 0 else 1.25), 0.04 + (0.06 if swing < 0 and stride > 0.1 else 0))
        figure.limb((side * 0.9, hip), knee, 0.095, 0.075, shade)
        figure.limb(knee, foot, 0.072, 0.05, shade)
        figure.limb((foot[0] - 0.03, foot[1] - 0.005), (foot[0] + 0.09, foot[1] - 0.01), 0.045, 0.04, (20, 19, 18))
    back_arm = (-0.19 - stride * 0.5, 0.5 * tall)
    figure.limb((-0.17, shoulder - 0.03), back_arm, 0.06, 0.045, (coat[0] * 0.75, coat[1] * 0.75, coat[2] * 0.75))
    skirt = rng.random() < 0.25
    hem = 0.30 * tall if skirt else 0.47 * tall
    waist = 0.62 * tall
    figure.polygon(np.array([[-0.17, waist], [0.17, waist], [0.19, hem], [-0.19, hem]]), coat, 0.82)
    figure.polygon(
        np.array([[-0.2, shoulder], [-0.1, neck], [0.1, neck], [0.2, shoulder], [0.17, waist], [-0.17, waist]]), coat, 0.88
    )
    figure.polygon(np.array([[0.02, neck], [0.1, neck], [0.19, shoulder], [0.15, waist], [0.17, hem], [0.04, hem]]), coat, 1.1)
    figure.limb((0.19, shoulder - 0.04), (0.21 + stride * 0.6, 0.5 * tall), 0.06, 0.045, coat)
    figure.ellipse((0.215 + stride * 0.62, 0.475 * tall), (0.045, 0.05), skin)
    if rng.random() < 0.35:
        bag = _pick(rng, CLOTHES)
        left = rng.choice([-0.32, 0.16])
        figure.polygon(
            np.array([[left, 0.36 * tall], [left + 0.22, 0.36 * tall], [left + 0.2, 0.54 * tall], [left + 0.02, 0.54 * tall]]),
            bag,
        )
    _head(figure, (0.02, 0.925 * tall), 0.068 * tall, skin, hair, bool(rng.random() < 0.5))


def paint_cyclist(canvas: Canvas, x: float, z: float, rng: np.random.Generator) -> None:
    """A rider seen from behind or ahead, or from the side."""
    figure = _Figure(canvas, x, z, BICYCLIST, bool(rng.random() < 0.5))
    _ground_shadow(canvas, x, z, 0.4)
    jacket = _pick(rng, BRIGHT) if rng.random() < 0.3 else _pick(rng, CLOTHES)
    trousers, skin, hair = _pick(rng, TROUSERS), _pick(rng, SKIN), _pick(rng, HAIR)
    frame = _pick(rng, [(30, 30, 32), (120, 26, 28), (36, 60, 110), (150, 152, 154)])
    if rng.random() < 0.6:
        figure.ellipse((0, 0.34), (0.05, 0.34), (22, 22, 23))
        figure.limb((0, 0.5), (0, 0.95), 0.035, 0.03, frame)
        figure.limb((-0.3, 1.03), (0.3, 1.03), 0.022, 0.022, (28, 28, 30))
        for side, pedal in ((-1, 0.22), (1, 0.42)):
            figure.limb((side * 0.1, 0.98), (side * 0.15, 0.62 + pedal * 0.25), 0.1, 0.075, trousers)
            figure.limb((side * 0.15, 0.62 + pedal * 0.25), (side * 0.12, pedal), 0.07, 0.05, trousers)
            figure.ellipse((side * 0.12, pedal - 0.04), (0.05, 0.06), (20, 20, 20))
        for side in (-1, 1):
            figure.limb((side * 0.21, 1.44), (side * 0.3, 1.06), 0.06, 0.045, jacket)
        figure.polygon(
            np.array([[-0.17, 0.92], [0.17, 0.92], [0.24, 1.42], [0.12, 1.53], [-0.12, 1.53], [-0.24, 1.42]]), jacket, 0.88
        )
        figure.polygon(np.array([[0.0, 0.92], [0.15, 0.92], [0.22, 1.42], [0.1, 1.52], [0.02, 1.52]]), jacket, 1.12)
        _head(figure, (0, 1.66), 0.115, skin, hair, True)
        return
    hub = 0.34
    turns = np.linspace(0, 2 * np.pi, 25)
    for middle in (-0.52, 0.52):
        figure.veil(np.column_stack([middle + 0.31 * np.cos(turns), hub + 0.31 * np.sin(turns)]), (60, 60, 60), 0.25)  # spokes
        ring = np.column_stack([middle + 0.325 * np.cos(turns), hub + 0.325 * np.sin(turns)])
        for start, end in pairwise(ring):
            figure.limb((start[0], start[1]), (end[0], end[1]), 0.026, 0.026, (22, 22, 23))
    joints = {
        "rear": (-0.52, hub),
        "crank": (-0.05, 0.3),
        "seat": (-0.2, 0.88),
        "head": (0.36, 0.86),
        "fork": (0.52, hub),
        "bar": (0.38, 1.0),
    }
    for a, b in (
        ("rear", "crank"),
        ("rear", "seat"),
        ("crank", "seat"),
        ("seat", "head"),
        ("crank", "head"),
        ("head", "fork"),
        ("head", "bar"),
    ):
        figure.limb(joints[a], joints[b], 0.022, 0.02, frame)
    for knee, foot, dim in (((0.16, 0.82), (-0.12, 0.5), 0.7), ((0.2, 0.66), (0.02, 0.2), 1.0)):
        shade = (trousers[0] * dim, trousers[1] * dim, trousers[2] * dim)
        figure.limb((-0.18, 0.98), knee, 0.1, 0.075, shade)
        figure.limb(knee, foot, 0.07, 0.05, shade)
        figure.limb((foot[0] - 0.03, foot[1] - 0.04), (foot[0] + 0.1, foot[1] - 0.04), 0.04, 0.035, (20, 20, 20))
    figure.limb((-0.2, 1.0), (0.1, 1.42), 0.15, 0.16, jacket)
    figure.limb((0.12, 1.4), (0.38, 1.06), 0.06, 0.045, jacket)
    _head(figure, (0.22, 1.66), 0.115, skin, hair, False)


def _head(figure: _Figure, middle: tuple[float, float], radius: float, skin: Color, hair: Color, away: bool) -> None:
    figure.limb((middle[0], middle[1] - radius * 1.3), (middle[0], middle[1]), radius * 0.45, radius * 0.45, skin)
    figure.ellipse(middle, (radius * 0.78, radius), skin)
    if away:
        figure.ellipse((middle[0], middle[1] + radius * 0.12), (radius * 0.82, radius * 0.95), hair)
    else:
        figure.ellipse((middle[0] - radius * 0.12, middle[1] + radius * 0.4), (radius * 0.78, radius * 0.66), hair)


def _ground_shadow(canvas: Canvas, x: float, z: float, radius: float) -> None:
    turns = np.linspace(0, 2 * np.pi, 13)[:-1]
    lean = -canvas.light.direction[0] * 0.5 if canvas.light.sun else 0.0
    spot = np.column_stack([x + lean * radius + radius * np.cos(turns), np.zeros(12), z + radius * 0.6 * np.sin(turns)])
    canvas.shadow(spot, 0.5, 0.12 * canvas.view.scale(z))


def _pick(rng: np.random.Generator, colors: list[Color]) -> Color:
    color = colors[int(rng.integers(len(colors)))]
    gain = rng.uniform(0.75, 1.25)
    return (min(color[0] * gain, 245), min(color[1] * gain, 245), min(color[2] * gain, 245))
