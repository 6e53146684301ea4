"""Panoptic quality and average precision against the references, calibration against its definition."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as pycoco  # type: ignore[import-untyped]
from pycocotools.coco import COCO  # type: ignore[import-untyped]
from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]

from models.training.average_precision import AveragePrecision
from models.training.calibration import BINS, CalibrationError, fit_temperature
from models.training.losses import IGNORED
from models.training.objects import UNSURE
from models.training.panoptic_quality import PanopticQuality
from models.training.segments import Segments, found_segments, true_segments
from service.pipeline.tasks.panoptic import Instance, Instances

# pycocotools 2.0.11 with numpy 2 says this of itself on each decode.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")

SIZE = (60, 80)
THINGS = (2, 3)
CLASSES = 4
"""Two of stuff, two of things."""


def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and objects of overlapping discs of both things on two kinds of stuff."""
    labels, objects = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    labels[:, SIZE[1] // 2 :] = 1
    for number in range(1, count + 1):
        x, y, radius = int(rng.integers(0, 80)), int(rng.integers(0, 60)), int(rng.integers(3, 14))
        k = int(rng.integers(2, 4))
        cv2.circle(labels, (x, y), radius, k, -1)
        cv2.circle(objects, (x, y), radius, number, -1)
    return labels, objects


def pair(seed: int) -> tuple[Segments, Segments]:
    """A truth with a crowd and ignored pixels, and a prediction that is partly right, with scores of which some are equal."""
    rng = np.random.default_rng(seed)
    labels, objects = draw(rng, 9)
    shift = (int(rng.integers(-2, 3)), int(rng.integers(-2, 3)))
    found_labels, found_objects = np.roll(labels, shift, (0, 1)), np.roll(objects, shift, (0, 1))
    found_objects[rng.random(SIZE) < 0.03] = 0
    found_labels[:4] = 2  # a thing that is not there
    found_objects[:4] = 11
    ids = np.zeros(SIZE, np.uint16)
    rows: list[Instance] = []
    for number in np.unique(found_objects[found_objects > 0]).tolist():
        part = (found_objects == number) & (found_labels >= 2)
        if not part.any():
            continue
        k = int(np.bincount(found_labels[part]).argmax())
        if rng.random() < 0.15:
            k = 5 - k
        ids[part] = len(rows) + 1
        rows.append(Instance(len(rows) + 1, k, round(float(rng.random()), 1), int(part.sum())))
    unsure = rng.choice(np.arange(1, 10), 2, replace=False)
    objects[np.isin(objects, unsure)] = UNSURE
    labels[40:46, 10:40] = IGNORED
    return true_segments(labels, objects, THINGS), found_segments(found_labels, Instances(ids, tuple(rows)), THINGS)


PAIRS = [pair(seed) for seed in range(12)]


def test_segments_are_the_objects_and_the_stuff() -> None:
    """Each object once, each kind of stuff once, a crowd for what is not known, nothing where there is no label."""
    labels = np.array([[0, 0, 2, 2], [3, 3, 2, IGNORED]], np.uint8)
    objects = np.array([[0, 0, 1, 2], [UNSURE, 0, 2, 0]], np.uint8)
    truth = true_segments(labels, objects, THINGS)
    assert [(row.class_id, row.crowd) for row in truth.rows] == [(0, False), (2, False), (2, False), (3, True)]
    assert truth.map.tolist() == [[1, 1, 2, 3], [4, 4, 3, 0]]
    ids = np.array([[0, 0, 1, 1], [0, 0, 1, 0]], np.uint16)
    found = found_segments(np.where(labels == IGNORED, 1, labels), Instances(ids, (Instance(1, 2, 0.9, 3),)), THINGS)
    assert [(row.class_id, row.score) for row in found.rows] == [(2, 0.9), (0, 1.0), (1, 1.0)]
    assert found.map.tolist() == [[2, 2, 1, 1], [0, 0, 1, 3]]


def naive_quality(pairs: list[tuple[Segments, Segments]], k: int) -> tuple[float, int, int, int]:
    """The paper's definition, segment by segment: the sum of IoU, and the three counts."""
    total, counts = 0.0, [0, 0, 0]
    for truth, found in pairs:
        void = truth.map == 0
        crowd = np.isin(truth.map, [row.id for row in truth.rows if row.crowd and row.class_id == k])
        matched: set[int] = set()
        for row in truth.rows:
            if row.class_id != k or row.crowd:
                continue
            hit = False
            for other in found.rows:
                if other.class_id == k:
                    mine, theirs = truth.map == row.id, found.map == other.id
                    iou = (mine & theirs).sum() / (mine | (theirs & ~void)).sum()
                    if iou > 0.5:
                        total, hit = total + iou, True
                        matched.add(other.id)
            counts[0 if hit else 2] += 1
        for other in found.rows:
            mask = found.map == other.id
            if other.class_id == k and other.id not in matched and (mask & (void | crowd)).sum() <= 0.5 * mask.sum():
                counts[1] += 1
    return total, counts[0], counts[1], counts[2]


def quality(pairs: list[tuple[Segments, Segments]]) -> PanopticQuality:
    """Of some images together."""
    counted = PanopticQuality(CLASSES)
    for truth, found in pairs:
        counted.add(truth, found)
    return counted


def test_panoptic_quality_is_what_the_paper_defines() -> None:
    """Per class: the matches, their IoU, the three counts; crowds and unlabelled pixels excuse what lies on them."""
    counted = quality(PAIRS)
    for k in range(CLASSES):
        found = counted.of_class(k)
        assert found is not None
        total, matches, wrong, missed = naive_quality(PAIRS, k)
        assert (found.true_positives, found.false_positives, found.false_negatives) == (matches, wrong, missed)
        assert min(matches, wrong, missed) >= (3 if k in THINGS else 0)
        assert found.pq == pytest.approx(total / (matches + wrong / 2 + missed / 2))
        assert found.pq == pytest.approx(found.sq * found.rq)
    mean = counted.mean(THINGS)
    assert mean is not None
    assert mean.pq == pytest.approx(np.mean([counted.of_class(k).pq for k in THINGS]))  # type: ignore[union-attr]


def test_panoptic_quality_is_panopticapis(tmp_path: Path) -> None:
    """The same numbers from the reference implementation, on files of its own form."""
    reference = pytest.importorskip("panopticapi.evaluation", reason="panopticapi wants numpy 1; pip install panopticapi-lite")
    annotations: dict[str, list[dict[str, Any]]] = {"true": [], "found": []}
    for index, both in enumerate(PAIRS):
        for name, segments in zip(annotations, both, strict=True):
            (tmp_path / name).mkdir(exist_ok=True)
            pixels = np.stack([segments.map % 256, segments.map // 256, np.zeros_like(segments.map)], -1).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
            rows = [
                {
                    "id": row.id,
                    "category_id": row.class_id,
                    "iscrowd": int(row.crowd),
                    "area": int((segments.map == row.id).sum()),
                }
                for row in segments.rows
                if (segments.map == row.id).any()
            ]
            annotations[name].append({"image_id": index, "file_name": f"{index}.png", "segments_info": rows})
    categories = {k: {"id": k, "isthing": int(k in THINGS)} for k in range(CLASSES)}
    matched = list(zip(annotations["true"], annotations["found"], strict=True))
    with contextlib.redirect_stdout(io.StringIO()):
        counts = reference.pq_compute_single_core(0, matched, tmp_path / "true", tmp_path / "found", categories)
    counted = quality(PAIRS)
    _, by_class = counts.pq_average(categories, isthing=None)
    for k in range(CLASSES):
        found = counted.of_class(k)
        assert found is not None
        assert (found.pq, found.sq, found.rq) == pytest.approx((by_class[k]["pq"], by_class[k]["sq"], by_class[k]["rq"]))


@pytest.mark.parametrize("pairs", [PAIRS, PAIRS[:1]], ids=["many", "one"])
def test_average_precision_is_cocos(pairs: list[tuple[Segments, Segments]], tmp_path: Path) -> None:
    """AP and AP50 of each class are pycocotools' to the last digit: crowds, equal scores and false objects included."""
    truth: dict[str, list[dict[str, Any]]] = {
        "images": [{"id": index, "height": SIZE[0], "width": SIZE[1]} for index in range(1, len(pairs) + 1)],
        "categories": [{"id": k, "name": str(k)} for k in THINGS],
        "annotations": [],
    }
    results = []
    counted = AveragePrecision(THINGS)
    for index, (true, found) in enumerate(pairs, start=1):
        counted.add(true, found)
        for segments, crowded in ((true, True), (found, False)):
            for row in segments.rows:
                mask = segments.map == row.id
                if row.class_id not in THINGS or not mask.any():
                    continue
                runs = pycoco.encode(np.asfortranarray(mask.astype(np.uint8)))
                runs["counts"] = runs["counts"].decode()
                entry = {"image_id": index, "category_id": row.class_id, "segmentation": runs}
                if crowded:
                    more = {"id": len(truth["annotations"]) + 1, "iscrowd": int(row.crowd), "area": int(mask.sum())}
                    truth["annotations"].append({**entry, **more, "bbox": [0, 0, 1, 1]})
                else:
                    results.append({**entry, "score": row.score})
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO(str(tmp_path / "truth.json"))
        judge = COCOeval(ground, ground.loadRes(results), "segm")
        judge.evaluate()
        judge.accumulate()
    for column, k in enumerate(THINGS):
        precision = judge.eval["precision"][:, :, column, 0, 2]
        found_precision = counted.of_class(k)
        if (precision < 0).all():
            assert found_precision is None
            continue
        assert found_precision is not None
        assert found_precision.ap == pytest.approx(precision.mean(), abs=1e-12)
        assert found_precision.ap50 == pytest.approx(precision[0].mean(), abs=1e-12)
        assert len(pairs) == 1 or 0 < found_precision.ap < found_precision.ap50


def test_a_class_of_which_nothing_is_found_has_a_precision_of_0() -> None:
    """Its objects occur, and no prediction has one."""
    truth, _ = PAIRS[0]
    nothing = found_segments(np.zeros(SIZE, np.uint8), Instances(np.zeros(SIZE, np.uint16), ()), THINGS)
    counted = AveragePrecision(THINGS)
    counted.add(truth, nothing)
    missed = [counted.of_class(k) for k in THINGS]
    assert [(found.ap, found.ap50) for found in missed if found is not None] == [(0, 0)] * sum(map(bool, missed)) != []


def test_a_prediction_of_another_size_is_an_error() -> None:
    """Counting it would compare unlike pixels."""
    truth, _ = PAIRS[0]
    other = found_segments(np.zeros((5, 5), np.uint8), Instances(np.zeros((5, 5), np.uint16), ()), THINGS)
    with pytest.raises(ValueError, match=r"a prediction of \(5, 5\) for labels of \(60, 80\)"):
        PanopticQuality(CLASSES).add(truth, other)


def test_the_calibration_error_is_the_papers() -> None:
    """By hand over the bins, and the same however the pixels come."""
    rng = np.random.default_rng(0)
    probability = rng.uniform(0.2, 1, (50, 60))
    right = rng.random((50, 60)) < probability**2
    counted, apart = CalibrationError(), CalibrationError()
    counted.add(probability, right)
    for row in range(50):
        apart.add(probability[row], right[row])
    expected = 0.0
    for index in range(BINS):
        inside = (probability >= index / BINS) & (probability < (index + 1) / BINS)
        if inside.any():
            expected += inside.mean() * abs(probability[inside].mean() - right[inside].mean())
    assert counted.value() == pytest.approx(expected)
    assert apart.value() == pytest.approx(expected)
    assert expected > 0.05
    assert CalibrationError().value() == 0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_temperature_undoes_what_scores_were_multiplied_by(temperature: float) -> None:
    """Labels drawn by the softmax of scores; of scores times t the temperature is t, and no other is likelier."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(60000, 5, generator=generator) * 2
    labels = torch.multinomial(scores.softmax(1), 1, generator=generator).flatten()
    found = fit_temperature(scores * temperature, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    losses = [
        float(torch.nn.functional.cross_entropy(scores * temperature / t, labels)) for t in (found, 0.9 * found, 1.1 * found)
    ]
    assert losses[0] == min(losses)


def test_a_temperature_wants_labels() -> None:
    """None is told from nothing."""
    with pytest.raises(ValueError, match="labelled pixels"):
        fit_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
