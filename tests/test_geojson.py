"""GeoJSON in pixels and on the map, judged by shapely."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
from shapely.geometry import Point, shape

from service.encodings import FORMATS
from tests.maps import STREET_CLASSES, street, streets


@dataclass(frozen=True)
class Place:
    """A georeference."""

    transform: tuple[float, float, float, float, float, float]
    epsg: int | None
    projected: bool = False


UTM = Place((500_000.0, 0.5, 0.0, 5_400_000.0, 0.0, -0.5), 32632)
TURNED = Place((10.0, 3e-6, 1e-6, 50.0, 1e-6, -3e-6), 4326)
MIRRORED = Place((0.0, -2.0, 0.0, 0.0, 0.0, -2.0), None)


def areas() -> dict[int, int]:
    """Pixels of each class of the street."""
    ids, counts = np.unique(streets()[0], return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def test_without_a_georeference_points_are_pixels() -> None:
    """As in ``polygons``, and a feature says of itself what entries say elsewhere."""
    document, plain = json.loads(street("geojson", statistics=True)), json.loads(street("polygons"))
    assert document["type"] == "FeatureCollection"
    assert [one["geometry"] for one in document["features"]] == [one["geometry"] for one in plain["features"]]
    assert "crs" not in document
    for feature in document["features"]:
        assert feature["properties"]["pixels"] == areas()[feature["properties"]["id"]] == shape(feature["geometry"]).area
        assert 0 <= feature["properties"]["confidence"] <= 1
    assert FORMATS["geojson"].media_type == "application/geo+json"


@pytest.mark.parametrize("place", [UTM, TURNED, MIRRORED])
def test_a_georeferenced_picture_lies_on_the_map(place: Place) -> None:
    """Every class has its area in the map's unit, and a pixel's centre lies in the feature of its class."""
    document = json.loads(street("geojson", geo=place))
    x0, x_column, x_row, y0, y_column, y_row = place.transform
    pixel = abs(x_column * y_row - x_row * y_column)
    features = {one["properties"]["id"]: shape(one["geometry"]) for one in document["features"]}
    for own, region in features.items():
        assert region.area / pixel == pytest.approx(areas()[own], rel=1e-6)
    labels = streets()[0]
    for row, column in ((5, 7), (100, 30), (170, 230), (90, 120)):
        at = Point(x0 + (column + 0.5) * x_column + (row + 0.5) * x_row, y0 + (column + 0.5) * y_column + (row + 0.5) * y_row)
        assert features[int(labels[row, column])].covers(at)


@pytest.mark.parametrize("place", [UTM, TURNED, MIRRORED])
def test_rings_turn_as_rfc_7946_wants(place: Place) -> None:
    """Exteriors counterclockwise, holes clockwise, with y upwards."""
    found = 0
    for feature in json.loads(street("geojson", geo=place))["features"]:
        for polygon in shape(feature["geometry"]).geoms:
            assert polygon.exterior.is_ccw
            assert not any(hole.is_ccw for hole in polygon.interiors)
            found += len(polygon.interiors)
    assert found


def test_a_reference_system_other_than_longitude_and_latitude_is_named() -> None:
    """By the member that GDAL and QGIS read."""
    named = json.loads(street("geojson", geo=UTM))["crs"]["properties"]["name"]
    assert named == "urn:ogc:def:crs:EPSG::32632"
    assert "crs" not in json.loads(street("geojson", geo=TURNED))
    assert "crs" not in json.loads(street("geojson", geo=MIRRORED))


def test_objects_say_instance_and_score() -> None:
    """In their properties."""
    document = json.loads(street("geojson", instances=True, learned=True))
    things = [one["properties"] for one in document["features"] if "instance" in one["properties"]]
    assert {one["name"] for one in things} <= {entry.name for entry in STREET_CLASSES}
    assert things
    assert all("score" in one for one in things)
