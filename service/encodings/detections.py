"""Bounding boxes of things, for messages of detections such as ``vision_msgs/Detection2DArray``: in bags and on live topics."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from service.encodings import shares
from service.encodings.runs import Thing, find_runs, rows_present
from service.encodings.view import MaskView


@dataclass(frozen=True)
class Detection:
    """One thing."""

    class_id: int
    """Among the ids that are written."""
    class_name: str
    score: float
    """0..1: the network's for a learned object; the mean confidence of its pixels for a connected component."""
    x: int
    """The left edge of its bounding box, in pixels from the image's."""
    y: int
    """The upper edge."""
    width: int
    """In pixels, 1 or more."""
    height: int

    def to_json(self) -> dict[str, Any]:
        """The fields, for JSON; ``Detection(**fields)`` is the reverse."""
        return asdict(self)


def detections(view: MaskView) -> list[Detection]:
    """Find the things of an image, and their bounding boxes.

    Takes:
        view: a selected one (``MaskView.selected``) whose options ask for instances
    Gives:
        in the order of the class table, the largest of a class first
    """
    parts, table = view.masks()
    values, _ = find_runs(parts.reshape(-1))
    rows = [row for row in rows_present(values, table) if isinstance(row, Thing)]
    corners = shares.boxes(parts, rows)
    scores = [0.0 if row.score is None else row.score for row in rows]
    if any(row.score is None for row in rows):
        scores = [more["confidence"] for more in shares.describe(parts, rows, view.confidence())]
    return [
        Detection(row.id, row.name, score, x, y, width, height)
        for row, score, (x, y, width, height) in zip(rows, scores, corners, strict=True)
    ]
