"""Types on the wire: the query of ``POST /segment``, JSON replies, and OpenAPI's text on bodies, headers and statuses."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.json_schema import JsonSchemaMode, SkipJsonSchema, models_json_schema
from pydantic_core import PydanticCustomError

from service.api import problems
from service.api.form import FIELD, MAX_PARTS
from service.api.record import MAX_FRAME_HEADER
from service.encodings import FORMATS, Format
from service.encodings.driving import MAX_PITCH
from service.encodings.palettes import MODEL, PALETTES
from service.encodings.tables import TABLES
from service.pipeline.engine import Engine
from service.pipeline.manifest import Manifest
from service.pipeline.repository import ModelState
from service.pipeline.tiling import Halo, Resolution

MAX_DEADLINE_MS = 600_000


def _able(option: str) -> str:
    return ", ".join(f"`{form.name}`" for form in FORMATS.values() if option in form.takes)


class SegmentQuery(BaseModel):
    """The query of ``POST /segment``. An unknown name is rejected: a mistyped filter must not pass silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    model: Annotated[str | SkipJsonSchema[None], Field(max_length=64)] = None
    """The model's name, as `GET /models` lists it; left out, the default one answers."""
    # A plain string in the signature, so that a wrong one is an UnsupportedFormat that lists the right ones.
    format: Annotated[str | SkipJsonSchema[None], Field(max_length=64, json_schema_extra={"enum": [*FORMATS]})] = None
    """The form of the reply; left out, `Accept` decides, and an indexed PNG is the default."""
    classes: list[str] = []
    """Classes to keep, by the model's names or ids, repeated or separated by commas; other pixels become 255, unlabelled."""
    min_confidence: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Pixels of which the network is less sure than this become 255, unlabelled."""
    ids: Annotated[str | SkipJsonSchema[None], Field(max_length=64, json_schema_extra={"enum": [*TABLES]})] = None
    """The table of class ids, names and colours of the reply; left out, the model's own. Classes that it lacks become 255."""
    statistics: Annotated[
        bool, Field(description=f"{_able('statistics')}: add the bounding box and the mean confidence of each mask.")
    ] = False
    legend: Annotated[
        bool, Field(description=f"{_able('legend')}: draw the names and colours of the classes present into the picture.")
    ] = False
    instances: Annotated[
        bool,
        Field(
            description=f"{_able('instances')}: a mask for each thing of the countable classes, such as cars and persons. "
            "A panoptic model has learned them; of any other they are connected components, and things that touch are one."
        ),
    ] = False
    min_area: Annotated[
        int, Field(ge=0, le=2**31 - 1, description=f"{_able('min_area')}: things of fewer pixels are dropped.")
    ] = 0
    tolerance: Annotated[
        float,
        Field(
            ge=0,
            le=100,
            description=f"{_able('tolerance')}: how far outlines may stray, in pixels, to have fewer points; 0 is exact.",
        ),
    ] = 0.0
    resolution: Resolution = "working"
    """The size at which the network sees the image: `working`, that of its training, or `native`, the image's own, in exact
    tiles where it is large. The work grows with the image, and admission counts it."""
    halo: Halo = "exact"
    """Of tiles at the native resolution: `exact` gives the labels of one run; `effective` is faster, and a few labels are
    others. The model's card says how many."""
    palette: Annotated[
        str,
        Field(
            max_length=64,
            description=f"{_able('palette')}: the class table's own colours, or `bright` ones that can be told apart.",
            json_schema_extra={"enum": [*PALETTES]},
        ),
    ] = MODEL

    drivable: Annotated[
        list[str],
        Field(
            description=f"{_able('drivable')}: the classes that count as drivable, names or ids of the reply's table, repeated "
            "or separated by commas; `road` where it is left out."
        ),
    ] = []
    ego_rows: Annotated[
        int | SkipJsonSchema[None],
        Field(ge=0, le=16384, description=f"{_able('ego_rows')}: rows at the bottom that show the vehicle itself; left out."),
    ] = None
    fx: Annotated[
        float | SkipJsonSchema[None],
        Field(gt=0, le=1e6, description=f"{_able('fx')}: focal length in pixels of the upright image; with `camera_height`."),
    ] = None
    fy: Annotated[
        float | SkipJsonSchema[None],
        Field(gt=0, le=1e6, description=f"{_able('fy')}: the vertical focal length; `fx` where it is left out."),
    ] = None
    cx: Annotated[
        float | SkipJsonSchema[None],
        Field(ge=-1e6, le=1e6, description=f"{_able('cx')}: column of the optical axis; the image's middle by default."),
    ] = None
    cy: Annotated[
        float | SkipJsonSchema[None],
        Field(ge=-1e6, le=1e6, description=f"{_able('cy')}: row of the optical axis; the image's middle by default."),
    ] = None
    camera_height: Annotated[
        float | SkipJsonSchema[None],
        Field(gt=0, le=1000, description=f"{_able('camera_height')}: metres of the camera above the ground; with `fx`."),
    ] = None
    camera_pitch: Annotated[
        float | SkipJsonSchema[None],
        Field(
            ge=-MAX_PITCH,
            le=MAX_PITCH,
            description=f"{_able('camera_pitch')}: radians, positive when the camera tilts down (REP 103).",
        ),
    ] = None
    range_max: Annotated[
        float | SkipJsonSchema[None],
        Field(gt=0, le=10000, description=f"{_able('range_max')}: metres beyond which ground counts as free; 100 by default."),
    ] = None
    beams: Annotated[
        int | SkipJsonSchema[None],
        Field(ge=1, le=8192, description=f"{_able('beams')}: beams of the scan; one a column by default."),
    ] = None

    def options(self) -> dict[str, Any]:
        """The options of a format: all but ``model``, ``format``, ``resolution`` and ``halo``."""
        kept = dict(vars(self))
        del kept["model"], kept["format"], kept["resolution"], kept["halo"]
        return kept

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, query: Any) -> Any:
        unknown = [name for name in query if name not in cls.model_fields] if isinstance(query, dict) else []
        if unknown:
            facts = {"name": unknown[0][:64], "known": ", ".join(cls.model_fields)}
            raise PydanticCustomError(problems.UNKNOWN_PARAMETER, "there is no parameter '{name}'; there are {known}", facts)
        return query


class SegmentHeaders(BaseModel):
    """The headers that ``POST /segment`` reads."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    accept: str | SkipJsonSchema[None] = None
    """Chooses the format by media type where the query names none."""
    x_deadline_ms: Annotated[float, Field(gt=0, le=MAX_DEADLINE_MS)] | SkipJsonSchema[None] = None
    """Milliseconds from the request's arrival after which the mask is of no use."""
    x_frame_id: Annotated[str | SkipJsonSchema[None], Field(max_length=MAX_FRAME_HEADER)] = None
    """Comes back untouched, to match the mask with its frame."""
    x_frame_stamp: Annotated[str | SkipJsonSchema[None], Field(max_length=MAX_FRAME_HEADER)] = None
    """Comes back untouched."""
    x_request_id: str | SkipJsonSchema[None] = None
    """Names the request in the reply and in the log; made where it is missing or not 1 to 128 of `A-Za-z0-9._:/+=@-`."""


class ServedModel(Manifest):
    """A manifest, the file that it comes from, and the provider that runs it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    sha256: str
    provider: str
    instances: Literal["learned", "components"]
    """What `instances=true` gives: objects that the network tells apart, or connected components of countable classes."""

    @classmethod
    def of(cls, engine: Engine) -> Self:
        """Describe an engine."""
        instances = "learned" if engine.manifest.learns_instances else "components"
        return cls(**dict(engine.manifest), sha256=engine.sha256, provider=engine.provider, instances=instances)


class Unavailable(BaseModel):
    """An artifact whose content is not served."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    file: str
    model: str
    reason: str
    serving: str | None
    """The version of this model that goes on from what the file held before."""

    @classmethod
    def of(cls, state: ModelState) -> Self:
        """Describe a file that has a reason."""
        return cls(file=state.file, model=state.name, reason=state.reason or "", serving=state.version)


class Models(BaseModel):
    """Every model that is served, and every artifact that is not."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    default: str
    """The model that answers when a request names none."""
    default_reason: str
    """Why this variant of it: `FCN_PRECISION`, the processor, and the loss on the card of the int8 variant."""
    models: list[ServedModel]
    unavailable: list[Unavailable]


class FormatRow(BaseModel):
    """One format of a mask."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    """The value of `format`."""
    media_type: str
    """The Content-Type of the mask of one image."""
    suffix: str
    """The ending of a file."""
    about: str
    """One sentence about the format."""
    takes: list[str]
    """The options that only some formats understand, this one among them."""
    several: str | None
    """The Content-Type of the masks of several images; null where a request holds one image only."""
    things: bool
    """Whether it always shows things one by one, without `instances=true`."""
    labels: Literal["yes", "with the size", "no"]
    """Whether `service.encodings.decode` reads the class ids back."""
    volumes: Literal["no", "yes", "only"]
    """Whether scans come back in this format: `only` is for scans alone."""

    @classmethod
    def of(cls, form: Format) -> Self:
        """Describe a format."""
        return cls(
            name=form.name,
            media_type=form.media_type,
            suffix=form.suffix,
            about=form.about,
            takes=sorted(form.takes),
            several=form.gather.media_type if form.gather else None,
            things=form.things,
            labels="yes" if form.decode else "with the size" if form.decode_sized else "no",
            volumes=form.volumes,
        )


class Palettes(BaseModel):
    """Colours that can be told apart."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    bright: list[list[int]]
    """RGB, 0..255."""


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    """Requests are served."""

    status: Literal["ready"] = "ready"
    model: str
    provider: str


class ClassShare(BaseModel):
    """One class that occurs in a mask."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: int
    name: str
    pixels: int
    share: float
    bbox: tuple[int, int, int, int] | SkipJsonSchema[None] = None
    """With `statistics`: `[x, y, width, height]` in pixels."""
    confidence: float | SkipJsonSchema[None] = None
    """With `statistics`: the mean over the mask's pixels, 0..1."""


class ModelId(BaseModel):
    """Which model made a mask."""

    name: str
    version: str
    sha256: str


class RunLengths(BaseModel):
    """``format=rle``: ``labels[i]`` fills the next ``lengths[i]`` pixels, left to right, top to bottom."""

    size: tuple[int, int]
    order: Literal["row-major"]
    labels: list[int]
    lengths: list[int]
    classes: list[ClassShare]
    model: ModelId


class Problem(BaseModel):
    """RFC 9457 problem document. The facts of an error (such as ``limit`` and ``actual``) stand beside these."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    error: str


_BINARY = {"schema": {"type": "string", "format": "binary"}}

BODY: dict[str, Any] = {
    "required": True,
    "description": f"One image: its bytes as the body, or a form with the field `{FIELD}`. "
    f"With several parts `{FIELD}` (at most {MAX_PARTS}) the reply is a JSON list, for the formats that are JSON.",
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "properties": {
                    FIELD: {"type": "array", "minItems": 1, "maxItems": MAX_PARTS, "items": _BINARY["schema"]},
                },
            }
        },
        "image/*": _BINARY,
        "application/octet-stream": _BINARY,
    },
}
"""The body of ``POST /segment``, which no type of FastAPI's describes: it is read as a stream."""


def _header(description: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}}


_EVERY_REPLY = {
    "X-Request-ID": _header("The request's id, taken or made"),
    "X-Frame-Id": _header("The caller's, untouched"),
    "X-Frame-Stamp": _header("The caller's, untouched"),
}
_TIMED_REPLY = {
    **_EVERY_REPLY,
    "X-Model": _header("name@version of the model that answered"),
    "X-Model-SHA256": _header("Of its artifact: two builds may have one version"),
    "X-Uncertain": _header("Share of pixels below half confidence, 0..1; where the reply needed the confidence"),
    "X-Converted": _header(
        "What was changed of an image that its model does not take as it is: colour-to-grey, 8-bit-to-16-bit"
    ),
    "Server-Timing": _header("Milliseconds of decode, queue, infer, labels, encode"),
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of the problems that a call can end in.

    Takes:
        statuses: those that it can have
    """
    content = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _titles(status), "headers": _EVERY_REPLY, "content": content} for status in statuses}


def _titles(status: int) -> str:
    return "; ".join(kind.title for kind in problems.KINDS.values() if kind.status == status) or problems.phrase(status)


UNREADABLE: dict[str, Any] = {str(status): reply for status, reply in refusals(400, 431, 503).items()}
"""The replies of the connection itself, before there is a request that a route could see."""


def mask_reply() -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of a mask: every media type that a format has."""
    content: dict[str, Any] = {form.media_type: _BINARY for form in FORMATS.values()}
    content |= {form.gather.media_type: _BINARY for form in FORMATS.values() if form.gather}
    lengths = {"$ref": "#/components/schemas/RunLengths"}
    other = {"type": "object", "description": "The other JSON formats: see docs/formats.md"}
    content["application/json"] = {"schema": {"anyOf": [lengths, other, {"type": "array", "items": {"type": "object"}}]}}
    return {200: {"description": "The mask, of exactly the upright image's size", "headers": _TIMED_REPLY, "content": content}}


@functools.cache
def components() -> dict[str, Any]:
    """The schemas that are named above, and by no signature; made when the document is first asked for."""
    named: list[tuple[type[BaseModel], JsonSchemaMode]] = [(Problem, "serialization"), (RunLengths, "serialization")]
    return dict(models_json_schema(named, ref_template="#/components/schemas/{model}")[1]["$defs"])
