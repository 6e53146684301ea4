"""Polygons, against shapely."""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
import pytest
import shapely
import shapely.geometry
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from service.encodings import polygons
from tests.conftest import make_manifest
from tests.maps import STREET_CLASSES, maps, streets

CLASSES = make_manifest().classes
DIAGONALS = arrays(np.uint8, st.tuples(st.integers(2, 12), st.integers(2, 12)), elements=st.sampled_from([0, 0, 1]))
"""Two classes: at every other point, pixels touch at a corner alone."""

SPIRAL = np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]], np.uint8)
HOLE_AT_A_CORNER = np.array([[0, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]], np.uint8)
HOLES_AT_A_CORNER = np.array([[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], np.uint8)


def encoded(labels: NDArray[np.uint8], tolerance: float = 0.0) -> dict[str, Any]:
    """The document after a trip through JSON."""
    document: dict[str, Any] = json.loads(json.dumps(polygons.encode(labels, CLASSES, tolerance=tolerance)))
    return document


def centres(labels: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x and y of the middle of every pixel."""
    y, x = np.indices(labels.shape) + 0.5
    return x, y


@given(maps)
@example(SPIRAL)
@example(HOLE_AT_A_CORNER)
@example(HOLES_AT_A_CORNER)
def test_shapely_finds_every_pixel_in_its_feature_and_in_no_other(labels: NDArray[np.uint8]) -> None:
    """Valid polygons, of just the pixels' area, that contain the centres of just the pixels."""
    document = encoded(labels)
    assert [entry["id"] for entry in document["classes"]] == [row.id for row in CLASSES if (labels == row.id).any()]
    for entry, feature in zip(document["classes"], document["features"], strict=True):
        shape = shapely.geometry.shape(feature["geometry"])
        assert shape.is_valid, shapely.is_valid_reason(shape)
        assert shape.area == entry["pixels"]
        assert np.array_equal(shapely.contains_xy(shape, *centres(labels)), labels == entry["id"])
        assert (feature["properties"]["id"], feature["properties"]["name"]) == (entry["id"], entry["name"])


@given(maps)
def test_any_map_comes_back(labels: NDArray[np.uint8]) -> None:
    """Drawing all features gives the map again, 255 where there is none."""
    assert np.array_equal(polygons.decode(encoded(labels)), labels)


@given(DIAGONALS)
def test_a_polygon_is_one_region_and_its_holes(labels: NDArray[np.uint8]) -> None:
    """As many polygons as regions of pixels that share edges; rings are simple, closed, and turn the way that is promised."""
    document = encoded(labels)
    for entry, feature in zip(document["classes"], document["features"], strict=True):
        regions, _ = cv2.connectedComponents((labels == entry["id"]).astype(np.uint8), connectivity=4)
        assert len(feature["geometry"]["coordinates"]) == regions - 1
        for polygon in feature["geometry"]["coordinates"]:
            for number, ring in enumerate(polygon):
                assert ring[0] == ring[-1]
                assert len({tuple(point) for point in ring}) == len(ring) - 1
                # shapely's y goes up, and so what it calls counterclockwise has a positive area
                assert shapely.LinearRing(ring).is_ccw == (number == 0)
                steps = np.diff(np.array(ring), axis=0)
                assert ((steps == 0).sum(1) == 1).all()
                assert (np.diff(steps != 0, axis=0).any(1)).all(), "a corner that is none"


def test_one_pixel_is_one_square() -> None:
    """The document, point by point."""
    labels = np.full((2, 3), 255, np.uint8)
    labels[1, 2] = 1
    assert encoded(labels) == {
        "type": "FeatureCollection",
        "size": [2, 3],
        "tolerance": 0.0,
        "classes": [{"id": 1, "name": "green", "pixels": 1, "share": 1 / 6}],
        "features": [
            {
                "type": "Feature",
                "properties": {"id": 1, "name": "green"},
                "geometry": {"type": "MultiPolygon", "coordinates": [[[[2, 1], [3, 1], [3, 2], [2, 2], [2, 1]]]]},
            }
        ],
    }


def test_an_empty_map_has_no_feature() -> None:
    """A map of unlabelled pixels alone is a collection without features, and comes back."""
    labels = np.full((3, 4), 255, np.uint8)
    assert encoded(labels)["features"] == []
    assert np.array_equal(polygons.decode(encoded(labels)), labels)


@pytest.mark.parametrize("tolerance", [0.0, 1.0, 2.5])
def test_a_pixel_changes_only_within_the_tolerance_of_an_edge(tolerance: float) -> None:
    """At 0 none does. OpenCV's polygons stray by a tenth more; the half diagonal of a pixel is from its centre to the edge."""
    for labels in streets():
        document = polygons.encode(labels, STREET_CLASSES, tolerance=tolerance)
        changed = polygons.decode(document) != labels
        edge = np.ones(labels.shape, np.uint8)  # the border of the image is one
        edge[1:-1, 1:-1] = 0
        edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
        edge[:, :-1] |= labels[:, 1:] != labels[:, :-1]
        edge[1:] |= labels[1:] != labels[:-1]
        edge[:-1] |= labels[1:] != labels[:-1]
        distance = np.asarray(cv2.distanceTransform(1 - edge, cv2.DIST_L2, cv2.DIST_MASK_PRECISE))
        assert distance[changed].max(initial=0) <= 1.25 * tolerance + 0.71
        assert changed.any() == (tolerance > 0)
        assert changed.mean() < 0.08


def test_a_tolerance_saves_points() -> None:
    """That is what it is for."""
    points = [len(json.dumps(polygons.encode(streets()[0], STREET_CLASSES, tolerance=t))) for t in (0, 1, 2)]
    assert points[0] > 2 * points[1] > 2 * points[2]


@given(st.lists(st.tuples(st.integers(-12, 50), st.integers(-12, 50)), min_size=3, max_size=8))
def test_any_polygon_is_drawn_by_the_centres_of_pixels(quarters: list[tuple[int, int]]) -> None:
    """Slanted edges, points beyond the image: what shapely's valid polygons contain is drawn, but for centres on an edge."""
    points = [(x / 4, y / 4) for x, y in quarters]
    ring = shapely.Polygon(points)
    if not ring.is_valid:
        return
    features = [{"properties": {"id": 1}, "geometry": {"coordinates": [[points]]}}]
    drawn = polygons.decode({"size": [8, 10], "features": features}) == 1
    x, y = centres(drawn)
    clear = shapely.distance(shapely.points(x, y), ring.exterior) > 1e-6
    assert np.array_equal(drawn[clear], shapely.contains_xy(ring, x, y)[clear])


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"size": [2, 3]},
        {"size": [2], "features": []},
        {"size": [10**9, 10**9], "features": []},
        {"size": [2, 3], "features": [{}]},
        {"size": [2, 3], "features": [{"properties": {"id": 0}, "geometry": {"coordinates": [[[[0, 0], [1]]]]}}]},
        {"size": [2, 3], "features": [{"properties": {"id": 0}, "geometry": {"coordinates": [[[[0, 0], [float("nan"), 2]]]]}}]},
    ],
)
def test_a_damaged_document_is_refused(document: dict[str, Any]) -> None:
    """A ``ValueError`` that says so, whatever is missing."""
    with pytest.raises(ValueError, match=r"not polygons|size is|inhomogeneous|beyond|unpack"):
        polygons.decode(document)
