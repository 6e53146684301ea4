"""A COCO dataset: images, annotations and categories in one document, as ``pycocotools.coco.COCO`` loads it.

An annotation is the mask of a class, or with ``instances=true`` of a thing. Its ``segmentation`` is a compressed run-length
encoding, exact and with holes. Category ids are the class ids, each one more where a class has the id 0: COCO and tools that
read it keep 0 for the background. A category's ``class_id`` is the class id. Annotation ids begin at 1: COCO's evaluation reads
0 as "unmatched". Several images in one request become one dataset.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.encodings import coco, shares
from service.encodings.document import from_json, reading, to_json
from service.encodings.format import json_format
from service.encodings.runs import ClassRow, ValueMap, facts_of, find_runs, rows_present
from service.encodings.several import Gather, Named, file_name, file_names


def encode(labels: ValueMap, classes: Iterable[ClassRow], table: Iterable[ClassRow], *, image: str = "image") -> dict[str, Any]:
    """Encode one image as a dataset.

    Takes:
        labels: H x W, H and W at least 1
        classes: the class table, or the masks that ``things.split`` made of it
        table: the class table, for the categories
        image: the image's file name
    Gives:
        the document, ready for JSON; annotations in the order of ``classes``
    """
    height, width = labels.shape
    table = list(table)
    shift = int(any(row.id == 0 for row in table))
    rows = rows_present(find_runs(labels.reshape(-1))[0], classes)
    encoded, boxes = coco.encode(labels, rows)["classes"], shares.boxes(labels, rows)
    annotations = [
        {
            "id": number,
            "image_id": 1,
            "category_id": row.id + shift,
            "segmentation": entry["segmentation"],
            "area": entry["pixels"],
            "bbox": box,
            "iscrowd": 0,
            **facts_of(row),
        }
        for number, (row, entry, box) in enumerate(zip(rows, encoded, boxes, strict=True), 1)
    ]
    return {
        "info": {"description": "Masks by fcn-serve"},
        "licenses": [],
        "images": [{"id": 1, "file_name": image, "height": height, "width": width}],
        "annotations": annotations,
        "categories": [{"id": row.id + shift, "name": row.name, "supercategory": "", "class_id": row.id} for row in table],
    }


def decode(document: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Decode the dataset of one image back into its label map.

    Takes:
        document: as :func:`encode` gives it
    Gives:
        H x W uint8; 255 where no class is
    Raises:
        ValueError: if a field is missing or makes no sense, or if there is not exactly one image
    """
    with reading("a COCO dataset"):
        if len(document["images"]) != 1:
            raise ValueError(f"a dataset of {len(document['images'])} images: one is read as a label map")
        image = document["images"][0]
        classes = {category["id"]: category["class_id"] for category in document["categories"]}
        entries = [{"id": classes[one["category_id"]], "segmentation": one["segmentation"]} for one in document["annotations"]]
        return coco.decode({"size": [image["height"], image["width"]], "classes": entries})


def merge(documents: Sequence[dict[str, Any]], names: Sequence[str | None]) -> dict[str, Any]:
    """Make one dataset of several of one model.

    Takes:
        documents: each of one image
        names: the images' file names, in the same order
    """
    merged = documents[0] | {"images": [], "annotations": []}
    for number, (document, name) in enumerate(zip(documents, file_names(names), strict=True), 1):
        merged["images"] += [image | {"id": number, "file_name": name} for image in document["images"]]
        for annotation in document["annotations"]:
            merged["annotations"].append(annotation | {"id": len(merged["annotations"]) + 1, "image_id": number})
    return merged


def _join(masks: Sequence[Named]) -> bytes:
    return to_json(merge([from_json(mask.body) for mask in masks], [mask.name for mask in masks]))


def _annotations(document: dict[str, Any]) -> list[dict[str, Any]]:
    annotations: list[dict[str, Any]] = document["annotations"]
    return annotations


FORMAT = json_format(
    "coco-dataset",
    "A COCO dataset of all images of the request, for `pycocotools.coco.COCO`, supervision and datumaro.",
    lambda labels, rows, view: encode(labels, rows, view.classes, image=file_name(view.file_name)),
    decode,
    "instances",
    "min_area",
    entries=_annotations,
    gather=Gather("application/json", _join, merges=True),
)
