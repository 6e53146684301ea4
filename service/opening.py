"""The models, opened as the settings say.

May import: ``service.settings`` and the pipeline's ``engine`` and ``repository``: nothing of the web, so that the models can be
opened while its libraries are being imported.
"""

from __future__ import annotations

from dataclasses import replace

from service.pipeline.engine import EngineOptions
from service.pipeline.repository import Repository
from service.settings import Settings


def lanes(settings: Settings) -> int:
    """Inferences at the same time."""
    options = EngineOptions(settings.provider, settings.threads)
    return settings.concurrency or (1 if settings.provider == "cuda" else options.threads_alone)


def open_repository(settings: Settings) -> Repository:
    """Open every artifact of the models folder, for serving.

    Raises:
        UnknownModel, ProviderUnavailable: as ``Repository``
    """
    options = EngineOptions(settings.provider, settings.threads)
    return Repository(settings.models_dir, replace(options, lanes=lanes(settings)), default=settings.default_model)
