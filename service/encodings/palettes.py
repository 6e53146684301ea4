"""The colour of every pixel value: the class table's own, or bright ones that can be told apart."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.encodings.runs import ClassRow
from service.encodings.tables import Row
from service.errors import BadParameter

MODEL, BRIGHT = "model", "bright"
PALETTES = (MODEL, BRIGHT)
"""What ``palette`` may say: the colours of the class table, or :func:`bright` ones."""


class ColoredRow(ClassRow, Protocol):
    """A row of the class table, with its colour."""

    @property
    def color(self) -> tuple[int, int, int]:
        """RGB, 0..255."""


def palette_of(rows: Iterable[ColoredRow]) -> NDArray[np.uint8]:
    """The colour of every pixel value.

    Takes:
        rows: the class table
    Gives:
        256 x 3 uint8 RGB; values without a class are black
    """
    table = np.zeros((256, 3), np.uint8)
    for row in rows:
        table[row.id] = row.color
    return table


def is_bright(palette: str) -> bool:
    """Whether a query asks for bright colours.

    Raises:
        BadParameter: if there is no such palette
    """
    if palette not in PALETTES:
        raise BadParameter(
            f"no palette {palette[:64]!r}; there are {', '.join(PALETTES)}", parameter="palette", allowed=list(PALETTES)
        )
    return palette == BRIGHT


def recolored(rows: Sequence[ColoredRow]) -> list[ColoredRow]:
    """Give the classes of a table bright colours, in the table's order."""
    colors = bright(len(rows))
    return [Row(row.id, row.name, color) for row, color in zip(rows, colors, strict=True)]


@functools.cache
def bright(count: int) -> tuple[tuple[int, int, int], ...]:
    """Choose colours that can be told apart from each other, from black and from white.

    Each colour is the one of a grid that lies farthest, in CIELAB, from all chosen before (Glasbey et al., Colour displays for
    categorical images, 2007). The first colours of a longer palette are those of a shorter one.

    Takes:
        count: 0 to 1000
    Gives:
        RGB, 0..255
    """
    levels = np.linspace(0, 255, 12).round()
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    lab = cielab(grid)
    nearest = np.minimum(*(np.linalg.norm(lab - taken, axis=1) for taken in cielab(np.array([[0, 0, 0], [255, 255, 255]]))))
    chosen = []
    for _ in range(count):
        best = int(nearest.argmax())
        chosen.append(best)
        np.minimum(nearest, np.linalg.norm(lab - lab[best], axis=1), out=nearest)
    return tuple((int(red), int(green), int(blue)) for red, green, blue in grid[chosen])


def cielab(colors: NDArray[np.generic]) -> NDArray[np.float64]:
    """Convert colours to CIELAB (CIE 15:2004, D65), in which distances are roughly those that people see.

    Takes:
        colors: N x 3 sRGB, 0..255
    Gives:
        N x 3: L* (0..100), a*, b*
    """
    scaled = colors.astype(np.float64) / 255
    linear = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / (to_xyz.sum(1))
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack((116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])), 1)
