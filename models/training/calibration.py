"""How well probabilities mean what they say, and the temperature that makes them.

Expected calibration error: pixels are sorted into bins by the winner's probability; the error is the mean over pixels of the
distance between a bin's mean probability and its share of right pixels (Naeini et al. 2015; Guo, Pleiss, Sun, Weinberger, "On
Calibration of Modern Neural Networks", ICML 2017, equation 3). The temperature that scores are divided by minimises the mean
negative log-likelihood (section 4.2 there).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
