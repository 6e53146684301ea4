"""The tasks by name. A task turns a network's outputs into a result at the image's own size.

To add one: write its file, give it a line in :data:`TASKS`, and its name in the manifest's ``task``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.pipeline.manifest import Manifest
from service.pipeline.tasks.panoptic import Instances, Panoptic
from service.pipeline.tasks.semantic import Semantic


class Task(Protocol):
    """Turns a network's outputs into labels and their confidence: the contract of every task. A task keeps no state."""

    def outputs(self, *, instances: bool) -> tuple[str, ...]:
        """Return the names of the outputs that the network must compute.

        Takes:
            instances: whether the caller asks for instances
        """

    def labels(self, outputs: Mapping[str, NDArray[np.float32]], size: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the class id of every pixel.

        Takes:
            outputs: by name, of one image
            size: (height, width) of the image
        Gives:
            H x W uint8
        """

    def confidence(
        self, outputs: Mapping[str, NDArray[np.float32]], labels: NDArray[np.uint8], temperature: float
    ) -> NDArray[np.uint8]:
        """Return the probability of every pixel's label.

        Takes:
            temperature: the scores are divided by it (Guo et al. 2017); 1 where the model is not calibrated
        Gives:
            H x W uint8, 255 is certainty
        """

    def instances(
        self, outputs: Mapping[str, NDArray[np.float32]], labels: NDArray[np.uint8], manifest: Manifest
    ) -> Instances | None:
        """Return the learned objects; None if the task has none, or the run left their outputs out."""


TASKS: Mapping[str, Task] = {"semantic-segmentation": Semantic(), "panoptic": Panoptic()}
"""By the manifest's ``task``."""


def task_of(manifest: Manifest) -> Task:
    """Return the task that a manifest names; the manifest's own validation refuses unknown names."""
    return TASKS[manifest.task]
