"""``python -m models.evaluate ARTIFACT|CHECKPOINT|URL``: score a model on a folder of frames and labels.

- an artifact (``.onnx``) runs through the service's own pipeline: what is scored is what is served;
- a URL goes through ``POST /segment`` of a running service, the file's bytes as they are;
- a checkpoint (``.pt``) runs in PyTorch, resized, upsampled and grouped by the service's code.

A folder of scans (``images/*.nii.gz``) is scored by Dice, IoU, HD95 and volume error: see ``models.training.scan_scores``.

A model that tells objects apart is also scored on them: against the folder's ``objects/``, or where there is none against the
components of its labels that are clearly single things (``models.training.objects``); the other things are a crowd.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from models.exporting.receptive_field import measure_reach
from models.training import checkpoint
from models.training.average_precision import AveragePrecision
from models.training.calibration import CalibrationError, draw_reliability
from models.training.classes import CAMVID, TABLES, ClassTable
from models.training.classes import table as class_table
from models.training.data import DataError, evenly_spread, frame_pairs, objects_of, read_image, read_labels, read_picture
from models.training.losses import IGNORED
from models.training.metrics import confusion_matrix, scores
from models.training.panoptic_quality import PanopticQuality
from models.training.scan_scores import PredictScan, ScanScores, evaluate_scans, is_of_scans
from models.training.segments import found_segments, true_segments
from service.client import Client, Mask
from service.encodings import color
from service.errors import ServiceError
from service.pipeline.codecs import nifti
from service.pipeline.codecs.decoding import Limits
from service.pipeline.manifest import Calibration, Manifest, ObjectScores, ReliabilityBin, SplitScores, Training
from service.pipeline.plan import fit_size
from service.pipeline.predictor import Predictor
from service.pipeline.repository import Repository
from service.pipeline.tasks.panoptic import Instance, Instances, group
from service.pipeline.tasks.semantic import confidence_map, label_map
from service.pipeline.tasks.volume import segment as segment_scan
from service.process import configure_process


@dataclass(frozen=True, eq=False)
class Prediction:
    """A model's result for an image."""

    labels: NDArray[np.uint8]
    """H x W class ids."""
    scores: NDArray[np.float32] | None = None
    """K x h x w; None where only a service knows them."""
    instances: Instances | None = None
    """None if the model does not tell objects apart."""
    temperature: float = 1.0
    """The temperature: scores are divided by it before they become probabilities."""
    image: NDArray[np.uint8] | None = None
    """H x W x 3: the image as people see it; None where only a service has decoded it."""


Predict = Callable[[Path], Prediction]
"""An image file to what a model says of it, at its upright size."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model on a folder."""

    scores: SplitScores
    error_before: float | None = None
    """Expected calibration error at temperature 1; None where there are no scores to tell."""
    error_after: float | None = None
    """The same of the probabilities as they are served."""
    reliability_before: tuple[ReliabilityBin, ...] = ()
    """The reliability diagram at temperature 1; empty where there are no scores to tell."""
    reliability_after: tuple[ReliabilityBin, ...] = ()
    """The same of the probabilities as they are served."""


def predictor_of(model: str, table: ClassTable, resources: ExitStack) -> Predict:
    """Make the function by which a model predicts.

    Takes:
        model: a URL, or the path of an artifact or of a checkpoint
        resources: closes what is opened here
    Raises:
        ServiceError: if an artifact or a service can't be used
        CheckpointError: if a checkpoint can't be used
        ValueError: if there is no such file, or the model's classes are not the table's
    """
    if model.startswith(("http://", "https://")):
        return _of_service(model, table, resources)
    path = Path(model)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    return _of_artifact(path, table, resources) if path.suffix == ".onnx" else _of_checkpoint(path, table)


def _of_service(url: str, table: ClassTable, resources: ExitStack) -> Predict:
    client = resources.enter_context(Client(url))
    catalogue = client.models()
    served = next(offered for offered in catalogue.models if offered.name == catalogue.default)
    _check_classes(tuple(entry.name for entry in served.classes), table, url)

    def predict(path: Path) -> Prediction:
        plain = client.segment(path)
        if not table.things:
            return Prediction(plain.labels)
        things = client.segment(path, instances=True)
        return Prediction(plain.labels, instances=_learned(things))  # an object gives its class to all of its pixels

    return predict


def scan_predictor_of(model: str, table: ClassTable, resources: ExitStack) -> PredictScan:
    """Make the function by which a model for scans predicts; takes and raises as :func:`predictor_of`."""
    if model.startswith(("http://", "https://")):
        client = resources.enter_context(Client(model))
        offered = client.models().models

        def ask(path: Path) -> NDArray[np.uint8]:
            volume = client.segment_volume(path)
            served = next(one for one in offered if f"{one.name}@{one.version}" == volume.model)
            _check_classes(tuple(entry.name for entry in served.classes), table, model)
            return volume.labels

        return ask
    path = Path(model)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if path.suffix == ".onnx":
        predictor = Predictor(Repository(path), Limits())
        resources.callback(predictor.close)
        manifest = predictor.repository.get().manifest
        _check_classes(tuple(entry.name for entry in manifest.classes), table, model)
        return lambda image: predictor.segment(image.read_bytes()).labels
    return _of_scan_checkpoint(path, table)


def _of_scan_checkpoint(path: Path, table: ClassTable) -> PredictScan:
    """PyTorch in the place of ONNX Runtime; everything else is the service's."""
    content = checkpoint.load(path)
    net = checkpoint.network(content)
    _check_classes(checkpoint.class_table(content).names, table, str(path))
    policy = checkpoint.input_policy(content)
    reach = measure_reach(net)
    manifest = Manifest(
        name="checkpoint",
        version="0",
        architecture=content["architecture"],
        classes=table.entries,
        input=policy,
        stride=1,
        receptive_field=reach.receptive_field,
        halo=reach.halo,
        training=Training(data="", licence=""),
    )
    limits = Limits()

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            scored: NDArray[np.float32] = net(torch.from_numpy(batch).movedim(-1, 1)).numpy()
        return scored

    return lambda image: (
        segment_scan(nifti.read(image.read_bytes(), limits), manifest, run, max_voxels=limits.max_voxels).labels
    )


def _learned(mask: Mask) -> Instances | None:
    """The learned objects of a reply; None if its things are components, or there are none."""
    things = sorted((thing for thing in mask.instances if thing.score is not None), key=lambda thing: -(thing.score or 0))
    if not things:
        return None
    ids = np.zeros(mask.labels.shape, np.uint16)
    for number, thing in enumerate(things, start=1):
        ids[thing.mask] = number
    rows = (Instance(number, thing.id, thing.score or 0, thing.pixels) for number, thing in enumerate(things, start=1))
    return Instances(ids, tuple(rows))


def _of_artifact(path: Path, table: ClassTable, resources: ExitStack) -> Predict:
    predictor = Predictor(Repository(path), Limits())
    resources.callback(predictor.close)
    manifest = predictor.repository.get().manifest
    _check_classes(tuple(entry.name for entry in manifest.classes), table, str(path))
    temperature = manifest.calibration.temperature if manifest.calibration else 1.0

    def predict(image: Path) -> Prediction:
        found = predictor.segment(image.read_bytes(), instances=manifest.learns_instances)
        instances = found.instances() if manifest.learns_instances else None
        return Prediction(found.labels, found.scores, instances, temperature, found.image)

    return predict


def _of_checkpoint(path: Path, table: ClassTable) -> Predict:
    content = checkpoint.load(path)
    net = checkpoint.network(content)
    _check_classes(checkpoint.class_table(content).names, table, str(path))
    policy = checkpoint.input_policy(content)
    told = content.get("calibration")
    temperature = Calibration.model_validate(told).temperature if told else 1.0

    def predict(image_path: Path) -> Prediction:
        picture = read_picture(image_path, policy)
        size = picture.size
        fitted = torch.from_numpy(picture.fitted(fit_size(*size, policy))).permute(2, 0, 1)[None].float()
        with torch.no_grad():
            answer = net(fitted)
        if len(net.outputs) == 1:
            scored = answer[0].numpy()
            return Prediction(label_map(scored, size), scored, temperature=temperature, image=picture.image)
        scored, centers, offsets = (output[0].numpy() for output in answer)
        labels = label_map(scored, size)
        found = group(labels, scored, centers, offsets, stride=net.stride, countable=table.things)
        return Prediction(labels, scored, found, temperature, picture.image)

    return predict


def _check_classes(found: tuple[str, ...], table: ClassTable, model: str) -> None:
    if found != table.names:
        raise ValueError(f"{model} has the classes {', '.join(found)}; '{table.name}' has {', '.join(table.names)}")


def components(labels: NDArray[np.uint8], things: tuple[int, ...]) -> Instances:
    """Take each connected component of a countable class for an object: what objects are without a network that learned them.

    Takes:
        labels: H x W uint8 class ids
        things: ids of the countable classes
    """
    ids = np.zeros(labels.shape, np.uint16)
    rows: list[Instance] = []
    for k in things:
        count, found, statistics, _ = cv2.connectedComponentsWithStats((labels == k).astype(np.uint8), connectivity=8)
        ids[found > 0] = found[found > 0] + len(rows)
        areas = statistics[1:count, cv2.CC_STAT_AREA].tolist()
        rows += [Instance(len(rows) + 1 + index, k, 1.0, area) for index, area in enumerate(areas)]
    return Instances(ids, tuple(rows))


def evaluate(
    predict: Predict,
    folder: Path,
    table: ClassTable,
    *,
    picture: Path | None = None,
    shown: int = 4,
    by_components: bool = False,
    occurring: bool = False,
) -> Evaluation:
    """Score every frame of a folder, unlabelled pixels left out.

    Takes:
        picture: where to draw ``shown`` frames, evenly spread, each beside its truth and its prediction
        by_components: whether connected components stand for the objects, for comparison
        occurring: whether only classes that occur in the labels count, as where labels hold some classes only
    Raises:
        DataError: if the folder can't be used
        ValueError: if a prediction has not the size of its image
    """
    pairs = frame_pairs(folder)
    drawn = set(evenly_spread(len(pairs), shown))
    confusion = np.zeros((len(table.entries), len(table.entries) + 1), np.int64)
    before, after = CalibrationError(), CalibrationError()
    quality, precision = PanopticQuality(len(table.entries)), AveragePrecision(table.things)
    probable = countable = True
    rows = []
    for index, (image_path, label_path) in enumerate(track(pairs, description=folder.name, console=Console(stderr=True))):
        truth, found = read_labels(label_path, table), predict(image_path)
        if found.labels.shape != truth.shape:
            raise ValueError(f"{image_path}: a prediction of {found.labels.shape} for labels of {truth.shape}")
        confusion += confusion_matrix(truth, found.labels, len(table.entries))
        probable &= found.scores is not None
        if found.scores is not None:
            known, right = truth != IGNORED, found.labels == truth
            for error, temperature in ((before, 1.0), (after, found.temperature)):
                probability = confidence_map(found.scores, found.labels, temperature) / 255
                error.add(probability[known], right[known])
        instances = components(found.labels, table.things) if by_components else found.instances
        countable &= instances is not None
        if instances is not None:
            wanted = true_segments(truth, objects_of(folder, image_path.stem, truth, table), table.things)
            given = found_segments(found.labels, instances, table.things)
            quality.add(wanted, given)
            precision.add(wanted, given)
        if index in drawn:
            seen = read_image(image_path) if found.image is None else found.image
            rows.append(_row(seen, truth, found.labels, table))
    if picture is not None:
        narrowest = min(row.shape[1] for row in rows)
        Image.fromarray(np.vstack([row[:, :narrowest] for row in rows])).save(picture)
    found_scores = scores(confusion, table.names, frames=len(pairs), occurring=occurring)
    if countable:
        objects = _object_scores(table, quality, precision)
        kept = {name: scored for name, scored in objects.items() if found_scores.iou[name] is not None}
        found_scores = found_scores.model_copy(update={"objects": kept})
    if not probable:
        return Evaluation(found_scores)
    return Evaluation(found_scores, before.value(), after.value(), before.bins(), after.bins())


def _object_scores(table: ClassTable, quality: PanopticQuality, precision: AveragePrecision) -> dict[str, ObjectScores]:
    """By class name; classes that neither occur nor are found are left out."""
    by_name = {}
    for entry in table.entries:
        counted = quality.of_class(entry.id)
        if counted is not None:
            averaged = precision.of_class(entry.id) if entry.countable else None
            by_name[entry.name] = ObjectScores(
                pq=round(counted.pq, 4),
                sq=round(counted.sq, 4),
                rq=round(counted.rq, 4),
                ap=None if averaged is None else round(averaged.ap, 4),
                ap50=None if averaged is None else round(averaged.ap50, 4),
            )
    return by_name


def _row(
    image: NDArray[np.uint8], truth: NDArray[np.uint8], prediction: NDArray[np.uint8], table: ClassTable
) -> NDArray[np.uint8]:
    """Put image, truth and prediction side by side, H x 3W x 3; pixels without truth are black in both."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(table.entries)] = [entry.color for entry in table.entries]
    masked = np.where(truth == IGNORED, np.uint8(IGNORED), prediction)
    return np.hstack([image, color.colorize(truth, palette), color.colorize(masked, palette)])


def print_scores(found: Evaluation, console: Console) -> None:
    """Print every class, the four scores, and what is known of objects and probabilities."""
    scored, objects = found.scores, found.scores.objects
    columns = ("pq", "sq", "rq", "ap", "ap50") if objects else ()
    rows = Table("class", "IoU", *(column.upper() for column in columns))
    for name, value in scored.iou.items():
        of_class = objects.get(name)
        rows.add_row(name, _number(value), *(_number(getattr(of_class, column, None)) for column in columns))
    if objects:
        means = []
        for column in columns:
            values = [value for of_class in objects.values() if (value := getattr(of_class, column)) is not None]
            means.append(_number(float(np.mean(values)) if values else None))
        rows.add_row("mean", _number(scored.mean_iou), *means)
    console.print(rows)
    console.print(
        f"{scored.frames} frames: pixel accuracy {scored.pixel_accuracy:.4f}, mean class accuracy {scored.mean_accuracy:.4f}, "
        f"mean IoU {scored.mean_iou:.4f}, frequency-weighted IoU {scored.frequency_weighted_iou:.4f}",
        soft_wrap=True,
    )
    if found.error_before is not None and found.error_after is not None:
        console.print(f"expected calibration error {found.error_after:.4f}; {found.error_before:.4f} at temperature 1")
        console.print(_reliability(found))


def _reliability(found: Evaluation) -> Table:
    """The reliability diagrams in numbers: before, at temperature 1, and after, as served."""
    rows = Table("share of pixels", "probability", "right", "", "share of pixels", "probability", "right", title="reliability")
    for before, after in zip_longest(found.reliability_before, found.reliability_after):
        rows.add_row(*_cells(before), "", *_cells(after))
    return rows


def _cells(found: ReliabilityBin | None) -> tuple[str, str, str]:
    return ("", "", "") if found is None else (f"{found.share:.1%}", f"{found.probability:.3f}", f"{found.right:.3f}")


def print_scan_scores(found: ScanScores, console: Console) -> None:
    """Print every class of scans."""
    rows = Table("class", "Dice", "IoU", "HD95 (mm)", "volume error")
    for name, distance in found.hd95_mm.items():
        error = found.volume_error[name]
        told = ("-" if distance is None else f"{distance:.2f}", "-" if error is None else f"{100 * error:+.1f} %")
        rows.add_row(name, _number(found.scores.dice.get(name)), _number(found.scores.iou.get(name)), *told)
    console.print(rows)
    console.print(f"{found.scores.frames} scans")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m models.evaluate", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="artifact (.onnx), checkpoint (.pt) or address of a running service")
    parser.add_argument("--data", type=Path, default=Path("../shared/camvid/val"), help="folder of images/ and labels/")
    tables = f"{', '.join(TABLES)} or a JSON file"
    parser.add_argument("--classes", default=CAMVID.name, metavar="TABLE", help=f"class table of the labels: {tables}")
    parser.add_argument("--components", action="store_true", help="score connected components as objects, for comparison")
    parser.add_argument("--occurring", action="store_true", help="count only classes that occur in the labels")
    parser.add_argument("--last", type=int, default=0, metavar="N", help="of scans: the last N by name alone, as --hold-out")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw a few frames beside their truth")
    parser.add_argument("--reliability", type=Path, metavar="FILE.png", help="draw the reliability diagrams, before and after")
    parser.add_argument("--json", type=Path, metavar="FILE.json", help="write the scores, for models.export --scores")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Evaluate; give the exit status."""
    args = parse(arguments)
    configure_process()
    try:
        with ExitStack() as resources:
            table = class_table(args.classes)
            if is_of_scans(args.data):
                predict_scan = scan_predictor_of(args.model, table, resources)
                of_scans = evaluate_scans(predict_scan, args.data, table, last=args.last, picture=args.picture)
                print_scan_scores(of_scans, Console())
                _write(args.json, of_scans.scores)
                return 0
            predict = predictor_of(args.model, table, resources)
            found = evaluate(
                predict,
                args.data,
                table,
                picture=args.picture,
                by_components=args.components,
                occurring=args.occurring,
            )
    except (ServiceError, checkpoint.CheckpointError, DataError, ValueError, OSError) as error:
        Console(stderr=True, soft_wrap=True).print(str(error), style="red", markup=False, highlight=False)
        return 2
    print_scores(found, Console())
    if args.reliability and found.reliability_after:
        draw_reliability(found.reliability_before, found.reliability_after, args.reliability)
    _write(args.json, found.scores)
    return 0


def _write(path: Path | None, found: SplitScores) -> None:
    if path is not None:
        path.write_text(found.model_dump_json(indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
