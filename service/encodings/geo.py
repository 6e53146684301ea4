"""Where a picture lies on the earth."""

from __future__ import annotations

from typing import Protocol


class Geo(Protocol):
    """The georeference of a picture, as a GeoTIFF has it."""

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """(x0, dx/dcolumn, dx/drow, y0, dy/dcolumn, dy/drow), GDAL's order; (x0, y0) is the upper left pixel's outer corner."""

    @property
    def epsg(self) -> int | None:
        """The coordinate reference system; None if unknown."""

    @property
    def projected(self) -> bool:
        """Whether ``epsg`` is a projected system; otherwise it is a geographic one."""
