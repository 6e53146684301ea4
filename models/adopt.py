"""``python -m models.adopt``: from a segmentation network from elsewhere, an ONNX file, to an artifact that the service serves.

The network takes float N x 3 x H x W or N x H x W x 3 pixels that its users normalise (or N x C x D x H x W voxels), and gives
scores, probabilities, independent sigmoids or labels. The artifact takes the service's input and gives float32 ``scores``: the
normalisation and the layout move into the graph, the manifest into the file; the network in between stays as it is. The new
file runs beside the old one first: where they disagree, no artifact is written.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import get_args

from rich.console import Console

from models.exporting.adoption import Behaviour, Label, Told, adopt
from models.exporting.foreign import AdoptionError, Foreign, Normalisation, Order, Place
from models.exporting.parity import ParityError
from models.exporting.wrapping import Answer
from models.training.classes import TABLES, ClassTableError, table
from service.errors import BadArtifact, InferenceFailed
from service.pipeline import onnx_file
from service.pipeline.manifest import InputPolicy, Manifest, Percentiles, Training


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m models.adopt", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("network", type=Path, metavar="FILE.onnx", help="a segmentation network; `fcn-serve check` explains it")
    tables = f"{', '.join(TABLES)}, or a JSON file (docs/adopt.md)"
    parser.add_argument("--classes", required=True, metavar="TABLE", help=f"what its score planes mean: {tables}")
    parser.add_argument("--mean", type=_numbers, required=True, metavar="R,G,B", help="taken off the scaled pixels")
    parser.add_argument("--std", type=_numbers, required=True, metavar="R,G,B", help="what the difference is divided by")
    parser.add_argument("--scale", type=float, help="what pixels of 0..255 are divided by first (default: 255; 1 for volumes)")
    parser.add_argument("--order", choices=get_args(Order), default="rgb", help="of three colour channels (default: rgb)")
    parser.add_argument(
        "--input-size", type=_sides, metavar="HxW", help="at which it was trained; needed where its graph has none"
    )
    parser.add_argument("--output", metavar="NAME", help="its scores or labels; needed where more than one output could be")
    parser.add_argument(
        "--answer", choices=get_args(Answer), help="the form of that output; needed where its numbers leave a doubt"
    )
    parser.add_argument(
        "--class-axis",
        choices=get_args(Place),
        help="of that output: behind the batch, or last; needed where both are possible",
    )
    parser.add_argument(
        "--intensity", type=_percentiles, metavar="LOW,HIGH", help="volumes: percentiles of the scan that become 0 and 1"
    )
    parser.add_argument(
        "--orientation",
        type=_orientation,
        metavar="RAS",
        help="volumes: where the axes of those that it was trained on point (default: any)",
    )
    parser.add_argument("--spacing", type=_millimetres, metavar="X,Y,Z", help="volumes: the voxels of these, mm (default: any)")
    parser.add_argument("--name", required=True, help="the model's name in the service")
    parser.add_argument("--version", default="1.0.0")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.onnx")
    parser.add_argument("--description", default="")
    parser.add_argument("--data-name", default="unnamed", help="what it was trained on")
    parser.add_argument("--licence", default="unknown", help="of that data")
    parser.add_argument("--notes", default="", help="how it was trained")
    return parser.parse_args(arguments)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(word) for word in text.split(","))
    except ValueError:
        found = ()
    if len(found) not in (1, 3):
        raise argparse.ArgumentTypeError(
            f"{text!r}: three numbers are needed, as in 0.485,0.456,0.406, or one for all channels"
        )
    return found


def _sides(text: str) -> tuple[int, ...]:
    words = text.lower().split("x")
    try:
        depth = {"working_depth": words[0], "dimensions": 3, "channels": 1} if len(words) == 3 else {}
        return InputPolicy.model_validate({"working_size": tuple(words[-2:]) if len(words) in (2, 3) else (), **depth}).sides
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected HEIGHTxWIDTH, e.g. 360x480, or three sides of a volume, not {text!r}"
        ) from error


def _percentiles(text: str) -> Percentiles:
    lower, _, upper = text.partition(",")
    try:
        return Percentiles.model_validate({"lower": lower, "upper": upper, "scope": "volume"})
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected two percentiles, e.g. 0.5,99.5, not {text!r}") from error


def _orientation(text: str) -> str:
    try:
        policy = {"working_size": (8, 8), "working_depth": 8, "dimensions": 3, "channels": 1, "orientation": text.upper()}
        InputPolicy.model_validate(policy)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a letter for each axis, e.g. RAS or LPS, not {text!r}") from error
    return text.upper()


def _millimetres(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(word) for word in text.split(","))
    except ValueError:
        found = ()
    if len(found) != 3 or not all(0 < step < 100 for step in found):
        raise argparse.ArgumentTypeError(f"expected the sides of a voxel in mm, e.g. 1,1,1.5, not {text!r}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Adopt; gives the exit status."""
    args = parse(arguments)
    try:
        classes = table(args.classes)
        foreign = Foreign(args.network, Normalisation(args.mean, args.std, args.scale, args.order), args.output)
        training = Training(data=args.data_name, licence=args.licence, notes=args.notes)
        label = Label(args.name, args.version, args.description, training)
        manifest, behaviour = adopt(
            foreign,
            classes,
            args.out,
            label,
            Told(args.input_size, args.answer, args.class_axis, args.intensity, args.orientation, args.spacing),
        )
    except (AdoptionError, ParityError, ClassTableError, BadArtifact, InferenceFailed, OSError) as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(str(error), style="red", markup=False)
        return 2
    Console(soft_wrap=True, highlight=False).print("\n".join(_report(manifest, behaviour, args.out)), markup=False)
    return 0


def _report(manifest: Manifest, behaviour: Behaviour, out: Path) -> list[str]:
    """The lines that tell what was found and written."""
    parity, policy = manifest.parity, manifest.input
    assert parity is not None  # noqa: S101  # adopt() measured it
    shapes = ", ".join("x".join(map(str, shape)) for shape in parity.shapes)
    batches = "any batch" if behaviour.batches else "one image at a time"
    difference = f"at most {parity.max_score_difference:.1e} (mean {parity.mean_score_difference:.1e})"
    lines = [
        f"takes {policy.fit} of {' x '.join(map(str, policy.sides))}, sides multiples of {policy.multiple}, {batches}",
        f"gives {behaviour.answer} of {len(manifest.classes)} classes at stride {manifest.stride}",
    ]
    if behaviour.planes is not None and len(manifest.classes) > behaviour.planes:
        lines.append(f"class 0, {manifest.classes[0].name}, is where no class of the network reaches a probability of 0.5")
    return [
        *lines,
        f"scores differ by {difference}, winners agree on {parity.argmax_agreement:.4%} of the cells; N x H x W: {shapes}",
        f"wrote {out} ({onnx_file.read(out).size_bytes / 1e6:.3g} MB); `fcn-serve check {shlex.quote(str(out))}` explains it",
    ]


if __name__ == "__main__":
    sys.exit(main())
