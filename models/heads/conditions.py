"""How good a scan is: anything that people bring, or a usual T1 scan at 1 mm."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Conditions:
    """The ranges from which a head's contrast and its scanner are drawn."""

    fluid: tuple[float, float]
    """Fluid's intensity as a share of white matter's."""
    grey: tuple[float, float]
    """Where grey matter lies between fluid, 0, and white matter, 1."""
    spread: float
    """The most by which intensities within a class deviate, on a scale on which white matter is 110 to 220."""
    noise: float
    """The most that the scanner adds, as a share of 160 on that scale."""
    thick: float
    """The share of scans with slices that are thicker than 1.15 mm, or of another spacing than 1 mm."""


ANY = Conditions(fluid=(0.05, 0.5), grey=(0.38, 0.76), spread=11, noise=0.055, thick=0.45)
"""Good and bad ones: up to 3.5 mm thick, noise of up to 8 % of white matter, grey close to white."""

USUAL = Conditions(fluid=(0.1, 0.4), grey=(0.4, 0.68), spread=7, noise=0.03, thick=0.0)
"""A T1 scan at 1 mm: noise of up to 4.4 % of white matter, grey matter well apart from fluid and from white matter."""
