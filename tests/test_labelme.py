"""labelme's JSON, drawn as labelme draws it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from service import encodings
from service.encodings import Named, labelme
from tests.conftest import make_manifest
from tests.maps import STREET_CLASSES, maps, street, streets

CLASSES = make_manifest().classes


@given(maps)
def test_any_map_comes_back(labels: NDArray[np.uint8]) -> None:
    """Polygons with their holes joined to them cover exactly the pixels of their classes."""
    assert np.array_equal(labelme.decode(json.loads(json.dumps(labelme.encode(labels, CLASSES)))), labels)


def test_labelme_finds_what_it_wants() -> None:
    """The keys of its reader (``LabelFile.load``), and the image beside the document."""
    labels = streets()[0]
    document = json.loads(street("labelme", file_name="C:\\drive\\0001.JPG", instances=True))
    assert {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"} <= document.keys()
    assert (document["imageHeight"], document["imageWidth"]) == labels.shape
    assert (document["imagePath"], document["imageData"]) == ("0001.JPG", None)
    for shape in document["shapes"]:
        assert {"label", "points", "shape_type", "flags", "description", "group_id", "mask"} <= shape.keys()
        assert shape["shape_type"] == "polygon"
        assert len(shape["points"]) >= 3
        assert (shape["group_id"] is not None) == (shape["label"] in ("car", "pedestrian", "bicyclist"))


def test_pillow_draws_the_same_masks() -> None:
    """``ImageDraw.polygon``, as ``labelme.utils.shape_to_mask`` calls it: it draws the outline too."""
    labels = streets()[0]
    for shape in json.loads(street("labelme"))["shapes"]:
        picture = Image.new("L", labels.shape[::-1])
        ImageDraw.Draw(picture).polygon([tuple(point) for point in shape["points"]], outline=1, fill=1)
        inside = np.asarray(picture) > 0
        (own,) = (entry.id for entry in STREET_CLASSES if entry.name == shape["label"])
        corners = np.array(shape["points"])
        (left, top), (right, bottom) = corners.min(0).astype(int), corners.max(0).astype(int)
        around = np.zeros(labels.shape, bool)
        around[top : bottom + 1, left : right + 1] = True
        assert not (inside & ~around).any()
        assert inside[labels == own].any()


def test_several_images_are_a_zip_of_files() -> None:
    """labelme wants one file beside each image."""
    made = encodings.gather("labelme", [Named("a.jpg", street("labelme")), Named("b.jpg", street("labelme"))])
    assert made.media_type == "application/zip"


@pytest.mark.parametrize("change", [{"imageHeight": 0}, {"imageWidth": "x"}, {"shapes": [{}]}, {"shapes": [{"points": [[1]]}]}])
def test_a_damaged_document_is_refused(change: dict[str, object]) -> None:
    """One kind of error for every fault."""
    with pytest.raises(ValueError, match=r"."):
        labelme.decode(labelme.encode(np.zeros((2, 3), np.uint8), CLASSES) | change)
