"""``python -m models.adopt``: from a foreign segmentation network, an ONNX file, to an artifact that the service serves.

What is adopted takes float N x 3 x H x W pixels that its users normalise, and gives N x K x h x w scores, or probabilities, or
N x H x W labels. What is written takes uint8 N x H x W x 3 RGB named ``image`` and gives float32 N x K x h x w ``scores``: the
normalisation and the layout move into the graph, the manifest into the file; the network in between stays as it is. Its stride,
and the sizes and batches that it can do, are found out by running it. Before anything is written under the final name the new
file runs beside the old one: where they disagree, no artifact is written.

Receptive field and halo of a foreign graph stay unknown: perturbing pixels gives a lower bound only, and a tile cut by that
would be wrong at its seams without a sign.

May import: numpy, onnx, onnxruntime, rich, ``service.pipeline``, ``models.exporting``, ``scenes``. No torch.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError
from rich.console import Console

from models.arguments import size_argument
from models.exporting.artifact import move, write
from models.scenes import street_view
from models.training.classes import TABLES, ClassTable, ClassTableError, table
from service.errors import BadArtifact, InferenceFailed
from service.pipeline import onnx_file
from service.pipeline.engine import Engine, load
from service.pipeline.inspection import Port, inspect, network_input, network_outputs
from service.pipeline.manifest import INPUT, OUTPUT, InputPolicy, Manifest, Parity, Training
from service.pipeline.plan import fit_size

SCORE_TOLERANCE = 1e-3
"""Largest difference of a score between the artifact and the network that it was made from."""
HALF_TOLERANCE = 5e-3
"""The same for a network that takes half precision, as a share of its largest score: on the CPU, ONNX Runtime leaves out what
roundings it can, and it can leave out more where the pixels come from our operators."""

OLDEST_OPSET = 9
"""Which brought the youngest of the operators that are put around a network, OneHot."""

LARGEST_MULTIPLE = 256
CERTAIN = 20.0
"""Score of the class that a network named, the others having 0: a probability of 1 after the softmax, however many they are."""
LEAST_PROBABILITY = 1e-7

QUANTISED = frozenset(("QuantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "QLinearConv"))

Images = NDArray[np.uint8]
Order = Literal["rgb", "bgr"]
Kind = Literal["scores", "probabilities", "labels"]
Precision = Literal["fp32", "fp16", "int8"]


class AdoptionError(Exception):
    """A network that cannot be adopted, or an artifact that disagrees with it; the message says why."""


@dataclass(frozen=True)
class Normalisation:
    """What a network wants done to its pixels: (pixel / scale - mean) / std, then its own order of channels."""

    mean: tuple[float, float, float]
    """Of red, green and blue, whatever the order in which the network takes them."""
    std: tuple[float, float, float]
    scale: float = 255.0
    order: Order = "rgb"

    def __post_init__(self) -> None:
        """Refuse what can only be a mistake.

        Raises:
            AdoptionError: if the mean lies outside the scaled pixels, or a divisor is not positive
        """
        if self.scale <= 0 or min(self.std) <= 0:
            raise AdoptionError("--scale and --std must be greater than 0")
        brightest = 255 / self.scale
        if not all(0 <= mean <= brightest for mean in self.mean):
            remedy = "; with a mean of 0..255, say --scale 1" if brightest < max(self.mean) <= 255 else ""
            given = ",".join(f"{mean:g}" for mean in self.mean)
            raise AdoptionError(f"--mean {given}: pixels divided by {self.scale:g} lie in 0..{brightest:g}{remedy}")

    def __call__(self, batch: Images) -> NDArray[np.float32]:
        """The textbook form, and so the oracle for :meth:`steps`.

        Takes:
            batch: N x H x W x 3 uint8 RGB
        Gives:
            N x 3 x H x W float32, as the network wants it
        """
        mean, std = (np.array(values, np.float32) for values in (self.mean, self.std))
        pixels = (batch.astype(np.float32) / np.float32(self.scale) - mean) / std
        return np.ascontiguousarray((pixels[..., ::-1] if self.order == "bgr" else pixels).transpose(0, 3, 1, 2))

    def steps(self, dtype: str) -> Iterator[Step]:
        """The same as operators, the moves on bytes before the arithmetic on floats; what would change nothing is left out."""
        turn = slice(None, None, -1 if self.order == "bgr" else 1)
        mean, std = (np.array(values, np.float32)[turn].reshape(1, 3, 1, 1) for values in (self.mean, self.std))
        yield Step("Transpose", perm=[0, 3, 1, 2])
        if self.order == "bgr":
            yield Step("Gather", np.array([2, 1, 0], np.int64), axis=1)
        yield Step("Cast", to=TensorProto.FLOAT)
        if self.scale != 1:
            yield Step("Div", np.float32(self.scale))
        if mean.any():
            yield Step("Sub", mean)
        if (std != 1).any():
            yield Step("Div", std)
        if dtype != "float32":
            yield Step("Cast", to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


class Step:
    """One operator with one input from the step before.

    Takes:
        operator: its name
        constants: its other inputs
        attributes: its attributes
    """

    def __init__(self, operator: str, *constants: NDArray[Any] | np.generic, **attributes: Any) -> None:
        self.operator, self.constants, self.attributes = operator, constants, attributes


class Foreign:
    """A network from elsewhere.

    Takes:
        path: its ONNX file
        normalisation: what it wants done to pixels
        output: the name of the output to adopt; needed where more than one could be meant
    Raises:
        BadArtifact: if the file cannot be opened
        AdoptionError: if it is not a segmentation network that can be adopted
    """

    def __init__(self, path: Path, normalisation: Normalisation, output: str | None = None) -> None:
        self.path, self.normalisation = path, normalisation
        found = inspect(path)
        self.file = found.file
        if found.manifest is not None:
            raise AdoptionError(f"{path.name}: is an artifact already, {found.manifest.name}@{found.manifest.version}")
        if found.file.opset < OLDEST_OPSET:
            raise AdoptionError(f"{path.name}: needs opset {OLDEST_OPSET} or later, has {found.file.opset}; convert it first")
        try:
            self.input = network_input(found.inputs)
            candidates = network_outputs(found.outputs)
        except BadArtifact as error:
            raise AdoptionError(f"{path.name}: {error.message}") from error
        chosen = [port for port in candidates if output in (None, port.name)]
        if len(chosen) != 1:
            raise AdoptionError(f"{path.name}: say with --output which it is: {'; '.join(map(str, candidates))}")
        self.output = chosen[0]
        batch = self.input.shape[0]
        if isinstance(batch, int) and batch != 1:
            raise AdoptionError(f"{path.name}: takes batches of exactly {batch} images; export it with a free batch, or with 1")
        self._session = load(path)

    def run(self, batch: Images) -> NDArray[Any]:
        """Its own answer.

        Takes:
            batch: N x H x W x 3 uint8 RGB
        Gives:
            N x K x h x w float32 scores, or N x h x w integer labels
        Raises:
            AdoptionError: if it does not run
        """
        pixels = self.normalisation(batch).astype(self.input.dtype)
        try:
            (answer,) = self._session.run([self.output.name], {self.input.name: pixels})
        except Exception as error:  # ONNX Runtime's errors have no class in common
            size = " x ".join(map(str, pixels.shape))
            raise AdoptionError(f"{self.path.name}: does not run on {size}: {' '.join(str(error).split())}") from error
        if not self.output.is_labels:
            return np.asarray(answer, np.float32)
        return np.asarray(answer.reshape(answer.shape[0], *answer.shape[-2:]))


@dataclass(frozen=True)
class Behaviour:
    """What running a network has shown."""

    kind: Kind
    planes: int | None
    """Score planes; unknown of labels."""
    stride: int
    policy: InputPolicy
    batches: bool
    """Whether it takes more than one image at a time."""


def observe(foreign: Foreign, input_size: tuple[int, int] | None) -> Behaviour:
    """Find out how a network behaves, by running it.

    Takes:
        input_size: (height, width) at which it was trained; needed where its graph leaves a side free
    Raises:
        AdoptionError: if the size is missing or contradicts the graph, or the network does not run, or its answer has no stride
    """
    name, sides = foreign.path.name, foreign.input.shape[2:]
    if input_size is None and not all(isinstance(side, int) for side in sides):
        raise AdoptionError(f"{name}: takes images of any size; say with --input-size HxW at which it was trained")
    height, width = (int(side) for side in input_size or sides)
    if any(isinstance(side, int) and side != wanted for side, wanted in zip(sides, (height, width), strict=True)):
        raise AdoptionError(f"{name}: takes images of {' x '.join(map(str, sides))} only, not of {height} x {width}")
    answer = foreign.run(picture(1, height, width))
    rows, columns = answer.shape[-2:]
    stride = height // rows if rows else 0
    if stride < 1 or (rows * stride, columns * stride) != (height, width):
        raise AdoptionError(
            f"{name}: gives {rows} x {columns} for {height} x {width} pixels: no whole number of pixels a score"
        )
    kind: Kind = "labels" if foreign.output.is_labels else "scores"
    planes = None if kind == "labels" else answer.shape[1]
    if kind == "scores" and answer.shape[1] > 1 and answer.min() >= 0 and np.allclose(answer.sum(1), 1, atol=1e-2):
        kind = "probabilities"
    free = not any(isinstance(side, int) for side in sides)
    multiple = _multiple(foreign, stride, height, width) if free else None
    policy = InputPolicy(
        working_size=(height, width), fit="stretch" if multiple is None else "area", multiple=multiple or stride
    )
    h, w = fit_size(height, width, policy)
    batches = not isinstance(foreign.input.shape[0], int) and _runs(foreign, np.zeros((2, h, w, 3), np.uint8), stride)
    return Behaviour(kind, planes, stride, policy, batches)


def _multiple(foreign: Foreign, stride: int, height: int, width: int) -> int | None:
    """The smallest number whose multiples the network takes as sides, powers of two tried first; None if it takes one size.

    Sides are tried that are odd in multiples, and then the next odd ones: no smaller factor can pass for the whole.
    """
    factors = sorted(range(1, LARGEST_MULTIPLE // stride + 1), key=lambda factor: (factor.bit_count() > 1, factor))
    for multiple in (factor * stride for factor in factors):
        rows, columns = (max(1, round(side / multiple)) | 1 for side in (height, width))
        shapes = [((rows + more) * multiple, (columns + more) * multiple) for more in (0, 2)]
        if all(_runs(foreign, np.zeros((1, h, w, 3), np.uint8), stride) for h, w in shapes):
            return multiple
    return None


def _runs(foreign: Foreign, batch: Images, stride: int) -> bool:
    n, height, width, _ = batch.shape
    try:
        answer = foreign.run(batch)
    except AdoptionError:
        return False
    return (answer.shape[0], *answer.shape[-2:]) == (n, height // stride, width // stride)


def picture(n: int, height: int, width: int) -> Images:
    """A batch of streets, with noise in its last image's right half; a size that is too small for a street is all noise.

    Gives:
        N x H x W x 3 uint8
    """
    noise = np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8)
    if min(height, width) < 32:
        return noise
    batch = np.stack([street_view(height, width, seed) for seed in range(n)])
    batch[-1, :, width // 2 :] = noise[-1, :, width // 2 :]
    return batch


def wrap(model: onnx.ModelProto, foreign: Foreign, behaviour: Behaviour, classes: int) -> None:
    """Put a network behind the service's input and output, in place.

    Takes:
        model: the network's graph, with its weights
        foreign, behaviour: the same network, observed
        classes: K
    """
    graph = model.graph
    ours = {INPUT: f"foreign/{INPUT}", OUTPUT: f"foreign/{OUTPUT}"}
    _rename(graph, ours)
    entry, answer = (ours.get(port.name, port.name) for port in (foreign.input, foreign.output))
    before, first = _chain("before", INPUT, entry, foreign.normalisation.steps(foreign.input.dtype))
    after, last = _chain("after", answer, OUTPUT, _answer_steps(foreign.output, behaviour.kind, classes))
    if not after:
        _rename(graph, {answer: OUTPUT})
    needed = {OUTPUT}
    kept: list[onnx.NodeProto] = []
    for node in reversed([*before, *graph.node, *after]):  # they stand in the order in which they run
        if needed & set(node.output):
            kept.insert(0, node)
            needed |= _reads(node)
    for field in ("node", "input", "output", "value_info"):
        graph.ClearField(field)
    graph.node.extend(kept)
    for index in reversed(range(len(graph.initializer))):  # in place: a copy of the weights may not fit
        if graph.initializer[index].name not in needed:
            del graph.initializer[index]
    graph.initializer.extend([*first, *last])
    batch = "batch" if behaviour.batches else 1
    sides = foreign.input.shape[2:]
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [batch, *_named(sides, "height", "width"), 3]))
    cells = _named(foreign.output.shape[-2:], "score_rows", "score_columns")
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [batch, classes, *cells]))
    model.ir_version = max(model.ir_version, 4)  # before, weights had to be inputs as well


def _answer_steps(output: Port, kind: Kind, classes: int) -> Iterator[Step]:
    """From the network's answer to scores."""
    if kind == "labels":
        if len(output.shape) == 4:
            yield Step("Gather", np.int64(0), axis=1)
        yield Step("Cast", to=TensorProto.INT64)
        yield Step("OneHot", np.int64(classes), np.array([0, CERTAIN], np.float32), axis=1)
        return
    if output.dtype != "float32":
        yield Step("Cast", to=TensorProto.FLOAT)
    if kind == "probabilities":  # whose softmax is not what the network meant; that of their logarithms is
        yield Step("Max", np.float32(LEAST_PROBABILITY))
        yield Step("Log")


def expected(answer: NDArray[Any], kind: Kind, classes: int) -> NDArray[np.float32]:
    """The scores that an artifact must give where the network gave this answer: the oracle for the operators behind it.

    Takes:
        answer: of :meth:`Foreign.run`
    Gives:
        N x K x h x w float32
    """
    if kind == "labels":
        return np.where(np.arange(classes)[:, None, None] == answer[:, None], np.float32(CERTAIN), np.float32(0))
    scores = np.log(np.maximum(answer, np.float32(LEAST_PROBABILITY))) if kind == "probabilities" else answer
    return np.asarray(scores, np.float32)


def _chain(place: str, start: str, end: str, steps: Iterator[Step]) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Operators one after another between two tensors, and their constants."""
    nodes, weights = [], []
    value = start
    for index, step in enumerate(steps):
        name = f"adopted/{place}/{index}_{step.operator}"
        constants = [numpy_helper.from_array(np.asarray(array), f"{name}/{i}") for i, array in enumerate(step.constants)]
        inputs = [value, *(constant.name for constant in constants)]
        nodes.append(helper.make_node(step.operator, inputs, [f"{name}/out"], name, **step.attributes))
        weights += constants
        value = f"{name}/out"
    if nodes:
        nodes[-1].output[0] = end
    return nodes, weights


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename tensors wherever they are made or read, in the bodies of loops and branches too."""
    for node in graph.node:
        for ends in (node.input, node.output):
            ends[:] = [names.get(name, name) for name in ends]
        for body in _bodies(node):
            _rename(body, names)
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = names.get(value.name, value.name)


def _reads(node: onnx.NodeProto) -> set[str]:
    """The tensors that a node needs, those that only its bodies read included."""
    return set(node.input).union(
        *(_reads(inner) for body in _bodies(node) for inner in body.node),
        *({value.name for value in body.output} for body in _bodies(node)),
    )


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [body for attribute in node.attribute for body in (attribute.g, *attribute.graphs) if body.node or body.output]


def _named(sides: Sequence[int | str], *names: str) -> list[int | str]:
    return [side if isinstance(side, int) else name for side, name in zip(sides, names, strict=True)]


def prove(foreign: Foreign, engine: Engine, behaviour: Behaviour, classes: ClassTable) -> Parity:
    """Run the artifact beside the network that it was made from, on the sizes and batches that the service may ask for.

    Raises:
        AdoptionError: at the first input on which they disagree, or where the network names a class that is not in the table
    """
    k, policy = len(classes.entries), behaviour.policy
    height, width = fit_size(*policy.working_size, policy)
    ratios = [(1, 1), (1, 2), (3, 2), (4, 1)]
    sizes = [(height, width), *(fit_size(rows * 600, columns * 600, policy) for rows, columns in ratios)]
    differences, cells, agreeing = [], 0, 0
    shapes = list(dict.fromkeys([(1, *sizes[0]), (3, *sizes[0]), (2, *sizes[1]), *((1, h, w) for h, w in sizes[2:])]))
    for n, h, w in shapes:
        batch = picture(n, h, w)
        answers = foreign.run(batch) if behaviour.batches else np.concatenate([foreign.run(image[None]) for image in batch])
        if behaviour.kind == "labels" and not 0 <= answers.min() <= answers.max() < k:
            named = f"{answers.min()}..{answers.max()}"
            raise AdoptionError(f"class table '{classes.name}' has {k} classes, but the network gives labels {named}")
        wanted, found = expected(answers, behaviour.kind, k), engine.run(batch)[OUTPUT]
        difference = np.abs(found - wanted)
        exact = foreign.input.dtype == "float32"
        tolerance = SCORE_TOLERANCE if exact else HALF_TOLERANCE * max(1.0, float(np.abs(wanted).max()))
        if not difference.max() <= tolerance:  # so that NaN fails
            where = f"{n} x {h} x {w}: {difference.max():.1e} apart, at most {tolerance:.1e} is allowed"
            raise AdoptionError(f"the artifact's scores are not {foreign.path.name}'s on {where}")
        best = np.sort(wanted, axis=1)[:, -2:]
        ties = best[:, -1] - best[:, 0] <= 2 * tolerance if k > 1 else np.zeros_like(best[:, 0], bool)
        differences.append(difference)
        cells += ties.size
        agreeing += int(((found.argmax(1) == wanted.argmax(1)) | ties).sum())
    return Parity(
        max_score_difference=max(float(difference.max()) for difference in differences),
        mean_score_difference=float(np.mean([difference.mean() for difference in differences])),
        argmax_agreement=agreeing / cells,
        shapes=tuple(shapes),
        opset=foreign.file.opset,
        versions={"onnx": onnx.__version__, "onnxruntime": ort.__version__},
    )


def adopt(
    foreign: Foreign,
    classes: ClassTable,
    out: Path,
    *,
    name: str,
    version: str = "1.0.0",
    description: str = "",
    training: Training,
    input_size: tuple[int, int] | None = None,
) -> tuple[Manifest, Behaviour]:
    """Write an artifact, or nothing.

    Takes:
        classes: one for each score plane, in their order
        out: the file; an old one is replaced only by a new one that agrees with its origin
        name, version, description, training: for the manifest
        input_size: (height, width), as for :func:`observe`
    Gives:
        the manifest as written, and what was observed
    Raises:
        AdoptionError: if the network cannot be adopted, or the artifact disagrees with it
        ClassTableError: if the table has another length than the network
        BadArtifact: if the service would not serve the result
    """
    if out.resolve() == foreign.path.resolve():
        raise AdoptionError(f"{out}: is the network itself, which is not overwritten")
    behaviour = observe(foreign, input_size)
    if behaviour.planes is not None:
        classes.check_planes(behaviour.planes)
    model = onnx.load(foreign.path)
    wrap(model, foreign, behaviour, len(classes.entries))
    try:
        manifest = Manifest(
            name=name,
            version=version,
            architecture=f"adopted from {foreign.path.name}",
            description=description,
            classes=classes.entries,
            input=behaviour.policy,
            stride=behaviour.stride,
            receptive_field=None,
            halo=None,
            training=training,
            precision=_precision(model, foreign),
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise AdoptionError(f"the manifest's {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        candidate = Path(folder) / out.name
        write(model, manifest, candidate)
        engine = Engine.open(candidate)
        manifest = manifest.model_copy(update={"parity": prove(foreign, engine, behaviour, classes)})
        engine.close()
        write(model, manifest, candidate)  # the weights, if they lie beside it, are not written again
        move(candidate, out)
    return manifest, behaviour


def _precision(model: onnx.ModelProto, foreign: Foreign) -> Precision:
    if any(node.op_type in QUANTISED for node in model.graph.node):
        return "int8"
    return "fp16" if foreign.input.dtype == "float16" else "fp32"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m models.adopt", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("network", type=Path, metavar="FILE.onnx", help="a segmentation network; `fcn-serve check` explains it")
    tables = f"{', '.join(TABLES)}, or a JSON file (docs/adopt.md)"
    parser.add_argument("--classes", required=True, metavar="TABLE", help=f"what its score planes mean: {tables}")
    parser.add_argument("--mean", type=_triple, required=True, metavar="R,G,B", help="taken off the scaled pixels")
    parser.add_argument("--std", type=_triple, required=True, metavar="R,G,B", help="what the difference is divided by")
    parser.add_argument("--scale", type=float, default=255.0, help="what pixels of 0..255 are divided by first (default: 255)")
    parser.add_argument("--order", choices=get_args(Order), required=True, help="of the channels that it takes")
    parser.add_argument(
        "--input-size", type=size_argument, metavar="HxW", help="at which it was trained; needed where its graph has none"
    )
    parser.add_argument("--output", metavar="NAME", help="its scores or labels; needed where more than one output could be")
    parser.add_argument("--name", required=True, help="the model's name in the service")
    parser.add_argument("--version", default="1.0.0")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.onnx")
    parser.add_argument("--description", default="")
    parser.add_argument("--data-name", default="unnamed", help="what it was trained on")
    parser.add_argument("--licence", default="unknown", help="of that data")
    parser.add_argument("--notes", default="", help="how it was trained")
    return parser.parse_args(arguments)


def _triple(text: str) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: three numbers are needed, as in 0.485,0.456,0.406") from None
    return red, green, blue


def main(arguments: list[str] | None = None) -> int:
    """Adopt; gives the exit status."""
    args = parse(arguments)
    console = Console(soft_wrap=True, highlight=False)
    try:
        classes = table(args.classes)
        foreign = Foreign(args.network, Normalisation(args.mean, args.std, args.scale, args.order), args.output)
        manifest, behaviour = adopt(
            foreign,
            classes,
            args.out,
            name=args.name,
            version=args.version,
            description=args.description,
            training=Training(data=args.data_name, licence=args.licence, notes=args.notes),
            input_size=args.input_size,
        )
    except (AdoptionError, ClassTableError, BadArtifact, InferenceFailed, OSError) as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(str(error), style="red", markup=False)
        return 2
    parity, policy = manifest.parity, manifest.input
    assert parity is not None  # noqa: S101  # adopt() measured it
    height, width = policy.working_size
    shapes = ", ".join("x".join(map(str, shape)) for shape in parity.shapes)
    batches = "any batch" if behaviour.batches else "one image at a time"
    difference = f"at most {parity.max_score_difference:.1e} (mean {parity.mean_score_difference:.1e})"
    lines = [
        f"takes {policy.fit} of {height} x {width}, sides multiples of {policy.multiple}, {batches}",
        f"gives {behaviour.kind} of {len(manifest.classes)} classes at stride {manifest.stride}",
        f"scores differ by {difference}, winners agree on {parity.argmax_agreement:.4%} of the cells; N x H x W: {shapes}",
        f"wrote {args.out} ({onnx_file.read(args.out).size_bytes / 1e6:.3g} MB); `fcn-serve check {args.out}` explains it",
    ]
    console.print("\n".join(lines), markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
