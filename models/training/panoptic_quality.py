"""Panoptic quality (Kirillov, He, Girshick, Rother, Dollar, "Panoptic Segmentation", CVPR 2019, section 4).

A true and a found segment of one class match where their IoU is above one half; there is one match at the most. With TP
matches, FP found and FN true segments without one: RQ = TP / (TP + FP / 2 + FN / 2), which is the F1 of detection; SQ = the
mean IoU of the matches; PQ = SQ * RQ. Pixels without truth leave the union. A found segment that lies on them, or on a crowd
of its class, by more than half does not count as a false positive.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.training.segments import Segments, overlaps


@dataclass(frozen=True)
class Quality:
    """The scores of a class, or of a mean over classes."""

    pq: float
    sq: float
    rq: float
    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0


class PanopticQuality:
    """Counts over many images.

    Takes:
        classes: how many there are
    """

    def __init__(self, classes: int) -> None:
        self._iou = np.zeros(classes)
        self._counts = np.zeros((classes, 3), np.int64)  # matches, false positives, false negatives

    def add(self, truth: Segments, found: Segments) -> None:
        """Count an image.

        Raises:
            ValueError: if the maps differ in size
        """
        seen = overlaps(truth, found)
        union = seen.true_area[:, None] + (seen.found_area - seen.true_void) - seen.shared
        true_class = np.array([row.class_id for row in truth.rows], np.int64)
        found_class = np.array([row.class_id for row in found.rows], np.int64)
        crowd = np.array([row.crowd for row in truth.rows], bool)
        iou = np.where(true_class[:, None] == found_class, seen.shared / np.maximum(union, 1), 0)
        iou[crowd] = 0
        matched = iou > 0.5
        for row, column in zip(*np.nonzero(matched), strict=True):
            self._iou[true_class[row]] += iou[row, column]
            self._counts[true_class[row], 0] += 1
        for k in true_class[~crowd & ~matched.any(1)].tolist():
            self._counts[k, 2] += 1
        same_crowd = seen.shared * ((true_class[:, None] == found_class) & crowd[:, None])
        excused = (seen.true_void + same_crowd.sum(0)) > 0.5 * seen.found_area
        for k in found_class[~matched.any(0) & ~excused].tolist():
            self._counts[k, 1] += 1

    def of_class(self, k: int) -> Quality | None:
        """Return the quality of a class; None if it neither occurs nor is found."""
        matches, wrong, missed = self._counts[k].tolist()
        if matches + wrong + missed == 0:
            return None
        sq = float(self._iou[k]) / matches if matches else 0.0
        rq = matches / (matches + wrong / 2 + missed / 2)
        return Quality(sq * rq, sq, rq, matches, wrong, missed)

    def mean(self, classes: tuple[int, ...]) -> Quality | None:
        """Return the mean over those of the classes that have a quality; None if none has."""
        found = [quality for k in classes if (quality := self.of_class(k)) is not None]
        if not found:
            return None
        pq, sq, rq = (float(np.mean([getattr(quality, name) for quality in found])) for name in ("pq", "sq", "rq"))
        return Quality(pq, sq, rq)
