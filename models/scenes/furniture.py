"""Street furniture: lampposts, bollards, signs, traffic lights, railings and wooden fences. Imports numpy only."""

from itertools import pairwise

import numpy as np

from models.scenes.canvas import FENCE, POLE, SIGN, Canvas, Points
from models.scenes.light import Color

STEEL: list[Color] = [(112, 116, 118), (70, 74, 76), (40, 44, 44), (44, 56, 50), (150, 152, 150)]
BOARDS: list[Color] = [(28, 60, 140), (24, 96, 66), (214, 214, 210), (168, 32, 34), (226, 186, 40), (30, 32, 36), (92, 36, 100)]


def paint_post(canvas: Canvas, x: float, z: float, bottom: float, top: float, radius: float, color: Color) -> None:
    """A round upright post: dark at its edge, with a light line down its sunny side."""
    light = canvas.light
    gain = light.ambient + 0.4 * light.sun
    sunny = 1 if light.direction[0] >= 0 else -1
    radius = max(radius, 0.42 * canvas.view.samples / canvas.view.scale(z))  # a post is never thinner than most of a pixel
    for left, right, tone in ((-1.0, 1.0, 0.75), (0.1, 0.75, 1.25)):
        edge = np.array([[left, bottom], [right, bottom], [right, top], [left, top]])
        corners = np.column_stack([x + edge[:, 0] * radius * sunny, edge[:, 1], np.full(4, z)])
        canvas.face(corners, color, POLE, gain * tone)


def paint_lamppost(canvas: Canvas, x: float, z: float, toward: int, rng: np.random.Generator) -> None:
    """A street lamp whose arm reaches over the road."""
    height, color = rng.uniform(6.5, 10), STEEL[int(rng.integers(len(STEEL)))]
    paint_post(canvas, x, z, 0, 1.3, 0.085, color)
    paint_post(canvas, x, z, 1.3, height, 0.055, color)
    reach = rng.uniform(0.5, 1.6)
    thick = max(0.05, 0.4 * canvas.view.samples / canvas.view.scale(z))
    arm = [(x, height - 0.4), (x + toward * reach * 0.4, height - 0.02), (x + toward * reach, height + 0.06)]
    for (x0, y0), (x1, y1) in pairwise(arm):
        corners = np.array([[x0, y0 - thick, z], [x1, y1 - thick, z], [x1, y1 + thick, z], [x0, y0 + thick, z]])
        canvas.face(corners, color, POLE, canvas.light.ambient)
    end = x + toward * reach
    head = np.array(
        [
            [end, height - 0.06, z],
            [end + toward * 0.65, height + 0.0, z],
            [end + toward * 0.6, height + 0.16, z],
            [end, height + 0.16, z],
        ]
    )
    canvas.face(head, (150, 150, 146), POLE, canvas.light.ambient)


def paint_bollard(canvas: Canvas, x: float, z: float, rng: np.random.Generator) -> None:
    """A knee-high post, black or steel, perhaps with a pale band."""
    height = rng.uniform(0.85, 1.1)
    paint_post(canvas, x, z, 0, height, 0.09, (30, 31, 32) if rng.random() < 0.7 else STEEL[0])
    band = np.array(
        [[x - 0.085, height - 0.2, z], [x + 0.085, height - 0.2, z], [x + 0.085, height - 0.1, z], [x - 0.085, height - 0.1, z]]
    )
    canvas.face(band, (206, 204, 196), POLE, canvas.light.ambient)


def paint_sign(canvas: Canvas, x: float, z: float, rng: np.random.Generator) -> None:
    """A round, triangular or square road sign on its post, sometimes two."""
    height = rng.uniform(2.3, 3.0)
    paint_post(canvas, x, z, 0, height + 0.2, 0.04, STEEL[int(rng.integers(len(STEEL)))])
    for _ in range(int(rng.integers(1, 3))):
        kind = rng.choice(["round", "triangle", "square"], p=[0.45, 0.25, 0.3])
        radius = rng.uniform(0.26, 0.36)
        middle = np.array([x, height - 0.05])
        gain = max(canvas.light.gain((0, 0, -1)), canvas.light.ambient * 1.1)
        if kind == "square":
            wide, tall = rng.uniform(0.22, 0.42), rng.uniform(0.25, 0.42)
            board = _board(rng)
            _plate(
                canvas, middle, z, np.array([[-wide, -tall], [wide, -tall], [wide, tall], [-wide, tall]]), (225, 225, 222), gain
            )
            _plate(
                canvas, middle, z, np.array([[-wide, -tall], [wide, -tall], [wide, tall], [-wide, tall]]) * 0.88, board, gain
            )
            for line in range(3):
                y = tall * (0.5 - 0.45 * line)
                text = np.array(
                    [
                        [-wide * 0.6, y - 0.04],
                        [wide * rng.uniform(0.1, 0.7), y - 0.04],
                        [wide * rng.uniform(0.1, 0.7), y + 0.04],
                        [-wide * 0.6, y + 0.04],
                    ]
                )
                text[2, 0] = text[1, 0]
                _plate(canvas, middle, z, text, (235, 235, 230) if sum(board) < 420 else (40, 40, 44), gain)
        else:
            turns = np.linspace(0, 2 * np.pi, 19)[:-1] if kind == "round" else np.pi / 2 + np.array([0, 2, 4]) * np.pi / 3
            outline = np.column_stack([np.cos(turns), np.sin(turns)]) * radius * (1.15 if kind == "triangle" else 1)
            blue = kind == "round" and rng.random() < 0.4
            _plate(canvas, middle, z, outline, (34, 70, 150) if blue else (186, 32, 36), gain)
            _plate(canvas, middle, z, outline * (0.86 if blue else 0.68), (34, 70, 150) if blue else (228, 226, 220), gain)
            bar = (
                np.array([[-0.5, -0.14], [0.5, -0.14], [0.5, 0.14], [-0.5, 0.14]]) * radius * (0.9 if kind == "round" else 0.5)
            )
            _plate(canvas, middle, z, bar, (232, 232, 230) if blue else (34, 32, 34), gain)
        height -= 0.85


def paint_billboard(canvas: Canvas, x: float, z: float, rng: np.random.Generator) -> None:
    """A shop's or direction board: a big plate on two posts, or hung from a front."""
    wide, tall = rng.uniform(0.4, 0.9), rng.uniform(0.5, 1.3)
    bottom = rng.uniform(0.4, 1.6)
    for side in (-1, 1):
        paint_post(canvas, x + side * wide * 0.92, z, 0, bottom + tall, 0.05, STEEL[1])
    hang_board(canvas, x, bottom + tall / 2, z, wide, tall / 2, rng)


def hang_board(canvas: Canvas, x: float, y: float, z: float, wide: float, tall: float, rng: np.random.Generator) -> None:
    """A lettered board facing the traffic. Takes: its middle and half sizes in metres."""
    gain = max(canvas.light.gain((0, 0, -1)), canvas.light.ambient * 1.1)
    board = _board(rng)
    ink: Color = (236, 234, 228) if sum(board) < 420 else (36, 40, 60)
    middle = np.array([x, y])
    _plate(canvas, middle, z, np.array([[-wide, -tall], [wide, -tall], [wide, tall], [-wide, tall]]), board, gain)
    if rng.random() < 0.5:
        _plate(
            canvas,
            middle,
            z,
            np.array([[-wide, tall * 0.3], [wide, tall * 0.3], [wide, tall], [-wide, tall]]),
            _board(rng),
            gain,
        )
    for line in np.arange(-0.75, 0.6, 0.4):
        start = -wide * 0.8
        while start < wide * rng.uniform(0.3, 0.8):
            word = rng.uniform(0.1, 0.5) * wide
            high = tall * 0.1
            text = np.array(
                [
                    [start, line * tall - high],
                    [start + word, line * tall - high],
                    [start + word, line * tall + high],
                    [start, line * tall + high],
                ]
            )
            _plate(canvas, middle, z, text, ink, gain)
            start += word + 0.12 * wide


def paint_traffic_light(canvas: Canvas, x: float, z: float, rng: np.random.Generator) -> None:
    """A pole with a black head of three lamps, one lit."""
    paint_post(canvas, x, z, 0, 2.4, 0.06, STEEL[1])
    middle = np.array([x, 2.85])
    gain = canvas.light.ambient
    _plate(canvas, middle, z, np.array([[-0.26, -0.58], [0.26, -0.58], [0.26, 0.58], [-0.26, 0.58]]), (190, 190, 186), gain)
    _plate(canvas, middle, z, np.array([[-0.22, -0.54], [0.22, -0.54], [0.22, 0.54], [-0.22, 0.54]]), (16, 17, 18), gain)
    lit = int(rng.integers(3))
    turns = np.linspace(0, 2 * np.pi, 11)[:-1]
    disc = np.column_stack([np.cos(turns), np.sin(turns)]) * 0.12
    for lamp, color in enumerate(((255, 60, 44), (255, 176, 40), (60, 255, 170))):
        tone: Color = color if lamp == lit else (color[0] * 0.13, color[1] * 0.13, color[2] * 0.13)
        canvas_gain = 1.0 if lamp == lit else gain
        _plate(canvas, middle + np.array([0, 0.34 - 0.34 * lamp]), z, disc, tone, canvas_gain)


def paint_railings(canvas: Canvas, x: float, near: float, far: float, height: float, color: Color) -> None:
    """Iron railings along the street: a see-through panel of bars between two rails, fence all over."""
    light = canvas.light
    gain = light.ambient + 0.3 * light.sun
    panel = np.array([[x, 0, near], [x, 0, far], [x, height, far], [x, height, near]], np.float64)
    canvas.veil(canvas.view.project(panel), light.tone(color, gain, (near + far) / 2), 0.3, FENCE)
    spacing = max(0.16, 2.2 * canvas.view.samples / canvas.view.scale((near + far) / 2))
    for z in np.arange(far, near, -spacing):
        half = max(0.012, 0.25 * canvas.view.samples / canvas.view.scale(float(z)))
        bar = canvas.view.project(np.array([[x, 0.1, z], [x, height, z]]))
        side = half * canvas.view.scale(float(z))
        stripe = np.array([bar[0] - (side, 0), bar[0] + (side, 0), bar[1] + (side, 0), bar[1] - (side, 0)])
        canvas.fill(stripe, light.tone(color, gain, float(z)), FENCE)
    for low, high in ((0.08, 0.14), (height - 0.1, height)):
        rail = np.array([[x, low, near], [x, low, far], [x, high, far], [x, high, near]], np.float64)
        canvas.face(rail, color, FENCE, gain * 1.15)


def paint_boards(
    canvas: Canvas, x: float, near: float, far: float, height: float, color: Color, rng: np.random.Generator
) -> None:
    """A close-boarded wooden fence, board by board, each its own brown."""
    gain = canvas.light.gain((float(-np.sign(x)), 0.0, 0.0))
    width = max(0.18, 1.5 * canvas.view.samples * far / max(canvas.view.focal, 1))
    for z in np.arange(far, near, -width):
        tone = rng.uniform(0.82, 1.15)
        board = np.array([[x, 0, z], [x, 0, max(z - width, near)], [x, height, max(z - width, near)], [x, height, z]])
        canvas.face(board, color, FENCE, gain * tone)
    rail = np.array([[x, height - 0.06, near], [x, height - 0.06, far], [x, height, far], [x, height, near]])
    canvas.face(rail, color, FENCE, gain * 0.7)


def _plate(canvas: Canvas, middle: Points, z: float, outline: Points, color: Color, gain: float) -> None:
    corners = np.column_stack([outline + middle, np.full(len(outline), z)])
    canvas.face(corners, color, SIGN, gain)


def _board(rng: np.random.Generator) -> Color:
    color = BOARDS[int(rng.integers(len(BOARDS)))]
    return (color[0] * rng.uniform(0.8, 1.1), color[1] * rng.uniform(0.8, 1.1), color[2] * rng.uniform(0.8, 1.1))
