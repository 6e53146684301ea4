"""From a network from elsewhere to an artifact: observed, wrapped, compared with itself, written in one step.

Stride, sides and batches are found by running the network, and so is the form of its answer. Receptive field and halo stay
unknown: perturbing pixels gives a lower bound only, and a tile cut by that would be wrong at its seams without a sign.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from pydantic import ValidationError

from models.exporting import parity
from models.exporting.artifact import move, write
from models.exporting.foreign import AdoptionError, Foreign, Images, Place
from models.exporting.parity import TOLERANCES, Tolerance
from models.exporting.wrapping import Answer, Form, ends_in_sigmoid, expected, wrap
from models.scenes import street_view
from models.training.classes import ClassTable
from service.pipeline.engine import Engine
from service.pipeline.manifest import OUTPUT, ClassEntry, InputPolicy, Manifest, Parity, Percentiles, Training
from service.pipeline.plan import fit_size

TOLERANCE = TOLERANCES["fp32"]
HALF_TOLERANCE = Tolerance(5e-2, 5e-2, 0.99)
"""For a network that takes half precision: on the CPU, ONNX Runtime leaves out roundings where it can, and it can leave out
more where the pixels come from our operators."""

LARGEST_MULTIPLE = 256
LARGEST_MULTIPLE_OF_VOLUMES = 32

BACKGROUND = ClassEntry(id=0, name="background", color=(0, 0, 0))

QUANTISED = frozenset(("QuantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "QLinearConv"))

Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class Told:
    """The facts of a network that its file cannot tell."""

    input_size: tuple[int, ...] | None = None
    """The sides at which it was trained; needed where its graph leaves one free."""
    answer: Answer | None = None
    """The form of its answer; needed where running it leaves a doubt."""
    class_axis: Place | None = None
    """The axis of the classes in its answer; needed where two are possible."""
    intensity: Percentiles | None = None
    """How the values of scans are scaled before it."""
    orientation: str | None = None
    """Directions of the axes of the volumes that it was trained on, as ``RAS``; None takes scans as they lie in their files."""
    spacing_mm: tuple[float, ...] | None = None
    """Sizes of their voxels; None takes scans at their own."""


@dataclass(frozen=True)
class Behaviour:
    """The facts that running a network has shown."""

    answer: Answer
    planes: int | None
    """Score planes of the network; unknown of labels."""
    stride: int
    policy: InputPolicy
    batches: bool
    """Whether it takes more than one image at a time."""


def observe(foreign: Foreign, told: Told, classes: int) -> Behaviour:
    """Find out how a network behaves, by running it.

    Takes:
        classes: as many as the class table has
    Raises:
        AdoptionError: if the size is missing or contradicts the graph, or the network does not run, or its answer has no
            stride, or the form of its answer is in doubt
    """
    name, fixed = foreign.path.name, foreign.sides
    wanted = "HxW" if foreign.dimensions == 2 else "DxHxW"
    if told.input_size is None and not all(isinstance(side, int) for side in fixed):
        raise AdoptionError(f"{name}: takes images of any size; say with --input-size {wanted} at which it was trained")
    if foreign.dimensions == 2 and (told.intensity or told.orientation or told.spacing_mm):
        raise AdoptionError(f"{name}: takes pictures; --intensity, --orientation and --spacing are for volumes, leave them out")
    sides = tuple(int(side) for side in told.input_size or fixed)
    if len(sides) != foreign.dimensions:
        raise AdoptionError(f"{name}: takes {foreign.dimensions} sides; say --input-size {wanted}")
    if any(isinstance(side, int) and side != asked for side, asked in zip(fixed, sides, strict=True)):
        takes, asked_for = (" x ".join(map(str, those)) for those in (fixed, sides))
        raise AdoptionError(f"{name}: takes images of {takes} only, not of {asked_for}")
    probes = [picture(foreign, 1, sides), np.zeros((1, *sides, foreign.channels), _dtype(foreign))]
    stride = foreign.settle(sides, foreign.ask(probes[0]), classes, told.class_axis)
    answers = [foreign.run(probe) for probe in probes]
    planes = None if foreign.output.is_integer else int(answers[0].shape[1])
    answer = _answer(foreign, np.concatenate(answers), told.answer)
    free = not any(isinstance(side, int) for side in fixed)
    multiple = _multiple(foreign, stride, sides) if free else None
    policy = _policy(foreign, sides, multiple, stride, told)
    two = np.zeros((2, *_fitted(sides, policy), foreign.channels), _dtype(foreign))
    batches = not isinstance(foreign.input.shape[0], int) and _runs(foreign, two, stride)
    return Behaviour(answer, planes, stride, policy, batches)


def _dtype(foreign: Foreign) -> str:
    """The dtype of the artifact's input: of pictures or of scans."""
    return "uint8" if foreign.dimensions == 2 else "float32"


def _policy(foreign: Foreign, sides: tuple[int, ...], multiple: int | None, stride: int, told: Told) -> InputPolicy:
    if foreign.dimensions == 2:
        fit = "stretch" if multiple is None else "area"
    else:
        fit = "stretch" if multiple is None else "native"
    return InputPolicy.model_validate(
        {
            "working_size": sides[-2:],
            "working_depth": sides[0] if foreign.dimensions == 3 else None,
            "fit": fit,
            "multiple": multiple or stride,
            "dimensions": foreign.dimensions,
            "channels": foreign.channels,
            "color_order": "rgb" if foreign.dimensions == 2 and foreign.channels == 3 else None,
            "dtype": _dtype(foreign),
            "intensity": told.intensity if foreign.dimensions == 3 else None,
            "orientation": told.orientation if foreign.dimensions == 3 else None,
            "spacing_mm": told.spacing_mm if foreign.dimensions == 3 else None,
        }
    )


def _fitted(sides: tuple[int, ...], policy: InputPolicy) -> tuple[int, ...]:
    """The size at which the network sees an input of these sides."""
    if policy.dimensions == 2:
        return fit_size(sides[0], sides[1], policy)
    return tuple(max(1, round(side / policy.multiple)) * policy.multiple for side in sides)


def _answer(foreign: Foreign, found: NDArray[Any], told: Answer | None) -> Answer:
    """Tell the form of an answer by its numbers, and by the operator that they come from.

    Raises:
        AdoptionError: if the numbers leave a doubt, or contradict the form that was told
    """
    name = foreign.path.name
    if foreign.output.is_integer:
        if told not in (None, "labels"):
            raise AdoptionError(f"{name}: gives integers, which are labels, not {told}")
        return "labels"
    planes = found.shape[1]
    shares = bool(found.min() >= 0 and found.max() <= 1 + 1e-3)
    sums = bool(planes > 1 and shares and np.allclose(found.sum(1), 1, atol=1e-2))
    if told is not None:
        wrong = told == "labels" or (told == "probabilities" and not sums) or (told == "sigmoids" and not shares)
        if wrong or (told == "scores" and planes == 1):
            lowest, highest = float(found.min()), float(found.max())
            raise AdoptionError(f"{name}: --answer {told} contradicts its {planes} planes of {lowest:.3g}..{highest:.3g}")
        return told
    if sums:
        return "probabilities"
    if not shares:
        return "scores" if planes > 1 else "logits"
    if ends_in_sigmoid(onnx.load(foreign.path, load_external_data=False), foreign.output.name):
        return "sigmoids"
    other = "scores" if planes > 1 else "logits"
    raise AdoptionError(
        f"{name}: gives numbers of 0..1 that do not add up to 1: say --answer sigmoids if each is a probability of its own, "
        f"--answer {other} if not"
    )


def with_background(classes: ClassTable, behaviour: Behaviour) -> tuple[tuple[ClassEntry, ...], bool]:
    """Return the classes of the artifact, and whether the network lacks a plane for the first of them.

    A pixel of independent probabilities belongs to the most probable class, if that is 0.5 or more probable; else to none. That
    needs a class of its own: the background, unless the network has a plane for it.

    Raises:
        ClassTableError: if the table has another length than the network
    """
    independent = behaviour.answer in ("sigmoids", "logits")
    named = [entry.name.casefold() for entry in classes.entries]
    if not independent or behaviour.planes is None:
        if behaviour.planes is not None:
            classes.check_planes(behaviour.planes)
        return classes.entries, False
    if len(named) == behaviour.planes + 1:
        return classes.entries, True
    classes.check_planes(behaviour.planes)
    if behaviour.planes > 1 and BACKGROUND.name in named:
        return classes.entries, False
    moved = [entry.model_copy(update={"id": entry.id + 1}) for entry in classes.entries]
    return (BACKGROUND, *moved), True


def _multiple(foreign: Foreign, stride: int, sides: tuple[int, ...]) -> int | None:
    """Find the smallest number whose multiples the network takes as sides; None if it takes one size.

    Powers of two are tried first. The sides are odd numbers of multiples, and then the next odd ones: so a smaller factor does
    not pass for the whole.
    """
    largest = LARGEST_MULTIPLE if foreign.dimensions == 2 else LARGEST_MULTIPLE_OF_VOLUMES
    factors = sorted(range(1, max(1, largest // stride) + 1), key=lambda factor: (factor.bit_count() > 1, factor))
    for multiple in (factor * stride for factor in factors):
        odd = [max(1, round(side / multiple)) | 1 for side in sides]
        shapes = [tuple((side + more) * multiple for side in odd) for more in (0, 2)]
        if all(_runs(foreign, np.zeros((1, *shape, foreign.channels), _dtype(foreign)), stride) for shape in shapes):
            return multiple
    return None


def _runs(foreign: Foreign, batch: Images, stride: int) -> bool:
    n, *sides, _ = batch.shape
    try:
        answer = foreign.run(batch)
    except AdoptionError:
        return False
    return (answer.shape[0], *answer.shape[-len(sides) :]) == (n, *(side // stride for side in sides))


def picture(foreign: Foreign, n: int, sides: Sequence[int]) -> Images:
    """Make a batch for the network: streets for a network of colours, waves for others; the last image is noise in one half.

    Gives:
        N x sides x channels of the artifact's dtype
    """
    rng = np.random.default_rng(0)
    shape = (n, *sides, foreign.channels)
    if foreign.dimensions == 3:
        noise: Images = rng.random(shape, np.float32)
    else:
        noise = rng.integers(0, 256, shape, np.uint8)
    if min(sides) < 32 and foreign.dimensions == 2:
        return noise
    if foreign.dimensions == 2:
        streets = np.stack([street_view(sides[0], sides[1], seed) for seed in range(n)])
        batch: Images = (
            streets if foreign.channels == 3 else streets.mean(-1, keepdims=True).astype(np.uint8).repeat(foreign.channels, -1)
        )
    else:
        grid = np.meshgrid(*(np.linspace(0, 6, side) for side in sides), indexing="ij")
        waves = [(np.sin(sum(grid) + seed) + 1) / 2 for seed in range(n)]
        batch = np.stack(waves).astype(np.float32)[..., None].repeat(foreign.channels, -1)
    batch[-1, :, sides[1] // 2 :] = noise[-1, :, sides[1] // 2 :]
    return batch


def prove(foreign: Foreign, engine: Engine, behaviour: Behaviour, form: Form, classes: ClassTable) -> Parity:
    """Run the artifact beside the network that it was made from, on the sizes and batches that the service may ask for.

    Raises:
        ParityError: at the first input on which they disagree
        AdoptionError: if the network names a class that is not in the table
    """
    policy = behaviour.policy
    origin = foreign.path.name
    tolerance = TOLERANCE if foreign.input.dtype == "float32" else HALF_TOLERANCE
    results = []
    for n, *sides in _shapes(policy):
        batch = picture(foreign, n, sides)
        answers = foreign.run(batch) if behaviour.batches else np.concatenate([foreign.run(image[None]) for image in batch])
        if form.answer == "labels" and not 0 <= answers.min() <= answers.max() < form.classes:
            named = f"{answers.min()}..{answers.max()}"
            raise AdoptionError(
                f"class table '{classes.name}' has {form.classes} classes, but the network gives labels {named}"
            )
        found = engine.run(batch)[OUTPUT]
        results.append(parity.judge(found, expected(answers, form), (n, *sides), tolerance, origin=origin))
    return parity.report(results, foreign.file.opset, tolerance, origin=origin)


def _shapes(policy: InputPolicy) -> list[tuple[int, ...]]:
    """N and sides of the inputs that are compared."""
    sides = _fitted(policy.sides, policy)
    others: list[tuple[int, ...]]
    if policy.dimensions == 2:
        ratios = [(1, 1), (1, 2), (3, 2), (4, 1)]
        others = [fit_size(rows * 600, columns * 600, policy) for rows, columns in ratios]
    elif policy.fit == "stretch":
        others = [sides, sides]
    else:
        others = [tuple(side + policy.multiple for side in sides), tuple(policy.multiple * at for at in (2, 3, 1))]
    return list(dict.fromkeys([(1, *sides), (3, *sides), (2, *others[0]), *((1, *other) for other in others[1:])]))


@dataclass(frozen=True)
class Label:
    """The words of an artifact's manifest."""

    name: str
    version: str
    description: str
    training: Training


def adopt(foreign: Foreign, classes: ClassTable, out: Path, label: Label, told: Told) -> tuple[Manifest, Behaviour]:
    """Write an artifact, or nothing.

    Takes:
        classes: one for each score plane, in their order; of independent probabilities with the background or without
        out: the file; an old one is replaced only by a new one that agrees with its origin
    Gives:
        the manifest as written, and the behaviour that was observed
    Raises:
        AdoptionError: if the network cannot be adopted
        ParityError: if the artifact disagrees with it
        ClassTableError: if the table has another length than the network
        BadArtifact: if the service would not serve the result
    """
    if out.resolve() == foreign.path.resolve():
        raise AdoptionError(f"{out}: is the network itself, which is not overwritten")
    behaviour = observe(foreign, told, len(classes.entries))
    entries, background = with_background(classes, behaviour)
    form = Form(behaviour.answer, len(entries), background, behaviour.policy.dtype, behaviour.batches)
    model = onnx.load(foreign.path)
    wrap(model, foreign, form)
    try:
        manifest = Manifest(
            name=label.name,
            version=label.version,
            architecture=f"adopted from {foreign.path.name}",
            description=label.description,
            classes=entries,
            input=behaviour.policy,
            stride=behaviour.stride,
            receptive_field=None,
            halo=None,
            training=label.training,
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
        proof = prove(foreign, engine, behaviour, form, replace(classes, entries=entries))
        engine.close()
        manifest = manifest.model_copy(update={"parity": proof})
        write(model, manifest, candidate)  # the weights, if they lie beside it, are not written again
        move(candidate, out)
    return manifest, behaviour


def _precision(model: onnx.ModelProto, foreign: Foreign) -> Precision:
    if any(node.op_type in QUANTISED for node in model.graph.node):
        return "int8"
    return "fp16" if foreign.input.dtype == "float16" else "fp32"
