"""A street is drawn up: what stands where. Then it is painted, far to near. Imports numpy only.

Traffic keeps left, as in Cambridge: the camera drives along x = 0, the kerb is at its left, oncoming cars pass at its right.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from models.scenes import furniture, greenery, people, vehicles
from models.scenes.buildings import House, paint_house
from models.scenes.canvas import PAVEMENT, TREE, Canvas, View
from models.scenes.greenery import Species
from models.scenes.ground import (
    DRAIN,
    PALE_REPAIR,
    REPAIR,
    WHITE_LINE,
    YELLOW_LINE,
    Junction,
    Side,
    Stroke,
    paint_ground,
    paint_sky,
    straight,
)
from models.scenes.light import Color, Light

END_M = 150.0


@dataclass
class Street:
    """The plan of one scene."""

    left: Side
    right: Side
    centre: float
    """The middle line's x."""
    parking: dict[int, bool]
    open_sides: dict[int, bool]
    """Gardens and trees instead of a row of houses."""
    junctions: list[Junction]
    fenced: bool = False
    """Whether there is a fence by now."""
    items: list["Item"] = field(default_factory=list)

    def side(self, sign: int) -> Side:
        """The left (-1) or right (1) one."""
        return self.left if sign < 0 else self.right

    def add(self, x: float, z: float, paint: Callable[[Canvas], None]) -> None:
        """Stand something at this place."""
        self.items.append(Item(x, z, paint))

    def shaded(self, x: float) -> bool:
        """Whether the buildings' shadow lies over this distance from the camera's path."""
        return any(side.shadow_m > 0 and (side.front - x) * side.sign < side.shadow_m for side in (self.left, self.right))


@dataclass(frozen=True)
class Item:
    """Something to paint, and where it stands; the far ones go first."""

    x: float
    z: float
    paint: Callable[[Canvas], None]


def draw_view(height: int, width: int, samples: int, rng: np.random.Generator) -> View:
    """A camera on a dashboard. Takes: the picture's size in pixels."""
    focal = (height + width) / 2 * rng.uniform(1.0, 1.18)
    return View(
        height=height * samples,
        width=width * samples,
        samples=samples,
        focal=focal * samples,
        column=width * samples * float(np.clip(rng.normal(0.5, 0.06), 0.3, 0.7)),
        horizon=height * samples * rng.uniform(0.47, 0.56),
        eye_m=rng.uniform(1.25, 1.6),
        bend=float(np.clip(rng.normal(0, 0.0006), -0.0015, 0.0015)),
    )


def draw_street(light: Light, rng: np.random.Generator) -> Street:
    """The ground plan: how wide, what on each side, where the shadow falls."""
    parking = {-1: bool(rng.random() < 0.45), 1: bool(rng.random() < 0.5)}
    open_sides = {-1: bool(rng.random() < 0.28), 1: bool(rng.random() < 0.28)}
    centre = rng.uniform(1.4, 2.1)
    kerbs = {-1: -(rng.uniform(1.9, 2.7) + 2.1 * parking[-1]), 1: centre + rng.uniform(3.0, 4.2) + 2.1 * parking[1]}
    reach = rng.uniform(5, 14) * abs(light.direction[0]) / max(light.direction[1], 0.3)
    sides = {}
    for sign in (-1, 1):
        shadow = reach if light.sun > 0 and sign * light.direction[0] > 0 and not open_sides[sign] else 0.0
        front = kerbs[sign] + sign * rng.uniform(1.3, 2.9)
        sides[sign] = Side(sign, kerbs[sign], front, TREE if open_sides[sign] else PAVEMENT, shadow)
    junctions = []
    if rng.random() < 0.45:
        near = rng.uniform(14, 45)
        signs = ((-1,), (1,), (-1, 1))[int(rng.integers(3))]
        junctions.append(Junction(near, near + rng.uniform(7, 11), signs))
    return Street(sides[-1], sides[1], centre, parking, open_sides, junctions)


def paint_scene(canvas: Canvas, street: Street, rng: np.random.Generator) -> None:
    """Sky, ground, then everything that stands on it."""
    paint_sky(canvas)
    paint_ground(canvas, street.left, street.right, street.junctions, _markings(street, rng), rng)
    light = canvas.light
    trees = [
        greenery.grow_species(canvas.noise, rng, float(np.sign(light.direction[0])) if light.sun else 0.0, bare)
        for bare in (False, bool(rng.random() < 0.5), True)
    ]
    _place_distance(street, trees, rng)
    for sign in (-1, 1):
        if street.open_sides[sign]:
            _place_gardens(street, canvas.view, sign, trees, rng)
        else:
            _place_houses(street, canvas.view, sign, trees, rng)
        _place_furniture(street, canvas.view, sign, rng)
    if not street.fenced:
        _place_guard_rail(street, canvas.view, 1 if street.parking[-1] else -1, rng)
    _place_traffic(street, canvas.view, rng)
    _place_people(street, canvas.view, rng)
    in_shade = replace(light, sun=0.0)
    for number, item in enumerate(sorted(street.items, key=lambda item: -item.z), start=1):
        canvas.number = number
        canvas.light = in_shade if street.shaded(item.x) else light
        item.paint(canvas)
    canvas.light, canvas.number = light, 0


def _entry(view: View, x: float) -> float:
    """The distance from which on a thing x metres to the side is in the picture."""
    reach = view.column if x < 0 else view.width - view.column
    return abs(x) * view.focal / max(reach, 1.0)


def _in_junction(street: Street, sign: int, near: float, far: float) -> Junction | None:
    for junction in street.junctions:
        if sign in junction.signs and near < junction.far and far > junction.near:
            return junction
    return None


def _place_distance(street: Street, trees: list[Species], rng: np.random.Generator) -> None:
    """Draw the end of the view down the street: roofs and crowns in the haze."""
    x = -110.0
    while x < 110:
        width = rng.uniform(8, 18)
        z = END_M + rng.uniform(5, 60)
        if rng.random() < 0.5:
            house = House(1, x, z, z + 8, int(rng.integers(2, 4)), "terrace", width, True)
            street.add(99, z + 8, partial(paint_house, house=house, rng=rng))
        else:
            _add_tree(street, trees, x, z, rng.uniform(7, 15), rng)
        x += width * 0.8


def _place_houses(street: Street, view: View, sign: int, trees: list[Species], rng: np.random.Generator) -> None:
    """A row of houses along the pavement."""
    side = street.side(sign)
    z = _entry(view, side.front) * 0.85 - rng.uniform(0, 6)
    z = max(z, 2.5)
    main = rng.choice(["terrace", "shop", "mixed"], p=[0.3, 0.35, 0.35])
    storeys = int(rng.integers(2, 5))
    while z < END_M:
        length = rng.uniform(7, 18) * (1 + z / 120)
        junction = _in_junction(street, sign, z, z + length)
        if junction is not None:
            if junction.near - z > 5:
                length = junction.near - z
            else:
                z = junction.far + 0.5
                continue
        if rng.random() < 0.06 and z > 14:  # a gap with a tree in it
            _add_tree(street, trees, side.front + sign * rng.uniform(2, 5), z + 3, rng.uniform(6, 11), rng)
            z += 6
            continue
        kind = (
            str(main)
            if main != "mixed"
            else str(rng.choice(["terrace", "shop", "office", "hall", "shed"], p=[0.35, 0.3, 0.18, 0.09, 0.08]))
        )
        floors = 1 if kind == "shed" else int(np.clip(storeys + rng.integers(-1, 2), 2, 5))
        setback = rng.uniform(0, 0.5) if rng.random() < 0.85 else rng.uniform(0.5, 2.5)
        gabled = kind in ("terrace", "shop") and rng.random() < 0.8
        house = House(sign, side.front + sign * setback, z, z + length, floors, kind, rng.uniform(7, 11), gabled)
        street.add(house.front, z + length, partial(paint_house, house=house, rng=rng))
        if kind == "shop" and rng.random() < 0.4:
            at, y = z + rng.uniform(0.1, 0.9) * length, rng.uniform(3.0, 4.2)
            x = house.front - sign * 0.55
            wide, tall = rng.uniform(0.3, 0.5), rng.uniform(0.3, 0.7)
            street.add(x, at, partial(furniture.hang_board, x=x, y=y, z=at, wide=wide, tall=tall, rng=rng))
        z += length
    if rng.random() < 0.3:  # trees in the pavement
        for at in np.arange(_entry(view, side.kerb) + rng.uniform(6, 16), 110, rng.uniform(11, 20)):
            _add_tree(street, trees, side.kerb + sign * 0.9, float(at), rng.uniform(6, 10), rng)


def _place_gardens(street: Street, view: View, sign: int, trees: list[Species], rng: np.random.Generator) -> None:
    """Grass, trees and bushes behind railings, boards or a hedge; houses far behind."""
    side = street.side(sign)
    start = max(_entry(view, side.front) * 0.85, 3.0)
    border = str(rng.choice(["railings", "boards", "hedge", "none"], p=[0.4, 0.2, 0.25, 0.15]))
    color: Color = (30, 32, 32) if rng.random() < 0.7 else (44, 62, 50)
    brown: Color = (124, 100, 74)
    hedge: Color = (rng.uniform(50, 84), rng.uniform(66, 94), rng.uniform(34, 48))
    street.fenced |= border in ("railings", "boards")
    height = rng.uniform(0.9, 1.5) if border == "railings" else rng.uniform(1.2, 2.0)
    for z in np.arange(start, 90, 6.0):
        near, far = float(z), float(z) + 6.0
        if _in_junction(street, sign, near, far) is not None or border == "none":
            continue
        x = side.front
        if border == "railings":
            street.add(x, far, partial(furniture.paint_railings, x=x, near=near, far=far, height=height, color=color))
        elif border == "boards":
            street.add(x, far, partial(furniture.paint_boards, x=x, near=near, far=far, height=height, color=brown, rng=rng))
        else:
            street.add(x, far, partial(greenery.paint_hedge, corners=(x, near, x, far), height=height, color=hedge, rng=rng))
    for _ in range(int(rng.integers(5, 13))):
        off = rng.uniform(1.2, 14)
        x = side.front + sign * off
        z_at = rng.uniform(min(_entry(view, x) * 0.9 + 3, 110), 110)  # a narrow view sees what is beside it far away only
        if _in_junction(street, sign, z_at - 1, z_at + 1) is None or off > 6:
            _add_tree(street, trees, x, z_at, rng.uniform(5, 14), rng)
    for _ in range(int(rng.integers(2, 7))):
        x = side.front + sign * rng.uniform(0.8, 6)
        z_at = rng.uniform(min(_entry(view, x) + 1, 60), 60)
        if _in_junction(street, sign, z_at - 4, z_at + 4) is None:
            wide = rng.uniform(1, 3)
            tall = rng.uniform(0.7, 2.4)
            street.add(
                x,
                z_at,
                partial(greenery.paint_hedge, corners=(x - wide, z_at, x + wide, z_at), height=tall, color=hedge, rng=rng),
            )
    back = side.front + sign * rng.uniform(16, 32)
    z = _entry(view, back) * 0.8
    while z < END_M:
        length = rng.uniform(8, 20) * (1 + z / 120)
        house = House(
            sign, back, z, z + length, int(rng.integers(2, 4)), str(rng.choice(["terrace", "office", "shed"])), 9, True
        )
        street.add(back, z + length + 8, partial(paint_house, house=house, rng=rng))
        z += length + rng.uniform(0, 9)


def _add_tree(street: Street, trees: list[Species], x: float, z: float, height: float, rng: np.random.Generator) -> None:
    species = trees[int(rng.integers(len(trees)))]
    width = height * rng.uniform(0.65, 1.0)
    street.add(99, z, partial(greenery.paint_tree, species=species, x=x, z=z, height=height, width=width, rng=rng))


def _place_furniture(street: Street, view: View, sign: int, rng: np.random.Generator) -> None:
    """Lampposts, signs, bollards, traffic lights and guard rails by the kerb."""
    side = street.side(sign)
    by_kerb = side.kerb + sign * 0.45
    enter = _entry(view, by_kerb)
    for z in np.arange(enter + rng.uniform(1, 18), 140, rng.uniform(22, 34)):
        at = float(z)
        street.add(by_kerb, at, partial(furniture.paint_lamppost, x=by_kerb, z=at, toward=-sign, rng=rng))
    for _ in range(int(rng.integers(0 if sign > 0 else 1, 4))):
        at = enter + rng.exponential(14) + 0.5
        x = side.kerb + sign * rng.uniform(0.4, 1.0)
        street.add(x, at, partial(furniture.paint_sign, x=x, z=at, rng=rng))
    if rng.random() < 0.3:
        at, x = enter + rng.uniform(4, 18), side.front - sign * 0.7
        street.add(x, at, partial(furniture.paint_billboard, x=x, z=at, rng=rng))
    if rng.random() < 0.35:
        first = enter + rng.uniform(0.5, 12)
        for z in first + np.arange(int(rng.integers(2, 8))) * 1.6:
            at = float(z)
            street.add(by_kerb, at, partial(furniture.paint_bollard, x=by_kerb, z=at, rng=rng))
    crossing = street.junctions[0].near - 2 if street.junctions else enter + rng.uniform(8, 30)
    if rng.random() < (0.6 if street.junctions else 0.15):
        street.add(by_kerb, crossing, partial(furniture.paint_traffic_light, x=by_kerb, z=crossing, rng=rng))
    if rng.random() < (0.25 if street.parking[sign] else 0.5):
        _place_guard_rail(street, view, sign, rng)


def _place_guard_rail(street: Street, view: View, sign: int, rng: np.random.Generator) -> None:
    """Railings between pavement and road, a few panels of them."""
    street.fenced = True
    x = street.side(sign).kerb + sign * 0.3
    first = _entry(view, x) + rng.uniform(0.5, 7)
    height = rng.uniform(0.95, 1.15)
    color = furniture.STEEL[int(rng.integers(len(furniture.STEEL)))]
    for z in first + np.arange(int(rng.integers(3, 8))) * 2.2:
        near, far = float(z), float(z) + 2.2
        if _in_junction(street, sign, near, far) is None:
            street.add(x, far, partial(furniture.paint_railings, x=x, near=near, far=far, height=height, color=color))


def _place_traffic(street: Street, view: View, rng: np.random.Generator) -> None:
    """Parked cars along the kerbs, and cars on their way."""

    def add(x: float, z: float, heading: float) -> None:
        car = vehicles.draw_car(rng, x, z, heading + rng.normal(0, 0.02))
        street.add(x, z, partial(vehicles.paint_car, car=car, rng=rng))

    for sign in (-1, 1):
        side = street.side(sign)
        if street.parking[sign]:
            x = side.kerb - sign * 1.05
            z = _entry(view, x) + rng.uniform(-2.5, 4)
            filled = rng.uniform(0.5, 0.95)
            while z < 100:
                if rng.random() < filled and z > 4.5 and _in_junction(street, sign, z - 3, z + 3) is None:
                    add(x + rng.normal(0, 0.08), z, 0.0 if (sign < 0) == (rng.random() < 0.85) else np.pi)
                z += rng.uniform(5.0, 6.4)
    z = rng.uniform(9, 40)
    while z < 110:
        add(rng.normal(0, 0.2), z, 0.0)
        z += rng.uniform(8, 50)
    z = rng.uniform(8, 32)
    lane = street.centre + 1.55
    while z < 110:
        add(lane + rng.normal(0, 0.2), z, np.pi)
        z += rng.uniform(9, 42)
    for junction in street.junctions:
        if rng.random() < 0.5:
            sign = junction.signs[0]
            add(street.side(sign).kerb + sign * rng.uniform(1, 5), (junction.near + junction.far) / 2 + 1.5, -sign * np.pi / 2)


def _place_people(street: Street, view: View, rng: np.random.Generator) -> None:
    """Walkers on both pavements, now and then one crossing, and cyclists by the kerb."""
    for sign in (-1, 1):
        side = street.side(sign)
        for _ in range(1 + int(rng.poisson(2.5))):
            x = side.kerb + (side.front - side.kerb) * rng.uniform(0.25, 0.9)
            z = _entry(view, x) + 0.6 + rng.exponential(15)
            for _friend in range(1 + int(rng.random() < 0.3)):
                at_x, at_z = x + rng.uniform(-0.3, 0.3), z + rng.uniform(0, 0.8)
                street.add(at_x, at_z, partial(people.paint_pedestrian, x=at_x, z=at_z, rng=rng))
                x += 0.5 * np.sign(rng.normal())
    if rng.random() < 0.25:
        x, z = rng.uniform(street.left.kerb, street.right.kerb), rng.uniform(16, 45)
        street.add(x, z, partial(people.paint_pedestrian, x=x, z=z, rng=rng))
    for _ in range(1 + int(rng.poisson(0.7))):
        sign = -1 if rng.random() < 0.7 else 1
        kerb = street.side(sign).kerb - sign * 2.1 * street.parking[sign]
        x = kerb - sign * rng.uniform(0.4, 0.8)
        z = max(_entry(view, x), 6.0) + 1.0 + rng.exponential(9)
        street.add(x, z, partial(people.paint_cyclist, x=x, z=z, rng=rng))


def _markings(street: Street, rng: np.random.Generator) -> list[Stroke]:
    """Repairs and drains first, then lines over them."""
    strokes: list[Stroke] = []
    left, right = street.left.kerb, street.right.kerb
    for _ in range(int(rng.integers(1, 6))):
        x, z = rng.uniform(left, right - 1), rng.uniform(3, 40)
        kind = REPAIR if rng.random() < 0.6 else PALE_REPAIR
        strokes.append((straight(x, z, x + rng.uniform(0.5, 1.6), z + rng.uniform(0.8, 9)), kind))
    turns = np.linspace(0, 2 * np.pi, 17)[:-1]
    for _ in range(int(rng.integers(0, 4))):
        x, z = rng.uniform(left + 0.5, right - 0.5), rng.uniform(3.5, 30)
        strokes.append((np.column_stack([x + 0.28 * np.cos(turns), np.zeros(16), z + 0.28 * np.sin(turns)]), DRAIN))

    def line(x: float, near: float, far: float, width: float, kind: int) -> None:
        starts = np.arange(near, far, 4.0).tolist()  # in pieces, to follow the street's bend
        strokes.extend((straight(x - width / 2, z, x + width / 2, min(z + 4.0, far)), kind) for z in starts)

    mouth = street.junctions[0] if street.junctions else None
    dash, gap = ((2.0, 4.0), (4.0, 2.0), (3.0, 3.0), (1.0, 5.0))[int(rng.integers(4))]
    for z in np.arange(1.6 + rng.uniform(0, dash + gap), 120, dash + gap):
        if mouth is None or not mouth.near < z < mouth.far:
            line(street.centre, float(z), float(z) + dash, 0.11, WHITE_LINE)
    for sign, kerb in ((-1, left), (1, right)):
        inset = kerb - sign * 2.1 if street.parking[sign] else kerb
        style = str(rng.choice(["none", "single", "double", "white"], p=[0.3, 0.15, 0.4, 0.15]))
        spans = [(1.6, 100.0)] if mouth is None or sign not in mouth.signs else [(1.6, mouth.near), (mouth.far, 100.0)]
        for near, far in spans:
            if style in ("single", "double") and not street.parking[sign]:
                line(inset - sign * 0.3, near, far, 0.1, YELLOW_LINE)
            if style == "double" and not street.parking[sign]:
                line(inset - sign * 0.52, near, far, 0.1, YELLOW_LINE)
            if style == "white":
                line(inset - sign * rng.uniform(0.25, 1.2), near, far, 0.12, WHITE_LINE)
    special = rng.random()
    if special < 0.16:  # a zebra crossing between its zigzags
        z = rng.uniform(9, 26)
        stripes = np.arange(left + 0.3, right - 0.5, 1.2).tolist()
        strokes.extend((straight(x, z, x + 0.6, z + 2.6), WHITE_LINE) for x in stripes)
        for x in (left + 0.5, street.centre, right - 0.5):
            for step in range(6):
                a, b = z - 1 - 2 * step, z - 3 - 2 * step
                shift = 0.3 * (1 if step % 2 else -1)
                strokes.append(
                    (
                        np.array([[x - shift, 0, a], [x - shift + 0.1, 0, a], [x + shift + 0.1, 0, b], [x + shift, 0, b]]),
                        WHITE_LINE,
                    )
                )
    elif special < 0.3:  # a yellow box
        z0, z1 = 9.0, 19.0
        for offset in np.arange(-10, 10, 2.0):
            for slant in (1.0, -1.0):
                ends = [(x, z0 + (x - left) * slant + offset + (0 if slant > 0 else z1 - z0)) for x in (left, right)]
                inside = [(x, float(np.clip(z, z0, z1))) for x, z in ends]
                if abs(inside[0][1] - inside[1][1]) > 1:
                    x_at = [left + (z - ends[0][1]) / slant for _, z in inside]
                    strokes.append(
                        (
                            np.array(
                                [
                                    [x_at[0], 0, inside[0][1]],
                                    [x_at[0] + 0.16, 0, inside[0][1]],
                                    [x_at[1] + 0.16, 0, inside[1][1]],
                                    [x_at[1], 0, inside[1][1]],
                                ]
                            ),
                            YELLOW_LINE,
                        )
                    )
    elif special < 0.55:  # arrows in the lane
        for z in rng.uniform(6, 12) + np.arange(2) * 16.0:
            x = rng.uniform(-0.4, 0.4)
            strokes.append((straight(x - 0.08, float(z), x + 0.08, float(z) + 2.6), WHITE_LINE))
            strokes.append((np.array([[x - 0.42, 0, z + 2.4], [x + 0.42, 0, z + 2.4], [x, 0, z + 4.2]]), WHITE_LINE))
    if mouth is not None and rng.random() < 0.7:
        strokes.append((straight(left + 0.3, mouth.near - 2.4, street.centre - 0.1, mouth.near - 2.0), WHITE_LINE))
    return strokes
