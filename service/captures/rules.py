"""Which frames are kept, and how many."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from service.pipeline.segmentation import Segmentation
from service.pipeline.tasks.semantic import mean_confidence

_STEP = 2
"""Of the score cells every second one a side is read: the mean hardly changes, and takes a quarter of the time."""


@dataclass(frozen=True)
class Rules:
    """What an operator asked for. A frame is kept if one of them says so."""

    below: float = 0.0
    """Mean confidence, 0..1, below which a frame is kept."""
    classes: frozenset[str] = frozenset()
    """Names of classes: a frame that shows one of them is kept."""
    share: float = 0.0
    """The share of all other frames that is kept, chosen at random; 0..1."""

    def reason(self, result: Segmentation, confidence: float, chance: float) -> str | None:
        """Say why a frame is kept.

        Takes:
            confidence: the frame's mean confidence, 0..1
            chance: a random number, 0..1
        Gives:
            ``confidence``, ``class NAME`` or ``share``; None if no rule names it
        """
        if confidence < self.below:
            return "confidence"
        wanted = [entry for entry in result.manifest.classes if entry.name in self.classes]
        found = next((entry.name for entry in wanted if (result.labels == entry.id).any()), None)
        if found is not None:
            return f"class {found}"
        return "share" if chance < self.share else None


def confidence_of(result: Segmentation) -> float:
    """Return the mean calibrated confidence of a frame, over a part of its score cells: 0..1."""
    scores = result.scores[:, ::_STEP, ::_STEP]
    return mean_confidence(np.ascontiguousarray(scores), result.temperature)


class Pace:
    """At most so many frames a minute, evenly apart: the frames of one bad second are much alike.

    Takes:
        per_minute: more than 0
        clock: seconds, monotonic
    """

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._apart_s, self._clock = 60 / per_minute, clock
        self._next_s = clock()
        self._lock = threading.Lock()

    def is_due(self) -> bool:
        """Whether a frame may be taken now."""
        return self._clock() >= self._next_s

    def take(self) -> bool:
        """Take the turn, if there is one."""
        with self._lock:
            now_s = self._clock()
            if now_s < self._next_s:
                return False
            self._next_s = now_s + self._apart_s
            return True


def chance() -> float:
    """Return a random number, 0..1."""
    return random.random()  # noqa: S311 - a sample, no secret
