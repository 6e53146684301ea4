"""The models, opened as the settings say.

May import: ``service.errors``, ``service.settings``, and the pipeline's ``engine`` and ``repository``: nothing of the web, so
that the models can be opened while its libraries are being imported.
"""

from __future__ import annotations

from dataclasses import replace

from service.errors import BadSetting
from service.pipeline.engine import EngineOptions
from service.pipeline.repository import Repository
from service.settings import Settings


def require_models(settings: Settings) -> None:
    """Nothing, if there is something to open.

    Raises:
        BadSetting: if the models folder cannot be read, or has no artifact
    """
    folder = settings.models_dir
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError as error:
        raise BadSetting(f"FCN_MODELS_DIR: cannot read the folder {folder}: {error.strerror}") from error
    if not any(name.endswith(".onnx") for name in names):
        raise BadSetting(f"FCN_MODELS_DIR: there is no artifact (*.onnx) in {folder}")


def lanes(settings: Settings, *, on_cuda: bool) -> int:
    """Inferences at the same time."""
    options = EngineOptions(settings.provider, settings.threads)
    return settings.concurrency or (1 if on_cuda else options.threads_alone)


def open_repository(settings: Settings) -> Repository:
    """Open every artifact of the models folder, for serving.

    Raises:
        UnknownModel, ProviderUnavailable: as ``Repository``
    """
    options = EngineOptions(settings.provider, settings.threads)
    lanes_each = lanes(settings, on_cuda=settings.provider == "cuda")  # `auto` may end on the CPU
    return Repository(settings.models_dir, replace(options, lanes=lanes_each), default=settings.default_model)
