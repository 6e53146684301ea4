"""Masks that are written by rows, for pictures that are read by rows: see ``Format.by_rows``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from service.encodings.geo import Geo
from service.encodings.view import MaskView


@dataclass(frozen=True, eq=False)
class Sheet:
    """What is known of a mask before its first row."""

    height: int
    width: int
    rows: int
    """Of every band but the last one."""
    palette: NDArray[np.uint8]
    """256 x 3 uint8 RGB."""
    geo: Geo | None = None
    """Where the picture lies; None where its file does not say."""


class RowWriter(Protocol):
    """Writes one mask into a file, from the top row to the bottom one."""

    def add(self, view: MaskView) -> None:
        """Write the next band: a view of these rows alone, its options applied."""

    def finish(self) -> None:
        """Write what stands behind the last row."""


@dataclass(frozen=True)
class ByRows:
    """How a format writes by rows."""

    begin: Callable[[BinaryIO, Sheet], RowWriter]
    """Writes what stands before the first row, into an empty file that can be sought."""
    pictured: bool = False
    """Whether it shows the picture itself."""
