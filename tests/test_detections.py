"""Bounding boxes of things, against the objects that they are of."""

from __future__ import annotations

import json

import numpy as np

from service.encodings import things, understood
from service.encodings.detections import Detection, detections
from tests.maps import STREET_CLASSES, objects, street, street_view, streets


def test_learned_objects_have_their_own_scores_and_bounds() -> None:
    """One detection an object that can be counted; the bounding box holds its pixels and no more."""
    options = understood("coco", STREET_CLASSES, instances=True)
    found = detections(street_view(options, learned=True).selected())
    learned, labels = objects(), streets()[0]
    expected = []
    for number, row in enumerate(learned.rows, start=1):
        y, x = np.nonzero((learned.ids == number) & (things.claim(labels, learned) == row.class_id))
        if len(y):
            bounds = int(x.min()), int(y.min()), int(x.max() - x.min() + 1), int(y.max() - y.min() + 1)
            expected.append(Detection(row.class_id, STREET_CLASSES[row.class_id].name, row.score, *bounds))
    assert sorted(found, key=lambda one: one.score) == sorted(expected, key=lambda one: one.score)
    assert [Detection(**json.loads(json.dumps(one.to_json()))) for one in found] == found


def test_components_have_the_mean_confidence_of_their_pixels() -> None:
    """As the segments of ``panoptic``; other classes have no detections."""
    options = understood("coco", STREET_CLASSES, instances=True, ids="cityscapes-label", min_area=20)
    found = detections(street_view(options).selected())
    document = json.loads(street("panoptic", ids="cityscapes-label", min_area=20))
    segments = [one for one in document["segments_info"] if one["isthing"]]
    assert [(one.class_id, one.score, [one.x, one.y, one.width, one.height]) for one in found] == [
        (one["category_id"], one["score"], one["bbox"]) for one in segments
    ]
    assert {one.class_name for one in found} <= {"car", "person", "rider"}
    assert len(found) > 3


def test_a_picture_without_things_has_no_detections() -> None:
    """An empty list: the message is sent all the same."""
    options = understood("coco", STREET_CLASSES, instances=True, classes=["sky"])
    assert detections(street_view(options).selected()) == []
    assert detections(street_view(options, learned=True).selected()) == []
