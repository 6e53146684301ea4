"""What an artifact says of itself: the manifest inside the ONNX file.

The exporter writes it as JSON under :data:`METADATA_KEY` in ONNX ``metadata_props``; the service reads it back through
``session.get_modelmeta().custom_metadata_map``. There is no sidecar that could be lost. Nonsense is refused with the
field's name.

May import: pydantic, numpy, ``service.errors``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import BadArtifact

METADATA_KEY = "fcn_serve.manifest"
"""The ONNX metadata property that holds the manifest's JSON."""

INPUT, OUTPUT = "image", "scores"
"""What an artifact's input and output are called: uint8 N x H x W x 3 RGB, and float32 N x K x H/stride x W/stride."""

UNLABELLED = 255
"""The id of a pixel that no class may claim (vision_msgs: UNLABELED = 255)."""

Channel = Annotated[int, Field(ge=0, le=255)]
Side = Annotated[int, Field(ge=1, le=65535)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassEntry(_Frozen):
    """One row of the class table."""

    id: Annotated[int, Field(ge=0, le=254)]
    name: Annotated[str, Field(min_length=1)]
    color: tuple[Channel, Channel, Channel]
    """RGB, 0..255."""


class InputPolicy(_Frozen):
    """How an image is brought to the size at which the network runs (see ``geometry.fit_size``)."""

    working_size: tuple[Side, Side]
    """(height, width) in pixels at which the network was trained and is scored."""
    fit: Literal["area", "stretch", "native"] = "area"
    """``area``: the working size's pixel count at the image's own aspect ratio; ``stretch``: exactly the working size;
    ``native``: the image's own size."""
    multiple: Annotated[int, Field(ge=1, le=256)] = 8
    """Both sides that the network sees are multiples of this."""
    color_order: Literal["rgb"] = "rgb"
    """Order of the three channels of the uint8 N x H x W x 3 input; networks that want BGR reorder inside the graph."""


class Training(_Frozen):
    """Where the weights come from."""

    data: str
    licence: str
    epochs: int | None = None
    notes: str = ""


class SplitScores(_Frozen):
    """The metrics of Long et al. 2015, section 5, each 0..1."""

    pixel_accuracy: float
    mean_accuracy: float
    mean_iou: float
    frequency_weighted_iou: float
    iou: dict[str, float | None] = Field(default_factory=dict)
    """Per class name; null where the class occurs neither in truth nor in prediction."""
    frames: int | None = None


class Parity(_Frozen):
    """What the artifact was compared with on the same inputs: PyTorch, or the graph that it was adopted from."""

    max_score_difference: float
    mean_score_difference: float
    argmax_agreement: float
    """Share of score cells whose winner agrees, ties within the score tolerance left out."""
    switches: int = 0
    """Maxima that unpooling recorded, over all inputs tried; 0 where the network does not unpool."""
    moved_switches: int = 0
    """Those on another pixel of their cell than PyTorch's, where two tie up to a rounding; the scores were compared with the
    same on both sides."""
    shapes: tuple[tuple[int, int, int], ...]
    """(N, H, W) of every input tried."""
    opset: int
    versions: dict[str, str] = Field(default_factory=dict)


class Manifest(_Frozen):
    """Everything that the service needs to know of a network, and what its users ask of it."""

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    version: Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}$")]
    task: Literal["semantic-segmentation"] = "semantic-segmentation"
    architecture: str
    description: str = ""
    classes: Annotated[tuple[ClassEntry, ...], Field(min_length=1, max_length=255)]
    """Row k is the class of score plane k."""
    ignore_id: Annotated[int, Field(ge=0, le=255)] = UNLABELLED
    """The value of a pixel without a class in a served mask."""
    input: InputPolicy
    stride: Annotated[int, Field(ge=1, le=256)]
    """Input pixels a score cell: scores are h/stride x w/stride and want bilinear upsampling when stride > 1."""
    receptive_field: Annotated[int, Field(ge=1)] | None
    """Side in input pixels of the square that one score can depend on; null where that is unknown, as of an adopted graph."""
    halo: Annotated[int, Field(ge=0)] | None
    """Input pixels around a tile beyond which nothing changes its labels, a multiple of the coarsest stride; null where that is
    unknown: such a network sees whole images only."""
    training: Training
    scores: dict[str, SplitScores] = Field(default_factory=dict)
    """By split name, e.g. ``camvid-val``."""
    parity: Parity | None = None
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """In which the network computes; input and scores are uint8 and float32 in any case."""

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
        return self

    def palette(self) -> NDArray[np.uint8]:
        """The colour of every pixel value.

        Gives:
            256 x 3 uint8 RGB; values without a class are black
        """
        table = np.zeros((256, 3), np.uint8)
        for entry in self.classes:
            table[entry.id] = entry.color
        return table

    def to_metadata(self) -> dict[str, str]:
        """The ``metadata_props`` to write into an ONNX file."""
        return {METADATA_KEY: self.model_dump_json()}


def read_manifest(metadata: Mapping[str, str], *, source: str = "artifact") -> Manifest:
    """Read the manifest back.

    Takes:
        metadata: the ONNX file's ``metadata_props`` as a mapping
        source: the file's name, for the error
    Raises:
        BadArtifact: if there is none, or if it is not JSON, or if a field is missing, unknown or out of range
    """
    text = metadata.get(METADATA_KEY)
    if text is None:
        raise BadArtifact(
            f"{source}: no '{METADATA_KEY}' in its ONNX metadata; `python -m models.export` writes one, "
            "and `python -m models.adopt` for a network from elsewhere",
            cause="manifest",
        )
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise BadArtifact(f"{source}: manifest refused: {_first_reason(error)}", cause="manifest") from error


def _first_reason(error: ValidationError) -> str:
    details: list[Any] = list(error.errors(include_url=False, include_input=False))
    first = details[0]
    where = ".".join(str(part) for part in first["loc"]) or "manifest"
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return f"{where}: {first['msg']}{more}"
