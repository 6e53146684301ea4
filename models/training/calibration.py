"""How well probabilities mean what they say, and the temperature that makes them.

Expected calibration error: pixels are sorted into bins by the winner's probability; the error is the mean over pixels of the
distance between a bin's mean probability and its share of right pixels (Naeini et al. 2015; Guo, Pleiss, Sun, Weinberger, "On
Calibration of Modern Neural Networks", ICML 2017, equation 3). The temperature that scores are divided by minimises the mean
negative log-likelihood (section 4.2 there).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.pipeline.manifest import ReliabilityBin

BINS = 15
"""Bins of equal width, as in the paper."""


class CalibrationError:
    """The expected calibration error over many images."""

    def __init__(self) -> None:
        self._pixels, self._right = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
        self._probability = np.zeros(BINS)

    def add(self, probability: NDArray[np.floating], right: NDArray[np.bool_]) -> None:
        """Count pixels.

        Takes:
            probability: of each pixel's winner, 0..1, any shape
            right: whether the winner is the label, the same shape
        """
        flat = probability.ravel().astype(np.float64)
        bins = np.minimum((flat * BINS).astype(np.intp), BINS - 1)
        self._pixels += np.bincount(bins, minlength=BINS)
        self._right += np.bincount(bins[right.ravel()], minlength=BINS)
        self._probability += np.bincount(bins, flat, minlength=BINS)

    def bins(self) -> tuple[ReliabilityBin, ...]:
        """Return the reliability diagram: the bins that hold a pixel, by ascending probability (Guo et al. 2017, figure 1)."""
        total = max(int(self._pixels.sum()), 1)
        return tuple(
            ReliabilityBin(
                share=round(float(self._pixels[index] / total), 4),
                probability=round(float(self._probability[index] / self._pixels[index]), 4),
                right=round(float(self._right[index] / self._pixels[index]), 4),
            )
            for index in np.flatnonzero(self._pixels).tolist()
        )

    def value(self) -> float:
        """Return the error, 0..1; 0 of no pixels."""
        return float(np.abs(self._probability - self._right).sum() / max(int(self._pixels.sum()), 1))


def fit_temperature(scores: Tensor, labels: Tensor) -> float:
    """Find the temperature that makes the labels most likely.

    The mean negative log-likelihood is convex in the temperature's reciprocal; golden-section search in its logarithm finds the
    minimum to three digits, between 1/20 and 20.

    Takes:
        scores: M x K float
        labels: M int64, each 0..K-1
    Raises:
        ValueError: if there is no label
    """
    if not len(labels):
        raise ValueError("a temperature needs labelled pixels")

    def loss(log_temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(scores / math.exp(log_temperature), labels))

    shrink = (math.sqrt(5) - 1) / 2
    low, high = -math.log(20), math.log(20)
    left, right = high - shrink * (high - low), low + shrink * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > 5e-4:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - shrink * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + shrink * (high - low)
            at_right = loss(right)
    return round(math.exp((low + high) / 2), 3)


def draw_reliability(before: Sequence[ReliabilityBin], after: Sequence[ReliabilityBin], out: Path) -> None:
    """Draw reliability diagrams: the share of right pixels over their probability, and how many pixels a bin has.

    Takes:
        before, after: the bins at temperature 1, and at the one that is served
        out: the picture's file
    Raises:
        OSError: if it cannot be written
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4.5), sharey=True, layout="constrained")
    for axis, bins, title in zip(axes, (before, after), ("temperature 1", "as served"), strict=True):
        probability = [found.probability for found in bins]
        axis.bar(probability, [found.share for found in bins], width=0.8 / BINS, color="0.85", label="share of pixels")
        axis.plot([0, 1], [0, 1], color="0.5", linewidth=1, label="true probabilities")
        axis.plot(probability, [found.right for found in bins], marker="o", color="tab:blue", label="share of right pixels")
        axis.set(title=title, xlabel="probability of the winner", xlim=(0, 1), ylim=(0, 1))
    axes[0].legend(loc="upper left")
    figure.savefig(out)
    plt.close(figure)
