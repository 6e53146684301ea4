"""COCO's run-length encoding with its runs as numbers: ``format=coco-uncompressed``."""

from __future__ import annotations

from service.encodings import coco
from service.encodings.format import json_format

FORMAT = json_format(
    "coco-uncompressed",
    "One COCO run-length encoding a class, runs as a list of numbers, for `pycocotools.mask.frPyObjects`.",
    lambda labels, rows, _: coco.encode(labels, rows, compressed=False),
    coco.decode,
    "instances",
    "min_area",
)
