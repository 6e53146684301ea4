"""What the numbers of a whole picture decide about each of its parts: the depth of samples, and whether transparency counts.

A picture that is read by rows is read twice where it has such numbers: first for these, then for its pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
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
        return type(self)(
            largest=max(self.largest, other.largest),
            largest_alpha=max(self.largest_alpha, other.largest_alpha),
            wide=max(self.wide, other.wide),
            wide_alpha=max(self.wide_alpha, other.wide_alpha),
            is_visible=self.is_visible or other.is_visible,
            above=self.above + other.above,
            below=self.below + other.below,
            count=self.count + other.count,
            most=max(self.most, other.most),
            least=min(self.least, other.least),
        )
