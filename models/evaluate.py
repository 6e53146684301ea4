"""``python -m models.evaluate ARTIFACT|CHECKPOINT|URL``: score a model on a folder of frames and labels.

- an artifact (``.onnx``) runs through the service's own pipeline: what is scored is what is served;
- a URL goes through ``POST /segment`` of a running service, the file's bytes as they are;
- a checkpoint (``.pt``) runs in PyTorch, resized and upsampled by the service's code.

May import: torch, numpy, PIL, rich, ``service`` (client, pipeline, encodings), the rest of ``models``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from models.nets.architectures import ARCHITECTURES
from models.training import checkpoint
from models.training.classes import CAMVID, TABLES, ClassTable
from models.training.classes import table as class_table
from models.training.data import DataError, frame_pairs, read_image, read_labels
from models.training.losses import IGNORED
from models.training.metrics import confusion_matrix, scores
from service.client import Client
from service.encodings import color
from service.errors import ServiceError
from service.pipeline.codecs.decoding import Limits
from service.pipeline.manifest import SplitScores
from service.pipeline.plan import fit_size, resize_image
from service.pipeline.predictor import Predictor
from service.pipeline.repository import Repository
from service.pipeline.tasks.semantic import label_map

Predict = Callable[[Path], NDArray[np.uint8]]
"""An image file to H x W uint8 labels of its upright size."""


def predictor_of(model: str, table: ClassTable, resources: ExitStack) -> Predict:
    """How a model predicts.

    Takes:
        model: a URL, or the path of an artifact or of a checkpoint
        resources: closes what is opened here
    Raises:
        ServiceError: if an artifact or a service can't be used
        CheckpointError: if a checkpoint can't be used
        ValueError: if there is no such file, or the model's classes are not the table's
    """
    if model.startswith(("http://", "https://")):
        client = resources.enter_context(Client(model))
        catalogue = client.models()
        served = next(offered for offered in catalogue.models if offered.name == catalogue.default)
        _check_classes(tuple(entry.name for entry in served.classes), table, model)
        return lambda path: client.segment(path).labels
    path = Path(model)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if path.suffix == ".onnx":
        predictor = Predictor(Repository(path), Limits())
        resources.callback(predictor.close)
        _check_classes(tuple(entry.name for entry in predictor.repository.get().manifest.classes), table, model)
        return lambda image: predictor.segment(image.read_bytes()).labels
    content = checkpoint.load(path)
    net = checkpoint.network(content)
    _check_classes(checkpoint.class_table(content).names, table, model)
    policy = ARCHITECTURES[content["architecture"]].policy(tuple(content["working_size"]))

    def predict(image_path: Path) -> NDArray[np.uint8]:
        image = read_image(image_path)
        height, width, _ = image.shape
        fitted = resize_image(image, fit_size(height, width, policy))
        with torch.no_grad():
            scored = net.scores(torch.from_numpy(fitted).permute(2, 0, 1)[None].float())
        return label_map(scored[0].numpy(), (height, width))

    return predict


def _check_classes(found: tuple[str, ...], table: ClassTable, model: str) -> None:
    if found != table.names:
        raise ValueError(f"{model} has the classes {', '.join(found)}; '{table.name}' has {', '.join(table.names)}")


def evaluate(predict: Predict, folder: Path, table: ClassTable, *, picture: Path | None = None, shown: int = 4) -> SplitScores:
    """Score every frame of a folder, unlabelled pixels left out.

    Takes:
        picture: where to draw ``shown`` frames, evenly spread, each beside its truth and its prediction
    Raises:
        DataError: if the folder can't be used
        ValueError: if a prediction has not the size of its image
    """
    pairs = frame_pairs(folder)
    drawn = set(np.linspace(0, len(pairs) - 1, min(shown, len(pairs))).round().astype(int).tolist())
    confusion = np.zeros((len(table.entries), len(table.entries) + 1), np.int64)
    rows = []
    for index, (image_path, label_path) in enumerate(track(pairs, description=folder.name, console=Console(stderr=True))):
        truth, prediction = read_labels(label_path, table), predict(image_path)
        if prediction.shape != truth.shape:
            raise ValueError(f"{image_path}: a prediction of {prediction.shape} for labels of {truth.shape}")
        confusion += confusion_matrix(truth, prediction, len(table.entries))
        if index in drawn:
            rows.append(_row(read_image(image_path), truth, prediction, table))
    if picture is not None:
        narrowest = min(row.shape[1] for row in rows)
        Image.fromarray(np.vstack([row[:, :narrowest] for row in rows])).save(picture)
    return scores(confusion, table.names, frames=len(pairs))


def _row(
    image: NDArray[np.uint8], truth: NDArray[np.uint8], prediction: NDArray[np.uint8], table: ClassTable
) -> NDArray[np.uint8]:
    """Image, truth and prediction side by side, H x 3W x 3; pixels without truth are black in both."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(table.entries)] = [entry.color for entry in table.entries]
    masked = np.where(truth == IGNORED, np.uint8(IGNORED), prediction)
    return np.hstack([image, color.colorize(truth, palette), color.colorize(masked, palette)])


def print_scores(found: SplitScores, console: Console) -> None:
    """The four scores and every class."""
    rows = Table("class", "IoU")
    for name, value in found.iou.items():
        rows.add_row(name, "-" if value is None else f"{value:.4f}")
    console.print(rows)
    console.print(
        f"{found.frames} frames: pixel accuracy {found.pixel_accuracy:.4f}, mean class accuracy {found.mean_accuracy:.4f}, "
        f"mean IoU {found.mean_iou:.4f}, frequency-weighted IoU {found.frequency_weighted_iou:.4f}",
        soft_wrap=True,
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m models.evaluate", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="artifact (.onnx), checkpoint (.pt) or address of a running service")
    parser.add_argument("--data", type=Path, default=Path("../shared/camvid/val"), help="folder of images/ and labels/")
    tables = f"{', '.join(TABLES)} or a JSON file"
    parser.add_argument("--classes", default=CAMVID.name, metavar="TABLE", help=f"class table of the labels: {tables}")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw a few frames beside their truth")
    parser.add_argument("--json", type=Path, metavar="FILE.json", help="write the scores, for models.export --scores")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Evaluate; gives the exit status."""
    args = parse(arguments)
    try:
        with ExitStack() as resources:
            table = class_table(args.classes)
            predict = predictor_of(args.model, table, resources)
            found = evaluate(predict, args.data, table, picture=args.picture)
    except (ServiceError, checkpoint.CheckpointError, DataError, ValueError, OSError) as error:
        Console(stderr=True, soft_wrap=True).print(str(error), style="red", markup=False, highlight=False)
        return 2
    print_scores(found, Console())
    if args.json:
        args.json.write_text(found.model_dump_json(indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
