"""``python -m models.export``: from a checkpoint to the one file that the service serves.

The artifact takes uint8 N x H x W x 3 RGB named ``image`` (the normalisation is in the graph) and gives float32
N x K x H/stride x W/stride named ``scores``; batch, height and width are free. Its manifest is inside. Before anything is
written under the final name, ONNX Runtime and PyTorch run the same inputs over several shapes and batch sizes: where they
disagree, no artifact is written.

May import: torch, onnx, onnxruntime, numpy, rich, ``service.pipeline`` (manifest, geometry, onnx_file), the rest of
``models``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from rich.console import Console
from torch import Tensor, nn

from models.arguments import size_argument
from models.evaluate import evaluate, predictor_of
from models.exporting.artifact import is_large, move, write
from models.exporting.card import write_card
from models.exporting.folding import folded
from models.exporting.precision import calibration_frames, to_fp16, to_int8
from models.exporting.quiet import quiet
from models.exporting.receptive_field import measure_reach
from models.exporting.slicing import in_slices
from models.exporting.weights import load_weights, read_weights
from models.nets.architectures import ARCHITECTURES, build
from models.nets.network import Network
from models.nets.switches import replay, unpools, with_switches
from models.scenes import street_view
from models.training import checkpoint
from models.training.classes import TABLES, ClassTable, table
from service.pipeline import onnx_file
from service.pipeline.manifest import INPUT, OUTPUT, InputPolicy, Manifest, Parity, SplitScores, Training
from service.pipeline.plan import fit_size

OPSET = 20
SCORE_TOLERANCE = 1e-3
"""Largest difference of a score between ONNX Runtime and PyTorch, where no score is beyond :data:`USUAL_SCORE`."""
USUAL_SCORE = 10.0
"""Roundings grow with the scores: where the largest is beyond this, so many times more may differ. ResNet-101 with random
weights and scores of 55 was 1.2e-3 apart, 2e-5 of a score."""


class ParityError(Exception):
    """ONNX Runtime and PyTorch disagree; the message says on which input, at which score, by how much."""


class Served(nn.Module):
    """What is exported: the network behind the service's input layout."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        """N x H x W x 3 uint8 RGB to N x K x H/stride x W/stride float32."""
        return self.net(image.permute(0, 3, 1, 2).float())  # type: ignore[no-any-return]


def to_onnx(net: Network, multiple: int) -> onnx.ModelProto:
    """Trace a network into an ONNX graph with free batch, height and width.

    Takes:
        multiple: height and width are multiples of this
    """
    example = torch.zeros(2, multiple * 10, multiple * 12, 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=4096)
    height = torch.export.Dim("height_cells", min=1, max=65536 // multiple) * multiple
    width = torch.export.Dim("width_cells", min=1, max=65536 // multiple) * multiple
    with quiet():
        program = torch.onnx.export(
            Served(folded(net)).eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: batch, 1: height, 2: width},),
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave nothing")
    model = program.model_proto
    _name_free_sides(model)
    return model


def _name_free_sides(model: onnx.ModelProto) -> None:
    """Say ``batch``, ``height``, ``width`` where the tracer left its own expressions, and drop its traces of Python code."""
    for value, names in ((model.graph.input[0], ("batch", "height", "width")), (model.graph.output[0], ("batch", "", "", ""))):
        for dimension, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
            if not dimension.HasField("dim_value"):
                dimension.dim_param = name or f"{value.name}_{len(name)}"
    height, width = model.graph.output[0].type.tensor_type.shape.dim[2:]
    height.dim_param, width.dim_param = "score_rows", "score_columns"
    del model.graph.value_info[:]
    del model.metadata_props[:]
    for traced in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del traced.metadata_props[:]
        traced.doc_string = ""


@dataclass(frozen=True)
class Tolerance:
    """What may differ between ONNX Runtime and PyTorch."""

    score: float
    """Largest difference of a score, as :data:`SCORE_TOLERANCE`."""
    mean: float
    """Largest mean difference of an input's scores, likewise: what a single wrong kernel shifts, and roundings do not."""
    agreement: float
    """Least share of score cells whose winner agrees, float32's ties left out: of all inputs together, and of each that has
    enough cells to tell (:data:`TELLING`)."""
    gap: float
    """Where the network unpools: the most by which a recorded maximum may be below PyTorch's, as a share of its map's largest
    value. Where it is infinite, PyTorch keeps its own maxima, and what others cost is a part of what the scores lose."""
    moved: float
    """The largest share of the recorded maxima that may be other pixels than PyTorch's."""


TOLERANCES = {
    "fp32": Tolerance(SCORE_TOLERANCE, SCORE_TOLERANCE / 5, 1.0, gap=1e-4, moved=1e-4),
    "fp16": Tolerance(0.5, 0.05, 0.995, gap=2e-2, moved=2e-2),
    "int8": Tolerance(math.inf, math.inf, 0.8, gap=math.inf, moved=1.0),
}
"""By precision. Half precision keeps 11 bits through sixty layers: of the shipped network's scores, up to 18, it moves the
worst of 370,000 by 0.46, one in a thousand by 0.31, the mean by 0.026, and 99.93 % of the winners stay. What int8 is worth, a
labelled folder says (``--labelled``); below eight cells in ten the quantisation itself went wrong."""

TELLING = 5
"""Cells that may differ in an input that is judged alone: in one of 192 cells, a single one is already more than 0.5 %."""


@dataclass(frozen=True)
class Comparison:
    """ONNX Runtime against PyTorch on one input."""

    shape: tuple[int, int, int]
    max_difference: float
    mean_difference: float
    cells: int
    agreeing: int
    """Cells whose winner agrees, or whose two best scores are closer than twice the float32 tolerance: a tie."""
    margin: float = 0.0
    """How far the two best scores of the others are apart in PyTorch, at most."""
    switches: int = 0
    """Maxima that unpooling recorded."""
    moved: int = 0
    """Those on another pixel than PyTorch's, a tie each; the scores are compared with the graph's on both sides."""


def compare(
    net: Network,
    session: ort.InferenceSession,
    batch: np.ndarray[Any, np.dtype[np.uint8]],
    tolerance: Tolerance = TOLERANCES["fp32"],
) -> Comparison:
    """Run both on one batch.

    Takes:
        session: of the graph, with its switches as further outputs if the network unpools
        batch: N x H x W x 3 uint8
    Raises:
        ParityError: if a score differs beyond the tolerance, too many winners differ beyond ties, or a recorded maximum is none
    """
    names = [value.name for value in session.get_outputs() if value.name != OUTPUT]
    found, *switches = session.run([OUTPUT, *names], {INPUT: batch})
    n, height, width, _ = batch.shape
    try:
        replayed = replay(Served(net), torch.from_numpy(batch), switches if math.isfinite(tolerance.gap) else None)
    except ValueError as error:
        raise ParityError(f"input {n} x {height} x {width}: {error}") from error
    expected = replayed.scores
    if replayed.gap > tolerance.gap or replayed.moved > tolerance.moved * replayed.switches:
        raise ParityError(
            f"input {n} x {height} x {width}: {replayed.moved} of {replayed.switches} recorded maxima are other pixels than "
            f"PyTorch's, by up to {replayed.gap:.1e} of the largest value below these; at most {tolerance.moved:.2%} "
            f"may be, by {tolerance.gap:.1e}"
        )
    if found.shape != expected.shape:
        raise ParityError(f"input {n} x {height} x {width}: scores of {found.shape}, PyTorch gives {expected.shape}")
    if not (np.isfinite(found).all() and np.isfinite(expected).all()):
        raise ParityError(f"input {n} x {height} x {width}: scores that are not finite")
    difference = np.abs(found - expected)
    scale = max(1.0, float(np.abs(expected).max()) / USUAL_SCORE)
    allowed = tolerance.score * scale
    where = tuple(int(index) for index in np.unravel_index(int(difference.argmax()), difference.shape))
    if difference.max() > allowed:
        raise ParityError(
            f"input {n} x {height} x {width}, image {where[0]}, class {where[1]}, score cell {where[2]}, {where[3]}: "
            f"{found[where]:.6f}, PyTorch gives {expected[where]:.6f}; at most {allowed:.2g} apart is allowed"
        )
    if difference.mean() > tolerance.mean * scale:
        raise ParityError(
            f"input {n} x {height} x {width}: scores are {difference.mean():.2g} apart on the average; at most "
            f"{tolerance.mean * scale:.2g} is allowed"
        )
    ranked = np.sort(expected, axis=1)
    margins = ranked[:, -1] - ranked[:, -2] if ranked.shape[1] > 1 else np.zeros_like(ranked[:, 0])
    agrees = (found.argmax(1) == expected.argmax(1)) | (margins <= 2 * scale * SCORE_TOLERANCE)
    result = Comparison(
        (n, height, width),
        float(difference.max()),
        float(difference.mean()),
        agrees.size,
        int(agrees.sum()),
        float(margins[~agrees].max(initial=0)),
        replayed.switches,
        replayed.moved,
    )
    if not agrees.all() and agrees.size * (1 - tolerance.agreement) >= (TELLING if tolerance.agreement < 1 else 0):
        image, row, column = (int(index[0]) for index in np.nonzero(~agrees))
        place = f"input {n} x {height} x {width}, first in image {image}, cell {row}, {column}"
        check_agreement([result], tolerance, place)
    return result


def check_agreement(results: list[Comparison], tolerance: Tolerance, where: str) -> None:
    """Whether enough winners agree.

    Raises:
        ParityError: if too few do, with ``where``
    """
    cells = sum(result.cells for result in results)
    wrong = cells - sum(result.agreeing for result in results)
    if wrong > cells * (1 - tolerance.agreement):
        margin = max(result.margin for result in results)
        raise ParityError(
            f"{where}: another class wins in {wrong} of {cells} score cells, where PyTorch's two best scores are up to "
            f"{margin:.2g} apart; {tolerance.agreement:.1%} must agree"
        )


def parity_inputs(policy: InputPolicy, *, smallest: int = 1, noise: bool = True) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Streets and noise: the working size alone and as a batch, its neighbours, other shapes, the smallest.

    Takes:
        smallest: the shortest side that the network takes
        noise: whether all but the first image of a batch are noise; a quantised network is only calibrated for scenes
    """
    m = policy.multiple
    h, w = fit_size(*policy.working_size, policy)
    rng = np.random.default_rng(0)
    least = -(-smallest // m) * m
    shapes = [
        (1, h, w),
        (3, h, w),
        (1, h - m, w + m),
        (2, h // 2 // m * m + m, w // 3 // m * m + m),
        (1, 5 * m, 23 * m),
        (4, m, m),
    ]
    batches = []
    for n, *sides in shapes:
        rows, columns = (max(side, least) for side in sides)
        batch = rng.integers(0, 256, (n, rows, columns, 3), dtype=np.uint8)
        for index in range(1 if noise else n):
            batch[index] = street_view(rows, columns, seed=n + index)
        batches.append(batch)
    return batches


def check_parity(net: Network, file: Path, policy: InputPolicy, tolerance: Tolerance = TOLERANCES["fp32"]) -> Parity:
    """The parity report of an ONNX file.

    Raises:
        ParityError: at the first input on which it disagrees with PyTorch
    """
    probe = with_switches(file) if unpools(net) and math.isfinite(tolerance.gap) else file
    try:
        session = ort.InferenceSession(probe, providers=["CPUExecutionProvider"])
    finally:
        if probe != file:
            probe.unlink()
    results = [
        compare(net, session, batch, tolerance)
        for batch in parity_inputs(policy, smallest=net.smallest, noise=tolerance.agreement == 1)
    ]
    check_agreement(results, tolerance, f"over all {len(results)} inputs")
    return Parity(
        max_score_difference=max(r.max_difference for r in results),
        mean_score_difference=float(np.mean([r.mean_difference for r in results])),
        argmax_agreement=sum(r.agreeing for r in results) / sum(r.cells for r in results),
        switches=sum(r.switches for r in results),
        moved_switches=sum(r.moved for r in results),
        shapes=tuple(r.shape for r in results),
        opset=OPSET,
        versions={"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": ort.__version__},
    )


@dataclass(frozen=True)
class Labelled:
    """Frames with labels that say what a lower precision costs."""

    folder: Path
    table: ClassTable
    max_loss: float
    """Points of mean IoU (0..100) that may be lost against float32."""


def export(
    net: Network,
    manifest: Manifest,
    out: Path,
    *,
    frames: list[np.ndarray[Any, np.dtype[np.uint8]]] | None = None,
    labelled: Labelled | None = None,
) -> Manifest:
    """Write an artifact, or nothing.

    The float32 graph must agree with PyTorch whatever the precision: what int8 loses is then the quantisation's alone.

    Takes:
        net: ready to predict
        manifest: all but ``parity``, which is measured here; its ``precision`` is what is written
        out: the file; an old one is replaced only by a new one that agrees
        frames: 1 x h x w x 3 uint8 each, to calibrate int8 with
        labelled: where to measure what a lower precision loses
    Gives:
        the manifest as written
    Raises:
        ParityError: if ONNX Runtime and PyTorch disagree, or a lower precision loses too much
        ValueError: if a lower precision is asked for and the network is too large for the tools
    """
    lower = manifest.precision != "fp32"
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        exact = candidate = Path(folder) / "fp32" / out.name
        model = to_onnx(net, manifest.input.multiple)
        large = is_large(model)
        if lower and large:
            raise ValueError(f"weights beyond 2 GiB are exported in fp32 only, not in {manifest.precision}")
        if not (lower or large):  # both lower precisions have smaller maps, and fp16 is for GPUs
            model = in_slices(model, fit_size(*manifest.input.working_size, manifest.input))
        write(model, manifest.model_copy(update={"precision": "fp32"}), exact)
        onnx.checker.check_model(exact, full_check=True)
        parity = check_parity(net, exact, manifest.input)
        if lower:
            candidate = Path(folder) / out.name
            model = to_int8(model, frames or []) if manifest.precision == "int8" else to_fp16(model)
            write(model, manifest, candidate)
            try:
                parity = check_parity(net, candidate, manifest.input, TOLERANCES[manifest.precision])
            except ParityError as error:
                raise ParityError(f"in {manifest.precision}, {error}. In float32 it agrees: leave --precision out") from error
            if labelled:
                check_loss(exact, candidate, labelled)
        complete = manifest.model_copy(update={"parity": parity})
        write(model, complete, candidate)  # the weights, if they lie beside it, are not written again
        move(candidate, out)
    return complete


def check_loss(exact: Path, candidate: Path, labelled: Labelled) -> float:
    """The points of mean IoU that a lower precision loses.

    Raises:
        ParityError: if they are too many
    """
    with ExitStack() as resources:
        found = [
            evaluate(predictor_of(str(file), labelled.table, resources), labelled.folder, labelled.table).mean_iou
            for file in (exact, candidate)
        ]
    loss = 100 * (found[0] - found[1])
    report = f"mean IoU {found[1]:.4f} on {labelled.folder.name}, {found[0]:.4f} in float32: {loss:.2f} points lost"
    if loss > labelled.max_loss:
        raise ParityError(f"{report}; at most {labelled.max_loss} may be (--max-loss)")
    Console().print(report, highlight=False)
    return loss


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m models.export", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("architecture", choices=sorted(ARCHITECTURES), metavar="ARCH", help=", ".join(ARCHITECTURES))
    parser.add_argument(
        "--weights", type=Path, required=True, metavar="FILE", help="checkpoint of models.train, or published weights"
    )
    parser.add_argument(
        "--classes", metavar="TABLE", help=f"{', '.join(TABLES)} or a JSON file; a checkpoint of ours knows its own"
    )
    parser.add_argument("--input-size", type=size_argument, metavar="HxW", help="working size in the place of the weights' own")
    parser.add_argument("--name", required=True, help="the model's name in the service")
    parser.add_argument("--version", default="1.0.0")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.onnx")
    parser.add_argument(
        "--scores", action="append", default=[], metavar="SPLIT=FILE.json", help="scores written by models.evaluate --json"
    )
    parser.add_argument("--precision", choices=sorted(TOLERANCES), default="fp32", help="int8 for CPUs, fp16 for CUDA")
    parser.add_argument("--calibrate", type=Path, metavar="FOLDER", help="frames that int8 takes its ranges from")
    parser.add_argument("--labelled", type=Path, metavar="FOLDER", help="images/ and labels/ that say what int8 or fp16 loses")
    parser.add_argument(
        "--max-loss", type=float, default=0.5, metavar="POINTS", help="of mean IoU there, beyond which nothing is written"
    )
    parser.add_argument("--description", default="")
    parser.add_argument("--data-name", default="unnamed", help="what it was trained on")
    parser.add_argument("--licence", default="unknown", help="of that data")
    parser.add_argument("--notes", default="", help="how it was trained")
    args = parser.parse_args(arguments)
    if (args.precision == "int8") != (args.calibrate is not None):
        parser.error("--precision int8 needs frames to take its ranges from, --calibrate FOLDER; nothing else does")
    return args


def main(arguments: list[str] | None = None) -> int:
    """Export; gives the exit status."""
    args = parse(arguments)
    console = Console()
    errors = Console(stderr=True, soft_wrap=True)
    try:
        source = load_source(args.architecture, args.weights, args.classes)
        manifest = build_manifest(args, source)
        frames = None
        if args.calibrate:
            frames = calibration_frames(args.calibrate, manifest.input)
        labelled = Labelled(args.labelled, source.table, args.max_loss) if args.labelled else None
        console.print(f"{args.architecture}: tracing and comparing with PyTorch …")
        manifest = export(source.net, manifest, args.out, frames=frames, labelled=labelled)
    except (checkpoint.CheckpointError, ParityError, ValueError, OSError) as error:
        errors.print(str(error), style="red", markup=False, highlight=False)
        return 2
    card = args.out.with_suffix(".md")
    write_card(manifest, args.out, card)
    if manifest.parity:
        report_parity(manifest.parity, console)
    console.print(f"stride {manifest.stride}, receptive field {manifest.receptive_field}, halo {manifest.halo} pixels")
    console.print(f"wrote {args.out} ({onnx_file.read(args.out).size_bytes / 1e6:.1f} MB) and {card}")
    return 0


def report_parity(parity: Parity, console: Console) -> None:
    """How well ONNX Runtime and PyTorch agree."""
    shapes = ", ".join("x".join(map(str, shape)) for shape in parity.shapes)
    if parity.switches:
        console.print(f"{parity.moved_switches} of {parity.switches} recorded maxima tie up to a rounding and are other pixels")
    console.print(
        f"scores differ by at most {parity.max_score_difference:.1e} (mean {parity.mean_score_difference:.1e}),\n"
        f"winners agree on {parity.argmax_agreement:.4%} of the cells, over N x H x W = {shapes}; opset {parity.opset}"
    )


@dataclass(frozen=True)
class Source:
    """What is exported: a network with its weights, and what its file says besides."""

    net: Network
    table: ClassTable
    working_size: tuple[int, int]
    epochs: int | None = None


def load_source(architecture: str, weights: Path, classes: str | None) -> Source:
    """A checkpoint of ``models.train``, or published weights, in the network that was asked for.

    Takes:
        classes: a class table's name or JSON file; None takes our own checkpoint's word
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
        return Source(trained, known, tuple(content["working_size"]), content["epoch"])
    if classes is None:
        read_weights(weights)  # a damaged file is that before it is anything else
        raise checkpoint.CheckpointError(
            f"{weights}: only a checkpoint of models.train names its classes; say --classes voc, for instance"
        )
    known = table(classes)
    net = build(architecture, len(known.entries))
    return Source(load_weights(net, architecture, weights), known, ARCHITECTURES[architecture].working_size)


def build_manifest(args: argparse.Namespace, source: Source) -> Manifest:
    """The manifest of an artifact to be, without its parity report.

    Raises:
        ValueError: if a score file can't be read, or a field makes no sense
    """
    splits = {}
    for item in args.scores:
        split, _, file = item.partition("=")
        splits[split] = SplitScores.model_validate(json.loads(Path(file).read_text()))
    architecture = ARCHITECTURES[args.architecture]
    reach = measure_reach(source.net)
    return Manifest(
        name=args.name,
        version=args.version,
        architecture=args.architecture,
        description=args.description,
        classes=source.table.entries,
        input=architecture.policy(args.input_size or source.working_size),
        stride=reach.stride,
        receptive_field=reach.receptive_field,
        halo=reach.halo,
        training=Training(data=args.data_name, licence=args.licence, epochs=source.epochs, notes=args.notes),
        scores=splits,
        precision=args.precision,
    )


if __name__ == "__main__":
    sys.exit(main())
