"""The losses that training minimises."""

from __future__ import annotations

import torch
from torch import Tensor

from models.training.objects import Targets

IGNORED = 255
"""Label of a pixel that no loss and no score counts."""


def class_weights(pixels: Tensor) -> Tensor:
    """Weights that lift rare classes: 1 / log(1.2 + share), with mean 1 (Paszke et al., "ENet", 2016, section 5.2, c = 1.2).

    Takes:
        pixels: K, pixels of each class
    Gives:
        K float32
    """
    share = pixels.double() / pixels.sum()
    weights = 1 / torch.log(1.2 + share)
    return (weights / weights.mean()).float()


def lovasz_softmax(probabilities: Tensor, labels: Tensor) -> Tensor:
    """A convex surrogate of 1 - mean IoU over the batch's classes (Berman, Triki, Blaschko, CVPR 2018, section 3).

    Takes:
        probabilities: N x K x H x W, softmax of the scores
        labels: N x H x W int64, :data:`IGNORED` where unlabelled
    """
    counted = labels != IGNORED
    flat = probabilities.permute(0, 2, 3, 1)[counted]  # (P, K)
    truth = labels[counted]  # (P,)
    losses = []
    for k in torch.unique(truth).tolist():
        positive = (truth == k).float()
        errors, order = torch.sort((positive - flat[:, k]).abs(), descending=True)
        losses.append(torch.dot(errors, _jaccard_gradient(positive[order])))
    return torch.stack(losses).mean() if losses else flat.sum() * 0


def _jaccard_gradient(positive: Tensor) -> Tensor:
    """Gradient of the Lovasz extension of the Jaccard loss at errors sorted downwards (the paper's algorithm 1)."""
    total = positive.sum()
    intersection = total - positive.cumsum(0)
    union = total + (1 - positive).cumsum(0)
    jaccard = 1 - intersection / union
    return torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])


def dice_loss(probabilities: Tensor, labels: Tensor, *, background: int = 0) -> Tensor:
    """One minus the mean Dice coefficient of the batch's classes (Milletari, Navab, Ahmadi, 3DV 2016, section 3).

    The paper has two classes, and squares in the denominator; here are K, and no squares (Drozdzal et al. 2016).

    Takes:
        probabilities: N x K x H x W, or N x K x D x H x W, softmax of the scores
        labels: N x H x W, or N x D x H x W, int64, :data:`IGNORED` where unlabelled
        background: the class that does not count, as it covers nearly all
    Gives:
        0..1; 0 where no other class occurs
    """
    counted = (labels != IGNORED)[:, None]
    truth = torch.zeros_like(probabilities).scatter_(1, torch.where(counted[:, 0], labels, 0)[:, None], 1.0) * counted
    sides = [0, *range(2, probabilities.ndim)]
    occurring = truth.sum(sides)
    both = (probabilities * truth).sum(sides)
    either = (probabilities * counted).sum(sides) + occurring
    wanted = occurring > 0
    wanted[background] = False
    losses = 1 - (2 * both + 1) / (either + 1)
    return losses[wanted].mean() if bool(wanted.any()) else losses.sum() * 0


def center_loss(found: Tensor, wanted: Targets) -> Tensor:
    """Mean squared error of the centres' heatmap where it is known (Cheng et al. 2020, section 3.1), times 200 as there.

    Takes:
        found: N x 1 x h x w, 0..1
    """
    squares = (found.squeeze(1) - wanted.centers) ** 2
    return 200 * (squares * wanted.counted).sum() / wanted.counted.sum().clamp(min=1)


def offset_loss(found: Tensor, wanted: Targets) -> Tensor:
    """Mean distance in |dy| + |dx| pixels of offsets from what they should be, times 0.01 as in Cheng et al. 2020, section 3.1.

    An object weighs as the square root of its cells, so that near cars do not drown far pedestrians.

    Takes:
        found: N x 2 x h x w, input pixels
    """
    distance = (found - wanted.offsets).abs().sum(1)
    return 0.01 * (distance * wanted.weights).sum() / wanted.weights.sum().clamp(min=1e-6)
