"""COCO's run-length encoding, against pycocotools."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as pycoco  # type: ignore[import-untyped]

from service.encodings import coco
from tests.conftest import make_manifest
from tests.maps import STREET_CLASSES, maps, streets

# pycocotools 2.0.11 with numpy 2 says this of itself on each decode.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")

CLASSES = make_manifest().classes
runs = st.lists(st.integers(1, 2**31), min_size=1, max_size=40)


@given(maps)
def test_pycocotools_reads_every_mask(labels: NDArray[np.uint8]) -> None:
    """After a trip through JSON, each class's mask is exactly where its class is in the map."""
    document = json.loads(json.dumps(coco.encode(labels, CLASSES)))
    assert document["size"] == list(labels.shape)
    assert [entry["id"] for entry in document["classes"]] == [row.id for row in CLASSES if (labels == row.id).any()]
    for entry in document["classes"]:
        assert np.array_equal(pycoco.decode(entry["segmentation"]), labels == entry["id"])
        assert pycoco.area(entry["segmentation"]) == entry["pixels"]


@given(maps)
def test_the_string_is_the_one_that_pycocotools_writes(labels: NDArray[np.uint8]) -> None:
    """Not merely readable: the same bytes as the format's own library."""
    for entry in coco.encode(labels, CLASSES)["classes"]:
        theirs = pycoco.encode(np.asfortranarray(labels == entry["id"]).astype(np.uint8, order="F"))
        assert entry["segmentation"] == {"size": list(theirs["size"]), "counts": theirs["counts"].decode()}


@given(maps)
def test_any_map_comes_back(labels: NDArray[np.uint8]) -> None:
    """Decoding all classes gives the map again, 255 where there is none."""
    assert np.array_equal(coco.decode(json.loads(json.dumps(coco.encode(labels, CLASSES)))), labels)


@given(maps)
def test_uncompressed_runs_are_read_by_pycocotools_and_come_back(labels: NDArray[np.uint8]) -> None:
    """Plain lists of numbers, which ``frPyObjects`` turns into the same mask."""
    document = json.loads(json.dumps(coco.encode(labels, CLASSES, compressed=False)))
    for entry in document["classes"]:
        read = pycoco.frPyObjects(entry["segmentation"], *labels.shape)
        assert np.array_equal(pycoco.decode(read), labels == entry["id"])
    assert np.array_equal(coco.decode(document), labels)


@pytest.mark.parametrize("compressed", [True, False])
def test_streets_are_read_by_pycocotools_and_come_back(compressed: bool) -> None:
    """What holds for small maps holds for those that are served."""
    for labels in streets():
        document = coco.encode(labels, STREET_CLASSES, compressed=compressed)
        for entry in document["classes"]:
            runs = entry["segmentation"] if compressed else pycoco.frPyObjects(entry["segmentation"], *labels.shape)
            assert np.array_equal(pycoco.decode(runs), labels == entry["id"])
        assert np.array_equal(coco.decode(document), labels)


@given(st.lists(runs, min_size=1, max_size=4))
def test_runs_of_any_length_come_back(masks: list[list[int]]) -> None:
    """Packing loses nothing, from a run of one pixel to runs longer than any image, of one mask and of several."""
    stops = np.cumsum([len(counts) for counts in masks])
    packed = coco.pack(np.array([count for counts in masks for count in counts], np.int64), stops)
    assert [coco.unpack(text).tolist() for text in packed] == masks


def test_runs_that_do_not_fill_the_size_are_refused() -> None:
    """A mask for another size is an error that names the class: never a shifted mask."""
    document = coco.encode(np.zeros((4, 5), np.uint8), CLASSES)
    with pytest.raises(ValueError, match="class 0"):
        coco.decode(document | {"size": [4, 6]})
