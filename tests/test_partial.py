"""Data whose labels hold some classes only: which pixels a teacher leaves, and what a run makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from models.nets.network import Network
from models.training.classes import CAMVID
from models.training.config import TrainingConfig
from models.training.data import DataError
from models.training.losses import IGNORED
from models.training.objects import UNSURE
from models.training.partial import LEAST_PROBABILITY, MARGIN_PX, sure_labels
from models.training.trainer import load_data
from tests.test_train_heads import write_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")
ROAD, CAR, POLE = (CAMVID.names.index(name) for name in ("road", "car", "pole"))


class Teacher:
    """A network that is sure of road, and of a pole to a given degree where an image is red."""

    classes = len(CAMVID.entries)

    def __init__(self, probability: float) -> None:
        self.lead = float(np.log(probability / (1 - probability)))

    def scores(self, images: Tensor) -> Tensor:
        """N x K x h x w, at the images' size."""
        found = torch.full((len(images), self.classes, *images.shape[2:]), -40.0)
        found[:, ROAD] = 0.0
        found[:, POLE] = torch.where(images[:, 0] > 200, self.lead, -40.0)
        return found


def sure(probability: float, present: set[int]) -> Tensor:
    """The labels of a road with a red bar, of which the teacher takes the bar for a pole."""
    images = torch.zeros(2, 3, 40, 60, dtype=torch.uint8)
    images[1, 0, 10:30, 20:24] = 255
    labels = torch.full((2, 40, 60), ROAD, dtype=torch.uint8)
    labels[0, 0, 0] = IGNORED
    return sure_labels(labels, images, cast(Network, Teacher(probability)), present)


@pytest.mark.parametrize("probability", [LEAST_PROBABILITY + 0.01, 0.9])
def test_pixels_of_a_missing_class_are_ignored_with_a_margin(probability: float) -> None:
    """Even where the label's own class is likelier; the other image stays as it is."""
    found = sure(probability, {ROAD, CAR})
    expected = torch.full((40, 60), ROAD, dtype=torch.uint8)
    m = MARGIN_PX
    expected[10 - m : 30 + m, 20 - m : 24 + m] = IGNORED
    assert torch.equal(found[1], expected)
    assert found[0, 0, 0] == IGNORED
    assert (found[0].flatten()[1:] == ROAD).all()


def test_classes_that_the_labels_hold_are_believed() -> None:
    """A pole that the teacher sees where poles are labelled is the teacher's mistake; an improbable one is none."""
    assert (sure(0.9, {ROAD, POLE})[1] == ROAD).all()
    assert (sure(LEAST_PROBABILITY - 0.01, {ROAD})[1] == ROAD).all()


def write_photos(folder: Path, classes: tuple[int, ...]) -> Path:
    """Two photos whose labels hold these classes and pixels that are ignored."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number in range(2):
        labels = rng.choice([*classes, CAMVID.ignored[0]], (64, 80)).astype(np.uint8)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), rng.integers(0, 256, (64, 80, 3), np.uint8))
        cv2.imwrite(str(folder / "labels" / f"{number}.png"), labels)
    return folder


def test_a_run_takes_partial_folders_with_a_teacher(tmp_path: Path) -> None:
    """Their frames lie behind the others; objects of countable classes are unknown, and unsure pixels are ignored."""
    data = write_photos(tmp_path / "data" / "train", tuple(range(11))).parent
    photos = write_photos(tmp_path / "photos", (ROAD, CAR))
    teacher = write_checkpoint(tmp_path / "teacher.pt", "fcn4s-lite0")
    config = TrainingConfig(
        data=data, partial=(photos,), teacher=teacher, architecture="fcn4s-lite0-panoptic", size=(64, 80), scenes=1
    )
    frames = load_data(config).train
    assert len(frames) == 5
    assert frames.names[2:4] == ("0", "1")
    mine, objects = frames.labels[2:4], frames.objects[2:4]
    assert set(mine.flatten().tolist()) <= {ROAD, CAR, IGNORED}
    assert torch.equal(objects == UNSURE, mine == CAR)
    assert frames.weights.tolist() == [1, 1, 1, 1, 0.25]
    with pytest.raises(DataError, match="partial labels want a teacher"):
        load_data(TrainingConfig(data=data, partial=(photos,), size=(64, 80)))
