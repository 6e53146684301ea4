"""Settings, read once from the environment (prefix ``FCN_``) and passed on as plain values."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from service.errors import BadSetting

PREFIX = "FCN_"
OTHERS = ("FCN_CPUS", "FCN_MEMORY", "FCN_PUBLISH", "FCN_SERVE_")
"""Beginnings of variables that are not settings: those of the compose file, and those that Kubernetes sets for a Service."""
SHIPPED_MODELS = Path(__file__).resolve().parent.parent / "models" / "artifacts"


class Settings(BaseSettings):
    """Each setting is an environment variable, as in ``FCN_PORT=9000``. Command line flags override the environment. ``serve``
    logs a warning for a variable with the prefix that sets nothing, such as ``FCN_PROT``.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """The address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """The port to listen on; 0 takes a free one."""

    root_path: str = ""
    """The prefix under which a proxy serves this, as ``/segmentation``, if the proxy passes it on. One that strips it needs no
    setting; with the setting, both kinds work."""
    uds: Path | None = None
    """The path of a Unix socket to listen on, in the place of the address and the port: for callers on this machine."""
    uds_mode: Annotated[str, Field(pattern="^[0-7]{3,4}$")] = "660"
    """The permissions of that socket, in octal digits; every user with the right to write to it may call."""
    keep_alive_s: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """Seconds that a connection may be idle after a reply. Behind a load balancer that reuses connections, set more than its
    own idle time, which is often 60 s."""

    admin_port: Annotated[int | None, Field(ge=1, le=65535, examples=[9000])] = None
    """A second port for `/metrics` and for loading and unloading models, which then leave the public port."""
    admin_host: str = "127.0.0.1"
    """The address of that port."""

    grpc_port: Annotated[int | None, Field(ge=1, le=65535, examples=[8001])] = None
    """A port of the same address for the Open Inference Protocol over gRPC, which needs the extra `grpc`; unset, there is
    none."""

    shared_memory: Annotated[str, Field(pattern=r"^(/?[A-Za-z0-9_-][A-Za-z0-9._-]*)?$", examples=["/fcn-"])] = ""
    """The beginning of the names of POSIX shared memory objects that callers may use for tensors, as ``/fcn-``; left empty,
    none. Every caller may then read and write those objects by way of the service."""

    models_dir: Path = SHIPPED_MODELS
    """The folder whose ``*.onnx`` files are served."""
    default_model: str | None = None
    """The model that answers when a request names none; unset, the first by name."""
    model_alias: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", examples=["street"])] = None
    """Another name of the default model, for callers that know it by one, as those of an InferenceService of KServe."""
    precision: Literal["auto", "fp32", "int8"] = "auto"
    """Which variant of that model answers: ``auto`` takes int8 where the processor has instructions for it (VNNI, AMX, dot
    product) and the artifact's card shows at most 0.3 points lost, else float32."""
    reload_s: Annotated[float, Field(ge=0, le=3600)] = 1.0
    """Seconds between two scans of the models folder. A file is loaded when two scans in a row see the same size and mtime. 0
    never scans: administrators load models."""

    provider: Literal["cpu", "cuda", "auto"] = "cpu"
    """Where the network runs; ``cuda`` refuses to start without a working GPU, ``auto`` takes the GPU if it works."""
    tensorrt: Literal["off", "fp32", "fp16"] = "off"
    """On a GPU: whether TensorRT runs the network, and in which precision. It has to be installed; CUDA runs what it cannot."""
    tensorrt_cache: Path | None = None
    """A folder for TensorRT's engines; unset, they are built at every start, which takes minutes. Empty it when the model, the
    driver or ONNX Runtime changes."""
    cuda_graphs: Annotated[int, Field(ge=0, le=64)] = 0
    """On a GPU: network shapes whose kernels are recorded in CUDA graphs and replayed; 0 records none. For cameras of fixed
    sizes."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes behind the port, each with its own models, queue and bounds; more than one pays above some eight processors.
    Metrics are those of all. Loading by call (`FCN_ADMIN_KEYS`) and shared memory need 1."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Threads of inference of a process; 0 counts the CPUs that it may use (container quota and affinity),
    shared among the workers. A lone frame gets all of them, concurrent frames share them."""
    concurrency: Annotated[int, Field(ge=0, le=64)] = 0
    """Concurrent inferences; 0 is one a thread on the CPU, which gives the most frames a second, and one on a GPU. Each takes
    45 MB with the shipped network."""
    max_batch: Annotated[int, Field(ge=0, le=256)] = 0
    """Waiting images of one network size that may run as one batch; no image waits for a batch to fill. 0 is 1 on the CPU,
    where a batch gains nothing, and 8 on a GPU."""

    queue_megapixels: Annotated[float, Field(gt=0)] = 64.0
    """Megapixels of images, waiting and in work, beyond which requests are shed; each counts at least as the network's size. It
    bounds the memory: at most fifteen bytes a pixel."""
    deadline_ms: Annotated[float, Field(gt=0)] = 10_000.0
    """Milliseconds from a request's arrival until it is answered 504. A request that will not meet it at the measured pace is
    shed at once."""
    drain_s: Annotated[float, Field(ge=0)] = 20.0
    """Seconds that a shutdown waits for the requests in work."""

    max_image_bytes: Annotated[int, Field(gt=0)] = 32 * 2**20
    """The largest image as sent, in bytes; a longer upload is rejected while it streams."""
    max_image_pixels: Annotated[int, Field(gt=0)] = 52_000_000
    """The largest image in pixels, height times width, read from its header before it is decoded."""
    max_image_side: Annotated[int, Field(gt=0, le=65535)] = 16_384
    """The longest side of an image in pixels."""
    max_file_pixels: Annotated[int, Field(gt=0)] = 1_000_000_000
    """The largest TIFF or PNG file of `fcn-serve segment`, in pixels. Beyond the three limits above it is read by rows, in
    memory that does not grow with its height."""
    tile_memory_mb: Annotated[int, Field(ge=64, le=65536)] = 1024
    """Megabytes that one run of the network may take with `resolution=native`; larger images are seen in tiles that fit. Of a
    file that is read by rows, a run takes half, and its rows and scores the rest."""

    max_scan_bytes: Annotated[int, Field(gt=0)] = 256 * 2**20
    """The largest scan as sent, in bytes, of a request that names a model for scans or `format=nifti`. A scan of any other
    request may have `FCN_MAX_IMAGE_BYTES`."""
    max_voxels: Annotated[int, Field(gt=0)] = 2**26
    """The largest scan in voxels, read from its header before it is unpacked, and at the spacing of the network."""
    scan_deadline_ms: Annotated[float, Field(gt=0)] = 120_000.0
    """As `FCN_DEADLINE_MS`, for a scan."""

    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """Keys, separated by commas. If any is set, a request needs one of them; health checks and metrics do not."""

    admin_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """Keys that may load and unload models, separated by commas; without any, loading and unloading are rejected."""
    max_connections: Annotated[int, Field(ge=1, le=100_000)] = 800
    """Open connections. At the limit a new connection replaces the one that has been idle longest; if all have a request in
    work, it is rejected. The process needs a hundred file descriptors more than that."""
    max_streams: Annotated[int, Field(ge=0, le=1024)] = 8
    """Open streams (`WS /stream`); each may hold three of the largest images."""
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins such as ``https://cars.example``, separated by commas, whose pages may open a stream from a browser. The
    service's own origin always may; ``*`` allows every origin."""

    capture_dir: Path | None = None
    """A folder in which frames are kept for the next training, with their masks as tasks for Label Studio and CVAT. Unset,
    none is kept. It then holds pictures of callers: see docs/howto-captures.md."""
    capture_below: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Frames whose mean confidence is below this are kept; 0 keeps none for that reason."""
    capture_classes: Annotated[tuple[str, ...], NoDecode] = ()
    """Names of classes, separated by commas; frames that show one of them are kept."""
    capture_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of the other frames that is kept, chosen at random."""
    capture_per_minute: Annotated[float, Field(gt=0, le=6000)] = 6.0
    """Frames kept a minute at the most, evenly apart."""
    capture_max_mb: Annotated[int, Field(ge=1)] = 1024
    """Megabytes of the folder; beyond, the oldest captures are removed for new ones."""

    log_format: Literal["text", "json"] = "text"
    """Log lines for people or for machines."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe lines that are logged."""

    @field_validator("api_keys", "admin_keys", mode="before")
    @classmethod
    def _split_keys(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if not value.strip():  # compose files set variables to nothing
            return ()
        keys = tuple(key for word in value.split(",") if (key := word.strip()))
        if not keys:
            raise ValueError("names no key; leave it empty to have none")
        return keys

    @field_validator("allowed_origins", "capture_classes", mode="before")
    @classmethod
    def _split_words(cls, value: object) -> object:
        return tuple(word for word in map(str.strip, value.split(",")) if word) if isinstance(value, str) else value

    @field_validator("root_path")
    @classmethod
    def _normalise_root_path(cls, value: str) -> str:
        prefix = value.strip().rstrip("/")
        if prefix and not re.fullmatch(r"(?:/(?!\.\.?(?:/|$))[A-Za-z0-9._~-]+)+", prefix):
            raise ValueError(f"{value!r} is not a prefix such as /segmentation")
        return prefix

    @model_validator(mode="after")
    def _own_ports(self) -> Self:
        if self.admin_port == self.port:
            raise ValueError(f"FCN_ADMIN_PORT: {self.port} is FCN_PORT; leave it unset to have both on one port")
        if self.grpc_port is not None and self.grpc_port in (self.port, self.admin_port):
            raise ValueError(f"FCN_GRPC_PORT: {self.grpc_port} is taken by HTTP; gRPC needs a port of its own")
        return self

    @model_validator(mode="after")
    def _one_worker(self) -> Self:
        if self.workers > 1 and self.admin_keys:
            raise ValueError("FCN_WORKERS: a load or unload would reach one worker alone; unset FCN_ADMIN_KEYS")
        if self.workers > 1 and self.capture_dir is not None:
            raise ValueError("FCN_WORKERS: each worker would bound the folder of captures for itself; unset FCN_CAPTURE_DIR")
        if self.workers > 1 and self.shared_memory:
            raise ValueError("FCN_WORKERS: a region would be registered with one worker alone; unset FCN_SHARED_MEMORY")
        return self

    @classmethod
    def load(cls, **flags: Any) -> Self:
        """Read the environment.

        Takes:
            flags: values that override the environment; those that are None are ignored
        Raises:
            BadSetting: naming the variable, if a value makes no sense
        """
        try:
            return cls(**{name: value for name, value in flags.items() if value is not None})
        except ValidationError as error:
            raise BadSetting(_reason(error.errors(include_url=False)[0])) from error
        except SettingsError as error:
            raise BadSetting(str(error)) from error


def _reason(fault: ErrorDetails) -> str:
    """Return a sentence that names the variable, what is wrong with its value, and a value that would do."""
    field = str(fault["loc"][0]) if fault["loc"] else ""
    problem = fault["msg"].removeprefix("Value error, ")
    if field not in Settings.model_fields:
        return f"{PREFIX}{field.upper()}: there is no such setting" if field else problem
    context = fault.get("ctx", {})
    found = f"{str(fault['input'])[:64]!r}"
    match fault["type"]:
        case "int_parsing" | "int_from_float" | "int_type":
            problem = f"{found} is not a whole number"
        case "float_parsing" | "float_type":
            problem = f"{found} is not a number"
        case "greater_than_equal" | "greater_than" | "less_than_equal":
            limit = {"greater_than_equal": "at least", "greater_than": "more than", "less_than_equal": "at most"}[fault["type"]]
            problem = f"{found} is out of range: it has to be {limit} {next(iter(context.values()))}"
        case "literal_error":
            return f"{PREFIX}{field.upper()}: {found} is not known; there are {context['expected'].replace(chr(39), '')}"
    described = Settings.model_fields[field]
    good = next(iter(described.examples or ()), described.default)
    remedy = "" if good in (None, (), "") else f"; a good value is {PREFIX}{field.upper()}={good}"
    return f"{PREFIX}{field.upper()}: {problem}{remedy}"


def without_effect(names: Iterable[str]) -> list[str]:
    """Return a sentence for each variable that has the prefix but sets nothing: mistyped, or of another version.

    Takes:
        names: the names of the environment's variables
    Gives:
        sentences, each with the setting that may be meant
    """
    settings = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    said = []
    for name in sorted(names):
        known = name.upper()
        if known.startswith(PREFIX) and known not in settings and not known.startswith(OTHERS):
            nearest = difflib.get_close_matches(known, settings, 1)
            said.append(f"{name} is not a setting and has no effect{f'; is {nearest[0]} meant?' if nearest else ''}")
    return said
