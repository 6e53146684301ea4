"""The contract's run-length encoding."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from service.encodings import rle
from tests.conftest import make_manifest

CLASSES = make_manifest().classes
maps = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=30), elements=st.sampled_from([0, 1, 2, 255]))


@given(maps)
def test_any_map_comes_back(labels: NDArray[np.uint8]) -> None:
    """Through JSON and back, every pixel is what it was."""
    assert np.array_equal(rle.decode(json.loads(json.dumps(rle.encode(labels, CLASSES)))), labels)


@given(maps)
def test_the_runs_are_as_long_as_can_be(labels: NDArray[np.uint8]) -> None:
    """No two neighbouring runs have the same label, and together they are the map."""
    document = rle.encode(labels, CLASSES)
    assert all(a != b for a, b in zip(document["labels"], document["labels"][1:], strict=False))
    assert sum(document["lengths"]) == labels.size


@given(maps)
def test_the_classes_present_are_counted(labels: NDArray[np.uint8]) -> None:
    """Each class of the table that has a pixel is listed with its pixels and its share of all; no other is."""
    listed = rle.encode(labels, CLASSES)["classes"]
    assert [entry["id"] for entry in listed] == [row.id for row in CLASSES if (labels == row.id).any()]
    for entry in listed:
        assert entry["name"] == CLASSES[entry["id"]].name
        assert entry["pixels"] == np.count_nonzero(labels == entry["id"])
        assert entry["share"] == pytest.approx(entry["pixels"] / labels.size)


def test_the_document_is_the_contract() -> None:
    """A map of two rows gives exactly the documented JSON."""
    labels = np.array([[0, 0, 2], [2, 255, 255]], np.uint8)
    assert rle.encode(labels, CLASSES) == {
        "size": [2, 3],
        "order": "row-major",
        "labels": [0, 2, 255],
        "lengths": [2, 2, 2],
        "classes": [
            {"id": 0, "name": "red", "pixels": 2, "share": 2 / 6},
            {"id": 2, "name": "blue", "pixels": 2, "share": 2 / 6},
        ],
    }


@pytest.mark.parametrize(
    "change",
    [
        {"size": [2, 2]},
        {"size": [2]},
        {"size": [-2, -3]},
        {"size": None},
        {"order": "column-major"},
        {"labels": [0, 2]},
        {"labels": [0, 2, 256]},
        {"labels": [0, 2, -1]},
        {"labels": [0, 2, 0.5]},
        {"labels": [0, 2, "1"]},
        {"labels": [[0], [1, 2]]},
        {"labels": [0, 2, 10**30]},
        {"labels": "012"},
        {"lengths": [2, 2, 1]},
        {"lengths": [7, -3, 2]},
        {"lengths": [6, 0, 0]},
        {"labels": [], "lengths": []},
    ],
)
def test_a_document_that_does_not_fill_its_size_is_refused(change: dict[str, Any]) -> None:
    """Whatever is wrong with a document, it is a ValueError: never a wrong mask."""
    document = {"size": [2, 3], "order": "row-major", "labels": [0, 2, 255], "lengths": [2, 2, 2]}
    assert rle.decode(document).shape == (2, 3)
    with pytest.raises(ValueError, match=r"."):
        rle.decode({**document, **change})


def test_a_document_without_a_field_is_refused() -> None:
    """A missing field is named."""
    with pytest.raises(ValueError, match="lengths"):
        rle.decode({"size": [1, 1], "order": "row-major", "labels": [0]})
