"""``python -m models.calibrate CHECKPOINT|ARTIFACT``: fit the temperature that makes probabilities mean what they say.

Every other frame of a folder fits it, the rest judge it. The network must not have been trained on the folder, since it is
surer of such frames. The result goes into the checkpoint, and by ``models.export`` into the artifact's manifest; or into the
manifest and the card of an artifact, whose graph stays as it is. Where a network was trained on all frames, ``--by`` names one
of the same recipe that was not: its scores fit the temperature.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from models.evaluate import Predict, predictor_of
from models.exporting import artifact
from models.training import checkpoint
from models.training.calibration import CalibrationError, fit_temperature
from models.training.classes import TABLES, ClassTable, ClassTableError
from models.training.data import DataError, frame_pairs, read_labels, split_of
from models.training.losses import IGNORED
from service.errors import ServiceError
from service.pipeline import onnx_file
from service.pipeline.manifest import Calibration, Manifest, read_manifest
from service.pipeline.tasks.semantic import confidence_map

CELLS_A_FRAME = 2000
"""Score cells that a frame contributes to the fit; neighbouring ones tell little more."""


def calibrate(predict: Predict, folder: Path, table: ClassTable, split: str) -> Calibration:
    """Fit a temperature on the even frames of a folder; measure the calibration error on the odd ones, before and after.

    Takes:
        split: the folder's name in the manifest
    Raises:
        DataError: if the folder can't be used, or has fewer than two frames
    """
    pairs = frame_pairs(folder)
    if len(pairs) < 2:
        raise DataError(f"{folder}: one frame can't both fit and judge; at least two are needed")
    rng = np.random.default_rng(0)
    fitting: list[NDArray[np.float32]] = []
    wanted: list[NDArray[np.uint8]] = []
    judged: list[tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.uint8]]] = []
    for index, (image, label) in enumerate(track(pairs, description=split, console=Console(stderr=True))):
        found, truth = predict(image), read_labels(label, table)
        if found.scores is None:
            raise DataError("a service does not tell its scores; give its checkpoint or artifact")
        if index % 2:
            judged.append((found.scores, found.labels, truth))
            continue
        _, h, w = found.scores.shape
        rows = ((np.arange(h) + 0.5) * (truth.shape[0] / h)).astype(np.intp)
        columns = ((np.arange(w) + 0.5) * (truth.shape[1] / w)).astype(np.intp)
        at_cells = truth[np.ix_(rows, columns)].ravel()
        labelled = np.flatnonzero(at_cells != IGNORED)
        chosen = rng.choice(labelled, min(CELLS_A_FRAME, len(labelled)), replace=False)
        fitting.append(found.scores.reshape(len(found.scores), -1)[:, chosen].T)
        wanted.append(at_cells[chosen])
    temperature = fit_temperature(torch.from_numpy(np.concatenate(fitting)), torch.from_numpy(np.concatenate(wanted)).long())
    errors = {1.0: CalibrationError(), temperature: CalibrationError()}
    for plane, labels, truth in judged:
        known = truth != IGNORED
        right = (labels == truth)[known]
        for divisor, error in errors.items():
            error.add(confidence_map(plane, labels, divisor)[known] / 255, right)
    return Calibration(
        temperature=temperature,
        fitted_on=split,
        ece_before=round(errors[1.0].value(), 4),
        ece_after=round(errors[temperature].value(), 4),
        reliability_before=errors[1.0].bins(),
        reliability_after=errors[temperature].bins(),
    )


def _table_of(model: Path) -> ClassTable:
    """Return the class table of a checkpoint or of an artifact."""
    if model.suffix != ".onnx":
        return checkpoint.class_table(checkpoint.load(model))
    names = tuple(row.name for row in _manifest_of(model).classes)
    found = next((known for known in TABLES.values() if known.names == names), None)
    if found is None:
        raise ClassTableError(f"{model}: no class table has the classes {', '.join(names)}; calibrate its checkpoint")
    return found


def _manifest_of(file: Path) -> Manifest:
    return read_manifest(onnx_file.outline(file).metadata, source=file.name)


def _write_checkpoint(file: Path, found: Calibration) -> None:
    kept = {key: value for key, value in checkpoint.load(file).items() if key != "format"}
    checkpoint.save(file, {**kept, "calibration": found.model_dump()})


def _write_artifact(file: Path, found: Calibration) -> None:
    """Write a calibration into an artifact and its card; the manifest becomes one of the newest schema."""
    artifact.rewrite(file, _manifest_of(file).model_copy(update={"calibration": found}))


def main(arguments: list[str] | None = None) -> int:
    """Calibrate; give the exit status."""
    parser = argparse.ArgumentParser(prog="python -m models.calibrate", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path, help="checkpoint (.pt) or artifact (.onnx); the temperature is written into it")
    parser.add_argument(
        "--by", type=Path, metavar="MODEL", help="checkpoint or artifact whose scores fit the temperature; the model itself"
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FOLDER", help="images/ and labels/ that were not trained on"
    )
    parser.add_argument("--split", metavar="NAME", help="the folder's name in the manifest; its last two parts where absent")
    args = parser.parse_args(arguments)
    console = Console(stderr=True, soft_wrap=True)
    try:
        is_artifact = args.model.suffix == ".onnx"
        table = _table_of(args.model)
        split = args.split or split_of(args.data)
        with ExitStack() as resources:
            predict = predictor_of(str(args.by or args.model), table, resources)
            found = calibrate(predict, args.data, table, split)
        (_write_artifact if is_artifact else _write_checkpoint)(args.model, found)
    except (ServiceError, DataError, ClassTableError, checkpoint.CheckpointError, ValueError, OSError) as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return 2
    print(
        f"temperature {found.temperature:g}, fitted on {split}; expected calibration error {found.ece_before:.4f} before, "
        f"{found.ece_after:.4f} after"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
