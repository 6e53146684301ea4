"""Data sets whose labels hold some of the classes only: which of their pixels are sure.

A data set without pedestrians in its class list labels them as what is behind them. A network that knows the missing classes
finds such pixels; they are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from models.nets.network import Network
from models.training.data import Frame
from models.training.losses import IGNORED
from models.training.objects import UNSURE

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


def sure_frames(frames: list[Frame], teacher: Network, things: tuple[int, ...]) -> Iterator[Frame]:
    """Give the frames of a partial data set with unsure labels ignored and the objects of countable classes unknown.

    Takes:
        teacher: as in :func:`sure_labels`
        things: ids of the countable classes
    """
    present = {int(k) for frame in frames for k in set(frame.labels.flat) if k != IGNORED}
    for frame in frames:
        labels = torch.from_numpy(frame.labels)[None]
        image = torch.from_numpy(frame.image).permute(2, 0, 1)[None]
        sure = sure_labels(labels, image, teacher, present)
        objects = torch.isin(sure, torch.tensor(things, dtype=torch.uint8)) * UNSURE
        yield Frame(frame.name, frame.image, sure[0].numpy(), objects[0].byte().numpy(), frame.weight)
