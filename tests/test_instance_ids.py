"""Cityscapes' instance ids, judged by its own scripts."""

from __future__ import annotations

import importlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as pycoco  # type: ignore[import-untyped]

from service.encodings import instance_ids, things, understood
from service.encodings.runs import Thing
from service.encodings.tables import Row
from service.errors import BadParameter
from tests.maps import STREET_CLASSES, objects, street, streets


def opened(body: bytes) -> NDArray[np.int64]:
    """The values, as Cityscapes' scripts open the file."""
    picture = Image.open(io.BytesIO(body))
    assert picture.mode.startswith("I")  # 16 bits
    return np.array(picture).astype(np.int64)


@pytest.mark.parametrize("learned", [False, True])
def test_values_are_ids_and_numbered_things(learned: bool) -> None:
    """``id`` for what is not counted, ``id * 1000 + k`` for things; ids and things are those of ``panoptic``."""
    values = opened(street("instance-ids", learned=learned))
    labels = streets()[0] if not learned else things.claim(streets()[0], objects())
    assert np.array_equal(np.where(values >= 1000, values // 1000, values), labels)
    segments = json.loads(street("panoptic", learned=learned))["segments_info"]
    sizes = sorted(segment["area"] for segment in segments)
    assert sorted(np.unique(values, return_counts=True)[1].tolist()) == sizes
    cars = sorted(number for number in np.unique(values).tolist() if number // 1000 == 8)
    assert cars == [8000 + k for k in range(len(cars))]


def test_unlabelled_is_0_where_no_class_has_that_id() -> None:
    """With Cityscapes' ids the file is as its scripts want it; elsewhere 0 is a class."""
    assert 0 in opened(street("instance-ids", ids="cityscapes-label", classes=["car"]))
    assert 255 in opened(street("instance-ids", classes=["car"]))


def test_cityscapes_scripts_find_the_same_things() -> None:
    """``instances2dict``, which their evaluation begins with: every thing of every class with its pixels."""
    try:
        scripts: Any = importlib.import_module("cityscapesscripts.evaluation.instance")
        labels_of: Any = importlib.import_module("cityscapesscripts.helpers.labels")
    except ModuleNotFoundError:
        pytest.skip("cityscapesscripts is not installed")
    values = opened(street("instance-ids", ids="cityscapes-label", min_area=5))
    segments = json.loads(street("panoptic", ids="cityscapes-label", min_area=5))["segments_info"]
    found = [scripts.Instance(values, number) for number in np.unique(values) if number]
    for instance in found:
        label = labels_of.id2label[instance.labelID]
        areas = [segment["area"] for segment in segments if segment["category_id"] == label.id]
        assert instance.pixelCount in areas
        assert label.hasInstances == (instance.instID >= 1000)
    assert len(found) == len(segments)


def write_predictions(folder: Path, body: bytes) -> Path:
    """The things of a ``coco`` reply as Cityscapes' evaluation reads them: a mask a file, and a list of them."""
    lines = []
    for number, found in enumerate(json.loads(body)["classes"]):
        if "score" in found or "component" in found:
            Image.fromarray(pycoco.decode(found["segmentation"]) * np.uint8(255)).save(folder / f"{number}.png")
            lines.append(f"{number}.png {found['id']} {found.get('score', 1.0)}")
    (folder / "predictions.txt").write_text("\n".join(lines))
    return folder / "predictions.txt"


@pytest.mark.filterwarnings("ignore")
def test_cityscapes_evaluation_judges_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its instance evaluation reads the file as truth: the same objects have AP 1, without cars that of cars is 0."""
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # numpy 2.4 has it no more, cityscapesScripts 2.3 calls it
    evaluation: Any = pytest.importorskip("cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling")
    args = evaluation.args
    monkeypatch.setattr(args, "quiet", True)
    monkeypatch.setattr(args, "predictionPath", str(tmp_path))
    monkeypatch.setattr(args, "gtInstancesFile", str(tmp_path / "truth.json"))
    monkeypatch.setattr(args, "minRegionSizes", np.array([1, 1, 1]))
    evaluation.setInstanceLabels(args)
    truth = str(tmp_path / "truth.png")
    Path(truth).write_bytes(street("instance-ids", learned=True, ids="cityscapes-label"))
    instances = evaluation.getGtInstances([truth], args)

    def judged(classes: list[str]) -> dict[str, float]:
        folder = tmp_path / str(len(classes))
        folder.mkdir()
        body = street("coco", learned=True, instances=True, ids="cityscapes-label", classes=classes)
        predicted = write_predictions(folder, body)
        matches = evaluation.matchGtWithPreds([str(predicted)], [truth], instances, args)
        found = evaluation.computeAverages(evaluation.evaluateMatches(matches, args), args)
        return {name: scores["ap"] for name, scores in found["classes"].items() if np.isfinite(scores["ap"])}

    names = [entry.name for entry in STREET_CLASSES]
    assert judged(names) == pytest.approx({"car": 1.0, "person": 1.0, "rider": 1.0})
    assert judged([name for name in names if name != "car"]) == pytest.approx({"car": 0.0, "person": 1.0, "rider": 1.0})


def test_things_beyond_the_thousandth_are_a_group() -> None:
    """As groups have it in Cityscapes: the plain id, never another class's."""
    parts = np.arange(256, 256 + 1100, dtype=np.int32).reshape(11, 100)
    rows = [Thing(256 + number, 8, "car", number + 1) for number in range(1100)]
    values = instance_ids.encode(parts, rows).reshape(-1)
    assert values[:1000].tolist() == list(range(8000, 9000))
    assert (values[1000:] == 8).all()


def test_ids_beyond_16_bits_are_refused_beforehand() -> None:
    """A countable class with a large id cannot be numbered; the message says what to do."""
    table = [Row(0, "road", (0, 0, 0)), Row(102, "van", (1, 1, 1))]
    with pytest.raises(BadParameter, match=r"van has the id 102.*panoptic"):
        understood("instance-ids", table)
    assert understood("instance-ids", table, ids="cityscapes-label").instances
    assert understood("panoptic", table).instances
    assert understood("instance-ids", STREET_CLASSES).instances
