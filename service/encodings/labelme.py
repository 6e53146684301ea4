"""labelme's JSON: one polygon an outline, to be opened and corrected beside its image.

A region of a class is a shape, holes included (see ``outlines``). With ``instances=true`` a thing is a shape, and its number is
the ``group_id``. ``class_id`` is ours; labelme keeps keys that it does not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.encodings import polygons
from service.encodings.document import check_size, from_json, reading, to_json
from service.encodings.format import Format
from service.encodings.outlines import outlines
from service.encodings.runs import UNLABELLED, ClassRow, Thing, ValueMap, facts_of
from service.encodings.several import Gather, Named, file_name, file_names, zipped
from service.encodings.view import MaskView

VERSION = "5.5.0"
"""The version of labelme, whose files these are."""


def encode(labels: ValueMap, classes: Iterable[ClassRow], *, image: str = "image", tolerance: float = 0.0) -> dict[str, Any]:
    """Encode the outlines of every mask as shapes.

    Takes:
        labels: H x W, H and W at least 1
        classes: the class table, or the masks that ``things.split`` made of it
        image: the image's file name; labelme opens it beside the document
        tolerance: pixels by which outlines may stray, at least 0
    Gives:
        the document, ready for JSON; shapes in the order of ``classes``
    """
    height, width = labels.shape
    shapes = [
        {
            "label": outline.row.name,
            "points": outline.ring.astype(float).tolist(),
            "group_id": outline.row.number if isinstance(outline.row, Thing) else None,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
            "class_id": outline.row.id,
            **facts_of(outline.row),
        }
        for outline in outlines(labels, classes, tolerance)
    ]
    return {
        "version": VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": image,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def decode(document: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Draw a document's shapes into a label map.

    Takes:
        document: as :func:`encode` gives it
    Gives:
        H x W uint8; 255 where no shape is; where shapes overlap the later one counts
    Raises:
        ValueError: if a field is missing or makes no sense
    """
    with reading("labelme's JSON"):
        size = document["imageHeight"], document["imageWidth"]
        check_size(*size)
        labels = np.full(size, UNLABELLED, np.uint8)
        for shape in document["shapes"]:
            polygons.draw(labels, [np.asarray(shape["points"], np.float64).reshape(-1, 2)], shape["class_id"])
    return labels


def _named(mask: Named, image: str) -> Named:
    return Named(mask.name, to_json(from_json(mask.body) | {"imagePath": image}))


def _join(masks: Sequence[Named]) -> bytes:
    images = file_names([mask.name for mask in masks])
    return zipped(".json").join([_named(mask, image) for mask, image in zip(masks, images, strict=True)])


def _document(view: MaskView) -> dict[str, Any]:
    labels, rows = view.masks()
    made = encode(labels, rows, image=file_name(view.file_name), tolerance=view.options.tolerance)
    return made | {"model": view.made_by}


FORMAT = Format(
    "labelme",
    ".json",
    "application/json",
    "labelme's JSON: a polygon an outline, to be corrected beside the image.",
    encode=lambda view: to_json(_document(view)),
    decode=lambda body: decode(from_json(body)),
    document=_document,
    gather=Gather("application/zip", _join),
    takes=frozenset(("instances", "min_area", "tolerance")),
)
