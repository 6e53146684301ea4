"""The cost of a lower precision: the labels that it changes, and the accuracy that it loses, on labelled frames."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.evaluate import predictor_of
from models.exporting.parity import ParityError
from models.exporting.quantisation.recipe import Quantisation
from models.training.classes import ClassTable
from models.training.data import frame_pairs, read_labels
from models.training.metrics import confusion_matrix
from service.pipeline.manifest import INPUT, OUTPUT, Loss

MOST_FRAMES = 4
"""Calibration frames with which single layers are compared."""


@dataclass(frozen=True)
class Labelled:
    """Frames with labels."""

    name: str
    """Of the split, as the manifest calls it."""
    folder: Path
    """Of ``images/`` and ``labels/``."""
    table: ClassTable
    max_loss: float
    """Points of mean IoU (0..100) that may be lost against float32."""


def measure_loss(exact: Path, candidate: Path, labelled: Labelled) -> Loss:
    """Compare two artifacts of the same network, as the service runs them.

    Classes that do not occur in the labels are left out: a set that labels six of eleven classes is judged by these six.

    Takes:
        exact: in float32
        candidate: in the lower precision
    """
    k = len(labelled.table.entries)
    confusions = np.zeros((2, k, k + 1), np.int64)
    pairs = frame_pairs(labelled.folder)
    changed = 0.0
    with ExitStack() as resources:
        both = [predictor_of(str(file), labelled.table, resources) for file in (exact, candidate)]
        for image, labels in pairs:
            truth = read_labels(labels, labelled.table)
            predictions = [predict(image).labels for predict in both]
            changed += float((predictions[0] != predictions[1]).mean())
            confusions += [confusion_matrix(truth, prediction, k) for prediction in predictions]
    occurring = confusions[0].sum(1) > 0
    exact_iou, found_iou = (_iou(confusion) for confusion in confusions)
    lost = 100 * (exact_iou - found_iou)
    return Loss(
        points=round(float(lost[occurring].mean()), 2),
        changed=round(changed / len(pairs), 5),
        iou={name: round(float(lost[index]), 2) for index, name in enumerate(labelled.table.names) if occurring[index]},
        frames=len(pairs),
    )


def _iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """K: the intersection over the union of each class; 0 where a class neither occurs nor is predicted."""
    hits = np.diagonal(confusion).astype(np.float64)
    union = confusion.sum(1) + confusion[:, : len(confusion)].sum(0) - hits
    return np.asarray(hits / np.maximum(union, 1), np.float64)


def check_loss(loss: Loss, labelled: Labelled, quantisation: Quantisation | None, frames: list[NDArray[np.uint8]]) -> None:
    """Refuse a loss that is too large, naming the layer that costs most.

    Takes:
        quantisation: of an int8 graph; None for other precisions, whose layers are not tried one by one
        frames: calibration frames
    Raises:
        ParityError: if it is too large
    """
    if loss.points <= labelled.max_loss:
        return
    reason = f"{describe(loss, labelled.name)}; at most {labelled.max_loss} points may be lost (--max-loss)"
    if quantisation is not None:
        layer, share = costliest(quantisation, frames)
        reason += f". The layer that costs most is {layer}: alone in int8 it changes {share:.2%} of the score cells"
    raise ParityError(reason)


def costliest(quantisation: Quantisation, frames: list[NDArray[np.uint8]]) -> tuple[str, float]:
    """Quantise one layer after the other, and count the score cells whose winner changes.

    Takes:
        frames: the first few are used
    Gives:
        the layer that changes most, and the share of its cells
    """
    few = frames[:MOST_FRAMES]
    exact = _winners(quantisation.maps.model.SerializeToString(), few)
    shares = {
        name: float(np.mean([(a != b).mean() for a, b in zip(exact, _winners(model.SerializeToString(), few), strict=True)]))
        for name, model in quantisation.alone()
    }
    worst = max(shares, key=lambda name: shares[name])
    return worst, shares[worst]


def _winners(model: bytes, frames: list[NDArray[np.uint8]]) -> list[NDArray[np.intp]]:
    """The class of every score cell."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return [session.run([OUTPUT], {INPUT: frame})[0].argmax(1) for frame in frames]


def describe(loss: Loss, split: str) -> str:
    """Say a loss in one line."""
    worst = max(loss.iou, key=lambda name: loss.iou[name])
    return (
        f"{split}, {loss.frames} frames: {loss.points:+.2f} points of mean IoU lost against float32 (most in {worst}, "
        f"{loss.iou[worst]:+.2f}), {loss.changed:.2%} of the pixels changed"
    )
