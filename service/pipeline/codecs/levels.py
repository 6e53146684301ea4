"""What the numbers of a whole picture decide about each of its parts: the depth of samples, and whether transparency counts.

A picture that is read by rows is read twice where it has such numbers: first for these, then for its pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self


@dataclass(frozen=True)
class Levels:
    """The numbers of a picture, or of some of its rows. Each reader fills the fields that it decides by."""

    largest: int = 0
    """The largest sample of the colours, as Pillow or the TIFF reader gives it."""
    largest_alpha: int = 0
    wide: int = 0
    """The largest 16-bit sample of a PNG's colours."""
    wide_alpha: int = 0
    is_visible: bool = False
    """Whether any pixel is not wholly transparent; an alpha channel that is 0 everywhere says nothing."""
    above: int = 0
    """How many numbers lie above the range that is read."""
    below: int = 0
    count: int = 0
    most: float = 0.0
    least: float = 0.0

    def merged(self, other: Self) -> Self:
        """Return the levels of both parts together."""
        both = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        sums = {name: sum(both[name]) for name in ("above", "below", "count")}
        most = {name: max(pair) for name, pair in both.items() if name not in (*sums, "least")}
        return replace(self, **most, **sums, least=min(both["least"]))
