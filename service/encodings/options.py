"""The options of a mask beside its format, understood and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.encodings import palettes
from service.encodings.driving import Driving
from service.encodings.palettes import ColoredRow
from service.encodings.tables import Translation


@dataclass(frozen=True)
class Options:
    """How a mask is filtered and written. ``encodings.understood`` makes one of a query."""

    min_confidence: float = 0.0
    """0..1: pixels of which the network is less sure become 255."""
    keep: frozenset[int] | None = None
    """The model's ids that stay; every other pixel becomes 255."""
    translation: Translation | None = None
    """To the ids of another table."""
    statistics: bool = False
    """Bounding box and mean confidence of each mask in a document."""
    legend: bool = False
    """Names and colours in the picture."""
    instances: bool = False
    """Things of countable classes as masks of their own."""
    min_area: int = 0
    """Pixels of a thing, below which it is dropped."""
    tolerance: float = 0.0
    """Pixels by which polygons may stray."""
    bright: bool = False
    """Colours that can be told apart, in the place of the table's own."""
    driving: Driving | None = None
    """What is drivable, and the camera, where the format tells free space."""

    def rows(self, classes: Sequence[ColoredRow]) -> Sequence[ColoredRow]:
        """The class table of the ids that are written.

        Takes:
            classes: the model's
        """
        rows = classes if self.translation is None else self.translation.rows
        return palettes.recolored(rows) if self.bright else rows

    def selection(self) -> dict[str, Any]:
        """The options that change labels, for JSON: equal ones give equal masks of one image."""
        return {
            "min_confidence": self.min_confidence,
            "keep": None if self.keep is None else sorted(self.keep),
            "ids": None if self.translation is None else self.translation.table.tolist(),
        }


NO_OPTIONS = Options()
"""The mask as it is."""
