"""CVAT's masks, against its own SDK."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from cvat_sdk import masks as cvat_masks
from hypothesis import given
from numpy.typing import NDArray

from service.encodings import cvat
from tests.conftest import make_manifest
from tests.maps import STREET_CLASSES, maps, streets

CLASSES = make_manifest().classes


def check(labels: NDArray[np.uint8], document: dict[str, Any]) -> None:
    """Every shape is what CVAT's own encoder makes of the class, and its decoder finds the class in it."""
    height, width = labels.shape
    assert document["size"] == [height, width]
    for entry, shape in zip(document["classes"], document["shapes"], strict=True):
        inside = labels == entry["id"]
        assert shape["points"] == cvat_masks.encode_mask(inside)
        assert np.array_equal(cvat_masks.decode_mask(shape["points"], image_width=width, image_height=height), inside)
        assert (shape["type"], shape["label"]) == ("mask", entry["name"])


@given(maps)
def test_the_points_are_those_that_cvat_writes_and_reads(labels: NDArray[np.uint8]) -> None:
    """After a trip through JSON, for any map."""
    check(labels, json.loads(json.dumps(cvat.encode(labels, CLASSES))))


@given(maps)
def test_any_map_comes_back(labels: NDArray[np.uint8]) -> None:
    """Decoding all classes gives the map again, 255 where there is none."""
    assert np.array_equal(cvat.decode(json.loads(json.dumps(cvat.encode(labels, CLASSES)))), labels)


def test_streets_are_read_by_cvat_and_come_back() -> None:
    """What holds for small maps holds for those that are served."""
    for labels in streets():
        document = json.loads(json.dumps(cvat.encode(labels, STREET_CLASSES)))
        check(labels, document)
        assert np.array_equal(cvat.decode(document), labels)


@pytest.mark.parametrize("points", [[1, 19, 0, 0, 4, 4], [0, 25, 0, 0, 4, 5], [0, 20, -1, 0, 3, 3], [], [0, 20, 5, 0, 4, 3]])
def test_a_mask_that_does_not_fit_is_refused(points: list[int]) -> None:
    """Runs that do not fill the bounding box, and one outside of the image, are errors: never a shifted mask."""
    document = cvat.encode(np.zeros((4, 5), np.uint8), CLASSES)
    document["shapes"][0]["points"] = points
    with pytest.raises(ValueError, match=r"class 0|not enough"):
        cvat.decode(document)
