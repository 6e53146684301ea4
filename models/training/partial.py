"""Data sets whose labels hold some of the classes only: which of their pixels are sure.

A data set without pedestrians in its class list labels them as what is behind them. A network that knows the missing classes
finds such pixels; they are ignored.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.nets.network import Network
from models.training.losses import IGNORED

LEAST_PROBABILITY = 0.25
"""From this probability on that a pixel is of a missing class, its label is not sure."""
MARGIN_PX = 3
"""Pixels around an unsure one that are unsure too: polygons are drawn by hand."""


@torch.no_grad()
def sure_labels(labels: Tensor, images: Tensor, teacher: Network, present: set[int]) -> Tensor:
    """Ignore what may be of a class that the data set leaves out.

    Takes:
        labels: N x h x w uint8, :data:`IGNORED` where unlabelled
        images: N x 3 x h x w uint8 RGB
        teacher: a network in evaluation mode that knows all classes
        present: ids of the classes that the data set labels
    Gives:
        N x h x w uint8: ``labels`` with unsure pixels ignored
    """
    missing = [k for k in range(teacher.classes) if k not in present]
    sure = labels.clone()
    for index in range(len(labels)):
        scored = teacher.scores(images[index : index + 1].float())
        probable = F.interpolate(scored, size=labels.shape[1:], mode="bilinear", align_corners=False).softmax(1)
        doubt = probable[:, missing].sum(1, keepdim=True) >= LEAST_PROBABILITY
        wide = F.max_pool2d(doubt.float(), 2 * MARGIN_PX + 1, 1, MARGIN_PX)[0, 0] > 0
        sure[index][wide] = IGNORED
    return sure
