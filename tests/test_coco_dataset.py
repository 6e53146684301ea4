"""The COCO dataset, against the tools that load it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray
from pycocotools.coco import COCO  # type: ignore[import-untyped]
from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]

from service import encodings
from service.encodings import Named, coco_dataset
from tests.conftest import make_manifest
from tests.maps import STREET_CLASSES, maps, objects, street, street_view, streets

CLASSES = make_manifest().classes
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")


def loaded(tmp_path: Path, body: bytes) -> COCO:
    """The dataset as pycocotools reads its file."""
    file = tmp_path / "dataset.json"
    file.write_bytes(body)
    return COCO(file)


def test_pycocotools_loads_it_and_finds_every_mask(tmp_path: Path) -> None:
    """Each class present is an annotation whose mask, area and bounding box are the class's."""
    dataset = loaded(tmp_path, street("coco-dataset", file_name="drive/0001.jpg"))
    labels = streets()[0]
    (image,) = dataset.loadImgs(dataset.getImgIds())
    assert image == {"id": 1, "file_name": "0001.jpg", "height": labels.shape[0], "width": labels.shape[1]}
    assert {cat["id"]: cat["name"] for cat in dataset.loadCats(dataset.getCatIds())} == {
        entry.id + 1: entry.name for entry in STREET_CLASSES
    }
    annotations = dataset.loadAnns(dataset.getAnnIds(imgIds=[1]))
    assert sorted(one["category_id"] - 1 for one in annotations) == np.unique(labels).tolist()
    for one in annotations:
        mask = labels == one["category_id"] - 1
        assert np.array_equal(dataset.annToMask(one), mask)
        y, x = np.nonzero(mask)
        assert one["area"] == mask.sum()
        assert one["bbox"] == [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
        assert (one["iscrowd"], one["id"] > 0) == (0, True)


def test_several_images_are_one_dataset(tmp_path: Path) -> None:
    """Ids of images and annotations are unique, file names are the images' own, and each mask is its image's."""
    names = ["a.jpg", "b/a.jpg", None]
    view = street_view()
    upside_down = replace(view, labels=view.labels[::-1])
    flipped = encodings.encode("coco-dataset", upside_down)
    bodies = [street("coco-dataset"), flipped.body, street("coco-dataset", classes=["car"], instances=True)]
    made = encodings.gather("coco-dataset", [Named(name, body) for name, body in zip(names, bodies, strict=True)])
    dataset = loaded(tmp_path, made.body)
    assert [image["file_name"] for image in dataset.loadImgs([1, 2, 3])] == ["a.jpg", "a-2.jpg", "image-3"]
    ids = dataset.getAnnIds()
    assert ids == list(range(1, len(ids) + 1))
    assert len(ids) == len(dataset.anns)
    labels = streets()[0]
    for number, expected in ((1, labels), (2, labels[::-1]), (3, np.where(labels == 8, 8, 255))):
        decoded = np.full(labels.shape, 255, np.uint8)
        for one in dataset.loadAnns(dataset.getAnnIds(imgIds=[number])):
            decoded[dataset.annToMask(one) > 0] = one["category_id"] - 1
        assert np.array_equal(decoded, expected)


def test_category_0_is_left_to_the_background() -> None:
    """A table that has no class 0 keeps its ids: those of Cityscapes are its own."""
    document = json.loads(street("coco-dataset", ids="cityscapes-label"))
    assert all(category["id"] == category["class_id"] for category in document["categories"])
    assert {one["category_id"] for one in document["annotations"]} >= {7, 23, 26}


def test_objects_are_annotations_with_scores() -> None:
    """One each, with its number and the network's score; with statistics the mean confidence too."""
    document = json.loads(street("coco-dataset", learned=True, instances=True, statistics=True))
    things = [one for one in document["annotations"] if "instance" in one]
    assert sorted(one["score"] for one in things) == sorted(objects().scores)
    assert all(0 <= one["confidence"] <= 1 and len(one["bbox"]) == 4 for one in document["annotations"])


def test_cocoeval_judges_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The dataset is the truth: a ``coco`` reply of the same objects has AP 1 in each class, connected components have not."""
    truth = loaded(tmp_path, street("coco-dataset", learned=True, instances=True))
    rows = {"iou": 0, "all areas": 0, "most": 2}

    def judged(learned: bool) -> dict[int, float]:
        classes = json.loads(street("coco", learned=learned, instances=True))["classes"]
        found = [
            {"image_id": 1, "category_id": one["id"] + 1, "segmentation": one["segmentation"], "score": one.get("score", 0.5)}
            for one in classes
        ]
        judge = COCOeval(truth, truth.loadRes(found), "segm")
        judge.evaluate()
        judge.accumulate()
        precision = judge.eval["precision"][rows["iou"], :, :, rows["all areas"], rows["most"]].mean(0)
        return dict(zip(judge.params.catIds, precision.tolist(), strict=True))

    things = {one["category_id"] for one in truth.loadAnns(truth.getAnnIds()) if "instance" in one}
    learned, components = judged(learned=True), judged(learned=False)
    assert len(things) == 4
    assert {learned[number] for number in things} == {1.0}
    assert components[9] < 0.5  # cars
    capsys.readouterr()


@given(maps)
def test_any_map_comes_back(labels: NDArray[np.uint8]) -> None:
    """Decoding all annotations gives the map again, 255 where there is none."""
    document = json.loads(json.dumps(coco_dataset.encode(labels, CLASSES, CLASSES)))
    assert np.array_equal(coco_dataset.decode(document), labels)


def test_a_dataset_of_several_images_is_not_a_label_map() -> None:
    """The error says how many there are."""
    document = coco_dataset.encode(np.zeros((2, 3), np.uint8), CLASSES, CLASSES)
    with pytest.raises(ValueError, match="2 images"):
        coco_dataset.decode(coco_dataset.merge([document, document], [None, None]))


def test_supervision_loads_it(tmp_path: Path) -> None:
    """Its dataset has every class and every mask."""
    supervision: Any = pytest.importorskip("supervision")
    from PIL import Image  # noqa: PLC0415 - beside the optional judge

    labels = streets()[0]
    Image.new("RGB", labels.shape[::-1]).save(tmp_path / "street.png")
    (tmp_path / "dataset.json").write_bytes(street("coco-dataset", file_name="street.png"))
    dataset = supervision.DetectionDataset.from_coco(str(tmp_path), str(tmp_path / "dataset.json"), force_masks=True)
    assert set(dataset.classes) == {entry.name for entry in STREET_CLASSES}
    (detections,) = dataset.annotations.values()
    names = [dataset.classes[number] for number in detections.class_id]
    for name, mask in zip(names, np.asarray(detections.mask), strict=True):
        (own,) = (entry.id for entry in STREET_CLASSES if entry.name == name)
        assert np.array_equal(mask, labels == own)


def test_datumaro_loads_it(tmp_path: Path) -> None:
    """Its dataset has every mask."""
    datumaro: Any = pytest.importorskip("datumaro")
    from PIL import Image  # noqa: PLC0415 - beside the optional judge

    for folder in ("annotations", "images"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", streets()[0].shape[::-1]).save(tmp_path / "images" / "street.png")
    (tmp_path / "annotations" / "instances_all.json").write_bytes(street("coco-dataset", file_name="street.png"))
    dataset = datumaro.Dataset.import_from(str(tmp_path), "coco_instances")
    (item,) = dataset
    labels = streets()[0]
    names = [category.name for category in dataset.categories()[datumaro.AnnotationType.label]]
    found = {names[one.label]: np.asarray(one.image).astype(bool) for one in item.annotations if hasattr(one, "image")}
    for entry in STREET_CLASSES:
        if (labels == entry.id).any():
            assert np.array_equal(found[entry.name], labels == entry.id)
