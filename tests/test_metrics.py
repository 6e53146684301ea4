"""The paper's four scores, against the definitions pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from models.training.losses import IGNORED
from models.training.metrics import confusion_matrix, scores

NAMES = ("a", "b", "c", "d")
K = len(NAMES)
ROUNDING = 5.1e-5
"""Scores travel with four decimals."""

Masks = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@st.composite
def masks(draw: st.DrawFn) -> Masks:
    """Truth and prediction of one shape; ids, the ignored value, and values that are neither."""
    shape = draw(arrays.array_shapes(min_dims=1, max_dims=3, max_side=6))
    values = st.sampled_from([0, 1, 2, 3, 4, 77, IGNORED])
    return draw(arrays.arrays(np.uint8, shape, elements=values)), draw(arrays.arrays(np.uint8, shape, elements=values))


@given(masks())
def test_the_confusion_matrix_counts_every_labelled_pixel_once(pair: Masks) -> None:
    """Rows are the truth, columns the prediction; a prediction of no class is wrong, in the last column."""
    truth, prediction = pair
    found = confusion_matrix(truth, prediction, K)
    expected = np.zeros((K, K + 1), np.int64)
    for t, p in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if t < K:
            expected[t, min(p, K)] += 1
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int64


@given(masks())
def test_the_scores_are_the_paper_s(pair: Masks) -> None:
    """n_ij, t_i and the four formulas of its section 5, by sets of pixels; classes that nowhere occur are left out."""
    truth, prediction = (mask.ravel() for mask in pair)
    labelled = truth < K
    truth, prediction = truth[labelled], prediction[labelled]
    found = scores(confusion_matrix(truth, prediction, K), NAMES)
    t = {k: int(np.sum(truth == k)) for k in range(K)}
    right = {k: int(np.sum((truth == k) & (prediction == k))) for k in range(K)}
    union = {k: int(np.sum((truth == k) | (prediction == k))) for k in range(K)}
    total = max(sum(t.values()), 1)
    accuracies = [right[k] / t[k] for k in range(K) if t[k]]
    ious = [right[k] / union[k] for k in range(K) if union[k]]
    assert found.pixel_accuracy == pytest.approx(sum(right.values()) / total, abs=ROUNDING)
    assert found.mean_accuracy == pytest.approx(np.mean(accuracies) if accuracies else 0, abs=ROUNDING)
    assert found.mean_iou == pytest.approx(np.mean(ious) if ious else 0, abs=ROUNDING)
    weighted = sum(t[k] * right[k] / union[k] for k in range(K) if union[k]) / total
    assert found.frequency_weighted_iou == pytest.approx(weighted, abs=ROUNDING)
    for k, name in enumerate(NAMES):
        value = found.iou[name]
        assert (value is None) == (union[k] == 0)
        assert value is None or value == pytest.approx(right[k] / union[k], abs=ROUNDING)


@given(masks(), st.integers(0, 2**32 - 1))
def test_ignored_pixels_never_count(pair: Masks, seed: int) -> None:
    """Whatever is predicted there, and however many there are."""
    truth, prediction = (mask.ravel() for mask in pair)
    guesses = np.random.default_rng(seed).integers(0, 256, 50, dtype=np.uint8)
    with_ignored = confusion_matrix(
        np.concatenate([truth, np.full(50, IGNORED, np.uint8)]), np.concatenate([prediction, guesses]), K
    )
    np.testing.assert_array_equal(with_ignored, confusion_matrix(truth, prediction, K))


def test_confusion_matrices_of_frames_add_up_to_that_of_all() -> None:
    """Scores are of all pixels together, not means of frames."""
    truth, prediction = np.random.default_rng(0).integers(0, K, (2, 5, 8, 8))
    parts = sum(confusion_matrix(t, p, K) for t, p in zip(truth, prediction, strict=True))
    np.testing.assert_array_equal(parts, confusion_matrix(truth, prediction, K))


def test_a_prediction_of_no_class_is_wrong_even_below_zero() -> None:
    """Signed masks that mark nothing with -1 move no pixel into another row."""
    found = confusion_matrix(np.array([0, 1, 1]), np.array([-1, 1, -7]), 2)
    assert found.tolist() == [[0, 0, 1], [0, 1, 1]]


def test_a_perfect_mask_scores_one_and_nothing_at_all_scores_zero() -> None:
    """The ends of the scale; the number of frames is passed on."""
    truth = np.arange(K).repeat(3)
    perfect = scores(confusion_matrix(truth, truth, K), NAMES, frames=7)
    assert (perfect.pixel_accuracy, perfect.mean_accuracy, perfect.mean_iou, perfect.frequency_weighted_iou) == (1, 1, 1, 1)
    assert perfect.frames == 7
    empty = scores(np.zeros((K, K + 1), np.int64), NAMES)
    assert (empty.pixel_accuracy, empty.mean_accuracy, empty.mean_iou, empty.frequency_weighted_iou) == (0, 0, 0, 0)
    assert set(empty.iou.values()) == {None}
