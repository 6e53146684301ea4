"""What all sinks of a run share, and the result of one frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from service.encodings import MaskView
from service.encodings.detections import Detection
from service.encodings.palettes import ColoredRow
from service.encodings.view import ModelFacts
from service.live.counters import Counters
from service.live.options import LiveOptions


@dataclass(frozen=True, eq=False)
class LiveSession:
    """One run."""

    model: ModelFacts
    sha256: str
    """The checksum of the model's file."""
    classes: Sequence[ColoredRow]
    """The class table of the ids that are written."""
    sources: tuple[str, ...]
    """The addresses of the sources, in the order of the command line."""
    counters: Mapping[str, Counters]
    """By the source's address; they go on counting."""
    options: LiveOptions
    has_things: bool = False
    """Whether results have :attr:`LiveResult.things`: the model has learned objects, and a sink shows them."""


@dataclass(frozen=True, eq=False)
class LiveResult:
    """The result of one frame."""

    view: MaskView
    """The mask, its classes, thresholds and ids applied; ``encodings.encode`` writes it in any format. ``view.confidence()`` is
    computed, or asked of the server, when it is called."""
    timing: Mapping[str, float]
    """Milliseconds by stage: ``decode``, ``queue``, ``infer``, ``labels``, as ``Server-Timing`` has them."""
    things: Callable[[], Sequence[Detection]] | None = None
    """Finds, when it is called, the things of the frame; None where there are none, or none are wanted."""
