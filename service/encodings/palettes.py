"""Class tables with colours, and the colour of every pixel value.

May import: numpy.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.encodings.runs import ClassRow


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
