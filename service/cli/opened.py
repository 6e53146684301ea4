"""What the commands without a server share: the models behind the pipeline.

May import: ``service.compose`` and ``settings``, the pipeline.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from service.compose import require_models
from service.pipeline.codecs.decoding import Limits
from service.pipeline.engine import EngineOptions
from service.pipeline.repository import Repository
from service.serving.segmenter import Segmenter
from service.settings import Settings


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[Segmenter]:
    """The models, opened as the service would open them."""
    require_models(settings)
    with contextlib.closing(segmenter_of(settings.models_dir, settings, settings.default_model)) as segmenter:
        yield segmenter


def segmenter_of(models: Path, settings: Settings, default: str | None = None) -> Segmenter:
    """The artifacts of a folder, or one, behind the pipeline."""
    repository = Repository(models, EngineOptions(settings.provider, settings.threads), default=default)
    limits = Limits(settings.max_image_bytes, settings.max_image_pixels, settings.max_image_side)
    return Segmenter(repository, limits)
