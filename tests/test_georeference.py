"""Where a GeoTIFF lies, as GDAL would read it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.encodings import MaskView, encode
from service.pipeline.codecs.decoding import Limits, decode
from service.pipeline.codecs.georeference import Georeference, of
from service.pipeline.predictor import Predictor
from service.pipeline.repository import Repository
from tests.conftest import encode_image

tifffile = pytest.importorskip("tifffile", reason="tifffile writes the files")

PICTURE = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(4, 6, 3)
UTM32 = {1024: 1, 1025: 1, 3072: 32632}


def keys(values: dict[int, int]) -> tuple[int, str, int, tuple[int, ...], bool]:
    """The directory of geo keys, as tifffile takes a tag."""
    numbers = (1, 1, 0, len(values), *(number for key, value in sorted(values.items()) for number in (key, 0, 1, value)))
    return (34735, "H", len(numbers), numbers, True)


def geotiff(*tags: Any, orientation: int = 1, **options: Any) -> bytes:
    """A GeoTIFF of 6 x 4 pixels."""
    file = io.BytesIO()
    extra = [*tags, (274, "H", 1, orientation, True)]
    tifffile.imwrite(file, PICTURE, photometric="rgb", extratags=extra, metadata=None, **options)
    return file.getvalue()


SCALE = (33550, "d", 3, (10.0, 20.0, 0.0), True)
TIE = (33922, "d", 6, (0.0, 0.0, 0.0, 500_000.0, 5_400_000.0, 0.0), True)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_a_scale_and_a_tie_point_are_a_transform(order: str, big: bool) -> None:
    """North is up: rows go south."""
    found = of(geotiff(SCALE, TIE, keys(UTM32), byteorder=order, bigtiff=big))
    assert found == Georeference((500_000.0, 10.0, 0.0, 5_400_000.0, 0.0, -20.0), 32632, projected=True)


def test_a_tie_point_need_not_be_the_corner() -> None:
    """It ties any pixel."""
    tie = (33922, "d", 6, (2.0, 1.0, 0.0, 500_020.0, 5_399_980.0, 0.0), True)
    found = of(geotiff(SCALE, tie, keys(UTM32)))
    assert found is not None
    assert found.transform == (500_000.0, 10.0, 0.0, 5_400_000.0, 0.0, -20.0)


def test_coordinates_of_pixel_centres_are_moved_to_their_corner() -> None:
    """RasterPixelIsPoint."""
    found = of(geotiff(SCALE, TIE, keys(UTM32 | {1025: 2})))
    assert found is not None
    assert found.transform == (499_995.0, 10.0, 0.0, 5_400_010.0, 0.0, -20.0)


def test_a_matrix_may_turn_the_picture() -> None:
    """ModelTransformation, with longitude and latitude."""
    matrix = (0.1, 0.2, 0.0, 8.0, 0.3, -0.4, 0.0, 50.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    found = of(geotiff((34264, "d", 16, matrix, True), keys({1024: 2, 2048: 4326})))
    assert found == Georeference((8.0, 0.1, 0.2, 50.0, 0.3, -0.4), 4326)
    assert found.is_geographic


@pytest.mark.parametrize("values", [{}, {1024: 1, 3072: 32767}, {1024: 3, 3072: 4978}, {1024: 1}])
def test_a_reference_system_of_its_own_has_no_code(values: dict[int, int]) -> None:
    """The transform counts all the same."""
    found = of(geotiff(SCALE, TIE, *([keys(values)] if values else [])))
    assert found is not None
    assert found.epsg is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_transform_is_that_of_the_upright_picture(orientation: int) -> None:
    """Every pixel of the turned picture lies where the stored one does."""
    data = geotiff(SCALE, TIE, keys(UTM32), orientation=orientation)
    found = of(data)
    assert found is not None
    x0, x_column, x_row, y0, y_column, y_row = found.transform
    upright = decode(data, Limits())
    for row, column in np.ndindex(upright.shape[:2]):
        x = x0 + x_column * (column + 0.5) + x_row * (row + 0.5)
        y = y0 + y_column * (column + 0.5) + y_row * (row + 0.5)
        stored_column, stored_row = (x - 500_000) / 10 - 0.5, (5_400_000 - y) / 20 - 0.5
        assert np.array_equal(upright[row, column], PICTURE[round(stored_row), round(stored_column)])


@pytest.mark.parametrize(
    "tags",
    [
        (),
        (SCALE,),
        (TIE,),
        ((33550, "d", 3, (0.0, 20.0, 0.0), True), TIE),
        ((33550, "d", 3, (float("nan"), 20.0, 0.0), True), TIE),
        (TIE, keys(UTM32)),
    ],
)
def test_a_picture_without_an_affine_georeference_has_none(tags: tuple[Any, ...]) -> None:
    """Half a reference, control points, a scale of 0 or of no number."""
    assert of(geotiff(*tags)) is None


@pytest.mark.parametrize("data", [b"II*\0", b"II*\0\xff\xff\xff\x7f", encode_image(PICTURE, "TIFF")[:40]])
def test_damage_gives_no_georeference(data: bytes) -> None:
    """The picture's own errors are for the decoder to say."""
    assert of(data) is None


def test_a_mask_lies_where_its_picture_lies(artifact_dir: Path) -> None:
    """The predictor carries the georeference to the formats: polygons and a mask TIFF lie where the picture lies."""
    predictor = Predictor(Repository(artifact_dir), Limits())
    result = predictor.segment(geotiff(SCALE, TIE, keys(UTM32)))
    assert result.geo == Georeference((500_000.0, 10.0, 0.0, 5_400_000.0, 0.0, -20.0), 32632, projected=True)
    document = json.loads(encode("geojson", MaskView.of(result)).body)
    points = np.array(list(_points(document["features"])))
    assert points.min(0).tolist() == [500_000.0, 5_400_000.0 - 4 * 20]
    assert points.max(0).tolist() == [500_000.0 + 6 * 10, 5_400_000.0]
    assert of(encode("tiff", MaskView.of(result)).body) == result.geo
    assert predictor.segment(encode_image(PICTURE)).geo is None
    predictor.close()


def _points(features: list[dict[str, Any]]) -> Iterator[list[float]]:
    for feature in features:
        for polygon in feature["geometry"]["coordinates"]:
            for ring in polygon:
                yield from ring
