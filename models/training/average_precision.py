"""Average precision of masks, as COCO counts it (Lin et al., "Microsoft COCO", ECCV 2014; pycocotools' COCOeval).

Per image and class the 100 surest objects are matched, the surest first, each with the free true object of highest IoU. Per IoU
threshold the precision at 101 recalls is averaged, made monotone first. AP is the mean over the thresholds 0.50, 0.55 ... 0.95,
AP50 the first alone. An object that overlaps a crowd of its class by the threshold's share of its own area counts in nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.training.segments import Segments, overlaps

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MOST = 100
"""Objects of a class in an image that count."""


@dataclass(frozen=True)
class Precision:
    """The scores of a class, or of a mean over classes."""

    ap: float
    ap50: float


@dataclass
class _Counts:
    """Of one class: a column an object that was found, in the order of the images."""

    scores: list[float] = field(default_factory=list)
    right: list[NDArray[np.bool_]] = field(default_factory=list)  # each: one value a threshold
    ignored: list[NDArray[np.bool_]] = field(default_factory=list)
    wanted: int = 0


class AveragePrecision:
    """Matches over many images.

    Takes:
        things: ids of the countable classes
    """

    def __init__(self, things: tuple[int, ...]) -> None:
        self._counts = {k: _Counts() for k in things}

    def add(self, truth: Segments, found: Segments) -> None:
        """Match the objects of an image.

        Raises:
            ValueError: if the maps differ in size
        """
        seen = overlaps(truth, found)
        union = seen.true_area[:, None] + seen.found_area - seen.shared
        for k, counts in self._counts.items():
            true_rows = [index for index, row in enumerate(truth.rows) if row.class_id == k]
            true_rows.sort(key=lambda index: truth.rows[index].crowd)
            crowd = np.array([truth.rows[index].crowd for index in true_rows], bool)
            found_rows = [index for index, row in enumerate(found.rows) if row.class_id == k]
            found_rows.sort(key=lambda index: -found.rows[index].score)
            found_rows = found_rows[:MOST]
            shared = seen.shared[np.ix_(true_rows, found_rows)]
            whole = np.where(crowd[:, None], seen.found_area[found_rows], union[np.ix_(true_rows, found_rows)])
            counts.wanted += int((~crowd).sum())
            self._match(counts, shared / np.maximum(whole, 1), crowd, [found.rows[index].score for index in found_rows])

    @staticmethod
    def _match(counts: _Counts, iou: NDArray[np.float64], crowd: NDArray[np.bool_], scores: list[float]) -> None:
        free = np.ones((len(THRESHOLDS), len(crowd)), bool)
        for column, score in enumerate(scores):
            right, ignored = np.zeros(len(THRESHOLDS), bool), np.zeros(len(THRESHOLDS), bool)
            for index, threshold in enumerate(THRESHOLDS):
                # A true object comes before any crowd, of equals the last; a crowd may be matched again and again.
                single = np.where(free[index] & ~crowd, iou[:, column], -1.0)
                several = np.where(crowd, iou[:, column], -1.0)
                least = min(threshold, 1 - 1e-10)
                if len(crowd) and single.max() >= least:
                    free[index, len(crowd) - 1 - int(single[::-1].argmax())] = False
                    right[index] = True
                elif len(crowd) and several.max() >= least:
                    ignored[index] = True
            counts.scores.append(score)
            counts.right.append(right)
            counts.ignored.append(ignored)

    def of_class(self, k: int) -> Precision | None:
        """Return the precision of a class; None if no true object of it occurs."""
        counts = self._counts[k]
        if not counts.wanted:
            return None
        order = np.argsort(-np.array(counts.scores), kind="mergesort")
        shape = (len(order), len(THRESHOLDS))
        right, ignored = (np.array(kind, bool).reshape(shape)[order] for kind in (counts.right, counts.ignored))
        values = [
            _at_recalls(right[:, index], ~right[:, index] & ~ignored[:, index], counts.wanted)
            for index in range(len(THRESHOLDS))
        ]
        return Precision(float(np.mean(values)), values[0])

    def mean(self) -> Precision | None:
        """Return the mean over the classes that occur; None if none does."""
        found = [precision for k in self._counts if (precision := self.of_class(k)) is not None]
        if not found:
            return None
        return Precision(float(np.mean([one.ap for one in found])), float(np.mean([one.ap50 for one in found])))


def _at_recalls(right: NDArray[np.bool_], wrong: NDArray[np.bool_], wanted: int) -> float:
    """Average the precision at the recalls; an unreached recall has precision 0."""
    hits, misses = np.cumsum(right), np.cumsum(wrong)
    recall = hits / wanted
    precision = hits / np.maximum(hits + misses, np.spacing(1))
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, RECALLS, side="left")
    reached = at < len(highest)
    return float(np.where(reached, np.append(highest, 0)[np.minimum(at, len(highest))], 0).mean())
