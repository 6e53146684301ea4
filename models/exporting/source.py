"""A network with its weights, from a checkpoint of ``models.train`` or from published weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.exporting.weights import load_weights, read_weights
from models.nets.architectures import architecture as architecture_named
from models.nets.architectures import build
from models.nets.network import Network
from models.training import checkpoint
from models.training.classes import ClassTable, table
from service.pipeline.manifest import Calibration, InputPolicy, SplitScores, Training

UNNAMED, UNKNOWN = "unnamed", "unknown"
"""Data and licence where neither the file nor the command line tells them."""


@dataclass(frozen=True)
class Source:
    """A network to export, and the other facts in its file."""

    net: Network
    table: ClassTable
    policy: InputPolicy
    training: Training
    scores: dict[str, SplitScores] = field(default_factory=dict)
    """By split; empty where the file has none."""
    calibration: Calibration | None = None
    """As ``models.calibrate`` fitted it."""


def load_source(architecture: str, weights: Path, classes: str | None) -> Source:
    """Load weights into the network that was asked for.

    Takes:
        classes: a class table's name or JSON file; None takes the checkpoint's own
    Raises:
        CheckpointError: if the file can't be read or is of another network
        ClassTableError: if the class table does not exist or does not fit the network
    """
    if checkpoint.is_ours(weights):
        content = checkpoint.load(weights)
        if content["architecture"] != architecture:
            raise checkpoint.CheckpointError(f"{weights}: a checkpoint of {content['architecture']}, not of {architecture}")
        trained = checkpoint.network(content)
        known = table(classes) if classes else checkpoint.class_table(content)
        known.check_planes(trained.classes)
        told = content.get("calibration")
        calibration = Calibration.model_validate(told) if told else None
        return Source(trained, known, checkpoint.input_policy(content), _training(content), _scores(content), calibration)
    if classes is None:
        read_weights(weights)  # a damaged file is told first
        raise checkpoint.CheckpointError(
            f"{weights}: only a checkpoint of models.train names its classes; say --classes voc, for instance"
        )
    known = table(classes)
    net = build(architecture, len(known.entries))
    return Source(
        load_weights(net, architecture, weights),
        known,
        architecture_named(architecture).policy(),
        Training(data=UNNAMED, licence=UNKNOWN),
    )


def _training(content: dict[str, Any]) -> Training:
    """The origin of the weights, as far as the checkpoint tells."""
    told = {"data": UNNAMED, "licence": UNKNOWN, "epochs": content["epoch"], **content.get("training", {})}
    return Training.model_validate(told)


def _scores(content: dict[str, Any]) -> dict[str, SplitScores]:
    """The metrics that training measured, by split."""
    return {split: SplitScores.model_validate(found) for split, found in content.get("scores", {}).items()}
