"""Settings to objects: the only place where models, predictor and data plane are put together.

``open_repository`` imports nothing but what opens models: the server opens them while the web's libraries are being imported.
The other functions import the image libraries when they are called.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from service.errors import BadSetting
from service.pipeline.codecs.limits import Limits
from service.pipeline.cpus import available_cpus
from service.pipeline.engine import EngineOptions
from service.pipeline.providers import GpuOptions
from service.pipeline.repository import Repository
from service.pipeline.tiling import Tiling
from service.settings import Settings

if TYPE_CHECKING:
    from service.captures.capture import Captures
    from service.pipeline.predictor import Predictor
    from service.serving.dataplane import DataPlane


def require_models(settings: Settings) -> None:
    """Return None if the models folder has an artifact.

    Raises:
        BadSetting: if the folder cannot be read, or has no artifact
    """
    folder = settings.models_dir
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError as error:
        raise BadSetting(f"FCN_MODELS_DIR: cannot read the folder {folder}: {error.strerror}") from error
    if not any(name.endswith(".onnx") for name in names):
        raise BadSetting(f"FCN_MODELS_DIR: there is no artifact (*.onnx) in {folder}")


def open_repository(settings: Settings) -> Repository:
    """Open every artifact of the models folder, for serving.

    Raises:
        UnknownModel, ProviderUnavailable: as ``Repository``
    """
    options = engine_options(settings)
    lanes = _lanes(settings, on_cuda=settings.provider == "cuda")  # `auto` may end on the CPU
    return Repository(
        settings.models_dir, replace(options, lanes=lanes), settings.default_model, settings.precision, settings.model_alias
    )


def open_predictor(settings: Settings, models: Path | None = None) -> Predictor:
    """Open artifacts for one caller at a time, as the commands do.

    Takes:
        models: a folder, or one artifact; None is the models folder with its default model
    Raises:
        BadSetting: as :func:`require_models`
        UnknownModel, ProviderUnavailable: as ``Repository``
    """
    from service.pipeline.predictor import Predictor  # noqa: PLC0415

    if models is None:
        require_models(settings)
    options = engine_options(settings)
    default = settings.default_model if models is None else None
    repository = Repository(models or settings.models_dir, options, default, settings.precision)
    return Predictor(repository, limits_of(settings), Tiling(settings.tile_memory_mb))


def make_captures(settings: Settings) -> Captures | None:
    """Open the folder of captures; None where none is set.

    Raises:
        BadSetting: if it cannot be written
    """
    if settings.capture_dir is None:
        return None
    from service.captures.capture import Captures  # noqa: PLC0415
    from service.captures.rules import Rules  # noqa: PLC0415
    from service.captures.store import Store  # noqa: PLC0415

    chosen = Rules(settings.capture_below, frozenset(settings.capture_classes), settings.capture_share)
    return Captures(Store(settings.capture_dir, settings.capture_max_mb * 1_000_000), chosen, settings.capture_per_minute)


def make_plane(settings: Settings, repository: Repository, captures: Captures | None = None) -> DataPlane:
    """Put a data plane before the open models, for many callers.

    Takes:
        repository: from :func:`open_repository`; closed together with the plane
        captures: from :func:`make_captures`; closed by the caller, after the plane
    """
    from service.pipeline.predictor import Predictor  # noqa: PLC0415
    from service.serving.dataplane import DataPlane  # noqa: PLC0415
    from service.serving.keys import Keys  # noqa: PLC0415

    on_cuda = any(engine.provider == "cuda" for engine in repository.engines())
    limits = limits_of(settings)
    return DataPlane(
        Predictor(repository, limits, Tiling(settings.tile_memory_mb)),
        keys=Keys(key.get_secret_value() for key in settings.api_keys),
        queue_megapixels=settings.queue_megapixels,
        concurrency=_lanes(settings, on_cuda=on_cuda),
        lane_each=_lanes(settings, on_cuda=on_cuda) * settings.workers >= available_cpus(),
        max_batch=settings.max_batch or (8 if on_cuda else 1),
        finished=None if captures is None else captures.consider,
    )


def engine_options(settings: Settings) -> EngineOptions:
    """Return how sessions are opened, without lanes."""
    gpu = GpuOptions(settings.tensorrt, settings.tensorrt_cache, settings.cuda_graphs)
    return EngineOptions(settings.provider, settings.threads, gpu=gpu)


def limits_of(settings: Settings) -> Limits:
    """Return the limits on images and scans."""
    return Limits(
        max_bytes=settings.max_image_bytes,
        max_pixels=settings.max_image_pixels,
        max_side=settings.max_image_side,
        max_file_pixels=settings.max_file_pixels,
        max_scan_bytes=settings.max_scan_bytes,
        max_voxels=settings.max_voxels,
    )


def _lanes(settings: Settings, *, on_cuda: bool) -> int:
    """Return the number of inferences at the same time."""
    options = engine_options(settings)
    return settings.concurrency or (1 if on_cuda else options.threads_alone)
