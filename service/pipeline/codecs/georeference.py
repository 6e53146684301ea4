"""Where a GeoTIFF lies on the earth.

Source: OGC GeoTIFF 1.1 (19-008r4), requirements classes Tags, GeoKeys, and annex C for raster space.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from service.errors import ServiceError
from service.pipeline.codecs.tiff_pages import Data, Page, Tag, find_page

_SCALE, _TIE_POINTS, _TRANSFORM, _KEYS = 33550, 33922, 34264, 34735
_MODEL_TYPE, _RASTER_TYPE, _GEOGRAPHIC, _PROJECTED = 1024, 1025, 2048, 3072
_MODEL_PROJECTED, _MODEL_GEOGRAPHIC = 1, 2
_PIXEL_IS_POINT = 2
_EPSG = range(1, 32767)
"""Codes of the registry; 32767 is one's own definition."""
MAX_KEYS = 1024

Transform = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Georeference:
    """Where an upright picture lies."""

    transform: Transform
    """(x0, dx/dcolumn, dx/drow, y0, dy/dcolumn, dy/drow), GDAL's order; (x0, y0) is the upper left pixel's outer corner."""
    epsg: int | None
    """The coordinate reference system; None if the file defines one of its own or says nothing."""
    projected: bool = False
    """Whether ``epsg`` is a projected system; otherwise it is a geographic one."""

    @property
    def is_geographic(self) -> bool:
        """Whether coordinates are longitude and latitude of WGS 84, as RFC 7946 wants them."""
        return self.epsg == 4326


def of(data: Data) -> Georeference | None:
    """Read the georeference of the page that holds the picture.

    Takes:
        data: a TIFF file
    Gives:
        None if there is none, or if it is not an affine one: ground control points alone say too little
    """
    try:
        page = find_page(data)
        keys = _keys(page)
        stored = _transform(page)
    except (ServiceError, struct.error, OverflowError):
        return None
    if stored is None or not all(map(math.isfinite, stored)):
        return None
    x0, x_column, x_row, y0, y_column, y_row = stored
    if x_column * y_row == x_row * y_column:
        return None
    if keys.get(_RASTER_TYPE) == _PIXEL_IS_POINT:  # coordinates of the pixels' centres
        x0, y0 = x0 - (x_column + x_row) / 2, y0 - (y_column + y_row) / 2
    model = keys.get(_MODEL_TYPE)
    key = {_MODEL_PROJECTED: _PROJECTED, _MODEL_GEOGRAPHIC: _GEOGRAPHIC}.get(model or 0)
    epsg = keys.get(key) if key else None
    sides = page.number(Tag.WIDTH, 0), page.number(Tag.LENGTH, 0)
    turned = _turned((x0, x_column, x_row, y0, y_column, y_row), page.orientation, *sides)
    known = epsg if epsg in _EPSG else None
    return Georeference(turned, known, known is not None and model == _MODEL_PROJECTED)


def _keys(page: Page) -> dict[int, int]:
    """Read the geo keys whose values are short numbers."""
    numbers = page.numbers(_KEYS)
    entries = zip(*(numbers[start : 4 + 4 * MAX_KEYS : 4] for start in (4, 5, 6, 7)), strict=False)
    return {int(key): int(value) for key, location, _, value in entries if location == 0}


def _transform(page: Page) -> Transform | None:
    matrix = page.numbers(_TRANSFORM)
    if len(matrix) >= 8:
        return matrix[3], matrix[0], matrix[1], matrix[7], matrix[4], matrix[5]
    scale, ties = page.numbers(_SCALE), page.numbers(_TIE_POINTS)
    if len(scale) < 2 or len(ties) < 6:
        return None
    column, row, _, x, y, _ = ties[:6]
    return x - column * scale[0], scale[0], 0.0, y + row * scale[1], 0.0, -scale[1]


def _turned(stored: Transform, orientation: int, width: int, height: int) -> Transform:
    """Refer a transform to the upright picture: upright column and row to stored ones, then to the map."""
    x0, x_column, x_row, y0, y_column, y_row = stored
    # Stored column and row as (constant, by upright column, by upright row).
    column, row = {
        2: ((width, -1, 0), (0, 0, 1)),
        3: ((width, -1, 0), (height, 0, -1)),
        4: ((0, 1, 0), (height, 0, -1)),
        5: ((0, 0, 1), (0, 1, 0)),
        6: ((0, 0, 1), (height, -1, 0)),
        7: ((width, 0, -1), (height, -1, 0)),
        8: ((width, 0, -1), (0, 1, 0)),
    }.get(orientation, ((0, 1, 0), (0, 0, 1)))
    xs = [x_column * by_column + x_row * by_row for by_column, by_row in zip(column, row, strict=True)]
    ys = [y_column * by_column + y_row * by_row for by_column, by_row in zip(column, row, strict=True)]
    return x0 + xs[0], xs[1], xs[2], y0 + ys[0], ys[1], ys[2]
