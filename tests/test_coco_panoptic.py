"""COCO's panoptic segmentation, read by the rules of its own tools."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from service.encodings import decode, panoptic, png, things
from tests.maps import STREET_CLASSES, objects, street, street_view, streets


def rgb2id(color: NDArray[np.uint8]) -> NDArray[np.int64]:
    """panopticapi's ``utils.rgb2id``."""
    wide = color.astype(np.int64)
    return wide[:, :, 0] + 256 * wide[:, :, 1] + 256 * 256 * wide[:, :, 2]


def opened(body: bytes) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """The document, and the segment of every pixel as Pillow and panopticapi read it."""
    document = json.loads(body)
    picture = Image.open(io.BytesIO(base64.b64decode(document["png_string"])))
    assert picture.mode == "RGB"
    return document, rgb2id(np.asarray(picture))


@given(arrays(np.uint32, (3, 5), elements=st.integers(0, 2**24 - 1)))
def test_ids_come_back_from_colours(ids: NDArray[np.uint32]) -> None:
    """As panopticapi reads them, up to the largest."""
    assert np.array_equal(rgb2id(panoptic.to_rgb(ids)), ids)
    assert np.array_equal(panoptic.from_rgb(panoptic.to_rgb(ids)), ids)


@pytest.mark.parametrize("learned", [False, True])
def test_every_pixel_has_its_segment(learned: bool) -> None:
    """What panopticapi's evaluation demands: segments and list agree, areas and bounding boxes are the segments'."""
    document, ids = opened(street("panoptic", learned=learned))
    segments = {segment["id"]: segment for segment in document["segments_info"]}
    assert set(np.unique(ids)) == set(segments)
    categories = {category["id"]: category for category in document["categories"]}
    labels = streets()[0] if not learned else things.claim(streets()[0], objects())
    for number, segment in segments.items():
        mask = ids == number
        y, x = np.nonzero(mask)
        assert segment["area"] == mask.sum()
        assert segment["bbox"] == [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
        assert (labels[mask] == segment["category_id"]).all()
        assert segment["isthing"] == categories[segment["category_id"]]["isthing"]
        assert 0 <= segment["score"] <= 1
    assert np.array_equal(decode("panoptic", json.dumps(document).encode()), labels)


def test_scores_are_the_network_s_or_the_mean_confidence() -> None:
    """Learned objects have their own; every other segment has that of its pixels."""
    document, ids = opened(street("panoptic", learned=True))
    learned = [segment["score"] for segment in document["segments_info"] if "instance" in segment]
    assert sorted(learned) == sorted(objects().scores)
    confidence = street_view().confidence()
    for segment in document["segments_info"]:
        if "instance" not in segment:
            assert segment["score"] == pytest.approx(confidence[ids == segment["id"]].mean() / 255, abs=1e-4)


def test_things_are_split_without_being_asked_for() -> None:
    """Two cars are two segments; ``min_area`` drops the small ones, whose pixels become 0."""
    document, _ = opened(street("panoptic"))
    cars = [segment for segment in document["segments_info"] if segment["category_id"] == 8]
    assert len(cars) >= 2
    big, ids = opened(street("panoptic", min_area=60))
    assert min(segment["area"] for segment in big["segments_info"] if segment["isthing"]) >= 60
    assert (ids == 0).any()
    assert {category["name"] for category in big["categories"] if category["isthing"]} == {"car", "pedestrian", "bicyclist"}
    assert [category["id"] for category in big["categories"]] == [entry.id for entry in STREET_CLASSES]


@pytest.mark.parametrize(
    "change",
    [
        {"png_string": "!"},
        {"png_string": base64.b64encode(b"x").decode()},
        {"png_string": base64.b64encode(png.encode_gray(np.zeros((2, 2), np.uint8))).decode()},
        {"size": [1, 2]},
        {"segments_info": []},
        {"segments_info": [{"id": 1, "category_id": 999}]},
        {"segments_info": 7},
    ],
)
def test_what_is_damaged_is_refused(change: dict[str, object]) -> None:
    """A segment without a class is an error, never a guess."""
    document = json.loads(street("panoptic"))
    with pytest.raises(ValueError, match=r"."):
        panoptic.decode(document | change)


@pytest.mark.filterwarnings("ignore")
def test_panopticapi_evaluates_it(tmp_path: Path) -> None:
    """A mask against itself has PQ 1 for every class; against one whose cars are gone it has PQ 0 for cars."""
    evaluation: Any = pytest.importorskip("panopticapi.evaluation")
    full, _ = opened(street("panoptic"))
    bare, _ = opened(street("panoptic", classes=[entry.name for entry in STREET_CLASSES if entry.name != "car"]))
    for name, document in (("full", full), ("bare", bare)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "street.png").write_bytes(base64.b64decode(document["png_string"]))
        annotation = {"image_id": 1, "file_name": "street.png", "segments_info": document["segments_info"]}
        listed = {"images": [{"id": 1}], "annotations": [annotation], "categories": document["categories"]}
        (tmp_path / f"{name}.json").write_text(json.dumps(listed))

    def quality(predicted: str) -> dict[int, float]:
        files = [str(tmp_path / f"{name}.json") for name in ("full", predicted)]
        result = evaluation.pq_compute(*files)
        return {number: entry["pq"] for number, entry in result["per_class"].items()}

    present = {segment["category_id"] for segment in full["segments_info"]}
    assert {number for number, pq in quality("full").items() if pq == 1} == present
    assert {number for number, pq in quality("bare").items() if pq == 1} == present - {8}
