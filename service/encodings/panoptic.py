"""COCO's panoptic segmentation: every pixel has a segment, and every segment a class (Kirillov et al. 2019).

``png_string`` is the base64 of an RGB PNG. A pixel's segment is R + 256 G + 65536 B; 0 is unlabelled. ``segments_info`` has
the ``id``, ``category_id``, ``isthing``, ``area``, ``bbox`` and ``score`` of each segment. The score of a learned object is the
network's; that of any other segment is the mean confidence of its pixels.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.encodings import png, shares, things
from service.encodings.document import from_json, reading, to_json
from service.encodings.format import Format
from service.encodings.runs import UNLABELLED, Thing, facts_of, find_runs, masks_present, rows_present, value_of
from service.encodings.several import LISTED
from service.encodings.view import MaskView

_MISSING = -1
"""A segment that the list lacks."""


def encode(view: MaskView) -> dict[str, Any]:
    """Encode a view of things.

    Takes:
        view: one whose ``masks`` are things
    Gives:
        the document, ready for JSON; segments in the order of the class table, numbered from 1
    """
    labels, table = view.masks()
    values, lengths = find_runs(labels.reshape(-1))
    rows = rows_present(values, table)
    counted = masks_present(values, lengths, rows)
    described = shares.describe(labels, rows, view.confidence())
    countable = things.countable(view.classes)
    segments = [
        {
            "id": number,
            "category_id": row.id,
            "isthing": int(row.id in countable),
            "iscrowd": 0,
            "area": entry["pixels"],
            "bbox": more["bbox"],
            "score": row.score if isinstance(row, Thing) and row.score is not None else more["confidence"],
            **{name: fact for name, fact in facts_of(row).items() if name != "score"},
        }
        for number, (row, entry, more) in enumerate(zip(rows, counted, described, strict=True), 1)
    ]
    numbers = np.zeros(int(labels.max()) + 1, np.uint32)
    numbers[[value_of(row) for row in rows]] = np.arange(1, len(rows) + 1)
    return {
        "size": list(labels.shape),
        "png_string": base64.b64encode(png.encode_rgb(to_rgb(numbers[labels]))).decode("ascii"),
        "segments_info": segments,
        "categories": [
            {"id": row.id, "name": row.name, "supercategory": "", "isthing": int(row.id in countable), "color": [*row.color]}
            for row in view.classes
        ],
        "model": view.made_by,
    }


def to_rgb(ids: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Write segment ids as colours: H x W, 0 to 2 ** 24 - 1 -> H x W x 3 uint8."""
    return np.stack((ids & 255, ids >> 8 & 255, ids >> 16), -1).astype(np.uint8)


def from_rgb(colors: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Read segment ids from colours: the reverse of :func:`to_rgb`."""
    wide = colors.astype(np.uint32)
    ids: NDArray[np.uint32] = wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]
    return ids


def segment_ids(document: Mapping[str, Any]) -> NDArray[np.uint32]:
    """Read the segment of every pixel.

    Takes:
        document: as :func:`encode` gives it
    Gives:
        H x W uint32; 0 is unlabelled
    Raises:
        ValueError: if the document is damaged
    """
    with reading("a panoptic segmentation"):
        try:
            colors = png.read(base64.b64decode(document["png_string"], validate=True))
        except binascii.Error as error:
            raise ValueError(f"png_string is not base64: {error}") from error
        if colors.ndim != 3 or [*colors.shape[:2]] != [*document["size"]]:
            raise ValueError(f"png_string is not an RGB picture of size {document['size']}")
        return from_rgb(colors.astype(np.uint8, copy=False))


def decode(document: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Decode a document back into its label map.

    Takes:
        document: as :func:`encode` gives it
    Gives:
        H x W uint8; 255 where no segment is
    Raises:
        ValueError: if a field is missing or makes no sense, or if a pixel's segment is not in the list
    """
    with reading("a panoptic segmentation"):
        ids = segment_ids(document)
        table = np.full(int(ids.max()) + 1, _MISSING, np.int32)
        table[0] = UNLABELLED
        for segment in document["segments_info"]:
            number, owner = int(segment["id"]), int(segment["category_id"])
            if not 0 <= owner <= UNLABELLED or number < 1:
                raise ValueError(f"segment {number} has the category {owner}, which is not a class id, 0..255")
            if number < len(table):
                table[number] = owner
        classes = table[ids]
        if classes.min() == _MISSING:
            raise ValueError(f"segment {int(ids[classes == _MISSING][0])} is not in segments_info")
        return classes.astype(np.uint8)


FORMAT = Format(
    "panoptic",
    ".json",
    "application/json",
    "COCO's panoptic segmentation: a segment for each thing and each other class, with its score.",
    encode=lambda view: to_json(encode(view)),
    decode=lambda body: decode(from_json(body)),
    document=encode,
    gather=LISTED,
    takes=frozenset(("instances", "min_area")),
    things=True,
    confident=True,
)
