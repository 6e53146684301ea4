"""``python -m models.export``: from a checkpoint to the one file that the service serves.

The artifact takes uint8 N x H x W x 3 RGB named ``image`` (the normalisation is in the graph) and gives float32
N x K x H/stride x W/stride named ``scores``; batch, height and width are free. Its manifest is inside. ONNX Runtime and PyTorch
run the same inputs over several shapes and batch sizes first: where they disagree, no artifact is written.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from models.arguments import size_argument
from models.exporting import artifact, loss
from models.exporting.card import write_card
from models.exporting.exporter import Evidence, export
from models.exporting.loss import Labelled
from models.exporting.parity import TOLERANCES, ParityError, describe
from models.exporting.precision import calibration_frames
from models.exporting.receptive_field import measure_reach
from models.exporting.source import Source, load_source
from models.nets.architectures import ARCHITECTURES, FOR_SCANS, architecture
from models.reach import FRAMES, measure
from models.training import checkpoint
from models.training.classes import TABLES
from models.training.data import DataError, split_of, spread_images
from service.errors import ServiceError
from service.pipeline import onnx_file
from service.pipeline.engine import Engine
from service.pipeline.manifest import InputPolicy, Loss, Manifest, Output, Reduced, SplitScores, read_manifest


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m models.export", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "architecture", choices=sorted(ARCHITECTURES | FOR_SCANS), metavar="ARCH", help=", ".join(ARCHITECTURES | FOR_SCANS)
    )
    parser.add_argument(
        "--weights", type=Path, required=True, metavar="FILE", help="checkpoint of models.train, or published weights"
    )
    parser.add_argument(
        "--classes", metavar="TABLE", help=f"{', '.join(TABLES)} or a JSON file; a checkpoint of ours knows its own"
    )
    parser.add_argument("--input-size", type=size_argument, metavar="HxW", help="working size in the place of the weights' own")
    parser.add_argument("--slice-step", type=int, metavar="N", help="of a network of slices: run every N-th slice of a plane")
    parser.add_argument("--name", required=True, help="the model's name in the service")
    parser.add_argument("--version", default="1.0.0")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.onnx")
    parser.add_argument(
        "--scores", action="append", default=[], metavar="SPLIT=FILE.json", help="scores written by models.evaluate --json"
    )
    parser.add_argument("--precision", choices=sorted(TOLERANCES), default="fp32", help="int8 for CPUs, fp16 for CUDA")
    parser.add_argument("--calibrate", type=Path, metavar="FOLDER", help="frames that int8 takes its ranges from")
    parser.add_argument(
        "--labelled",
        action="append",
        default=[],
        metavar="[SPLIT=]FOLDER",
        help="images/ and labels/ on which the loss of int8 or fp16 is measured; may be given several times",
    )
    parser.add_argument(
        "--max-loss", type=float, default=0.5, metavar="POINTS", help="of mean IoU there, beyond which nothing is written"
    )
    parser.add_argument(
        "--losses-of",
        type=Path,
        metavar="FILE.onnx",
        help="artifact of the same recipe whose losses are quoted, split by split",
    )
    parser.add_argument("--float32", metavar="NAME", help="the float32 model of these weights (default: NAME without -int8)")
    parser.add_argument(
        "--reach", type=Path, metavar="FOLDER", help="images/: real frames on which the effective halo is measured"
    )
    parser.add_argument("--description", default="")
    parser.add_argument("--data-name", help="what it was trained on, in the place of what the checkpoint says")
    parser.add_argument("--licence", help="of that data, likewise")
    parser.add_argument("--notes", help="how it was trained, likewise")
    args = parser.parse_args(arguments)
    if (args.precision == "int8") != (args.calibrate is not None):
        parser.error("--precision int8 needs frames to take its ranges from, --calibrate FOLDER; nothing else does")
    if args.precision == "fp32" and (args.labelled or args.losses_of or args.float32):
        parser.error("--labelled, --losses-of and --float32 are for a lower precision; say --precision int8 or fp16")
    return args


def main(arguments: list[str] | None = None) -> int:
    """Export; gives the exit status."""
    args = parse(arguments)
    console = Console()
    errors = Console(stderr=True, soft_wrap=True)
    try:
        source = load_source(args.architecture, args.weights, args.classes)
        frames = calibration_frames(args.calibrate, source.policy) if args.calibrate else []
        manifest = build_manifest(args, source, len(frames))
        labelled = [_labelled(text, source, args.max_loss) for text in args.labelled]
        console.print(f"{args.architecture}: tracing and comparing with PyTorch …")
        manifest = export(source.net, manifest, args.out, Evidence(frames, labelled))
        if args.reach is not None:
            reach = measure(Engine.open(args.out), list(spread_images(args.reach, FRAMES)), split_of(args.reach))
            manifest = manifest.model_copy(update={"effective": reach})
            artifact.rewrite(args.out, manifest)
    except (checkpoint.CheckpointError, ParityError, ServiceError, DataError, ValueError, OSError) as error:
        errors.print(str(error), style="red", markup=False, highlight=False)
        return 2
    card = args.out.with_suffix(".md")
    write_card(manifest, args.out, card)
    if manifest.parity:
        console.print(describe(manifest.parity))
    for split, found in (manifest.reduced.losses if manifest.reduced else {}).items():
        console.print(loss.describe(found, split), highlight=False)
    console.print(f"stride {manifest.stride}, receptive field {manifest.receptive_field}, halo {manifest.halo} pixels")
    if manifest.effective:
        console.print(
            f"effective halo {manifest.effective.halo} pixels, {manifest.effective.disagreement:.4%} of the labels differ"
        )
    console.print(f"wrote {args.out} ({onnx_file.read(args.out).size_bytes / 1e6:.1f} MB) and {card}")
    return 0


def _labelled(text: str, source: Source, max_loss: float) -> Labelled:
    """Read ``[SPLIT=]FOLDER``."""
    split, named, folder = text.rpartition("=")
    path = Path(folder)
    return Labelled(split if named else path.resolve().name, path, source.table, max_loss)


def build_manifest(args: argparse.Namespace, source: Source, frames: int = 0) -> Manifest:
    """Fill the manifest of an artifact to be, but for its parity report and its losses.

    Takes:
        frames: calibration frames
    Raises:
        ValueError: if a score file can't be read, or a field makes no sense
    """
    splits = dict(source.scores)
    for item in args.scores:
        split, _, file = item.partition("=")
        splits[split] = SplitScores.model_validate(json.loads(Path(file).read_text()))
    net = source.net
    reach = measure_reach(net)
    told = {"data": args.data_name, "licence": args.licence, "notes": args.notes}
    outputs = [{"name": name, "kind": name, "stride": stride} for name, stride in zip(net.outputs, reach.strides, strict=True)]
    return Manifest(
        name=args.name,
        version=args.version,
        task="panoptic" if "centers" in net.outputs else "semantic-segmentation",
        architecture=args.architecture,
        description=args.description,
        classes=source.table.entries,
        input=_policy(args, source),
        stride=reach.strides[0],
        outputs=tuple(map(Output.model_validate, outputs)),
        receptive_field=reach.receptive_field,
        halo=reach.halo,
        training=source.training.model_copy(update={name: text for name, text in told.items() if text is not None}),
        scores=splits,
        calibration=source.calibration,
        precision=args.precision,
        reduced=None if args.precision == "fp32" else _reduced(args, frames),
    )


def _policy(args: argparse.Namespace, source: Source) -> InputPolicy:
    """The input that the weights were trained for, changed as the command line says."""
    policy = architecture(args.architecture).policy(args.input_size) if args.input_size else source.policy
    if args.slice_step is None:
        return policy
    return InputPolicy.model_validate({**policy.model_dump(), "slice_step": args.slice_step})


def _reduced(args: argparse.Namespace, frames: int) -> Reduced:
    """How the lower precision is made; losses that are measured here are added later."""
    losses: dict[str, Loss] = {}
    if args.losses_of is not None:
        quoted = read_manifest(onnx_file.outline(args.losses_of).metadata, source=args.losses_of.name)
        losses = dict(quoted.reduced.losses) if quoted.reduced else {}
        if not losses:
            raise ValueError(f"--losses-of {args.losses_of}: it has no losses; export it with --labelled")
        beyond = [split for split, found in losses.items() if found.points > args.max_loss]
        if beyond:
            raise ValueError(f"--losses-of {args.losses_of}: it loses more than {args.max_loss} points on {', '.join(beyond)}")
    return Reduced(
        float32=args.float32 or args.name.removesuffix(f"-{args.precision}"),
        calibrated_on=split_of(args.calibrate) if args.calibrate else "",
        frames=frames,
        losses=losses,
    )


if __name__ == "__main__":
    sys.exit(main())
