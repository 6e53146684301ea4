"""A live run without a network: sessions, frames and masks for the tests of sinks."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from service.encodings import MaskView
from service.live.counters import Counters
from service.live.frame import LiveFrame
from service.live.options import LiveOptions
from service.live.session import LiveResult, LiveSession
from service.pipeline.codecs.limits import Limits
from tests.conftest import make_image, make_labels, make_manifest

BEGAN_NS = 1_700_000_000_000_000_000
"""The stamp of the first frame."""
STEP_NS = 50_000_000


def session_of(*sources: str) -> LiveSession:
    """A run of the colour network."""
    model = make_manifest()
    counters = {source: Counters() for source in sources}
    return LiveSession(model, "0" * 64, model.classes, sources, counters, LiveOptions(Limits()))


def frame_of(number: int = 0, source: str = "front", image: NDArray[np.uint8] | bytes | None = None) -> LiveFrame:
    """The frame ``number`` of a source: three stripes, or another image."""
    picture = make_image() if image is None else image
    return LiveFrame(picture, BEGAN_NS + number * STEP_NS, "camera_link", source, time.monotonic())


def result_of(
    image: NDArray[np.uint8] | None = None,
    labels: NDArray[np.uint8] | None = None,
    confidence: Callable[[], NDArray[np.uint8]] | None = None,
) -> LiveResult:
    """The mask of the three stripes, or another one."""
    mask = make_labels() if labels is None else labels
    view = MaskView(
        mask,
        make_image() if image is None else image,
        make_manifest(),
        "0" * 64,
        confidence or (lambda: np.full(mask.shape, 200, np.uint8)),
    )
    return LiveResult(view, {"decode": 1.5, "queue": 0.0, "infer": 20.0, "labels": 2.5})
