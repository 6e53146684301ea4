"""What is said of each mask."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as pycoco  # type: ignore[import-untyped]

from service.encodings import components, shares
from service.encodings.runs import find_runs, rows_present, value_of
from tests.conftest import make_manifest
from tests.maps import STREET_CLASSES, maps, streets

CLASSES = make_manifest().classes


@given(maps, st.integers(0, 2**32 - 1))
def test_bounding_boxes_are_coco_s_and_means_are_means(labels: NDArray[np.uint8], seed: int) -> None:
    """For each class that has a pixel, in the table's order."""
    confidence = np.random.default_rng(seed).integers(0, 256, labels.shape).astype(np.uint8)
    described = shares.describe(labels, CLASSES, confidence)
    present = [row for row in CLASSES if (labels == row.id).any()]
    assert len(described) == len(present)
    for row, entry in zip(present, described, strict=True):
        mask = labels == row.id
        assert entry["bbox"] == pycoco.toBbox(pycoco.encode(np.asfortranarray(mask.astype(np.uint8)))).tolist()
        assert entry["confidence"] == pytest.approx(confidence[mask].mean() / 255, abs=1e-4)


def test_components_are_described_one_by_one() -> None:
    """Each by its own pixels, not by its class's."""
    labels = streets()[0]
    confidence = np.random.default_rng(0).integers(0, 256, labels.shape).astype(np.uint8)
    parts, rows = components.split(labels, STREET_CLASSES)
    present = rows_present(find_runs(parts.reshape(-1))[0], rows)
    for row, entry in zip(present, shares.describe(parts, rows, confidence), strict=True):
        y, x = np.nonzero(parts == value_of(row))
        assert entry["bbox"] == [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
        assert entry["confidence"] == pytest.approx(confidence[y, x].mean() / 255, abs=1e-4)
