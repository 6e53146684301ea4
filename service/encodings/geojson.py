"""Polygons with holes as GeoJSON: on the map where the picture is georeferenced, otherwise in its pixels.

A georeferenced picture gives coordinates in its own coordinate reference system. RFC 7946 knows longitude and latitude only;
another system is named by the member ``crs`` of GeoJSON 2008, which GDAL and QGIS read. With y upwards, exteriors run
counterclockwise and holes clockwise. Without a georeference, points are as in ``polygons``: x to the right, y down, in pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from service.encodings import polygons
from service.encodings.format import json_format
from service.encodings.geo import Geo
from service.encodings.runs import ClassRow, ValueMap

WGS84 = 4326
"""The EPSG code of longitude and latitude."""


def encode(labels: ValueMap, classes: Iterable[ClassRow], *, tolerance: float = 0.0, geo: Geo | None = None) -> dict[str, Any]:
    """Encode each class that has a pixel as a feature of its own.

    Takes:
        labels: H x W, H and W at least 1
        classes: the class table, or the masks that ``things.split`` made of it
        tolerance: pixels by which outlines may stray, at least 0
        geo: where the picture lies; None leaves the points in pixels
    Gives:
        the document, ready for JSON; a feature's properties are the entry of ``classes`` in other formats
    """
    made = polygons.encode(labels, classes, tolerance=tolerance)
    features = [feature | {"properties": entry} for feature, entry in zip(made["features"], made["classes"], strict=True)]
    document: dict[str, Any] = {"type": "FeatureCollection", "features": features, "size": made["size"]}
    if geo is None:
        return document
    if geo.epsg not in (None, WGS84):
        name = f"urn:ogc:def:crs:EPSG::{geo.epsg}"
        document["crs"] = {"type": "name", "properties": {"name": name}}
    for feature in features:
        feature["geometry"] = _placed(feature["geometry"], geo)
    return document


def _placed(geometry: dict[str, Any], geo: Geo) -> dict[str, Any]:
    """Put a geometry of pixels on the map."""
    x0, x_column, x_row, y0, y_column, y_row = geo.transform
    matrix, corner = np.array([[x_column, y_column], [x_row, y_row]]), np.array([x0, y0])
    # In pixels exteriors have a positive area, as RFC 7946 wants it on the map; a transform that mirrors turns it around.
    step = 1 if np.linalg.det(matrix) > 0 else -1
    placed = [
        [(np.array(ring, np.float64) @ matrix + corner)[::step].tolist() for ring in polygon]
        for polygon in geometry["coordinates"]
    ]
    return geometry | {"coordinates": placed}


def _properties(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [feature["properties"] for feature in document["features"]]


FORMAT = json_format(
    "geojson",
    "Polygons with holes as GeoJSON, on the map where the picture is georeferenced; `Accept: application/geo+json`.",
    lambda labels, rows, view: encode(labels, rows, tolerance=view.options.tolerance, geo=view.geo),
    None,
    "instances",
    "min_area",
    "tolerance",
    entries=_properties,
    media_type="application/geo+json",
    suffix=".geojson",
)
