"""The requests and replies of the Open Inference Protocol, and the schemas of its bodies for OpenAPI."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from pydantic_core import CoreSchema

from service.api.v2.memory import Placement, Region
from service.errors import BadParameter
from service.pipeline.repository import ModelState

INPUT = "image"
VERSION_ALIAS = "1"
"""A version that every model has besides its own: the one that clients send which know versions as numbers."""
CONTENT_TYPES = ("base64", "np", "pillow_image", "raw", "application/octet-stream")

WHY_NOT = {
    "classification": "a label map has a class for every pixel, and nothing to rank",
    "sequence_id": "every request stands for itself",
    "sequence_start": "every request stands for itself",
    "sequence_end": "every request stands for itself",
}
"""Parameters of the protocol's extensions that are refused, and why."""

SizeInt = Annotated[int, Field(ge=0, lt=2**63)]


def _check_content_type(value: str) -> str:
    if value.lower() not in CONTENT_TYPES and not value.lower().startswith("image/"):
        raise ValueError(f"{value[:64]!r} is not supported: there are {', '.join(CONTENT_TYPES)} and image types")
    return value


_PATTERN = rf"^({'|'.join(map(re.escape, CONTENT_TYPES))}|image/[A-Za-z0-9.+-]+)$"
ContentType = Annotated[str, AfterValidator(_check_content_type), WithJsonSchema({"type": "string", "pattern": _PATTERN})]
"""How clients say that elements are Base64, numbers or image files. It changes nothing: the datatype decides."""


class _Strict(BaseModel):
    """A request. An unknown name is refused: a wish must not be passed over in silence. A known one may be null, as KServe's
    client sends what it leaves out.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None or name not in cls.model_fields}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the schema, with null for each property that is not required."""
        schema = handler(core_schema)
        found = handler.resolve_ref_schema(schema)
        for name, described in found.get("properties", {}).items():
            if name not in found.get("required", ()) and {"type": "null"} not in described.get("anyOf", ()):
                inner = {key: described.pop(key) for key in list(described) if key not in ("default", "description", "title")}
                described["anyOf"] = [inner, {"type": "null"}]
        return schema


class _InMemory(_Strict):
    """A tensor that is in a registered region of shared memory, or will be."""

    shared_memory_region: str | None = None
    """The region's name."""
    shared_memory_byte_size: SizeInt | None = None
    """Bytes of it that hold the tensor."""
    shared_memory_offset: SizeInt = 0
    """Bytes of the region before them."""

    def placement(self) -> Placement | None:
        """Return where the tensor is; None if it travels in the request.

        Raises:
            BadParameter: if its size is missing
        """
        if self.shared_memory_region is None:
            if self.shared_memory_offset or self.shared_memory_byte_size is not None:
                raise BadParameter("shared_memory_region: which one", parameter="shared_memory_region")
            return None
        if self.shared_memory_byte_size is None:
            reason = "shared_memory_byte_size: how many bytes of the region hold the tensor"
            raise BadParameter(reason, parameter="shared_memory_byte_size")
        return Placement(self.shared_memory_region, self.shared_memory_byte_size, self.shared_memory_offset)


class InputParameters(_InMemory):
    """How an input travels."""

    binary_data_size: SizeInt | None = None
    """Bytes of the tensor behind the JSON; left out, it is all that follows."""
    content_type: ContentType | None = None
    """The kind of the elements, as some clients name it: `base64`, `np`, `image/png` and the like."""


class OutputParameters(_InMemory):
    """How an output comes back."""

    binary_data: bool | None = None
    """Behind the JSON, and not in it; left out, as `binary_data_output` says."""
    content_type: ContentType | None = None
    """As of an input."""


class RequestParameters(_Strict):
    """How a request is treated."""

    binary_data_output: bool = False
    """Whether outputs come back as binary data, where they do not say so themselves."""
    timeout: SizeInt = 0
    """Microseconds from the request's arrival after which the answer is of no use; 0 is the service's own deadline."""
    priority: SizeInt = 0
    """1 goes before all that wait for the engine, 2 and 0 are the usual ones, 3 and more come after all others."""
    content_type: ContentType | None = None
    """As of an input."""
    triton_enable_empty_final_response: bool = False
    """Whether the answer says that it is the last one of its request, in a stream. Every answer is."""


class InputTensor(_Strict):
    """The images: `BYTES` [N] are image files, `UINT8` [H, W, 3] or [N, H, W, 3] are RGB pixels."""

    name: str
    datatype: str
    shape: Annotated[list[SizeInt], Field(max_length=8)]
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = None
    """Where the tensor is not binary: numbers, or image files in Base64."""


class RequestedOutput(_Strict):
    """One output that is wanted."""

    name: str
    parameters: OutputParameters = OutputParameters()


class InferRequest(_Strict):
    """Images, and the outputs that are wanted of them."""

    id: str | None = None
    """Comes back untouched."""
    model_name: str | None = None
    """As in the address, where KServe's client says it once more."""
    model_version: str | None = None
    """Likewise."""
    parameters: RequestParameters = RequestParameters()
    inputs: Annotated[list[InputTensor], Field(max_length=64)]
    outputs: Annotated[list[RequestedOutput], Field(max_length=64)] = []
    """Left out, it is `labels`."""


class OutputTensor(BaseModel):
    """One tensor that comes back."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int | str] | None = None
    data: list[Any] | None = None


class InferReply(BaseModel):
    """The outputs of a request."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class Server(BaseModel):
    """The server, and the extensions of the protocol that it speaks."""

    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    """The process answers."""

    live: Literal[True] = True


class Ready(BaseModel):
    """The service accepts requests."""

    ready: Literal[True] = True


class ModelReady(BaseModel):
    """The model answers."""

    name: str
    ready: Literal[True] = True


class TensorMetadata(BaseModel):
    """A tensor as it may be sent; -1 is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A model's inputs and outputs."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class DurationStat(BaseModel):
    """How often, and how many nanoseconds in all."""

    count: int
    ns: int


class InferenceStats(BaseModel):
    """`success` and `fail` count requests, the others images."""

    success: DurationStat
    fail: DurationStat
    queue: DurationStat
    compute_input: DurationStat
    compute_infer: DurationStat
    compute_output: DurationStat
    cache_hit: DurationStat
    cache_miss: DurationStat


class BatchStats(BaseModel):
    """The executions with one size of batch."""

    batch_size: int
    compute_input: DurationStat
    compute_infer: DurationStat
    compute_output: DurationStat


class ModelStat(BaseModel):
    """The statistics of one model since the service began, of all routes together."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferenceStats
    batch_stats: list[BatchStats]


class Statistics(BaseModel):
    """The statistics of one model or of all."""

    model_stats: list[ModelStat]


class IndexRequest(_Strict):
    """Which models are asked for."""

    ready: bool = False
    """Only those that are served."""


class LoadParameters(_Strict):
    """There are none: a model's file says everything of it."""


class LoadRequest(_Strict):
    """How a model is loaded."""

    parameters: LoadParameters = LoadParameters()


class UnloadParameters(_Strict):
    """How a model is unloaded."""

    unload_dependents: bool = False
    """No model has any."""


class UnloadRequest(_Strict):
    """How a model is unloaded."""

    parameters: UnloadParameters = UnloadParameters()


class ModelIndex(BaseModel):
    """One artifact of the models folder."""

    name: str
    version: str | None = None
    state: Literal["READY", "UNAVAILABLE"]
    reason: str = ""

    @classmethod
    def of(cls, state: ModelState) -> Self:
        """Describe an artifact."""
        return cls(name=state.name, version=state.version, state=state.state, reason=state.reason or "")


class RegisterRequest(_Strict):
    """A part of a shared memory object."""

    key: str
    """The object's name, as `/frames-front`."""
    offset: SizeInt = 0
    """Bytes of the object before the part."""
    byte_size: SizeInt
    """Bytes of the part."""


class RegionStatus(BaseModel):
    """A registered region."""

    name: str
    key: str
    offset: int
    byte_size: int

    @classmethod
    def of(cls, region: Region) -> Self:
        """Describe a region."""
        return cls(name=region.name, key=region.key, offset=region.offset, byte_size=region.byte_size)


class Loaded(BaseModel):
    """The model is served."""

    name: str
    load: Literal[True] = True


class Unloaded(BaseModel):
    """The model is served no more."""

    name: str
    unload: Literal[True] = True


Request = TypeVar("Request", bound=_Strict)


def read(kind: type[Request], document: bytes) -> Request:
    """Read a request's JSON.

    Raises:
        BadParameter: naming what is wrong first, and what would be right
    """
    try:
        return kind.model_validate_json(document)
    except ValidationError as error:
        raise _bad_request(kind, error) from error


def check(kind: type[Request], values: dict[str, Any]) -> Request:
    """Check a request whose values came in another form than JSON.

    Raises:
        BadParameter: as :func:`read`
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _bad_request(kind, error) from error


def _bad_request(kind: type[Request], error: ValidationError) -> BadParameter:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = [str(part)[:64] for part in first["loc"]]
    name = where[-1] if where else "body"
    if first["type"] == "extra_forbidden":
        known = ", ".join(_fields_at(kind, where[:-1])) or "none"
        reason = f"{name!r} is not supported: {WHY_NOT.get(name, f'there are {known}')}"
    elif first["type"] == "json_invalid":
        reason = (
            f"the request is not JSON ({first['msg'].partition(': ')[2]}); binary data wants Inference-Header-Content-Length"
        )
    else:
        reason = f"{'.'.join(where) or 'the request'}: {first['msg'].removeprefix('Value error, ')}"
    return BadParameter(reason, parameter=name)


def _fields_at(kind: type[BaseModel], where: list[str]) -> Iterable[str]:
    """The fields of the object that an error lies in."""
    for part in where:
        if not part.isdecimal():
            inner = kind.model_fields[part].annotation
            kind = next(
                found for found in (*get_args(inner), inner) if isinstance(found, type) and issubclass(found, BaseModel)
            )
    return kind.model_fields


_BINARY = {"schema": {"type": "string", "format": "binary"}}

REQUEST: dict[str, Any] = {
    "required": True,
    "description": "JSON; or JSON followed by binary tensors, with the JSON's length in `Inference-Header-Content-Length`; or, "
    "where that is 0, one image file. May be compressed with gzip or deflate.",
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}},
        "application/octet-stream": _BINARY,
    },
}
"""The body of an inference, which is read as a stream."""

REPLY: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The outputs, in the order in which they were asked for",
        "headers": {
            "Inference-Header-Content-Length": {
                "description": "Bytes of the JSON, where binary tensors follow it",
                "schema": {"type": "integer"},
            }
        },
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/InferReply"}},
            "application/octet-stream": _BINARY,
        },
    }
}


def optional_body(kind: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI description of a small body in JSON that may be left out."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"required": False, "content": {"application/json": {"schema": schema}}}


@functools.cache
def components() -> dict[str, Any]:
    """The schemas that are named above, and by no signature; made when the document is first asked for."""
    named: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (InferRequest, "validation"),
        (InferReply, "serialization"),
        (IndexRequest, "validation"),
        (LoadRequest, "validation"),
        (UnloadRequest, "validation"),
        (RegisterRequest, "validation"),
    ]
    return dict(models_json_schema(named, ref_template="#/components/schemas/{model}")[1]["$defs"])
