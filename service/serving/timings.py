"""The counts and times of one model. They only grow, so that two readings tell what happened between them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from service.pipeline.segmentation import Timing


@dataclass
class Duration:
    """A count and the sum of its times."""

    count: int = 0
    total_s: float = 0.0

    def add(self, spent_s: float) -> None:
        """Count one more."""
        self.count += 1
        self.total_s += spent_s


@dataclass
class Steps:
    """The times of images; ``infer`` counts the whole batch's time for each image in it."""

    decode: Duration = field(default_factory=Duration)
    infer: Duration = field(default_factory=Duration)
    finish: Duration = field(default_factory=Duration)
    """Labels and their encoding."""

    def add(self, timing: Timing) -> None:
        """Count one more image."""
        self.decode.add(timing.decode_s)
        self.infer.add(timing.infer_s)
        self.finish.add(timing.labels_s + timing.encode_s)


@dataclass
class ModelStatistics:
    """The work of one version of one model. On one thread."""

    success: Duration = field(default_factory=Duration)
    """Answered requests, of one image or of several."""
    fail: Duration = field(default_factory=Duration)
    """Requests that were shed, failed, missed their deadline or were cancelled."""
    queue: Duration = field(default_factory=Duration)
    """The waits of images."""
    steps: dict[int, Steps] = field(default_factory=dict)
    """By batch size."""
    last_request_s: float = 0.0
    """Time of the last answer: seconds since 1970."""

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request by its outcome, and the time of the block."""
        begun = time.monotonic()
        try:
            yield
        except BaseException:
            self.fail.add(time.monotonic() - begun)
            raise
        self.success.add(time.monotonic() - begun)
        self.last_request_s = time.time()

    def add_image(self, batch: int, timing: Timing) -> None:
        """Count a served image.

        Takes:
            batch: images that the network worked on together
        """
        self.queue.add(timing.queue_s)
        self.steps.setdefault(batch, Steps()).add(timing)

    def images(self) -> int:
        """Return the number of served images."""
        return self.queue.count

    def executions(self, batch: int) -> int:
        """Return how often the network ran on so many images together."""
        return round(self.steps[batch].infer.count / batch)
