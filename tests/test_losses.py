"""What training minimises: the Lovasz surrogate against intersection over union itself, and the weights by their formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.training.losses import IGNORED, class_weights, lovasz_softmax


def mean_jaccard_loss(truth: NDArray[np.int64], prediction: NDArray[np.int64]) -> float:
    """1 - mean IoU over the classes that occur in the truth, by counting sets of pixels."""
    counted = truth != IGNORED
    losses = []
    for k in sorted(set(truth[counted].tolist())):
        mine, theirs = counted & (truth == k), counted & (prediction == k)
        losses.append(1 - np.sum(mine & theirs) / np.sum(mine | theirs))
    return float(np.mean(losses)) if losses else 0.0


def one_hot(prediction: NDArray[np.int64], classes: int) -> torch.Tensor:
    """N x H x W to N x K x H x W probabilities of 0 and 1."""
    return torch.nn.functional.one_hot(torch.from_numpy(prediction), classes).permute(0, 3, 1, 2).float()


@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(1, 6), unlabelled=st.sampled_from([0.0, 0.3, 1.0]))
def test_for_hard_predictions_the_lovasz_loss_is_one_minus_the_mean_iou(seed: int, classes: int, unlabelled: float) -> None:
    """At the corners of the cube the surrogate equals what it stands for; unlabelled pixels do not exist."""
    rng = np.random.default_rng(seed)
    truth, prediction = rng.integers(0, classes, (2, 2, 5, 7))
    truth[rng.random(truth.shape) < unlabelled] = IGNORED
    found = lovasz_softmax(one_hot(prediction, classes), torch.from_numpy(truth))
    assert float(found) == pytest.approx(mean_jaccard_loss(truth, prediction), abs=1e-6)


def test_the_lovasz_loss_is_convex_between_predictions() -> None:
    """On the way from one prediction to another it never lies above the straight line: gradient descent is not led astray."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (1, 6, 6), generator=generator)
    for _ in range(30):
        first, second = torch.rand(2, 1, 4, 6, 6, generator=generator).softmax(2)
        middle = lovasz_softmax((first + second) / 2, labels)
        assert middle <= (lovasz_softmax(first, labels) + lovasz_softmax(second, labels)) / 2 + 1e-6


def test_descending_the_lovasz_loss_raises_the_iou() -> None:
    """The gradient points the right way: scores trained on it alone end with every labelled pixel right."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (1, 8, 8), generator=generator)
    labels[0, :2] = IGNORED
    scores = torch.randn(1, 3, 8, 8, generator=generator, requires_grad=True)
    optimizer = torch.optim.Adam([scores], lr=0.2)
    for _ in range(100):
        optimizer.zero_grad()
        lovasz_softmax(scores.softmax(1), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert scores.grad is not None
    assert scores.grad[:, :, :2].eq(0).all()
    assert torch.equal(scores.argmax(1)[:, 2:], labels[:, 2:])


def test_without_a_labelled_pixel_the_lovasz_loss_is_zero_and_still_has_a_gradient() -> None:
    """A crop of nothing but unlabelled pixels must not end a training run."""
    scores = torch.zeros(1, 3, 4, 4, requires_grad=True)
    loss = lovasz_softmax(scores.softmax(1), torch.full((1, 4, 4), IGNORED))
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert scores.grad is not None
    assert scores.grad.eq(0).all()


def test_class_weights_follow_their_formula() -> None:
    """1 / log(1.2 + share), divided by their mean: the rarer the heavier, and a class that never occurs has a finite weight."""
    found = class_weights(torch.tensor([600, 300, 100, 0]))
    raw = [1 / math.log(1.2 + share) for share in (0.6, 0.3, 0.1, 0.0)]
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx([value / (sum(raw) / 4) for value in raw], rel=1e-6)
    assert found.tolist() == sorted(found.tolist())
