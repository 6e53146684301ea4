"""The models of a command without a server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from service.compose import open_predictor
from service.pipeline.predictor import Predictor
from service.settings import Settings


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[Predictor]:
    """Open the models as the service would, and close them after the block."""
    with contextlib.closing(open_predictor(settings)) as predictor:
        yield predictor
