"""The four scores of Long, Shelhamer and Darrell 2015, section 5, from one confusion matrix.

With n_ij the pixels of class i predicted as j and t_i = sum_j n_ij: pixel accuracy sum_i n_ii / sum_i t_i, mean accuracy
(1/K) sum_i n_ii / t_i, mean IU (1/K) sum_i n_ii / (t_i + sum_j n_ji - n_ii), frequency weighted IU its average weighted by t_i.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.pipeline.manifest import SplitScores


def confusion_matrix(truth: NDArray[np.integer], prediction: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """Count pixels by true and predicted class.

    Takes:
        truth, prediction: arrays of one shape; a pixel whose truth lies outside 0..classes-1 is not counted; a prediction
            outside it counts as wrong, in the last column
    Gives:
        classes x (classes + 1) int64, rows truth, columns prediction
    """
    counted = (truth >= 0) & (truth < classes)
    t = truth[counted].astype(np.int64)
    p = prediction[counted].astype(np.int64)
    p[(p < 0) | (p > classes)] = classes
    return np.bincount(t * (classes + 1) + p, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def scores(
    confusion: NDArray[np.int64], names: tuple[str, ...], *, frames: int | None = None, occurring: bool = False
) -> SplitScores:
    """Compute the scores of a confusion matrix; a class that neither occurs nor is predicted counts in no mean.

    Takes:
        confusion: K x (K + 1) from :func:`confusion_matrix`
        names: K class names
        occurring: whether a class that is predicted but does not occur counts in no mean either, as where labels hold some
            classes only
    """
    hits = np.diagonal(confusion).astype(np.float64)
    truth = confusion.sum(1).astype(np.float64)
    union = truth + confusion[:, : len(names)].sum(0) - hits
    with np.errstate(invalid="ignore"):
        iou = hits / union
        accuracy = hits / truth
    if occurring:
        iou[truth == 0] = np.nan
    total = max(float(truth.sum()), 1.0)
    return SplitScores(
        pixel_accuracy=round(float(hits.sum()) / total, 4),
        mean_accuracy=round(_mean(accuracy), 4),
        mean_iou=round(_mean(iou), 4),
        frequency_weighted_iou=round(float(np.nansum(truth * iou)) / total, 4),
        iou={name: None if np.isnan(value) else round(float(value), 4) for name, value in zip(names, iou, strict=True)},
        frames=frames,
    )


def _mean(values: NDArray[np.float64]) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else 0.0
