"""The manifest inside an artifact: what the service must know of a network.

The exporter writes it as JSON under :data:`METADATA_KEY` in ONNX ``metadata_props``; the service reads it back from
``session.get_modelmeta().custom_metadata_map``. There is no second file that could be lost. A wrong manifest is refused with
the field's name.

Two versions of the schema are read. Version 1 describes colour images and one output, ``scores``. Version 2 adds the input's
dimensions, channels, dtype and intensity policy, named outputs, countable classes, the task ``panoptic`` and calibration. A
manifest of version 1 is converted while it is read, so all other code knows version 2 only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, from_json

from service.errors import BadArtifact, BadSetting

METADATA_KEY = "fcn_serve.manifest"
"""The ONNX metadata property that holds the manifest's JSON."""

INPUT, OUTPUT = "image", "scores"
"""Names of an artifact's input and of its first output."""

UNLABELLED = 255
"""The id of a pixel without a class (vision_msgs: UNLABELED = 255)."""

SCHEMAS = (1, 2)
"""Versions of the schema that :func:`read_manifest` reads."""

Channel = Annotated[int, Field(ge=0, le=255)]
Side = Annotated[int, Field(ge=1, le=65535)]
Stride = Annotated[int, Field(ge=1, le=256)]
Percent = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Millimetres = Annotated[float, Field(gt=0)]

Dtype = Literal["uint8", "uint16", "float32"]
Plane = Literal["axial", "coronal", "sagittal"]
Kind = Literal["scores", "centers", "offsets"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ClassEntry(_Frozen):
    """One row of the class table."""

    id: Annotated[int, Field(ge=0, le=254)]
    name: Annotated[str, Field(min_length=1)]
    color: tuple[Channel, Channel, Channel]
    """RGB, 0..255."""
    countable: bool = False
    """Whether the class is made of things that can be counted, such as cars, and not of stuff, such as road."""


class Percentiles(_Frozen):
    """An intensity policy: two percentiles are mapped to 0 and 1, and values beyond 0 and ``ceiling`` are clipped."""

    lower: Percent
    """The percentile that becomes 0."""
    upper: Percent
    """The percentile that becomes 1."""
    scope: Literal["picture", "volume"] = "picture"
    """Where the percentiles are taken: in each picture (slice), or in the whole volume."""
    foreground: bool = False
    """Whether ``upper`` is taken among the values above the mean: tissue, however much air surrounds it."""
    ceiling: Annotated[float, Field(ge=1, le=100)] = 1.0
    """The largest value that the network sees."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.lower >= self.upper and not self.foreground:
            raise ValueError(f"lower {self.lower:g} must be less than upper {self.upper:g}")
        return self


class InputPolicy(_Frozen):
    """How a picture or a volume is brought to the network.

    The network's input is ``N x H x W x channels``, or ``N x D x H x W x channels`` where ``dimensions`` is 3.
    """

    working_size: tuple[Side, Side]
    """(height, width) in pixels at which the network was trained and is scored."""
    working_depth: Side | None = None
    """Voxels along the first axis of a volume at which the network was trained; only where ``dimensions`` is 3."""
    fit: Literal["area", "stretch", "native"] = "area"
    """``area``: the working size's pixel count at the image's own aspect ratio; ``stretch``: exactly the working size;
    ``native``: the image's own size."""
    multiple: Annotated[int, Field(ge=1, le=256)] = 8
    """All sides that the network sees are multiples of this."""
    dimensions: Literal[2, 3] = 2
    """2 for pictures and slices, 3 for volumes."""
    channels: Annotated[int, Field(ge=1, le=32)] = 3
    """3 for colours, 1 for grey; any number where a slice is given together with the slices beside it."""
    color_order: Literal["rgb"] | None = "rgb"
    """Order of three colour channels; networks that want BGR reorder inside the graph. None for other channels: one is
    grey, several are a slice between the slices beside it, in the order of the volume."""
    dtype: Dtype = "uint8"
    """The type of the input's numbers: as the picture or the scan has them, or float32 after the intensity policy. Pictures of
    colours are uint8; of one channel, each type."""
    intensity: Percentiles | None = None
    """How values are scaled before the network; None passes them on as they are."""
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres] | None = None
    """Size of a voxel along each axis of ``orientation`` at which the network was trained; None: the scan's own."""
    orientation: Annotated[str, Field(pattern=r"^[RLAPSI]{3}$")] | None = None
    """Direction in which each axis of a volume's array grows, as ``RAS`` (right, anterior, superior); None: the scan's own."""
    planes: tuple[Plane, ...] = ()
    """Planes in which a network of slices cuts a volume; the scores of several planes are averaged. Empty for pictures."""
    slice_step: Annotated[int, Field(ge=1, le=4)] = 1
    """Every so many slices of a plane run, and the last one; the probabilities of those between are interpolated."""

    @model_validator(mode="before")
    @classmethod
    def _default_order(cls, data: object) -> object:
        if isinstance(data, dict) and "color_order" not in data:
            colours = data.get("channels", 3) == 3 and data.get("dimensions", 2) == 2 and not data.get("planes")
            return data if colours else {**data, "color_order": None}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.color_order is not None and (self.channels != 3 or self.dimensions != 2):
            raise ValueError(f"color_order {self.color_order} needs 3 channels of a picture; say null for other channels")
        if not self.takes_scans and (self.channels not in (1, 3) or (self.channels == 3 and self.dtype != "uint8")):
            found = f"{self.channels} channels of {self.dtype}"
            raise ValueError(
                f"pictures reach a network as 3 channels of uint8 (colours) or as 1 channel (grey), not as {found}"
            )
        if (self.dimensions == 3) != (self.working_depth is not None):
            raise ValueError("working_depth is needed where dimensions is 3, and only there")
        if self.dimensions == 3 and self.planes:
            raise ValueError("planes are for networks of slices; dimensions is 3")
        if self.slice_step > 1 and not self.planes:
            raise ValueError(f"slice_step is for networks of slices, which have planes; is {self.slice_step}")
        if len(set(self.planes)) != len(self.planes):
            raise ValueError("planes must differ from each other")
        if self.orientation is not None and len({_AXES[letter] for letter in self.orientation}) != 3:
            raise ValueError(f"orientation {self.orientation} must name each of the three axes once, as in RAS")
        if self.intensity is not None and self.dtype != "float32":
            raise ValueError(f"dtype must be float32 where there is an intensity policy, which gives 0..1; is {self.dtype}")
        return self

    @property
    def takes_scans(self) -> bool:
        """Whether the network is for scans, and not for pictures."""
        return self.dimensions == 3 or bool(self.planes)

    @property
    def takes_grey(self) -> bool:
        """Whether the network is for pictures of one channel."""
        return self.channels == 1 and not self.takes_scans

    @property
    def sides(self) -> tuple[int, ...]:
        """The working size in the order of the input's axes: (height, width), or (depth, height, width)."""
        return self.working_size if self.working_depth is None else (self.working_depth, *self.working_size)


_AXES = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}


def check_8_bits(manifest: Manifest, source: str) -> None:
    """Check that a network can be given the pictures of a source that are decoded to 8 bits.

    Raises:
        BadSetting: if it takes numbers of more bits: most of its input would be lost without a sign
    """
    if manifest.input.takes_grey and manifest.input.dtype != "uint8":
        raise BadSetting(
            f"{manifest.name} takes grey pictures with all their bits, and those of {source} come with 8; "
            "segment them as PNG or TIFF files, or name another model"
        )


class Output(_Frozen):
    """One output of the graph: float32 ``N x planes x h x w``, or ``N x planes x d x h x w`` for volumes."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    """As in the graph."""
    kind: Kind
    """``scores``: one plane a class, unnormalised; ``centers``: one plane, 0..1, how much a pixel is an object's centre;
    ``offsets``: one plane an axis (dy, dx), input pixels from each pixel to the centre of its object."""
    stride: Stride
    """Input pixels a cell of this output."""


class Training(_Frozen):
    """Where the weights come from."""

    data: str
    licence: str
    epochs: int | None = None
    notes: str = ""


class ObjectScores(_Frozen):
    """Scores of a class's segments, 0..1: panoptic quality (Kirillov et al. 2019) and COCO's average precision."""

    pq: Share
    sq: Share
    rq: Share
    """The F1 of detection at IoU 0.5."""
    ap: Share | None = None
    """Mean over IoU 0.50 to 0.95; null for stuff, and where no object of the class is known."""
    ap50: Share | None = None


class SplitScores(_Frozen):
    """The metrics of Long et al. 2015, section 5, each 0..1."""

    pixel_accuracy: float
    mean_accuracy: float
    mean_iou: float
    frequency_weighted_iou: float
    iou: dict[str, float | None] = Field(default_factory=dict)
    """Per class name; null where the class occurs neither in truth nor in prediction."""
    dice: dict[str, float | None] = Field(default_factory=dict)
    """The mean Dice coefficient of the volumes, by class name, 0..1; for networks for scans."""
    frames: int | None = None
    objects: dict[str, ObjectScores] = Field(default_factory=dict)
    """Per class name, of networks that tell objects apart."""


class Parity(_Frozen):
    """The comparison of an artifact with its origin on the same inputs: with PyTorch, or with the adopted graph."""

    max_score_difference: float
    mean_score_difference: float
    argmax_agreement: float
    """Share of score cells whose winner agrees, ties within the score tolerance left out."""
    switches: int = 0
    """Maxima that unpooling recorded, over all inputs tried; 0 where the network does not unpool."""
    moved_switches: int = 0
    """Recorded maxima that are another pixel of their cell than PyTorch's, where two tie up to a rounding. The scores were
    compared with the same maxima on both sides."""
    shapes: tuple[tuple[int, ...], ...]
    """(N, H, W), or (N, D, H, W), of every input tried."""
    opset: int
    versions: dict[str, str] = Field(default_factory=dict)


class Loss(_Frozen):
    """The cost of a lower precision on one labelled split."""

    points: float
    """Points of mean IoU (0..100) below float32, over the classes that occur in the labels; negative where it is better."""
    changed: Share
    """Share of all pixels whose label differs from float32's."""
    iou: dict[str, float] = Field(default_factory=dict)
    """Points lost in each class that occurs in the labels."""
    frames: Annotated[int, Field(ge=1)]


class Reduced(_Frozen):
    """How an artifact in a lower precision was made, and its cost."""

    float32: str
    """The name of the model with the same weights in float32; its version differs at most in the third number."""
    calibrated_on: str = ""
    """The frames that the ranges come from; empty where none are needed."""
    frames: Annotated[int, Field(ge=0)] = 0
    """How many of them were used."""
    losses: dict[str, Loss] = Field(default_factory=dict)
    """By split. Empty: the cost is unknown."""


class ReliabilityBin(_Frozen):
    """Pixels of about one probability, in a reliability diagram."""

    share: Share
    """Of all pixels."""
    probability: Share
    """The mean probability of their winners."""
    right: Share
    """The share of them that are right; ``probability`` where the network is calibrated."""


class Calibration(_Frozen):
    """How scores become probabilities: softmax of the scores divided by a temperature (Guo et al. 2017, section 4.2)."""

    temperature: Annotated[float, Field(gt=0)]
    fitted_on: str
    """The split that the temperature was fitted on."""
    ece_before: Share
    """Expected calibration error at temperature 1, on a split that did not fit it."""
    ece_after: Share
    """The same at ``temperature``."""
    reliability_before: tuple[ReliabilityBin, ...] = ()
    """The reliability diagram at temperature 1, on the split of ``ece_before``; empty if it was not kept."""
    reliability_after: tuple[ReliabilityBin, ...] = ()
    """The same at ``temperature``."""


class Effective(_Frozen):
    """The effective reach of a network (Luo et al. 2016): far pixels of the receptive field hardly change a score."""

    halo: Annotated[int, Field(ge=0)]
    """Input pixels around a tile with ``halo=effective``; a multiple of the coarsest stride."""
    disagreement: Share
    """The share of pixels whose label differs from that of exact tiles, on the frames of ``measured_on``."""
    kept: Annotated[int, Field(ge=1)]
    """Pixels on a side that the tiles of that measurement kept. Larger tiles differ in fewer pixels."""
    measured_on: str
    """The frames, as a split's name."""
    frames: Annotated[int, Field(ge=1)]


class Manifest(_Frozen):
    """Everything that the service needs to know of a network, and what its users ask of it."""

    schema_version: Literal[2] = 2
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    version: Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}$")]
    task: Literal["semantic-segmentation", "panoptic"] = "semantic-segmentation"
    """``semantic-segmentation``: a class for each pixel; ``panoptic``: also the object of each pixel of a countable class."""
    architecture: str
    description: str = ""
    classes: Annotated[tuple[ClassEntry, ...], Field(min_length=1, max_length=255)]
    """Row k is the class of score plane k."""
    ignore_id: Annotated[int, Field(ge=0, le=255)] = UNLABELLED
    """The value of a pixel without a class in a served mask."""
    input: InputPolicy
    stride: Stride
    """Input pixels a score cell: scores are h/stride x w/stride and want bilinear upsampling when stride > 1."""
    outputs: tuple[Output, ...] = ()
    """By default one, the scores."""
    receptive_field: Annotated[int, Field(ge=1)] | None
    """Side in input pixels of the square that one score can depend on; null where that is unknown, as of an adopted graph."""
    halo: Annotated[int, Field(ge=0)] | None
    """Input pixels around a tile beyond which nothing changes its labels, a multiple of the coarsest stride; null where that is
    unknown: such a network sees whole images only."""
    effective: Effective | None = None
    """None: not measured, and tiles are exact ones only."""
    training: Training
    scores: dict[str, SplitScores] = Field(default_factory=dict)
    """By split name, e.g. ``camvid-val``."""
    parity: Parity | None = None
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """The precision in which the network computes. It changes neither the input's dtype nor the outputs', which are float32."""
    reduced: Reduced | None = None
    """None for float32, and for an adopted network whose float32 form is unknown."""
    calibration: Calibration | None = None
    """None: the softmax of the scores is not calibrated."""

    @model_validator(mode="before")
    @classmethod
    def _default_outputs(cls, data: object) -> object:
        if isinstance(data, dict) and "outputs" not in data and "stride" in data:
            return {**data, "outputs": ({"name": OUTPUT, "kind": "scores", "stride": data["stride"]},)}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ids = [entry.id for entry in self.classes]
        names = [entry.name for entry in self.classes]
        if ids != list(range(len(ids))):
            raise ValueError(f"class ids must be 0..{len(ids) - 1} in order, one a score plane; found {ids}")
        if len(set(names)) != len(names):
            raise ValueError("class names must be unique")
        if self.ignore_id < len(ids):
            raise ValueError(f"ignore_id {self.ignore_id} is also a class id")
        if self.input.multiple % self.stride:
            raise ValueError(f"input.multiple {self.input.multiple} must be a multiple of stride {self.stride}")
        if self.reduced is not None and self.precision == "fp32":
            raise ValueError("reduced: a lower precision is described, but precision is fp32")
        if self.effective is not None and (self.halo is None or self.effective.halo > self.halo):
            raise ValueError(f"effective: its halo {self.effective.halo} must be at most the halo, {self.halo}")
        self._check_outputs()
        return self

    def _check_outputs(self) -> None:
        for what in ("name", "kind"):
            values = [getattr(output, what) for output in self.outputs]
            if len(set(values)) != len(values):
                raise ValueError(f"outputs: each {what} may occur once; found {values}")
        for output in self.outputs:
            if self.input.multiple % output.stride:
                raise ValueError(f"outputs: input.multiple {self.input.multiple} must be a multiple of stride {output.stride}")
        scores = self.output("scores")
        if scores is None or (scores.name, scores.stride) != (OUTPUT, self.stride):
            raise ValueError(f"outputs: one must be '{OUTPUT}' of kind scores at stride {self.stride}")
        found = {output.kind for output in self.outputs}
        if self.task == "panoptic":
            if not {"centers", "offsets"} <= found:
                raise ValueError(f"outputs: the task panoptic needs scores, centers and offsets; found {sorted(found)}")
            if not any(entry.countable for entry in self.classes):
                raise ValueError("classes: the task panoptic needs a countable class")
        elif found != {"scores"}:
            raise ValueError(f"outputs: the task {self.task} has scores alone; found {sorted(found)}")

    def output(self, kind: Kind) -> Output | None:
        """Return the output of a kind, or None if the network has none."""
        return next((output for output in self.outputs if output.kind == kind), None)

    def planes(self, output: Output) -> int:
        """Return the number of planes of an output: one a class, one, or one an axis."""
        return {"scores": len(self.classes), "centers": 1, "offsets": self.input.dimensions}[output.kind]

    @property
    def temperature(self) -> float:
        """What scores are divided by before they become probabilities; 1 where the model is not calibrated."""
        return 1.0 if self.calibration is None else self.calibration.temperature

    @property
    def learns_instances(self) -> bool:
        """Whether the network itself tells objects apart; otherwise connected components stand for them."""
        return self.task == "panoptic"

    def palette(self) -> NDArray[np.uint8]:
        """Return the colour of every pixel value.

        Gives:
            256 x 3 uint8 RGB; values without a class are black
        """
        table = np.zeros((256, 3), np.uint8)
        for entry in self.classes:
            table[entry.id] = entry.color
        return table

    def to_metadata(self) -> dict[str, str]:
        """Return the ``metadata_props`` to write into an ONNX file."""
        return {METADATA_KEY: self.model_dump_json()}


def read_manifest(metadata: Mapping[str, str], *, source: str = "artifact") -> Manifest:
    """Read the manifest of an ONNX file.

    Takes:
        metadata: the ONNX file's ``metadata_props`` as a mapping
        source: the file's name, for the error
    Gives:
        a manifest of schema 2; one of schema 1 is converted
    Raises:
        BadArtifact: if there is no manifest, or it is not JSON, or a field is missing, unknown or out of range
    """
    text = metadata.get(METADATA_KEY)
    if text is None:
        raise BadArtifact(
            f"{source}: no '{METADATA_KEY}' in its ONNX metadata; `python -m models.export` writes one, "
            "and `python -m models.adopt` for a network from elsewhere",
            cause="manifest",
        )
    try:
        return Manifest.model_validate(_converted(from_json(text)))
    except ValidationError as error:
        raise _refusal(source, _first_reason(error)) from error
    except ValueError as error:
        raise _refusal(source, str(error)) from error


_SCHEMA_1 = frozenset(
    [
        "schema_version",
        "name",
        "version",
        "task",
        "architecture",
        "description",
        "classes",
        "ignore_id",
        "input",
        "stride",
        "receptive_field",
        "halo",
        "training",
        "scores",
        "parity",
        "precision",
    ]
)
_INPUT_1 = frozenset(["working_size", "fit", "multiple", "color_order"])
_CLASS_1 = frozenset(["id", "name", "color"])
"""Fields of schema 1. A manifest that says 1 and has others is refused, as it always was."""


def _converted(document: object) -> object:
    """Convert a manifest of schema 1 to schema 2; return any other value as it is.

    Raises:
        ValueError: if the version of the schema is unknown, or the document has fields that its version lacks
    """
    if not isinstance(document, dict):
        return document
    version = document.get("schema_version", 1)
    if isinstance(version, bool) or version not in SCHEMAS:
        raise ValueError(f"schema_version: {version!r} is not known; this service reads {' and '.join(map(str, SCHEMAS))}")
    if version == 2:
        return document
    rows = document.get("classes")
    parts: list[tuple[str, object, frozenset[str]]] = [("", document, _SCHEMA_1), ("input.", document.get("input"), _INPUT_1)]
    parts += [(f"classes.{k}.", row, _CLASS_1) for k, row in enumerate(rows if isinstance(rows, list) else ())]
    for place, fields, known in parts:
        unknown = sorted(set(fields) - known) if isinstance(fields, dict) else []
        if unknown:
            raise ValueError(f"{place}{unknown[0]}: unknown field of schema 1")
    if document.get("task", "semantic-segmentation") != "semantic-segmentation":
        raise ValueError(f"task: unknown in schema 1: {str(document['task'])[:64]!r}")
    return {**document, "schema_version": 2}


def _refusal(source: str, reason: str) -> BadArtifact:
    return BadArtifact(f"{source}: manifest refused: {reason}", cause="manifest")


def _first_reason(error: ValidationError) -> str:
    """Describe the first fault, with the value found where it is short."""
    details: list[ErrorDetails] = error.errors(include_url=False)
    first = details[0]
    where = ".".join(str(part) for part in first["loc"]) or "manifest"
    if first["type"] == "extra_forbidden":
        problem = "unknown field"
    else:
        found: Any = first["input"]
        problem = first["msg"].removeprefix("Value error, ")
        if first["type"] != "missing" and isinstance(found, str | int | float):
            problem += f"; found {found!r:.80}"
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return f"{where}: {problem}{more}"
